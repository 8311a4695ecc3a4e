"""Programs of an Execution Agent at the edges: cancelled while they wait on record, of one name, ended by a bug."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from planloom import Engine, Event, MemoryJournal, RunStatus
from planloom.errors import ConfigError
from planloom.runtime.execution_agent import ExecutionAgent
from planloom.testing.fakes import fake_tool
from planloom.tools.load import load_tools
from planloom.tools.registry import ToolRegistry
from planloom.transport.bus import EventBus
from planloom.transport.pool import WorkerPool
from planloom.transport.slots import SlotPool
from planloom.transport.staff import PoolEvent
from tests.runtime.common import ASK, ONE, leave_yes, turns
from tests.transport.workplace import TOOLS, plan, pool_of, step, until

HELD = {"planloom": 1, "steps": [{"id": "a", "tool": "held"}]}


class Gate:
    """A tool that waits until it is let go on."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def __call__(self, **_: Any) -> int:
        await self.opened.wait()
        return 1


def tools(gate: Gate) -> list[Any]:
    return [fake_tool("t"), fake_tool("held", gate.__call__)]


def test_cancelling_a_run_that_was_taken_up_and_waits_for_a_worker_is_on_record(place: Any) -> None:
    async def main() -> tuple[list[str], list[str]]:
        gate, journal = Gate(), place()
        async with Engine(journal, tools=tools(gate)) as engine:
            for name in ("r1", "r2"):
                await engine.start(HELD, run_id=name)
        async with ExecutionAgent(pool=SlotPool(0, 1), journal=journal, tools=tools(gate)) as agent:
            async with asyncio.timeout(5):
                while all(one.run is None for one in agent.submissions):
                    await asyncio.sleep(0)
            (queued,) = [one for one in agent.submissions if one.run is None]
            await queued.cancel(by="ann")
            gate.opened.set()
            statuses = [(await one).status.value for one in agent.submissions]
            return sorted(statuses), sorted([row.status for row in await agent.journal.runs()])

    heard, recorded = asyncio.run(main())

    assert heard == recorded == ["cancelled", "success"]


def test_cancelling_a_program_that_was_answered_and_waits_for_a_worker_is_on_record() -> None:
    async def main() -> tuple[str, RunStatus, RunStatus]:
        gate = Gate()
        async with ExecutionAgent(pool=SlotPool(0, 1), tools=tools(gate)) as agent:
            one = await agent.submit(ASK, run_id="ask")
            await one
            busy = await agent.submit(HELD)
            await turns()
            await leave_yes(agent.journal, "ask", by="ann")
            agent.go_on("ask")
            before = one.status
            await one.cancel(by="ann")
            gate.opened.set()
            await busy
            return before, (await one).status, (await agent.engine.result_of("ask")).status

    assert asyncio.run(main()) == ("queued", RunStatus.CANCELLED, RunStatus.CANCELLED)


def test_a_program_that_rests_keeps_its_name() -> None:
    async def main() -> RunStatus:
        async with ExecutionAgent(tools=[fake_tool("t")]) as agent:
            one = await agent.submit(ASK, run_id="ask")
            await one
            with pytest.raises(ConfigError, match="already"):
                await agent.submit(ONE, run_id="ask")
            await leave_yes(agent.journal, "ask", by="ann")
            agent.go_on("ask")
            return (await one).status

    assert asyncio.run(main()) is RunStatus.SUCCESS


def test_of_two_of_one_name_that_wait_for_a_place_in_the_queue_one_is_refused() -> None:
    async def main() -> tuple[list[str], int]:
        gate = Gate()
        agent = ExecutionAgent(pool=SlotPool(0, 1), tools=tools(gate), max_queue=1)
        async with agent:
            await agent.submit(HELD)
            await turns()
            await agent.submit(HELD)
            coming = [asyncio.create_task(agent.submit(HELD, run_id="same")) for _ in range(2)]
            await turns()
            gate.opened.set()
            came = await asyncio.gather(*coming, return_exceptions=True)
        return [type(one).__name__ for one in came], len(asyncio.all_tasks())

    came, tasks = asyncio.run(main())

    assert sorted(came) == ["ConfigError", "Submission"]
    assert tasks == 1


class Burning(MemoryJournal):
    async def create(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("the disk is on fire")


def test_what_ends_a_program_is_what_its_submitter_hears_even_if_it_is_a_bug() -> None:
    async def main() -> tuple[int, list[dict[str, Any]]]:
        pool = SlotPool(0, 1)
        async with ExecutionAgent(pool=pool, journal=Burning(), tools=[fake_tool("t")]) as agent:
            with pytest.raises(RuntimeError, match="on fire"):
                await (await agent.submit(ONE))
            return pool.busy, [event.data for event in agent.bus.recent("planloom.run.not_done")]

    assert asyncio.run(main()) == (0, [{"error": "RuntimeError", "code": "bug"}])


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "x" * 1001, 5, b"x"])
def test_a_name_that_no_journal_could_keep_is_refused_at_once(name: Any) -> None:
    async def main() -> None:
        async with ExecutionAgent(tools=[fake_tool("t")]) as agent:
            with pytest.raises(ConfigError, match="no name of a run"):
                await agent.submit(ONE, run_id=name)
            with pytest.raises(ConfigError, match="no name of a run"):
                await agent.engine.start(ONE, run_id=name)

    asyncio.run(main())


@pytest.mark.parametrize("name", ["a/b", "ü ☃", "..", "a\nb", "*", "[x]", "%s", "'; DROP TABLE runs"])
def test_a_run_of_an_odd_name_is_one_like_any_other(place: Any, name: str) -> None:
    async def main() -> tuple[RunStatus, int, str]:
        async with ExecutionAgent(journal=place(), tools=[fake_tool("t")]) as agent:
            result = await (await agent.submit(ONE, run_id=name))
            told = len(agent.bus.recent("planloom.run.*", name))
            return result.status, told, (await agent.explain(name, "a")).status

    assert asyncio.run(main()) == (RunStatus.SUCCESS, 3, "completed")


def test_a_watcher_of_the_pool_that_raises_changes_nothing() -> None:
    def raises(_: PoolEvent) -> None:
        raise RuntimeError("always")

    async def main() -> tuple[RunStatus, int]:
        pool = SlotPool(0, 1)
        pool.watch(raises)
        async with ExecutionAgent(pool=pool, tools=[fake_tool("t")]) as agent:
            return (await (await agent.submit(ONE))).status, pool.busy

    assert asyncio.run(main()) == (RunStatus.SUCCESS, 0)


def test_listeners_that_change_what_they_hear_change_neither_the_run_nor_its_record() -> None:
    def changes(event: Event) -> None:
        for value in event.data.values():
            if isinstance(value, dict | list):
                value.clear()

    async def main() -> tuple[Any, Any]:
        bus = EventBus()
        bus.listen(changes)
        steps = [{"id": "a", "tool": "t", "with": {"deep": [1, {"n": 2}]}}, {"id": "b", "tool": "t", "needs": ["a"]}]
        async with bus, ExecutionAgent(bus, tools=[fake_tool("t")]) as agent:
            result = await (await agent.submit({"planloom": 1, "steps": steps}, run_id="r"))
            await bus.close()
            return result.step("a").output, (await agent.engine.result_of("r")).step("a").output

    assert asyncio.run(main()) == ({"deep": [1, {"n": 2}]}, {"deep": [1, {"n": 2}]})


def test_an_agent_that_cannot_start_leaves_nothing_open() -> None:
    closed = []

    class Journal(MemoryJournal):
        async def runs(self, **_: Any) -> Any:
            raise ConfigError("no", remedy="none")

    class Registry(ToolRegistry):
        async def aclose(self) -> None:
            closed.append("tools")

        def frozen(self) -> Any:
            return self

    async def main() -> int:
        with pytest.raises(ConfigError):
            async with ExecutionAgent(journal=Journal(), tools=Registry([fake_tool("t")])):
                pass
        return len(asyncio.all_tasks())

    assert asyncio.run(main()) == 1
    assert closed == ["tools"]


@pytest.mark.crash
def test_two_thousand_programs_leave_nothing_behind() -> None:
    async def main() -> tuple[int, int, int, int, int, int]:
        pool = SlotPool(1, 8)
        threads = threading.active_count()
        async with ExecutionAgent(pool=pool, tools=[fake_tool("t")], max_queue=50) as agent:
            agent.remembered = 100
            for _ in range(20):
                programs = [await agent.submit(ONE) for _ in range(100)]
                for one in programs:
                    await one
            await turns()
            return (
                pool.busy,
                len(agent._programs._tasks),
                len(agent._announcer._views),
                len(agent.engine._drivers),
                max(len(agent.submissions) - 200, 0),
                max(threading.active_count() - threads, 0),  # one of an earlier test may have ended meanwhile
            )

    assert asyncio.run(main()) == (0,) * 6


def test_a_pool_that_starts_no_processes_of_its_own_is_a_pool_for_whoever_joins() -> None:
    async def main() -> tuple[int, int]:
        async with WorkerPool(0, 0) as pool, ExecutionAgent(pool=pool, tools=[fake_tool("t")]) as agent:
            one = await agent.submit(ONE)
            await turns()
            return agent._places.max, len([one])

    assert asyncio.run(main()) == (1, 1)


@pytest.mark.slow
def test_a_worker_process_serves_one_program_at_a_time_and_is_given_back_once_whatever_becomes_of_it() -> None:
    def program(number: int) -> dict[str, Any]:
        steps = [step(f"s{n}", "w.pid", {"n": n, "seconds": 0.05}) for n in range(4)]
        return plan(*steps, *([step("bad", "w.fail")] if number == 3 else []))

    async def main() -> tuple[list[str], list[tuple[str, str, str]], int, Any]:
        changes: list[tuple[str, str, str]] = []
        async with pool_of(1, 3, capacity=2) as pool, ExecutionAgent(pool=pool, tools=load_tools(TOOLS)) as agent:
            pool.watch(lambda event: changes.append((event.kind, event.worker, event.program)))
            programs = [await agent.submit(program(number), run_id=f"r{number}") for number in range(8)]
            await until(lambda: programs[1].run is not None)
            await programs[1].cancel()
            await programs[7].cancel()
            statuses = [(await one).status.value for one in programs]
            await until(lambda: pool.busy == 0)
            return statuses, changes, pool.busy, pool.counts

    statuses, changes, busy, counts = asyncio.run(main())

    assert statuses == ["success", "cancelled", "success", "failed", "success", "success", "success", "cancelled"]
    serving: dict[str, str] = {}
    for kind, worker, program_name in changes:
        if kind == "provisioned":
            assert worker not in serving
            serving[worker] = program_name
        elif kind == "released":
            assert serving.pop(worker) == program_name
    assert serving == {}
    assert busy == 0
    assert counts.provisioned == counts.released > 0
