"""What documents are called: `Names`.

Rule 1: a name that several documents have is nobody's, unless it is the id of one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from posixpath import basename, splitext
from typing import TYPE_CHECKING

from planloom.context.paths import path_of

if TYPE_CHECKING:
    from planloom.context.document import Document


class Names:
    """Documents by id, path, title, key and what wiki links call them."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._ids = {one.id for one in documents}
        self._paths: dict[str, list[str]] = {}
        self._titles: dict[str, list[str]] = {}
        self._keys: dict[str, list[str]] = {}
        self._loose: dict[str, list[str]] = {}
        for one in documents:
            path = path_of(one)
            stem = splitext(path)[0]
            key = one.metadata.get("key")
            _add(self._paths, path, one.id)
            _add(self._titles, one.title, one.id)
            if isinstance(key, str):
                _add(self._keys, key, one.id)
            for name in {name.casefold() for name in (path, stem, basename(path), basename(stem), one.title)}:
                _add(self._loose, name, one.id)

    def exact(self, name: str) -> str | None:
        """Return the document of an id, or of a path."""
        return name if name in self._ids else self.at(name)

    def at(self, path: str) -> str | None:
        """Return the document at a path."""
        return _only(self._paths.get(path, []))

    def keyed(self, key: str) -> str | None:
        """Return the document of a citation key: its id, or "key" of its metadata."""
        return key if key in self._ids else _only(self._keys.get(key, []))

    def titled(self, title: str) -> str | None:
        """Return the document of an id or a title."""
        return title if title in self._ids else _only(self._titles.get(title, []))

    def called(self, name: str) -> list[str]:
        """Return the documents that a wiki link may mean: by id or path; else by title or file name, in any case."""
        found = self.exact(name)
        return [found] if found is not None else self._loose.get(name.casefold(), [])


def _add(named: dict[str, list[str]], name: str, document: str) -> None:
    named.setdefault(name, []).append(document)


def _only(documents: list[str]) -> str | None:
    return documents[0] if len(documents) == 1 else None
