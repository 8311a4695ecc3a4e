"""Runs that are let go of, engines that are closed, callers that give up: nobody waits for ever or is told untruths."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from planloom import ConfigError, Engine, MemoryJournal, PlanloomError, RunStatus
from planloom.core.events import ApprovalAnswered, CancelRequested, RunFinished
from planloom.testing.crash import CrashingJournal, Spoil
from planloom.testing.fakes import fake_tool
from tests.runtime.common import ASK, ONE, turns, waiting

PATIENCE_S = 3.0


@pytest.mark.parametrize("how", ["release", "close"])
def test_whoever_waits_for_a_run_that_is_let_go_of_is_told(how: str) -> None:
    async def main() -> None:
        engine = Engine(tools=[fake_tool("t", waiting)])
        run = await engine.start(ONE)
        before = asyncio.create_task(run.result())
        await turns()
        await (engine.release(run.run_id) if how == "release" else engine.close())
        for waiter in (before, run.result()):
            with pytest.raises(PlanloomError) as caught:
                await asyncio.wait_for(waiter, PATIENCE_S)
            assert "resume" in caught.value.remedy
        await engine.close()

    asyncio.run(main())


def test_a_run_that_ended_can_be_asked_for_after_it_was_let_go_of() -> None:
    async def main() -> None:
        engine = Engine(tools=[fake_tool("t")])
        run = await engine.start(ONE)
        first = await engine.finish(run)
        assert (await asyncio.wait_for(run.result(), PATIENCE_S)).to_dict() == first.to_dict()
        await engine.close()
        assert (await asyncio.wait_for(run.result(), PATIENCE_S)).to_dict() == first.to_dict()

    asyncio.run(main())


@pytest.mark.parametrize("what", ["approve", "cancel"])
def test_an_answer_to_a_run_that_is_not_driven_here_any_more_is_refused_and_not_swallowed(what: str) -> None:
    async def main() -> None:
        journal = MemoryJournal()
        async with Engine(journal, tools=[fake_tool("t")]) as engine:
            run = await engine.start(ASK, run_id="r")
            assert (await engine.finish(run)).status is RunStatus.WAITING
            with pytest.raises(PlanloomError) as caught:
                await (run.approve("ok", by="me") if what == "approve" else run.cancel())
            assert "resume" in caught.value.remedy
            events = [entry.event for entry in await journal.read("r")]
            assert not any(isinstance(event, ApprovalAnswered | CancelRequested) for event in events)

    asyncio.run(main())


@pytest.mark.parametrize("what", ["approve", "resolve", "cancel"])
def test_an_answer_that_was_taken_survives_a_power_cut(what: str) -> None:
    """What returns without an error is on record: I1."""

    async def main() -> None:
        disk = MemoryJournal()
        pay = {"planloom": 1, "steps": [{"id": "ok", "tool": "pay"}]}
        if what == "resolve":
            async with Engine(disk, tools=[fake_tool("pay", waiting, effects="once")]) as engine:
                await engine.start(pay, run_id="r")
                await turns()
        journal = CrashingJournal(disk, lag=25)
        async with Engine(journal, tools=[fake_tool("t"), fake_tool("pay", effects="once")]) as engine:
            run = await (engine.resume("r") if what == "resolve" else engine.start(ASK, run_id="r"))
            await run.result()
            if what == "approve":
                await run.approve("ok", by="me")
            elif what == "resolve":
                await run.resolve("ok", "output", by="me", output=1)
            else:
                await run.cancel(by="me")
            journal.cut()
        events = [type(entry.event).__name__ for entry in await disk.read("r")]
        wanted = {"approve": "ApprovalAnswered", "resolve": "StepResolved", "cancel": "CancelRequested"}[what]
        assert wanted in events

    asyncio.run(main())


@pytest.mark.parametrize("what", ["cancel", "pause"])
def test_who_is_told_that_there_is_nothing_left_to_stop_is_told_what_is_on_record(what: str) -> None:
    async def main() -> None:
        disk, go_on = MemoryJournal(), asyncio.Event()
        journal = CrashingJournal(disk, lag=25)

        async def wait(**args: Any) -> None:
            await go_on.wait()

        async with Engine(journal, tools=[fake_tool("t", wait)]) as engine:
            run = await engine.start(ONE, run_id="r")
            go_on.set()
            while not run._machine.ended:
                await asyncio.sleep(0)
            await (run.cancel() if what == "cancel" else run.pause())
            journal.cut()
        assert isinstance((await disk.read("r"))[-1].event, RunFinished)

    asyncio.run(main())


@pytest.mark.slow
def test_a_cancelled_caller_is_cancelled_even_when_the_record_does_not_answer() -> None:
    async def main() -> float:
        journal = CrashingJournal(MemoryJournal(), at=3, how=Spoil.BEFORE)
        engine = Engine(journal, tools=[fake_tool("t", waiting)])
        task = asyncio.create_task(engine.run(ONE))
        await turns()
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 6)
        await engine.close()
        return time.monotonic() - began

    assert asyncio.run(main()) < 4


def test_a_caller_cancelled_in_the_very_moment_the_record_breaks_is_cancelled() -> None:
    async def main() -> None:
        journal = CrashingJournal(MemoryJournal(), at=1, how=Spoil.BROKEN)
        async with Engine(journal, tools=[fake_tool("t", waiting)]) as engine:
            task = asyncio.create_task(engine.run(ONE))
            await journal.stopped.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, PATIENCE_S)

    asyncio.run(main())


def test_a_closed_engine_starts_nothing() -> None:
    async def main() -> None:
        journal = MemoryJournal()
        engine = Engine(journal, tools=[fake_tool("t")])
        await engine.run(ONE, run_id="before")
        await engine.close()
        for work in (lambda: engine.start(ONE, run_id="r"), lambda: engine.run(ONE), lambda: engine.resume("before")):
            with pytest.raises(ConfigError, match="closed"):
                await asyncio.wait_for(work(), PATIENCE_S)
        assert [row.run_id for row in await journal.runs()] == ["before"]

    asyncio.run(main())


def test_runs_that_are_refused_leave_no_lane_behind() -> None:
    async def main() -> None:
        async with Engine(tools=[fake_tool("t")]) as engine:
            await engine.run(ONE, run_id="r")
            for _ in range(5):
                with pytest.raises(PlanloomError):
                    await engine.start(ONE, run_id="r")
            assert engine._wired.transport._lanes == []  # type: ignore[attr-defined]

    asyncio.run(main())


@pytest.mark.slow
def test_an_engine_that_served_many_runs_remembers_none_of_them() -> None:
    async def main() -> None:
        async with Engine(tools=[fake_tool("t")]) as engine:
            for n in range(300):
                await engine.run({**ONE, "name": f"plan {n}"})
            assert engine._drivers == {}
            assert engine._wired.transport._lanes == []  # type: ignore[attr-defined]
            await turns()
            assert len(asyncio.all_tasks()) < 5

    asyncio.run(main())


INTERRUPTED = """
import asyncio, sys
from planloom import run_plan, tool

@tool(effects="once")
async def slow() -> None:
    print("begun", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        print("cleaned up", flush=True)

plan = {"planloom": 1, "steps": [{"id": "a", "tool": "slow"}]}
try:
    run_plan(plan, tools=[slow], journal=sys.argv[1], run_id="r")
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.slow
@pytest.mark.timing
def test_ctrl_c_in_a_blocking_run_cancels_it_on_record(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    out, err = process.communicate(timeout=20)

    async def status() -> Any:
        async with Engine(path, tools=[]) as engine:
            return (await engine.result_of("r")).status

    assert time.monotonic() - began < 3
    assert (out, err) == ("cleaned up\ninterrupted\n", "")
    assert asyncio.run(status()) is RunStatus.CANCELLED


NEVER_CLOSED = """
import asyncio
from planloom import Engine, tool

@tool(effects="none")
async def slow() -> None:
    await asyncio.sleep(60)

@tool(effects="none")
async def quick() -> None:
    await asyncio.sleep(0)

async def main():
    engine = Engine(tools=[slow, quick])
    steps = [{"id": f"q{n}", "tool": "quick"} for n in range(9)] + [{"id": f"s{n}", "tool": "slow"} for n in range(9)]
    await engine.start({"planloom": 1, "steps": [*steps, {"id": "z", "tool": "quick", "needs": ["s0"]}]})
    await asyncio.sleep(0.05)

asyncio.run(main())
print("left")
"""


@pytest.mark.slow
def test_a_program_that_forgot_to_close_its_engine_ends_all_the_same() -> None:
    """The loop cancels every task when it ends; no worker may take that for its tool's answer and go on."""
    done = subprocess.run([sys.executable, "-c", NEVER_CLOSED], capture_output=True, text=True, timeout=10, check=False)

    assert (done.returncode, done.stdout) == (0, "left\n")
    assert "Traceback" not in done.stderr
