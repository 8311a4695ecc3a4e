"""A disk that keeps bytes, and journals on it that are slow, break, lose their power or their place.

Rule 1: an event is on the disk as what the codec wrote, and read as what the codec reads.
Rule 2: a write is queued, written with all that is queued by then, and acknowledged, each at its own time. A power cut
before the second leaves nothing of it, one before the third everything.
Rule 3: one process has a run at a time. Who has lost it, because somebody else took it, hears that with the next
acknowledgement, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from planloom.core.events import (
    AnswerRefused,
    ApprovalAnswered,
    ApprovalRequested,
    CallStarted,
    OutcomeUnknown,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopping,
    StepDispatched,
    StepFailed,
    StepResolved,
    StepSkipped,
    StepSucceeded,
)
from planloom.core.result import RunStatus
from planloom.errors import (
    JournalConflictError,
    JournalError,
    JournalWriteError,
    RunBusyError,
    RunNotFoundError,
)
from planloom.journal.codec import Encoded, decode, encode
from planloom.ports import Recorded, RunRow
from planloom.runtime.replay import replayed

if TYPE_CHECKING:
    from planloom.core.events import Event, Fact
    from planloom.ports import OnDurable
    from tests.simulation.world import Done, Host

FOLLOW_S = 0.5


@dataclass(frozen=True, slots=True)
class Asked:
    """A step that waits for a person, and the event that says so."""

    step: str
    what: str
    seq: int


@dataclass(slots=True)
class _Run:
    """One run on the disk.

    Attributes:
        asked: By step, what a person is asked.
        begun: Step and attempt, or step, attempt and call, of all that is on record as begun.
        engines: Who wrote that an epoch began.
    """

    rows: list[tuple[int, Encoded]] = field(default_factory=list)
    records: list[Recorded] = field(default_factory=list)
    posted: list[tuple[int, Encoded]] = field(default_factory=list)
    owner: SimulatedWriter | None = None
    asked: dict[str, Asked] = field(default_factory=dict)
    begun: set[tuple[str, int, str]] = field(default_factory=set)
    engines: dict[int, Host] = field(default_factory=dict)
    stopping: bool = False
    finished: RunFinished | None = None

    def add(self, cause: int, encoded: Encoded, host: Host) -> None:
        seq = len(self.rows) + 1
        event = _decoded(encoded)
        self.rows.append((cause, encoded))
        self.records.append(Recorded(seq, cause, event))
        match event:
            case RunStarted():
                self.engines[1] = host
            case RunResumed():
                self.engines[event.epoch] = host
            case StepDispatched():
                self.begun.add((event.step, event.attempt, ""))
            case CallStarted():
                self.begun.add((event.step, event.attempt, event.key))
            case ApprovalRequested() | OutcomeUnknown():
                what = "approval" if isinstance(event, ApprovalRequested) else "unknown"
                self.asked[event.step] = Asked(event.step, what, seq)
            case ApprovalAnswered() | StepResolved() | StepSucceeded() | StepFailed() | StepSkipped():
                self.asked.pop(event.step, None)
            case RunStopping():
                self.stopping = True
            case RunFinished():
                self.finished = event
                self.asked.clear()


def _decoded(encoded: Encoded) -> Event:
    kind, version, body, blobs = encoded
    return decode(kind, version, body, {blob.sha256: blob.text for blob in blobs}.__getitem__)


class Disk:
    """What outlives every process.

    Attributes:
        is_broken: Every write fails, and every read.
        is_stuck: Nothing is written any more, and nobody is told.
        forgotten: What people had left for a run and was forgotten before it was on record.
        writes: Commits so far.
    """

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._number = 0
        self.is_broken = False
        self.is_stuck = False
        self.forgotten: list[Fact] = []
        self.writes = 0

    def run(self, run_id: str) -> _Run:
        found = self._runs.get(run_id)
        if found is None or not found.rows:
            raise RunNotFoundError(f"the disk has no run {run_id!r}", remedy="start it", run_id=run_id)
        return found

    def place(self, run_id: str) -> _Run:
        return self._runs.setdefault(run_id, _Run())

    def has(self, run_id: str) -> bool:
        return run_id in self._runs and bool(self._runs[run_id].rows)

    def items(self) -> list[tuple[str, _Run]]:
        return [(run_id, run) for run_id, run in self._runs.items() if run.rows]

    def bytes_of(self, run_id: str) -> bytes:
        """Return the record of a run as it stands on the disk."""
        rows = self._runs[run_id].rows if run_id in self._runs else []
        return "\n".join(
            f"{cause} {kind} {version} {body} {[blob.text for blob in blobs]}"
            for cause, (kind, version, body, blobs) in rows
        ).encode()

    def has_begun(self, done: Done) -> bool:
        """Return whether the start of a call is on record: its attempt's, and, inside an attempt, its own."""
        run = self.place("r")
        call = done.key.removeprefix(f"r/{done.step}/") if done.inside else ""
        return (done.step, done.attempt, call) in run.begun

    def post(self, run_id: str, fact: Fact) -> None:
        self._number += 1
        self.run(run_id).posted.append((self._number, encode(fact)))

    def posted(self, run_id: str) -> list[tuple[int, Fact]]:
        run = self._runs.get(run_id)
        return [] if run is None else [(number, _decoded(encoded)) for number, encoded in run.posted]  # type: ignore[misc]  # a fact went in

    def taken(self, run_id: str, number: int) -> None:
        run = self.run(run_id)
        for at, fact in self.posted(run_id):
            if at <= number and self._is_wanted(run, fact):
                self.forgotten.append(fact)
        run.posted = [entry for entry in run.posted if entry[0] > number]

    def _is_wanted(self, run: _Run, fact: Fact) -> bool:
        """Return whether the record still waits for what a person said, who had seen what it waits for."""
        if not isinstance(fact, ApprovalAnswered | StepResolved):
            return False
        asked = run.asked.get(fact.step)
        if asked is None or not fact.by.endswith(f"#{asked.seq}"):
            return False
        if any(isinstance(entry.event, AnswerRefused) and entry.event.by == fact.by for entry in run.records):
            return False  # that it came too late is on record
        waits = replayed("r", run.records).state.blocked.get(fact.step)
        return waits is not None and waits.waiting == asked.what


class SimulatedJournal:
    """The journal of one process: a `ports.Journal`."""

    def __init__(self, disk: Disk, host: Host, draw: Random) -> None:
        self._disk = disk
        self.host = host
        self._draw = draw
        self._slow = draw.choice((0.0, 0.0, 0.002, 0.02, 0.5))
        """Seconds that a write takes, about."""
        self._writers: list[SimulatedWriter] = []
        self._committing = False
        self._closed = False
        self.on_write: Callable[[str], object] = _unseen
        """Called with "before" and "after" around each commit; may cut the power."""

    # --- writing ---

    async def create(self, run_id: str, on_durable: OnDurable) -> SimulatedWriter:
        await self._work()
        run = self._disk.place(run_id)
        if run.rows or run.owner is not None:
            raise JournalConflictError(f"run {run_id!r} exists", remedy="resume it", run_id=run_id)
        return self._writer(run_id, run, on_durable)

    async def take(self, run_id: str, on_durable: OnDurable) -> tuple[list[Recorded], SimulatedWriter]:
        await self._work()
        run = self._disk.run(run_id)
        if run.owner is not None:
            raise RunBusyError(f"run {run_id!r} is driven", remedy="wait", run_id=run_id)
        return list(run.records), self._writer(run_id, run, on_durable)

    def _writer(self, run_id: str, run: _Run, on_durable: OnDurable) -> SimulatedWriter:
        writer = SimulatedWriter(self, run_id, run, on_durable)
        run.owner = writer
        self._writers.append(writer)
        return writer

    def wake(self) -> None:
        """Have what is queued written, some time later."""
        if not self._committing and self.host.alive:
            self._committing = True
            asyncio.get_running_loop().call_later(self._seconds(), self._write)

    def _seconds(self) -> float:
        roll = self._draw.random()
        if roll < 0.3 or self.host.world.calm:
            return 0.0
        return self._slow * roll * (40 if roll > 0.97 else 1)

    def _write(self) -> None:
        if not self.host.alive:
            return
        if self._disk.is_stuck:
            asyncio.get_running_loop().call_later(0.25, self._write)
            return
        self.on_write("before")
        if not self.host.alive:
            return
        self._disk.writes += 1
        for writer in self._writers:
            writer.commit(broken=self._disk.is_broken)
        self.on_write("after")
        if self.host.alive:
            asyncio.get_running_loop().call_later(self._seconds(), self._acknowledge)

    def _acknowledge(self) -> None:
        if not self.host.alive:
            return
        self._committing = False
        for writer in self._writers:
            writer.acknowledge()
        self._writers = [writer for writer in self._writers if not writer.is_over]
        if any(writer.queue for writer in self._writers):
            self.wake()

    def let_go(self) -> None:
        """Give up every run, as the operating system does for a process that is gone."""
        for _, run in self._disk.items():
            if run.owner is not None and run.owner.journal is self:
                run.owner = None
        for writer in self._writers:
            if writer.run.owner is writer:
                writer.run.owner = None

    # --- reading ---

    async def _work(self) -> None:
        """Take the time that a look at the disk takes."""
        await self.host.power()
        if not self.host.world.calm and self._draw.random() < 0.15:
            await self.host.spend(self._draw.random())
        else:
            await asyncio.sleep(0)
            await self.host.power()
        if self._closed:
            raise JournalError("this journal is closed", remedy="open another one")
        if self._disk.is_broken:
            raise JournalWriteError("the disk is broken", remedy="wait until it is mended")

    async def read(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        await self._work()
        return self._disk.run(run_id).records[after : None if limit is None else after + limit]

    async def follow(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        while True:
            for recorded in await self.read(run_id, after=after):
                after = recorded.seq
                yield recorded
                if isinstance(recorded.event, RunFinished):
                    return
            await asyncio.sleep(FOLLOW_S)

    async def runs(
        self,
        *,
        status: str | None = None,
        limit: int = 100,
        plan: str | None = None,
        before: tuple[float, str] | None = None,
    ) -> list[RunRow]:
        await self._work()
        rows = [_row(run_id, run) for run_id, run in self._disk.items()]
        assert plan is None
        assert before is None
        return [row for row in rows if status is None or row.status == status][:limit]

    async def post(self, run_id: str, fact: Fact) -> None:
        await self._work()
        self._disk.post(run_id, fact)

    async def posted(self, run_id: str) -> list[tuple[int, Fact]]:
        await self._work()
        return self._disk.posted(run_id)

    async def posted_runs(self) -> set[str]:
        await self._work()
        return {run_id for run_id, run in self._disk.items() if run.posted}

    async def taken(self, run_id: str, number: int) -> None:
        await self._work()
        self._disk.taken(run_id, number)

    async def close(self) -> None:
        self._closed = True


def _unseen(place: str) -> None:
    """Nobody watches this disk."""


def _row(run_id: str, run: _Run) -> RunRow:
    first, last = run.records[0].event, run.records[-1]
    assert isinstance(first, RunStarted)
    status = RunStatus.RUNNING if run.finished is None else run.finished.status
    return RunRow(run_id, first.plan.name, first.plan.hash, status.value, first.at, last.event.at, last.seq)


class SimulatedWriter:
    """The pen of one run: a `ports.RunWriter`.

    Attributes:
        queue: What is appended and not yet written.
    """

    def __init__(self, journal: SimulatedJournal, run_id: str, run: _Run, on_durable: OnDurable) -> None:
        self.journal = journal
        self.run = run
        self.queue: list[tuple[int, Encoded]] = []
        self._run_id = run_id
        self._on_durable = on_durable
        self._seq = self._written = self._told = len(run.rows)
        self._error: JournalError | None = None
        self._closed = False
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def backlog(self) -> int:
        return self._seq - self._told

    @property
    def is_over(self) -> bool:
        return self._closed and not self.queue and (self._told == self._seq or self._error is not None)

    def append(self, events: Sequence[Event], causes: Sequence[int]) -> int:
        if self._error is not None:
            raise self._error
        if self._closed:
            raise JournalError(f"the writer of run {self._run_id!r} is closed", remedy="take the run again")
        self.queue += zip(causes, map(encode, events), strict=True)
        self._seq += len(events)
        self.journal.wake()
        return self._seq

    def commit(self, *, broken: bool) -> None:
        """Put what is queued on the disk, if it is still ours to write."""
        if not self.queue or self._error is not None:
            return
        if broken:
            self._error = JournalWriteError("the disk is broken", remedy="mend it, then resume the run")
        elif self.run.owner is not self:
            self._error = self._taken()
        else:
            for cause, encoded in self.queue:
                self.run.add(cause, encoded, self.journal.host)
            self._written = self._seq
        self.queue.clear()

    def acknowledge(self) -> None:
        """Tell what is on the disk; who has lost the run hears that instead."""
        if self._error is None and self.run.owner is not self and self._told < self._written:
            self._error = self._taken()
        news = self._error is not None or self._told < self._written
        self._told = self._written
        if news:
            self._on_durable(self._told, self._error)
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()

    def _taken(self) -> JournalConflictError:
        return JournalConflictError(f"run {self._run_id!r} was taken", remedy="leave it", run_id=self._run_id)

    async def flush(self) -> None:
        seq = self._seq
        while self._told < seq:
            if self._error is not None:
                raise self._error
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self.journal.host.alive and self._error is None:
            await self.flush()
        if self.run.owner is self:
            self.run.owner = None
