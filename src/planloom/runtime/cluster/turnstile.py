"""Inputs on their way to the record: many at a time, and of one run in one place only.

Rule 1: a run is in one turn at a time here; what comes in for it meanwhile waits, in order.
Rule 2: whoever brought an input hears of it twice: once it is durable, and once all that followed was seen to.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from planloom.runtime.cluster.hearts import Done, Hearts
    from planloom.runtime.cluster.inputs import Input, Received

_log = logging.getLogger("planloom.cluster")

MOST_INPUTS = 512
"""Of one turn."""
MOST_RUNS = 128
TURNS = 2
"""Turns under way at a time."""
BEHIND = 64
"""Batches whose consequences are being seen to, at most; more inputs wait."""
AGAIN_S = 1.0
"""Seconds before more is tried after the record could not be written."""


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """An input that waits for its turn.

    Attributes:
        durable: Hears what became of it; None: the record cannot be written now.
        done: Hears the same, once what followed was seen to.
    """

    one: Input
    durable: Callable[[Received | None], None] = lambda _: None
    done: Callable[[Received | None], None] = lambda _: None


class Turnstile:
    """Lets inputs through to the record.

    Args:
        after: Sees to what followed from a batch; raises nothing.
    """

    def __init__(self, hearts: Hearts, after: Callable[[Done], Awaitable[None]]) -> None:
        self._hearts = hearts
        self._after = after
        self._waiting: deque[Waiting] = deque()
        self._busy: set[str] = set()
        self._wake = asyncio.Event()
        self._room = asyncio.Semaphore(BEHIND)
        self._turning: list[asyncio.Task[None]] = []
        self._behind: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._alone = 0
        """Turns to come that are of one run each: what could not be written may be one run's doing."""
        self.failures = 0
        """Turns that could not be written."""

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._under_way and not self._behind

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._turning = [loop.create_task(self._turn_on()) for _ in range(TURNS)]

    def put(self, waiting: Waiting) -> None:
        self._waiting.append(waiting)
        self._wake.set()

    async def close(self) -> None:
        """Go at once; what waits is not taken in."""
        for task in self._turning:
            task.cancel()
        await asyncio.gather(*self._turning, *self._behind, return_exceptions=True)

    async def _turn_on(self) -> None:
        while True:
            await self._wake.wait()
            await self._room.acquire()
            batch = self._next()
            if not batch:
                self._wake.clear()
                self._room.release()
                continue
            await self._turn(batch)

    def _next(self) -> list[Waiting]:
        """Take out what may go now, in order."""
        batch: list[Waiting] = []
        most = MOST_RUNS
        if self._alone:
            self._alone, most = self._alone - 1, 1
        runs: set[str] = set()
        left: deque[Waiting] = deque()
        while self._waiting and len(batch) < MOST_INPUTS:
            waiting = self._waiting.popleft()
            run_id = waiting.one.run_id
            if run_id in self._busy or (run_id not in runs and len(runs) == most):
                left.append(waiting)
            else:
                runs.add(run_id)
                batch.append(waiting)
        self._waiting.extendleft(reversed(left))
        self._busy |= runs
        return batch

    async def _turn(self, batch: list[Waiting]) -> None:
        self._under_way += 1
        done: Done | None = None
        try:
            done = await self._hearts.take([waiting.one for waiting in batch])
        except JournalError as error:
            self.failures += 1
            self._alone = 2 * len({waiting.one.run_id for waiting in batch})
            _log.warning("a turn could not be written: %s", error.message)
            await asyncio.sleep(AGAIN_S)
        finally:
            self._busy -= {waiting.one.run_id for waiting in batch}
            self._under_way -= 1
            self._wake.set()
        if done is None:
            self._room.release()
            for waiting in batch:
                waiting.durable(None)
                waiting.done(None)
            return
        for waiting, answer in zip(batch, done.answers, strict=True):
            waiting.durable(answer)
        task = asyncio.get_running_loop().create_task(self._see_to(batch, done))
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    async def _see_to(self, batch: list[Waiting], done: Done) -> None:
        try:
            await self._after(done)
        finally:
            self._room.release()
        for waiting, answer in zip(batch, done.answers, strict=True):
            waiting.done(answer)
