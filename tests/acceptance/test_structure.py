"""A1-A7: which plans run at all, and in what order their steps do."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import Any

import pytest

from planloom import Plan, PlanError, Step, execute_plan, load_plan, run_plan
from planloom.core.result import SkipReason
from planloom.errors import (
    ArgumentsError,
    CycleError,
    DuplicateStepError,
    ExpressionError,
    UnknownStepError,
    UnknownToolError,
)
from planloom.testing.fakes import CallLog, fake_tool

needs_text = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def say(**args: Any) -> Any:
    return args.get("value")


BAD_PLANS: dict[str, tuple[type[PlanError], str, list[dict[str, Any]]]] = {
    "cycle": (
        CycleError,
        "a -> ",
        [
            {"id": "a", "tool": "say", "needs": ["c"]},
            {"id": "b", "tool": "say", "needs": ["a"]},
            {"id": "c", "tool": "say", "needs": ["b"]},
        ],
    ),
    "unknown dependency": (UnknownStepError, "zzz", [{"id": "a", "tool": "say", "needs": ["zzz"]}]),
    "duplicate id": (DuplicateStepError, "'a'", [{"id": "a", "tool": "say"}, {"id": "a", "tool": "say"}]),
    "self-edge": (CycleError, "a -> a", [{"id": "a", "tool": "say", "needs": ["a"]}]),
    "unknown tool": (UnknownToolError, "sya", [{"id": "a", "tool": "sya"}]),
    "missing parameter": (ArgumentsError, "text", [{"id": "a", "tool": "strict"}]),
    "unknown step in a reference": (
        UnknownStepError,
        "nope",
        [{"id": "a", "tool": "say", "with": {"value": "${{ steps.nope.output }}"}}],
    ),
}


@pytest.mark.parametrize("bad", BAD_PLANS)
def test_a1_a_bad_plan_is_refused_before_anything_runs(bad: str) -> None:
    error, text, steps = BAD_PLANS[bad]
    log = CallLog()
    tools = [fake_tool("say", say, log=log), fake_tool("side", log=log)]
    tools.append(type(tools[0]).from_schema("strict", lambda text: text, needs_text, effects="none"))
    plan = {"planloom": 1, "steps": [{"id": "d", "tool": "side"}, *steps]}

    with pytest.raises(PlanError) as caught:
        asyncio.run(execute_plan(plan, tools=tools))

    assert error in {type(problem) for problem in caught.value.problems}
    assert text in str(caught.value)
    assert all(problem.remedy for problem in caught.value.problems)
    assert len(log) == 0


def sleeping(log: list[tuple[str, str, float]]) -> Any:
    async def sleep(name: str, seconds: float) -> str:
        log.append((name, "start", time.monotonic()))
        await asyncio.sleep(seconds)
        log.append((name, "end", time.monotonic()))
        return name

    return fake_tool("sleep", sleep)


def sleep_step(name: str, seconds: float, *needs: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "tool": "sleep", "needs": list(needs), "with": {"name": name, "seconds": seconds}, **fields}


def when(log: list[tuple[str, str, float]], name: str, what: str) -> float:
    return next(at for who, did, at in log if (who, did) == (name, what))


@pytest.mark.slow
def test_a2_a_step_starts_when_its_own_needs_are_there_and_not_when_a_level_is_done() -> None:
    log: list[tuple[str, str, float]] = []
    steps = [sleep_step("a", 0.1), sleep_step("b", 0.4), sleep_step("c", 0.4, "a"), sleep_step("d", 0.1, "b")]

    result = run_plan({"planloom": 1, "steps": steps}, tools=[sleeping(log)])

    assert when(log, "c", "start") < when(log, "b", "end")
    assert result["latency_ms"] < 700  # 500 are needed; waiting for levels would take 800


@pytest.mark.parametrize(
    "edges",
    [{"a": [], "b": ["a"], "c": ["a", "b"]}, {"a": [], "b": ["a"], "d": ["b"], "c": ["a", "d"]}],
    ids=["triangle", "skewed"],
)
@pytest.mark.parametrize("parallel", [True, False])
def test_a3_steps_run_after_everything_they_need(edges: dict[str, list[str]], parallel: bool) -> None:
    log = CallLog()
    steps = [{"id": n, "tool": "say", "needs": needs, "with": {"value": n}} for n, needs in reversed(edges.items())]

    result = run_plan({"planloom": 1, "steps": steps}, tools=[fake_tool("say", say, log=log)], parallel=parallel)

    order = [args["value"] for args in log.of("say")]
    assert result["status"] == "success"
    assert sorted(order) == sorted(edges)
    assert all(order.index(need) < order.index(name) for name, needs in edges.items() for need in needs)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["chain", "fan-in"])
@pytest.mark.parametrize("native", [True, False])
def test_a4_ten_thousand_steps_are_a_plan_like_any_other(shape: str, native: bool) -> None:
    count = 10_000
    if shape == "chain":
        needs = [[] if n == 0 else [str(n - 1)] for n in range(count)]
    else:
        needs = [[] for _ in range(count - 1)] + [[str(n) for n in range(count - 1)]]
    began = time.monotonic()
    plan: Any
    if native:
        plan = Plan(steps=tuple(Step(id=str(n), tool="say", needs=tuple(above)) for n, above in enumerate(needs)))
    else:
        plan = {
            "planloom": 1,
            "steps": [{"id": str(n), "tool": "say", "needs": above} for n, above in enumerate(needs)],
        }

    result = run_plan(plan, tools=[fake_tool("say", say)])

    assert result["status"] == "success"
    assert result["steps_completed"] == count
    assert time.monotonic() - began < 60  # benchmarks say how fast it is; this only says that it is no square of it


GIVES = {"v": [1, {"k": 2}]}


def data_plan(value: Any) -> dict[str, Any]:
    return {
        "task": "data",
        "steps": [
            {"id": "a", "tool": "give", "input": {}},
            {"id": "b", "tool": "say", "input": {"value": value}, "depends_on": ["a"]},
        ],
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("step:a.v[1].k", 2),
        ("{{a.v[1].k}}", 2),
        ("x{{a.v[1].k}}", "x2"),
        ("${{ steps.a.output.v }}", [1, {"k": 2}]),
    ],
)
def test_a5_a_reference_gives_the_value_in_its_type_and_in_a_text_as_text(value: str, expected: Any) -> None:
    tools = [fake_tool("give", lambda: GIVES), fake_tool("say", say)]

    result = asyncio.run(execute_plan(data_plan(value), tools=tools))

    assert result["steps"][1]["output"] == expected
    assert type(result["steps"][1]["output"]) is type(expected)


def test_a5_a_missing_path_names_the_step_the_path_and_what_is_there() -> None:
    tools = [fake_tool("give", lambda: GIVES), fake_tool("say", say)]

    result = asyncio.run(execute_plan(data_plan("step:a.w.k"), tools=tools, on_error="return"))

    error = result["steps"][1]["error"]
    assert result["steps"][1]["error_kind"] == "input"
    assert "steps.a.output" in error
    assert "'w'" in error
    assert "keys there are v" in error


def test_a5_an_unknown_step_is_refused_before_the_run() -> None:
    log = CallLog()
    tools = [fake_tool("give", lambda: GIVES, log=log), fake_tool("say", say, log=log)]

    with pytest.raises(UnknownStepError):
        asyncio.run(execute_plan(data_plan("step:zzz.v"), tools=tools))
    assert len(log) == 0


@pytest.mark.slow
def test_a6_one_plan_object_runs_a_hundred_times_at_once_without_mixing_anything() -> None:
    async def twice(**args: Any) -> int:
        await asyncio.sleep(0.001 * (args["n"] % 7))
        return args["n"] * 2

    plan = load_plan(
        {
            "planloom": 1,
            "inputs": {"i": {"type": "integer"}},
            "steps": [
                {"id": "a", "tool": "twice", "with": {"n": "${{ inputs.i }}"}},
                {"id": "b", "tool": "twice", "with": {"n": "${{ steps.a.output }}"}},
            ],
        }
    )
    before = plan.canonical_json, plan.to_dict()

    async def main() -> list[dict[str, Any]]:
        tools = [fake_tool("twice", twice)]
        return await asyncio.gather(*(execute_plan(plan, context={"i": i}, tools=tools) for i in range(100)))

    results = asyncio.run(main())

    assert [result["result"] for result in results] == [4 * i for i in range(100)]
    assert (plan.canonical_json, plan.to_dict()) == before
    assert len({result["run_id"] for result in results}) == 100


@pytest.mark.slow
def test_a7_sequential_steps_never_overlap_and_others_do() -> None:
    log: list[tuple[str, str, float]] = []
    steps = [sleep_step(name, 0.1, mode="sequential") for name in ("a", "b", "c")] + [sleep_step("d", 0.1)]

    result = run_plan({"planloom": 1, "steps": steps}, tools=[sleeping(log)])

    spans = sorted((when(log, name, "start"), when(log, name, "end")) for name in ("a", "b", "c"))
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert when(log, "d", "start") < spans[0][1]
    assert result["latency_ms"] >= 299


def test_a7_a_false_condition_skips_the_step_and_what_needs_it_and_the_run_is_partial() -> None:
    log = CallLog()
    steps = [
        {"id": "a", "tool_name": "say", "run_if": "{{wanted}}"},
        {"id": "b", "tool_name": "say", "depends_on": ["a"]},
        {"id": "c", "tool_name": "say"},
    ]

    result = run_plan({"steps": steps}, context={"wanted": False}, tools=[fake_tool("say", say, log=log)])

    assert [step["status"] for step in result["steps"]] == ["skipped", "skipped", "completed"]
    assert result["steps"][0]["skip_reason"] == SkipReason.CONDITION_FALSE
    assert result["steps"][1]["skip_reason"] == SkipReason.UPSTREAM_SKIPPED
    assert result["status"] == "partial"
    assert len(log) == 1


@pytest.mark.parametrize("condition", ["__import__('os').system('true')", "().__class__", "inputs.__class__", "a.b()"])
def test_a7_a_condition_that_is_python_is_refused(condition: str) -> None:
    log = CallLog()
    plan = {"planloom": 1, "steps": [{"id": "d", "tool": "say"}, {"id": "a", "tool": "say", "when": condition}]}

    with pytest.raises(PlanError) as caught:
        run_plan(plan, tools=[fake_tool("say", say, log=log)])

    assert any(isinstance(problem, ExpressionError | UnknownStepError) for problem in caught.value.problems)
    assert len(log) == 0


def test_a7_an_empty_plan_is_a_success_of_nothing() -> None:
    result = run_plan({"planloom": 1, "steps": []}, tools=[])

    assert (result["status"], result["result"], result["steps_completed"]) == ("success", None, 0)
    assert result["parallel_efficiency"] == 1.0
