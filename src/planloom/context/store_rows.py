"""The documents of a store as rows of its file.

Rule 1: what is read back equals what was written, or is told to be damaged.
Rule 2: a place is given once: it says in which order documents were added, also after others were taken out.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

from planloom.context.document import Chunk, Document
from planloom.context.store_vectors import blob_of, floats_of
from planloom.context.store_words import parts_of, title_of
from planloom.errors import StoreError

_READ = "SELECT id, content, metadata, embedding, chunks FROM documents"
_INSERT = """
    INSERT INTO documents (id, title, content, parts, metadata, embedding, chunks) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_UPDATE = """
    UPDATE documents
    SET id = ?, title = ?, content = ?, parts = ?, metadata = ?, embedding = ?, chunks = ? WHERE place = ?
"""


def insert(connection: sqlite3.Connection, document: Document) -> int:
    """Write a new document and return its place."""
    place = connection.execute(_INSERT, _row_of(document)).lastrowid
    assert place is not None
    return place


def update(connection: sqlite3.Connection, place: int, document: Document) -> None:
    """Write a document in place of the one that stands there."""
    connection.execute(_UPDATE, (*_row_of(document), place))


def place_of(connection: sqlite3.Connection, document_id: str) -> int | None:
    """Return where a document stands, or None where there is none of that id."""
    try:
        row = connection.execute("SELECT place FROM documents WHERE id = ?", (document_id,)).fetchone()
    except UnicodeEncodeError:  # half of a surrogate pair, which no document's id has
        return None
    return None if row is None else int(row[0])


def document_at(connection: sqlite3.Connection, place: int) -> Document:
    """Return the document that stands at a place."""
    return _document_of(connection.execute(f"{_READ} WHERE place = ?", (place,)).fetchone())


def all_documents(connection: sqlite3.Connection) -> Iterator[Document]:
    """Yield all documents in the order in which they were added."""
    return map(_document_of, connection.execute(f"{_READ} ORDER BY place"))


def free_id(connection: sqlite3.Connection) -> str:
    """Return "document 7" where six were ever added, or the next that is free."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'documents'").fetchone()
    names = (f"document {number}" for number in count(1 if row is None else row[0] + 1))
    return next(name for name in names if place_of(connection, name) is None)


def named(document: Document, name: str) -> Document:
    """Return a document under another id, and its chunks with it."""
    chunks = [
        Chunk(f"{name}#{number}", name, chunk.content, chunk.start, chunk.end)
        for number, chunk in enumerate(document.chunks)
    ]
    return replace(document, id=name, chunks=tuple(chunks))


def _row_of(document: Document) -> tuple[Any, ...]:
    return (
        document.id,
        title_of(document),
        document.content,
        parts_of(document),
        json.dumps(document.metadata, ensure_ascii=False),
        None if document.embedding is None else blob_of(document.embedding),
        json.dumps([[chunk.id, chunk.start, chunk.end] for chunk in document.chunks], ensure_ascii=False),
    )


def _document_of(row: tuple[Any, ...]) -> Document:
    name, content, metadata, blob, chunks = row
    try:
        return Document(
            name,
            content,
            json.loads(metadata),
            None if blob is None else floats_of(blob),
            tuple(Chunk(chunk, name, content[start:end], start, end) for chunk, start, end in json.loads(chunks)),
        )
    except (TypeError, ValueError, struct.error) as error:  # ValueError: of JSON, and ValidationError
        raise StoreError(
            f"document {name!r:.200} of a store is damaged: it is not what was written",
            remedy="make the store again from what it was made from",
        ) from error
