"""What is looked at in tests that drive a run by themselves: cancelled, paused, at random, in processes of their own.

The sweep of power cuts looks for itself: `planloom.testing.sweep.findings`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from planloom import Engine, MemoryJournal
from planloom.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    CallEnded,
    CallStarted,
    OutcomeUnknown,
    RunStarted,
    StepDispatched,
)
from planloom.core.result import RunResult
from planloom.observe.looks import every_step
from planloom.ports import Recorded
from planloom.runtime.replay import diverges
from planloom.testing.clock import ManualClock
from planloom.testing.crash import CrashingJournal
from planloom.testing.sweep.findings import come_to
from tests.crash.inner_shapes import PUT_USD, InnerWorld, ended_calls, is_program, open_calls, true_usd
from tests.crash.shapes import World, driven

ONCE = frozenset({"a", "end", "paid"})
"""Steps of the shapes with calls inside that may be done only once as a whole; `end` may be one."""


@dataclass(frozen=True)
class Whole:
    """A run that nothing happens to.

    Attributes:
        expected: What it comes to; `outputs`: and each of its steps.
        asked: How often each question is asked of a model.
        writes: How many writes it takes.
    """

    plan: dict[str, Any]
    lag: int
    expected: dict[str, Any]
    outputs: dict[str, Any]
    asked: Counter[str]
    writes: int


async def whole(plan: dict[str, Any], lag: int, world: World) -> Whole:
    """Run a plan undisturbed."""
    clock, disk = ManualClock(), MemoryJournal()
    world.disk, world.in_real_time = disk, is_program(plan)
    journal = CrashingJournal(disk, lag=lag)
    async with Engine(journal, clock=clock, **world.parts()) as engine:
        result = await driven(engine.start(plan, run_id="r"), clock, world)
    assert result is not None
    asked: list[str] = []
    if isinstance(world, InnerWorld):
        books("undisturbed", world, await disk.read("r"), result)
        assert (result.cost_usd or 0.0) == pytest.approx(true_usd(world))
        asked = [one.what for one in world.asked]
    outputs = {step.id: step.output for step in every_step(result.steps)}
    return Whole(plan, lag, come_to(result), outputs, Counter(asked), journal.writes)


def look(where: str, before: list[Recorded], world: World, called: int, record: list[Recorded]) -> None:
    """Look at one life of a run.

    Args:
        before: The record when it began; `record`: when it ended.
        called: How many calls of tools there were before it.
    """
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


def look_inside(where: str, before: list[Recorded], world: InnerWorld, called: int, now: list[Recorded]) -> None:
    """Look at the calls inside of attempts that were made in one life of a run; arguments as of `look`."""
    ended = {
        f"r/{step}/{key}"
        for (step, key), call in ended_calls(before).items()
        if call.kind == "tool" and (call.error is None or call.name == "lose")
    }
    assert [done for done in world.log[called:] if done.key in ended] == [], f"{where}: called again though on record"
    look_at_questions(where, before, now)


def look_at_questions(where: str, before: list[Recorded], now: list[Recorded]) -> None:
    """See that somebody was asked about every open call, and about nothing else."""
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
