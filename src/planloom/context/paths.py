"""Where a document stands among others: its path."""

from __future__ import annotations

from posixpath import normpath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planloom.context.document import Document


def path_of(document: Document) -> str:
    """Return "path" of a document's metadata, or its id, with "/" between folders and without "." and ".."."""
    told = document.metadata.get("path")
    path = told if isinstance(told, str) and told else document.id
    return normpath(path.replace("\\", "/")).lstrip("/")
