"""The vectors of a store's documents: how they are kept, and which are like another.

Rule 1: a vector is kept as 32-bit floats, the least significant byte first, whatever machine wrote it.
Rule 2: all vectors of a store are of one length: they come from one `embed`.
"""

from __future__ import annotations

import sqlite3
import struct
from array import array
from collections.abc import Callable, Hashable, Sequence

from planloom.context.vectors import likeness, unit
from planloom.errors import ValidationError

_FLOAT_BYTES = 4


class StoredVectors:
    """The vectors of a store, read into memory when they are first asked for and after each change.

    Args:
        revision: Gives another value after each change of the store.
    """

    def __init__(self, connection: sqlite3.Connection, revision: Callable[[], Hashable]) -> None:
        self._connection = connection
        self._revision = revision
        self._read: tuple[Hashable, dict[int, array[float]]] | None = None
        """As of when, and vectors of length 1 by place."""

    def best(self, asked: Sequence[float], limit: int) -> list[int] | None:
        """Return the places of the documents that are most like a vector, best first; None where none has a vector.

        Raises:
            ValidationError: The store's vectors are of another length.
        """
        revision = self._revision()
        if self._read is None or self._read[0] != revision:
            rows = self._connection.execute("SELECT place, embedding FROM documents WHERE embedding IS NOT NULL")
            self._read = (revision, {place: array("f", unit(floats_of(blob))) for place, blob in rows})
        vectors = self._read[1]
        if not vectors:
            return None
        self.must_fit(len(asked))
        scores = {place: likeness(asked, vector) for place, vector in vectors.items()}
        found = sorted((place for place, score in scores.items() if score > 0), key=lambda at: (-scores[at], at))
        return found[:limit]

    def must_fit(self, length: int, *, besides: str | None = None) -> None:
        """Refuse a vector of another length than those of the documents, `besides` left out.

        Raises:
            ValidationError: There is one of another length.
        """
        row = self._connection.execute(
            "SELECT length(embedding) FROM documents WHERE embedding IS NOT NULL AND id IS NOT ? LIMIT 1", (besides,)
        ).fetchone()
        if row is not None and row[0] != length * _FLOAT_BYTES:
            raise ValidationError(
                f"an embedding of {length} numbers, where the store has those of {row[0] // _FLOAT_BYTES}",
                remedy="use the `embed` that the store was made with, or make it again with this one",
            )


def as_kept(vector: Sequence[float], document_id: str) -> tuple[float, ...]:
    """Return a vector as it will come back.

    Raises:
        ValidationError: A number is too large for 32 bits.
    """
    try:
        return floats_of(blob_of(vector))
    except OverflowError as error:
        raise ValidationError(
            f"the embedding of document {document_id!r} has a number that is too large",
            remedy="give numbers of less than 1e38, best a vector of length 1",
        ) from error


def blob_of(vector: Sequence[float]) -> bytes:
    """Return a vector as it is kept."""
    return struct.pack(f"<{len(vector)}f", *vector)


def floats_of(blob: bytes) -> tuple[float, ...]:
    """Return a vector that was kept."""
    return struct.unpack(f"<{len(blob) // _FLOAT_BYTES}f", blob)
