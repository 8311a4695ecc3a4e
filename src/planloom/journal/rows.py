"""What a commit writes: the rows of events, runs, large values and posted facts.

Rule: this is the only SQL that adds to a journal's file. It runs in the committer's thread, inside its transaction.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from planloom.journal.faults import SQLITE_ERRORS, conflict, journal_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from planloom.journal.blobs import Blob
    from planloom.journal.chain import RunLinks
    from planloom.journal.codec import Encoded
    from planloom.journal.writer import RunRowStart, Share

_COLUMNS = 8
_ROW = "(?, ?, ?, ?, ?, ?, ?, ?)"
_ROWS_AT_ONCE = 64
"""Rows of one INSERT. The interpreter's lock is given up once per statement: a busy loop delays 64 rows, not each."""
_INSERT_EVENTS = "INSERT INTO events (run_id, seq, cause, kind, version, at, body, link) VALUES "
_INSERT_ONE = _INSERT_EVENTS + _ROW
_INSERT_MANY = _INSERT_EVENTS + ", ".join([_ROW] * _ROWS_AT_ONCE)
_INSERT_BLOB = "INSERT OR IGNORE INTO blobs (sha256, size, body) VALUES (?, ?, ?)"
_INSERT_POSTED = "INSERT INTO posted (run_id, kind, version, body) VALUES (?, ?, ?, ?)"
_LINK_POSTED = "UPDATE posted SET link = ? WHERE number = ?"
_INSERT_RUN = (
    "INSERT INTO runs (run_id, plan, plan_hash, status, started_at, first_link) VALUES (?, ?, ?, 'running', ?, ?)"
)
_END_RUN = "UPDATE runs SET status = ? WHERE run_id = ?"


class SqliteStore:
    """The file that a committer writes to, through a connection of its own."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._path = path

    def write(self, shares: list[Share]) -> None:
        """Commit what these runs have waiting; see `Store`."""
        try:
            self._transaction(partial(_insert, shares))
        except sqlite3.IntegrityError as error:
            raise conflict(shares[0].writer.run_id) from error
        except SQLITE_ERRORS as error:
            raise journal_error(error, self._path) from error

    def do(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """Return what `work` returns, once its transaction is durable; see `Store`."""
        try:
            return self._transaction(work)
        except SQLITE_ERRORS as error:
            raise journal_error(error, self._path) from error

    def close(self) -> None:
        self._connection.close()

    def _transaction(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        execute = self._connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            result = work(self._connection)
            execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                with suppress(*SQLITE_ERRORS):  # the disk may be gone altogether; the first error is what counts
                    execute("ROLLBACK")
        return result


def _insert(shares: list[Share], connection: sqlite3.Connection) -> None:
    rows: list[Any] = []
    for share in shares:
        rows += share.rows
        insert_blobs(connection, share.blobs)
        if share.started is not None:
            begin_run(connection, share.started)
        if share.status is not None:
            end_run(connection, share.writer.run_id, share.status)
    insert_events(connection, rows)


def begin_run(connection: sqlite3.Connection, row: RunRowStart) -> None:
    connection.execute(_INSERT_RUN, row)


def end_run(connection: sqlite3.Connection, run_id: str, status: str) -> None:
    connection.execute(_END_RUN, (status, run_id))


def insert_events(connection: sqlite3.Connection, rows: Sequence[Any]) -> None:
    """Write the values of rows, one after the other, in as few statements as may be."""
    at_once = _ROWS_AT_ONCE * _COLUMNS
    whole = len(rows) - len(rows) % at_once
    for start in range(0, whole, at_once):
        connection.execute(_INSERT_MANY, rows[start : start + at_once])
    for start in range(whole, len(rows), _COLUMNS):
        connection.execute(_INSERT_ONE, rows[start : start + _COLUMNS])


def insert_blobs(connection: sqlite3.Connection, blobs: Iterable[Blob]) -> None:
    for blob in blobs:
        connection.execute(_INSERT_BLOB, (blob.sha256, blob.size_bytes, blob.text))


def insert_posted(connection: sqlite3.Connection, run_id: str, encoded: Encoded, links: RunLinks) -> None:
    """Write a fact that a person left for a run. Its number is in its link: a copy under another one does not fit."""
    kind, version, body, blobs = encoded
    insert_blobs(connection, blobs)
    number = connection.execute(_INSERT_POSTED, (run_id, kind, version, body)).lastrowid
    assert number is not None, "an INSERT has just given it"
    connection.execute(_LINK_POSTED, (links.of_posted(number, kind, version, body), number))
