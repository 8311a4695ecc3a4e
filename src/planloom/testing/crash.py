"""Power cuts, broken disks and late acknowledgements, at a write of your choice.

A journal in front of another one. Up to the write it is told to spoil it passes everything on; from there the world
stands still: nothing more is recorded and nobody is told anything. What the inner journal holds then is what would be
on the disk.

Rule 1: a write is one `append` of any run; they are counted from 1 over all runs, so a run's number of writes in an
undisturbed pass is the number of places to cut it at.
Rule 2: the process that lost its power still runs here. It may go on with what needs no record; what waits for the
record waits for ever. Close its engine, then open another one on the inner journal: that is the restart.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING

from planloom.errors import JournalWriteError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from planloom.core.events import Event, Fact
    from planloom.ports import Journal, OnDurable, Recorded, RunRow, RunWriter


class Spoil(StrEnum):
    """What becomes of the write that is spoiled."""

    BEFORE = "before"
    """The power is cut before it is on the disk; writes not yet acknowledged are lost with it."""
    AFTER = "after"
    """It is on the disk, as is everything before it; the power is cut before anybody is told."""
    BROKEN = "broken"
    """The disk refuses it and every later one; whoever wrote is told. The power stays on."""


class CrashingJournal:
    """Any `ports.Journal`, spoiled at one write.

    Args:
        inner: What is on the disk.
        at: Number of the write to spoil, from 1; None: none.
        how: What becomes of it.
        lag: Turns of the event loop from an append to its acknowledgement; what is appended meanwhile is committed
            together. 0: as the inner journal has it.
    """

    def __init__(self, inner: Journal, *, at: int | None = None, how: Spoil | str = Spoil.BEFORE, lag: int = 0) -> None:
        self.inner = inner
        self.writes = 0
        self.stopped = asyncio.Event()
        """Set once the write was spoiled."""
        self._at = at
        self._how = Spoil(how)
        self._lag = lag
        self._writers: list[_CrashingWriter] = []

    @property
    def dead(self) -> bool:
        """Return True once the power is cut."""
        return self.stopped.is_set() and self._how is not Spoil.BROKEN

    async def create(self, run_id: str, on_durable: OnDurable) -> RunWriter:
        writer = _CrashingWriter(self, on_durable)
        return self._kept(writer, await self.inner.create(run_id, writer.acknowledged), 0)

    async def take(self, run_id: str, on_durable: OnDurable) -> tuple[list[Recorded], RunWriter]:
        writer = _CrashingWriter(self, on_durable)
        events, inner = await self.inner.take(run_id, writer.acknowledged)
        return events, self._kept(writer, inner, events[-1].seq)

    def _kept(self, writer: _CrashingWriter, inner: RunWriter, seq: int) -> RunWriter:
        writer.begin(inner, seq, self._lag)
        self._writers.append(writer)
        return writer

    def next_write(self) -> Spoil | None:
        """Count a write; return how it is to be spoiled, or None."""
        self.writes += 1
        return self._how if self.writes == self._at else None

    def cut(self) -> None:
        """Cut the power now: writes that were not acknowledged are lost."""
        for writer in self._writers:
            writer.lose()
        self.stopped.set()

    def cut_after_all(self) -> None:
        """Cut the power now, with everything that was written on the disk and nobody told."""
        self.stopped.set()
        for writer in self._writers:
            writer.commit()

    async def read(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        return await self.inner.read(run_id, after=after, limit=limit)

    def follow(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        return self.inner.follow(run_id, after=after)

    async def runs(
        self,
        *,
        status: str | None = None,
        limit: int = 100,
        plan: str | None = None,
        before: tuple[float, str] | None = None,
    ) -> list[RunRow]:
        return await self.inner.runs(status=status, limit=limit, plan=plan, before=before)

    async def post(self, run_id: str, fact: Fact) -> None:
        await self.inner.post(run_id, fact)

    async def posted(self, run_id: str) -> list[tuple[int, Fact]]:
        return await self.inner.posted(run_id)

    async def posted_runs(self) -> set[str]:
        return await self.inner.posted_runs()

    async def taken(self, run_id: str, number: int) -> None:
        await self.inner.taken(run_id, number)

    async def close(self) -> None:
        """Do nothing: the inner journal belongs to whoever made it."""


class _CrashingWriter:
    """The pen of one run, as long as there is power."""

    _inner: RunWriter

    def __init__(self, journal: CrashingJournal, on_durable: OnDurable) -> None:
        self._journal = journal
        self._on_durable = on_durable
        self._waiting: deque[tuple[Sequence[Event], Sequence[int]]] = deque()
        self._seq = 0
        self._durable = 0
        self._lag = 0
        self._committing = False
        self._error: JournalWriteError | None = None
        self._told = asyncio.Event()

    def begin(self, inner: RunWriter, seq: int, lag: int) -> None:
        self._inner = inner
        self._seq = self._durable = seq
        self._lag = lag

    @property
    def backlog(self) -> int:
        return self._seq - self._durable

    def append(self, events: Sequence[Event], causes: Sequence[int]) -> int:
        if self._error is not None:
            raise self._error
        if self._journal.dead:
            self._seq += len(events)
            return self._seq
        spoil = self._journal.next_write()
        if spoil is None and self._lag == 0:
            self._seq = self._inner.append(events, causes)  # the inner journal may refuse it
            return self._seq
        self._seq += len(events)
        if spoil is Spoil.BEFORE:
            self._journal.cut()
        elif spoil is Spoil.BROKEN:
            self._break()
        else:
            self._waiting.append((events, causes))
            if spoil is Spoil.AFTER:
                self._journal.cut_after_all()
            elif not self._committing:
                self._committing = True
                self._after_turns(self._lag)
        return self._seq

    def _after_turns(self, turns: int) -> None:
        loop = asyncio.get_running_loop()
        if turns > 0:
            loop.call_soon(self._after_turns, turns - 1)
        else:
            self._committing = False
            self.commit()

    def commit(self) -> None:
        """Put what waits on the disk."""
        while self._waiting:
            self._inner.append(*self._waiting.popleft())
        if self._journal.dead:
            self._told.set()

    def lose(self) -> None:
        self._waiting.clear()
        self._told.set()

    def acknowledged(self, seq: int, error: BaseException | None) -> None:
        if self._journal.dead:
            return
        self._durable = max(self._durable, seq)
        self._told.set()
        self._on_durable(seq, error)

    def _break(self) -> None:
        self._error = JournalWriteError("the disk is broken", remedy="mend it, then resume the run")
        self._journal.stopped.set()
        asyncio.get_running_loop().call_soon(self._on_durable, self._durable, self._error)
        self._told.set()

    async def flush(self) -> None:
        await self._settled()
        if self._durable < self._seq:
            await asyncio.Event().wait()  # without power nobody is ever told

    async def _settled(self) -> None:
        """Wait until everything is durable, or the power is cut."""
        while self._durable < self._seq and not self._journal.dead:
            if self._error is not None:
                raise self._error
            self._told.clear()
            await self._told.wait()

    async def close(self) -> None:
        if self._error is None:
            await self._settled()
        await self._inner.close()
