"""Runs that are taken up again: resume, recover, retry; and time while nobody drives them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from planloom import (
    ConfigError,
    Engine,
    JournalConflictError,
    MemoryJournal,
    RunStatus,
    StepStatus,
)
from planloom.errors import RunBusyError
from planloom.runtime.clock import LoopClock
from planloom.runtime.replay import diverges
from planloom.testing.clock import ManualClock
from planloom.testing.fakes import CallLog, fake_tool
from tests.runtime.common import ASK, ONE, turns, waiting


def test_closed_in_the_middle_and_resumed_the_run_comes_to_the_same(place: Any) -> None:
    log = CallLog()

    async def main() -> None:
        gate = asyncio.Event()

        async def work(n: int) -> int:
            if n == 3:
                await gate.wait()
            return n

        tools = [fake_tool("t", work, log=log)]
        plan = {"planloom": 1, "steps": [{"id": f"s{n}", "tool": "t", "with": {"n": n}} for n in range(6)]}
        async with Engine(place(), tools=tools) as engine:
            run = await engine.start(plan, run_id="r")
            while sum(step.status is StepStatus.COMPLETED for step in run.state_now().steps) < 5:
                await asyncio.sleep(0.001)
        gate.set()
        async with Engine(place(), tools=tools) as engine:
            run = await engine.resume("r")
            result = await engine.finish(run)
            record = await engine.journal.read("r")

        assert result.status is RunStatus.SUCCESS
        assert [step.output for step in result.steps] == [0, 1, 2, 3, 4, 5]
        assert sorted(args["n"] for args in log.of("t")) == [0, 1, 2, 3, 3, 4, 5]
        assert diverges("r", record) is None

    asyncio.run(main())


def test_a_run_in_hand_cannot_be_resumed_again_here_or_in_another_engine(tmp_path: Path) -> None:
    async def main() -> None:
        tools = [fake_tool("t", waiting)]
        async with Engine(tmp_path / "runs.db", tools=tools) as one, Engine(tmp_path / "runs.db", tools=tools) as two:
            await one.start(ONE, run_id="r")
            await one._drivers["r"].flushed()
            with pytest.raises(RunBusyError):
                await one.resume("r")
            with pytest.raises(RunBusyError):
                await two.resume("r")
            with pytest.raises(JournalConflictError):
                await two.start(ONE, run_id="r")
            await one.release("r")
            run = await two.resume("r")
            assert run.status is RunStatus.RUNNING

    asyncio.run(main())


def test_a_refused_resume_leaves_the_run_free_for_who_has_the_tools() -> None:
    async def main() -> None:
        journal, log = MemoryJournal(), CallLog()
        async with Engine(journal, tools=[fake_tool("t", waiting)]) as engine:
            await engine.start(ONE, run_id="r")
        async with Engine(journal, tools=[fake_tool("other")]) as poor:
            with pytest.raises(ConfigError, match="tools that are not here: t"):
                await poor.resume("r")
            async with Engine(journal, tools=[fake_tool("t", log=log)]) as rich:
                result = await rich.finish(await rich.resume("r"))
        assert result.status is RunStatus.SUCCESS

    asyncio.run(main())


def test_recover_takes_up_every_unended_run_that_nobody_drives(place: Any) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def work(**args: Any) -> str:
            await gate.wait()
            return "done"

        tools = [fake_tool("t", work), fake_tool("quick")]
        async with Engine(place(), tools=tools) as engine:
            for n in range(5):
                await engine.start(ONE, run_id=f"r{n}")
            await engine.run({"planloom": 1, "steps": [{"id": "a", "tool": "quick"}]}, run_id="ended")
            await turns()
        gate.set()
        async with Engine(place(), tools=tools) as engine:
            runs = await engine.recover()
            results = [await engine.finish(run) for run in runs]
            assert await engine.recover() == []

        assert sorted(run.run_id for run in runs) == [f"r{n}" for n in range(5)]
        assert {result.status for result in results} == {RunStatus.SUCCESS}

    asyncio.run(main())


def test_one_run_that_cannot_be_recovered_does_not_strand_the_others(place: Any) -> None:
    async def main() -> None:
        tools = [fake_tool("t", waiting), fake_tool("gone", waiting)]
        async with Engine(place(), tools=tools) as engine:
            for n in range(4):
                tool = "gone" if n == 2 else "t"
                await engine.start({"planloom": 1, "steps": [{"id": "a", "tool": tool}]}, run_id=f"r{n}")
            await turns()
        async with Engine(place(), tools=[fake_tool("t")]) as engine:
            runs = await engine.recover()
            for run in runs:
                assert (await engine.finish(run)).status is RunStatus.SUCCESS

        assert sorted(run.run_id for run in runs) == ["r0", "r1", "r3"]

    asyncio.run(main())


def test_retry_failed_reuses_what_is_not_behind_a_failure(place: Any) -> None:
    log = CallLog()
    plan = {
        "planloom": 1,
        "fail_fast": False,
        "steps": [
            {"id": "a", "tool": "good", "with": {"n": 1}},
            {"id": "bad", "tool": "flaky", "needs": ["a"]},
            {"id": "behind", "tool": "good", "needs": ["bad"], "with": {"n": 2}},
            {"id": "free", "tool": "good", "with": {"n": 3}},
        ],
    }

    async def main() -> None:
        tools = [fake_tool("good", log=log), fake_tool("flaky", [ValueError("first"), "mended"], log=log)]
        async with Engine(place(), tools=tools) as engine:
            first = await engine.run(plan, run_id="r")
            assert first.status is RunStatus.FAILED
            second = await engine.finish(await engine.retry_failed("r", new_id="r2"))
            again = await engine.result_of("r")

        assert second.status is RunStatus.SUCCESS
        assert second.run_id == "r2"
        assert [call.args for call in log.calls if call.tool == "good"] == [{"n": 1}, {"n": 3}, {"n": 2}]
        assert again.to_dict() == first.to_dict()

    asyncio.run(main())


def test_retry_failed_wants_a_run_that_ended_badly(place: Any) -> None:
    async def main() -> None:
        async with Engine(place(), tools=[fake_tool("t")]) as engine:
            await engine.run(ONE, run_id="good")
            with pytest.raises(ConfigError, match="ended well"):
                await engine.retry_failed("good")
            run = await engine.start(ASK, run_id="waits")
            await run.result()
            with pytest.raises(ConfigError, match="not ended"):
                await engine.retry_failed("waits")

    asyncio.run(main())


def test_waits_and_retries_go_on_where_they_were_after_a_resume(place: Any) -> None:
    log = CallLog()
    plan = {
        "planloom": 1,
        "steps": [
            {"id": "w", "wait": 100},
            {"id": "r", "tool": "flaky", "retry": {"max_attempts": 2, "initial_delay": 60, "jitter": False}},
            {"id": "end", "tool": "t", "needs": ["w", "r"]},
        ],
    }

    async def main() -> None:
        clock = ManualClock()
        began = clock.now()
        tools = [fake_tool("flaky", [ConnectionError(), "done"], log=log), fake_tool("t", log=log)]
        async with Engine(place(), tools=tools, clock=clock) as engine:
            run = await engine.start(plan, run_id="r")
            while not any(step.waiting == "retry" for step in run.state_now().steps):
                await asyncio.sleep(0.001)
            clock.advance(30)
        async with Engine(place(), tools=tools, clock=clock) as engine:
            run = await engine.resume("r")
            await turns()
            assert clock.next_due == began + 60
            clock.advance(29)
            await turns()
            assert len(log) == 1
            clock.advance(2)
            while len(log) < 2:
                await asyncio.sleep(0.001)
            await turns()
        clock.advance(500)
        async with Engine(place(), tools=tools, clock=clock) as engine:
            run = await engine.resume("r")
            await turns()
            clock.advance_to_next()
            assert (await engine.finish(run)).status is RunStatus.SUCCESS
        assert [call.tool for call in log.calls] == ["flaky", "flaky", "t"]

    asyncio.run(main())


def test_the_time_an_engine_is_down_is_not_the_run_s_time(place: Any) -> None:
    async def main() -> None:
        clock = ManualClock()
        plan = {"planloom": 1, "limits": {"timeout_seconds": 100}, **{"steps": [{"id": "a", "tool": "t"}]}}
        async with Engine(place(), tools=[fake_tool("t", waiting)], clock=clock) as engine:
            await engine.start(plan, run_id="r")
            await turns()
            clock.advance(0)
        clock.advance(86_400)
        async with Engine(place(), tools=[fake_tool("t")], clock=clock) as engine:
            result = await engine.finish(await engine.resume("r"))
        assert result.status is RunStatus.SUCCESS
        assert result.latency_ms < 100_000

    asyncio.run(main())


def test_a_clock_that_was_set_back_while_the_engine_was_down_does_not_turn_time_back(place: Any) -> None:
    async def main() -> None:
        plan = {"planloom": 1, "steps": [{"id": "a", "tool": "t"}, {"id": "b", "tool": "t", "needs": ["a"]}]}
        async with Engine(place(), tools=[fake_tool("t", waiting)], clock=ManualClock(2_000_000.0)) as engine:
            await engine.start(plan, run_id="r")
            await turns()
        async with Engine(place(), tools=[fake_tool("t")], clock=ManualClock(1_000_000.0)) as engine:
            result = await engine.finish(await engine.resume("r"))
            times = [entry.event.at for entry in await engine.journal.read("r")]
        assert result.status is RunStatus.SUCCESS
        assert times == sorted(times)
        assert result.latency_ms >= 0
        assert all((step.latency_ms or 0) >= 0 for step in result.steps)

    asyncio.run(main())


def test_the_loop_s_clock_never_goes_back_whatever_the_wall_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = LoopClock()
    assert abs(clock.now() - time.time()) < 1
    seen = [clock.now()]
    for shift in (-3_600.0, 3_600.0, -86_400.0):
        monkeypatch.setattr(time, "time", lambda shift=shift: 1_700_000_000.0 + shift)
        seen.append(clock.now())
    assert seen == sorted(seen)
    assert seen[-1] - seen[0] < 1
