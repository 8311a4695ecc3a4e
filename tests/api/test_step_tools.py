"""StepExecutor: tools, and functions that block."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from planloom.api.step_forms import ExecutionStep, RetryConfig, StepType
from planloom.api.step_wrappers import PooledStepExecutor
from planloom.api.steps import StepExecutor
from planloom.core.chat import ToolCall
from planloom.errors import ConfigError, NotDoneError, ValidationError
from planloom.plan.policy import RetryPolicy
from planloom.testing.clock import ManualClock
from planloom.tools.context import ToolContext
from planloom.tools.declare import tool


def called(executor: StepExecutor, *calls: Any, **context: Any) -> list[dict[str, Any]]:
    async def main() -> list[dict[str, Any]]:
        async with executor:
            return await executor.execute_tool_calls(calls, context)

    return asyncio.run(main())


def counter() -> tuple[StepExecutor, list[Any]]:
    """Return an executor with a tool `add`, and what it was called with."""
    executor, seen = StepExecutor({}), []

    def add(n: int, more: int = 1) -> int:
        seen.append((n, more))
        return n + more

    executor.register_tool("add", add)
    return executor, seen


@pytest.mark.slow
def test_a51_three_tools_take_as_long_as_one_and_answer_in_the_order_of_the_calls() -> None:
    executor = StepExecutor({})

    def sync_tool(n: int) -> int:
        time.sleep(0.3)
        return n

    async def async_tool(n: int) -> int:
        await asyncio.sleep(0.3)
        return n

    executor.register_tool("one", sync_tool)
    executor.register_tool("two", sync_tool)
    executor.register_tool("three", async_tool)
    began_at = time.monotonic()

    results = called(
        executor, *({"name": name, "arguments": {"n": n}} for n, name in enumerate(["one", "two", "three"]))
    )

    assert time.monotonic() - began_at < 0.8  # one after the other would be 0.9 s
    assert [result["result"] for result in results] == [0, 1, 2]
    assert [result["tool_name"] for result in results] == ["one", "two", "three"]
    assert all(0.29 < result["execution_time"] < 0.8 for result in results)
    assert all(set(result) == {"tool_name", "result", "error", "execution_time"} for result in results)


def test_a51_a_tool_that_raises_costs_itself_only() -> None:
    executor, _ = counter()

    def broken() -> None:
        raise RuntimeError("boom")

    executor.register_tool("broken", broken)

    good, bad, last = called(
        executor, {"name": "add", "arguments": {"n": 1}}, {"name": "broken"}, {"name": "add", "arguments": {"n": 2}}
    )

    assert (good["result"], last["result"]) == (2, 3)
    assert bad["result"] is None
    assert "boom" in bad["error"]


@pytest.mark.parametrize("arguments", [{"n": "x"}, {}, {"n": 1, "other": 2}])
def test_a51_wrong_arguments_are_told_and_the_tool_is_not_called(arguments: dict[str, Any]) -> None:
    executor, seen = counter()

    (result,) = called(executor, {"name": "add", "arguments": arguments})

    assert "wrong arguments for tool 'add'" in result["error"]
    assert seen == []


def test_a51_a_validation_schema_is_held_against_the_arguments() -> None:
    executor, seen = StepExecutor({}), []
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]}
    executor.register_tool("keep", lambda **given: seen.append(given), schema)

    good, bad = called(executor, {"name": "keep", "arguments": {"n": 3}}, {"name": "keep", "arguments": {"n": 2}})

    assert good["error"] is None
    assert "n: " in bad["error"]
    assert seen == [{"n": 3}]


@pytest.mark.parametrize("arguments", ["{broken", "[1, 2]", '"text"', 7])
def test_a51_arguments_that_are_no_json_object_are_an_error_and_not_nothing(arguments: Any) -> None:
    executor, seen = counter()

    (result,) = called(executor, {"name": "add", "arguments": arguments})

    assert "no JSON object" in result["error"]
    assert seen == []


def test_a51_an_unknown_tool_is_an_error_that_says_which_was_meant() -> None:
    executor, _ = counter()

    (result,) = called(executor, {"name": "ad", "arguments": {"n": 1}})

    assert "did you mean 'add'?" in result["error"]


@pytest.mark.parametrize(
    "call",
    [
        {"name": "add", "arguments": {"n": 1}},
        {"tool_name": "add", "args": '{"n": 1}'},
        {"tool": "add", "params": {"n": 1}},
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"n": 1}'}},
        ToolCall("c1", "add", {"n": 1}),
        {"name": "functions.add", "arguments": {"n": 1}},
    ],
)
def test_a_call_may_be_written_as_providers_write_it(call: Any) -> None:
    executor, _ = counter()

    (result,) = called(executor, call)

    assert result["result"] == 2
    has_id = isinstance(call, ToolCall) or "id" in call
    assert result.get("tool_call_id") == ("c1" if has_id else None)


@pytest.mark.parametrize("call", ["add", None, {}, {"arguments": {}}])
def test_what_is_no_call_is_an_error_in_its_place(call: Any) -> None:
    executor, _ = counter()

    bad, good = called(executor, call, {"name": "add", "arguments": {"n": 1}})

    assert bad["error"] is not None
    assert good["result"] == 2


def test_calls_that_are_no_list_are_refused() -> None:
    executor, _ = counter()
    calls: Any = {"name": "add"}

    with pytest.raises(ValidationError):
        asyncio.run(executor.execute_tool_calls(calls))


def test_no_call_is_no_answer() -> None:
    assert called(StepExecutor({})) == []


def test_text_that_looks_like_a_reference_stays_text() -> None:
    executor = StepExecutor({})
    executor.register_tool("echo", lambda **given: given, {"type": "object"})
    given = {"${{ x }}": "${{ inputs.secret }}", "a]": ["$${{ 1 }}"]}

    (result,) = called(executor, {"name": "echo", "arguments": given})

    assert result["result"] == given


def test_a_tool_that_is_not_allowed_is_not_called() -> None:
    executor, seen = counter()
    executor.register_tool("other", lambda: None)

    (result,) = called(executor, {"name": "tools.add", "arguments": {"n": 1}}, allow=["other"])

    assert "allowlist" in result["error"]
    assert seen == []


def test_a_tool_gets_its_context_and_may_be_registered_anew() -> None:
    executor = StepExecutor({})

    def whose(context: ToolContext) -> str:
        return context.step

    async def main() -> list[Any]:
        async with executor:
            executor.register_tool("whose", lambda: "before")
            first = await executor.execute_tool_calls([{"name": "whose"}])
            executor.register_tool("whose", whose)
            second = await executor.execute_tool_calls([{"name": "whose"}])
            return [first[0]["result"], second[0]["result"]]

    assert asyncio.run(main()) == ["before", "tool_1"]


def test_one_executor_serves_one_event_loop_after_another() -> None:
    executor, _ = counter()

    first = asyncio.run(executor.execute_tool_calls([{"name": "add", "arguments": {"n": 1}}]))
    second = asyncio.run(executor.execute_tool_calls([{"name": "add", "arguments": {"n": 2}}]))

    assert [first[0]["result"], second[0]["result"]] == [2, 3]


def test_a_tool_that_takes_too_long_is_given_up() -> None:
    executor = StepExecutor({}, timeout_seconds=0.05)

    async def never() -> None:
        await asyncio.Event().wait()

    executor.register_tool("never", never)

    (result,) = called(executor, {"name": "never"})

    assert "gave no answer within" in result["error"]


def test_only_a_tool_that_may_run_again_is_tried_again() -> None:
    calls: list[str] = []
    executor = StepExecutor({}, RetryConfig(max_attempts=3, initial_delay=0))

    @tool(effects="none")
    def harmless() -> None:
        calls.append("harmless")
        raise ConnectionError("gone")

    def effectful() -> None:
        calls.append("effectful")
        raise ConnectionError("gone")

    @tool(effects="idempotent")
    def not_yet() -> str:
        calls.append("not_yet")
        if calls.count("not_yet") < 2:
            raise NotDoneError("nothing was sent")
        return "sent"

    for function in (harmless, effectful, not_yet):
        executor.register_tool(function.__name__, function)

    results = called(executor, {"name": "harmless"}, {"name": "effectful"}, {"name": "not_yet"})

    assert [calls.count(name) for name in ("harmless", "effectful", "not_yet")] == [3, 1, 2]
    assert results[2]["result"] == "sent"


def test_nothing_stays_on_record_unless_asked_for() -> None:
    executor, _ = counter()

    async def main() -> int:
        async with executor:
            await executor.execute_tool_calls([{"name": "add", "arguments": {"n": 1}}])
            return len(await executor.journal.runs())

    assert asyncio.run(main()) == 0


def test_steps_are_on_record_where_a_journal_is_given(tmp_path: Any) -> None:
    executor = StepExecutor({}, journal=tmp_path / "runs.db")
    executor.register_tool("add", lambda n: n + 1)

    async def main() -> list[str]:
        async with executor:
            await executor.execute_tool_calls([{"name": "add", "arguments": {"n": 1}}])
            return [row.status for row in await executor.journal.runs()]

    assert asyncio.run(main()) == ["success"]


# --- forms ------------------------------------------------------------------------------------


def test_a52_a_retry_config_is_a_retry_policy() -> None:
    config = RetryConfig(max_attempts=5, initial_delay=2, jitter=False, retryable_exceptions=(KeyError,))

    assert config == RetryPolicy(max_attempts=5, initial_delay=2, jitter=False, retryable_exceptions=("KeyError",))
    assert RetryConfig().max_attempts == 3


def test_a52_no_attempts_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="max_attempts"):
        RetryConfig(max_attempts=0)


def test_a53_a_step_may_be_given_as_a_dict() -> None:
    assert ExecutionStep.read({"tool_calls": []}, 0).step_type is StepType.TOOL
    assert ExecutionStep.read({"agent_name": "A", "request": "r"}, 0).step_type is StepType.AGENT


@pytest.mark.parametrize("step", [{"step_type": "magic"}, {"agent": "A"}, "text", ExecutionStep("other")])
def test_a53_what_is_no_step_is_refused_before_anything_runs(step: Any) -> None:
    executor, seen = counter()
    good = ExecutionStep(StepType.TOOL, tool_calls=[{"name": "add", "arguments": {"n": 1}}])

    with pytest.raises(ValidationError, match=r"steps\[1\]"):
        asyncio.run(executor.execute_parallel_steps([good, step]))

    assert seen == []


# --- functions that block ---------------------------------------------------------------------


def test_a56_a_blocking_function_gets_its_arguments() -> None:
    async def main() -> Any:
        async with PooledStepExecutor({}) as executor:
            return await executor.execute_blocking_tool(lambda *args, **kwargs: (args, kwargs), 1, k=2)

    assert asyncio.run(main()) == ((1,), {"k": 2})


@pytest.mark.slow
def test_a56_no_more_functions_run_at_once_than_the_pool_has_threads() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    async def main() -> None:
        async with PooledStepExecutor({}, pool_size=10) as executor:
            await asyncio.gather(*(executor.execute_blocking_tool(work) for _ in range(40)))

    asyncio.run(main())

    assert most == 10


@pytest.mark.slow
def test_a56_closing_waits_for_what_still_runs() -> None:
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        time.sleep(0.2)
        ended.set()

    async def main() -> bool:
        executor = PooledStepExecutor({}, pool_size=1)
        running = asyncio.create_task(executor.execute_blocking_tool(work))
        waiting = asyncio.create_task(executor.execute_blocking_tool(work))
        await asyncio.to_thread(begun.wait)
        running.cancel()
        waiting.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
        await executor.close()
        return ended.is_set()

    assert asyncio.run(main())


def test_a_blocking_function_that_takes_too_long_is_given_up() -> None:
    release = threading.Event()

    async def main() -> None:
        executor = PooledStepExecutor({}, timeout_seconds=0.05)
        try:
            await executor.execute_blocking_tool(release.wait)
        finally:
            release.set()
            await executor.close()

    with pytest.raises(TimeoutError, match=r"0\.05 s"):
        asyncio.run(main())


def test_a_blocking_function_raises_what_it_raises() -> None:
    async def main() -> None:
        async with PooledStepExecutor({}) as executor:
            await executor.execute_blocking_tool({}.__getitem__, "missing")

    with pytest.raises(KeyError):
        asyncio.run(main())


def test_a_pool_of_none_is_refused() -> None:
    with pytest.raises(ConfigError):
        PooledStepExecutor({}, pool_size=0)


def test_the_clock_of_tools_is_the_executor_s() -> None:
    clock = ManualClock()
    executor = StepExecutor({}, RetryConfig(max_attempts=2, initial_delay=5, jitter=False), clock=clock)
    at: list[float] = []

    @tool(effects="none")
    async def flaky() -> str:
        at.append(clock.now())
        if len(at) == 1:
            raise TimeoutError("slow")
        return "done"

    executor.register_tool("flaky", flaky)

    async def main() -> Any:
        async with executor:
            doing = asyncio.create_task(executor.execute_tool_calls([{"name": "flaky"}]))
            while not clock.advance_to_next() and not doing.done():
                await asyncio.sleep(0)
            return await doing

    (result,) = asyncio.run(main())

    assert result["result"] == "done"
    assert at[1] - at[0] == 5
