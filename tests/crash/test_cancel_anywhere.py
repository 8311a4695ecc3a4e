"""A cancel at every write of runs of every shape, with and without a power cut soon after.

Rule: from `RunStopping` on nothing new starts, the run ends, and it ends as what the stop said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import pytest

from planloom import ConfigError, Engine, MemoryJournal, RunStatus
from planloom.core.events import CancelRequested, RunFinished, RunStopping, StepDispatched, StepExpanded, SubPlanStarted
from planloom.core.result import ENDED
from planloom.observe.looks import every_step
from planloom.ports import Recorded
from planloom.runtime.replay import diverges
from planloom.runtime.run import Run
from planloom.testing.clock import ManualClock
from planloom.testing.crash import CrashingJournal, Spoil
from tests.crash.inner_shapes import INSIDE, InnerWorld, plan_inside
from tests.crash.looking import whole
from tests.crash.shapes import SHAPES, World, bounded, driven, plan_of

SOME = ("agent", "map of agents", "agent in a sub-plan", "agents of another kind", "agents within limits")
"""Shapes with calls inside their steps."""


def any_plan(shape: str) -> dict[str, Any]:
    return plan_inside(shape) if shape in INSIDE else plan_of(shape)


def world_of(shape: str) -> World:
    return InnerWorld() if shape in INSIDE else World()


class CancelsAt(CrashingJournal):
    """Calls somebody at a write, a little later, as a person would come in between."""

    async def wait_for_write(self, number: int) -> None:
        while self.writes < number:
            await asyncio.sleep(0)


async def cancel(starting: Awaitable[Run]) -> None:
    """Cancel a run as soon as there is one in hand, unless it has ended."""
    with suppress(ConfigError):
        await (await starting).cancel(by="a person")


def look(where: str, record: list[Recorded]) -> None:
    events = [entry.event for entry in record]
    stops = [place for place, event in enumerate(events) if isinstance(event, RunStopping)]
    assert isinstance(events[-1], RunFinished), where
    if not stops:
        return
    started = [
        event
        for event in events[stops[0] :]
        if isinstance(event, StepDispatched | StepExpanded | SubPlanStarted) and event.step != "clean"
    ]
    assert started == [], f"{where}: started although the run was stopping"
    stop = events[stops[-1]]
    assert isinstance(stop, RunStopping)
    assert events[-1].status is stop.status, where
    assert diverges("r", record) is None, where


async def cancelled(shape: str, at: int, cut: int | None) -> None:
    where = f"{shape}: cancelled at write {at}, cut at {cut}"
    clock, world, disk = ManualClock(), world_of(shape), MemoryJournal()
    world.disk = disk
    journal = CancelsAt(disk, at=None if cut is None else at + cut, how=Spoil.AFTER, lag=1)
    result = None
    async with Engine(journal, clock=clock, **world.parts()) as engine:
        starting = asyncio.ensure_future(engine.start(any_plan(shape), run_id="r"))
        waiter = asyncio.create_task(journal.wait_for_write(at))
        driving = asyncio.create_task(driven(starting, clock, world, until=journal.stopped))
        await asyncio.wait({waiter, driving}, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        cancelling = asyncio.create_task(cancel(asyncio.shield(starting)))
        result = await driving
        cancelling.cancel()  # without power it is never taken
    if result is None:
        clock.advance(3_600)
        async with Engine(disk, clock=clock, **world.parts()) as engine:
            result = await driven(engine.resume("r"), clock, world)
    assert result is not None
    record = await disk.read("r")
    look(where, record)
    if any(isinstance(entry.event, CancelRequested) for entry in record):
        assert result.status is RunStatus.CANCELLED, where
    for step in every_step(result.steps):
        assert step.status in ENDED, f"{where}: {step.id} is {step.status}"
    paid = [done.key for done in world.log if done.tool == "pay"]
    assert len(paid) == len(set(paid)), where
    assert world.unrecorded == [], where


async def everywhere(shape: str, cuts: tuple[int | None, ...]) -> int:
    writes = (await whole(any_plan(shape), 1, world_of(shape))).writes
    for at in range(1, writes):
        for cut in cuts:
            await cancelled(shape, at, cut)
    return writes * len(cuts)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [*SHAPES, *SOME])
def test_a_cancel_at_any_write_ends_the_run_and_starts_nothing(shape: str) -> None:
    assert bounded(everywhere(shape, (None,))) > 3


@pytest.mark.crash
@pytest.mark.parametrize("shape", [*SHAPES, *SOME])
def test_a_cancel_survives_a_power_cut_right_after_it(shape: str) -> None:
    assert bounded(everywhere(shape, (1, 2, 3))) > 3
