"""Tools that take their time: threads, deadlines, and those that do not listen."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from planloom import Engine, RunResult, Settings, StepStatus, Tool
from tests.executors.tools import beside, fine, made


@pytest.mark.slow
def test_a_tool_that_swallows_a_timeout_is_given_up_all_the_same() -> None:
    async def bad() -> str:
        end = time.monotonic() + 4
        while time.monotonic() < end:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)
        return "late"

    result = beside(made(bad), attempt_timeout=0.1)

    assert result.step("bad").status is StepStatus.TIMED_OUT
    assert result.latency_ms < 3_000


@pytest.mark.slow
@pytest.mark.timing
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
