"""Runs with steps whose answers are judged: what the record, the limits and the steps after them see."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from planloom import Engine, RunResult
from planloom.core.prices import ModelPrice
from planloom.core.result import Usage
from planloom.models.scripted import FunctionModel, ScriptedModel
from planloom.ports import Model
from planloom.testing.fakes import CallLog, fake_tool

PRICE = ModelPrice(1.0, 1.0)
YES = {"is_valid": True, "score": 0.9, "reason": "as asked"}
NO = {"is_valid": False, "score": 0.2, "reason": "no source"}


def scripted(*answers: Any, **options: Any) -> ScriptedModel:
    return ScriptedModel(answers, **({"usage": Usage(100, 10, 1), "price": PRICE} | options))


def run(steps: list[dict[str, Any]], models: Mapping[str, Model], *, tools: Any = (), **plan: Any) -> RunResult:
    async def main() -> RunResult:
        async with asyncio.timeout(10), Engine(tools=list(tools), models=models) as engine:
            return await engine.run({"planloom": 1, "steps": steps, **plan}, run_id="r", track_cost=True)

    return asyncio.run(main())


def write(**verify: Any) -> dict[str, Any]:
    verify = {"strategy": "model", "model": "judge"} | verify
    return {"id": "write", "model": "writer", "prompt": "Tell me.", "verify": verify, "max_tokens": 20}


def test_a63_an_answer_that_was_refined_is_what_the_next_step_gets_and_all_of_it_is_counted() -> None:
    log = CallLog()
    models = {"writer": scripted("one", "two"), "judge": scripted(NO, YES)}
    save = {"id": "save", "tool": "save", "with": {"text": "${{ steps.write.output }}"}}

    result = run([write(refinement="feedback"), save], models, tools=[fake_tool("save", log=log)])

    step = result.step("write")
    assert (result.status.value, log.of("save")) == ("success", [{"text": "two"}])
    assert (step.metadata or {})["refinement_attempts"] == 2
    assert step.attempts == 1
    assert (result.usage.total_tokens, result.usage.requests) == (440, 4)
    assert result.cost_usd == pytest.approx(440 / 1_000_000)


def test_what_is_not_good_enough_is_seen_by_nobody_after_it() -> None:
    log = CallLog()
    save = {"id": "save", "tool": "save", "with": {"text": "${{ steps.write.output }}"}}

    result = run(
        [write() | {"on_error": "continue"}, save],
        {"writer": scripted("one"), "judge": scripted(NO)},
        tools=[fake_tool("save", log=log)],
    )

    assert log.of("save") == [{"text": None}]
    assert result.step("write").error_kind == "output"
    assert "no source" in (result.step("write").error or "")
    assert result.usage.total_tokens == 220


def test_the_steps_own_retry_makes_the_whole_attempt_again() -> None:
    models = {"writer": scripted("one", "two"), "judge": scripted(NO, YES)}

    result = run([write() | {"retry": {"max_attempts": 2, "initial_delay": 0}}], models)

    assert (result.output, result.step("write").attempts) == ("two", 2)
    assert result.usage.requests == 4


def test_each_item_of_a_map_is_judged_by_itself() -> None:
    models = {
        "writer": FunctionModel(lambda call: call.messages[-1].content.upper(), price=PRICE),
        "judge": FunctionModel(lambda call: NO if "B" in call.messages[-1].content else YES, price=PRICE),
    }
    each = write() | {"for_each": ["a", "b", "c"], "prompt": "${{ item }}", "on_item_error": "collect"}

    result = run([each], models)

    step = result.step("write")
    assert [part.status.value for part in step.parts] == ["completed", "failed", "completed"]
    assert [error["index"] for error in step.errors] == [1]


def test_a_judge_that_does_not_fit_the_limit_is_not_asked() -> None:
    models = {"writer": scripted("one"), "judge": scripted(YES)}

    result = run([write()], models, limits={"max_total_tokens": 1_000})

    assert (result.status.value, result.exceeded_limits) == ("limit_exceeded", ("max_total_tokens",))
    assert models["judge"].calls == []


def test_money_is_bounded_however_often_an_answer_is_asked_for() -> None:
    models = {
        "writer": scripted("one", repeat_last=True, usage=Usage(100, 20, 1), price=ModelPrice(1_000, 1_000)),
        "judge": scripted(NO, repeat_last=True, usage=Usage(2_000, 500, 1), price=ModelPrice(1_000, 1_000)),
    }

    result = run([write(refinement="iterative", max_attempts=10)], models, limits={"max_total_cost_usd": 25.0})

    assert result.status.value in ("limit_exceeded", "failed")
    assert result.cost_usd is not None
    assert 2.0 < result.cost_usd <= 25.0


def test_extra_calls_of_a_tool_count_against_the_limit_of_calls() -> None:
    log = CallLog()
    look = {"id": "look", "tool": "look", "verify": {"strategy": "model", "model": "judge", "refinement": "retry"}}

    result = run(
        [look],
        {"judge": scripted(NO, NO, YES)},
        tools=[fake_tool("look", [1, 2, 3], log=log)],
        limits={"max_tool_calls": 2, "max_total_cost_usd": None},
    )

    assert len(log) <= 2
    assert result.tool_calls == len(log)


def test_several_samples_are_one_step_of_the_run() -> None:
    models = {"writer": scripted("a", "b", "a")}

    result = run([write(strategy="self_consistency", samples=3, model=None)], models)

    assert (result.output, result.usage.requests, result.step("write").attempts) == ("a", 3, 1)
