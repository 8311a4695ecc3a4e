"""Writing a journal: one thread commits whatever all runs have waiting, in one transaction.

Rule 1: an append is encoded, numbered and linked where it is made, so a value that is not JSON fails there, all or
nothing, and nobody can change it afterwards.
Rule 2: the first error of a run ends its writing, at once and for good; otherwise later events would leave a gap.
Rule 3: a number that is taken is a conflict of that run alone: the other runs of the batch are committed all the same.
Rule 4: nothing is told before it is durable: `on_durable`, `flush` and followers hear of a commit after it returned.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Protocol

from planloom.core.events import RunFinished, RunStarted
from planloom.errors import JournalConflictError, JournalError
from planloom.journal.codec import encode
from planloom.journal.handover import on_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from planloom.core.events import Event
    from planloom.journal.blobs import Blob
    from planloom.journal.chain import RunLinks
    from planloom.ports import OnDurable


RunRowStart = tuple[str, str, str, float, bytes]
"""Run id, plan's name, plan's hash, started at, first link."""


class Share:
    """What one run has waiting for the next commit."""

    __slots__ = ("blobs", "last_seq", "rows", "started", "status", "writer")

    def __init__(self, writer: RunPen) -> None:
        self.writer = writer
        self.last_seq = 0
        self.rows: list[Any] = []
        """The values of all its rows, one after the other."""
        self.blobs: list[Blob] = []
        self.started: RunRowStart | None = None
        self.status: str | None = None


@dataclass(slots=True)
class Job:
    """Something else to do in a transaction of its own, after what was appended before it."""

    work: Callable[[Any], Any]
    done: asyncio.Future[Any] | None
    """None: nobody waits for it."""


class Store(Protocol):
    """Where a committer's transactions go. Used by its thread alone."""

    def write(self, shares: list[Share]) -> None:
        """Commit what these runs have waiting, in one transaction.

        Raises:
            JournalConflictError: A number of one of them is taken; nothing was written.
            JournalError: It cannot be written.
        """
        ...

    def do(self, work: Callable[[Any], Any]) -> Any:
        """Return what `work` returns, which gets what it writes to; once that is durable.

        Raises:
            JournalError: It cannot be done, or `work` raised it.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


Outcome = tuple["RunPen", int, "JournalError | None"]


class Committer:
    """The thread that writes. Owns its store from the start to the end.

    Args:
        place: Where the journal is, for people.
    """

    def __init__(self, store: Store, place: str, *, committed: Callable[[Iterable[str]], None]) -> None:
        self._store = store
        self._place = place
        self._committed = committed
        self._lock = Lock()
        """Guards the next four; held for microseconds, so an append never waits for a commit."""
        self._shares: dict[RunPen, Share] = {}
        self._jobs: list[Job] = []
        self._awake = False
        self._closed = False
        self._calls: SimpleQueue[None] = SimpleQueue()
        """One entry each time there is something to write again."""
        self._thread = Thread(target=self._work, name="planloom-write", daemon=True)
        self._thread.start()

    def put(
        self,
        writer: RunPen,
        last_seq: int,
        rows: list[Any],
        blobs: list[Blob],
        started: RunRowStart | None,
        status: str | None,
    ) -> None:
        """Queue the rows of one append. Never waits.

        Raises:
            JournalError: The journal is closed.
        """
        with self._lock:
            share = self._shares.get(writer)
            if share is None:
                self._call()
                share = self._shares[writer] = Share(writer)
            share.last_seq = last_seq
            share.rows += rows
            if blobs:
                share.blobs += blobs
            if started is not None:
                share.started = started
            if status is not None:
                share.status = status

    async def do(self, work: Callable[[Any], Any]) -> Any:
        """Return what `work` returns, once its transaction is durable.

        Raises:
            JournalError: It could not be written, or `work` raised it.
        """
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._call()
            self._jobs.append(Job(work, done))
        return await done

    def soon(self, work: Callable[[Any], Any]) -> None:
        """Have it done, and wait for nothing; not at all if the journal is closed."""
        with self._lock:
            if not self._closed:
                self._call()
                self._jobs.append(Job(work, None))

    def close(self) -> None:
        """Write what is queued, end the thread and close the connection. Blocks; a second call is harmless."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._calls.put(None)
        self._thread.join()

    def _call(self) -> None:
        """Call the thread, unless it has been called and not come yet. The lock is held."""
        if self._closed:
            raise JournalError(f"journal {self._place} is closed", remedy="open it again")
        if not self._awake:
            self._awake = True
            self._calls.put(None)

    def _next(self) -> tuple[list[Share], list[Job], bool]:
        """Return everything that waits, and whether it is the last."""
        with self._lock:
            shares, self._shares = self._shares, {}
            jobs, self._jobs = self._jobs, []
            self._awake = False
            return list(shares.values()), jobs, self._closed

    def _work(self) -> None:
        shares: list[Share] = []
        jobs: list[Job] = []
        finished = False
        try:
            while not finished:
                self._calls.get()
                shares, jobs, finished = self._next()
                self._commit([share for share in shares if share.writer.error is None])
                for job in jobs:
                    self._carry_out(job)
        finally:
            if not finished:
                self._give_up(shares, jobs)
            self._store.close()

    def _give_up(self, shares: list[Share], jobs: list[Job]) -> None:
        """Tell everybody who waits that this thread dies of an error of ours, whose traceback is on stderr."""
        with self._lock:
            self._closed = True
        late_shares, late_jobs, _ = self._next()
        error = JournalError(
            f"the thread that writes journal {self._place} died", remedy="report the traceback; then resume the run"
        )
        self._tell([(share.writer, share.last_seq, error) for share in (*shares, *late_shares)])
        for job in (*jobs, *late_jobs):
            if job.done is not None:
                on_loop(job.done.get_loop(), _settle, job.done, None, error)

    def _commit(self, shares: list[Share]) -> None:
        if not shares:
            return
        error: JournalError | None = None
        try:
            self._store.write(shares)
        except JournalConflictError as conflict:
            if len(shares) > 1:  # one of them is in conflict: each on its own, so that the others are committed
                for share in shares:
                    self._commit([share])
                return
            error = conflict
        except JournalError as problem:
            error = problem
        self._tell([(share.writer, share.last_seq, error) for share in shares])

    def _carry_out(self, job: Job) -> None:
        result: Any = None
        failure: JournalError | None = None
        try:
            result = self._store.do(job.work)
        except JournalError as error:
            failure = error
        if job.done is not None:
            on_loop(job.done.get_loop(), _settle, job.done, result, failure)

    def _tell(self, outcomes: list[Outcome]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, deque[Outcome]] = {}
        for outcome in outcomes:
            writer, _, error = outcome
            if error is not None:
                writer.error = error
            by_loop.setdefault(writer.loop, deque()).append(outcome)
        for loop, its_own in by_loop.items():
            on_loop(loop, _deliver, its_own)
        self._committed([writer.run_id for writer, _, error in outcomes if error is None])


class RunPen:
    """The pen of one run. Used on the event loop it was made on."""

    def __init__(
        self,
        run_id: str,
        committer: Committer,
        on_durable: OnDurable,
        *,
        links: RunLinks,
        last_seq: int,
        last_link: bytes,
        released: Callable[[], None],
    ) -> None:
        self.run_id = run_id
        self.loop = asyncio.get_running_loop()
        self.error: JournalError | None = None
        """What ended the writing; set by the committer's thread before anybody is told."""
        self._committer = committer
        self._on_durable = on_durable
        self._released = released
        self._links = links
        self._link = last_link
        self._appended = last_seq
        self._durable = last_seq
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._closed = False

    @property
    def backlog(self) -> int:
        """Return how many events are appended and not yet durable."""
        return self._appended - self._durable

    def append(self, events: Sequence[Event], causes: Sequence[int]) -> int:
        """Hand over events, in order, all or none; return the seq of the last. Never waits.

        Raises:
            OutputError: An event holds something that is not JSON; nothing was appended.
            JournalError: An earlier append failed, or this writer is closed.
        """
        if self.error is not None:
            raise self.error
        if self._closed:
            raise JournalError(f"the writer of run {self.run_id!r} is closed", remedy="take the run again")
        if not events:
            return self._appended
        run_id = self.run_id
        seq = self._appended
        link = self._link
        link_after = self._links.after
        rows: list[Any] = []
        blobs: list[Blob] = []
        status: str | None = None
        for event, cause in zip(events, causes, strict=True):
            kind, version, body, apart = encode(event)
            seq += 1
            link = link_after(link, seq, cause, kind, version, event.at, body)
            rows += (run_id, seq, cause, kind, version, event.at, body, link)
            if apart:
                blobs += apart
            if isinstance(event, RunFinished):
                status = event.status.value
        started = self._row_of(events[0]) if self._appended == 0 else None
        self._committer.put(self, seq, rows, blobs, started, status)
        self._appended = seq
        self._link = link
        return seq

    async def flush(self) -> None:
        """Wait until everything appended is durable.

        Raises:
            JournalConflictError: Another engine wrote to this run.
            JournalWriteError: Disk full, read-only, or an I/O error.
        """
        if self.error is not None:
            raise self.error
        if self._durable < self._appended:
            durable = self.loop.create_future()
            self._waiting.append((self._appended, durable))
            await durable

    async def close(self) -> None:
        """Flush and give the run up. Harmless when called again or after an error."""
        if self._closed:
            return
        self._closed = True
        try:
            if self.error is None:  # else `on_durable` and `append` have said so
                await self.flush()
        finally:
            self._released()

    def end(self) -> None:
        """Give the run up without waiting, once the journal has written everything and is closing."""
        if not self._closed:
            self._closed = True
            self._released()

    def settle(self, seq: int, error: JournalError | None) -> None:
        """Note on the loop that everything up to `seq` is durable, or why nothing more will be."""
        if error is None:
            self._durable = seq
        while self._waiting and (error is not None or self._waiting[0][0] <= seq):
            _, durable = self._waiting.popleft()
            _settle(durable, None, error)
        self._on_durable(self._durable, error)

    def _row_of(self, first: Event) -> RunRowStart:
        if not isinstance(first, RunStarted):
            raise JournalError(
                f"run {self.run_id!r} would begin with {type(first).__name__}", remedy="append `RunStarted` first"
            )
        return self.run_id, first.plan.name, first.plan.hash, first.at, self._links.first


def _deliver(outcomes: deque[Outcome]) -> None:
    """Settle them in order, also those after one whose callback raises: that error is the callback's owner's."""
    try:
        while outcomes:
            writer, seq, error = outcomes.popleft()
            writer.settle(seq, error)
    finally:
        if outcomes:
            asyncio.get_running_loop().call_soon(_deliver, outcomes)


def _settle(future: asyncio.Future[Any], result: Any, error: JournalError | None) -> None:
    if future.done():  # whoever waited was cancelled
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
