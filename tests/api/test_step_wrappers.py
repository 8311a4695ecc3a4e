"""StepExecutor: answers kept, and steps counted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from planloom.agents.memory import AgentMemory
from planloom.agents.roster import AgentRegistry
from planloom.api.step_forms import RetryConfig
from planloom.api.step_wrappers import CachedStepExecutor, MetricsStepExecutor
from planloom.core.chat import Message
from planloom.errors import ConfigError, StepError, ValidationError


class Counting:
    """An agent that counts how often it was asked what."""

    def __init__(self, *, effects: str | None = None) -> None:
        self.asked: list[Any] = []
        self.gate: asyncio.Event | None = None
        if effects is not None:
            self.effects = effects

    async def run_step(self, request: Any, context: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        if self.gate is not None:
            await self.gate.wait()
        if request == "fail":
            raise RuntimeError("boom")
        return {"content": f"{request} {len(self.asked)}", "list": [1]}


def in_turn(executor: CachedStepExecutor, *requests: Any) -> list[Any]:
    async def main() -> list[Any]:
        async with executor:
            return [await executor.execute_agent_step("A", request) for request in requests]

    return asyncio.run(main())


def test_a55_the_same_question_is_answered_once() -> None:
    agent = Counting()

    first, second = in_turn(CachedStepExecutor({"A": agent}), "go", "go")

    assert first == second
    assert agent.asked == ["go"]


def test_a55_the_answer_used_least_recently_goes_first() -> None:
    agent = Counting()

    in_turn(CachedStepExecutor({"A": agent}, maxsize=2), "a", "b", "a", "c", "a", "b")

    assert agent.asked == ["a", "b", "c", "b"]


def test_a55_of_ten_who_ask_the_same_at_once_one_is_asked() -> None:
    agent = Counting()

    async def main() -> list[Any]:
        agent.gate = asyncio.Event()
        async with CachedStepExecutor({"A": agent}) as executor:
            asking = [asyncio.create_task(executor.execute_agent_step("A", "go")) for _ in range(10)]
            while not agent.asked and not asking[0].done():
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            agent.gate.set()
            return list(await asyncio.gather(*asking))

    answers = asyncio.run(main())

    assert answers == [answers[0]] * 10
    assert agent.asked == ["go"]


def test_a55_errors_are_never_kept() -> None:
    agent = Counting()

    answers = in_turn(CachedStepExecutor({"A": agent}), "fail", "fail")

    assert [answer["error_type"] for answer in answers] == ["internal_error"] * 2
    assert agent.asked == ["fail", "fail"]


@pytest.mark.parametrize("effects", ["idempotent", "once"])
def test_a55_agents_with_effects_are_asked_each_time(effects: str) -> None:
    agent = Counting(effects=effects)

    in_turn(CachedStepExecutor({"A": agent}), "go", "go")

    assert agent.asked == ["go", "go"]


def test_a55_another_memory_is_another_question() -> None:
    agent = Counting()
    memory = AgentMemory([Message("user", "hello")])

    async def main() -> None:
        async with CachedStepExecutor({"A": agent}) as executor:
            await executor.execute_agent_step("A", "go", memory)
            await executor.execute_agent_step("A", "go", memory.copy())
            memory.add_message("user", "more")
            await executor.execute_agent_step("A", "go", memory)
            await executor.execute_agent_step("A", "go", memory, {"from_agent": "B"})

    asyncio.run(main())

    assert len(agent.asked) == 3


def test_a55_what_a_caller_does_to_an_answer_changes_no_other() -> None:
    async def main() -> Any:
        async with CachedStepExecutor({"A": Counting()}) as executor:
            for _ in range(2):
                answer = await executor.execute_agent_step("A", "go")
                answer["list"].append(2)
                answer["content"] = "changed"
            return await executor.execute_agent_step("A", "go")

    assert asyncio.run(main()) == {"content": "go 1", "list": [1]}


def test_a55_another_agent_under_the_same_name_is_asked_anew() -> None:
    first, second = Counting(), Counting()
    registry = AgentRegistry({"A": first})

    async def main() -> None:
        async with CachedStepExecutor(registry) as executor:
            await executor.execute_agent_step("A", "go")
            registry.register(second, "A", replace=True)
            await executor.execute_agent_step("A", "go")

    asyncio.run(main())

    assert (first.asked, second.asked) == (["go"], ["go"])


def test_a_cache_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError):
        CachedStepExecutor({}, maxsize=0)


def test_a56_every_way_a_step_can_end_is_counted() -> None:
    tries = 0

    async def agent(request: Any) -> str:
        nonlocal tries
        if request == "fail":
            raise RuntimeError("boom")
        if request == "wait":
            await asyncio.Event().wait()
        if request == "flaky":
            tries += 1
            if tries < 3:
                raise ConnectionError("gone")
        return "ok"

    async def main() -> dict[str, Any]:
        config = RetryConfig(initial_delay=0)
        async with MetricsStepExecutor({"A": agent}, config, max_request_bytes=20) as executor:
            for request in ("one", "two", "flaky", "fail"):
                await executor.execute_agent_step("A", request)
            with pytest.raises(ValidationError):
                await executor.execute_agent_step("A", "x" * 21)
            cancelled = asyncio.create_task(executor.execute_agent_step("A", "wait"))
            await asyncio.sleep(0.05)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            return executor.metrics

    numbers = asyncio.run(main())

    assert numbers.pop("total_execution_time") > 0.04
    assert numbers == {
        "total_executions": 6,
        "successful_executions": 3,
        "failed_executions": 3,
        "cancelled_executions": 1,
        "retry_count": 2,
    }


def test_a56_steps_side_by_side_and_streams_are_counted_too() -> None:
    async def agent(request: Any) -> str:
        if request == "fail":
            raise RuntimeError("boom")
        return "ok"

    async def main() -> dict[str, Any]:
        async with MetricsStepExecutor({"A": agent}, cache_size=10, effects="none") as executor:
            executor.register_tool("t", lambda: 1)
            steps: list[dict[str, Any]] = [
                {"agent_name": "A", "request": "go"},
                {"tool_calls": [{"name": "t"}]},
                {"agent_name": "B"},
            ]
            await executor.execute_parallel_steps(steps)
            async for _ in executor.stream_agent_step("A", "go"):
                pass
            with pytest.raises(StepError):
                async for _ in executor.stream_agent_step("A", "fail"):
                    pass
            return executor.get_metrics()

    numbers = asyncio.run(main())

    assert (numbers["total_executions"], numbers["successful_executions"], numbers["failed_executions"]) == (4, 2, 2)
