"""Attempts in worker processes that are really killed: nothing is lost, nothing is done twice, nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from planloom import Engine, RunStatus, StepStatus
from planloom.core.events import AttemptSucceeded, OutcomeUnknown, ResultRefused, StepDispatched
from planloom.errors import PlanError
from planloom.plan.policy import FailureKind
from planloom.tools.load import load_tools
from planloom.transport.setup import WorkerSetup
from tests.transport.workplace import (
    TOOLS,
    alive,
    calls,
    children,
    engine_on,
    open_files,
    plan,
    pool_of,
    step,
    until,
)

pytestmark = pytest.mark.slow


def test_a35_three_worker_processes_run_one_plan() -> None:
    async def main() -> None:
        async with pool_of(3, 3) as pool, engine_on(pool) as engine:
            await until(lambda: pool.idle == 3)

            result = await engine.run(
                plan(
                    step("many", "w.pid", {"n": "${{ item }}", "seconds": 0.1}, for_each=[1, 2, 3, 4, 5, 6]),
                    step("sum", "w.add", {"a": 1, "b": "${{ len(steps.many.output) }}"}),
                    outputs={"pids": "${{ steps.many.output }}", "sum": "${{ steps.sum.output }}"},
                )
            )

            assert result.status is RunStatus.SUCCESS
            assert len(set(result.output["pids"])) == 3
            assert os.getpid() not in result.output["pids"]
            assert result.output["sum"] == 7
            assert pool.counts.provisioned == pool.counts.released

    asyncio.run(main())


def test_a31_a_killed_workers_step_is_done_by_another_and_once_is_enough(tmp_path: Path) -> None:
    async def main() -> None:
        async with pool_of(2, 2) as pool, engine_on(pool) as engine:
            await until(lambda: pool.idle == 2)
            run = await engine.start(plan(step("a", "w.put", {"folder": str(tmp_path), "n": 3, "seconds": 0.4})))
            await until(lambda: calls(tmp_path))
            began = time.monotonic()

            os.kill(int(calls(tmp_path)[0][3]), signal.SIGKILL)
            result = await run.result()

            events = [recorded.event for recorded in await engine.journal.read(run.run_id)]
            assert result.status is RunStatus.SUCCESS
            assert result.output == 9
            assert time.monotonic() - began < 3
            assert [line[2] for line in calls(tmp_path)] == ["1", "2"]
            assert sum(isinstance(event, AttemptSucceeded) for event in events) == 1
            assert sum(isinstance(event, StepDispatched) for event in events) == 2
            assert pool.counts.lost == 1

    asyncio.run(main())


def test_a31_a_step_that_may_be_done_once_only_waits_for_a_person(tmp_path: Path) -> None:
    async def main() -> None:
        async with pool_of(2, 2) as pool, engine_on(pool) as engine:
            run = await engine.start(plan(step("a", "w.pay", {"folder": str(tmp_path), "seconds": 60})))
            await until(lambda: calls(tmp_path))

            os.kill(int(calls(tmp_path)[0][3]), signal.SIGKILL)
            result = await run.result()

            events = [recorded.event for recorded in await engine.journal.read(run.run_id)]
            assert result.status is RunStatus.WAITING
            assert any(isinstance(event, OutcomeUnknown) for event in events)
            assert len(calls(tmp_path)) == 1

    asyncio.run(main())


def test_a_worker_that_falls_silent_is_killed_and_its_step_done_elsewhere(tmp_path: Path) -> None:
    async def main() -> None:
        async with pool_of(2, 2, lease_s=0.5) as pool, engine_on(pool) as engine:
            await until(lambda: pool.idle == 2)
            run = await engine.start(plan(step("a", "w.put", {"folder": str(tmp_path), "n": 2, "seconds": 0.2})))
            await until(lambda: calls(tmp_path))
            stopped = int(calls(tmp_path)[0][3])

            os.kill(stopped, signal.SIGSTOP)
            result = await run.result()

            assert result.output == 4
            assert [line[2] for line in calls(tmp_path)] == ["1", "2"]
            assert not alive(stopped)

    asyncio.run(main())


def test_a_step_that_kills_its_worker_three_times_fails_on_record(tmp_path: Path) -> None:
    async def main() -> None:
        async with pool_of(1, 2) as pool, engine_on(pool) as engine:
            result = await engine.run(plan(step("a", "w.die", {"folder": str(tmp_path)})))

            assert result.status is RunStatus.FAILED
            assert result.steps[0].error_kind == FailureKind.LOST
            assert "SIGKILL" in (result.steps[0].error or "")
            assert len(calls(tmp_path)) == 3

            after = await engine.run(plan(step("b", "w.add", {"a": 1, "b": 1})))

            assert after.output == 2

    asyncio.run(main())


@pytest.mark.crash
def test_twenty_kills_at_random_lose_nothing(tmp_path: Path) -> None:
    dice = random.Random(7)
    count = 250

    async def main() -> None:
        async with pool_of(3, 3) as pool, engine_on(pool) as engine:
            await until(lambda: pool.idle == 3)
            args = {"folder": str(tmp_path), "n": "${{ item }}", "seconds": 0.04}
            run = await engine.start(plan(step("many", "w.put", args, for_each=list(range(count)))))
            killed = 0
            while killed < 20 and run.status is RunStatus.RUNNING:
                await asyncio.sleep(dice.uniform(0.1, 0.35))
                if pool.pids:
                    os.kill(dice.choice(list(pool.pids.values())), signal.SIGKILL)
                    killed += 1

            async with asyncio.timeout(60):
                result = await run.result()

            assert killed == 20
            assert result.output == [n * n for n in range(count)]

    asyncio.run(main())


@pytest.mark.parametrize("tool", ["w.block", "w.thread", "w.child"])
def test_a_cancelled_run_leaves_nothing_alive(tool: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with pool_of(1, 1) as pool, engine_on(pool) as engine:
            run = await engine.start(plan(step("a", tool, {"folder": str(tmp_path)})))
            await until(lambda: calls(tmp_path))
            worker = int(calls(tmp_path)[0][3])
            began = time.monotonic()

            await run.cancel()
            result = await run.result()

            assert result.status is RunStatus.CANCELLED
            if tool == "w.child":  # it stops when asked, and its worker goes on: what it started is its own to end
                return
            await until(lambda: not alive(worker))
            assert time.monotonic() - began < 3

    asyncio.run(main())
    if tool == "w.child":
        asyncio.run(until(lambda: not alive(int((tmp_path / "child.pid").read_text())), within_s=2))


def test_a_step_that_takes_too_long_and_keeps_the_event_loop_is_ended_all_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        async with pool_of(1, 1) as pool, engine_on(pool) as engine:
            await until(lambda: pool.idle == 1)
            began = time.monotonic()

            result = await engine.run(plan(step("a", "w.block", {"folder": str(tmp_path)}, attempt_timeout=0.2)))

            assert result.steps[0].status is StepStatus.TIMED_OUT
            assert time.monotonic() - began < 5
            await until(lambda: not alive(int(calls(tmp_path)[0][3])))

    asyncio.run(main())


def test_a_tool_that_keeps_the_event_loop_for_longer_than_a_lease_is_no_lost_worker(tmp_path: Path) -> None:
    async def main() -> None:
        async with pool_of(1, 1, lease_s=0.4) as pool, engine_on(pool) as engine:
            result = await engine.run(plan(step("a", "w.block", {"folder": str(tmp_path), "seconds": 1.5})))

            assert result.status is RunStatus.SUCCESS
            assert pool.counts.lost == 0

    asyncio.run(main())


def test_an_engine_that_did_not_listen_for_longer_than_a_lease_blames_no_worker(tmp_path: Path) -> None:
    async def main() -> None:
        async with pool_of(1, 1, lease_s=0.4) as pool, engine_on(pool) as engine:
            run = await engine.start(plan(step("a", "w.put", {"folder": str(tmp_path), "n": 3, "seconds": 1.5})))
            await until(lambda: calls(tmp_path))

            time.sleep(1.0)  # somebody's code keeps the event loop of the engine
            result = await run.result()

            assert result.output == 9
            assert (pool.counts.lost, len(calls(tmp_path))) == (0, 1)

    asyncio.run(main())


def test_closing_leaves_no_process_file_or_thread_behind(tmp_path: Path) -> None:
    before = open_files(), children(), threading.active_count()

    async def main() -> None:
        async with pool_of(2, 2) as pool:
            async with engine_on(pool) as engine:
                await engine.start(plan(step("a", "w.put", {"folder": str(tmp_path), "n": 1, "seconds": 60})))
                await until(lambda: calls(tmp_path))
            assert pool.busy == 0

    asyncio.run(main())

    assert children() == before[1]
    assert open_files() == before[0]
    assert threading.active_count() == before[2]


def test_a_worker_whose_tool_is_another_one_than_the_runs_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(Path(TOOLS).read_text().replace("def add(a: int, b: int)", "def add(a: int, b: int, c: int = 0)"))

    async def main() -> None:
        async with pool_of(1, 1, setup=WorkerSetup(tools=(str(other),))) as pool, engine_on(pool) as engine:
            result = await engine.run(plan(step("a", "w.add", {"a": 1, "b": 2})))

            assert result.status is RunStatus.FAILED
            assert result.steps[0].error_kind == FailureKind.REFUSED
            assert "another one" in (result.steps[0].error or "")

    asyncio.run(main())


def test_a_worker_uses_no_tool_outside_its_own_allowlist(tmp_path: Path) -> None:
    async def main() -> None:
        setup = WorkerSetup(tools=(TOOLS,), allow=("w.add",))
        async with pool_of(0, 1, setup=setup) as pool, engine_on(pool) as engine:
            forbidden = plan(step("a", "w.put", {"folder": str(tmp_path), "n": 2}))
            denied = await engine.run(forbidden)
            allowed = await engine.run(plan(step("a", "w.add", {"a": 1, "b": 2})))

            with pytest.raises(PlanError, match=r"no worker has tool 'w\.put', or may use it"):
                await engine.run(forbidden)  # by now it is known
            assert allowed.output == 3
            assert denied.status is RunStatus.FAILED
            assert "may not use tool 'w.put'" in (denied.steps[0].error or "")
            assert calls(tmp_path) == []

    asyncio.run(main())


def test_kinds_that_are_done_here_never_reach_a_worker() -> None:
    async def main() -> None:
        async with pool_of(0, 1) as pool, engine_on(pool, here=("tool",)) as engine:
            result = await engine.run(plan(step("a", "w.pid")))

            assert result.output == os.getpid()
            assert pool.counts.started == 0

    asyncio.run(main())


def test_a_chain_is_resumed_by_another_engine_with_other_workers(tmp_path: Path) -> None:
    async def main() -> None:
        journal = tmp_path / "runs.db"
        args = {"folder": str(tmp_path), "n": 2}
        async with pool_of(1, 1) as pool:
            async with engine_on(pool, journal=journal) as engine:
                run = await engine.start(
                    plan(step("a", "w.put", args), step("b", "w.put", args | {"seconds": 60}, needs=["a"]))
                )
                await until(lambda: len(calls(tmp_path)) == 2)
            async with Engine(journal, tools=load_tools(TOOLS)) as here:
                again = await here.resume(run.run_id)
                await until(lambda: len(calls(tmp_path)) == 3)
                await again.cancel()
                await again.result()

        assert [line[1] for line in calls(tmp_path)] == ["a", "b", "b"]
        assert calls(tmp_path)[2][3] == str(os.getpid())

    asyncio.run(main())


def test_what_is_too_long_to_be_sent_fails_its_step_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planloom.transport.reception.MAX_FRAME_BYTES", 50_000)

    async def main() -> None:
        async with pool_of(1, 1) as pool, engine_on(pool) as engine:
            long = await engine.run(
                plan(step("a", "w.add", {"a": int("1" * 4000), "b": 2}, labels={"x": "y" * 60_000}))
            )
            short = await engine.run(plan(step("a", "w.add", {"a": 1, "b": 2})))

            assert long.steps[0].error_kind == FailureKind.REFUSED
            assert "too long" in (long.steps[0].error or "")
            assert short.output == 3

    asyncio.run(main())


def test_no_result_is_refused_when_nothing_went_wrong(tmp_path: Path) -> None:
    async def main() -> None:
        async with pool_of(2, 2, capacity=8) as pool, engine_on(pool) as engine:
            args = {"folder": str(tmp_path), "n": "${{ item }}"}
            run = await engine.start(plan(step("many", "w.put", args, for_each=list(range(100)))))
            result = await run.result()

            events = [recorded.event for recorded in await engine.journal.read(run.run_id)]
            assert result.output == [n * n for n in range(100)]
            assert not any(isinstance(event, ResultRefused) for event in events)
            assert len({line[1] for line in calls(tmp_path)}) == len(calls(tmp_path)) == 100

    asyncio.run(main())


def test_a_run_of_a_name_that_another_record_had_too_is_given_no_answer_of_that_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with pool_of(1, 1) as pool:
            outputs = []
            for number in (3, 5):
                async with engine_on(pool) as engine:
                    asked = plan(step("a", "w.put", {"folder": str(tmp_path), "n": number}))
                    outputs.append((await engine.run(asked, run_id="same")).output)

            assert outputs == [9, 25]
            assert pool.counts.lost == 0

    asyncio.run(main())


def test_a_run_of_a_name_that_another_run_had_is_not_stopped_with_that_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with pool_of(1, 1, capacity=2) as pool:
            async with engine_on(pool) as first, engine_on(pool) as other:
                slow = plan(step("a", "w.put", {"folder": str(tmp_path), "n": 3, "seconds": 60}))
                old = await first.start(slow, run_id="same")
                await until(lambda: calls(tmp_path))
                await old.cancel()
                quick = plan(step("a", "w.put", {"folder": str(tmp_path), "n": 5, "seconds": 0.3}))

                result = await other.run(quick, run_id="same")

            assert (result.status, result.output) == (RunStatus.SUCCESS, 25)

    asyncio.run(main())
