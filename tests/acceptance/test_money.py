"""A13: a limit on money is never passed, however many branches race for what is left of it."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from random import Random
from typing import Any

import pytest

from planloom import Engine, RunResult
from planloom.core.asking import prompt_ceiling
from planloom.core.chat import LLMResponse, ModelCall
from planloom.core.events import ToolFacts
from planloom.core.prices import ModelFacts, ModelPrice
from planloom.core.result import Usage
from planloom.models.scripted import FunctionModel
from planloom.plan.model import Plan
from planloom.plan.policy import Effects, ResourceLimits
from planloom.testing.fakes import CallLog, fake_tool
from tests.core.driving import Drive

SLACK_USD = 1e-9
RETRY = {"max_attempts": 2, "initial_delay": 0}
UNLIMITED: dict[str, Any] = dict.fromkeys(("max_concurrent", "max_tool_calls", "timeout_seconds"))
TOOL_NAMES = tuple(f"t{place}" for place in range(5))


def run(plan: dict[str, Any], limit_usd: float, **engine: Any) -> RunResult:
    limits = ResourceLimits(max_total_cost_usd=limit_usd, **UNLIMITED)

    async def main() -> RunResult:
        async with asyncio.timeout(10), Engine(**engine) as one:
            return await one.run(plan, limits=limits)

    return asyncio.run(main())


def test_a13_of_twenty_calls_of_a_dollar_at_once_a_cap_of_five_lets_exactly_five_run() -> None:
    log = CallLog()
    plan = {"planloom": 1, "steps": [{"id": f"s{place}", "tool": "t"} for place in range(20)]}

    result = run(plan, 5.0, tools=[fake_tool("t", log=log, cost_per_call=1.0)])

    assert len(log) == 5
    assert result.cost_usd == 5.00
    assert result.exceeded_limits == ("max_total_cost_usd",)


def test_a13_of_twenty_model_calls_whose_ceiling_is_a_dollar_exactly_five_are_asked() -> None:
    model = FunctionModel(at_the_ceiling, price=ModelPrice(0.0, 0.0, per_request=1.0))
    steps = [{"id": f"s{place}", "model": "m", "prompt": "Go.", "max_tokens": 5} for place in range(20)]

    result = run({"planloom": 1, "steps": steps}, 5.0, models={"m": model})

    assert len(model.calls) == 5
    assert result.cost_usd == 5.00


# --- at the heart: any order of ends, failures, retries --------------------------------------------


@lru_cache
def branches(count: int, seed: int) -> Plan:
    """Return a plan of so many branches that all start at once: tools and models, some of them with more to do."""
    dice, steps = Random(seed * 100 + count), list[dict[str, Any]]()
    for place in range(count):
        step: dict[str, Any] = {"id": f"s{place}", "on_error": dice.choice(["continue", "skip", "fail"])}
        if dice.random() < 0.3:
            step |= {"model": "m", "prompt": "x" * dice.randrange(50), "max_tokens": dice.randrange(1, 200)}
            step |= dice.choice([{}, {"output": {"type": "object"}}, {"verify": {"strategy": "model", "model": "j"}}])
        else:
            step |= {"tool": dice.choice(TOOL_NAMES)}
            step |= {"verify": {"strategy": "model", "model": "j"}} if dice.random() < 0.1 else {}
        step |= {"retry": RETRY} if dice.random() < 0.3 else {}
        step |= {"needs": [f"s{dice.randrange(place)}"]} if place and dice.random() < 0.1 else {}
        steps.append(step)
    return Plan.from_dict({"name": "race", "steps": steps, "fail_fast": False})


def race(seed: int) -> Drive:
    """Walk one run in an order that the dice choose, every attempt costing at most what it was granted."""
    dice = Random(seed)
    count = min(64, 2 + int(dice.expovariate(1 / 8))) if dice.random() < 0.97 else 64
    tools = {
        name: ToolFacts("d", Effects.NONE, cost_per_call_usd=dice.choice([0.1, 0.25, dice.random() * 3]))
        for name in TOOL_NAMES
    }
    price = ModelPrice(dice.random() * 300, dice.random() * 2_000, per_request=dice.choice([0.0, 0.05]))
    facts = {"m": ModelFacts("x://m", price=price), "j": ModelFacts("x://j", price=price)}
    limit_usd = dice.random() * count
    limits = ResourceLimits(max_total_cost_usd=limit_usd, **UNLIMITED)
    drive = Drive(branches(count, seed % 8), limits=limits, tools=tools, models=facts)
    budget = drive.machine.state.budget
    while not drive.machine.ended:
        assert budget.cost_usd + budget._reserved_cost <= limit_usd + SLACK_USD
        timers = drive.machine.state.timers
        if not drive.under_way or (timers and dice.random() < 0.2):
            drive.fire(dice.choice(list(timers)))
            continue
        key = dice.choice(drive.running)
        request = drive.under_way[key]
        most_usd = request.grant.usd
        if most_usd is None:
            most_usd = tools[request.step.tool or ""].cost_per_call_usd or 0.0
        cost_usd = dice.choice([most_usd, most_usd * dice.random(), 0.0, None if request.step.tool else 0.0])
        drive.fail(key, cost_usd=cost_usd) if dice.random() < 0.3 else drive.ok(key, cost_usd=cost_usd)
    assert (drive.result.cost_usd or 0.0) <= limit_usd + SLACK_USD
    assert abs(budget._reserved_cost) < SLACK_USD, "all that was set aside came back"
    return drive


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(2_000), pytest.param(range(2_000, 10_000), marks=pytest.mark.crash)], ids=len)
def test_a13_in_ten_thousand_races_nothing_is_overspent(seeds: range) -> None:
    limited = stopped = retried = 0

    for seed in seeds:
        drive = race(seed)
        limited += "max_total_cost_usd" in drive.result.exceeded_limits
        retried += len(drive.started) > len({request.key for request in drive.started})
        stopped += drive.result.status.value == "failed"

    assert min(limited, retried, stopped) > len(seeds) / 20, "the races are about something"


# --- with real executors --------------------------------------------------------------------------


def at_the_ceiling(call: ModelCall) -> LLMResponse:
    """Answer with as much as the call allows, having used all that its ceiling says."""
    used = Usage(prompt_ceiling(call), call.max_tokens or 0, requests=1)
    return LLMResponse("yes", "scripted", "function", used)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a13_models_that_use_all_they_may_never_pass_the_limit(seed: int) -> None:
    dice, met = Random(seed), 0

    for _ in range(100):
        price, answered = ModelPrice(dice.random() * 500, dice.random() * 5_000), list[LLMResponse]()

        async def before(call: ModelCall) -> None:
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)

        def answer(call: ModelCall, answered: list[LLMResponse] = answered) -> LLMResponse | RuntimeError:
            if dice.random() < 0.1:
                return RuntimeError("down")
            answered.append(at_the_ceiling(call))
            return answered[-1]

        model = FunctionModel(answer, price=price, before=before)
        steps = [
            {"id": f"s{place}", "model": "m", "prompt": "x" * dice.randrange(100), "max_tokens": dice.randrange(1, 99)}
            | {"on_error": "continue"}
            | dice.choice([{}, {"output": {"type": "object"}}, {"retry": RETRY}])
            for place in range(dice.randrange(2, 32))
        ]
        limit_usd = dice.random() * 8

        result = run({"planloom": 1, "steps": steps}, limit_usd, models={"m": model})

        spent_usd = sum(price.cost_usd(one.usage) for one in answered)
        assert spent_usd <= (result.cost_usd or 0.0) + SLACK_USD
        assert (result.cost_usd or 0.0) <= limit_usd + SLACK_USD
        met += "max_total_cost_usd" in result.exceeded_limits

    assert 10 < met < 100
