"""Limits: reserved before a step starts, settled when it has ended, never exceeded."""

from __future__ import annotations

from typing import Any

import pytest

from planloom.core.budget import NO_CLAIM, ONE_CALL, Budget, Claim, tool_claim
from planloom.core.events import RunFinished, RunStopping, ToolFacts
from planloom.core.result import RunStatus, Usage
from planloom.plan.policy import FailureKind, ResourceLimits
from tests.core.driving import TOOLS, Drive, kinds, plan, tool, usage


def limits(**chosen: Any) -> ResourceLimits:
    """Return limits with nothing limited but what is given."""
    return ResourceLimits(**(dict.fromkeys(ResourceLimits.model_fields) | chosen))


def many(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [tool(f"s{at}", **fields) for at in range(count)]


def priced(cost_usd: float | None, **facts: Any) -> dict[str, ToolFacts]:
    return TOOLS | {"t": ToolFacts("d", cost_per_call_usd=cost_usd, **facts)}


# --- calls ---


def test_a12_exactly_as_many_calls_as_the_limit_says() -> None:
    drive = Drive(plan(*many(10)), limits=limits(max_tool_calls=4))

    assert drive.running == ["s0", "s1", "s2", "s3"]
    for name in ("s0", "s1", "s2"):
        assert drive.ok(name, 1).commands == ()
    turn = drive.ok("s3", 1)

    assert turn.events[1:] == (
        RunStopping(RunStatus.LIMIT_EXCEEDED, 0.0, "s4", ("max_tool_calls",)),
        RunFinished(RunStatus.LIMIT_EXCEEDED, {f"s{at}": 1 for at in range(4)}, 0.0),
    )
    assert list(drive.statuses().values()) == ["completed"] * 4 + ["skipped: not_started"] * 6
    assert drive.result.exceeded_limits == ("max_tool_calls",)
    assert drive.result.tool_calls == 4
    drive.assert_replays()


def test_a12_every_attempt_is_a_call() -> None:
    again = {"max_attempts": 3, "initial_delay": 0, "jitter": False}
    drive = Drive(plan(tool("a", retry=again), tool("b", "a")), limits=limits(max_tool_calls=3))

    for _ in range(2):
        drive.fail("a")
        drive.fire("a")
    drive.ok("a")

    assert drive.order() == ["a", "a", "a"]
    assert drive.status is RunStatus.LIMIT_EXCEEDED
    assert drive.result.tool_calls == 3


def test_steps_that_are_no_tools_use_no_calls() -> None:
    steps = ({"id": "m", "model": "x://y", "prompt": "hi"}, {"id": "c", "code": "1"})
    drive = Drive(plan(*steps), limits=limits(max_tool_calls=0))

    assert drive.finish().status is RunStatus.SUCCESS
    assert drive.result.tool_calls == 0


def test_a_tool_nobody_described_still_uses_a_call() -> None:
    drive = Drive(plan(tool("a", tool="unknown")), limits=limits(max_tool_calls=0))

    assert drive.status is RunStatus.LIMIT_EXCEEDED


def test_a_run_that_uses_exactly_its_limit_succeeds() -> None:
    drive = Drive(plan(*many(4)), limits=limits(max_tool_calls=4))

    assert drive.finish().status is RunStatus.SUCCESS
    assert drive.result.exceeded_limits == ()


# --- money ---


def test_a13_exactly_as_many_dollars_as_the_limit_says() -> None:
    drive = Drive(plan(*many(20)), limits=limits(max_total_cost_usd=5), tools=priced(1.0))

    result = drive.finish()

    assert len(drive.started) == 5
    assert result.cost_usd == 5.0
    assert result.status is RunStatus.LIMIT_EXCEEDED
    assert result.exceeded_limits == ("max_total_cost_usd",)


def test_dollars_are_counted_in_floats_and_still_fit() -> None:
    drive = Drive(plan(*many(6)), limits=limits(max_total_cost_usd=0.5), tools=priced(0.1))

    assert len(drive.running) == 5


def test_what_an_attempt_really_cost_takes_the_place_of_its_estimate() -> None:
    drive = Drive(plan(*many(3)), limits=limits(max_total_cost_usd=1.0, max_concurrent=1), tools=priced(0.6))

    drive.ok("s0", cost_usd=0.1)
    drive.ok("s1", cost_usd=0.3)

    assert drive.running == ["s2"]
    assert drive.finish().cost_usd == pytest.approx(1.0)


def test_a13_overshoot_is_bounded_by_what_is_under_way_and_the_true_cost_is_told() -> None:
    asked = limits(max_total_cost_usd=5, max_concurrent=4)
    drive = Drive(plan(*many(20)), limits=asked, tools=priced(0.01))

    while not drive.machine.ended:
        drive.ok(drive.running[0], cost_usd=1.0)

    assert len(drive.started) <= 5 + 4
    assert drive.result.cost_usd == float(len(drive.started))
    assert drive.result.exceeded_limits == ("max_total_cost_usd",)


def test_c14_failed_and_cancelled_attempts_cost_what_they_cost() -> None:
    drive = Drive(plan(*many(2)), tools=priced(0.5))

    drive.fail("s0", cost_usd=0.2)
    drive.halt("s1")

    assert drive.result.cost_usd == pytest.approx(0.7)
    assert drive.result.step("s1").cost_usd == 0.5


def test_a_step_that_costs_nothing_runs_when_the_money_is_gone() -> None:
    tools = priced(1.0) | {"free": ToolFacts("d")}
    drive = Drive(plan(tool("a"), tool("b", "a", tool="free")), limits=limits(max_total_cost_usd=1), tools=tools)

    drive.ok("a")

    assert drive.running == ["b"]


def test_costs_are_not_told_where_they_are_not_tracked_and_still_bind() -> None:
    drive = Drive(plan(*many(3)), limits=limits(max_total_cost_usd=2), tools=priced(1.0), track_cost=False)

    result = drive.finish()

    assert len(drive.started) == 2
    assert result.cost_usd is None
    assert all(step.cost_usd is None for step in result.steps)


# --- tokens ---


def test_tokens_are_added_up_over_all_attempts() -> None:
    drive = Drive(plan(tool("a", retry={"max_attempts": 2}), tool("b")))

    drive.fail("a", usage=usage(10))
    drive.ok("b", usage=usage(5))
    drive.fire("a")
    drive.ok("a", usage=usage(1))

    assert drive.result.usage == Usage(16, 0, 3)
    assert drive.result.step("a").usage == Usage(11, 0, 2)


def test_once_the_tokens_are_used_up_no_model_is_asked() -> None:
    steps = [{"id": name, "model": "x://y", "prompt": "hi"} for name in "abc"]
    drive = Drive(plan(*steps), limits=limits(max_total_tokens=100, max_concurrent=1))

    drive.ok("a", usage=usage(60))
    drive.ok("b", usage=usage(60))

    assert drive.status is RunStatus.LIMIT_EXCEEDED
    assert drive.order() == ["a", "b"]
    assert drive.result.exceeded_limits == ("max_total_tokens",)


# --- slots and gauges ---


def test_a16_never_more_at_once_than_max_concurrent() -> None:
    drive = Drive(plan(*many(12)), limits=limits(max_concurrent=3))
    peak = 0

    while not drive.machine.ended:
        peak = max(peak, len(drive.running))
        drive.ok(drive.running[0])

    assert peak == 3
    assert drive.machine.state.budget.peak == 3


@pytest.mark.parametrize(
    ("name", "facts"), [("max_memory_mb", {"memory_mb": 40}), ("max_cpu_percent", {"cpu_percent": 40})]
)
def test_gauges_bound_what_is_under_way_and_are_given_back(name: str, facts: dict[str, float]) -> None:
    drive = Drive(plan(*many(3)), limits=limits(**{name: 100}), tools=priced(None, **facts))

    assert drive.running == ["s0", "s1"]
    drive.ok("s0")
    assert drive.running == ["s1", "s2"]
    assert drive.finish().status is RunStatus.SUCCESS


@pytest.mark.parametrize(
    ("name", "facts"), [("max_memory_mb", {"memory_mb": 101}), ("max_cpu_percent", {"cpu_percent": 101})]
)
def test_what_can_never_fit_stops_the_run_at_once_and_names_the_limit(name: str, facts: dict[str, float]) -> None:
    drive = Drive(plan(tool("a")), limits=limits(**{name: 100}), tools=priced(None, **facts))

    assert drive.first.events[1:] == (
        RunStopping(RunStatus.LIMIT_EXCEEDED, 0.0, "a", (name,)),
        RunFinished(RunStatus.LIMIT_EXCEEDED, None, 0.0),
    )


def test_every_limit_in_the_way_is_named_once() -> None:
    asked = limits(max_tool_calls=0, max_total_cost_usd=0, max_memory_mb=1, max_cpu_percent=1)
    steps = (tool("a"), tool("b", tool="once"))
    drive = Drive(plan(*steps), limits=asked, tools=priced(1.0, memory_mb=2, cpu_percent=2))

    assert sorted(drive.result.exceeded_limits) == [
        "max_cpu_percent",
        "max_memory_mb",
        "max_tool_calls",
        "max_total_cost_usd",
    ]


def test_what_does_not_fit_waits_for_what_is_under_way_before_the_run_gives_up() -> None:
    drive = Drive(plan(*many(2)), limits=limits(max_total_cost_usd=1), tools=priced(0.6))

    assert drive.running == ["s0"]
    turn = drive.ok("s0", cost_usd=0.1)

    assert kinds(turn.events) == ["AttemptSucceeded s0", "StepDispatched s1"]


def test_a_step_that_does_not_fit_waits_while_a_timer_could_still_bring_nothing_back() -> None:
    asked = plan(*many(2), {"id": "w", "wait": 5})
    drive = Drive(asked, limits=limits(max_tool_calls=1))

    turn = drive.ok("s0")

    assert kinds(turn.events) == ["AttemptSucceeded s0", "RunStopping", "RunFinished"]
    assert drive.statuses()["w"] == "cancelled"


# --- named limits ---


def test_a_named_limit_bounds_the_steps_that_name_it() -> None:
    drive = Drive(plan(*many(5, concurrency="db"), concurrency={"db": 2}))

    assert drive.running == ["s0", "s1"]
    drive.fail("s0", FailureKind.CANCELLED)


def test_a7_sequential_steps_never_overlap_each_other_but_others_do() -> None:
    drive = Drive(plan(*many(3, mode="sequential"), tool("free")))

    assert drive.running == ["s0", "free"]
    drive.ok("s0")
    assert drive.running == ["free", "s1"]
    drive.ok("s1")
    assert drive.running == ["free", "s2"]


def test_a_sequential_sub_plan_never_overlaps_another_sequential_step() -> None:
    sub = {"steps": [tool("x"), tool("y")]}
    drive = Drive(plan({"id": "sub", "plan": sub, "mode": "sequential"}, tool("s", mode="sequential")))

    assert drive.running == ["sub/x", "sub/y"]
    drive.ok("sub/x")
    drive.ok("sub/y")
    assert drive.running == ["s"]


def test_max_parallel_bounds_the_items_of_its_own_step() -> None:
    steps = (tool("m", for_each=[1, 2, 3], max_parallel=2), tool("n", for_each=[1, 2, 3], max_parallel=1))
    drive = Drive(plan(*steps))

    assert drive.running == ["m[0]", "m[1]", "n[0]"]
    drive.ok("m[1]")
    assert drive.running == ["m[0]", "n[0]", "m[2]"]


def test_max_parallel_bounds_items_that_are_sub_plans() -> None:
    sub = {"inputs": {"n": {}}, "steps": [tool("x"), tool("y", "x")]}
    step = {"id": "m", "plan": sub, "with": {"n": "${{ item }}"}, "for_each": [1, 2, 3], "max_parallel": 1}
    drive = Drive(plan(step))

    assert drive.running == ["m[0]/x"]
    drive.ok("m[0]/x")
    assert drive.running == ["m[0]/y"]
    drive.ok("m[0]/y")
    assert drive.running == ["m[1]/x"]


def test_a_step_may_bear_the_name_of_a_limit() -> None:
    steps = (tool("db", for_each=[1, 2, 3], max_parallel=3), tool("a", concurrency="db"), tool("b", concurrency="db"))
    drive = Drive(plan(*steps, concurrency={"db": 1}))

    assert drive.running == ["db[0]", "db[1]", "db[2]", "a"]


def test_a_sub_plan_brings_its_own_named_limits() -> None:
    sub = {"steps": many(3, concurrency="db"), "concurrency": {"db": 2}}
    drive = Drive(plan({"id": "sub", "plan": sub}))

    assert drive.running == ["sub/s0", "sub/s1"]


# --- the ledger by itself ---


def test_a_claim_says_what_a_tool_declares() -> None:
    facts = ToolFacts("d", cost_per_call_usd=0.5, memory_mb=10, cpu_percent=20)

    claim = tool_claim(facts)

    assert (claim.calls, claim.cost_usd, claim.memory_mb, claim.cpu_percent, claim.names) == (1, 0.5, 10, 20, ())
    assert tool_claim(ToolFacts("d")) is ONE_CALL
    assert tool_claim(None) is ONE_CALL


def test_reserved_counts_as_used_until_it_is_settled() -> None:
    budget = Budget(limits(max_total_tokens=100, max_total_cost_usd=1), parallel=True)
    claim = Claim(tokens=60, cost_usd=0.6)

    budget.take(claim)
    assert budget.in_the_way(claim) == ("max_total_cost_usd", "max_total_tokens")
    budget.settle(claim, cost_usd=0.1, usage=usage(10))

    assert budget.fits(claim)
    assert (budget.cost_usd, budget.usage.total_tokens, budget.running) == (0.1, 10, 0)


def test_a_cost_nobody_knows_is_booked_as_its_estimate() -> None:
    budget = Budget(None, parallel=True)
    budget.take(Claim(cost_usd=0.6))

    budget.settle(Claim(cost_usd=0.6), cost_usd=None, usage=None)

    assert budget.cost_usd == 0.6
    assert budget.exceeded == ()


def test_settled_use_beyond_a_limit_is_told() -> None:
    budget = Budget(limits(max_total_tokens=5, max_total_cost_usd=1), parallel=True)
    budget.take(NO_CLAIM)

    budget.settle(NO_CLAIM, cost_usd=1.5, usage=usage(6))

    assert budget.exceeded == ("max_total_cost_usd", "max_total_tokens")


def test_one_at_a_time_wins_over_max_concurrent() -> None:
    budget = Budget(limits(max_concurrent=5), parallel=False)

    budget.take(NO_CLAIM)

    assert not budget.fits(NO_CLAIM)
