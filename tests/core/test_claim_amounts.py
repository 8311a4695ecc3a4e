"""How much is set aside for a step, to the token.

The figures are of record: whoever changes one changes which plans fit their limits, and must mean to.
"""

from __future__ import annotations

from typing import Any

import pytest

from planloom.core.budget import Claim
from planloom.core.events import AgentFacts, ToolFacts
from planloom.core.needs import agent_claim, agent_facts, code_claim, model_claim, rounded_up, verified_claim
from planloom.core.prices import ModelFacts, ModelPrice
from planloom.plan.model import Plan, Step
from planloom.plan.policy import Effects

MODELS = {
    "m": ModelFacts("x://m", price=ModelPrice(1.0, 1_000.0), max_tokens=100),
    "d": ModelFacts("x://d", price=ModelPrice(2.0, 2_000.0), max_tokens=70),
    "j": ModelFacts("x://j", price=ModelPrice(3.0, 3_000.0), max_tokens=50),
    "default": ModelFacts("x://default", price=ModelPrice(4.0, 4_000.0), max_tokens=50),
    "free": ModelFacts("x://free", max_tokens=100),
}
TOOLS = {
    "look": ToolFacts("d", Effects.NONE, 0.5, spec_bytes=300),
    "dear": ToolFacts("d", Effects.NONE, 2.0, memory_mb=3.0),
    "plain": ToolFacts("d", Effects.NONE),
}
AGENTS = {
    "clerk": AgentFacts("d", model="m", cost_per_call_usd=5.0),
    "cheap": AgentFacts("d", model="free"),
    "own": AgentFacts("d", Effects.NONE),
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
ASK: dict[str, Any] = {"model": "m", "prompt": "Go."}
JUDGED: dict[str, Any] = {"strategy": "judge", "model": "j", "max_attempts": 3}
STEPS: dict[str, dict[str, Any]] = {
    "asked": ASK,
    "asked shortly": ASK | {"max_tokens": 7},
    "asked without a price": ASK | {"model": "free"},
    "asked for a value": ASK | {"output": SCHEMA},
    "asked with tools": ASK | {"tools": ["look", "dear", "plain", "gone"]},
    "asked with a tool for a value": ASK | {"tools": ["look"], "output": SCHEMA},
    "drafted, predicted": ASK | {"speculate": {"draft": "d", "policy": "predicted"}},
    "drafted, hedged": ASK | {"speculate": {"draft": "d", "policy": "hedged", "judge": "j"}},
    "drafted, cascade": ASK | {"speculate": {"draft": "d", "policy": "cascade"}},
    "drafted, auto": ASK | {"speculate": {"draft": "d", "policy": "auto", "judge": "j"}},
    "drafted, auto and lossy": ASK | {"speculate": {"draft": "d", "policy": "auto", "judge": "j", "allow_lossy": True}},
    "drafted, compared": ASK | {"speculate": {"draft": "d", "policy": "compare"}},
    "drafted for a value": ASK | {"output": SCHEMA, "speculate": {"draft": "d", "policy": "predicted"}},
    "drafted by nobody": ASK | {"speculate": {"draft": "gone", "policy": "predicted"}},
    "judged once": ASK | {"verify": JUDGED | {"refinement": "none"}},
    "judged and done again": ASK | {"verify": JUDGED | {"refinement": "retry"}},
    "judged and told": ASK | {"verify": JUDGED | {"refinement": "feedback"}},
    "judged and told all": ASK | {"verify": JUDGED | {"refinement": "iterative"}},
    "judged by its own model": ASK | {"verify": {"strategy": "model", "refinement": "none"}},
    "checked only": ASK | {"verify": {"strategy": "validator", "validators": ["pii"], "refinement": "retry"}},
    "sampled": ASK | {"verify": {"strategy": "self_consistency", "samples": 4}},
    "sampled with tools": ASK | {"tools": ["dear"], "verify": {"strategy": "self_consistency", "samples": 2}},
    "judged with tools": ASK | {"tools": ["look"], "verify": JUDGED | {"refinement": "retry"}},
    "a clerk": {"agent": "clerk", "prompt": "Go."},
    "a clerk, twice": {"agent": {"name": "clerk", "max_iterations": 2}, "prompt": "Go."},
    "a clerk, shortly": {"agent": "clerk", "prompt": "Go.", "max_tokens": 7},
    "a clerk, judged": {"agent": "clerk", "prompt": "Go.", "verify": {"strategy": "judge", "refinement": "none"}},
    "a cheap one": {"agent": "cheap", "prompt": "Go."},
    "a program": {"code": {"source": "1"}},
    "a program with tools": {"code": {"source": "1", "tools": ["look", "dear"]}},
    "a program, judged": {"code": {"source": "1", "tools": ["look"]}, "verify": JUDGED | {"refinement": "none"}},
    "a tool, judged": {"tool": "dear", "verify": JUDGED | {"refinement": "none"}},
    "a tool, judged by default": {"tool": "dear", "verify": {"strategy": "judge", "refinement": "none"}},
    "a tool, judged and done again": {"tool": "dear", "verify": JUDGED | {"refinement": "retry"}},
    "a tool, sampled": {"tool": "dear", "verify": {"strategy": "self_consistency", "samples": 3}},
}
AMOUNTS: dict[str, tuple[Any, ...]] = {
    "asked": (0, 0.100036, 136, 0, 0.0, 0, 1.0, 0.0, None),
    "asked shortly": (0, 0.007036, 43, 0, 0.0, 0, 1.0, 0.0, None),
    "asked without a price": (0, 0.0, 136, 0, 0.0, 0, 1.0, 0.0, None),
    "asked for a value": (0, 0.100352, 452, 0, 0.103168, 3268, 1.0, 0.0, None),
    "asked with tools": (0, 0.113312, 13412, 16, 34.087872, 1288672, 1.0, 0.0, None),
    "asked with a tool for a value": (0, 0.100704, 804, 16, 10.375584, 1476484, 1.0, 0.0, None),
    "drafted, predicted": (0, 0.240684, 818, 0, 0.0, 0, 1.0, 0.0, None),
    "drafted, hedged": (0, 0.294444, 2370, 0, 0.0, 0, 1.0, 0.0, None),
    "drafted, cascade": (0, 0.25822, 2370, 0, 0.0, 0, 1.0, 0.0, None),
    "drafted, auto": (0, 0.240684, 818, 0, 0.0, 0, 1.0, 0.0, None),
    "drafted, auto and lossy": (0, 0.29502, 2946, 0, 0.0, 0, 1.0, 0.0, None),
    "drafted, compared": (0, 0.100036, 136, 0, 0.0, 0, 1.0, 0.0, None),
    "drafted for a value": (0, 0.241632, 1450, 0, 0.103744, 3844, 1.0, 0.0, None),
    "drafted by nobody": (0, 0.100036, 136, 0, 0.0, 0, 1.0, 0.0, None),
    "judged once": (0, 3.126592, 9988, 0, 3.056604, 19868, 1.0, 0.0, None),
    "judged and done again": (0, 3.126592, 9988, 0, 15.422996, 79580, 1.0, 0.0, None),
    "judged and told": (0, 3.126592, 9988, 0, 15.44266, 99244, 1.0, 0.0, None),
    "judged and told all": (0, 3.126592, 9988, 0, 15.452492, 109076, 1.0, 0.0, None),
    "judged by its own model": (0, 1.108888, 9988, 0, 1.018868, 19868, 1.0, 0.0, None),
    "checked only": (0, 0.100036, 136, 0, 0.200072, 272, 1.0, 0.0, None),
    "sampled": (0, 0.400144, 544, 0, 0.0, 0, 1.0, 0.0, None),
    "sampled with tools": (0, 0.208192, 8392, 32, 68.028288, 2429888, 1.0, 0.0, None),
    "judged with tools": (0, 3.127856, 10620, 48, 45.380944, 3636768, 1.0, 0.0, None),
    "a clerk": (0, 0.14096, 41060, 80, 410.3776, 4383600, 0.5, 0.0, None),
    "a clerk, twice": (0, 0.14096, 41060, 16, 82.07552, 876720, 0.5, 0.0, None),
    "a clerk, shortly": (0, 0.04796, 40967, 80, 404.7976, 4378020, 0.5, 0.0, None),
    "a clerk, judged": (0, 4.340064, 91836, 80, 414.616768, 4444392, 0.5, 0.0, None),
    "a cheap one": (0, 0.0, 41060, 80, 40.0, 4383600, 0.5, 0.0, None),
    "a program": (0, 0.0, 0, 0, 0.0, 0, 1.0, 0.0, None),
    "a program with tools": (0, 0.0, 0, 1000, 2000.0, 0, 0.5, 0.0, None),
    "a program, judged": (0, 3.072192, 25064, 1000, 506.942432, 316144, 0.5, 0.0, 0.0),
    "a tool, judged": (1, 5.072192, 25064, 0, 6.942432, 316144, 1.0, 3.0, 2.0),
    "a tool, judged by default": (1, 6.096256, 25064, 0, 9.256576, 316144, 1.0, 3.0, 2.0),
    "a tool, judged and done again": (1, 5.072192, 25064, 2, 30.97168, 998560, 1.0, 3.0, 2.0),
    "a tool, sampled": (1, 6.0, 0, 2, 0.0, 0, 1.0, 3.0, 6.0),
}
"""Calls, dollars, tokens; then what it may use beyond that: calls, dollars, tokens; share, memory, dollars unknown."""


def step_of(name: str) -> Step:
    plan = Plan.from_dict({"name": "p", "steps": [{"id": "s", **STEPS[name]}]})
    return plan.steps[0]


def claim_of(name: str) -> Claim:
    step = step_of(name)
    args = {"prompt": "Go."} if "prompt" in STEPS[name] else {"n": 1}
    facts = agent_facts(step, AGENTS)
    if facts is not None:
        return agent_claim(step, args, facts, MODELS, {"look": TOOLS["look"]})
    if step.code is not None:
        plainly = Claim() if step.verify is None else verified_claim(step, args, MODELS, None)
        return code_claim(step, plainly, TOOLS)
    if step.tool is not None:
        return verified_claim(step, args, MODELS, TOOLS[step.tool])
    return model_claim(step, args, MODELS, TOOLS)


def amounts(name: str) -> tuple[Any, ...]:
    claim = claim_of(name)
    assert claim.metered
    spare = (claim.spare_calls, round(claim.spare_usd, 6), claim.spare_tokens)
    return (
        claim.calls,
        round(claim.cost_usd, 6),
        claim.tokens,
        *spare,
        claim.share,
        claim.memory_mb,
        claim.unknown_usd,
    )


@pytest.mark.parametrize("name", STEPS)
def test_so_much_is_set_aside(name: str) -> None:
    assert amounts(name) == AMOUNTS[name]


def test_an_agent_nobody_knows_has_no_facts_and_so_has_a_step_that_asks_none() -> None:
    steps = [{"id": "a", "agent": "own", "prompt": "x"}, {"id": "b", "agent": "gone", "prompt": "x"}]
    plan = Plan.from_dict({"name": "p", "steps": [*steps, {"id": "c", "tool": "look"}]})

    assert [agent_facts(step, AGENTS) for step in plan.steps] == [AGENTS["own"], None, None]


def test_a_prompt_is_rounded_up_to_four_binary_digits() -> None:
    assert [rounded_up(tokens) for tokens in (0, 1, 15, 16, 17, 31, 32, 33, 1_000, 1_024)] == [
        *(0, 1, 15, 16, 18, 32, 32, 36),
        *(1_024, 1_024),
    ]
