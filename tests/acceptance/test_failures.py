"""A10, A11, A42-A44: what a failed step means for the others and for whoever called."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from planloom import ConfigError, Tool, ToolExecutionError, execute_plan, run_plan
from planloom.errors import FieldError
from planloom.testing.fakes import CallLog, fake_tool


def awaited(plan: Any, **options: Any) -> dict[str, Any]:
    return asyncio.run(execute_plan(plan, **options))


DOORS: list[Callable[..., dict[str, Any]]] = [awaited, run_plan]
both_doors = pytest.mark.parametrize("execute", DOORS, ids=["async", "sync"])


def statuses(result: dict[str, Any]) -> dict[str, str]:
    return {step["id"]: step["status"] for step in result["steps"]}


def chain_of_five(log: CallLog) -> tuple[dict[str, Any], list[Tool]]:
    def work(n: int) -> Any:
        return ValueError("kaboom") if n == 4 else n * 10

    steps = [
        {"id": f"s{n}", "tool": "work", "with": {"n": n}, "needs": [f"s{n - 1}"] if n > 1 else []} for n in range(1, 6)
    ]
    return {"planloom": 1, "steps": steps}, [fake_tool("work", work, log=log, cost_per_call=0.5)]


@both_doors
def test_a10_a_failed_step_raises_with_everything_done_before_it(execute: Callable[..., dict[str, Any]]) -> None:
    log = CallLog()
    plan, tools = chain_of_five(log)

    with pytest.raises(ToolExecutionError) as caught:
        execute(plan, tools=tools)

    assert caught.value.step_id == "s4"
    assert caught.value.tool_name == "work"
    assert "kaboom" in caught.value.error
    partial = caught.value.partial
    assert partial is not None
    assert [step["output"] for step in partial["steps"]] == [10, 20, 30, None, None]
    assert [step["cost"] for step in partial["steps"]] == [0.5, 0.5, 0.5, 0.5, 0.0]
    assert partial["cost"] == 2.0
    assert partial["steps"][4]["status"] == "skipped"
    assert partial["steps"][4]["skip_reason"] == "not_started"
    assert len(log) == 4


@both_doors
def test_a10_on_error_return_gives_the_same_dict(execute: Callable[..., dict[str, Any]]) -> None:
    plan, tools = chain_of_five(CallLog())

    result = execute(plan, tools=tools, on_error="return")
    with pytest.raises(ToolExecutionError) as caught:
        execute(plan, tools=tools)

    assert result["status"] == "failed"
    assert result["failed_step"] == "s4"
    partial = caught.value.partial
    assert partial is not None
    assert partial.keys() == result.keys()
    timeless = [{k: v for k, v in step.items() if not k.endswith(("_at", "_ms"))} for step in result["steps"]]
    assert timeless == [{k: v for k, v in step.items() if not k.endswith(("_at", "_ms"))} for step in partial["steps"]]


@pytest.mark.parametrize("option", [{"on_error": "explode"}, {"on_limit": "ignore"}])
def test_a10_an_unknown_word_for_what_to_do_is_refused_before_anything_runs(option: dict[str, Any]) -> None:
    log = CallLog()
    plan, tools = chain_of_five(log)

    with pytest.raises(ConfigError) as caught:
        awaited(plan, tools=tools, **option)

    assert "return" in caught.value.remedy
    assert len(log) == 0


def test_a10_an_unknown_on_error_of_a_step_is_a_plan_error() -> None:
    log = CallLog()

    with pytest.raises(FieldError, match="on_error"):
        awaited(
            {"planloom": 1, "steps": [{"id": "a", "tool": "t", "on_error": "ignore"}]},
            tools=[fake_tool("t", log=log)],
        )
    assert len(log) == 0


def siblings(**fields: Any) -> dict[str, Any]:
    return {"planloom": 1, "steps": [{"id": "ok", "tool": "ok"}, {"id": "bad", "tool": "bad"}], **fields}


def ok_and_bad(seen: list[str]) -> list[Tool]:
    async def ok() -> str:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return "finished"

    async def bad() -> None:
        await asyncio.sleep(0.1)
        raise ValueError("bad")

    return [fake_tool("ok", ok), fake_tool("bad", bad)]


@pytest.mark.slow
@both_doors
@pytest.mark.timing
def test_a11_by_default_the_first_failure_cancels_what_is_under_way(execute: Callable[..., dict[str, Any]]) -> None:
    seen: list[str] = []
    began = time.monotonic()

    with pytest.raises(ToolExecutionError) as caught:
        execute(siblings(), tools=ok_and_bad(seen))

    assert time.monotonic() - began < 0.6
    assert caught.value.partial is not None
    assert statuses(caught.value.partial) == {"ok": "cancelled", "bad": "failed"}
    assert seen == ["cancelled"]


@pytest.mark.slow
@both_doors
def test_a11_without_fail_fast_the_sibling_finishes_and_keeps_its_output(
    execute: Callable[..., dict[str, Any]],
) -> None:
    result = execute(siblings(fail_fast=False), tools=ok_and_bad([]), on_error="return")

    assert statuses(result) == {"ok": "completed", "bad": "failed"}
    assert result["steps"][0]["output"] == "finished"
    assert result["status"] == "failed"


TABLE = {
    "fail": ("failed", "skipped", "failed", "upstream_failed"),
    "skip": ("skipped", "skipped", "partial", "upstream_skipped"),
    "continue": ("failed", "completed", "partial", None),
}


@both_doors
@pytest.mark.parametrize("is_async", [True, False], ids=["async tool", "sync tool"])
@pytest.mark.parametrize("on_error", TABLE)
def test_a42_what_a_failure_means_stands_in_a_table(
    execute: Callable[..., dict[str, Any]], is_async: bool, on_error: str
) -> None:
    a, b, run, reason = TABLE[on_error]

    def bad() -> None:
        raise ValueError("bad")

    async def async_bad() -> None:
        raise ValueError("bad")

    bad_tool = Tool.from_function(async_bad if is_async else bad, name="bad", effects="none")
    plan = {
        "planloom": 1,
        "fail_fast": False,
        "steps": [
            {"id": "a", "tool": "bad", "on_error": on_error},
            {"id": "b", "tool": "say", "needs": ["a"], "with": {"value": "${{ default(steps.a.output, 'nothing') }}"}},
            {"id": "free", "tool": "say"},
        ],
    }

    result = execute(plan, tools=[bad_tool, fake_tool("say")], on_error="return")

    assert statuses(result) == {"a": a, "b": b, "free": "completed"}
    assert result["status"] == run
    assert "bad" in (result["steps"][0]["error"] or "")
    assert result["steps"][1].get("skip_reason") == reason


@both_doors
def test_a43_two_retries_after_two_failures_make_three_executions(execute: Callable[..., dict[str, Any]]) -> None:
    log = CallLog()
    flaky = fake_tool("flaky", [ConnectionError("1"), ConnectionError("2"), "done"], log=log, effects=None)
    plan = {
        "steps": [
            {"step_id": "a", "tool_name": "flaky", "parameters": {}, "retry_policy": {"retries": 2, "backoff_s": 0}}
        ]
    }

    result = execute(plan, tools=[flaky])

    assert len(log) == 3
    assert result["steps"][0]["attempts"] == 3
    assert result["result"] == "done"


@both_doors
def test_a43_a_native_once_step_is_retried_only_on_its_tool_s_word(execute: Callable[..., dict[str, Any]]) -> None:
    log = CallLog()
    flaky = fake_tool("flaky", [ConnectionError("1"), "done"], log=log, effects="once")
    retry = {"max_attempts": 3, "initial_delay": 0}
    plan = {"planloom": 1, "steps": [{"id": "a", "tool": "flaky", "retry": retry}]}

    result = execute(plan, tools=[flaky], on_error="return")

    assert (len(log), result["status"]) == (1, "failed")


@pytest.mark.slow
@both_doors
def test_a43_a_step_that_takes_too_long_is_timed_out_in_time(execute: Callable[..., dict[str, Any]]) -> None:
    async def slow() -> str:
        await asyncio.sleep(1)
        return "late"

    plan = {"planloom": 1, "steps": [{"id": "a", "tool": "slow", "timeout_seconds": 0.1}]}

    result = execute(plan, tools=[fake_tool("slow", slow)], on_error="return")

    assert statuses(result) == {"a": "timed_out"}
    assert result["steps"][0]["output"] is None
    assert result["latency_ms"] < 400


@pytest.mark.slow
@both_doors
def test_a43_a_sync_step_that_takes_too_long_is_timed_out_and_its_thread_reported(
    execute: Callable[..., dict[str, Any]],
) -> None:
    release = threading.Event()

    def slow() -> str:
        release.wait(5)
        return "late"

    plan = {"planloom": 1, "steps": [{"id": "a", "tool": "slow", "timeout_seconds": 0.1}]}

    result = execute(plan, tools=[Tool.from_function(slow, effects="none")], on_error="return")
    release.set()

    assert statuses(result) == {"a": "timed_out"}
    assert "thread" in result["steps"][0]["error"]
    assert "abandoned" in result["steps"][0]["error"]
    assert result["latency_ms"] < 400


def joining(h: str, low: str, **fields: Any) -> dict[str, Any]:
    """a → h and a → l on conditions, both → f."""
    return {
        "planloom": 1,
        "fail_fast": False,
        "steps": [
            {"id": "a", "tool": "say", "with": {"value": 7}},
            {"id": "h", "tool": "say", "needs": [{"step": "a", "when": h}]},
            {"id": "l", "tool": "say", "needs": [{"step": "a", "when": low}]},
            {"id": "f", "tool": "say", "needs": ["h", "l"], "join": "none_failed_min_one_success"},
        ],
        **fields,
    }


HIGH, LOW = "steps.a.output.value > 5", "steps.a.output.value <= 5"


@both_doors
def test_a44_the_branch_that_is_taken_leads_on_and_the_other_is_skipped(execute: Callable[..., dict[str, Any]]) -> None:
    result = execute(joining(HIGH, LOW), tools=[fake_tool("say")])

    assert statuses(result) == {"a": "completed", "h": "completed", "l": "skipped", "f": "completed"}
    assert result["status"] == "partial"


@both_doors
def test_a44_when_no_condition_holds_the_join_is_skipped(execute: Callable[..., dict[str, Any]]) -> None:
    result = execute(joining(LOW, LOW), tools=[fake_tool("say")])

    assert statuses(result) == {"a": "completed", "h": "skipped", "l": "skipped", "f": "skipped"}


@both_doors
def test_a44_conditional_edges_into_a_join_need_one_of_them(execute: Callable[..., dict[str, Any]]) -> None:
    steps = [
        {"id": "a", "tool": "say"},
        {"id": "b", "tool": "say"},
        {"id": "f", "tool": "say", "needs": [{"step": "a", "when": "true"}, {"step": "b", "when": "false"}]},
        {"id": "g", "tool": "say", "needs": [{"step": "a", "when": "false"}, {"step": "b", "when": "false"}]},
    ]

    result = execute({"planloom": 1, "steps": steps}, tools=[fake_tool("say")])

    assert statuses(result) == {"a": "completed", "b": "completed", "f": "completed", "g": "skipped"}


@both_doors
def test_a44_a_failure_skips_everything_behind_it(execute: Callable[..., dict[str, Any]]) -> None:
    steps = [
        {"id": "a", "tool": "bad"},
        {"id": "b", "tool": "say", "needs": ["a"]},
        {"id": "c", "tool": "say", "needs": ["b"]},
        {"id": "d", "tool": "say"},
    ]
    plan = {"planloom": 1, "fail_fast": False, "steps": steps}

    result = execute(plan, tools=[fake_tool("say"), fake_tool("bad", [ValueError("no")])], on_error="return")

    assert statuses(result) == {"a": "failed", "b": "skipped", "c": "skipped", "d": "completed"}
    assert [step.get("skip_reason") for step in result["steps"]] == [None, "upstream_failed", "upstream_failed", None]


@both_doors
def test_a44_a_condition_that_cannot_be_worked_out_is_a_failure_and_not_false(
    execute: Callable[..., dict[str, Any]],
) -> None:
    result = execute(joining("steps.a.output.nothing > 5", HIGH), tools=[fake_tool("say")], on_error="return")

    assert result["status"] == "failed"
    assert statuses(result)["h"] == "failed"
    assert "condition" in result["steps"][1]["error"]
    assert "nothing" in result["steps"][1]["error"]
