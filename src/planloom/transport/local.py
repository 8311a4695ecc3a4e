"""Attempts made in this process: what is ready runs inline, and only a step that really waits costs a task.

A worker task takes attempts from its lane one after the other. As long as they do not wait, one worker makes them all
without a task switch; when one waits, the next worker, woken beforehand, goes on with the rest.

Rule 1: a lane's workers all began with the same context variables; a worker whose step changed them is retired.
Rule 2: an attempt asked to stop answers within GRACE_S: by itself, or it is given up and its late result dropped.
Rule 3: the workers of a lane together give way to the event loop every SLICE_S at the latest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context, copy_context
from typing import TYPE_CHECKING

from planloom.core.events import AttemptFailed, AttemptWaiting, CallEnded, OutputStreamed
from planloom.plan.flow import NO_LABELS
from planloom.plan.policy import FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from planloom.core.commands import RunStep
    from planloom.core.events import Fact, Note
    from planloom.core.result import Usage
    from planloom.plan.model import Step
    from planloom.ports import Clock, Deliver, MakeAttempt, Record

GRACE_S = 1.0
"""Seconds a stopped attempt has to answer."""
SLICE_S = 0.005
"""Seconds a lane may go on without giving way."""
MAX_IDLE = 64
"""Idle workers a lane keeps."""


class _Underway:
    """One attempt from submission to its fact; what the executor sees as its context (`ports.AttemptContext`)."""

    # What most attempts never need stands here once, not in every one.
    task: asyncio.Task[None] | None = None
    cancel_timer: Callable[[], None] | None = None
    reported_usd: float | None = None
    reported_usage: Usage | None = None
    reported_calls = 0
    reported_labels: frozenset[str] = NO_LABELS
    waited_s = 0.0
    stopping = False
    abandoned = False
    answered = False
    _closing = False

    def __init__(self, request: RunStep, deliver: Deliver, record: Record, lane: LocalLane) -> None:
        self.request = request
        self.deliver = deliver
        self._record = record
        self.clock = lane.clock
        self._lane = lane

    def abandon(self) -> None:
        self.abandoned = True

    @property
    def closing(self) -> bool:
        return self._closing or self._lane.loop_ends()

    def close(self) -> None:
        self._closing = True
        self.clear_timer()

    def report_usd(self, usd: float) -> None:
        self.reported_usd = (self.reported_usd or 0.0) + usd

    def report_usage(self, usage: Usage) -> None:
        self.reported_usage = usage if self.reported_usage is None else self.reported_usage + usage

    def report_call(self) -> None:
        self.reported_calls += 1

    def report_labels(self, labels: Iterable[str]) -> None:
        self.reported_labels = self.reported_labels.union(labels)

    def note(self, fact: Note) -> None:
        if not self.answered:
            self.deliver(fact)

    async def record(self, fact: Note) -> bool:
        # What has ended is told also by an attempt that is to stop; what it would begin now, it must not.
        if self.answered or (self.stopping and not isinstance(fact, CallEnded)):
            return False
        return await self._record(fact) and not self.stopping

    def stream(self, text: str) -> None:
        request = self.request
        self.note(OutputStreamed(request.key, request.attempt, request.epoch, text, self.clock.now()))

    def waiting(self, reason: str | None, until: float | None = None) -> None:
        request = self.request
        self.note(AttemptWaiting(request.key, request.attempt, request.epoch, self.clock.now(), reason, until))

    def wait(self, seconds: float) -> None:
        self.waited_s += seconds

    def give_up_after(self, seconds: float, text: str) -> None:
        self._set_timer(seconds + GRACE_S, FailureKind.TIMEOUT, f"{text}, nor when it was asked to stop; given up")

    def stop(self) -> None:
        """Ask the attempt to stop, and see to it that it answers."""
        if self.task is not None and not self.answered:
            self.task.cancel()
            self._set_timer(GRACE_S, FailureKind.CANCELLED, "stopped, but it does not answer; given up")

    def _set_timer(self, seconds: float, kind: FailureKind, text: str) -> None:
        self.clear_timer()
        self.cancel_timer = self.clock.call_at(self.clock.now() + seconds, lambda: self._give_up(kind, text))

    def clear_timer(self) -> None:
        if self.cancel_timer is not None:
            self.cancel_timer()
            self.cancel_timer = None

    def _give_up(self, kind: FailureKind, text: str) -> None:
        if not self.answered:
            self.answered = True
            self.abandoned = True
            self.deliver(self.failed(kind, text))

    def failed(self, kind: FailureKind, text: str) -> AttemptFailed:
        """Return the fact of an attempt that cannot speak for itself."""
        now = self.clock.now()
        request = self.request
        return AttemptFailed(
            request.key,
            request.attempt,
            request.epoch,
            kind,
            text,
            now,
            now,
            error_types=("TimeoutError", "Exception") if kind is FailureKind.TIMEOUT else (),
            usage=self.reported_usage,
            cost_usd=self.reported_usd,
            abandoned=self.abandoned,
            tool_calls=self.reported_calls,
        )


def _same(one: Context, other: Context) -> bool:
    """Return whether two contexts hold the very same values; to compare them might be dear, or raise."""
    if len(one) != len(other):
        return False
    for variable, value in one.items():  # noqa: SIM110 - made for every step, and `all` costs a generator
        if other.get(variable, _NOTHING) is not value:
            return False
    return True


_NOTHING = object()


class LocalLane:
    """Attempts of runs that began with equal context variables."""

    def __init__(
        self,
        make: MakeAttempt,
        clock: Clock,
        context: Context,
        on_close: Callable[[LocalLane], None],
        loop_ends: Callable[[], bool],
    ) -> None:
        self.context = context
        self.clock = clock
        self.loop_ends = loop_ends
        self.users = 0
        self._make = make
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._queue: deque[_Underway] = deque()
        self._at: dict[tuple[str, str], _Underway] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[bool]] = []
        """One future per idle worker: true wakes it, false sends it home."""
        self._waking = 0
        self._pausing = 0
        self._slice_open = True
        self._slice_end = 0.0
        self._delivering = False
        self._closed = False

    def submit(self, request: RunStep, deliver: Deliver, record: Record) -> None:
        place = (request.run_id, request.key)
        known = self._at.get(place)
        if known is not None and known.request.attempt == request.attempt and known.request.epoch == request.epoch:
            return
        underway = _Underway(request, deliver, record, self)
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
        self._loop.call_soon(underway.stop)

    def close(self) -> None:
        self.users -= 1
        if self.users == 0:
            self._on_close(self)
            self._closed = True
            while self._idle:
                waiter = self._idle.pop()
                if not waiter.done():
                    waiter.set_result(False)

    @property
    def busy(self) -> bool:
        return bool(self._workers)

    async def cancel(self) -> None:
        """End every worker; what they were at is not answered."""
        self._closed = True
        for underway in self._at.values():
            underway.close()
        self._queue.clear()
        for task in self._workers:
            task.cancel()
        if self._workers:
            # Not for ever: what swallows its cancellation ends with the event loop.
            await asyncio.wait(self._workers, timeout=GRACE_S)

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

    async def _work(self) -> None:  # noqa: PLR0912 - one loop: a call per attempt would cost as much as the attempt
        task = asyncio.current_task()
        assert task is not None
        woken = True
        while woken:
            self._waking -= 1
            if self._pausing == 0:
                # Whoever took attempts before us waits now: call two more, so that a wide plan is under way in a few
                # turns of the loop.
                for _ in range(2):
                    if len(self._queue) > 1 + self._waking:
                        self._wake()
                if self._slice_open:
                    self._slice_end = self._time() + SLICE_S
            while self._queue:
                if not self._slice_open or self._time() > self._slice_end:
                    await self._pause()
                    continue
                underway = self._queue.popleft()
                if self._queue and self._waking == 0:
                    self._wake()
                if underway.stopping:
                    fact: Fact = underway.failed(FailureKind.CANCELLED, "stopped before it began")
                else:
                    underway.task = task
                    fact = await self._make(underway.request, underway)
                    underway.task = None
                    while task.cancelling():
                        task.uncancel()
                self._finish(underway, fact)
                if not _same(copy_context(), self.context):
                    self._hand_on()
                    return
            if self._closed or len(self._idle) >= MAX_IDLE:
                return
            waiter: asyncio.Future[bool] = self._loop.create_future()
            self._idle.append(waiter)
            woken = await waiter

    async def _pause(self) -> None:
        """Give way to the event loop: the slice of this turn is used up, by this worker or another."""
        if self._slice_open:
            self._slice_open = False
            self._loop.call_soon(self._open_slice)
        self._pausing += 1
        try:
            await asyncio.sleep(0)
        finally:
            self._pausing -= 1

    def _open_slice(self) -> None:
        self._slice_open = True
        self._slice_end = self._time() + SLICE_S

    def _hand_on(self) -> None:
        if self._queue and self._waking == 0:
            self._wake()

    def _finish(self, underway: _Underway, fact: Fact) -> None:
        place = (underway.request.run_id, underway.request.key)
        if self._at.get(place) is underway:
            del self._at[place]
        if underway.cancel_timer is not None:
            underway.clear_timer()
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
        self._sentinel: asyncio.Task[None] | None = None
        self._lanes: list[LocalLane] = []
        self._left: list[LocalLane] = []
        """Lanes without users whose last attempts may still be ending."""

    def lane(self) -> LocalLane:
        context = copy_context()
        for lane in self._lanes:
            if _same(lane.context, context):
                break
        else:
            lane = LocalLane(self._make, self._clock, context, self._leave, self._loop_ends)
            self._lanes.append(lane)
        lane.users += 1
        if self._sentinel is None:
            self._sentinel = asyncio.get_running_loop().create_task(_until_cancelled())
        return lane

    def is_elsewhere(self, kind: str) -> bool:
        return False

    def lacks(self, step: Step) -> str:
        return ""

    def _loop_ends(self) -> bool:
        """Return True when the event loop cancels all its tasks, and nobody closed the engine before."""
        return self._sentinel is None or self._sentinel.done() or self._sentinel.cancelling() > 0

    def _leave(self, lane: LocalLane) -> None:
        self._lanes.remove(lane)
        self._left = [*(left for left in self._left if left.busy), lane]

    async def close(self) -> None:
        for lane in (*self._lanes, *self._left):
            await lane.cancel()
        if self._sentinel is not None:
            self._sentinel.cancel()
            await asyncio.gather(self._sentinel, return_exceptions=True)


async def _until_cancelled() -> None:
    """Do nothing until the event loop ends."""
    await asyncio.get_running_loop().create_future()
