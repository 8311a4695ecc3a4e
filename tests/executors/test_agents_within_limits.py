"""Agents side by side within the limits of one run: none is ever passed, and none keeps what it does not need."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from planloom import Engine, Reasoner, ResourceLimits, RunResult, ToolRegistry
from planloom.core.result import RunStatus
from planloom.testing.models import FunctionModel
from planloom.tools.tool import Tool

UNLIMITED: dict[str, Any] = dict.fromkeys(ResourceLimits.model_fields)


class Shop:
    """Agents that each call a tool so many times and are done."""

    def __init__(self, *, calls: int, cost_usd: float | None = None) -> None:
        self.calls = calls
        self.called = 0
        tool = Tool.from_function(self.buy, name="buy", effects="none", cost_per_call=cost_usd)
        self.agent = Reasoner(name="buyer", model=FunctionModel(self.answer), tools=ToolRegistry([tool]), max_tokens=50)

    async def buy(self) -> str:
        """Buy one."""
        self.called += 1
        await asyncio.sleep(0)
        return "bought"

    def answer(self, call: Any) -> Any:
        text = call.messages[-1].content
        if "Plan what" in text:
            return {"has_sufficient_info": True, "tasks": [{"description": "d", "tool_name": "buy"}] * self.calls}
        return {} if "Write the arguments" in text else {"is_complete": True, "answer": "done"}

    def run(self, agents: int, **limits: Any) -> RunResult:
        async def main() -> RunResult:
            steps = [{"id": f"s{place}", "agent": "buyer", "prompt": "buy"} for place in range(agents)]
            async with Engine(tools=(), agents=[self.agent]) as engine:
                plan = {"planloom": 1, "name": "p", "steps": steps}
                return await engine.run(plan, limits=ResourceLimits(**UNLIMITED | limits))

        return asyncio.run(main())


@pytest.mark.parametrize("at_once", [2, 5, 10])
def test_agents_that_need_few_calls_share_what_there_is(at_once: int) -> None:
    shop = Shop(calls=1)

    result = shop.run(10, max_tool_calls=10, max_concurrent=at_once)

    assert result.status is RunStatus.SUCCESS, result.error
    assert (shop.called, result.tool_calls) == (10, 10)


def test_twenty_agents_need_no_more_than_the_usual_limits() -> None:
    shop = Shop(calls=4)

    result = shop.run(20, max_tool_calls=100, max_concurrent=5)

    assert result.status is RunStatus.SUCCESS, result.error
    assert shop.called == 80


@pytest.mark.parametrize("most", [1, 3, 7, 19])
def test_no_more_calls_are_made_than_there_are(most: int) -> None:
    shop = Shop(calls=2)

    result = shop.run(10, max_tool_calls=most)

    assert result.status is RunStatus.LIMIT_EXCEEDED
    assert result.exceeded_limits == ("max_tool_calls",)
    assert shop.called == result.tool_calls <= most


def test_a_tool_of_an_agents_own_that_costs_something_is_paid_out_of_the_budget() -> None:
    shop = Shop(calls=2, cost_usd=0.1)

    result = shop.run(3, max_total_cost_usd=5.0)

    assert result.status is RunStatus.SUCCESS, result.error
    assert result.cost_usd == pytest.approx(0.6)


def test_tools_of_an_agents_own_never_cost_more_than_the_budget() -> None:
    shop = Shop(calls=8, cost_usd=0.1)

    result = shop.run(3, max_total_cost_usd=1.0)

    assert result.status is RunStatus.LIMIT_EXCEEDED
    assert result.cost_usd is not None
    assert result.cost_usd <= 1.0 + 1e-9
    assert shop.called * 0.1 == pytest.approx(result.cost_usd)
