"""An engine and its runs: start, resume, recover, retry, follow, answer, cancel, close."""

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
    JournalConflictError,
    MemoryJournal,
    RunStatus,
    SqliteJournal,
    StepStatus,
)
from planloom.core.events import (
    ApprovalAnswered,
    CancelRequested,
    RunFinished,
    RunStarted,
    StepDispatched,
    StepResolved,
)
from planloom.errors import RunBusyError, RunNotFoundError
from planloom.runtime.clock import LoopClock
from planloom.runtime.replay import diverges
from planloom.testing.clock import ManualClock
from planloom.testing.fakes import CallLog, fake_tool

ONE = {"planloom": 1, "steps": [{"id": "a", "tool": "t"}]}
ASK = {
    "planloom": 1,
    "steps": [
        {"id": "a", "tool": "t"},
        {"id": "ok", "approve": "Go on?", "needs": ["a"]},
        {"id": "b", "tool": "t", "needs": ["ok"], "with": {"n": 2}},
    ],
}


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def waiting(_: Any = None, **args: Any) -> None:
    await asyncio.Event().wait()


@pytest.fixture(params=["memory", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Return what opens the same journal each time it is called."""
    if request.param == "sqlite":
        return lambda: tmp_path / "runs.db"
    journal = MemoryJournal()
    return lambda: journal


def test_a_run_has_its_id_or_a_new_one_that_sorts_by_time(place: Any) -> None:
    async def main() -> None:
        async with Engine(place(), tools=[fake_tool("t")]) as engine:
            first = await engine.run(ONE)
            second = await engine.run(ONE)
            assert first.run_id[:15] <= second.run_id[:15]
            assert first.run_id != second.run_id
            assert (await engine.run(ONE, run_id="mine")).run_id == "mine"
            with pytest.raises(JournalConflictError):
                await engine.run(ONE, run_id="mine")

    asyncio.run(main())


def test_a_run_that_does_not_exist_is_not_found(place: Any) -> None:
    async def main() -> None:
        async with Engine(place(), tools=[fake_tool("t")]) as engine:
            for work in (engine.resume, engine.result_of, engine.retry_failed):
                with pytest.raises(RunNotFoundError):
                    await work("nobody")

    asyncio.run(main())


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


def test_followers_see_every_event_once_and_in_order_from_wherever_they_begin(place: Any) -> None:
    async def main() -> None:
        async with Engine(place(), tools=[fake_tool("t")]) as engine:
            run = await engine.start(ASK, run_id="r")
            live: list[int] = []

            async def follow() -> None:
                async for entry in run.follow():
                    live.append(entry.seq)

            follower = asyncio.create_task(follow())
            await run.result()
            await run.approve("ok", by="me")
            await run.result()
            await asyncio.wait_for(follower, 5)
            late = [entry async for entry in engine.follow("r", after=3)]

        assert live == list(range(1, len(live) + 1))
        assert [entry.seq for entry in late] == live[3:]
        assert isinstance(late[-1].event, RunFinished)

    asyncio.run(main())


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


def test_cancel_is_recorded_then_enforced(place: Any) -> None:
    async def main() -> None:
        async with Engine(place(), tools=[fake_tool("t", waiting)]) as engine:
            run = await engine.start(ONE, run_id="r")
            await turns()
            await run.cancel(by="me", reason="enough")
            await run.cancel(by="me")
            result = await engine.finish(run)
            kinds = [type(entry.event).__name__ for entry in await engine.journal.read("r")]

        assert result.status is RunStatus.CANCELLED
        assert kinds.count("CancelRequested") == 1
        assert kinds.index("CancelRequested") < kinds.index("AttemptFailed")

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
            fact: Any = {
                "approve": ApprovalAnswered("ok", True, "somebody else", time.time()),
                "resolve": StepResolved("ok", "output", "somebody else", time.time(), output=1),
                "cancel": CancelRequested("somebody else", time.time()),
            }[what]
            await other.post("r", fact)
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
import asyncio, sys, time
from planloom import SqliteJournal
from planloom.core.events import ApprovalAnswered
async def main():
    journal = SqliteJournal(sys.argv[1])
    await journal.post("r", ApprovalAnswered("ok", True, "another process", time.time()))
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
        await journal.post("r", ApprovalAnswered("ok", True, "me", clock.now()))
        clock.advance(3_600)
        async with Engine(journal, tools=[fake_tool("t")], clock=clock) as engine:
            result = await engine.finish(await engine.resume("r"))
        times = [entry.event.at for entry in await journal.read("r")]

        assert times == sorted(times)
        assert result.status is RunStatus.SUCCESS
        assert result.latency_ms >= 0

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("durable", [True, False])
def test_a_thousand_runs_at_once(durable: bool, tmp_path: Path) -> None:
    async def add(n: int) -> int:
        await asyncio.sleep(0)
        return n + 1

    plan = {
        "planloom": 1,
        "inputs": {"n": {"type": "integer"}},
        "steps": [
            {"id": "a", "tool": "add", "with": {"n": "${{ inputs.n }}"}},
            {"id": "b", "tool": "add", "with": {"n": "${{ steps.a.output }}"}},
            {"id": "c", "tool": "add", "with": {"n": "${{ steps.a.output }}"}},
            {"id": "d", "tool": "add", "with": {"n": "${{ steps.b.output }}"}, "needs": ["c"]},
        ],
    }

    async def main() -> None:
        async with Engine(tmp_path / "runs.db" if durable else None, tools=[fake_tool("add", add)]) as engine:
            checked = engine.check(plan)
            results = await asyncio.gather(*(engine.run(checked, {"n": n}, run_id=f"r{n}") for n in range(1_000)))
            assert [result.output for result in results] == [n + 3 for n in range(1_000)]
            assert len(await engine.journal.runs(status="success", limit=2_000)) == 1_000
            assert engine._drivers == {}
        assert len(asyncio.all_tasks()) == 1

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


def test_everything_the_engine_shows_stays_the_same_when_read_by_another(place: Any) -> None:
    async def main() -> None:
        async with Engine(place(), tools=[fake_tool("t")]) as engine:
            result = await engine.run({**ONE, "name": "shown"}, run_id="r")
            row = (await engine.journal.runs())[0]
            assert (row.run_id, row.plan, row.status) == ("r", "shown", "success")
        async with Engine(place(), tools=[]) as engine:
            assert (await engine.result_of("r")).to_dict() == result.to_dict()
            resumed = await engine.resume("r")
            assert (await resumed.result()).to_dict() == result.to_dict()
            first = (await engine.journal.read("r"))[0].event
            assert isinstance(first, RunStarted)
            assert first.tools["t"].digest

    asyncio.run(main())


def test_a_once_start_is_known_to_the_record_before_its_tool_runs(place: Any) -> None:
    seen: list[bool] = []

    async def main() -> None:
        engine: Engine

        async def pay(**args: Any) -> None:
            events = [entry.event for entry in await engine.journal.read("r")]
            seen.append(any(isinstance(event, StepDispatched) for event in events))

        engine = Engine(place(), tools=[fake_tool("pay", pay, effects="once")])
        async with engine:
            await engine.run({"planloom": 1, "steps": [{"id": "a", "tool": "pay"}]}, run_id="r")

    asyncio.run(main())

    assert seen == [True]
