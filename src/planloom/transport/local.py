"""Attempts made in this process: what is ready runs inline, and only a step that really waits costs a task.

A worker task takes attempts from its lane one after the other. As long as they do not wait, one worker makes them all
without a task switch; when one waits, the next worker, woken beforehand, goes on with the rest.

Rule 1: a lane's workers all began with the same context variables; a worker whose step changed them is retired.
Rule 2: an attempt asked to stop answers within GRACE_S: by itself, or it is given up and its late result dropped.
Rule 3: a worker gives way to the event loop every SLICE_S at the latest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context, copy_context
from time import monotonic
from typing import TYPE_CHECKING

from planloom.core.events import AttemptFailed
from planloom.plan.policy import FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from planloom.core.commands import RunStep
    from planloom.core.events import Fact
    from planloom.ports import Clock, Deliver, MakeAttempt

GRACE_S = 1.0
"""Seconds a stopped attempt has to answer."""
SLICE_S = 0.005
"""Seconds a worker may go on without giving way."""
MAX_IDLE = 64
"""Idle workers a lane keeps."""


class _Underway:
    """One attempt from submission to its fact; what the executor sees as its context."""

    __slots__ = ("abandoned", "answered", "cancelled", "clock", "deliver", "request", "stopping", "task")

    def __init__(self, request: RunStep, deliver: Deliver, clock: Clock) -> None:
        self.request = request
        self.deliver = deliver
        self.clock = clock
        self.task: asyncio.Task[None] | None = None
        self.stopping = False
        self.cancelled = False
        self.abandoned = False
        self.answered = False

    def abandon(self) -> None:
        self.abandoned = True

    def give_up(self) -> None:
        """Answer in place of an attempt that was asked to stop and did not."""
        if not self.answered:
            self.abandoned = True
            self.answer(self.stopped("stopped, but it does not answer; given up"))

    def stopped(self, text: str) -> AttemptFailed:
        now = self.clock.now()
        request = self.request
        return AttemptFailed(
            request.key,
            request.attempt,
            request.epoch,
            FailureKind.CANCELLED,
            text,
            now,
            now,
            abandoned=self.abandoned,
        )

    def answer(self, fact: AttemptFailed) -> None:
        self.answered = True
        self.deliver(fact)


class LocalLane:
    """Attempts of runs that began with equal context variables."""

    def __init__(
        self, make: MakeAttempt, clock: Clock, context: Context, on_close: Callable[[LocalLane], None]
    ) -> None:
        self.context = context
        self.users = 0
        self._make = make
        self._clock = clock
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Underway] = deque()
        self._at: dict[tuple[str, str], _Underway] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[bool]] = []
        """One future per idle worker: true wakes it, false sends it home."""
        self._waking = 0
        self._delivering = False
        self._closed = False

    def submit(self, request: RunStep, deliver: Deliver) -> None:
        place = (request.run_id, request.key)
        known = self._at.get(place)
        if known is not None and known.request.attempt == request.attempt and known.request.epoch == request.epoch:
            return
        underway = _Underway(request, deliver, self._clock)
        self._at[place] = underway
        self._queue.append(underway)
        if not self._delivering and self._waking == 0:
            self._wake()

    def stop(self, run_id: str, key: str) -> None:
        underway = self._at.get((run_id, key))
        if underway is None or underway.stopping:
            return
        underway.stopping = True
        # Not at once: a step that stops its own run is still in the middle of its work.
        self._loop.call_soon(self._cancel, underway)

    def _cancel(self, underway: _Underway) -> None:
        if underway.task is not None:
            underway.cancelled = True
            underway.task.cancel()
            self._clock.call_at(self._clock.now() + GRACE_S, underway.give_up)

    def close(self) -> None:
        self.users -= 1
        if self.users == 0:
            self._on_close(self)
            self._closed = True
            while self._idle:
                waiter = self._idle.pop()
                if not waiter.done():
                    waiter.set_result(False)

    async def cancel(self) -> None:
        """End every worker; what they were at is not answered."""
        self._closed = True
        self._queue.clear()
        for task in self._workers:
            task.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    # --- workers ---

    def _wake(self) -> None:
        self._waking += 1
        while self._idle:
            waiter = self._idle.pop()
            if not waiter.done():
                waiter.set_result(True)
                return
        task = self._loop.create_task(self._work(), context=self.context.copy())
        self._workers.add(task)
        task.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        woken = True
        while woken:
            self._waking -= 1
            # Whoever took attempts before us waits now: call two more, so that a wide plan is under way in a few
            # turns of the loop.
            for _ in range(2):
                if len(self._queue) > 1 + self._waking:
                    self._wake()
            slice_end = monotonic() + SLICE_S
            while self._queue:
                underway = self._queue.popleft()
                self._hand_on()
                if underway.stopping:
                    fact: Fact = underway.stopped("stopped before it began")
                else:
                    underway.task = task
                    fact = await self._make(underway.request, underway)
                    underway.task = None
                    if underway.cancelled:
                        task.uncancel()
                self._finish(underway, fact)
                if copy_context() != self.context:
                    self._hand_on()
                    return
                if monotonic() > slice_end:
                    self._hand_on()
                    await asyncio.sleep(0)
                    slice_end = monotonic() + SLICE_S
            if self._closed or len(self._idle) >= MAX_IDLE:
                return
            waiter: asyncio.Future[bool] = self._loop.create_future()
            self._idle.append(waiter)
            woken = await waiter

    def _hand_on(self) -> None:
        if self._queue and self._waking == 0:
            self._wake()

    def _finish(self, underway: _Underway, fact: Fact) -> None:
        place = (underway.request.run_id, underway.request.key)
        if self._at.get(place) is underway:
            del self._at[place]
        if not underway.answered:
            underway.answered = True
            self._delivering = True
            try:
                underway.deliver(fact)
            finally:
                self._delivering = False


class LocalTransport:
    """Makes attempts as tasks of the running event loop."""

    def __init__(self, make: MakeAttempt, clock: Clock) -> None:
        self._make = make
        self._clock = clock
        self._lanes: list[LocalLane] = []

    def lane(self) -> LocalLane:
        context = copy_context()
        for lane in self._lanes:
            if lane.context == context:
                break
        else:
            lane = LocalLane(self._make, self._clock, context, self._lanes.remove)
            self._lanes.append(lane)
        lane.users += 1
        return lane

    async def close(self) -> None:
        for lane in list(self._lanes):
            await lane.cancel()
