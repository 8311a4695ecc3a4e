"""What the followers of one run share: its newest events, each read and put into words once for all of them.

Rule 1: a tail is told by `Journal.follow`, and what it holds no more is read again from the record: whoever asks for
what comes after a number gets just that, in order, whether early, late, slow, or come again.
Rule 2: what is held does not grow with the followers: about `ROOM_BYTES` for all tails together, and as much again of
what had to be read twice; `LEAST_BYTES` for each tail where there are many.
Rule 3: a tail runs ahead of its quickest follower no further than it has room; a slow follower holds up nobody.
Rule 4: a tail is there while somebody follows its run.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from planloom.errors import JournalError
from planloom.journal.telling import entry_value

if TYPE_CHECKING:
    from planloom.ports import Journal, Recorded

ROOM_BYTES = 32 << 20
LEAST_BYTES = 16 << 10
CHUNK_BYTES = 64 << 10
"""About how much is handed to a follower at once."""
PAGE_EVENTS = 50
"""Events read again at once, for all who are that far behind."""


class RunTails:
    """The tails of a journal's runs that are followed now."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._tails: dict[str, Tail] = {}
        self.followers = 0
        """How many follow a run now."""
        self.ending = False
        """Whether the server is about to end: whoever follows a run is to come again."""

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._tails

    @property
    def room_bytes(self) -> int:
        """Return how much a tail may hold."""
        return max(LEAST_BYTES, ROOM_BYTES // max(1, len(self._tails)))

    @asynccontextmanager
    async def following(self, run_id: str, after: int) -> AsyncIterator[Tail]:
        """Have a run's tail while the block lasts, for whoever has seen its events up to `after`."""
        tail = self._tails.get(run_id)
        if tail is None:
            tail = self._tails[run_id] = Tail(self, self._journal, run_id, after)
        tail.followers += 1
        self.followers += 1
        try:
            yield tail
        finally:
            self.followers -= 1
            tail.followers -= 1
            if not tail.followers:
                del self._tails[run_id]
                await tail.close()

    def end(self) -> None:
        """Have every stream end."""
        self.ending = True
        for tail in self._tails.values():
            tail.wake()


class Tail:
    """The newest events of one run as text of the protocol, and what wakes those who wait for more.

    Attributes:
        followers: How many there are.
        over: Whether no more events come: the run has ended, or its record cannot be read on.
    """

    def __init__(self, tails: RunTails, journal: Journal, run_id: str, after: int) -> None:
        self.followers = 0
        self.over = False
        self._tails = tails
        self._journal = journal
        self._run_id = run_id
        self._frames: list[bytes] = []
        self._size_bytes = 0
        self._last = 0
        """Number of the last event that was read; `_frames` are those up to it, numbered without a gap."""
        self._furthest = 0
        """How far the quickest follower has come."""
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._pages: OrderedDict[int, list[bytes]] = OrderedDict()
        """Of the record before the frames, each page's whole text, for those that are far behind."""
        self._pages_bytes = 0
        self._page_readings: dict[int, asyncio.Task[list[bytes]]] = {}
        self._reading = asyncio.get_running_loop().create_task(self._read(after))

    async def after(self, seq: int) -> tuple[bytes, int]:
        """Return what comes next after an event, and the number of the last event in it; b"" if nothing does yet.

        Raises:
            JournalError: The record cannot be read.
        """
        while seq < self._last:
            held_after = self._last - len(self._frames)
            if seq >= held_after:
                frames, at = self._frames, seq - held_after
            else:
                frames, at = await self._page_of(seq), seq % PAGE_EVENTS
            told, size_bytes = at, 0
            while told < len(frames) and (told == at or size_bytes + len(frames[told]) <= CHUNK_BYTES):
                size_bytes += len(frames[told])
                told += 1
            if told > at:
                self._came_to(seq + told - at)
                return b"".join(frames[at:told]), seq + told - at
        self._came_to(seq)
        return b"", seq

    async def news(self, wait_s: float) -> bool:
        """Wait for more, or for the server's end; return False if there is none in that time."""
        try:
            async with asyncio.timeout(wait_s):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def wake(self) -> None:
        """Wake all who wait."""
        self._news.set()
        self._news.clear()

    async def close(self) -> None:
        """Read no more."""
        tasks = [self._reading, *self._page_readings.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _came_to(self, seq: int) -> None:
        if seq > self._furthest:
            self._furthest = seq
            self._room.set()

    async def _read(self, after: int) -> None:
        events: AsyncIterator[Recorded] | None = None
        try:
            # What the first follower says it has seen need not be there: then the others would wait for it.
            if after and await self._journal.read(self._run_id, after=after - 1, limit=1):
                self._last = after
                self.wake()
            events = self._journal.follow(self._run_id, after=self._last)
            async for recorded in events:
                self._frames.append(frame_of(recorded))
                self._size_bytes += len(self._frames[-1])
                self._last = recorded.seq
                self.wake()
                while not self._has_room():
                    self._room.clear()
                    await self._room.wait()
        except JournalError:  # whoever follows comes again, and is told why
            pass
        finally:
            self.over = True
            self.wake()
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()

    def _has_room(self) -> bool:
        """Let go of the oldest frames that somebody has had; return whether more may be read."""
        excess_bytes = self._size_bytes - self._tails.room_bytes
        had = max(0, self._furthest - (self._last - len(self._frames)))
        count = 0
        for frame in self._frames[:had] if excess_bytes > 0 else ():
            if excess_bytes <= 0:
                break
            excess_bytes -= len(frame)
            self._size_bytes -= len(frame)
            count += 1
        del self._frames[:count]
        return excess_bytes <= 0

    async def _page_of(self, seq: int) -> list[bytes]:
        """Return the page of frames that an event's successor is on; all who ask at once are told of one reading."""
        number = seq // PAGE_EVENTS
        if number in self._pages:
            return self._pages[number]
        reading = self._page_readings.get(number)
        if reading is None:
            reading = asyncio.get_running_loop().create_task(self._page(number))
            self._page_readings[number] = reading
            reading.add_done_callback(lambda _: self._page_readings.pop(number))
        return await asyncio.shield(reading)

    async def _page(self, number: int) -> list[bytes]:
        """Read a page from the record. It is kept if it is full, and as long as there is room; one always is."""
        found = await self._journal.read(self._run_id, after=number * PAGE_EVENTS, limit=PAGE_EVENTS)
        frames = [frame_of(recorded) for recorded in found]
        if len(frames) == PAGE_EVENTS:
            self._pages[number] = frames
            self._pages_bytes += sum(map(len, frames))
            while self._pages_bytes > self._tails.room_bytes and len(self._pages) > 1:
                _, oldest = self._pages.popitem(last=False)
                self._pages_bytes -= sum(map(len, oldest))
        return frames


def frame_of(recorded: Recorded) -> bytes:
    """Return an event as text of the protocol."""
    value = entry_value(recorded)
    told = json.dumps(value, separators=(",", ":"))
    return f"id: {recorded.seq}\nevent: {value['event']}\ndata: {told}\n\n".encode()
