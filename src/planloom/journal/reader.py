"""Reading a journal: a few threads with a connection each, apart from the one that writes.

Rule 1: only what is committed is seen here, and so only what is durable (schema.py rule 3).
Rule 2: what is read is checked: numbers without gaps, events that decode, large values that are what was written.
Rule 3: the functions below run in a thread; only `ReadPool` is for the event loop.
"""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from planloom.core.result import RUN_ENDED
from planloom.errors import JournalError, JournalFormatError, RunNotFoundError
from planloom.journal.blobs import intact
from planloom.journal.codec import decode
from planloom.journal.faults import journal_error
from planloom.journal.schema import reading_connection
from planloom.ports import Recorded, RunRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from planloom.core.events import Event, Fact

_THREADS = 4
_ENDED = frozenset(status.value for status in RUN_ENDED)

_RUNS = (
    "SELECT runs.run_id, runs.plan, runs.plan_hash, runs.status, runs.started_at, last.at, last.seq FROM runs"
    " JOIN events AS last ON last.run_id = runs.run_id"
    " AND last.seq = (SELECT max(seq) FROM events WHERE events.run_id = runs.run_id)"
)
_NEWEST = "ORDER BY runs.started_at DESC, runs.run_id DESC LIMIT ?"

Found = TypeVar("Found")


class ReadPool:
    """Threads that read a journal for an event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="planloom-read")
        self._idle: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        self._closed = False

    async def read(self, work: Callable[[sqlite3.Connection], Found]) -> Found:
        """Return what `work` finds, done in a thread.

        Raises:
            JournalError: The journal cannot be read, or is closed.
        """
        if self._closed:
            raise closed_error(self._path)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._do, work)

    async def close(self) -> None:
        """Wait for what is being read and let go of the file. A second call is harmless."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(None, self._let_go)

    def _let_go(self) -> None:
        self._threads.shutdown()
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return

    def _do(self, work: Callable[[sqlite3.Connection], Found]) -> Found:
        with self._connection() as connection:
            try:
                return work(connection)
            except sqlite3.Error as error:
                raise journal_error(error, str(self._path)) from error

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._idle.get_nowait()
        except Empty:
            connection = reading_connection(self._path)
        try:
            yield connection
        finally:
            self._idle.put(connection)


def closed_error(path: object) -> JournalError:
    """Return the error of using a journal after its end."""
    return JournalError(f"journal {path} is closed", remedy="open it again")


def not_found(run_id: str, path: object) -> RunNotFoundError:
    """Return the error of asking for a run that is not here."""
    return RunNotFoundError(
        f"journal {path} has no run {run_id!r}", remedy="`planloom list` shows the runs of a journal", run_id=run_id
    )


def status_of(connection: sqlite3.Connection, run_id: str) -> str | None:
    """Return the status on record, or None when there is no such run."""
    row = connection.execute("SELECT status FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    return None if row is None else str(row[0])


def has_ended(connection: sqlite3.Connection, run_id: str) -> bool | None:
    """Return whether the run has ended, or None when there is no such run."""
    status = status_of(connection, run_id)
    return None if status is None else status in _ENDED


def events_of(connection: sqlite3.Connection, run_id: str, after: int, limit: int | None) -> list[Recorded]:
    """Return events with seq > `after`, in order.

    Raises:
        JournalFormatError: One is missing, damaged, or of a newer planloom.
    """
    rows = connection.execute(
        "SELECT seq, cause, kind, version, body FROM events WHERE run_id = ? AND seq > ? ORDER BY seq LIMIT ?",
        (run_id, after, -1 if limit is None else limit),
    ).fetchall()
    blob_text = _blobs_of(connection)
    found: list[Recorded] = []
    for expected, (seq, cause, kind, version, body) in enumerate(rows, max(after, 0) + 1):
        if seq != expected:
            raise JournalFormatError(
                f"run {run_id!r} is damaged: event {expected} is missing, {seq} is there",
                remedy="restore the journal from a backup",
            )
        found.append(Recorded(seq, cause, _decoded(kind, version, body, blob_text, f"run {run_id!r}, event {seq}")))
    return found


def newest_runs(connection: sqlite3.Connection, status: str | None, limit: int) -> list[RunRow]:
    """Return runs, newest first."""
    where, values = ("WHERE runs.status = ?", (status, limit)) if status is not None else ("", (limit,))
    rows = connection.execute(f"{_RUNS} {where} {_NEWEST}", values)
    return [RunRow(*row) for row in rows]


def posted_facts(connection: sqlite3.Connection, run_id: str) -> list[tuple[int, Fact]]:
    """Return what people left for the run, oldest first."""
    rows = connection.execute(
        "SELECT number, kind, version, body FROM posted WHERE run_id = ? ORDER BY number", (run_id,)
    ).fetchall()
    blob_text = _blobs_of(connection)
    return [
        (number, _decoded(kind, version, body, blob_text, f"run {run_id!r}, posted fact {number}"))  # type: ignore[misc]  # only facts are posted
        for number, kind, version, body in rows
    ]


def runs_with_posted_facts(connection: sqlite3.Connection) -> set[str]:
    """Return the runs that have facts left for them."""
    return {row[0] for row in connection.execute("SELECT DISTINCT run_id FROM posted")}


def _decoded(kind: str, version: int, body: str, blob_text: Callable[[str], str], where: str) -> Event:
    try:
        return decode(kind, version, body, blob_text)
    except JournalFormatError as error:
        raise JournalFormatError(f"{where}: {error.message}", remedy=error.remedy) from error


def _blobs_of(connection: sqlite3.Connection) -> Callable[[str], str]:
    def blob_text(name: str) -> str:
        row = connection.execute("SELECT body FROM blobs WHERE sha256 = ?", (name,)).fetchone()
        return intact(name, None if row is None else row[0])

    return blob_text
