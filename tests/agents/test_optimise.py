"""Optimised plans: less is written, and every run comes to the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planloom import Engine, ToolRegistry
from planloom.agents.optimise import optimise
from planloom.core.result import RunResult
from planloom.plan.graph import compile_plan
from planloom.plan.load import load_plan
from planloom.plan.model import Plan
from planloom.testing.fakes import CallLog, fake_tool

JOINS = ("all_success", "none_failed_min_one_success", "all_done", "none_failed", "one_success", "always")


def broken(**_: Any) -> Any:
    raise RuntimeError("kaboom")


def tools(log: CallLog | None = None) -> ToolRegistry:
    return ToolRegistry(
        [
            fake_tool("t.give", log=log),
            fake_tool("t.break", broken, log=log),
            fake_tool("t.pay", effects="once", log=log),
        ]
    )


def plan_of(*steps: dict[str, Any], **fields: Any) -> Plan:
    return load_plan({"planloom": 1, "steps": list(steps), **fields})


def step(name: str, *needs: Any, tool: str = "t.give", **fields: Any) -> dict[str, Any]:
    return {"id": name, "tool": tool, "needs": list(needs), **fields}


def run(plan: Plan, log: CallLog | None = None) -> RunResult:
    async def main() -> RunResult:
        async with Engine(tools=tools(log)) as engine:
            return await engine.run(plan, {"n": 1})

    return asyncio.run(main())


def needs_of(plan: Plan) -> dict[str, tuple[Any, ...]]:
    return {one.id: one.needs for one in plan.steps}


def test_a8_a_need_that_others_imply_is_removed_and_the_result_stays() -> None:
    plan = plan_of(
        step("a", **{"with": {"x": 1}}),
        step("b", "a", **{"with": {"x": "${{ steps.a.output.x }}"}}),
        step("c", "a", "b", **{"with": {"x": "${{ steps.b.output.x }}"}}),
        step("d", "a", "c"),
    )

    better = optimise(plan, tools())

    assert needs_of(better) == {"a": (), "b": (), "c": (), "d": ("c",)}
    assert run(better).output == run(plan).output


def test_a_reference_keeps_its_edge_however_long_the_way_round_is() -> None:
    plan = plan_of(step("a"), step("b", "a"), step("c", "b", **{"with": {"x": "${{ steps.a.output }}"}}))

    better = optimise(plan, tools())

    assert compile_plan(better).steps[2].upstream == (0, 1)


def test_a_plan_with_nothing_to_gain_is_returned_itself() -> None:
    plan = plan_of(step("a"), step("b", "a"), step("c", "b"))

    assert optimise(plan, tools()) is plan


@pytest.mark.parametrize(
    "between",
    [
        step("b", "a", join="all_done"),
        step("b", {"step": "a", "when": "steps.a.output.x == 1"}),
    ],
    ids=["a join that takes failures", "an edge with a condition"],
)
def test_a_need_stays_where_a_failure_might_not_come_through(between: dict[str, Any]) -> None:
    plan = plan_of(step("a", tool="t.break"), between, step("c", "a", "b"), fail_fast=False)

    assert needs_of(optimise(plan, tools()))["c"] == ("a", "b")


def test_needs_of_a_step_that_takes_less_than_success_are_left_alone() -> None:
    plan = plan_of(step("a"), step("b", "a"), step("c", "a", "b", join="one_success"))

    assert optimise(plan, tools()) is plan


def test_a_need_with_a_condition_is_never_removed() -> None:
    conditional = {"step": "a", "when": "true"}
    plan = plan_of(step("a"), step("b", "a"), step("c", "b", conditional, join="all_success"))

    assert len(needs_of(optimise(plan, tools()))["c"]) == 2


def test_a_step_that_does_what_another_does_is_done_once() -> None:
    log = CallLog()
    plan = plan_of(
        step("a", **{"with": {"x": 1}}),
        step("b", description="the same", **{"with": {"x": 1}}),
        step("c", **{"with": {"both": ["${{ steps.a.output.x }}", "${{ steps['b'].output.x }}"]}}),
        step("d", when='steps.b.status == "completed"', **{"with": {"say": "b gave ${{ steps.b.output.x }}, $${{ b"}}),
        outputs={"c": "${{ steps.c.output }}", "d": "${{ steps.d.output }}", "b": "${{ steps.b.output }}"},
    )
    expected = run(plan).output

    better = optimise(plan, tools())

    assert [one.id for one in better.steps] == ["a", "c", "d"]
    assert run(better, log).output == expected
    assert log.of("t.give").count({"x": 1}) == 1


def test_what_two_same_steps_lead_to_is_merged_as_well() -> None:
    plan = plan_of(
        step("a", **{"with": {"x": 1}}),
        step("b", **{"with": {"x": 1}}),
        step("a2", **{"with": {"y": "${{ steps.a.output }}"}}),
        step("b2", **{"with": {"y": "${{ steps['a'].output }}"}}),
        step("b3", **{"with": {"y": "${{ steps.b.output }}"}}),
        step("end", "a2", "b2", "b3"),
    )

    better = optimise(plan, tools())

    # b2 writes its reference in its own way, so it stays; what led to b was written anew.
    assert [one.id for one in better.steps] == ["a", "a2", "b2", "b3", "end"]
    assert compile_plan(better).steps[3].upstream == (0,)
    assert run(better).output == run(plan).output


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (step("a", tool="t.pay"), step("b", tool="t.pay")),
        ({"id": "a", "model": "default", "prompt": "hi"}, {"id": "b", "model": "default", "prompt": "hi"}),
        (step("a", **{"with": {"x": 1}}), step("b", **{"with": {"x": True}})),
        (step("a", **{"with": {"x": "1"}}), step("b", **{"with": {"x": 1}})),
        (step("a"), step("b", when="false")),
        (step("a"), step("b", on_error="continue")),
    ],
    ids=["once", "model", "another value", "another type", "a condition", "another end"],
)
def test_steps_that_may_come_to_something_else_stay_apart(first: dict[str, Any], second: dict[str, Any]) -> None:
    plan = plan_of(first, second, step("end", "a", "b"))

    assert [one.id for one in optimise(plan, tools()).steps] == ["a", "b", "end"]


def test_without_the_tools_only_what_a_step_says_itself_counts() -> None:
    quiet, plain = {"effects": "none"}, {}
    silent = plan_of(step("a", **plain), step("b", **plain), step("end", "a", "b"))
    said = plan_of(step("a", **quiet), step("b", **quiet), step("end", "a", "b"))

    assert len(optimise(silent).steps) == 3
    assert len(optimise(said).steps) == 2


def test_last_steps_stay_apart_while_their_outputs_are_the_runs() -> None:
    plan = plan_of(step("a", **{"with": {"x": 1}}), step("b", **{"with": {"x": 1}}))

    assert optimise(plan, tools()) is plan
    assert run(plan).output == {"a": {"x": 1}, "b": {"x": 1}}


def test_steps_that_nothing_uses_stay_unless_told_otherwise() -> None:
    plan = plan_of(
        step("used"),
        step("above", **{"with": {"x": 1}}),
        step("unused", "above"),
        step("paid", tool="t.pay"),
        outputs="${{ steps.used.output }}",
    )

    assert optimise(plan, tools()) is plan
    assert [one.id for one in optimise(plan, tools(), drop_unused=True).steps] == ["used", "paid"]


def test_sub_plans_are_optimised_too() -> None:
    inner = {"planloom": 1, "steps": [step("a"), step("b", "a"), step("c", "a", "b")]}
    plan = plan_of({"id": "sub", "plan": inner})

    made = optimise(plan, tools()).steps[0].plan

    assert isinstance(made, Plan)
    assert needs_of(made)["c"] == ("b",)


def test_a_long_chain_with_needs_on_everything_before_takes_no_time() -> None:
    names = [f"s{n}" for n in range(150)]
    plan = plan_of(*(step(name, *names[:at]) for at, name in enumerate(names)))

    better = optimise(plan, tools())

    assert [one.needs for one in better.steps][1:] == [(name,) for name in names[:-1]]


# --- at random --------------------------------------------------------------------------------


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Any]:
    """Return a plan with many edges and few different steps, so that there is much to gain."""
    steps: list[dict[str, Any]] = []
    for at in range(draw(st.integers(2, 8))):
        above = [one["id"] for one in steps]
        made = step(f"s{at}", tool=draw(st.sampled_from(["t.give"] * 6 + ["t.break", "t.pay"])))
        made["with"] = {"x": draw(st.integers(0, 1))}
        for name in above:
            how = draw(st.sampled_from(["", "", "need", "need", "refer", "quoted", "condition"]))
            if how == "need":
                made["needs"].append(name)
            elif how == "refer":
                made["with"]["from"] = f"${{{{ default(steps.{name}.output, 0) }}}} $${{{{ steps.{name}"
            elif how == "quoted":
                made["with"]["in"] = {"text": f'${{{{ default(steps["{name}"].output.x, "steps.{name}.output") }}}}'}
            elif how == "condition" and draw(st.booleans()):
                made["needs"].append({"step": name, "when": draw(st.sampled_from(["true", "false"]))})
        if draw(st.integers(0, 5)) == 0:
            made["join"] = draw(st.sampled_from(JOINS))
        if draw(st.integers(0, 5)) == 0:
            made["on_error"] = draw(st.sampled_from(["skip", "continue"]))
        if draw(st.integers(0, 8)) == 0:
            made["when"] = draw(st.sampled_from(["true", "false", "inputs.n == 1"]))
        if draw(st.integers(0, 8)) == 0:
            made["for_each"] = [1, 2]
        steps.append(made)
    document: dict[str, Any] = {"planloom": 1, "steps": steps, "fail_fast": False}
    if draw(st.booleans()):
        ends = draw(st.lists(st.integers(0, len(steps) - 1), min_size=1, max_size=3))
        document["outputs"] = {
            f"o{at}": f"${{{{ default(steps.s{end}.output, null) }}}}" for at, end in enumerate(ends)
        }
    return document


def told(result: RunResult) -> Any:
    return result.status, result.output, {one.id: (one.status, one.skip_reason, one.output) for one in result.steps}


@pytest.mark.slow
@settings(max_examples=150)
@given(plans())
def test_a8_random_plans_come_to_the_same_before_and_after(document: dict[str, Any]) -> None:
    plan = load_plan(document)
    better = optimise(plan, tools())

    before, after = told(run(plan)), told(run(better))

    assert after[:2] == before[:2]
    assert {name: before[2][name] for name in after[2]} == after[2]
