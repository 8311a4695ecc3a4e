"""Where a document stands among others: its path."""

from __future__ import annotations

from posixpath import normpath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planloom.context.document import Document


def path_of(document: Document) -> str:
    """Return where a document stands, with "/" between folders and without "." and "..".

    That is "path" of its metadata; its id, where it has none or the id ends with it: of several repositories in one
    store, the id says which.
    """
    told = document.metadata.get("path")
    path = told if isinstance(told, str) and told and not document.id.endswith(told) else document.id
    return normpath(path.replace("\\", "/")).lstrip("/")
