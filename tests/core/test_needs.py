"""What is set aside for a step: enough for all its executors may ask, and nothing begins without it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planloom import Engine, RunResult
from planloom.core.asking import ANSWER_BYTES, VERDICT_PROMPT_BYTES, prompt_ceiling
from planloom.core.budget import ONE_CALL, Claim
from planloom.core.chat import LLMResponse, ModelCall, ToolCall
from planloom.core.events import RunStarted, ToolFacts
from planloom.core.machine import RunMachine
from planloom.core.prices import ModelFacts, ModelPrice
from planloom.core.result import Usage
from planloom.models.scripted import FunctionModel
from planloom.plan.policy import Effects, ResourceLimits
from planloom.testing.fakes import CallLog, fake_tool
from tests.core.driving import Drive, plan

MODELS = {name: ModelFacts(f"x://{name}", price=ModelPrice(1.0, 2.0), max_tokens=100) for name in ("m", "d", "j")}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
VERDICT = {"is_valid": True, "score": 0.9, "reason": "ok"}
SCORES = {"scores": dict.fromkeys(("relevance", "accuracy", "completeness", "clarity"), 0.9), "critique": "ok"}
DOLLARS = 1_000_000.0


def claim_of(step: dict[str, Any], *, tools: dict[str, ToolFacts] | None = None, limit_usd: float = DOLLARS) -> Claim:
    limits = ResourceLimits(max_total_cost_usd=limit_usd, max_total_tokens=10**12)
    drive = Drive(plan({"id": "s"} | step), limits=limits, models=MODELS, tools=tools)
    claim = drive.machine.state.nodes["s"].claim
    assert claim is not None
    return claim


def asking(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": "Go."} | fields


# --- one by one -----------------------------------------------------------------------------------


def test_a_predicted_draft_has_no_judge_and_is_told_to_the_steps_own_model() -> None:
    plainly = claim_of(asking())
    drafted = claim_of(asking(speculate={"draft": "d", "policy": "predicted"}))
    judged = claim_of(asking(speculate={"draft": "d", "policy": "cascade", "judge": "j"}))

    prediction, prompt = 100 * ANSWER_BYTES, plainly.tokens - 100
    assert plainly.tokens * 2 + prediction <= drafted.tokens <= plainly.tokens * 2 + prediction + 100
    assert 0 <= judged.tokens - 2 * plainly.tokens - prompt - prediction - VERDICT_PROMPT_BYTES <= 100


def test_a_draft_may_answer_as_long_as_its_own_model_does() -> None:
    models = MODELS | {"d": ModelFacts("x://d", price=ModelPrice(1.0, 2.0), max_tokens=5_000)}
    limits = ResourceLimits(max_total_cost_usd=DOLLARS)
    step = {"id": "s"} | asking(speculate={"draft": "d", "policy": "predicted"})

    claim = Drive(plan(step), limits=limits, models=models).machine.state.nodes["s"].claim

    assert claim is not None
    assert claim.tokens > 5_000 * (1 + ANSWER_BYTES)


def test_a_step_with_tools_is_not_drafted_so_nothing_is_set_aside_for_it() -> None:
    drafted = claim_of(asking(tools=["t"], speculate={"draft": "d", "policy": "cascade"}))

    assert drafted.tokens == claim_of(asking(tools=["t"])).tokens


def test_every_answer_after_the_first_brings_its_draft_its_mending_and_its_verdict_with_it() -> None:
    verify = {"strategy": "model", "model": "j", "refinement": "retry", "max_attempts": 2}
    once = claim_of(asking(output=SCHEMA, verify=verify | {"max_attempts": 1}))
    twice = claim_of(asking(output=SCHEMA, verify=verify))

    assert twice.tokens == once.tokens
    assert twice.spare_tokens - once.spare_tokens == once.tokens + once.spare_tokens


def test_a_tool_step_that_is_judged_needs_its_call_and_one_verdict() -> None:
    tools = {"t": ToolFacts("d", Effects.NONE, cost_per_call_usd=2.0, memory_mb=3.0)}
    verify = {"strategy": "model", "model": "j", "refinement": "retry", "max_attempts": 3}

    claim = claim_of({"tool": "t", "verify": verify}, tools=tools)

    assert (claim.calls, claim.spare_calls, claim.memory_mb, claim.metered) == (1, 2, 3.0, True)
    assert 2.0 < claim.cost_usd < 2.1
    assert 4.0 < claim.spare_usd < 5.1


def test_samples_of_a_tool_are_made_at_once_so_all_of_them_are_paid_for_before() -> None:
    tools = {"t": ToolFacts("d", Effects.NONE, cost_per_call_usd=2.0)}

    claim = claim_of({"tool": "t", "verify": {"strategy": "self_consistency", "samples": 4}}, tools=tools)

    assert (claim.calls, claim.spare_calls, claim.cost_usd, claim.tokens) == (1, 3, 8.0, 0)


def test_a_tool_whose_result_no_model_sees_is_claimed_as_any() -> None:
    checked = {"tool": "t", "verify": {"strategy": "validator", "validators": ["pii"]}}

    assert claim_of(checked) is ONE_CALL


def test_without_facts_of_the_judge_there_is_no_money_part() -> None:
    step = {"tool": "t", "verify": {"strategy": "model", "model": "nobody", "refinement": "retry"}}

    claim = claim_of(step)

    assert (claim.cost_usd, claim.tokens, claim.spare_calls) == (0.0, 0, 2)


def test_a_judged_tool_that_fails_costs_what_it_declares_and_no_verdict() -> None:
    tools = {"t": ToolFacts("d", Effects.NONE, cost_per_call_usd=2.0)}
    step = {"id": "s", "tool": "t", "verify": {"strategy": "model", "model": "j"}}
    drive = Drive(plan(step), limits=ResourceLimits(max_total_cost_usd=9.0), models=MODELS, tools=tools)

    drive.fail("s")

    assert drive.result.cost_usd == drive.result.step("s").cost_usd == 2.0


def test_a_further_call_of_a_judged_tool_that_does_not_fit_the_money_is_not_made() -> None:
    log = CallLog()
    look = fake_tool("look", log=log, cost_per_call=1.0)
    verify = {"strategy": "model", "model": "judge", "refinement": "retry", "max_attempts": 9}
    judge = FunctionModel(lambda call: VERDICT | {"is_valid": False}, price=ModelPrice(0.0, 0.0, per_request=0.01))

    result = run({"tool": "look", "verify": verify}, {"judge": judge}, [look], ResourceLimits(max_total_cost_usd=3.5))

    assert len(log) == 3
    assert result.cost_usd == pytest.approx(3.03)
    assert result.exceeded_limits == ("max_total_cost_usd",)


def test_a_further_call_that_fails_is_paid_like_those_before_it() -> None:
    look = fake_tool("look", [1, RuntimeError("down")], cost_per_call=1.0)
    verify = {"strategy": "model", "model": "judge", "refinement": "retry"}
    judge = FunctionModel(lambda call: VERDICT | {"is_valid": False}, price=ModelPrice(0.0, 0.0, per_request=0.01))

    result = run({"tool": "look", "verify": verify}, {"judge": judge}, [look], ResourceLimits(max_total_cost_usd=9.0))

    assert result.cost_usd == pytest.approx(2.01)


# --- any step, the worst models ---------------------------------------------------------------------


def run(step: dict[str, Any], models: dict[str, FunctionModel], tools: list[Any], limits: ResourceLimits) -> RunResult:
    return asyncio.run(_run(step, models, tools, limits))[0]


async def _run(
    step: dict[str, Any], models: dict[str, FunctionModel], tools: list[Any], limits: ResourceLimits
) -> tuple[RunResult, Claim]:
    """Return what came of the step, and what its heart had set aside for it."""
    async with asyncio.timeout(10), Engine(models=models, tools=tools) as engine:
        result = await engine.run({"planloom": 1, "steps": [{"id": "s"} | step]}, limits=limits, run_id="r")
        started = (await engine.journal.read("r", limit=1))[0].event
    assert isinstance(started, RunStarted)
    machine = RunMachine("r")
    machine.handle(started)
    return result, machine.state.nodes["s"].claim or Claim()


def worst(answer: Callable[[ModelCall], Any]) -> FunctionModel:
    """Return a model that uses all tokens its calls may take."""

    def respond(call: ModelCall) -> LLMResponse:
        said = answer(call)
        used = Usage(prompt_ceiling(call), call.max_tokens or 0, requests=1)
        wishes = tuple(said) if isinstance(said, list) else ()
        text = "" if wishes else said if isinstance(said, str) else json.dumps(said)
        return LLMResponse(text, "scripted", "function", used, {}, wishes)

    return FunctionModel(respond, price=ModelPrice(1.0, 7.0, per_request=0.5))


class World:
    """Models and tools that answer at random, the same again for the same seed, whoever of them is asked first."""

    def __init__(self, seed: int) -> None:
        dice = {name: Random(f"{seed}/{name}") for name in ("m", "d", "j", "look")}
        self.log = CallLog()
        self.models = {name: worst(partial(self.own, dice[name])) for name in ("m", "d")}
        self.models["j"] = worst(partial(self.verdict, dice["j"]))
        results = lambda **_: "r" * dice["look"].choice([0, 10, 8_000])  # noqa: E731
        self.tools = [fake_tool("look", results, log=self.log, cost_per_call=0.25)]

    def own(self, dice: Random, call: ModelCall) -> Any:
        most = ANSWER_BYTES * (call.max_tokens or 0)
        if call.tools and call.tool_choice != "none" and dice.random() < 0.8:
            text = "x" * dice.choice([0, most // 8])
            return [ToolCall(f"c{place}", "look", {"q": text}) for place in range(dice.choice([1, 2, 6]))]
        if call.output is None:
            return dice.choice(["yes", "é" * (most // 2)])
        return dice.choice([{"a": "x" * (most - 9)}, {"a": "y"}, "n" * most])

    def verdict(self, dice: Random, call: ModelCall) -> Any:
        if call.output is None:  # of a draft
            return dice.choice(["9", "0", "?"])
        found = SCORES | {"suggestions": []} if "scores" in call.output["properties"] else VERDICT
        said = "w" * dice.choice([1, 7_000])
        bad = {"scores": dict.fromkeys(SCORES["scores"], 0.1), "critique": said} if "scores" in found else {}
        return dice.choice([found, found | (bad or {"is_valid": False, "reason": said}), "?" * 8_000])

    def asked(self) -> list[Any]:
        return [model.calls for model in self.models.values()] + [self.log.calls]


@st.composite
def steps(draw: st.DrawFn) -> dict[str, Any]:
    """Return a step with what may be on it, of all that asks models."""
    verify: dict[str, Any] = {"strategy": draw(st.sampled_from(["model", "judge", "full", "self_consistency"]))}
    if verify["strategy"] == "self_consistency":
        verify["samples"] = draw(st.integers(2, 4))
    else:
        verify |= {"model": "j", "max_attempts": draw(st.integers(1, 4)), "validators": ["pii"]}
        verify["refinement"] = draw(st.sampled_from(["none", "retry", "feedback", "iterative"]))
    if draw(st.integers(0, 4)) == 0:
        refinement = "retry" if verify.get("refinement", "none") != "none" else "none"
        return {"tool": "look", "verify": verify | {"refinement": refinement}}
    step: dict[str, Any] = {"model": "m", "prompt": "p" * draw(st.integers(1, 300)), "effects": "none"}
    step |= {"max_tokens": draw(st.integers(5, 300))}
    step |= draw(st.sampled_from([{}, {"output": SCHEMA}]))
    step |= {"verify": verify} if draw(st.booleans()) else {}
    policies = st.sampled_from(["auto", "predicted", "hedged", "cascade"])
    speculate = {"draft": "d", "policy": draw(policies), "judge": "j", "allow_lossy": draw(st.booleans())}
    return step | draw(st.sampled_from([{}, {"tools": ["look"]}, {"speculate": speculate}]))


def generous() -> dict[str, Any]:
    return dict.fromkeys(("max_tool_calls", "max_concurrent"), None) | {"timeout_seconds": 30}


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(step=steps(), seed=st.integers(0, 10_000))
def test_with_what_is_set_aside_for_it_a_step_asks_all_it_would_ask_without_a_limit(
    step: dict[str, Any], seed: int
) -> None:
    free, bound, short = World(seed), World(seed), World(seed)
    no_limits = ResourceLimits(max_total_cost_usd=DOLLARS, max_total_tokens=10**12, **generous())
    _, claim = asyncio.run(_run(step, free.models, free.tools, no_limits))
    whole_usd, whole_tokens = claim.cost_usd + claim.spare_usd, claim.tokens + claim.spare_tokens

    limits = ResourceLimits(max_total_cost_usd=whole_usd, max_total_tokens=whole_tokens or None, **generous())
    result = run(step, bound.models, bound.tools, limits)
    starved = run(step, short.models, short.tools, ResourceLimits(max_total_cost_usd=claim.cost_usd * 0.999))

    assert bound.asked() == free.asked()
    assert result.exceeded_limits == ()
    assert (result.cost_usd or 0.0) <= whole_usd
    assert not any(short.asked())
    assert starved.status.value == "limit_exceeded"
