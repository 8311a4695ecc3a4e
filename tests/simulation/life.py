"""One life: a plan, an engine that dies again and again, a disk, workers and people; until all faults stop.

Rule 1: the seed decides everything. A life is lived on one simulated loop, from an empty disk.
Rule 2: an engine that dies is killed: nothing of it happens any more, and nobody hears of it. Its successor knows what
is on the disk.
Rule 3: when the faults stop, the run must come to its end; people then answer everything that is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from planloom import Engine
from planloom.agents.roster import AgentRegistry
from planloom.core.result import RunResult, RunStatus
from planloom.errors import JournalError, SimulationError
from planloom.runtime.run import Run
from planloom.runtime.settings import Settings
from planloom.runtime.wiring import catalogue_of, wire
from planloom.testing.clock import NOON
from planloom.testing.loop import SimulatedClock, run
from tests.simulation.bus import Bus, BusTransport
from tests.simulation.dice import Dice
from tests.simulation.disk import Disk, SimulatedJournal
from tests.simulation.people import People
from tests.simulation.plans import random_plan
from tests.simulation.world import AGENTS, HOST, MODELS, TOOLS, Host, World

if TYPE_CHECKING:
    from planloom.ports import Clock, MakeAttempt, Transport

FAULTS_S = 90.0
"""Virtual seconds after which all faults stop, at the latest."""
REST_S = 1_500.0
"""Virtual seconds that a run has to end then."""
MOST_LIVES = 6
MAX_TURNS = 400_000
FATES = ("lives on", "at a time", "at a time", "before a write", "after a write", "before a write", "after a write",
         "at a call", "after an effect", "closes", "loses the run")  # fmt: skip


@dataclass
class Life:
    """What became of a seed.

    Attributes:
        told: What the run's owner was told that it came to.
        stuck: Why the run neither ended nor waits for anybody; "" if it does.
        unheard: What went wrong where nobody could hear of it: in a callback, or a task that nobody waits for.
        counts: How often what happened.
    """

    seed: int
    plan: dict[str, Any]
    disk: Disk
    world: World
    people: People
    bus: Bus | None
    told: list[RunResult] = field(default_factory=list)
    stuck: str = ""
    unheard: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def live(seed: int) -> Life:
    """Live a seed's life."""
    logger, holder = logging.getLogger("planloom"), list[Life]()
    before = logger.level
    logger.setLevel(logging.CRITICAL)  # of broken disks and late answers there is no end
    try:
        return run(_live(seed, holder), seed=seed, max_turns=MAX_TURNS)
    except SimulationError as error:
        if not holder:
            raise
        holder[0].stuck = error.message
        return holder[0]
    finally:
        logger.setLevel(before)


async def _live(seed: int, holder: list[Life]) -> Life:
    dice = Dice(seed)
    draw = dice.of("life")
    disk = Disk()
    world = World(dice, disk)
    clock = SimulatedClock()
    plan = random_plan(dice.of("plan"))
    bus = Bus(world, dice.of("bus"), _make_there(clock), clock) if draw.random() < 0.6 else None
    desk = SimulatedJournal(disk, world.host("desk"), dice.of("desk"))
    people = People(world, disk, bus, desk, clock, dice.of("people"), says_no=draw.choice((0.0, 0.2, 0.5)))
    life = Life(seed, plan, disk, world, people, bus)
    holder.append(life)
    asyncio.get_running_loop().set_exception_handler(lambda _, told: life.unheard.append(_unheard(told)))
    others = [asyncio.ensure_future(people.live())]
    if draw.random() < 0.15:
        others.append(asyncio.ensure_future(people.cancel(20.0 * draw.random())))
    if draw.random() < 0.15:
        others.append(asyncio.ensure_future(people.pause(20.0 * draw.random())))
    others.append(asyncio.ensure_future(_trouble(world, dice.of("trouble"))))
    try:
        async with asyncio.timeout(FAULTS_S + REST_S):
            await _Engines(life, draw).last()
    except TimeoutError:
        life.stuck = f"no end {REST_S:g} s after the last fault"
    finally:
        for one in others:
            one.cancel()
        if bus is not None:
            await bus.close()
            life.counts.update(worker_deaths=bus.worker_deaths, duplicates=bus.duplicates, late=bus.late)
        life.counts.update(answers=people.answers, virtual_s=int(asyncio.get_running_loop().time()))
    return life


def _unheard(told: dict[str, Any]) -> str:
    error = told.get("exception")
    return f"{told['message']}: {type(error).__name__}: {error}"


async def _trouble(world: World, draw: Random) -> None:
    """Have the disk break, or get stuck, for a while, now and then."""
    if draw.random() < 0.6:
        return
    disk = world.disk
    while not world.calm:
        await asyncio.sleep(15.0 * draw.random())
        disk.is_broken = draw.random() < 0.5
        disk.is_stuck = not disk.is_broken
        await asyncio.sleep(3.0 * draw.random())
        disk.is_broken = disk.is_stuck = False


def _make_there(clock: Clock) -> MakeAttempt:
    settings, roster = Settings(), AgentRegistry.of(AGENTS)
    models = catalogue_of(settings, roster.models() | MODELS, clock)
    return wire(TOOLS, settings, clock, models, agents=roster).attempts


class _Engines:
    """The engines of one life, one after the other."""

    def __init__(self, life: Life, draw: Random) -> None:
        self._life = life
        self._draw = draw
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._parallel = draw.random() < 0.9
        self._ghosts: list[asyncio.Task[None]] = []

    async def last(self) -> None:
        """Have one engine after the other drive the run, until it has ended."""
        life = self._life
        while True:
            self._number += 1
            if self._number > MOST_LIVES or self._loop.time() > FAULTS_S:
                await self._calm_down()
            over = await self._one()
            if over:
                break
            if self._draw.random() < 0.5:
                await asyncio.sleep(10.0 * self._draw.random())
        for ghost in self._ghosts:
            await ghost
        life.counts["lives"] = self._number

    async def _calm_down(self) -> None:
        life = self._life
        life.world.calm = True
        life.people.prompt = True

    async def _one(self) -> bool:
        """Let one engine live; return whether the run has ended."""
        process = _Process(self._life, self._draw, self._loop, self._number)
        if self._number > 1:
            self._life.counts["restarts"] += 1
        working = asyncio.get_running_loop().create_task(process.work(parallel=self._parallel), context=process.context)
        fate = asyncio.ensure_future(process.over.wait())
        await asyncio.wait((working, fate), return_when=asyncio.FIRST_COMPLETED)
        fate.cancel()
        self._life.people.run = None
        if working.done():
            await process.end(working)
            return working.result()
        if process.lingers:
            self._life.counts["rivals"] += 1
            process.journal.let_go()
            self._ghosts.append(asyncio.ensure_future(process.haunt(working, 5.0 * self._draw.random())))
        else:
            await process.end(working)
        return False


class _Process:
    """One engine from its start to its death.

    Attributes:
        over: Set when its end has come, while the run goes on.
        lingers: It lost the run to somebody else, and goes on until it hears of that.
    """

    def __init__(self, life: Life, draw: Random, loop: asyncio.AbstractEventLoop, number: int) -> None:
        self._life = life
        self._draw = draw
        self._loop = loop
        self.host: Host = life.world.host(f"engine {number}")
        self.journal = SimulatedJournal(life.disk, self.host, life.world.dice.of("journal", number))
        self.over = asyncio.Event()
        self.lingers = False
        self.context = copy_context()
        self.context.run(HOST.set, self.host)
        self._engine: Engine | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._settle_fate()

    # --- how it ends ---

    def _settle_fate(self) -> None:
        draw, life = self._draw, self._life
        if life.world.calm:
            return
        self._timers.append(self._loop.call_later(FAULTS_S, self._calm))
        fate = draw.choice(FATES)
        life.counts[fate] += 1
        if fate in ("at a time", "closes", "loses the run"):
            seconds = draw.choice((0.05, 1.0, 5.0, 20.0)) * draw.random()
            self._timers.append(self._loop.call_later(seconds, self._end_of, fate))
        elif fate in ("before a write", "after a write"):
            self._cut_at(fate.split()[0], draw.choice((3, 10, 40)))
        elif fate in ("at a call", "after an effect"):
            self._watch(fate, draw.choice((1, 3, 8)))

    def _calm(self) -> None:
        self._life.world.calm = True
        self._life.people.prompt = True

    def _end_of(self, fate: str) -> None:
        if self._life.world.calm:
            return
        self.lingers = fate == "loses the run"
        if not self.lingers and fate != "closes":
            self._life.counts["crashes"] += 1
            self.host.die()
        self.over.set()

    def _cut_at(self, place: str, most: int) -> None:
        left = self._draw.randint(1, most)

        def wrote(where: str) -> None:
            nonlocal left
            left -= where == place
            if left == 0:
                left = -1
                self._end_of("at a write")

        self.journal.on_write = wrote

    def _watch(self, fate: str, most: int) -> None:
        """Die when so many calls have begun, or so many effects have happened, while it lived."""
        world, number = self._life.world, self._draw.randint(1, most)
        seen: list[Any] = world.calls if fate == "at a call" else world.effects
        wanted = len(seen) + number

        def look() -> None:
            if len(seen) >= wanted:
                self._end_of(fate)
            elif not self.over.is_set():
                self._timers.append(self._loop.call_later(0.05, look))

        look()

    async def end(self, working: asyncio.Task[bool]) -> None:
        """Let go of everything; of one that was killed, nothing is left but to clear up."""
        for timer in self._timers:
            timer.cancel()
        if not self.host.alive:
            self.journal.let_go()
        if not working.done():
            working.cancel()
        await asyncio.wait((working,))
        if self._engine is not None:
            closing = self._loop.create_task(self._engine.close(), context=self.context)
            await asyncio.wait(
                (closing, asyncio.ensure_future(self.host.died.wait())),
                timeout=60.0,
                return_when=asyncio.FIRST_COMPLETED if self.host.alive else asyncio.ALL_COMPLETED,
            )
            if not closing.done():
                self._life.counts["did not close"] += 1
                self.host.die()
                closing.cancel()
            with suppress(asyncio.CancelledError, JournalError):
                await closing
        self.host.die()
        self.journal.let_go()

    async def haunt(self, working: asyncio.Task[bool], seconds: float) -> None:
        """Go on without the run, and die some time later."""
        await asyncio.wait((working,), timeout=seconds)
        self.host.die()
        await self.end(working)

    # --- what it does ---

    def _transport(self, make: MakeAttempt, clock: Clock) -> Transport:
        assert self._life.bus is not None
        return BusTransport(self._life.bus, self.host, make, clock)

    async def work(self, *, parallel: bool) -> bool:
        """Drive the run as long as it goes; return whether it has ended."""
        life = self._life
        skew_s = 0.0 if self._draw.random() < 0.5 else self._draw.uniform(-30.0, 30.0)
        self._engine = engine = Engine(
            self.journal,
            tools=TOOLS,
            models=MODELS,
            agents=AGENTS,
            transport=None if life.bus is None else self._transport,
            clock=SimulatedClock(NOON + self._loop.time() + skew_s),
        )
        try:
            if life.disk.has("r"):
                owned = await engine.resume("r")
            else:
                owned = await engine.start(life.plan, run_id="r", parallel=parallel)
            life.people.run = owned
            return await self._until_it_ends(owned)
        except JournalError:
            return False

    async def _until_it_ends(self, owned: Run) -> bool:
        life = self._life
        while True:
            result = await owned.result()
            if result.status is not RunStatus.WAITING:
                life.told.append(result)
                return True
            if owned.state_now().status is RunStatus.WAITING and not result.blocked:
                return False  # somebody paused it: whoever comes next resumes it
            await asyncio.sleep(1.0)
