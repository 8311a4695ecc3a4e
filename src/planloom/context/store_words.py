"""Which documents of a store a text is about, by their words: `FullText` where SQLite has FTS5, `InMemory` where not.

Rule 1: what is asked is never FTS5's own language: each word is quoted, and nothing but letters and digits is a word.
Rule 2: what is written to the documents is written to their words in the same transaction; where that cannot be done
the file says so (`state.words`), and whoever can, catches up when it opens it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import Protocol

from planloom.context.document import Document
from planloom.context.lexical import STOP_WORDS, LexicalIndex, pieces, words

_TITLE_COUNTS = 2.0
"""A word of a title or an id, beside one of the text."""
_MAKE = """
    CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(
        title, content, parts, content = 'documents', content_rowid = 'place',
        tokenize = 'porter unicode61 remove_diacritics 2'
    )
"""
_FIND = f"""
    SELECT rowid, bm25(words, {_TITLE_COUNTS}, 1.0, 1.0) AS badness FROM words
    WHERE words MATCH ? ORDER BY badness, rowid LIMIT ?
"""  # noqa: S608 - a number of ours
_FORGET = """
    INSERT INTO words (words, rowid, title, content, parts)
    SELECT 'delete', place, title, content, parts FROM documents WHERE place = ?
"""
_LEARN = """
    INSERT INTO words (rowid, title, content, parts)
    SELECT place, title, content, parts FROM documents WHERE place = ?
"""
_SAY = "INSERT INTO state VALUES ('words', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_CURRENT, _BEHIND = "current", "behind"


class Words(Protocol):
    """Finds documents by their words."""

    def learn(self, place: int) -> None:
        """Take in the document that now stands at a place."""
        ...

    def forget(self, place: int) -> None:
        """Leave out the document at a place; called while it still stands there."""
        ...

    def best(self, query: str, limit: int) -> list[tuple[int, float]]:
        """Return places with scores, above 0 and below 1, best first; of equals the first that was added."""
        ...


class FullText:
    """The words of a store in its own file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def catch_up(self) -> None:
        """Read all documents, for a file whose words are not those of its documents."""
        self._connection.execute(_MAKE)
        self._connection.execute("INSERT INTO words (words) VALUES ('rebuild')")
        self._connection.execute(_SAY, (_CURRENT,))

    def learn(self, place: int) -> None:
        self._connection.execute(_LEARN, (place,))

    def forget(self, place: int) -> None:
        self._connection.execute(_FORGET, (place,))

    def best(self, query: str, limit: int) -> list[tuple[int, float]]:
        asked = _asked(query)
        if not asked:
            return []
        found = self._connection.execute(_FIND, (" OR ".join(f'"{word}"' for word in asked), limit))
        return [(place, -badness / (1 - badness)) for place, badness in found]


class InMemory:
    """The words of a store in this process, read anew after each change: for a SQLite without FTS5."""

    def __init__(self, connection: sqlite3.Connection, revision: Callable[[], Hashable]) -> None:
        self._connection = connection
        self._revision = revision
        self._read: tuple[Hashable, list[int], LexicalIndex] | None = None

    def learn(self, place: int) -> None:
        self._say_behind()

    def forget(self, place: int) -> None:
        self._say_behind()

    def best(self, query: str, limit: int) -> list[tuple[int, float]]:
        revision = self._revision()
        if self._read is None or self._read[0] != revision:
            rows = self._connection.execute("SELECT place, title, content FROM documents ORDER BY place").fetchall()
            index = LexicalIndex([f"{title}\n{title}\n{content}" for _, title, content in rows])
            self._read = (revision, [place for place, _, _ in rows], index)
        _, places, index = self._read
        return [(places[at], score) for at, score in index.best(query, limit)]

    def _say_behind(self) -> None:
        if _state(self._connection) == _CURRENT:
            self._connection.execute(_SAY, (_BEHIND,))


def words_of(
    connection: sqlite3.Connection,
    revision: Callable[[], Hashable],
    transaction: Callable[[str], AbstractContextManager[None]],
    *,
    use_fts5: bool,
) -> Words:
    """Return the words of a store, caught up with its documents.

    Args:
        revision: Gives another value after each change of the store.
        transaction: Begins one of these words, ended with its context.
        use_fts5: False: do without FTS5 even if it is there.
    """
    is_there = connection.execute("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'").fetchone() is not None
    if not (is_there and use_fts5):
        return InMemory(connection, revision)
    found = FullText(connection)
    if _state(connection) != _CURRENT:
        with transaction("BEGIN IMMEDIATE"):
            found.catch_up()
    return found


def title_of(document: Document) -> str:
    """Return what a document is called, in all ways."""
    return document.id if document.title == document.id else f"{document.title} {document.id}"


def parts_of(document: Document) -> str:
    """Return the words that FTS5 does not see, because they stand in others: "send" and "Mail" of "sendMail"."""
    found: dict[str, None] = {}
    for piece in dict.fromkeys(pieces(f"{title_of(document)} {document.content}")):
        parts = words(piece)
        if parts != [piece]:
            found.update(dict.fromkeys(parts))
    return " ".join(found)


def _asked(query: str) -> list[str]:
    """Return the words that a query asks for, each once, in its order."""
    found: dict[str, None] = {}
    for piece in pieces(query):
        for word in (piece, *words(piece)):
            if word.lower() not in STOP_WORDS:
                found[word.lower()] = None
    return list(found)


def _state(connection: sqlite3.Connection) -> str | None:
    row = connection.execute("SELECT value FROM state WHERE name = 'words'").fetchone()
    return None if row is None else str(row[0])
