"""What goes into tools and comes out of them: JSON, of any size, shared with nobody."""

from __future__ import annotations

import asyncio
import sys
from contextvars import copy_context
from typing import Any

import pytest

from planloom import Engine, RunResult, StepStatus, Tool, ToolContext
from planloom.errors import ArgumentsError, PlanError
from planloom.plan.schemas import value_problems
from tests.executors.tools import beside, fine, made


async def _never_awaited() -> int:
    return 1


class _Custom:
    pass


def _circle() -> Any:
    found: list[Any] = []
    found.append(found)
    return found


NO_JSON = {
    "object": _Custom,
    "bytes": lambda: b"bytes",
    "not a number": lambda: float("nan"),
    "coroutine": lambda: _never_awaited(),
    "generator": lambda: (n for n in range(3)),
    "error": lambda: ValueError("an error as a value"),
    "circle": _circle,
    "number as a key": lambda: {1: 2},
    "file": lambda: sys.stdout,
    "deep": lambda: __import__("functools").reduce(lambda inner, _: [inner], range(5_000), 1),
    "half a surrogate pair": lambda: "\udc00",
}


@pytest.mark.parametrize("what", NO_JSON)
@pytest.mark.parametrize("is_async", [True, False])
def test_a18_what_is_no_json_is_an_output_error(what: str, is_async: bool) -> None:
    make = NO_JSON[what]

    def sync_bad() -> Any:
        return make()

    async def async_bad() -> Any:
        return make()

    result = beside(made(async_bad if is_async else sync_bad))

    assert result.step("bad").status is StepStatus.FAILED
    assert result.step("bad").error_kind == "output"
    assert result.step("bad").output is None


def test_a_megabyte_on_stdout_is_the_tool_s_own_business(capfd: pytest.CaptureFixture[str]) -> None:
    def bad() -> str:
        sys.stdout.write("x" * 1_000_000)
        return "done"

    assert beside(made(bad)).step("bad").output == "done"
    assert len(capfd.readouterr().out) >= 1_000_000


@pytest.mark.slow
def test_twenty_megabytes_of_output_go_through_a_durable_run(tmp_path: Any) -> None:
    text = "0123456789" * 2_000_000

    async def large() -> str:
        return text

    async def length(text: str) -> int:
        return len(text)

    async def main() -> RunResult:
        plan = {
            "planloom": 1,
            "steps": [
                {"id": "a", "tool": "large"},
                {"id": "b", "tool": "length", "with": {"text": "${{ steps.a.output }}"}},
            ],
        }
        tools = [Tool.from_function(large, effects="none"), Tool.from_function(length, effects="none")]
        async with Engine(tmp_path / "runs.db", tools=tools) as engine:
            await engine.run(plan, run_id="r")
        async with Engine(tmp_path / "runs.db", tools=tools) as engine:
            return await engine.result_of("r")

    result = asyncio.run(main())

    assert result.output == 20_000_000
    assert result.step("a").output == text


def test_a_tool_that_changes_its_arguments_changes_nothing_else() -> None:
    async def bad(value: list[Any]) -> str:
        value.append("changed")
        value[0]["deep"] = "changed"
        return "done"

    async def main() -> RunResult:
        inputs = {"value": [{"deep": 1}]}
        plan = {
            "planloom": 1,
            "steps": [
                {"id": "give", "tool": "fine", "with": {"value": "${{ inputs.value }}"}},
                {"id": "x", "tool": "bad", "with": {"value": "${{ steps.give.output }}"}},
                {"id": "y", "tool": "bad", "with": {"value": "${{ inputs.value }}"}, "needs": ["x"]},
                {"id": "z", "tool": "bad", "with": {"value": [{"deep": 1}]}, "needs": ["y"]},
                {"id": "see", "tool": "fine", "needs": ["z"], "with": {"value": "${{ steps.give.output }}"}},
                {"id": "look", "tool": "fine", "needs": ["z"], "with": {"value": "${{ inputs.value }}"}},
            ],
            "outputs": ["${{ steps.see.output }}", "${{ steps.look.output }}"],
        }
        async with Engine(tools=[made(bad), fine]) as engine:
            first = await engine.run(plan, inputs)
            assert inputs == {"value": [{"deep": 1}]}
            assert (await engine.run(plan, inputs)).output == first.output
            return first

    assert asyncio.run(main()).output == [[{"deep": 1}], [{"deep": 1}]]


def test_an_object_that_a_tool_returns_and_goes_on_changing_stays_as_it_was_on_record() -> None:
    kept: list[int] = []

    async def bad() -> list[int]:
        kept.append(len(kept))
        return kept

    async def main() -> tuple[RunResult, RunResult]:
        plan = {"planloom": 1, "steps": [{"id": n, "tool": "bad"} for n in ("a", "b", "c")]}
        async with Engine(tools=[made(bad)]) as engine:
            result = await engine.run(plan, run_id="r", parallel=False)
            kept.append(99)
            return result, await engine.result_of("r")

    result, again = asyncio.run(main())

    assert [step.output for step in result.steps] == [[0], [0, 1], [0, 1, 2]]
    assert [step.output for step in again.steps] == [[0], [0, 1], [0, 1, 2]]


def test_whoever_changes_a_result_in_hand_does_not_change_the_record() -> None:
    async def main() -> tuple[Any, Any]:
        plan = {"planloom": 1, "steps": [{"id": "a", "tool": "fine", "with": {"value": [1]}}]}
        async with Engine(tools=[fine]) as engine:
            result = await engine.run(plan, run_id="r")
            result.output.append("changed")
            result.step("a").output.append("changed")
            told = await engine.result_of("r")
            return told.output, told.step("a").output

    assert asyncio.run(main()) == ([1], [1])


def test_inputs_that_do_not_match_are_refused_before_anything_runs() -> None:
    calls: list[int] = []

    async def bad(number: int) -> int:
        calls.append(number)
        return number

    async def main(plan: dict[str, Any], inputs: dict[str, Any]) -> RunResult:
        async with Engine(tools=[made(bad)]) as engine:
            return await engine.run(plan, inputs)

    plan = {
        "planloom": 1,
        "inputs": {"n": {"type": "integer"}},
        "steps": [
            {"id": "first", "tool": "bad", "with": {"number": 1}},
            {"id": "a", "tool": "bad", "with": {"number": "${{ inputs.n }}"}},
        ],
    }
    for inputs in ({}, {"n": "x"}, {"n": 1, "m": 2}, {"n": object()}):
        with pytest.raises(PlanError):
            asyncio.run(main(plan, inputs))
    with pytest.raises(PlanError) as caught:
        asyncio.run(main({"planloom": 1, "steps": [{"id": "a", "tool": "bad", "with": {"numbr": 1}}]}, {}))
    assert {type(problem) for problem in caught.value.problems} == {ArgumentsError}
    assert calls == []


def test_an_argument_that_turns_out_wrong_at_run_time_is_an_input_failure_and_no_call() -> None:
    calls: list[int] = []

    async def bad(number: int) -> int:
        calls.append(number)
        return number

    result = beside(made(bad), **{"with": {"number": "${{ steps.one.output }}"}})

    assert calls == []
    assert result.step("bad").error_kind == "input"
    assert "number" in (result.step("bad").error or "")


def test_what_a_failed_attempt_said_it_cost_counts() -> None:
    async def bad(context: ToolContext) -> None:
        context.report_cost(2.5)
        raise ValueError("paid for nothing")

    result = beside(made(bad))

    assert result.cost_usd == 2.5
    assert result.step("bad").cost_usd == 2.5


def test_a_pattern_in_a_plans_output_schema_cannot_run_away() -> None:
    """Python's own engine would be at it for longer than the universe is old."""
    plan = {
        "planloom": 1,
        "steps": [{"id": "a", "tool": "t", "output": {"type": "string", "pattern": "^(a|aa)+$"}}],
    }

    async def hostile() -> str:
        return "a" * 300 + "!"

    async def main() -> RunResult:
        async with Engine(tools=[Tool.from_function(hostile, name="t", effects="none")]) as engine:
            return await asyncio.wait_for(engine.run(plan), 20)

    result = asyncio.run(main())

    assert result.step("a").error_kind == "output"
    assert "pattern" in str(result.error) or "match" in str(result.error)


def test_holding_a_value_against_a_schema_leaves_the_context_as_it_was() -> None:
    before = copy_context()

    assert value_problems({"a": 1}, {"type": "object", "properties": {"a": {"type": "string"}}})

    after = copy_context()
    assert dict(after.items()) == dict(before.items())
