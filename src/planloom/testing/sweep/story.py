"""A run in a world, from its start to its end, over as many lives of its process as it takes.

Rule 1: a life is an engine of its own on the record that the one before left; what is called outlives them all.
Rule 2: what is on its way when the power is cut arrives: a call that began does what it does, and nobody hears of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from planloom.core.events import PauseRequested
from planloom.errors import RunNotFoundError
from planloom.journal.memory import MemoryJournal
from planloom.runtime.engine import Engine
from planloom.testing.loop import SimulatedClock
from planloom.testing.sweep.calls import CallBook
from planloom.testing.sweep.loop import PatientLoop
from planloom.testing.sweep.person import Person
from planloom.testing.sweep.power import Power
from planloom.tools.registry import ToolRegistry
from planloom.tools.tool import Tool

if TYPE_CHECKING:
    from planloom.core.result import RunResult
    from planloom.ports import Clock, Journal, Recorded
    from planloom.runtime.checks import PlanSource
    from planloom.runtime.run import Run
    from planloom.testing.sweep.calls import MadeCall
    from planloom.testing.sweep.person import Says
    from planloom.testing.sweep.point import Point, PointKind

RUN_ID = "r"
ARRIVES_S = 60.0
"""Seconds of the loop's time in which a call that is under way when the power is cut may still end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashWorld:
    """What a run acts on, made anew for every point.

    Attributes:
        tools: As an engine takes them.
        parts: What else an engine is made of (`models`, `agents`, `judges`, …), given the tools to hand on.
        look: What there is to be seen at the end; it must be as it is without a crash. None: nothing is looked at.
    """

    tools: Any
    parts: Callable[[Sequence[Tool]], Mapping[str, Any]] | None = None
    look: Callable[[], Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """How a run is told: with what, and what its surroundings are.

    Attributes:
        world: Makes the world, anew each time.
        prepare: What was there before the run, made with an engine that nothing happens to; None: nothing.
        begin: Begins the run, under the name RUN_ID; None: by `Engine.start`.
        options: Of `Engine.start`.
        answers, says: See `Person`.
        lag: Turns of the loop from a write to its acknowledgement.
        down_s: Seconds without power.
        journal: Makes what is on the disk.
        in_real_time: Whether tools wait for what the loop does not know of.
    """

    plan: PlanSource
    world: Callable[[], CrashWorld]
    inputs: Mapping[str, Any] | None = None
    prepare: Callable[[Engine], Awaitable[object]] | None = None
    begin: Callable[[Engine], Awaitable[Run]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    answers: Mapping[str, Any] = field(default_factory=dict)
    says: Callable[[], Says] | None = None
    lag: int = 1
    down_s: float = 1.0
    journal: Callable[[], Journal] = MemoryJournal
    in_real_time: bool = False


@dataclass(slots=True)
class Life:
    """What there was when a process began, and what was left.

    Attributes:
        before, after: The record.
        began_at: When, by the loop's time.
        called: How many calls had been made before it.
        reached: How often each port was used.
        was_cut: Whether its power was cut.
    """

    before: list[Recorded]
    began_at: float
    called: int
    after: list[Recorded] = field(default_factory=list)
    reached: Counter[PointKind] = field(default_factory=Counter)
    was_cut: bool = False


@dataclass(slots=True)
class Story:
    """What became of a run.

    Attributes:
        made: Every call of a tool, in order, over all lives.
        result: What it came to.
        seen: What `CrashWorld.look` saw at the end.
    """

    world: CrashWorld
    lives: list[Life]
    made: list[MadeCall]
    result: RunResult
    seen: Any = None

    @property
    def record(self) -> list[Recorded]:
        return self.lives[-1].after


async def told(staging: Staging, cuts: Sequence[Point] = (), *, undisturbed: RunResult | None = None) -> Story:
    """Tell the story of a run whose power is cut once for each of `cuts`, in one life after the other.

    A cut that is not reached is one that does not happen.

    Raises:
        DeadlockError: It neither ends nor waits for anything.
    """
    world = staging.world()
    disk = staging.journal()
    teller = _Teller(staging, world, disk, undisturbed)
    try:
        return await teller.tell([*cuts, None])
    finally:
        await disk.close()


class _Teller:
    def __init__(self, staging: Staging, world: CrashWorld, disk: Journal, undisturbed: RunResult | None) -> None:
        self._staging = staging
        self._world = world
        self._disk = disk
        self._book = CallBook(disk, RUN_ID, in_real_time=staging.in_real_time)
        says = None if staging.says is None else staging.says()
        self._person = Person(self._book, answers=staging.answers, says=says)
        self._person.undisturbed = undisturbed
        self._heard = 0
        self._grown = asyncio.Event()
        self._run: Run
        self._clock: Clock = SimulatedClock()
        tools = self._book.logged(ToolRegistry.of(world.tools).tools())
        parts = {} if world.parts is None else dict(world.parts(tools))
        self._parts = {"tools": tools} | parts

    async def tell(self, cuts: Sequence[Point | None]) -> Story:
        await self._prepared()
        lives: list[Life] = []
        for point in cuts:
            life = Life(await self._on_disk(), asyncio.get_running_loop().time(), len(self._book.made))
            lives.append(life)
            result = await self._lived(life, point)
            if result is not None:
                seen = None if self._world.look is None else self._world.look()
                return Story(self._world, lives, self._book.made, result, seen)
            await asyncio.sleep(self._staging.down_s)
        raise AssertionError("a process whose power is not cut lives on to the end of its run")

    async def _prepared(self) -> None:
        if self._staging.prepare is None:
            return
        self._book.gate = Power(None, self._disk, self._clock, lag=0)
        async with Engine(self._disk, clock=self._clock, **self._parts) as engine:
            await self._staging.prepare(engine)
        self._book.made.clear()

    async def _on_disk(self) -> list[Recorded]:
        try:
            return await self._disk.read(RUN_ID)
        except RunNotFoundError:
            return []

    async def _lived(self, life: Life, point: Point | None) -> RunResult | None:
        """Live until the run has ended, or the power is cut."""
        power = Power(point, self._disk, self._clock, lag=self._staging.lag)
        self._book.gate = power
        self._book.life += 1
        engine = Engine(power.journal, clock=power.clock(), transport=power.transport(self._book), **self._parts)
        async with engine:
            living = asyncio.ensure_future(self._to_the_end(engine, power, begins=not life.before))
            cut = asyncio.ensure_future(power.journal.stopped.wait())
            try:
                await asyncio.wait((living, cut), return_when=asyncio.FIRST_COMPLETED)
                if power.off:
                    await self._arrived()
                result = None if power.off else await living
            finally:
                for task in (living, cut):
                    task.cancel()
                await asyncio.gather(living, cut, return_exceptions=True)
        self._book.wait_for_threads()
        life.was_cut = power.off
        life.reached = power.reached
        life.reached["write"] = power.journal.writes
        life.after = await self._on_disk()
        return result

    async def _arrived(self) -> None:
        """Wait for what is on its way, as long as that has an end."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PatientLoop)
        until = loop.time() + ARRIVES_S
        while loop.calls and loop.time() < until:  # noqa: ASYNC110 - how many there are is no event
            await asyncio.sleep(0.1)

    async def _to_the_end(self, engine: Engine, power: Power, *, begins: bool) -> RunResult:
        staging = self._staging
        if begins and staging.begin is not None:
            self._run = await staging.begin(engine)
        elif begins:
            self._run = await engine.start(staging.plan, staging.inputs, run_id=RUN_ID, **staging.options)
        else:
            self._run = await engine.resume(RUN_ID)
        hearing = asyncio.ensure_future(self._hear(engine, power))
        breaking = asyncio.ensure_future(self._break())
        try:
            await asyncio.wait((hearing, breaking), return_when=asyncio.FIRST_COMPLETED)
            if not hearing.done():
                breaking.result()
            await hearing
            return await self._run.result()
        finally:
            for task in (hearing, breaking):
                task.cancel()
            await asyncio.gather(hearing, breaking, return_exceptions=True)

    async def _hear(self, engine: Engine, power: Power) -> None:
        """Follow the record to its end, and have the person say what there is to be said."""
        async for entry in self._disk.follow(RUN_ID, after=self._heard):
            self._heard = entry.seq
            self._grown.set()
            await self._person.hear(entry.event, power.journal, RUN_ID, self._clock.now())
            if isinstance(entry.event, PauseRequested):
                await self._run.result()
                await engine.release(RUN_ID)
                self._run = await engine.resume(RUN_ID)

    async def _break(self) -> NoReturn:
        """Wait for what breaks the run, and raise it."""
        while True:
            await self._run.result()
            self._grown.clear()
            await self._grown.wait()
