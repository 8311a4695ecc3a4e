"""Runs that wait for a person, who answers here, through another engine, or from another process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from planloom import (
    ConfigError,
    Engine,
    MemoryJournal,
    RunStatus,
    SqliteJournal,
)
from planloom.core.events import CancelRequested, StepResolved
from planloom.testing.clock import ManualClock
from planloom.testing.fakes import CallLog, fake_tool
from tests.runtime.common import ASK, leave_yes, turns, waiting


def test_a_run_that_waits_for_a_person_says_so_and_goes_on_when_answered(place: Any) -> None:
    async def main() -> None:
        async with Engine(place(), tools=[fake_tool("t")]) as engine:
            run = await engine.start(ASK, run_id="r")
            result = await run.result()
            assert result.status is RunStatus.WAITING
            assert [step["command"] for step in result.to_dict()["blocked"]] == ["planloom approve r ok"]
            with pytest.raises(ConfigError, match="does not wait"):
                await run.approve("a", by="me")
            with pytest.raises(ConfigError, match="does not wait"):
                await run.resolve("ok", "retry", by="me")
            await run.approve("ok", by="me")
            result = await run.result()
            assert result.status is RunStatus.SUCCESS
            assert result.step("ok").output == {"approved_by": "me"}
            with pytest.raises(ConfigError):
                await run.approve("ok", by="me")

    asyncio.run(main())


def test_a_denied_approval_fails_the_run(place: Any) -> None:
    async def main() -> None:
        async with Engine(place(), tools=[fake_tool("t")]) as engine:
            run = await engine.start(ASK)
            await run.result()
            await run.approve("ok", by="me", approved=False)
            result = await engine.finish(run)
            assert result.status is RunStatus.FAILED
            assert "denied by me" in (result.error or "")

    asyncio.run(main())


def test_an_unknown_outcome_waits_for_each_of_the_three_answers(place: Any) -> None:
    log = CallLog()
    plan = {"planloom": 1, "steps": [{"id": "pay", "tool": "pay"}, {"id": "b", "tool": "t", "needs": ["pay"]}]}

    async def main() -> None:
        async with Engine(place(), tools=[fake_tool("pay", waiting, effects="once"), fake_tool("t")]) as engine:
            for how in ("output", "retry", "fail"):
                await engine.start(plan, run_id=how)
                await engine._drivers[how].flushed()
            await turns()
        tools = [fake_tool("pay", lambda **_: "paid again", log=log, effects="once"), fake_tool("t")]
        async with Engine(place(), tools=tools) as engine:
            runs = {run.run_id: run for run in await engine.recover()}
            for how, run in runs.items():
                result = await run.result()
                assert result.status is RunStatus.WAITING
                assert [step.waiting for step in result.blocked] == ["unknown"]
                with pytest.raises(ConfigError, match="no way"):
                    await run.resolve("pay", "guess", by="me")
                await run.resolve("pay", how, by="me", output="paid" if how == "output" else None)
            ended = {how: await engine.finish(run) for how, run in runs.items()}

        assert {how: result.step("pay").output for how, result in ended.items()} == {
            "output": "paid",
            "retry": "paid again",
            "fail": None,
        }
        assert ended["fail"].status is RunStatus.FAILED
        assert len(log) == 1

    asyncio.run(main())


def test_what_is_not_behind_an_unknown_outcome_goes_on(place: Any) -> None:
    plan = {
        "planloom": 1,
        "steps": [
            {"id": "pay", "tool": "pay"},
            {"id": "behind", "tool": "t", "needs": ["pay"]},
            {"id": "free", "tool": "held"},
            {"id": "more", "tool": "t", "needs": ["free"]},
        ],
    }

    async def main() -> None:
        stuck = [fake_tool("pay", waiting, effects="once"), fake_tool("held", waiting), fake_tool("t")]
        async with Engine(place(), tools=stuck) as engine:
            await engine.start(plan, run_id="r")
            await engine._drivers["r"].flushed()
            await turns()
        tools = [fake_tool("pay", effects="once"), fake_tool("held"), fake_tool("t")]
        async with Engine(place(), tools=tools) as engine:
            result = await (await engine.resume("r")).result()

        assert {step.id: step.status.value for step in result.steps} == {
            "pay": "running",
            "behind": "pending",
            "free": "completed",
            "more": "completed",
        }

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("what", ["approve", "resolve", "cancel"])
def test_a_fact_left_by_another_engine_is_heard_while_the_run_is_driven(what: str, tmp_path: Path) -> None:
    async def main() -> RunStatus:
        path = tmp_path / "runs.db"
        pay = {"planloom": 1, "steps": [{"id": "ok", "tool": "pay"}]}
        if what == "resolve":
            async with Engine(path, tools=[fake_tool("pay", waiting, effects="once")]) as engine:
                await engine.start(pay, run_id="r")
                await engine._drivers["r"].flushed()
                await turns()
        async with Engine(path, tools=[fake_tool("t"), fake_tool("pay", effects="once")]) as engine:
            run = await (engine.resume("r") if what == "resolve" else engine.start(ASK, run_id="r"))
            assert (await run.result()).status is RunStatus.WAITING
            other = SqliteJournal(path)
            if what == "approve":
                await leave_yes(other, "r", by="somebody else", at=time.time())
            elif what == "resolve":
                await other.post("r", StepResolved("ok", "output", "somebody else", time.time(), output=1))
            else:
                await other.post("r", CancelRequested("somebody else", time.time()))
            async with asyncio.timeout(5):
                while run.status is RunStatus.WAITING:
                    await asyncio.sleep(0.02)
            result = await run.result()
            while await other.posted("r"):
                await asyncio.sleep(0.02)
            await other.close()
            return result.status

    assert asyncio.run(main()) is (RunStatus.CANCELLED if what == "cancel" else RunStatus.SUCCESS)


POST = """
import asyncio, sys
from planloom import SqliteJournal
from tests.runtime.common import leave_yes
async def main():
    journal = SqliteJournal(sys.argv[1])
    await leave_yes(journal, "r", by="another process")
    await journal.close()
asyncio.run(main())
"""


@pytest.mark.slow
def test_a_fact_left_by_another_process_is_heard_also_when_nobody_drove_the_run(tmp_path: Path) -> None:
    async def main() -> Any:
        path = tmp_path / "runs.db"
        async with Engine(path, tools=[fake_tool("t")]) as engine:
            assert (await (await engine.start(ASK, run_id="r")).result()).status is RunStatus.WAITING
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", POST, str(path)], check=True)
        async with Engine(path, tools=[fake_tool("t")]) as engine:
            return await engine.finish(await engine.resume("r"))

    result = asyncio.run(main())

    assert result.status is RunStatus.SUCCESS
    assert result.step("ok").output == {"approved_by": "another process"}


def test_an_answer_given_while_the_engine_was_down_does_not_turn_time_back() -> None:
    """Else a step behind the answer has its deadline before its start."""

    async def main() -> None:
        clock, journal = ManualClock(), MemoryJournal()
        plan = {
            "planloom": 1,
            "steps": [
                {"id": "ok", "approve": "Go on?"},
                {"id": "b", "tool": "t", "needs": ["ok"], "timeout_seconds": 5},
            ],
        }
        async with Engine(journal, tools=[fake_tool("t")], clock=clock) as engine:
            await (await engine.start(plan, run_id="r")).result()
        await leave_yes(journal, "r", at=clock.now())
        clock.advance(3_600)
        async with Engine(journal, tools=[fake_tool("t")], clock=clock) as engine:
            result = await engine.finish(await engine.resume("r"))
        times = [entry.event.at for entry in await journal.read("r")]

        assert times == sorted(times)
        assert result.status is RunStatus.SUCCESS
        assert result.latency_ms >= 0

    asyncio.run(main())
