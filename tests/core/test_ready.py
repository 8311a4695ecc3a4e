"""Which ready step goes first."""

from __future__ import annotations

from typing import Any

from planloom.core.budget import FREE, NO_CLAIM, ONE_CALL, Budget, Claim
from planloom.core.events import StepDispatched
from planloom.core.ready import AGEING_S, ReadySteps
from planloom.core.result import StepStatus
from planloom.core.state import Node
from planloom.plan.policy import ResourceLimits
from tests.core.driving import NONE, TOOLS, Drive, plan, tool

ONE_AT_A_TIME = {"max_concurrent": 1}


def started(*steps: dict[str, Any], **fields: Any) -> list[str]:
    drive = Drive(plan(*steps, limits=ONE_AT_A_TIME, **fields))
    drive.finish()
    return drive.order()


def test_among_equals_plan_order_decides() -> None:
    assert started(tool("c"), tool("a"), tool("b")) == ["c", "a", "b"]


def test_priority_comes_first() -> None:
    assert started(tool("a"), tool("b", priority=5), tool("c", priority=-1), tool("d", "a")) == ["b", "a", "d", "c"]


def test_then_the_longest_path_to_an_end() -> None:
    steps = (tool("short"), tool("long"), tool("middle", "long"), tool("end", "middle"), tool("two"), tool("x", "two"))

    assert started(*steps) == ["long", "middle", "two", "short", "end", "x"]


def test_expected_latencies_weigh_the_path() -> None:
    tools = TOOLS | {"slow": type(NONE)("d", expected_latency_ms=900), "t": type(NONE)("d", expected_latency_ms=10)}
    steps = (tool("a"), tool("b", "a"), tool("s", tool="slow"))
    drive = Drive(plan(*steps, limits=ONE_AT_A_TIME), tools=tools)

    drive.finish()

    assert drive.order() == ["s", "a", "b"]


def test_c30_without_parallel_steps_go_one_at_a_time_in_stable_topological_order() -> None:
    steps = (tool("a"), tool("b"), tool("c", "b"), tool("d", "c"), tool("e"))
    drive = Drive(plan(*steps), parallel=False)

    for name in "abcde":
        assert drive.running == [name]
        drive.ok(name)

    assert drive.order() == ["a", "b", "c", "d", "e"]


def test_items_go_in_order_at_the_turn_of_their_step() -> None:
    steps = (tool("low", priority=-1), tool("map", for_each=[1, 2]), tool("high", priority=1))

    assert started(*steps) == ["high", "map[0]", "map[1]", "low"]


def test_the_steps_of_a_sub_plan_go_at_the_turn_of_their_step() -> None:
    sub = {"steps": [tool("x"), tool("y", priority=9)]}
    steps = (tool("low", priority=-1), {"id": "sub", "plan": sub}, tool("high", priority=1))

    assert started(*steps) == ["high", "sub/y", "sub/x", "low"]


def test_a_step_that_does_not_fit_never_holds_up_one_that_does() -> None:
    tools = TOOLS | {"dear": type(NONE)("d", cost_per_call_usd=4.0), "cheap": type(NONE)("d", cost_per_call_usd=1.0)}
    steps = (tool("one", tool="dear"), tool("two", tool="dear"), tool("three", tool="cheap"))
    drive = Drive(plan(*steps, limits={"max_total_cost_usd": 5}), tools=tools)

    assert drive.running == ["one", "three"]


def test_named_limits_hold_up_only_who_names_them() -> None:
    steps = (tool("a", concurrency="db"), tool("b", concurrency="db"), tool("c"), tool("d", concurrency="web"))
    drive = Drive(plan(*steps, concurrency={"db": 1, "web": 1}))

    assert drive.running == ["a", "c", "d"]
    drive.ok("a")
    assert drive.running == ["c", "d", "b"]


# --- the queue by itself ---


def node(name: str) -> Node:
    return Drive(plan(tool(name))).machine.state.nodes[name]


def waiting(name: str, turn: int) -> Node:
    made = node(name)
    made.status, made.turn = StepStatus.PENDING, (turn,)
    return made


def free() -> Budget:
    return Budget(None, parallel=True)


def test_an_empty_queue_has_nothing_to_give() -> None:
    ready = ReadySteps()

    assert ready.pop(free()) is None
    assert ready.starved() == []


def test_what_needs_no_slot_goes_by_its_turn_too_and_when_no_slot_is_left() -> None:
    ready = ReadySteps()
    first, second, third = waiting("a", 0), waiting("b", 9), waiting("c", 8)
    ready.push(first, NO_CLAIM)
    ready.push(second, FREE)
    ready.push(third, FREE)
    budget = Budget(ResourceLimits(max_concurrent=1))
    budget.take(NO_CLAIM)

    assert [ready.pop(budget) for _ in range(3)] == [third, second, None]
    budget.settle(NO_CLAIM, cost_usd=None, usage=None)
    assert ready.pop(budget) is first


def test_what_ended_meanwhile_is_dropped() -> None:
    ready = ReadySteps()
    gone, also_gone, left = waiting("a", 0), waiting("b", 1), waiting("c", 2)
    ready.push(gone, NO_CLAIM)
    ready.push(also_gone, FREE)
    ready.push(left, NO_CLAIM)
    gone.status = also_gone.status = StepStatus.SKIPPED

    assert [ready.pop(free()), ready.pop(free())] == [left, None]


def test_what_waits_for_something_else_is_not_given() -> None:
    ready = ReadySteps()
    made = waiting("a", 0)
    ready.push(made, NO_CLAIM)
    made.waiting = "retry"

    assert ready.pop(free()) is None
    assert ready.starved() == []


def test_the_starved_are_the_first_of_each_queue() -> None:
    ready = ReadySteps()
    made = {name: waiting(name, turn) for turn, name in enumerate("abc")}
    dear = Claim(calls=1, cost_usd=3)
    ready.push(made["b"], ONE_CALL)
    ready.push(made["a"], ONE_CALL)
    ready.push(made["c"], dear)
    none_left = Budget(ResourceLimits(max_tool_calls=0), parallel=True)

    assert ready.pop(none_left) is None
    assert ready.starved() == [made["a"], made["c"]]


def test_a_dispatch_is_recorded_for_each_start() -> None:
    drive = Drive(plan(tool("a"), tool("b")))

    assert [event.step for event in drive.of_type(StepDispatched)] == ["a", "b"]


# --- ageing ---


def test_a58_a_more_urgent_step_overtakes_ten_that_wait() -> None:
    low = [tool(f"low{n}") for n in range(10)]
    drive = Drive(plan(*low, tool("high", priority=1), limits=ONE_AT_A_TIME))

    assert drive.running == ["high"]


def test_a58_whoever_waits_long_enough_overtakes_what_is_more_urgent() -> None:
    """A chain of urgent steps, each ready when the one before ends, must not hold up another for ever."""
    chain = [tool(f"high{n}", *([f"high{n - 1}"] if n else []), priority=2) for n in range(10)]
    drive = Drive(plan(tool("low"), *chain, limits=ONE_AT_A_TIME))

    began: list[str] = []
    while "low" not in began:
        key = drive.running[0]
        began.append(key)
        drive.after(AGEING_S).ok(key)

    assert began == ["high0", "high1", "high2", "low"]


def test_where_no_step_is_more_urgent_than_another_the_longest_path_goes_first_however_long_others_wait() -> None:
    chain = [tool(f"c{n}", *([f"c{n - 1}"] if n else [])) for n in range(4)]
    drive = Drive(plan(tool("alone"), *chain, limits=ONE_AT_A_TIME))

    began: list[str] = []
    while drive.running:
        began.append(drive.running[0])
        drive.after(10 * AGEING_S).ok(began[-1])

    assert began == ["c0", "c1", "c2", "alone", "c3"]
