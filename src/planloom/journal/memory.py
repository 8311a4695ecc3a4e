"""The record of all runs in memory, for runs that need not outlive their process.

Rule 1: an event is durable as soon as it is appended: `on_durable` is called before `append` returns.
Rule 2: events are kept as the objects they are. Whoever changes a value inside one changes the record.
Rule 3: one event loop at a time; nothing here is for threads.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from planloom.core.events import RunFinished, RunStarted
from planloom.core.result import RunStatus
from planloom.errors import JournalConflictError, JournalError, RunBusyError, RunNotFoundError
from planloom.ports import Recorded, RunRow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from planloom.core.events import Event, Fact
    from planloom.ports import OnDurable


class _Run:
    """The record of one run, and who waits for more of it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.causes: list[int] = []
        self.status = RunStatus.RUNNING
        self.posted: list[tuple[int, Fact]] = []
        self.writer: MemoryRunWriter | None = None
        self.waiters: set[asyncio.Event] = set()

    def recorded(self, after: int, until: int | None = None) -> list[Recorded]:
        """Return the events with seq > `after`, up to `until` where given."""
        pairs = zip(self.causes[after:until], self.events[after:until], strict=True)
        return [Recorded(seq, cause, event) for seq, (cause, event) in enumerate(pairs, after + 1)]

    def wake(self) -> None:
        for waiter in self.waiters:
            waiter.set()

    @contextmanager
    def waiting(self) -> Iterator[asyncio.Event]:
        news = asyncio.Event()
        self.waiters.add(news)
        try:
            yield news
        finally:
            self.waiters.discard(news)


class MemoryRunWriter:
    """The pen of one run in memory."""

    backlog = 0

    def __init__(self, run_id: str, run: _Run, on_durable: OnDurable) -> None:
        self._run_id = run_id
        self._run = run
        self._on_durable = on_durable
        self._closed = False
        run.writer = self

    def append(self, events: Sequence[Event], causes: Sequence[int]) -> int:
        """Record events, in order, all or none; return the seq of the last."""
        run = self._run
        if self._closed:
            raise JournalError(f"the writer of run {self._run_id!r} is closed", remedy="take the run again")
        if not events:
            return len(run.events)
        if len(events) != len(causes):
            raise ValueError(f"{len(events)} events with {len(causes)} causes")
        if not run.events and not isinstance(events[0], RunStarted):
            raise JournalError(
                f"run {self._run_id!r} would begin with {type(events[0]).__name__}",
                remedy="append `RunStarted` first",
            )
        run.events.extend(events)
        run.causes.extend(causes)
        last = events[-1]
        if isinstance(last, RunFinished):
            run.status = last.status
        if run.waiters:
            run.wake()
        seq = len(run.events)
        self._on_durable(seq, None)
        return seq

    async def flush(self) -> None:
        """Return at once: there is nothing to wait for."""

    async def close(self) -> None:
        """Give the run up. A second call is harmless."""
        self.end()

    def end(self) -> None:
        """Give the run up without waiting."""
        if not self._closed:
            self._closed = True
            self._run.writer = None
            self._run.wake()


class MemoryJournal:
    """A journal that lives as long as this object."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._last_number = 0
        self._closed = False

    async def create(self, run_id: str, on_durable: OnDurable) -> MemoryRunWriter:
        """Take ownership of a new run; JournalConflictError if it exists."""
        self._check_open()
        run = self._runs.get(run_id)
        if run is not None and (run.events or run.writer is not None):
            raise JournalConflictError(
                f"run {run_id!r} exists", remedy="resume it, or start a run under another id", run_id=run_id
            )
        run = self._runs.setdefault(run_id, _Run())
        return MemoryRunWriter(run_id, run, on_durable)

    async def take(self, run_id: str, on_durable: OnDurable) -> tuple[list[Recorded], MemoryRunWriter]:
        """Take ownership of a run on record; RunNotFoundError, or RunBusyError when somebody drives it."""
        self._check_open()
        run = self._runs.get(run_id)
        if run is not None and run.writer is not None:
            raise RunBusyError(f"this process drives run {run_id!r} now", remedy="wait for it", run_id=run_id)
        run = self._found(run_id)
        return run.recorded(0), MemoryRunWriter(run_id, run, on_durable)

    async def read(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Return events with seq > `after`, in order; RunNotFoundError if there is no such run."""
        self._check_open()
        first = max(after, 0)
        return self._found(run_id).recorded(first, None if limit is None else first + limit)

    async def follow(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield events as they come, none left out, none twice; ends after `RunFinished`."""
        run = self._runs.get(run_id)
        if run is None:
            raise _not_found(run_id)
        after = max(after, 0)
        with run.waiting() as news:
            while not self._closed:
                page = run.recorded(after)
                for recorded in page:
                    after = recorded.seq
                    yield recorded
                if page:  # more may have come while whoever follows was busy with it
                    continue
                if not run.events and run.writer is None:
                    raise _not_found(run_id)
                if run.status is not RunStatus.RUNNING:
                    return
                await news.wait()
                news.clear()
        raise _closed_error()

    async def runs(
        self,
        *,
        status: str | None = None,
        limit: int = 100,
        plan: str | None = None,
        before: tuple[float, str] | None = None,
    ) -> list[RunRow]:
        """Return runs, newest first; see the port."""
        self._check_open()
        rows = [_row(run_id, run) for run_id, run in self._runs.items() if run.events]
        wanted = [
            row
            for row in rows
            if (status is None or row.status == status)
            and (plan is None or row.plan == plan)
            and (before is None or (row.started_at, row.run_id) < before)
        ]
        return sorted(wanted, key=lambda row: (row.started_at, row.run_id), reverse=True)[:limit]

    async def post(self, run_id: str, fact: Fact) -> None:
        """Leave a person's fact for whoever drives the run; RunNotFoundError if there is no such run."""
        self._check_open()
        run = self._found(run_id)
        self._last_number += 1
        run.posted.append((self._last_number, fact))

    async def posted(self, run_id: str) -> list[tuple[int, Fact]]:
        """Return facts left for this run and not yet taken, oldest first, each with its number."""
        self._check_open()
        run = self._runs.get(run_id)
        return [] if run is None else list(run.posted)

    async def posted_runs(self) -> set[str]:
        """Return the runs that have facts left for them."""
        self._check_open()
        return {run_id for run_id, run in self._runs.items() if run.posted}

    async def taken(self, run_id: str, number: int) -> None:
        """Forget the posted facts of this run up to `number`."""
        self._check_open()
        run = self._found(run_id)
        run.posted = [entry for entry in run.posted if entry[0] > number]

    def forget(self, run_id: str) -> None:
        """Let go of the record of a run that nobody drives; one that is not here is forgotten already."""
        run = self._runs.get(run_id)
        if run is not None and run.writer is None:
            del self._runs[run_id]

    async def close(self) -> None:
        """End every writer and follower. A second call is harmless."""
        self._closed = True
        for run in self._runs.values():
            if run.writer is not None:
                run.writer.end()
            run.wake()

    def _found(self, run_id: str) -> _Run:
        run = self._runs.get(run_id)
        if run is None or not run.events:
            raise _not_found(run_id)
        return run

    def _check_open(self) -> None:
        if self._closed:
            raise _closed_error()


def _row(run_id: str, run: _Run) -> RunRow:
    first = run.events[0]
    assert isinstance(first, RunStarted), "no run begins with anything else"
    plan, status, last = first.plan, run.status.value, run.events[-1]
    return RunRow(run_id, plan.name, plan.hash, status, first.at, last.at, len(run.events))


def _closed_error() -> JournalError:
    return JournalError("this journal is closed", remedy="make a new one; what is in memory ends with its journal")


def _not_found(run_id: str) -> RunNotFoundError:
    return RunNotFoundError(
        f"this journal in memory has no run {run_id!r}",
        remedy="a journal in a file outlives its process",
        run_id=run_id,
    )
