"""A power cut at every write of runs of every shape: after the restart nothing is missing and nothing came twice.

Rule: what a run comes to is what it would have come to without the cut; what is on record is not done again.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest

from planloom import Effects, Engine, MemoryJournal
from planloom.core.events import AttemptFailed, AttemptSucceeded, OutcomeUnknown
from planloom.core.result import RunResult, StepResult
from planloom.ports import Recorded
from planloom.runtime.replay import diverges
from planloom.testing.clock import ManualClock
from planloom.testing.crash import CrashingJournal, Spoil
from tests.crash.shapes import SHAPES, World, bounded, driven, plan_of, undisturbed

DOWN_S = 3_600.0
"""How long the power stays off."""
LAGS = (0, 1, 7)
FEW = ("chain", "map of sub-plans", "retries", "approvals", "failing, with clean-up", "timeouts")


def told(result: RunResult) -> dict[str, Any]:
    """Return what a run came to, without times and numbers of attempts."""

    def of(step: StepResult) -> Any:
        return step.status.value, step.output, step.skip_reason, [of(part) for part in step.parts]

    return {"status": result.status, "output": result.output} | {step.id: of(step) for step in result.steps}


async def whole(shape: str, lag: int) -> tuple[dict[str, Any], int]:
    """Return what the run comes to when nothing happens to it, and how many writes it takes."""
    clock, world = ManualClock(), World()
    journal = CrashingJournal(MemoryJournal(), lag=lag)
    result = await undisturbed(shape, journal, clock, world)
    return told(result), journal.writes


async def cut(shape: str, at: int, how: Spoil, lag: int, expected: dict[str, Any]) -> int:
    """Cut the power at one write, restart, and look at everything; return how many outcomes were unknown."""
    where = f"{shape}: write {at}, {how}, lag {lag}"
    clock, world, disk = ManualClock(), World(), MemoryJournal()
    world.disk = disk
    journal = CrashingJournal(disk, at=at, how=how, lag=lag)
    async with Engine(journal, tools=world.tools(), clock=clock) as engine:
        ended = await driven(engine.start(plan_of(shape), run_id="r"), clock, world, until=journal.stopped)
    assert ended is None, f"{where}: the run ended before the power was cut"
    if not await disk.runs():
        assert how is Spoil.BEFORE, f"{where}: the run is gone"
        assert at == 1 or lag > 1, f"{where}: the run is gone"
        assert all(done.tool in ("pure", "picky", "endless") for done in world.log), f"{where}: effects of no run"
        return 0
    before, called = await disk.read("r"), len(world.log)

    clock.advance(DOWN_S)
    async with Engine(disk, tools=world.tools(), clock=clock) as engine:
        result = await driven(engine.resume("r"), clock, world)

    assert result is not None
    assert told(result) == expected, where
    record = await disk.read("r")
    look(where, before, world, called, record)
    return sum(isinstance(entry.event, OutcomeUnknown) for entry in record)


def look(where: str, before: list[Recorded], world: World, called: int, record: list[Recorded]) -> None:
    assert record[: len(before)] == before, f"{where}: the record changed"
    assert [entry.seq for entry in record] == list(range(1, len(record) + 1)), where
    ends = [entry.event for entry in before if isinstance(entry.event, AttemptSucceeded | AttemptFailed)]
    on_record = {(event.step, event.attempt) for event in ends}
    again = [done for done in world.log[called:] if (done.step, done.attempt) in on_record]
    assert again == [], f"{where}: made again although it is on record"
    completed = {event.step for event in ends if isinstance(event, AttemptSucceeded)}
    assert [done for done in world.log[called:] if done.step in completed] == [], where
    paid = [done.key for done in world.log if done.tool == "pay"]
    assert len(paid) == len(set(paid)), f"{where}: a once tool was called twice"
    assert world.unrecorded == [], f"{where}: an effect whose start was not on record"
    assert diverges("r", record) is None, where
    times = [entry.event.at for entry in record]
    assert times == sorted(times), f"{where}: time goes back in the record"


async def every_point(shape: str, lags: tuple[int, ...]) -> tuple[int, int]:
    """Cut a shape everywhere; return the number of points and of unknown outcomes."""
    points = unknown = 0
    for lag in lags:
        expected, writes = await whole(shape, lag)
        for at in range(1, writes + 1):
            for how in (Spoil.BEFORE, Spoil.AFTER):
                if how is Spoil.AFTER and at == writes:
                    continue  # the run has ended on the disk: nothing is left to resume
                unknown += await cut(shape, at, how, lag, expected)
                points += 1
    return points, unknown


@pytest.mark.slow
@pytest.mark.parametrize("shape", FEW)
def test_run_survives_a_power_cut_at_any_write(shape: str) -> None:
    points, _ = bounded(every_point(shape, (1,)))

    assert points > 5


@pytest.mark.crash
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_survives_a_power_cut_at_any_write_at_any_lag(shape: str) -> None:
    points, unknown = bounded(every_point(shape, LAGS))

    sys.stdout.write(f"{shape}: cut at {points} points, {unknown} outcomes unknown\n")
    assert points > 5


async def once_more(shape: str) -> None:
    """Cut the power, restart, cut it again at each write of the second life, restart."""
    expected, writes = await whole(shape, 1)
    for first in range(2, writes, 3):
        for second in range(1, 8):
            clock, world, disk = ManualClock(), World(), MemoryJournal()
            world.disk = disk
            called: int
            for at in (first, second, None):
                journal = CrashingJournal(disk, at=at, how=Spoil.AFTER, lag=1)
                async with Engine(journal, tools=world.tools(), clock=clock) as engine:
                    known = bool(await disk.runs())
                    before, called = (await disk.read("r") if known else []), len(world.log)
                    starting = engine.resume("r") if known else engine.start(plan_of(shape), run_id="r")
                    result = await driven(starting, clock, world, until=journal.stopped)
                    if result is not None:
                        break
                clock.advance(DOWN_S)
            assert result is not None
            assert told(result) == expected, f"{shape}: writes {first} and {second}"
            look(f"{shape}: writes {first} and {second}", before, world, called, await disk.read("r"))


@pytest.mark.crash
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_survives_two_power_cuts(shape: str) -> None:
    bounded(once_more(shape))


def test_limits_hold_over_a_power_cut() -> None:
    async def main() -> int:
        clock, world, disk = ManualClock(), World(), MemoryJournal()
        journal = CrashingJournal(disk, at=4, how=Spoil.AFTER, lag=1)
        async with Engine(journal, tools=world.tools(), clock=clock) as engine:
            await driven(engine.start(plan_of("limits"), run_id="r"), clock, world, until=journal.stopped)
        async with Engine(disk, tools=world.tools(), clock=clock) as engine:
            await driven(engine.resume("r"), clock, world)
        return world.peak

    assert bounded(main()) == 2


def test_every_shape_has_steps_of_effects_that_matter() -> None:
    used = {tool.name: tool.effects for tool in World().tools()}

    assert set(used.values()) == set(Effects)
    assert len(SHAPES) >= 12
