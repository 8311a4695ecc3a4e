"""Pools that are used badly or have bad luck: nobody waits for ever, nothing is lent that is spoilt, all of it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from planloom import RunStatus, StepStatus
from planloom.core.commands import RunStep
from planloom.errors import WorkerStartError
from planloom.plan.policy import FailureKind
from planloom.ports import AttemptContext
from planloom.tools.load import load_tools
from planloom.tools.registry import ToolRegistry
from planloom.transport.pool import WorkerPool
from planloom.transport.setup import WorkerSetup
from tests.transport.faulty import WorkerHere
from tests.transport.workplace import SETUP, TOOLS, alive, calls, engine_on, plan, pool_of, step, until

slow = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class NoInterpreter(WorkerSetup):
    def command(self) -> list[str]:
        return ["/nonexistent/python"]


@slow
@pytest.mark.parametrize("low", [0, 2])
def test_an_interpreter_that_is_not_there_is_reported_and_not_tried_in_a_loop(low: int) -> None:
    async def main() -> None:
        async with pool_of(low, 2, setup=NoInterpreter()) as pool:
            with pytest.raises(WorkerStartError, match="No such file"):
                await pool.provision()

            assert pool.counts.start_failed == 3
            assert pool.size == 0

    asyncio.run(main())


@slow
@pytest.mark.parametrize(
    "source",
    ["import nothing_of_this_name", "def broken(:", "raise RuntimeError('no spline')", "import os; os._exit(7)"],
)
def test_tools_that_cannot_be_loaded_fail_the_step_with_the_reason(source: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(source + "\n")
    reason = {"i": "nothing_of_this_name", "d": "line 1", "r": "no spline"}[source[0]]

    async def main() -> None:
        setup = WorkerSetup(tools=(str(tmp_path / "broken.py"),))
        async with pool_of(0, 2, setup=setup) as pool, engine_on(pool) as engine:
            async with asyncio.timeout(30):
                result = await engine.run(plan(step("a", "w.add", {"a": 1, "b": 2})))

            assert result.status is RunStatus.FAILED
            assert (reason if "_exit" not in source else "exited with code 7") in (result.steps[0].error or "")
            assert pool.counts.start_failed <= 4

    asyncio.run(main())


@slow
def test_a_storm_of_cancelled_provisions_is_served_in_turn_and_not_in_depth() -> None:
    async def main() -> None:
        async with pool_of(1, 1) as pool:
            worker = await pool.provision()
            waiting = [asyncio.ensure_future(pool.provision()) for _ in range(2000)]
            await asyncio.sleep(0)
            for one in waiting:
                one.cancel()

            pool.release(worker)
            await asyncio.gather(*waiting, return_exceptions=True)

            assert all(one.cancelled() for one in waiting)
            assert (pool.idle, pool.busy, pool.waiting) == (1, 0, 0)
            assert pool.counts.provisioned == pool.counts.released

    asyncio.run(main())


@slow
def test_a_worker_with_something_in_it_that_cannot_be_stopped_serves_nobody_else(tmp_path: Path) -> None:
    async def main() -> None:
        async with pool_of(1, 1, capacity=2) as pool, engine_on(pool) as engine:
            await until(lambda: pool.idle)
            args = {"folder": str(tmp_path), "seconds": 60.0}
            result = await engine.run(
                plan(
                    step("stuck", "w.thread", args, attempt_timeout=0.2, on_error="continue"),
                    step("neighbour", "w.pid", {"seconds": 2.0}),
                    outputs="${{ steps.neighbour.output }}",
                )
            )

            spoilt = int(calls(tmp_path)[0][3])
            assert result.steps[0].status is StepStatus.TIMED_OUT
            assert result.output == spoilt  # the neighbour could end in peace
            await until(lambda: not alive(spoilt))
            assert (await engine.run(plan(step("after", "w.add", {"a": 1, "b": 1})))).output == 2
            assert pool.counts.provisioned == pool.counts.released

    asyncio.run(main())


@slow
def test_a_pool_that_two_close_or_whose_closing_is_cancelled_is_closed(tmp_path: Path) -> None:
    async def main() -> None:
        twice = pool_of(1, 1)
        await twice.start()
        await until(lambda: twice.idle)
        async with asyncio.timeout(10):
            await asyncio.gather(twice.close(), twice.close(), twice.close())

        cut = pool_of(1, 1)
        await cut.start()
        await until(lambda: cut.idle)
        worker = next(iter(cut.pids.values()))
        os.kill(worker, signal.SIGSTOP)
        closing = asyncio.ensure_future(cut.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await until(lambda: not alive(worker))

        assert closing.cancelled()
        await cut.close()

    asyncio.run(main())


@slow
def test_a_pool_closed_while_somebody_waits_and_others_start_tells_them_and_leaves_nothing() -> None:
    async def main() -> None:
        pool = pool_of(2, 4)
        waiting = [asyncio.ensure_future(pool.provision()) for _ in range(6)]
        await until(lambda: pool.size == 4)
        started = [seat.child.pid for seat in pool._staff.seats.values() if seat.child]  # type: ignore[union-attr]

        await pool.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)

        assert all("closed" in str(result) for result in results)
        assert not any(alive(pid) for pid in started)

    asyncio.run(main())


@slow
def test_a_worker_that_says_it_goes_and_does_not_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planloom.transport.staff.DRAIN_S", 0.3)

    async def nothing(request: RunStep, context: AttemptContext) -> None:
        return None

    async def main() -> None:
        tools = ToolRegistry.of(load_tools(TOOLS))
        async with WorkerPool(0, 0, lease_s=2.0) as pool, WorkerHere(pool.address, pool.token, tools, nothing) as here:
            await until(lambda: pool.idle)

            here.post.send({"m": "bye"})
            await until(lambda: not pool.idle)

            assert pool.size == 1
            await until(lambda: pool.size == 0, within_s=5)

    asyncio.run(main())


@slow
def test_a_process_shows_no_token_though_its_engine_has_it_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THE_POOLS_TOKEN", "a-secret-of-the-operator")

    async def main() -> None:
        async with pool_of(1, 1, setup=SETUP, token="a-secret-of-the-operator") as pool:
            await until(lambda: pool.idle)
            (seat,) = pool._staff.seats.values()  # type: ignore[union-attr]
            assert seat.child is not None
            at = Path(f"/proc/{seat.child.pid}")

            shown = (at / "environ").read_bytes() + (at / "cmdline").read_bytes()

            assert seat.token.encode() not in shown
            assert pool.token.encode() not in shown

    asyncio.run(main())


ODD = load_tools(str(Path(TOOLS).with_name("odd_tools.py")))
COMES_TO = {"o.signals": None, "o.quit": FailureKind.REFUSED} | dict.fromkeys(
    ("o.nan", "o.text", "o.deep", "o.big"), FailureKind.OUTPUT
)


@pytest.mark.crash
def test_what_a_tool_does_to_its_own_process_harms_no_other_step() -> None:
    troubles: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
        setup = WorkerSetup(tools=(str(Path(TOOLS).with_name("odd_tools.py")), TOOLS))
        tools = [*ODD, *load_tools(TOOLS)]
        async with pool_of(1, 2, setup=setup) as pool, engine_on(pool, tools=tools) as engine:
            for one in ODD:
                async with asyncio.timeout(20):
                    result = await engine.run(plan(step("a", one.name)))
                    after = await engine.run(plan(step("b", "w.add", {"a": 1, "b": 1})))

                assert result.steps[0].error_kind == COMES_TO.get(one.name, FailureKind.LOST), one.name
                assert after.output == 2, one.name
            assert pool.counts.provisioned == pool.counts.released

    asyncio.run(main())
    assert troubles == []


@slow
def test_hundreds_of_runs_leave_no_file_thread_or_lease_behind() -> None:
    async def main() -> None:
        async with pool_of(2, 2) as pool, engine_on(pool) as engine:
            await until(lambda: pool.idle == 2)
            small = plan(*(step(f"s{n}", "w.add", {"a": 1, "b": n}) for n in range(2)))
            await engine.run(small)

            def held() -> list[int]:
                kept = [len(os.listdir(f"/proc/{pid}/fd")) for pid in (os.getpid(), *pool.pids.values())]
                return [*kept, threading.active_count(), len(asyncio.all_tasks())]

            before = held()
            for _ in range(300):
                await engine.run(small)

            assert held() == before
            assert pool.counts.provisioned == pool.counts.released
            assert (pool.busy, pool.waiting, pool.counts.started) == (0, 0, 2)

    asyncio.run(main())


@slow
def test_a_storm_of_cancelled_runs_ends_every_one_of_them_at_once() -> None:
    async def main() -> None:
        async with pool_of(2, 2) as pool, engine_on(pool) as engine:
            await until(lambda: pool.idle == 2)
            naps = plan(step("a", "w.pid", {"seconds": 0.05}), step("b", "w.pid", {"seconds": 60.0}, needs=["a"]))
            runs = [await engine.start(naps) for _ in range(200)]
            await asyncio.sleep(0.2)

            async with asyncio.timeout(10):
                await asyncio.gather(*(run.cancel() for run in runs))
                results = await asyncio.gather(*(run.result() for run in runs))

            assert {result.status for result in results} == {RunStatus.CANCELLED}
            await until(lambda: pool.busy == 0)
            assert (pool.waiting, pool.counts.lost) == (0, 0)
            assert pool.counts.provisioned == pool.counts.released

    asyncio.run(main())
