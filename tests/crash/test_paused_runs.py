"""Runs that are paused at any write, and lose their power at any write after it: nothing starts until they are resumed.

Rule: paused or not, cut or not, a run comes to the same.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import pytest

from planloom import Engine, MemoryJournal
from planloom.core.events import PauseRequested, RunResumed, StepDispatched, StepExpanded, SubPlanStarted
from planloom.errors import ConfigError
from planloom.ports import Recorded
from planloom.runtime.run import Run
from planloom.testing.clock import ManualClock
from planloom.testing.crash import Spoil
from planloom.testing.sweep.findings import come_to
from tests.crash.inner_shapes import InnerWorld, plan_inside
from tests.crash.looking import Whole, books, look, look_inside, whole
from tests.crash.shape import DOWN_S
from tests.crash.shapes import bounded, driven
from tests.crash.test_cancel_anywhere import CancelsAt

FEW = ("agent", "map of agents", "agents of another kind")


@dataclass
class Pausing:
    """One run that is paused once, and taken up again by the same engine."""

    engine: Engine
    journal: CancelsAt

    async def started(self, run: Whole, at: int) -> Run:
        """Start it, pause it once so many writes were made, wait until it rests, and resume it."""
        begun = await self.engine.start(run.plan, run_id="r")
        waiter = asyncio.ensure_future(self.journal.wait_for_write(at))
        ended = asyncio.ensure_future(begun.result())
        await asyncio.wait({waiter, ended}, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        ended.cancel()
        with suppress(ConfigError):
            await begun.pause(by="a person")
        await begun.result()
        await self.engine.release("r")
        return await self.engine.resume("r")


def look_at_pauses(where: str, record: list[Recorded]) -> int:
    """See that nothing starts in a pause; return how many there were."""
    paused, pauses = False, 0
    for entry in record:
        event = entry.event
        if isinstance(event, PauseRequested | RunResumed):
            paused = isinstance(event, PauseRequested)
            pauses += paused
        starts = isinstance(event, StepDispatched | StepExpanded | SubPlanStarted)
        assert not (paused and starts), f"{where}: it started in a pause: {event}"
    return pauses


async def paused(run: Whole, at: int, cut: tuple[int, Spoil] | None) -> int:
    where = f"{run.plan['name']}: paused at write {at}, cut at {cut}"
    clock, disk = ManualClock(), MemoryJournal()
    world = InnerWorld(disk=disk, expected=run.outputs)
    journal = CancelsAt(disk, at=None if cut is None else cut[0], how=Spoil.AFTER if cut is None else cut[1], lag=1)
    async with Engine(journal, clock=clock, **world.parts()) as engine:
        starting = Pausing(engine, journal).started(run, at)
        result = await driven(starting, clock, world, until=journal.stopped)
    before, called = await disk.read("r"), len(world.log)
    if result is None:
        clock.advance(DOWN_S)
        async with Engine(disk, clock=clock, **world.parts()) as engine:
            result = await driven(engine.resume("r"), clock, world)
    assert result is not None
    record = await disk.read("r")
    look(where, before, world, called, record)
    look_inside(where, before, world, called, record)
    assert come_to(result) == run.expected, where
    books(where, world, record, result)
    return look_at_pauses(where, record)


@pytest.mark.slow
@pytest.mark.parametrize("shape", FEW)
def test_a_run_that_is_paused_at_any_write_comes_to_the_same(shape: str) -> None:
    async def main() -> tuple[int, int]:
        run = await whole(plan_inside(shape), 1, InnerWorld())
        return sum([await paused(run, at, None) for at in range(1, run.writes)]), run.writes

    pauses, writes = bounded(main())

    assert pauses > writes // 2


@pytest.mark.crash
@pytest.mark.parametrize("shape", FEW)
def test_a_paused_run_survives_a_power_cut_at_any_write_after_it(shape: str) -> None:
    async def main() -> int:
        run, pauses = await whole(plan_inside(shape), 1, InnerWorld()), 0
        for at in range(1, run.writes):
            for more in (1, 2, 4):
                for how in (Spoil.BEFORE, Spoil.AFTER):
                    pauses += await paused(run, at, (at + more, how))
        return pauses

    assert bounded(main()) > 10
