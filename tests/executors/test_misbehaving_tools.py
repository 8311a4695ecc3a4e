"""Tools that do what no tool should: the step fails with a precise kind, and nothing else does."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError as FutureCancelledError
from typing import Any

import anyio
import pytest

from planloom import Engine, RunResult, Settings, StepStatus, Tool, ToolContext, tool
from planloom.errors import ArgumentsError, PlanError

PATIENCE_S = 5.0


@tool(effects="none", register=False)
async def fine(value: Any = "fine") -> Any:
    """Give back what it is given."""
    return value


def made(function: Callable[..., Any], **declared: Any) -> Tool:
    return Tool.from_function(function, **({"name": "bad", "effects": "none"} | declared))


def beside(bad: Tool, **fields: Any) -> RunResult:
    """Run the tool beside one that is fine, and another after that."""

    async def main() -> RunResult:
        plan = {
            "planloom": 1,
            "fail_fast": False,
            "steps": [
                {"id": "bad", "tool": "bad", **fields},
                {"id": "one", "tool": "fine"},
                {"id": "two", "tool": "fine", "needs": ["one"]},
            ],
        }
        async with asyncio.timeout(PATIENCE_S), Engine(tools=[bad, fine]) as engine:
            return await engine.run(plan)

    result = asyncio.run(main())
    assert [result.step(name).status for name in ("one", "two")] == [StepStatus.COMPLETED] * 2
    return result


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class FightingError(Exception):
    """An exception whose attributes are not what their names say."""

    usage = {"tokens": 3}
    cost_usd = "free"
    retry_after = 10**400

    @property
    def response(self) -> Any:
        raise RuntimeError("no response for you")


class StrangeHeadersError(Exception):
    headers = dict  # its `get` takes an object first


def raising(error: Any) -> Callable[[], None]:
    def bad() -> None:
        raise error

    return bad


def raising_async(error: Any) -> Callable[[], Any]:
    async def bad() -> None:
        raise error

    return bad


RAISED = [
    (ValueError("kaboom"), "error", "kaboom"),
    (SystemExit(3), "refused", "sys.exit(3)"),
    (KeyboardInterrupt(), "refused", "KeyboardInterrupt"),
    (TypeError("no"), "refused", "TypeError"),
    (RecursionError("deep"), "error", "deep"),
    (MemoryError(), "error", "MemoryError"),
    (ExceptionGroup("several", [ValueError("one"), TypeError("two")]), "error", "several"),
    (BaseExceptionGroup("several", [KeyboardInterrupt(), ValueError("x")]), "error", "several"),
    (GeneratorExit(), "error", "GeneratorExit"),
    (asyncio.CancelledError("not for you to say"), "cancelled", ""),
    (FutureCancelledError(), "error", ""),
    (ValueError("half a pair: \ud800"), "error", "half a pair"),
    (UnreadableError(), "error", "UnreadableError"),
    (FightingError("x"), "error", "FightingError"),
    (StrangeHeadersError("x"), "error", "StrangeHeadersError"),
    (ValueError("long " * 100_000), "error", "long"),
]


@pytest.mark.parametrize(("error", "kind", "text"), RAISED, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("way", [raising, raising_async])
def test_a18_whatever_a_tool_raises_fails_its_step_and_no_other(error: Any, kind: str, text: str, way: Any) -> None:
    result = beside(made(way(error)))

    assert result.step("bad").error_kind == kind
    assert text in (result.step("bad").error or "")
    assert len(result.step("bad").error or "") < 5_000


def test_a18_stop_iteration_is_an_error_like_any_other() -> None:
    for way in (raising, raising_async):
        result = beside(made(way(StopIteration("end"))))

        assert "StopIteration" in (result.step("bad").error or "")
        assert result.step("bad").error_kind == "error"


async def _never_awaited() -> int:
    return 1


class _Custom:
    pass


def _circle() -> Any:
    found: list[Any] = []
    found.append(found)
    return found


NO_JSON = {
    "object": _Custom,
    "bytes": lambda: b"bytes",
    "not a number": lambda: float("nan"),
    "coroutine": lambda: _never_awaited(),
    "generator": lambda: (n for n in range(3)),
    "error": lambda: ValueError("an error as a value"),
    "circle": _circle,
    "number as a key": lambda: {1: 2},
    "file": lambda: sys.stdout,
    "deep": lambda: __import__("functools").reduce(lambda inner, _: [inner], range(5_000), 1),
    "half a surrogate pair": lambda: "\udc00",
}


@pytest.mark.parametrize("what", NO_JSON)
@pytest.mark.parametrize("is_async", [True, False])
def test_a18_what_is_no_json_is_an_output_error(what: str, is_async: bool) -> None:
    make = NO_JSON[what]

    def sync_bad() -> Any:
        return make()

    async def async_bad() -> Any:
        return make()

    result = beside(made(async_bad if is_async else sync_bad))

    assert result.step("bad").status is StepStatus.FAILED
    assert result.step("bad").error_kind == "output"
    assert result.step("bad").output is None


def test_a_megabyte_on_stdout_is_the_tool_s_own_business(capfd: pytest.CaptureFixture[str]) -> None:
    def bad() -> str:
        sys.stdout.write("x" * 1_000_000)
        return "done"

    assert beside(made(bad)).step("bad").output == "done"
    assert len(capfd.readouterr().out) >= 1_000_000


@pytest.mark.slow
def test_twenty_megabytes_of_output_go_through_a_durable_run(tmp_path: Any) -> None:
    text = "0123456789" * 2_000_000

    async def large() -> str:
        return text

    async def length(text: str) -> int:
        return len(text)

    async def main() -> RunResult:
        plan = {
            "planloom": 1,
            "steps": [
                {"id": "a", "tool": "large"},
                {"id": "b", "tool": "length", "with": {"text": "${{ steps.a.output }}"}},
            ],
        }
        tools = [Tool.from_function(large, effects="none"), Tool.from_function(length, effects="none")]
        async with Engine(tmp_path / "runs.db", tools=tools) as engine:
            await engine.run(plan, run_id="r")
        async with Engine(tmp_path / "runs.db", tools=tools) as engine:
            return await engine.result_of("r")

    result = asyncio.run(main())

    assert result.output == 20_000_000
    assert result.step("a").output == text


def test_a_tool_that_changes_its_arguments_changes_nothing_else() -> None:
    async def bad(value: list[Any]) -> str:
        value.append("changed")
        value[0]["deep"] = "changed"
        return "done"

    async def main() -> RunResult:
        inputs = {"value": [{"deep": 1}]}
        plan = {
            "planloom": 1,
            "steps": [
                {"id": "give", "tool": "fine", "with": {"value": "${{ inputs.value }}"}},
                {"id": "x", "tool": "bad", "with": {"value": "${{ steps.give.output }}"}},
                {"id": "y", "tool": "bad", "with": {"value": "${{ inputs.value }}"}, "needs": ["x"]},
                {"id": "z", "tool": "bad", "with": {"value": [{"deep": 1}]}, "needs": ["y"]},
                {"id": "see", "tool": "fine", "needs": ["z"], "with": {"value": "${{ steps.give.output }}"}},
                {"id": "look", "tool": "fine", "needs": ["z"], "with": {"value": "${{ inputs.value }}"}},
            ],
            "outputs": ["${{ steps.see.output }}", "${{ steps.look.output }}"],
        }
        async with Engine(tools=[made(bad), fine]) as engine:
            first = await engine.run(plan, inputs)
            assert inputs == {"value": [{"deep": 1}]}
            assert (await engine.run(plan, inputs)).output == first.output
            return first

    assert asyncio.run(main()).output == [[{"deep": 1}], [{"deep": 1}]]


def test_an_object_that_a_tool_returns_and_goes_on_changing_stays_as_it_was_on_record() -> None:
    kept: list[int] = []

    async def bad() -> list[int]:
        kept.append(len(kept))
        return kept

    async def main() -> tuple[RunResult, RunResult]:
        plan = {"planloom": 1, "steps": [{"id": n, "tool": "bad"} for n in ("a", "b", "c")]}
        async with Engine(tools=[made(bad)]) as engine:
            result = await engine.run(plan, run_id="r", parallel=False)
            kept.append(99)
            return result, await engine.result_of("r")

    result, again = asyncio.run(main())

    assert [step.output for step in result.steps] == [[0], [0, 1], [0, 1, 2]]
    assert [step.output for step in again.steps] == [[0], [0, 1], [0, 1, 2]]


def test_whoever_changes_a_result_in_hand_does_not_change_the_record() -> None:
    async def main() -> tuple[Any, Any]:
        plan = {"planloom": 1, "steps": [{"id": "a", "tool": "fine", "with": {"value": [1]}}]}
        async with Engine(tools=[fine]) as engine:
            result = await engine.run(plan, run_id="r")
            result.output.append("changed")
            result.step("a").output.append("changed")
            told = await engine.result_of("r")
            return told.output, told.step("a").output

    assert asyncio.run(main()) == ([1], [1])


def test_endless_recursion_fails_the_step() -> None:
    def bad() -> Any:
        return bad()

    result = beside(made(bad))

    assert "RecursionError" in (result.step("bad").error or "")


@pytest.mark.slow
def test_a_tool_that_swallows_a_timeout_is_given_up_all_the_same() -> None:
    async def bad() -> str:
        end = time.monotonic() + 4
        while time.monotonic() < end:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                pass
        return "late"

    began = time.monotonic()
    result = beside(made(bad), attempt_timeout=0.1)

    assert result.step("bad").status is StepStatus.TIMED_OUT
    assert time.monotonic() - began < 3


@pytest.mark.slow
def test_a43_a_sync_tool_that_takes_too_long_is_abandoned_and_its_result_ignored() -> None:
    ended = threading.Event()

    def bad() -> str:
        time.sleep(0.6)
        ended.set()
        return "late"

    async def main() -> RunResult:
        async with Engine(tools=[made(bad), fine]) as engine:
            plan = {
                "planloom": 1,
                "fail_fast": False,
                "steps": [{"id": "bad", "tool": "bad", "timeout_seconds": 0.1}, {"id": "one", "tool": "fine"}],
            }
            began = time.monotonic()
            result = await engine.run(plan, run_id="r")
            assert time.monotonic() - began < 0.5
            await asyncio.to_thread(ended.wait, 5)
            await asyncio.sleep(0.05)
            assert (await engine.result_of("r")).to_dict() == result.to_dict()
            return result

    result = asyncio.run(main())

    assert result.step("bad").status is StepStatus.TIMED_OUT
    assert "abandoned" in (result.step("bad").error or "")


EXITS = """
import asyncio, time, threading
from planloom import run_plan, tool, execute_plan

@tool(effects="none")
def stuck() -> None:
    threading.Event().wait()

@tool(effects="none")
def quick() -> int:
    return 1

plan = {"planloom": 1, "fail_fast": False, "steps": [
    {"id": "a", "tool": "stuck", "timeout_seconds": 0.2}, {"id": "b", "tool": "quick"}]}
result = run_plan(plan, tools=[stuck, quick], on_error="return")
print(result["status"], result["steps"][1]["output"])
"""


@pytest.mark.slow
def test_a_tool_that_blocks_its_thread_for_ever_does_not_keep_the_process_alive() -> None:
    done = subprocess.run([sys.executable, "-c", EXITS], capture_output=True, text=True, timeout=20, check=True)

    assert done.stdout.split() == ["failed", "1"]
    assert done.stderr == ""


def test_sync_tools_run_side_by_side_as_soon_as_there_is_a_thread_for_each() -> None:
    """One idle thread must not make two calls wait for each other."""
    together = threading.Barrier(4)

    def warm() -> None:
        return None

    def meet() -> int:
        return together.wait(timeout=2) + 1

    async def main() -> RunResult:
        tools = [Tool.from_function(warm, effects="none"), Tool.from_function(meet, effects="none")]
        plan = {
            "planloom": 1,
            "steps": [{"id": "warm", "tool": "warm"}]
            + [{"id": f"m{n}", "tool": "meet", "needs": ["warm"]} for n in range(4)],
        }
        async with Engine(tools=tools) as engine:
            return await engine.run(plan)

    for _ in range(5):
        assert asyncio.run(main()).status.value == "success"


@pytest.mark.slow
def test_no_more_threads_than_there_are_allowed() -> None:
    busy = peak = 0
    lock = threading.Lock()

    def count() -> None:
        nonlocal busy, peak
        with lock:
            busy += 1
            peak = max(peak, busy)
        time.sleep(0.02)
        with lock:
            busy -= 1

    async def main() -> RunResult:
        plan = {"planloom": 1, "steps": [{"id": f"s{n}", "tool": "count"} for n in range(20)]}
        tools = [Tool.from_function(count, effects="none")]
        async with Engine(tools=tools, settings=Settings(max_threads=3)) as engine:
            return await engine.run(plan)

    assert asyncio.run(main()).steps_completed == 20
    assert peak == 3


def test_inputs_that_do_not_match_are_refused_before_anything_runs() -> None:
    calls: list[int] = []

    async def bad(number: int) -> int:
        calls.append(number)
        return number

    async def main(plan: dict[str, Any], inputs: dict[str, Any]) -> RunResult:
        async with Engine(tools=[made(bad)]) as engine:
            return await engine.run(plan, inputs)

    plan = {
        "planloom": 1,
        "inputs": {"n": {"type": "integer"}},
        "steps": [
            {"id": "first", "tool": "bad", "with": {"number": 1}},
            {"id": "a", "tool": "bad", "with": {"number": "${{ inputs.n }}"}},
        ],
    }
    for inputs in ({}, {"n": "x"}, {"n": 1, "m": 2}, {"n": object()}):
        with pytest.raises(PlanError):
            asyncio.run(main(plan, inputs))
    with pytest.raises(PlanError) as caught:
        asyncio.run(main({"planloom": 1, "steps": [{"id": "a", "tool": "bad", "with": {"numbr": 1}}]}, {}))
    assert {type(problem) for problem in caught.value.problems} == {ArgumentsError}
    assert calls == []


def test_an_argument_that_turns_out_wrong_at_run_time_is_an_input_failure_and_no_call() -> None:
    calls: list[int] = []

    async def bad(number: int) -> int:
        calls.append(number)
        return number

    result = beside(made(bad), **{"with": {"number": "${{ steps.one.output }}"}})

    assert calls == []
    assert result.step("bad").error_kind == "input"
    assert "number" in (result.step("bad").error or "")


def test_what_a_failed_attempt_said_it_cost_counts() -> None:
    async def bad(context: ToolContext) -> None:
        context.report_cost(2.5)
        raise ValueError("paid for nothing")

    result = beside(made(bad))

    assert result.cost_usd == 2.5
    assert result.step("bad").cost_usd == 2.5


WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


def test_context_variables_reach_every_tool_and_leak_to_no_other_step_or_run() -> None:
    async def async_tool(name: str) -> list[str]:
        before = WHO.get()
        WHO.set(name)
        await asyncio.sleep(0)
        return [before, WHO.get()]

    def sync_tool(name: str) -> list[str]:
        before = WHO.get()
        WHO.set(name)
        return [before, WHO.get()]

    async def one_run(engine: Engine, who: str) -> RunResult:
        WHO.set(who)
        steps = [
            {"id": f"s{n}", "tool": ("async_tool", "sync_tool")[n % 2], "with": {"name": f"{who}-{n}"}}
            for n in range(8)
        ]
        steps += [{"id": f"t{n}", "tool": "async_tool", "needs": [f"s{n}"], "with": {"name": "x"}} for n in range(8)]
        return await engine.run({"planloom": 1, "steps": steps})

    async def main() -> list[RunResult]:
        tools = [Tool.from_function(one, effects="none") for one in (async_tool, sync_tool)]
        async with Engine(tools=tools) as engine:
            runs = [asyncio.create_task(one_run(engine, who)) for who in ("alice", "bob", "carol")]
            found = await asyncio.gather(*runs)
            assert WHO.get() == "nobody"
            return list(found)

    for who, result in zip(("alice", "bob", "carol"), asyncio.run(main()), strict=True):
        for step in result.steps:
            assert step.output[0] == who, step.id
            assert step.output[1] in (f"{who}-{step.id[1:]}", "x")


def test_a_task_that_a_tool_leaves_behind_goes_on_and_is_nobody_s_step() -> None:
    later: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0.02)
        later.append("done")

    async def bad() -> str:
        later_task.append(asyncio.create_task(work()))
        return "back at once"

    later_task: list[asyncio.Task[None]] = []

    async def main() -> RunResult:
        async with Engine(tools=[made(bad), fine]) as engine:
            result = await engine.run({"planloom": 1, "steps": [{"id": "bad", "tool": "bad"}]})
            assert later == []
            await later_task[0]
        return result

    assert asyncio.run(main()).output == "back at once"
    assert later == ["done"]


def test_a_tool_may_start_runs_of_its_own_on_the_same_engine() -> None:
    async def main() -> RunResult:
        async def nested(value: int) -> Any:
            inner = {
                "planloom": 1,
                "steps": [{"id": f"i{n}", "tool": "fine", "with": {"value": n}} for n in range(value)],
            }
            run = await engine.start(inner)
            return (await engine.finish(run)).output

        plan = {
            "planloom": 1,
            "steps": [{"id": f"n{n}", "tool": "nested", "with": {"value": 3}} for n in range(5)]
            + [{"id": "one", "tool": "fine"}],
        }
        async with (
            asyncio.timeout(PATIENCE_S),
            Engine(tools=[Tool.from_function(nested, effects="none"), fine]) as engine,
        ):
            return await engine.run(plan)

    result = asyncio.run(main())

    assert result.status.value == "success"
    assert result.step("n0").output == {"i0": 0, "i1": 1, "i2": 2}


def test_a_tool_may_cancel_its_own_run() -> None:
    async def main() -> RunResult:
        async def stop() -> str:
            await run.cancel(by="a tool of its own")
            return "I have spoken"

        tools = [Tool.from_function(stop, effects="none"), fine]
        plan = {
            "planloom": 1,
            "steps": [{"id": "stop", "tool": "stop"}, {"id": "after", "tool": "fine", "needs": ["stop"]}],
        }
        async with asyncio.timeout(PATIENCE_S), Engine(tools=tools) as engine:
            run = await engine.start(plan)
            return await engine.finish(run)

    result = asyncio.run(main())

    assert result.status.value == "cancelled"
    assert result.step("after").status is StepStatus.SKIPPED


def test_a_tool_that_cancels_the_task_it_runs_in_fails_like_any_other() -> None:
    async def bad() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    result = beside(made(bad))

    assert result.step("bad").error_kind == "cancelled"


def test_timeouts_task_groups_and_anyio_scopes_work_inside_tools() -> None:
    async def timeouts() -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005):
                await asyncio.sleep(1)
        return "timeout"

    async def groups() -> str:
        async def fails() -> None:
            raise ValueError("one of the group")

        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                group.create_task(asyncio.sleep(1))
        return "group"

    async def scopes() -> str:
        with anyio.move_on_after(0.005) as scope:
            await anyio.sleep(1)
        assert scope.cancelled_caught
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 1)
            group.cancel_scope.cancel()
        return "scope"

    async def main() -> RunResult:
        tools = [Tool.from_function(one, effects="none") for one in (timeouts, groups, scopes)]
        names = [one.name for one in tools]
        steps = [{"id": f"{name}_{n}", "tool": name} for n in range(4) for name in names]
        steps += [{"id": f"end_{n}", "tool": names[n % 3], "needs": [f"{names[n % 3]}_0"]} for n in range(9)]
        async with asyncio.timeout(PATIENCE_S), Engine(tools=tools) as engine:
            return await engine.run({"planloom": 1, "steps": steps})

    result = asyncio.run(main())

    assert [step.error for step in result.steps if step.error] == []
    assert result.steps_completed == 21


def test_equal_cached_steps_that_are_stopped_together_are_not_called_again() -> None:
    calls: list[int] = []

    async def slow() -> None:
        calls.append(1)
        await asyncio.Event().wait()

    async def main() -> RunResult:
        plan = {"planloom": 1, "steps": [{"id": name, "tool": "slow", "cache": True} for name in ("a", "b", "c")]}
        async with asyncio.timeout(PATIENCE_S), Engine(tools=[Tool.from_function(slow, effects="none")]) as engine:
            run = await engine.start(plan)
            await asyncio.sleep(0.02)
            await run.cancel()
            return await engine.finish(run)

    result = asyncio.run(main())

    assert result.status.value == "cancelled"
    assert calls == [1]
