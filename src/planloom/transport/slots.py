"""SlotPool: workers that are places in this process, lent and given back as `WorkerPool` lends its processes.

Rule 1: a slot serves one program at a time; every provision has exactly one release, and a second one raises.
Rule 2: between `min` and `max` slots; one beyond `min` that nobody needed for `idle_s` seconds goes.
Rule 3: whoever asked first is served first.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from planloom.errors import ConfigError, NoWorkerError, WorkerError
from planloom.transport.staff import PoolEvent
from planloom.transport.worker import NO_LABELS

if TYPE_CHECKING:
    from types import TracebackType

_log = logging.getLogger("planloom.slots")

IDLE_S = 10.0


class Slot:
    """A place for one program.

    Attributes:
        id: The same each time it is lent.
        program: Whom it is lent to.
        released: Whether it was given back.
    """

    def __init__(self, slot_id: str, program: str, labels: Mapping[str, str]) -> None:
        self.id = slot_id
        self.program = program
        self.labels = labels
        self.released = False

    def __repr__(self) -> str:
        return f"Slot({self.id!r}, program={self.program!r})"


class SlotPool:
    """Between `min` and `max` places in this process; an async context manager.

    Args:
        min: Slots that are kept even when there is nothing to do.
        max: Programs that run at the same time, at most.
        labels: Of every slot.
        idle_s: Seconds after which a slot beyond `min` that nobody needs goes.

    Attributes:
        peak: Most slots there were at a time.
    """

    def __init__(
        self, min: int = 1, max: int = 4, *, labels: Mapping[str, str] = NO_LABELS, idle_s: float = IDLE_S
    ) -> None:
        if not 0 <= min <= max or max < 1 or idle_s < 0:
            raise ConfigError(
                f"a pool of {min} to {max} slots, idle for {idle_s} s, cannot be",
                remedy="give 0 <= min <= max, a max of at least 1, and seconds of 0 or more",
            )
        self.min, self.max = min, max
        self.labels = dict(labels)
        self.peak = 0
        self._idle_s = idle_s
        self._idle: deque[str] = deque()
        """Ids of free slots, the one that was used last at the end."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._lent: dict[str, Slot] = {}
        self._waiting: deque[tuple[str, asyncio.Future[Slot]]] = deque()
        self._listeners: list[Callable[[PoolEvent], None]] = []
        self._numbers = itertools.count(1)
        self._started = False
        self._closed = False

    async def __aenter__(self) -> SlotPool:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Make `min` slots. Does nothing the second time."""
        self._check_open()
        if not self._started:
            self._started = True
            while self.size < self.min:
                self._idle.append(self._new())

    async def close(self) -> None:
        """Give out no more; whoever waits hears of it. What is lent can still be given back."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._idle.clear()
        for _, waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(WorkerError("the pool of slots closes", remedy="make another one"))
        self._waiting.clear()

    def watch(self, listener: Callable[[PoolEvent], None]) -> Callable[[], None]:
        """Have a function called, on the event loop, for everything that happens to slots; return what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    @property
    def size(self) -> int:
        return len(self._idle) + len(self._lent)

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def busy(self) -> int:
        return len(self._lent)

    @property
    def waiting(self) -> int:
        """Return how many provisions wait for a slot."""
        return len(self._waiting)

    def resize(self, max: int) -> None:
        """Let there be more slots, or fewer: what is lent beyond that stays until it is given back."""
        self.max = max
        while self._waiting and self.size < self.max:
            program, waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(self._lend(self._new(), program))

    async def provision(
        self,
        program: str = "",
        *,
        require: Mapping[str, str] = NO_LABELS,
        prefer: Mapping[str, str] = NO_LABELS,
        patience_s: float = 0.0,
    ) -> Slot:
        """Wait for a slot and return it, lent to this program alone until it is released.

        Args:
            program: For whom, for people.
            require: Labels it must have.
            prefer, patience_s: As for `WorkerPool`; here all slots are alike.

        Raises:
            NoWorkerError: Slots here do not have the labels.
            WorkerError: The pool closes.
        """
        await self.start()
        missing = {name: value for name, value in require.items() if self.labels.get(name) != value}
        if missing:
            raise NoWorkerError(
                f"no slot of this process has the labels {missing}", remedy="label the pool, or ask for less"
            )
        if self._idle:
            return self._lend(self._idle.pop(), program)
        if self.size < self.max:
            return self._lend(self._new(), program)
        waiter: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append((program, waiter))
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release(waiter.result())  # it came in the very moment nobody wanted it any more
            raise

    def release(self, worker: Slot) -> None:
        """Give a slot back.

        Raises:
            WorkerError: It was given back already.
        """
        if worker.released:
            raise WorkerError(f"slot {worker.id} was given back already", remedy="release it once", worker=worker.id)
        worker.released = True
        del self._lent[worker.id]
        self._tell("released", worker.id, worker.program)
        while self._waiting and self.size < self.max:
            program, waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(self._lend(worker.id, program))
                return
        if not self._closed and self.size < self.max:
            self._idle.append(worker.id)
            self._timers[worker.id] = asyncio.get_running_loop().call_later(self._idle_s, self._leave, worker.id)

    def _new(self) -> str:
        slot_id = f"slot-{next(self._numbers)}"
        self._tell("started", slot_id)
        return slot_id

    def _lend(self, slot_id: str, program: str) -> Slot:
        timer = self._timers.pop(slot_id, None)
        if timer is not None:
            timer.cancel()
        slot = self._lent[slot_id] = Slot(slot_id, program, self.labels)
        self.peak = max(self.peak, self.size)
        self._tell("provisioned", slot_id, program)
        return slot

    def _leave(self, slot_id: str) -> None:
        self._timers.pop(slot_id, None)
        if slot_id in self._idle and self.size > self.min:
            self._idle.remove(slot_id)
            self._tell("left", slot_id)

    def _tell(self, kind: str, slot_id: str, program: str = "") -> None:
        for listener in tuple(self._listeners):
            try:
                listener(PoolEvent(kind, time.time(), slot_id, program))
            except Exception:  # noqa: BLE001 - a slot is lent and given back whatever a watcher makes of it
                _log.exception("a watcher of the slots failed")

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError("this pool is closed", remedy="make another one")
