"""Workers of this machine: processes started as they are needed, lent to programs, given back, ended when idle.

Rule 1: every provision has exactly one release, whatever became of the program and of the worker; a second one raises.
Rule 2: a worker is lent to one program at a time, and first to whoever asked first, if it suits.
Rule 3: nobody waits for what cannot come: whoever waits is told why.
"""

from __future__ import annotations

import asyncio
import builtins
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planloom.errors import ConfigError, NoWorkerError, OverloadedError, WorkerError, WorkerStartError
from planloom.transport.prospects import Rota
from planloom.transport.setup import WorkerSetup
from planloom.transport.staff import PoolEvent, Staff
from planloom.transport.wants import Want, match
from planloom.transport.worker import NO_LABELS, Seat, SeatState, Worker

if TYPE_CHECKING:
    from planloom.transport.wants import Fits

LEASE_S = 10.0
IDLE_S = 10.0
START_S = 30.0


@dataclass(slots=True)
class PoolCounts:
    """What happened in a pool so far."""

    provisioned: int = 0
    released: int = 0
    started: int = 0
    joined: int = 0
    left: int = 0
    lost: int = 0
    start_failed: int = 0
    refused: int = 0
    """Workers that were not let in."""
    late: int = 0
    """Messages of workers that counted as lost; none was used."""
    peak: int = 0
    """Most workers there were at a time."""


class WorkerPool:
    """Between `min` and `max` worker processes; an async context manager.

    Args:
        min: Processes that are kept even when there is nothing to do.
        max: Processes there may be; workers that join from outside come on top.
        labels: Of every process; or several, which the processes get in turn.
        capacity: Attempts that one process makes at the same time.
        setup: What the processes have and may use.
        listen: Where workers come in, ``unix:/path`` or ``tcp:127.0.0.1:PORT``; None: a socket of its own.
        token: What workers that join from outside must know; None: a random one.
        lease_s: Seconds of silence after which a worker is lost.
        idle_s: Seconds after which a process beyond `min` that nobody needs is ended.
        start_s: Seconds a process has to come in.
        max_waiting: Provisions that may wait; one more is an `OverloadedError`. None: any number.
    """

    def __init__(
        self,
        min: int = 1,
        max: int = 4,
        *,
        labels: Mapping[str, str] | Sequence[Mapping[str, str]] = NO_LABELS,
        capacity: int = 1,
        setup: WorkerSetup | None = None,
        listen: str | None = None,
        token: str | None = None,
        lease_s: float = LEASE_S,
        idle_s: float = IDLE_S,
        start_s: float = START_S,
        max_waiting: int | None = None,
    ) -> None:
        if not 0 <= min <= max or capacity < 1 or lease_s <= 0 or idle_s <= 0:
            raise ConfigError(
                f"there is no pool of {min} to {max} workers of capacity {capacity} with leases of {lease_s} s",
                remedy="give 0 <= min <= max, a capacity of at least 1, and times above 0 s",
            )
        label_sets = [dict(labels)] if isinstance(labels, Mapping) else [dict(one) for one in labels] or [{}]
        self._rota = Rota(min, max, label_sets, capacity, setup or WorkerSetup(), lease_s, idle_s, start_s)
        self.token = token or secrets.token_urlsafe(32)
        self.counts = PoolCounts()
        self._listen = listen
        self._max_waiting = max_waiting
        self._listeners: list[Callable[[PoolEvent], None]] = []
        self._wants: list[Want] = []
        self._staff: Staff | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._serving = self._serve_again = False

    # --- from start to end ---

    async def __aenter__(self) -> WorkerPool:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen, and start `min` processes, which come in later. Does nothing the second time.

        Raises:
            ConfigError: It was closed, or cannot listen there.
        """
        await asyncio.shield(self._open())

    def _open(self) -> asyncio.Task[None]:
        if self._closed:
            raise ConfigError("this pool is closed", remedy="make another one")
        if self._opening is None:
            self._staff = Staff(self._rota, self.token, changed=self._serve, tell=self._tell)
            self._opening = asyncio.get_running_loop().create_task(self._staff.open(self._listen))
            self._opening.add_done_callback(self._opened)
        return self._opening

    def _opened(self, opening: asyncio.Task[None]) -> None:
        problem = None if opening.cancelled() else opening.exception()
        if problem is None:
            self._serve()
            return
        for want in list(self._wants):
            self._drop(want, WorkerStartError(f"the pool could not be started: {problem}", remedy="see its settings"))

    async def close(self) -> None:
        """End every worker and wait for it; whoever has one hears that it is lost, whoever waits for one too."""
        if self._closing is None:
            self._closed = True
            for want in list(self._wants):
                self._drop(want, WorkerError("the pool of workers was closed", remedy="make another one"))
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)  # whoever waits may be cancelled: the workers end all the same

    async def _close(self) -> None:
        if self._opening is not None:
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._staff is not None:
            await self._staff.close()

    @property
    def address(self) -> str:
        """Return where workers come in, for ``planloom worker --connect``."""
        if self._staff is None:
            raise ConfigError("the pool listens nowhere yet", remedy="start it first: async with WorkerPool(...)")
        return self._staff.reception.address

    @property
    def max(self) -> int:
        """Return how many workers there may be at a time, those that joined from outside on top."""
        joined = 0 if self._staff is None else sum(seat.child is None for seat in self._staff.seats.values())
        return self._rota.max + joined

    @property
    def size(self) -> int:
        """Return how many workers there are, those that are starting or leaving included."""
        return 0 if self._staff is None else len(self._staff.seats)

    @property
    def idle(self) -> int:
        return 0 if self._staff is None else len(self._staff.in_state(SeatState.IDLE))

    @property
    def busy(self) -> int:
        return 0 if self._staff is None else len(self._staff.in_state(SeatState.LENT))

    @property
    def waiting(self) -> int:
        """Return how many provisions wait for a worker."""
        return len(self._wants)

    def others_wait(self, program: str) -> bool:
        """Return whether a provision waits that is not for this program."""
        return any(want.program != program for want in self._wants)

    @property
    def pids(self) -> dict[str, int]:
        """Return the numbers of the processes it started and that have come in, by the ids of their workers."""
        seats = () if self._staff is None else self._staff.in_state(SeatState.IDLE, SeatState.LENT)
        return {seat.id: seat.child.pid for seat in seats if seat.child is not None}

    def lacks(self, tools: Iterable[str]) -> str:
        """Return which of these tools no worker has, of those that came in or can be started; "" if one may have it."""
        return "" if self._staff is None else self._staff.prospects.lack(tools)

    def watch(self, listener: Callable[[PoolEvent], None]) -> Callable[[], None]:
        """Have a function called, on the event loop, for all that happens to workers; return what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _tell(self, kind: str, worker: str, program: str, why: str) -> None:
        counts = self.counts
        setattr(counts, kind, getattr(counts, kind) + 1)
        counts.peak = builtins.max(counts.peak, self.size)
        event = PoolEvent(kind, time.time(), worker, program, why)
        for listener in list(self._listeners):
            listener(event)

    # --- provision and release ---

    async def provision(
        self,
        program: str = "",
        *,
        require: Mapping[str, str] = NO_LABELS,
        prefer: Mapping[str, str] = NO_LABELS,
        patience_s: float = 0.0,
    ) -> Worker:
        """Wait for a worker and return it, lent to this program alone until it is released.

        Args:
            program: For whom, for people.
            require: Labels it must have.
            prefer: Labels it had better have.
            patience_s: Seconds to wait for one with these labels before another one is taken, or none.

        Raises:
            OverloadedError: Too many wait already.
            NoWorkerError: No worker there is, or can be started, has the labels it must have.
            WorkerStartError: Processes cannot be started.
        """
        await self.start()
        came: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()

        def given(worker: Worker) -> None:
            if came.done():  # nobody wants it any more
                self.release(worker)
            else:
                came.set_result(worker)

        def failed(error: WorkerError) -> None:
            if not came.done():
                came.set_exception(error)

        want = self.ask(given, failed, program=program, require=require, prefer=prefer, patience_s=patience_s)
        try:
            return await came
        except asyncio.CancelledError:
            self.withdraw(want)
            if came.done() and not came.cancelled() and came.exception() is None:
                self.release(came.result())  # it came in the very moment it was no longer wanted
            raise

    @asynccontextmanager
    async def provisioned(self, program: str = "", **options: Any) -> AsyncIterator[Worker]:
        """Lend a worker for a block of code; options and errors are those of `provision`."""
        worker = await self.provision(program, **options)
        try:
            yield worker
        finally:
            self.release(worker)

    def release(self, worker: Worker) -> None:
        """Give a worker back.

        Raises:
            WorkerError: It was given back already.
        """
        if worker.released:
            raise WorkerError(
                f"worker {worker.id} was given back already",
                remedy="give back what was provisioned once: use `async with pool.provisioned(...)`",
                worker=worker.id,
            )
        worker.released = True
        self._tell("released", worker.id, worker.program, "")
        if self._staff is not None and worker.seat.worker is worker:
            self._staff.freed(worker.seat)

    def ask(
        self,
        given: Callable[[Worker], None],
        failed: Callable[[WorkerError], None],
        *,
        program: str = "",
        require: Mapping[str, str] = NO_LABELS,
        prefer: Mapping[str, str] = NO_LABELS,
        patience_s: float = 0.0,
        fits: Fits | None = None,
    ) -> Want:
        """Ask for a worker without waiting: one of the two functions is called, on the event loop, now or later.

        Args:
            fits: Says why a worker will not do, besides its labels; "" if it will.

        Raises:
            OverloadedError: Too many wait already; neither is called.
            ConfigError: The pool is closed; neither is called.
        """
        self._open()
        if self._max_waiting is not None and len(self._wants) >= self._max_waiting:
            raise OverloadedError(
                f"{len(self._wants)} programs wait for a worker already",
                remedy="try again later, or let the pool have more workers",
                waiting=len(self._wants),
            )
        loop = asyncio.get_running_loop()
        want = Want(given, failed, program, require, prefer, loop.time() + patience_s, fits)
        self._wants.append(want)
        if patience_s > 0 and (require or prefer):
            loop.call_later(patience_s, self._serve)  # of others, the next tick hears
        self._serve()
        return want

    def withdraw(self, want: Want) -> None:
        """Ask no more; does nothing if the worker was given already."""
        if want in self._wants:
            self._wants.remove(want)

    def _drop(self, want: Want, error: WorkerError) -> None:
        if want in self._wants:  # it may have been withdrawn when another one was dropped
            self._wants.remove(want)
            want.failed(error)

    def _serve(self) -> None:
        """Lend what is idle to whoever waits, have started what is missing, and tell those for whom nobody comes.

        Whoever is lent a worker may give it back at once, and so on: that is served here in turn, and not in depth.
        """
        self._serve_again = True
        if self._serving:
            return
        self._serving = True
        try:
            while self._serve_again:
                self._serve_again = False
                self._serve_once()
        finally:
            self._serving = False

    def _serve_once(self) -> None:
        staff = self._staff
        if staff is None or self._closed or self._opening is None or not self._opening.done():
            return
        now = asyncio.get_running_loop().time()
        while True:
            found = match(self._wants, staff.in_state(SeatState.IDLE), staff.prospects.could_like, now)
            if found is None:
                break
            want, seat = found
            self._wants.remove(want)
            self._lend(staff, seat, want)
        staff.grow(self._wants)
        for want in [want for want in self._wants if now >= want.until or staff.prospects.is_all_there_is(want)]:
            why = staff.prospects.hopeless(want)
            if why:
                remedy = "start a worker that does, or have the pool start such processes"
                self._drop(want, NoWorkerError(f"no worker does this: {why}", remedy=remedy))
            elif staff.why_not and not staff.in_state(SeatState.IDLE, SeatState.LENT):
                remedy = "mend what its last words name; the pool goes on trying, ever more rarely"
                self._drop(want, WorkerStartError(f"no worker process can be started: {staff.why_not}", remedy=remedy))
        self.counts.peak = builtins.max(self.counts.peak, self.size)

    def _lend(self, staff: Staff, seat: Seat, want: Want) -> None:
        assert seat.offer is not None
        seat.turn(SeatState.LENT, asyncio.get_running_loop().time())
        seat.served += 1
        worker = seat.worker = Worker(seat, seat.offer, want.program, staff.end)
        self._tell("provisioned", seat.id, want.program, "")
        want.given(worker)
