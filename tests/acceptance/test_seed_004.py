"""A70, the step executor: the founding page's examples run, and its pieces of classes are held against ours.

Rule 1: each piece is the page's where the page can be read, else ours (`OURS`).
Rule 2: what callers use must be called as on the page; what the page keeps to itself, a name that begins with `_`, is
    run by itself, and ours must come to the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Optional

import pytest

from planloom import (
    AgentMemory,
    AgentNotFoundError,
    AgentRegistry,
    CachedStepExecutor,
    ExecutionStep,
    FormatValidator,
    Message,
    MetricsStepExecutor,
    PooledStepExecutor,
    RetryConfig,
    SecurityError,
    StepExecutor,
    StepType,
    ValidationError,
)
from planloom.api.step_answers import answer_of
from planloom.api.step_request import prepared_memory
from planloom.sandbox.sandbox import Sandbox
from tests.acceptance.founding import arun, parameters, program, run, takes

OURS = {
    1: """
        class StepExecutor:
            def __init__(self, agent_registry: AgentRegistry, retry_config: Optional[RetryConfig] = None): ...
    """,
    2: """
        @dataclass
        class RetryConfig:
            max_attempts: int = 3
            initial_delay: float = 1.0
            max_delay: float = 60.0
            exponential_base: float = 2.0
            jitter: bool = True
            retryable_exceptions: Tuple[Type[Exception], ...] = (TimeoutError, ConnectionError, HTTPError)
    """,
    3: "async def execute_agent_step(self, agent_name, request, memory, metadata=None): ...",
    4: """
        def _prepare_agent_memory(self, base_memory, request, metadata):
            own = base_memory.copy()
            if metadata.get("from_agent"):
                own.add_message(Message(role="system", content=f"Request from {metadata['from_agent']}: {request}"))
            for result in metadata.get("tool_results", ()):
                own.add_tool_result(result)
            return own
    """,
    5: """
        def _extract_response(self, agent_result):
            if isinstance(agent_result, Message):
                told = {"content": agent_result.content, "role": agent_result.role}
                return told | {"metadata": agent_result.metadata}
            if isinstance(agent_result, dict):
                return agent_result
            return agent_result.dict() if hasattr(agent_result, "dict") else {"content": str(agent_result)}
    """,
    6: "async def execute_tool_calls(self, tool_calls, context=None): ...",
    7: "def register_tool(self, tool_name, tool_func, validation_schema=None): ...",
    8: """
        async def _execute_with_retry(self, func, *args, **kwargs):
            for attempt in range(1, self.retry_config.max_attempts + 1):
                try:
                    return await func(*args, **kwargs)
                except self.retry_config.retryable_exceptions as error:
                    if attempt == self.retry_config.max_attempts:
                        raise
                    logger.warning(f"Attempt {attempt} failed: {error}")
                    await asyncio.sleep(self._calculate_backoff_delay(attempt))
    """,
    9: """
        def _should_retry(self, error, attempt):
            hopeless = (SyntaxError, TypeError, AttributeError, ValidationError)
            return not isinstance(error, hopeless) and isinstance(error, self.retry_config.retryable_exceptions)
    """,
    10: "async def execute_parallel_steps(self, steps, memory, context): ...",
    11: """
        async def _handle_execution_error(self, error, agent_name, context):
            told = {"error": str(error)}
            if isinstance(error, AgentNotFoundError):
                return told | {"error_type": "agent_not_found", "suggestions": self._suggest_similar_agents(agent_name)}
            if isinstance(error, TimeoutError):
                return told | {"error_type": "timeout", "timeout_seconds": context.get("timeout", 30)}
            if isinstance(error, MemoryError):
                return told | {"error_type": "resource_limit", "memory_usage": self._get_memory_usage()}
            return told | {"error_type": "internal_error", "details": str(error) if self._debug_mode else None}
    """,
    12: """
        metadata = {"branch_id": branch.id, "step_number": step_count, "from_agent": previous_agent}
        step_result = await self.step_executor.execute_agent_step(
            agent_name=current_agent, request=request, memory=branch_memory, metadata=metadata
        )
    """,
    13: """
        result = await step_executor.execute_agent_step(
            agent_name="Planner", request="Create execution plan", memory=memory
        )
        validation_result = await validator.validate(result, expected_format={"next_action": str, "plan": list})
    """,
    14: """
        class CachedStepExecutor(StepExecutor):
            def __init__(self, *args, **kwargs): ...
            async def execute_agent_step(self, agent_name, request, memory, metadata=None): ...
    """,
    15: """
        class PooledStepExecutor(StepExecutor):
            def __init__(self, *args, pool_size: int = 10, **kwargs):
                super().__init__(*args, **kwargs)
                self._executor_pool = ThreadPoolExecutor(max_workers=pool_size)

            async def execute_blocking_tool(self, tool_func, *args, **kwargs):
                return await asyncio.get_running_loop().run_in_executor(self._executor_pool, tool_func, *args, **kwargs)
    """,
    16: """
        class MetricsStepExecutor(StepExecutor):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self._metrics = dict.fromkeys(("total_executions", "successful_executions", "failed_executions"), 0)
                self._metrics |= {"retry_count": 0, "total_execution_time": 0.0}

            async def execute_agent_step(self, *args, **kwargs):
                self._metrics["total_executions"] += 1
                answer = await super().execute_agent_step(*args, **kwargs)
                self._metrics["successful_executions"] += 1
                return answer
    """,
    17: """
        def _validate_request(self, request, agent_name):
            if len(str(request)) > self.MAX_REQUEST_SIZE:
                raise ValidationError("Request too large")
            if self._contains_injection(request):
                raise SecurityError("Potential injection detected")
    """,
    18: """
        async def execute_sandboxed(self, code, timeout=5.0):
            sandbox = Sandbox(memory_limit="100MB", cpu_limit=0.5, network_access=False)
            return await sandbox.execute(code, timeout=timeout)
    """,
}
"""By their place on the page."""


class HTTPError(Exception):
    """What the client libraries of the page's time raise."""


WORDS: dict[str, Any] = {
    "Any": Any, "Callable": Callable, "Dict": dict, "List": list, "Optional": Optional, "Tuple": tuple, "Type": type,
    "AgentMemory": AgentMemory, "AgentNotFoundError": AgentNotFoundError, "AgentRegistry": AgentRegistry,
    "ExecutionStep": ExecutionStep, "HTTPError": HTTPError, "LRUCache": dict, "Message": Message, "Sandbox": Sandbox,
    "RetryConfig": RetryConfig, "SecurityError": SecurityError, "StepExecutor": StepExecutor, "StepType": StepType,
    "ThreadPoolExecutor": ThreadPoolExecutor, "ValidationError": ValidationError, "asyncio": asyncio,
    "dataclass": dataclass, "logger": logging.getLogger("page"), "time": time,
}  # fmt: skip
"""What the page's pieces take for granted: typing's names, and ours."""


def text_of(place: int) -> str:
    return program("004", place, OURS)


def piece(place: int, name: str, **names: Any) -> Any:
    """Return what a piece of the page defines."""
    return run(text_of(place), **WORDS | names)[name]


class Planner:
    """The page's agent."""

    effects = "none"

    async def run_step(self, request: Any, context: dict[str, Any]) -> dict[str, Any]:
        said = [message.content for message in context["memory"].messages]
        return {"next_action": "search", "plan": [request], "said": said}


class Flaky:
    """An agent that raises so often before it answers."""

    effects = "none"

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.times, self.calls = error, times, 0

    async def run_step(self, request: Any, context: dict[str, Any]) -> dict[str, Any]:
        return await self.call()

    async def call(self) -> dict[str, Any]:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return {"calls": self.calls}


def asked(agent: Any, **options: Any) -> dict[str, Any]:
    """Return what a step executor of ours answers for an agent."""

    async def main() -> dict[str, Any]:
        async with StepExecutor({"a": agent}, RetryConfig(initial_delay=0, jitter=False), **options) as executor:
            return await executor.execute_agent_step("a", "do it", AgentMemory())

    return asyncio.run(main())


# --- what callers use ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "name", "ours"),
    [
        (1, "__init__", StepExecutor.__init__),
        (3, "execute_agent_step", StepExecutor.execute_agent_step),
        (6, "execute_tool_calls", StepExecutor.execute_tool_calls),
        (7, "register_tool", StepExecutor.register_tool),
        (10, "execute_parallel_steps", StepExecutor.execute_parallel_steps),
        (14, "execute_agent_step", CachedStepExecutor.execute_agent_step),
    ],
)
def test_a70_a_method_of_the_page_is_a_method_of_ours(place: int, name: str, ours: Any) -> None:
    wanted, is_async = parameters(text_of(place), name)

    takes(ours, wanted)
    assert asyncio.iscoroutinefunction(ours) is is_async


def test_a70_retries_are_configured_as_on_the_page() -> None:
    page, ours = piece(2, "RetryConfig")(), RetryConfig()

    for name in ("max_attempts", "initial_delay", "max_delay", "exponential_base", "jitter"):
        assert getattr(ours, name) == getattr(page, name)
    assert {one.__name__ for one in page.retryable_exceptions} <= set(ours.retryable_exceptions)


def test_a70_tool_calls_come_to_what_the_page_says() -> None:
    async def main() -> list[dict[str, Any]]:
        async with StepExecutor({}) as executor:
            executor.register_tool("double", lambda n: 2 * n)
            executor.register_tool("fail", lambda: 1 / 0, {"type": "object"})
            return await executor.execute_tool_calls(
                [{"name": "double", "arguments": {"n": 2}}, {"name": "fail", "arguments": {}}]
            )

    good, bad = asyncio.run(main())

    assert good.keys() == bad.keys() == {"tool_name", "result", "error", "execution_time"}
    assert (good["result"], good["error"]) == (4, None)
    assert "ZeroDivisionError" in bad["error"]


def test_a70_steps_side_by_side_are_agents_and_tools() -> None:
    async def main() -> list[Any]:
        async with StepExecutor({"Planner": Planner()}) as executor:
            executor.register_tool("double", lambda n: 2 * n)
            steps = [
                ExecutionStep(step_type=StepType.AGENT, agent_name="Planner", request="plan", metadata={}),
                ExecutionStep(step_type=StepType.TOOL, tool_calls=[{"name": "double", "arguments": {"n": 2}}]),
            ]
            return await executor.execute_parallel_steps(steps, AgentMemory(), {})

    agent, tools = asyncio.run(main())

    assert (agent["plan"], tools[0]["result"]) == (["plan"], 4)


def test_a70_a_branch_hands_its_memory_on_and_says_who_asks() -> None:
    memory = AgentMemory()

    async def main() -> Any:
        async with StepExecutor({"Planner": Planner()}) as executor:
            return await arun(
                text_of(12),
                self=SimpleNamespace(step_executor=executor),
                current_agent="Planner",
                request="go on",
                branch_memory=memory,
                branch=SimpleNamespace(id="b1"),
                step_count=2,
                previous_agent="Researcher",
            )

    result = asyncio.run(main())["step_result"]

    assert result["said"] == ["Request from Researcher: go on"]
    assert len(memory) == 0


def test_a70_an_answer_is_validated_against_the_form_that_was_expected() -> None:
    async def main() -> Any:
        async with StepExecutor({"Planner": Planner()}) as executor:
            return await arun(text_of(13), step_executor=executor, memory=AgentMemory(), validator=FormatValidator())

    names = asyncio.run(main())

    assert names["result"]["plan"] == ["Create execution plan"]
    assert names["validation_result"].is_valid


# --- what the page keeps to itself --------------------------------------------------------------


@pytest.mark.parametrize("metadata", [{}, {"from_agent": "A"}, {"tool_results": [{"tool_name": "t", "result": 3}]}])
def test_a70_an_agent_is_given_the_memory_that_the_page_prepares(metadata: dict[str, Any]) -> None:
    memory = AgentMemory()
    memory.add_message(Message(role="user", content="Hello"))

    page = piece(4, "_prepare_agent_memory")(None, memory, "do it", metadata)
    ours = prepared_memory(memory, "do it", metadata)

    assert [(one.role, one.content) for one in ours.messages] == [(one.role, one.content) for one in page.messages]
    assert len(memory) == 1


class Fields:
    def dict(self) -> dict[str, Any]:
        return {"a": 1}


@pytest.mark.parametrize("result", [{"a": 1}, Message(role="assistant", content="hi"), Fields(), "text", 3])
def test_a70_an_answer_is_the_dict_that_the_page_makes_of_it(result: Any) -> None:
    assert answer_of(result) == piece(5, "_extract_response")(None, result)


def page_self(**more: Any) -> SimpleNamespace:
    config = piece(2, "RetryConfig")(initial_delay=0)
    return SimpleNamespace(retry_config=config, _calculate_backoff_delay=lambda attempt: 0, **more)


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a70_a_step_is_tried_as_often_as_on_the_page(times: int) -> None:
    page, ours = Flaky(ConnectionError("gone"), times), Flaky(ConnectionError("gone"), times)

    expected = asyncio.run(piece(8, "_execute_with_retry")(page_self(), page.call))

    assert asked(ours) == expected
    assert ours.calls == page.calls == times + 1


@pytest.mark.parametrize(
    "error",
    [
        TypeError("x"),
        AttributeError("x"),
        ValidationError("x"),
        TimeoutError("x"),
        ConnectionError("x"),
        HTTPError("x"),
    ],
)
def test_a70_what_is_tried_again_is_what_the_page_tries_again(error: Exception) -> None:
    agent = Flaky(error, 1)

    asked(agent)

    assert (agent.calls > 1) is piece(9, "_should_retry")(page_self(), error, 1)


@pytest.mark.parametrize("error", [TimeoutError("late"), MemoryError("full"), RuntimeError("broke")])
def test_a70_errors_are_told_in_the_page_s_words(error: Exception) -> None:
    told = piece(11, "_handle_execution_error")(
        SimpleNamespace(_debug_mode=False, _get_memory_usage=lambda: 0, _suggest_similar_agents=lambda name: []),
        error,
        "a",
        {"timeout": 30},
    )

    page, ours = asyncio.run(told), asked(Flaky(error, 9))

    assert ours["error_type"] == page["error_type"]
    assert page.keys() <= ours.keys()


def test_a70_an_agent_that_does_not_exist_is_told_of_in_the_page_s_words() -> None:
    suggests = SimpleNamespace(_suggest_similar_agents=lambda name: ["Planner"])
    told = piece(11, "_handle_execution_error")(suggests, AgentNotFoundError("no agent"), "Planer", {})

    async def main() -> dict[str, Any]:
        async with StepExecutor({"Planner": Planner()}) as executor:
            return await executor.execute_agent_step("Planer", "x", AgentMemory())

    page, ours = asyncio.run(told), asyncio.run(main())

    assert (ours["error_type"], ours["suggestions"]) == (page["error_type"], page["suggestions"])


def test_a70_a_request_that_is_too_large_is_refused() -> None:
    checks = SimpleNamespace(
        MAX_REQUEST_SIZE=1_000, _contains_injection=lambda request: False, _get_agent_schema=lambda name: None
    )

    with pytest.raises(ValidationError):
        piece(17, "_validate_request")(checks, "x" * 2_000, "a")
    with pytest.raises(ValidationError):
        asyncio.run(_large())


async def _large() -> None:
    async with StepExecutor({"a": Planner()}, max_request_bytes=1_000) as executor:
        await executor.execute_agent_step("a", "x" * 2_000, AgentMemory())


# --- what the page builds on it -----------------------------------------------------------------


def test_a70_a_step_executor_that_remembers_answers_asks_once() -> None:
    agent = Flaky(ConnectionError(), 0)

    async def main() -> list[dict[str, Any]]:
        async with CachedStepExecutor({"a": agent}) as executor:
            return [await executor.execute_agent_step("a", "same", AgentMemory()) for _ in range(2)]

    first, second = asyncio.run(main())

    assert issubclass(CachedStepExecutor, StepExecutor)
    assert first == second
    assert agent.calls == 1


@pytest.mark.parametrize("whose", ["page", "ours"])
def test_a70_a_pool_of_threads_runs_what_blocks(whose: str) -> None:
    kind = piece(15, "PooledStepExecutor") if whose == "page" else PooledStepExecutor

    async def main() -> int:
        async with kind({}, pool_size=2) as executor:
            return await executor.execute_blocking_tool(pow, 2, 10)

    wanted, is_async = parameters(text_of(15), "execute_blocking_tool")
    takes(PooledStepExecutor.execute_blocking_tool, wanted)
    assert is_async
    assert asyncio.run(main()) == 1024


def test_a70_executions_are_counted_by_the_page_s_own_class_and_by_ours() -> None:
    async def main(kind: Any) -> dict[str, Any]:
        async with kind({"Planner": Planner()}) as executor:
            await executor.execute_agent_step("Planner", "x", AgentMemory())
            return dict(executor._metrics if kind is page else executor.metrics)

    page = piece(16, "MetricsStepExecutor")
    counted, ours = asyncio.run(main(page)), asyncio.run(main(MetricsStepExecutor))

    assert (counted["total_executions"], counted["successful_executions"]) == (1, 1)
    assert counted.keys() <= ours.keys()
    assert [ours[name] for name in ("total_executions", "successful_executions", "failed_executions")] == [1, 1, 0]


@pytest.mark.slow
def test_a70_code_nobody_has_read_runs_in_a_sandbox() -> None:
    pytest.importorskip("pydantic_monty", reason="not installed: pydantic-monty")

    async def main() -> Any:
        async with StepExecutor({}) as executor:
            return await executor.execute_sandboxed("40 + 2", timeout=5.0)

    page, ours = asyncio.run(piece(18, "execute_sandboxed")(None, "40 + 2")), asyncio.run(main())

    takes(StepExecutor.execute_sandboxed, parameters(text_of(18), "execute_sandboxed")[0])
    assert page.result == ours.result == 42
