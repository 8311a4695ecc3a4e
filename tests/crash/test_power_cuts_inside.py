"""A power cut at every write of runs whose steps make calls of their own: agents, programs, agents of another kind.

Rule: on top of what every run keeps to: a call on record is not made again, what may happen once happens once, what of
that nobody knows waits for a person, and whatever is on record is paid for on record, once and in full.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from planloom import Engine, MemoryJournal, RunStatus
from planloom.agents.reasoning import Reasoner
from planloom.core.chat import ModelCall
from planloom.core.events import CallEnded, CallStarted, OutcomeUnknown, RunStarted, StepDispatched
from planloom.core.result import RunResult
from planloom.observe.looks import every_step
from planloom.ports import Recorded
from planloom.testing.clock import ManualClock
from planloom.testing.crash import CrashingJournal, Spoil
from planloom.testing.models import FunctionModel
from tests.crash.inner_shapes import (
    INSIDE,
    PUT_USD,
    InnerWorld,
    answered_on_record,
    ended_calls,
    is_program,
    open_calls,
    plan_inside,
    true_usd,
)
from tests.crash.shapes import bounded, driven
from tests.crash.test_power_cuts import DOWN_S, look, told

FEW = ("agent", "agent that has trouble", "agents of another kind")
LAGS = (0, 1, 7)
ONCE = frozenset({"a", "end", "paid"})
"""Steps of the shapes that may be done only once as a whole; `end` may be one."""
Cuts = list[tuple[int, Spoil]]


@dataclass(frozen=True)
class Whole:
    """A run that nothing happens to.

    Attributes:
        expected: What it comes to; `outputs`: and each of its steps.
        asked: How often each question is asked.
        writes: How many writes it takes.
    """

    plan: dict[str, Any]
    lag: int
    expected: dict[str, Any]
    outputs: dict[str, Any]
    asked: Counter[str]
    writes: int


async def whole(plan: dict[str, Any], lag: int) -> Whole:
    clock, disk = ManualClock(), MemoryJournal()
    world = InnerWorld(disk=disk, in_real_time=is_program(plan))
    journal = CrashingJournal(disk, lag=lag)
    async with Engine(journal, clock=clock, **world.parts()) as engine:
        result = await driven(engine.start(plan, run_id="r"), clock, world)
    assert result is not None
    books("undisturbed", world, await disk.read("r"), result)
    assert (result.cost_usd or 0.0) == pytest.approx(true_usd(world))
    outputs = {step.id: step.output for step in every_step(result.steps)}
    return Whole(plan, lag, told(result), outputs, Counter(one.what for one in world.asked), journal.writes)


async def lived(where: str, run: Whole, cuts: Cuts) -> int:
    """Cut the power as often as `cuts` says, restart each time, look at everything; return the unknown outcomes."""
    clock, disk = ManualClock(), MemoryJournal()
    world = InnerWorld(disk=disk, in_real_time=is_program(run.plan), expected=run.outputs)
    for at, how in [*cuts, (None, Spoil.AFTER)]:
        journal = CrashingJournal(disk, at=at, how=how, lag=run.lag)
        known = bool(await disk.runs())
        before, called, asked = (await disk.read("r") if known else []), len(world.log), len(world.asked)
        async with Engine(journal, clock=clock, **world.parts()) as engine:
            starting = engine.resume("r") if known else engine.start(run.plan, run_id="r")
            result = await driven(starting, clock, world, until=journal.stopped)
        now = await disk.read("r") if await disk.runs() else []
        if now:
            look(where, before, world, called, now)
            again = Counter(one.what for one in world.asked[asked:]) - (run.asked - answered_on_record(before))
            assert not again, f"{where}: asked again although the answer is on record"
            look_inside(where, before, world, called, now)
        else:
            world.forget()
        if result is not None:
            break
        clock.advance(DOWN_S)
    assert result is not None
    assert told(result) == run.expected, where
    books(where, world, now, result)
    return sum(isinstance(entry.event, OutcomeUnknown) for entry in now)


def look_inside(where: str, before: list[Recorded], world: InnerWorld, called: int, now: list[Recorded]) -> None:
    """Look at the calls inside of attempts that were made in one life of a run.

    Args:
        before: The record when it began; `now`: when it ended.
        called: How many calls of tools there were before it.
    """
    ended = {
        f"r/{step}/{key}"
        for (step, key), call in ended_calls(before).items()
        if call.kind == "tool" and (call.error is None or call.name == "lose")
    }
    assert [done for done in world.log[called:] if done.key in ended] == [], f"{where}: called again though on record"
    if len(now) > len(before):
        asked_for = {entry.event.step for entry in now if isinstance(entry.event, OutcomeUnknown)}
        assert {step for step, _ in open_calls(before)} <= asked_for, f"{where}: nobody is asked what came of it"
    for place, entry in enumerate(now):
        event = entry.event
        if isinstance(event, OutcomeUnknown) and event.step.partition("[")[0] not in ONCE:
            assert event.step in {step for step, _ in open_calls(now[:place])}, f"{where}: asked for nothing"


def books(where: str, world: InnerWorld, record: list[Recorded], result: RunResult) -> None:
    """Compare what the record says was paid with what was."""
    events = [entry.event for entry in record]
    calls = [event for event in events if isinstance(event, CallEnded)]
    costs = {one.what: one.usd for one in world.asked}
    for call in calls:
        if call.kind == "model" and call.error is None:
            assert call.cost_usd == pytest.approx(costs[call.output["metadata"]["asked"]]), where
    kinds = {step.id: step.kind for step in every_step(result.steps)}
    alone = [event.step for event in events if isinstance(event, StepDispatched) and kinds[event.step] == "tool"]
    recorded = sum(call.cost_usd or 0.0 for call in calls) + PUT_USD * sum(key.endswith("/x") for key in alone)
    booked = result.cost_usd or 0.0
    started = events[0]
    assert isinstance(started, RunStarted)
    if (
        started.limits is not None and started.limits.max_total_cost_usd is not None
    ):  # with a budget, what was under way counts as what it needed at most
        assert recorded - 1e-9 <= booked
        assert true_usd(world) <= booked + 1e-9, f"{where}: more was paid than is on record"
    else:
        assert booked == pytest.approx(recorded), where
        assert recorded <= true_usd(world) + PUT_USD * len(alone) + 1e-9, where
    ended = {(call.step, call.attempt, call.key) for call in calls}
    begun = {(event.step, event.attempt, event.key) for event in events if isinstance(event, CallStarted)}
    # What began and is not known to have ended counts as made.
    assert result.tool_calls == sum(call.tool_calls for call in calls) + len(alone) + len(begun - ended), where


async def every_point(shape: str, lags: tuple[int, ...]) -> tuple[int, int]:
    """Cut a shape everywhere; return the number of points and of unknown outcomes."""
    points = unknown = 0
    for lag in lags:
        run = await whole(plan_inside(shape), lag)
        for at in range(1, run.writes + 1):
            for how in (Spoil.BEFORE, Spoil.AFTER):
                if how is Spoil.AFTER and at == run.writes:
                    continue  # the run has ended on the disk: nothing is left to resume
                unknown += await lived(f"{shape}: write {at}, {how}, lag {lag}", run, [(at, how)])
                points += 1
    return points, unknown


@pytest.mark.slow
@pytest.mark.parametrize("shape", FEW)
def test_what_agents_do_survives_a_power_cut_at_any_write(shape: str) -> None:
    points, _ = bounded(every_point(shape, (1,)))

    assert points > 5


@pytest.mark.crash
@pytest.mark.parametrize("shape", INSIDE)
def test_every_shape_with_calls_inside_survives_a_power_cut_at_any_write_at_any_lag(shape: str) -> None:
    points, unknown = bounded(every_point(shape, (1,) if is_program(plan_inside(shape)) else LAGS))

    sys.stdout.write(f"{shape}: cut at {points} points, {unknown} outcomes unknown\n")
    assert points > 5
    assert unknown > 0


async def once_more(shape: str) -> int:
    """Cut the power, restart, cut it again at each write of the second life, restart."""
    run = await whole(plan_inside(shape), 1)
    unknown = 0
    for first in range(2, run.writes, 4):
        for second in range(1, 8):
            cuts = [(first, Spoil.AFTER), (second, Spoil.AFTER)]
            unknown += await lived(f"{shape}: writes {first} and {second}", run, cuts)
    return unknown


@pytest.mark.crash
@pytest.mark.parametrize("shape", [shape for shape in INSIDE if not is_program(plan_inside(shape))])
def test_every_shape_with_calls_inside_survives_two_power_cuts(shape: str) -> None:
    assert bounded(once_more(shape)) > 0


SAMPLES = 3
NO_TWO_ALIKE = {
    "planloom": 1,
    "steps": [
        {
            "id": "ask",
            "agent": "guesser",
            "prompt": "guess",
            "effects": "none",
            "verify": {"strategy": "self_consistency", "samples": SAMPLES},
        }
    ],
}


def guesser() -> Reasoner:
    """Return an agent that gives another answer each time, so that no two of them agree."""
    numbers = itertools.count(1)

    def answer(call: ModelCall) -> Any:
        if "Look at what was done" in call.messages[-1].content:
            return {"is_complete": True, "reasoning": "", "answer": f"guess {next(numbers)}"}
        return {"has_sufficient_info": True, "reasoning": "", "tasks": []} if call.output is not None else "a thought"

    return Reasoner(name="guesser", model=FunctionModel(answer))


@pytest.mark.parametrize("at", [4, 6, 8, 10])
def test_samples_of_an_agent_stay_as_many_after_a_power_cut_and_do_not_agree_with_themselves(at: int) -> None:
    async def main() -> RunResult | None:
        clock, world, disk, agent = ManualClock(), InnerWorld(), MemoryJournal(), guesser()
        journal = CrashingJournal(disk, at=at, how=Spoil.AFTER, lag=1)
        async with Engine(journal, agents=[agent], clock=clock) as engine:
            await driven(engine.start(NO_TWO_ALIKE, run_id="r"), clock, world, until=journal.stopped)
        async with Engine(disk, agents=[agent], clock=clock) as engine:
            return await driven(engine.resume("r"), clock, world)

    result = bounded(main())

    assert result is not None
    assert result.status is RunStatus.FAILED
    assert f"at most 1 of {SAMPLES}" in (result.error or "")
