"""Reading a journal: a few threads with a connection each, apart from the one that writes.

Rule 1: only what is committed is seen here, and so only what is durable (schema.py rule 3).
Rule 2: the functions below run in a thread; only `ReadPool` is for the event loop. Events are read in record.py.
"""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from planloom.errors import JournalError, RunNotFoundError
from planloom.journal.faults import SQLITE_ERRORS, journal_error
from planloom.journal.schema import reading_connection
from planloom.ports import RunRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

READING_THREADS = 4

_RUNS = (
    "SELECT runs.run_id, runs.plan, runs.plan_hash, runs.status, runs.started_at, last.at, last.seq FROM runs"
    " JOIN events AS last ON last.run_id = runs.run_id"
    " AND last.seq = (SELECT max(seq) FROM events WHERE events.run_id = runs.run_id)"
)
_NEWEST = "ORDER BY runs.started_at DESC, runs.run_id DESC LIMIT ?"

Found = TypeVar("Found")


class FoundRows(Protocol):
    """What a statement gives."""

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Rows(Protocol):
    """What a journal is read through, in SQL that all its databases speak; `?` stands for a value."""

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> FoundRows: ...


class ReadPool:
    """Threads that read a journal for an event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(READING_THREADS, thread_name_prefix="planloom-read")
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
            except SQLITE_ERRORS as error:
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


def status_of(connection: Rows, run_id: str) -> str | None:
    """Return the status on record, or None when there is no such run."""
    row = connection.execute("SELECT status FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    return None if row is None else str(row[0])


def newest_runs(
    connection: Rows,
    status: str | None,
    limit: int,
    plan: str | None = None,
    before: tuple[float, str] | None = None,
    *,
    select: str = _RUNS,
) -> list[RunRow]:
    """Return runs, newest first; `plan` and `before` as `Journal.runs` says.

    Args:
        select: The columns of a `RunRow`, from `runs` and the last event of each.
    """
    given = (("status", status), ("plan", plan))
    wanted: list[tuple[str, tuple[object, ...]]] = [
        (f"runs.{name} = ?", (value,)) for name, value in given if value is not None
    ]
    if before is not None:
        wanted.append(("(runs.started_at, runs.run_id) < (?, ?)", before))
    where = f"WHERE {' AND '.join(text for text, _ in wanted)}" if wanted else ""
    values = [value for _, of_it in wanted for value in of_it]
    rows = connection.execute(f"{select} {where} {_NEWEST}", (*values, limit))
    return [RunRow(*row) for row in rows]


def runs_with_posted_facts(connection: Rows) -> set[str]:
    """Return the runs that have facts left for them."""
    return {row[0] for row in connection.execute("SELECT DISTINCT run_id FROM posted")}
