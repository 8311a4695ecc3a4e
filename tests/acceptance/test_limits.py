"""A12, A14, A17 and the limits of S1: what a run may use, and what a stop leaves behind."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings
from typing import Any

import pytest
from pydantic import ValidationError

from planloom import (
    Engine,
    PlanTimeoutError,
    ResourceLimitError,
    ResourceLimits,
    RunStatus,
    StepStatus,
    execute_plan,
    run_plan,
)
from planloom.core.events import CancelRequested, RunFinished
from planloom.journal.memory import MemoryJournal
from planloom.testing.fakes import CallLog, fake_tool


def ten(**fields: Any) -> dict[str, Any]:
    return {"planloom": 1, "steps": [{"id": f"s{n}", "tool": "t", **fields} for n in range(10)]}


@pytest.mark.parametrize("durable", [True, False])
def test_a12_exactly_as_many_calls_as_the_limit_allows(durable: bool, tmp_path: Any) -> None:
    log = CallLog()

    result = run_plan(
        ten(),
        tools=[fake_tool("t", log=log)],
        limits=ResourceLimits(max_tool_calls=4, max_concurrent=None),
        journal=tmp_path / "runs.db" if durable else None,
    )

    assert len(log) == 4
    assert result["exceeded_limits"] == ["max_tool_calls"]
    assert result["status"] == "limit_exceeded"
    assert result["tool_calls"] == 4
    assert sum(step["status"] == "completed" for step in result["steps"]) == 4
    assert sum(step.get("skip_reason") == "not_started" for step in result["steps"]) == 6


def test_a12_a_step_with_three_attempts_takes_three_of_them() -> None:
    log = CallLog()
    flaky = fake_tool("t", [ConnectionError(), ConnectionError(), "done", "done", "done"], log=log)
    plan = ten(retry={"max_attempts": 3, "initial_delay": 0})
    for step in plan["steps"][1:]:
        step["needs"] = ["s0"]

    result = run_plan(plan, tools=[flaky], limits=ResourceLimits(max_tool_calls=4))

    assert len(log) == 4
    assert [step["attempts"] for step in result["steps"]] == [3, 1] + [0] * 8
    assert result["exceeded_limits"] == ["max_tool_calls"]


def test_a12_as_many_calls_as_steps_is_enough() -> None:
    result = run_plan(ten(), tools=[fake_tool("t")], limits=ResourceLimits(max_tool_calls=10))

    assert (result["status"], result["exceeded_limits"]) == ("success", [])


def test_a12_on_limit_raise_raises_with_what_was_done() -> None:
    with pytest.raises(ResourceLimitError) as caught:
        run_plan(ten(), tools=[fake_tool("t")], limits=ResourceLimits(max_tool_calls=4), on_limit="raise")

    assert caught.value.exceeded == ("max_tool_calls",)
    assert not isinstance(caught.value, TimeoutError)
    assert caught.value.partial is not None
    assert caught.value.partial["steps_completed"] == 4


def test_a13_what_does_not_fit_into_the_money_is_not_started() -> None:
    log = CallLog()
    tools = [fake_tool("t", log=log, cost_per_call=1.0)]
    plan = {"planloom": 1, "steps": [{"id": f"s{n}", "tool": "t"} for n in range(20)]}

    result = run_plan(plan, tools=tools, limits=ResourceLimits(max_total_cost_usd=5, max_concurrent=None))

    assert len(log) == 5
    assert result["cost"] == 5.0
    assert result["exceeded_limits"] == ["max_total_cost_usd"]


def test_a16_no_more_steps_at_once_than_allowed() -> None:
    busy = peak = 0

    async def count() -> None:
        nonlocal busy, peak
        busy += 1
        peak = max(peak, busy)
        await asyncio.sleep(0.005)
        busy -= 1

    plan = {"planloom": 1, "steps": [{"id": f"s{n}", "tool": "t"} for n in range(12)]}

    run_plan(plan, tools=[fake_tool("t", count)], limits=ResourceLimits(max_concurrent=3))

    assert peak == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tool_calls": -1},
        {"max_concurrent": 0},
        {"timeout_seconds": 0},
        {"timeout_seconds": float("inf")},
        {"max_total_cost_usd": -0.1},
        {"max_memory_mb": "lots"},
    ],
)
def test_wrong_limits_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ResourceLimits(**fields)


def test_an_unknown_limit_is_a_type_error_that_lists_the_known_ones() -> None:
    with pytest.raises(TypeError, match="max_tool_calls"):
        ResourceLimits(max_tools=3)


def slow_beside_quick() -> tuple[dict[str, Any], list[Any]]:
    async def slow() -> None:
        await asyncio.sleep(5)

    plan = {"planloom": 1, "steps": [{"id": "quick", "tool": "quick"}, {"id": "slow", "tool": "slow"}]}
    return plan, [fake_tool("quick", lambda: "done"), fake_tool("slow", slow)]


@pytest.mark.slow
@pytest.mark.timing
def test_a14_at_the_time_limit_what_is_finished_is_returned() -> None:
    plan, tools = slow_beside_quick()
    began = time.monotonic()

    result = run_plan(plan, tools=tools, limits=ResourceLimits(timeout_seconds=0.3))

    assert time.monotonic() - began < 1.0
    assert result["status"] == "limit_exceeded"
    assert result["exceeded_limits"] == ["timeout_seconds"]
    assert [step["output"] for step in result["steps"]] == ["done", None]
    assert result["steps"][1]["status"] == "timed_out"
    assert 250 < result["latency_ms"] < 800


@pytest.mark.slow
def test_a14_on_limit_raise_raises_what_both_except_clauses_catch() -> None:
    plan, tools = slow_beside_quick()

    with pytest.raises(TimeoutError) as caught:
        run_plan(plan, tools=tools, limits=ResourceLimits(timeout_seconds=0.1), on_limit="raise")

    assert isinstance(caught.value, ResourceLimitError)
    assert isinstance(caught.value, PlanTimeoutError)
    assert caught.value.partial is not None
    assert caught.value.partial["steps"][0]["output"] == "done"


@pytest.mark.slow
def test_a17_a_cancelled_caller_gets_control_back_at_once_and_nothing_is_left() -> None:
    seen: list[str] = []
    cleaned: list[str] = []

    async def slow(name: str) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            seen.append(name)
            raise
        finally:
            await asyncio.sleep(0)
            cleaned.append(name)

    plan = {"planloom": 1, "steps": [{"id": n, "tool": "slow", "with": {"name": n}} for n in ("a", "b", "c")]}
    plan["steps"] += [{"id": "after", "tool": "slow", "with": {"name": "after"}, "needs": ["a"]}]
    journal = MemoryJournal()

    async def main() -> float:
        task = asyncio.create_task(execute_plan(plan, tools=[fake_tool("slow", slow)], journal=journal, run_id="r"))
        await asyncio.sleep(0.2)
        task.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        took = time.monotonic() - began
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert left == set()
        async with Engine(journal, tools=[fake_tool("slow", slow)]) as engine:
            result = await engine.result_of("r")
        assert result.status is RunStatus.CANCELLED
        assert [step.status for step in result.steps] == [StepStatus.CANCELLED] * 3 + [StepStatus.SKIPPED]
        events = [entry.event for entry in await journal.read("r")]
        assert any(isinstance(event, CancelRequested) for event in events)
        assert isinstance(events[-1], RunFinished)
        return took

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        took = asyncio.run(main())
        gc.collect()

    assert took < 0.5
    assert sorted(seen) == sorted(cleaned) == ["a", "b", "c"]


@pytest.mark.slow
def test_a17_a_cancelled_caller_of_a_durable_run_gets_it_on_record(tmp_path: Any) -> None:
    async def slow() -> None:
        await asyncio.sleep(10)

    async def main() -> RunStatus:
        tools = [fake_tool("slow", slow, effects="once")]
        plan = {"planloom": 1, "steps": [{"id": "a", "tool": "slow"}]}
        task = asyncio.create_task(execute_plan(plan, tools=tools, journal=tmp_path / "runs.db", run_id="r"))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with Engine(tmp_path / "runs.db", tools=tools) as engine:
            return (await engine.result_of("r")).status

    assert asyncio.run(main()) is RunStatus.CANCELLED


@pytest.mark.parametrize("wait", [{"wait": 0.01}, {"tool": "flaky", "retry": {"initial_delay": 0.01, "jitter": False}}])
def test_max_parallel_of_a_map_of_sub_plans_that_wait(wait: dict[str, Any]) -> None:
    """Nothing runs while the one item under way waits; its place comes free all the same."""
    begun: list[int] = []
    tools = [fake_tool("t", lambda n: begun.append(n)), fake_tool("flaky", [ConnectionError(), 1])]
    inner = {
        "planloom": 1,
        "steps": [
            {"id": "x", "tool": "t", "with": {"n": "${{ inputs.n }}"}},
            {"id": "w", "needs": ["x"], **wait},
            {"id": "y", "tool": "t", "needs": ["w"], "with": {"n": "${{ inputs.n }}"}},
        ],
    }
    each = {"id": "each", "plan": inner, "for_each": [1, 2, 3], "max_parallel": 1, "with": {"n": "${{ item }}"}}

    result = run_plan({"planloom": 1, "steps": [each]}, tools=tools)

    assert result["status"] == "success"
    assert begun == [1, 1, 2, 2, 3, 3]
