"""What a task of an agent may use: it is never more, and the caller hears which limit it was."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from planloom import ReasoningAgent, ResourceLimits, create_agent
from planloom.core.result import Usage
from planloom.errors import PlanTimeoutError, ResourceLimitError
from planloom.testing.models import FunctionModel
from planloom.tools.tool import Tool

UNLIMITED: dict[str, Any] = dict.fromkeys(ResourceLimits.model_fields)
USED = Usage(100, 10, requests=1)


class Work:
    """An agent that never has enough, with a tool that counts."""

    def __init__(self, *, waits: bool = False, used: Usage = USED, **limits: Any) -> None:
        self.called = 0
        self.waits = waits
        self.limits = ResourceLimits(**UNLIMITED | limits) if limits else None
        self.model = FunctionModel(self.answer, usage=used)

    async def answer(self, call: Any) -> Any:
        text = call.messages[-1].content
        if "Plan what" in text:
            return {"has_sufficient_info": True, "tasks": [{"description": "d", "tool_name": "count"}] * 3}
        if "Write the arguments" in text:
            return {}
        return {"is_complete": False}

    async def count(self) -> int:
        """Count."""
        self.called += 1
        if self.waits:
            await asyncio.Event().wait()
        return self.called

    @property
    def agent(self) -> ReasoningAgent:
        tool = Tool.from_function(self.count, name="count", effects="none")
        return create_agent(self.model, [tool], limits=self.limits, max_tokens=100)


def test_no_more_tools_are_called_than_a_task_may_call() -> None:
    work = Work(max_tool_calls=4)

    with pytest.raises(ResourceLimitError, match="max_tool_calls") as raised:
        work.agent.run("count")

    assert work.called == 4
    assert raised.value.exceeded == ("max_tool_calls",)
    assert raised.value.partial is not None
    assert raised.value.partial["tool_calls"] == 4


def test_no_more_tokens_are_used_than_a_task_may_use() -> None:
    work = Work(used=Usage(5_000, 100, requests=1), max_total_tokens=100_000)

    with pytest.raises(ResourceLimitError, match="max_total_tokens") as raised:
        work.agent.run("count")

    assert raised.value.partial is not None
    assert 50_000 < raised.value.partial["usage"]["total_tokens"] <= 100_000
    assert len(work.model.calls) == raised.value.partial["usage"]["total_tokens"] // 5_100


def test_a_task_that_cannot_be_afforded_is_not_begun() -> None:
    work = Work(max_total_tokens=60_000)

    with pytest.raises(ResourceLimitError, match="max_total_tokens"):
        work.agent.run("count" * 20_000)

    assert not work.model.calls


def test_a_limit_of_one_task_takes_the_place_of_the_agents_own() -> None:
    work = Work(max_tool_calls=4)

    with pytest.raises(ResourceLimitError):
        work.agent.run("count", limits=ResourceLimits(**UNLIMITED | {"max_tool_calls": 1}))

    assert work.called == 1


def test_each_of_many_tasks_has_the_limits_by_itself() -> None:
    work = Work(max_tool_calls=2)

    async def main() -> list[Any]:
        return await work.agent.arun_many(["a", "b", "c"], return_exceptions=True)

    results = asyncio.run(main())

    assert [type(one) for one in results] == [ResourceLimitError] * 3
    assert work.called == 6


def test_a_task_that_takes_too_long_is_stopped() -> None:
    work = Work(waits=True, timeout_seconds=0.1)
    began = time.monotonic()

    with pytest.raises(PlanTimeoutError):
        work.agent.run("count")

    assert time.monotonic() - began < 2
    assert work.called == 1


def test_without_limits_a_task_ends_when_its_iterations_are_used_up() -> None:
    work = Work()

    response = work.agent.run("count")

    assert not response.metrics.task_completed
    assert work.called == 30
