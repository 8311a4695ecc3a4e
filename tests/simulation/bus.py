"""Workers on other machines, and a network between them and the engines that loses its temper but nothing for good.

Rule 1: an attempt is with one worker at a time, or was given up; who has it may still be at it when its engine is gone.
Rule 2: what a worker says comes late, out of order, twice, or after it was taken for lost: the heart must refuse what
it has no use for. That it comes once is not promised here.
Rule 3: what was asked for by an engine whose epoch never came on record is said to nobody: attempt and epoch are a
fence only between engines that are on record. Real transports have a token for each attempt besides.
Rule 4: a worker that dies is missed after a while, and answered for as `transport/lanes.py` does: lost, or stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

from planloom.core.events import AttemptFailed, AttemptSucceeded
from planloom.plan.policy import FailureKind
from planloom.transport.fitting import kind_of_work
from planloom.transport.local import LocalTransport
from tests.simulation.world import HOST, Host, World

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.core.events import Fact
    from planloom.plan.model import Step
    from planloom.ports import Clock, Deliver, Lane, MakeAttempt, Record

GRACE_S = 1.4
"""As in `transport/lanes.py`."""


@dataclass(eq=False, slots=True)
class Errand:
    """One attempt on its way, at a worker, or on its way back."""

    request: RunStep
    lane: BusLane
    deliver: Deliver
    record: Record
    worker: SimulatedWorker | None = None
    stopping: bool = False
    answered: bool = False

    @property
    def place(self) -> tuple[str, int, int]:
        return self.request.key, self.request.attempt, self.request.epoch


class SimulatedWorker:
    """A process on another machine that makes attempts."""

    def __init__(self, bus: Bus, name: str) -> None:
        self.bus = bus
        self.host = bus.world.host(name)
        self.errands: list[Errand] = []
        self.clock = bus.clock
        context = copy_context()
        context.run(HOST.set, self.host)
        self._transport = LocalTransport(bus.make, self.clock)
        self._lane: Lane = context.run(self._transport.lane)
        self._lives = bus.draw.choice((2, 5, 9, 20, 1_000, 1_000))

    def take(self, errand: Errand) -> None:
        if not self.host.alive:
            return  # it died with the message on its way: it is missed like all it was at
        bus = self.bus
        self._lives -= 1
        if self._lives <= 0 and not bus.world.calm:
            asyncio.get_running_loop().call_later(bus.draw.random() * 2, self.die)
        self._lane.submit(
            replace(errand.request),
            lambda fact: bus.send_back(errand, fact),
            lambda fact: bus.record(errand, fact),
        )

    def stop(self, errand: Errand) -> None:
        if self.host.alive:
            self._lane.stop(errand.request.run_id, errand.request.key)

    def die(self) -> None:
        """Stop in the middle of everything; it is missed some time later."""
        if not self.host.alive:
            return
        self.host.die()
        bus = self.bus
        bus.worker_deaths += 1
        bus.workers.remove(self)
        bus.hire()
        bus.tasks.append(asyncio.ensure_future(self._transport.close()))
        asyncio.get_running_loop().call_later(1.0 + 4.0 * bus.draw.random(), self.missed)

    def missed(self) -> None:
        """Answer for what it was at."""
        for errand in list(self.errands):
            self.bus.missed(errand)

    async def close(self) -> None:
        self.host.die()
        await self._transport.close()


class Bus:
    """The network and the workers on it. Outlives engines.

    Args:
        make: What makes an attempt on a worker.
    """

    def __init__(self, world: World, draw: Random, make: MakeAttempt, clock: Clock) -> None:
        self.world = world
        self.draw = draw
        self.make = make
        self.clock = clock
        self.worker_deaths = self.duplicates = self.late = 0
        self.tasks: list[asyncio.Future[Any]] = []
        self.workers: list[SimulatedWorker] = []
        self.errands: list[Errand] = []
        self.endpoint: dict[str, BusLane] = {}
        """By run, who hears of it now: what is said to an engine that is gone, the next one hears."""
        self._hired = 0
        self.kinds = draw.choice((("tool",), ("tool", "agent"), ("tool", "agent", "model", "replan")))
        """What is done on workers; all else is done where the engine is."""
        self._most_s = draw.choice((0.0, 0.01, 0.3, 2.0))
        """Seconds that a message takes at most, mostly."""
        for _ in range(draw.randint(1, 3)):
            self.hire()

    def hire(self) -> None:
        self._hired += 1
        self.workers.append(SimulatedWorker(self, f"worker {self._hired}"))

    def later(self, what: Callable[..., object], *given: Any) -> None:
        """Have a message arrive."""
        seconds = self.draw.random() * self._most_s
        if self.draw.random() < 0.03:
            seconds += 5.0 * self.draw.random()
        loop = asyncio.get_running_loop()
        if self.world.calm or seconds == 0.0:
            loop.call_later(0.0, what, *given)
        else:
            loop.call_later(seconds, what, *given)

    def has(self, step: str) -> bool:
        """Return whether an attempt of a step may still be made somewhere."""
        return any(
            errand.request.key == step and not errand.answered and (errand.worker is None or errand.worker.host.alive)
            for errand in self.errands
        )

    # --- there ---

    def send(self, errand: Errand) -> None:
        self.errands.append(errand)
        self.later(self._arrives, errand)

    def _arrives(self, errand: Errand) -> None:
        if errand.answered:
            return
        worker = self.draw.choice(self.workers)
        errand.worker = worker
        worker.errands.append(errand)
        worker.take(errand)
        if errand.stopping:
            worker.stop(errand)
        deadline_at = errand.request.deadline_at
        if deadline_at is not None:
            left_s = max(0.0, deadline_at - self.clock.now())
            asyncio.get_running_loop().call_later(
                left_s + GRACE_S, self._end, errand, FailureKind.TIMEOUT, "it took too long"
            )

    def stop(self, errand: Errand) -> None:
        errand.stopping = True
        self.later(self._stops, errand)
        asyncio.get_running_loop().call_later(
            GRACE_S + 6.0, self._end, errand, FailureKind.CANCELLED, "stopped, but it did not answer"
        )

    def _stops(self, errand: Errand) -> None:
        if errand.worker is not None:
            errand.worker.stop(errand)

    def _end(self, errand: Errand, kind: FailureKind, text: str) -> None:
        """Kill the worker that has an attempt; what else it was at is lost with it."""
        if errand.answered:
            return
        self._answer(errand, self.failed(errand, kind, f"{text}; its process was killed"))
        if errand.worker is not None:
            errand.worker.die()

    # --- and back ---

    def send_back(self, errand: Errand, fact: Fact) -> None:
        """Hear a worker: what it says arrives some time, perhaps twice."""
        if errand.worker is None or not errand.worker.host.alive:
            return
        ends = isinstance(fact, AttemptSucceeded | AttemptFailed)
        if not ends:
            self._comes(errand, fact)
            return
        self.later(self._comes, errand, fact)
        if not self.world.calm and self.draw.random() < 0.1:
            self.duplicates += 1
            asyncio.get_running_loop().call_later(3.0 * self.draw.random(), self._comes, errand, fact)

    def _comes(self, errand: Errand, fact: Fact) -> None:
        if isinstance(fact, AttemptSucceeded | AttemptFailed):
            if errand.answered:
                self.late += 1
            self._answer(errand, fact)
        else:
            errand.lane.tell(errand, fact)

    def missed(self, errand: Errand) -> None:
        kind = FailureKind.CANCELLED if errand.stopping else FailureKind.LOST
        if not errand.answered:
            self._answer(errand, self.failed(errand, kind, "its worker is gone"))

    def _answer(self, errand: Errand, fact: Fact) -> None:
        errand.answered = True
        if errand.worker is not None and errand in errand.worker.errands:
            errand.worker.errands.remove(errand)
        if errand in self.errands:
            self.errands.remove(errand)
        errand.lane.tell(errand, fact)

    def failed(self, errand: Errand, kind: FailureKind, text: str) -> AttemptFailed:
        now = self.clock.now()
        return AttemptFailed(*errand.place, kind, text, now, now)

    async def record(self, errand: Errand, fact: Fact) -> bool:
        return await errand.lane.record(errand, fact)

    async def close(self) -> None:
        for worker in list(self.workers):
            await worker.close()
        for task in self.tasks:
            await task


class BusTransport:
    """The transport of one engine: some kinds of step are done on workers, the others here."""

    def __init__(self, bus: Bus, host: Host, make: MakeAttempt, clock: Clock) -> None:
        self.bus = bus
        self.host = host
        self.clock = clock
        self._here = LocalTransport(make, clock)

    def lane(self) -> BusLane:
        return BusLane(self, self._here.lane())

    def is_elsewhere(self, kind: str) -> bool:
        return False  # workers have all that the engine was given

    def lacks(self, step: Step) -> str:
        return ""

    async def close(self) -> None:
        await self._here.close()


class BusLane:
    """The attempts of one run of one engine."""

    def __init__(self, transport: BusTransport, here: Lane) -> None:
        self._transport = transport
        self._bus = transport.bus
        self._here = here
        self._at: dict[str, Errand] = {}
        self._deliver: Deliver | None = None

    def submit(self, request: RunStep, deliver: Deliver, record: Record) -> None:
        if kind_of_work(request) not in self._bus.kinds:
            self._here.submit(request, deliver, record)
            return
        if not self._transport.host.alive:
            return
        known = self._at.get(request.key)
        if known is not None and not known.answered and known.place == (request.key, request.attempt, request.epoch):
            return
        self._deliver = deliver
        self._bus.endpoint[request.run_id] = self
        moved = replace(request, deadline_at=self._deadline_there(request))
        self._at[request.key] = errand = Errand(moved, self, deliver, record)
        self._bus.send(errand)

    def _deadline_there(self, request: RunStep) -> float | None:
        if request.deadline_at is None:
            return None
        return request.deadline_at - self._transport.clock.now() + self._bus.clock.now()

    def stop(self, run_id: str, key: str) -> None:
        self._here.stop(run_id, key)
        errand = self._at.get(key)
        if errand is not None and not errand.answered and not errand.stopping:
            self._bus.stop(errand)

    def close(self) -> None:
        self._here.close()

    def tell(self, errand: Errand, fact: Fact) -> None:
        """Hand on what a worker says; who is gone hears nothing, but whoever has the run now."""
        if self._transport.host.alive:
            errand.deliver(self._in_our_time(fact))
            return
        request, disk = errand.request, self._bus.world.disk
        if disk.place(request.run_id).engines.get(request.epoch) is not self._transport.host:
            return  # that it took the run up was never on record: another engine has, or will have, the same epoch
        heir = self._bus.endpoint.get(request.run_id)
        if heir is not None and heir is not self and heir._deliver is not None and heir._transport.host.alive:
            self._bus.late += 1
            heir._deliver(heir._in_our_time(fact))

    async def record(self, errand: Errand, fact: Fact) -> bool:
        if not self._transport.host.alive:
            await asyncio.get_running_loop().create_future()
        return await errand.record(self._in_our_time(fact))

    def _in_our_time(self, fact: Any) -> Any:
        """Return a fact as it is told by this engine's clock: it happened when it came, and took as long as it says."""
        now = self._transport.clock.now()
        moved = {"at": now}
        for name in ("started_at", "until"):
            moment = getattr(fact, name, None)
            if isinstance(moment, int | float):
                moved[name] = moment + (now - fact.at)
        return replace(fact, **moved)
