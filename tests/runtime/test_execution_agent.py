"""What an Execution Agent does besides what its acceptance tests show: people, closing, taking up, refusing."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from planloom import Engine, MemoryJournal, NotAllowedError, RunStatus, SqliteJournal
from planloom.errors import ConfigError, JournalError, MissingValueError, PlanError, RunNotFoundError
from planloom.runtime.execution_agent import ExecutionAgent
from planloom.runtime.explain import explained
from planloom.runtime.modules import Module, Modules
from planloom.runtime.submission import Submission
from planloom.testing.fakes import CallLog, fake_tool
from planloom.tools.registry import ToolRegistry
from planloom.transport.bus import EventBus
from planloom.transport.slots import SlotPool
from tests.runtime.common import ASK, ONE, leave_yes, turns, waiting
from tests.transport.workplace import TOOLS, load_tools, plan, pool_of, step, until

PATIENCE_S = 5.0


def told(bus: EventBus, topic: str, run_id: str | None = None) -> list[dict[str, Any]]:
    return [event.data for event in bus.recent(topic, run_id)]


async def under_way(one: Submission) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while one.run is None:
            await asyncio.sleep(0)


# --- people -------------------------------------------------------------------------------------


def test_a_program_that_waits_for_a_person_gives_its_worker_back_and_goes_on_once_answered(place: Any) -> None:
    async def main() -> tuple[Any, Any, list[Any]]:
        pool = SlotPool(0, 1)
        async with ExecutionAgent(pool=pool, journal=place(), tools=[fake_tool("t")]) as agent:
            one = await agent.submit(ASK, run_id="r")
            first = await one
            assert (pool.busy, await agent.status("r"), one.status) == (0, "waiting", "waiting")
            await leave_yes(agent.journal, "r", by="ann")
            agent.go_on("r")
            second = await one
            workers = [event.type.rpartition(".")[2] for event in agent.bus.recent("planloom.worker.*", "r")]
            return first, second, workers

    first, second, workers = asyncio.run(main())

    assert first.status is RunStatus.WAITING
    assert second.status is RunStatus.SUCCESS
    assert workers == ["provisioned", "released", "provisioned", "released"]


@pytest.mark.slow
def test_what_a_person_leaves_in_the_journal_is_heard_without_anybody_saying_so() -> None:
    async def main() -> RunStatus:
        async with ExecutionAgent(tools=[fake_tool("t")]) as agent:
            one = await agent.submit(ASK, run_id="r")
            await one
            await leave_yes(agent.journal, "r", by="ann")
            async with asyncio.timeout(PATIENCE_S), agent.bus.subscribe("planloom.run.finished", "r") as ends:
                await anext(ends)
            return (await one).status

    assert asyncio.run(main()) is RunStatus.SUCCESS


def test_cancelling_a_program_that_waits_for_a_person_is_on_record() -> None:
    async def main() -> tuple[RunStatus, list[Any]]:
        async with ExecutionAgent(tools=[fake_tool("t")]) as agent:
            one = await agent.submit(ASK, run_id="r")
            await one
            await agent.cancel("r", by="ann", reason="changed her mind")
            result = await one
            return result.status, told(agent.bus, "planloom.run.cancel_requested")

    status, asked = asyncio.run(main())

    assert status is RunStatus.CANCELLED
    assert asked == [{"by": "ann", "reason": "changed her mind"}]


def test_cancelling_what_has_ended_changes_nothing_and_what_is_not_here_is_not_found() -> None:
    async def main() -> RunStatus:
        async with ExecutionAgent(tools=[fake_tool("t")]) as agent:
            one = await agent.submit(ONE, run_id="r")
            await one
            await one.cancel()
            for what in (agent.cancel("q"), agent.status("q"), agent.explain("q", "a")):
                with pytest.raises(RunNotFoundError):
                    await what
            with pytest.raises(RunNotFoundError):
                agent.go_on("r")
            return (await one).status

    assert asyncio.run(main()) is RunStatus.SUCCESS


def test_a_program_cancelled_in_the_turn_it_was_submitted_in_never_begins_and_frees_its_place() -> None:
    log = CallLog()

    async def main() -> list[str]:
        async with ExecutionAgent(tools=[fake_tool("t", log=log)], max_queue=1) as agent:
            ends = []
            for number in range(3):
                one = await agent.submit(ONE, run_id=f"r{number}")
                await one.cancel(by="me")
                ends.append((await one).status.value)
            assert agent.bus.recent("planloom.worker.provisioned") == []
            assert len(told(agent.bus, "planloom.run.withdrawn")) == 3
            return ends

    assert asyncio.run(main()) == ["cancelled"] * 3
    assert log.calls == []


# --- the end of an agent, and the next one -------------------------------------------------------


def test_closing_gives_workers_back_tells_whoever_waits_and_leaves_runs_to_the_next_agent(place: Any) -> None:
    async def main() -> tuple[list[str], str]:
        pool = SlotPool(0, 1)
        async with ExecutionAgent(pool=pool, journal=place(), tools=[fake_tool("t", waiting)]) as agent:
            running = await agent.submit(ONE, run_id="running")
            queued = await agent.submit(ONE, run_id="queued")
            await under_way(running)
        errors = []
        for one, kind in ((running, JournalError), (queued, ConfigError)):
            with pytest.raises(kind) as error:
                await one
            errors.append(str(error.value))
        assert pool.busy == 0
        async with ExecutionAgent(journal=place(), tools=[fake_tool("t")]) as later:
            (again,) = later.submissions
            return errors, (await again).status.value

    errors, status = asyncio.run(main())

    assert "let go of" in errors[0]
    assert "before program queued began" in errors[1]
    assert status == "success"


def test_whoever_waits_for_a_place_in_the_queue_hears_that_the_agent_closes() -> None:
    async def main() -> None:
        agent = ExecutionAgent(pool=SlotPool(0, 1), tools=[fake_tool("t", waiting)], max_queue=1)
        async with agent:
            await under_way(await agent.submit(ONE))
            await agent.submit(ONE)
            late = asyncio.create_task(agent.submit(ONE))
            await turns()
        with pytest.raises(ConfigError, match="is closed"):
            await late
        with pytest.raises(ConfigError, match="is closed"):
            await agent.submit(ONE)
        await agent.close()

    asyncio.run(main())


def test_a_run_that_cannot_be_taken_up_is_told_and_left_as_it_is() -> None:
    journal = MemoryJournal()

    async def main() -> tuple[list[dict[str, Any]], RunStatus]:
        async with ExecutionAgent(journal=journal, tools=[fake_tool("t", waiting)]) as agent:
            await under_way(await agent.submit(ONE, run_id="r"))
        async with ExecutionAgent(journal=journal, tools=[fake_tool("other")]) as agent:
            (left,) = agent.submissions
            with pytest.raises(ConfigError, match="are not here"):
                await left
            return told(agent.bus, "planloom.run.not_recovered"), (await agent.engine.result_of("r")).status

    not_recovered, status = asyncio.run(main())

    assert len(not_recovered) == 1
    assert status is RunStatus.RUNNING


def test_a_run_that_another_engine_drives_is_left_to_it() -> None:
    journal = MemoryJournal()

    async def main() -> list[str]:
        gate = asyncio.Event()
        async with Engine(journal, tools=[fake_tool("t", gate.wait)]) as engine:
            run = await engine.start(ONE, run_id="r")
            async with ExecutionAgent(journal=journal, tools=[fake_tool("t")]) as agent:
                (other,) = agent.submissions
                with pytest.raises(JournalError, match="drive"):
                    await other
                gate.set()
                await run.result()
                assert told(agent.bus, "planloom.run.not_done") == []
                return [event.type for event in agent.bus.recent("planloom.run.*")]

    assert asyncio.run(main()) == []


def test_an_agent_that_looks_again_takes_up_what_another_left() -> None:
    journal = MemoryJournal()

    async def main() -> str:
        async with ExecutionAgent(journal=journal, tools=[fake_tool("t")], adopt_every_s=0.01) as agent:
            async with Engine(journal, tools=[fake_tool("t", waiting)]) as engine:
                await engine.start(ONE, run_id="r")
            async with asyncio.timeout(PATIENCE_S), agent.bus.subscribe("planloom.run.finished", "r") as ends:
                return (await anext(ends)).data["status"]  # type: ignore[no-any-return]

    assert asyncio.run(main()) == "success"


def test_an_agent_that_shall_not_recover_leaves_runs_alone() -> None:
    journal = MemoryJournal()

    async def main() -> list[Submission]:
        async with Engine(journal, tools=[fake_tool("t", waiting)]) as engine:
            await engine.start(ONE, run_id="r")
        async with ExecutionAgent(journal=journal, tools=[fake_tool("t")], recover=False) as agent:
            return list(agent.submissions)

    assert asyncio.run(main()) == []


def test_a_given_engine_bus_and_pool_stay_open() -> None:
    async def main() -> bool:
        async with Engine(tools=[fake_tool("t")]) as engine, EventBus() as bus, SlotPool() as pool:
            async with ExecutionAgent(bus, pool, engine=engine) as agent:
                await (await agent.submit(ONE))
            pool.release(await pool.provision())
            result = await engine.run(ONE)
            return result.status is RunStatus.SUCCESS and bus.publish(bus.recent()[0]) is False

    assert asyncio.run(main())


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"max_queue": 0}, {"engine": Engine(tools=()), "tools": []}])
def test_an_agent_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ExecutionAgent(**options)


def test_a_bad_plan_is_refused_and_nothing_is_taken_on() -> None:
    async def main() -> int:
        async with ExecutionAgent(tools=[fake_tool("t")]) as agent:
            with pytest.raises(PlanError, match="which is not here"):
                await agent.submit({"planloom": 1, "steps": [{"id": "a", "tool": "x"}]})
            return len(agent.submissions)

    assert asyncio.run(main()) == 0


def test_wrong_inputs_are_the_programs_own_error() -> None:
    wants = ONE | {"inputs": {"n": {"type": "integer"}}}

    async def main() -> list[dict[str, Any]]:
        async with ExecutionAgent(tools=[fake_tool("t")]) as agent:
            one = await agent.submit(wants, {"n": "text"})
            with pytest.raises(PlanError):
                await one
            assert one.status == "failed"
            return told(agent.bus, "planloom.run.not_done")

    assert [one["code"] for one in asyncio.run(main())] == ["plan.inputs"]


def test_two_programs_of_one_name_at_a_time_are_refused() -> None:
    async def main() -> None:
        async with ExecutionAgent(tools=[fake_tool("t", waiting)]) as agent:
            await agent.submit(ONE, run_id="r")
            with pytest.raises(ConfigError, match="already"):
                await agent.submit(ONE, run_id="r")

    asyncio.run(main())


def test_where_there_are_modules_each_program_is_some_modules() -> None:
    async def main() -> None:
        mailer = Module("mailer", {"t"})
        async with ExecutionAgent(tools=[fake_tool("t")], modules=[mailer]) as agent:
            for module in (None, "maler", Module("mailer", {"t", "u"})):
                with pytest.raises(ConfigError):
                    await agent.submit(ONE, module=module)
            assert (await (await agent.submit(ONE, module=mailer))).status is RunStatus.SUCCESS

    asyncio.run(main())


def test_a_module_that_names_a_tool_which_is_not_here_is_told_at_the_start() -> None:
    async def main() -> None:
        agent = ExecutionAgent(tools=[fake_tool("mail.send")], modules=[Module("mailer", {"mail.sent"})])
        with pytest.raises(ConfigError, match=r"mail\.sent"):
            await agent.start()
        await agent.close()

    asyncio.run(main())


def test_a_module_that_names_nothing_may_nothing() -> None:
    async def main() -> None:
        async with ExecutionAgent(tools=[fake_tool("t")], modules=[Module("empty")]) as agent:
            with pytest.raises(NotAllowedError):
                await agent.submit(ONE, module="empty")

    asyncio.run(main())


@pytest.mark.parametrize("nested", [False, True])
def test_an_agent_that_a_module_does_not_name_is_denied(nested: bool) -> None:
    inner: dict[str, Any] = {"id": "x", "agent": "clerk", "prompt": "go"}
    steps = [{"id": "sub", "plan": {"planloom": 1, "steps": [inner]}}] if nested else [inner]

    async def main() -> list[dict[str, Any]]:
        modules = [Module("none"), Module("office", agents={"clerk"})]
        async with ExecutionAgent(tools=(), agents={"clerk": lambda text: text}, modules=modules) as agent:
            with pytest.raises(NotAllowedError, match="agent 'clerk'"):
                await agent.submit({"planloom": 1, "steps": steps}, module="none")
            office = await agent.submit({"planloom": 1, "steps": steps}, module="office")
            assert (await office).status is RunStatus.SUCCESS
            return told(agent.bus, "planloom.tool.denied")

    (denial,) = asyncio.run(main())

    assert (denial["what"], denial["who"]["module"]) == ("clerk", "none")
    assert denial["who"]["step"] == ("sub/x" if nested else "x")


@pytest.mark.parametrize("arguments", [{"allow": "t"}, {"agents": "a"}, {"name": ""}])
def test_a_module_that_is_written_wrong_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Module(**({"name": "m"} | arguments))


def test_modules_are_known_by_name_once() -> None:
    modules = Modules([Module("a", {"t", "u"})])

    with pytest.raises(ConfigError, match="already"):
        modules.add(Module("a"))

    assert [one.name for one in modules] == ["a"]
    assert Module("a", {"u", "t"}) == modules.find("a")
    assert Module("a", {"u.*"}).tools(ToolRegistry([fake_tool("u.x"), fake_tool("t")])) == ("u.x",)


# --- what is told -------------------------------------------------------------------------------


def test_everything_of_a_run_was_told_when_its_result_is_there(place: Any) -> None:
    async def main() -> tuple[list[str], list[str]]:
        async with ExecutionAgent(journal=place(), tools=[fake_tool("t")]) as agent:
            one = await agent.submit(ONE, run_id="r")
            await one
            here = [event.type for event in agent.bus.recent("planloom.run.*", "r")]
            return here, [event.id for event in agent.bus.recent("*", "r") if event.seq is not None]

    topics, ids = asyncio.run(main())

    assert topics == ["planloom.run.requested", "planloom.run.started", "planloom.run.finished"]
    assert ids == ["r/1", "r/2", "r/2/started", "r/3", "r/4"]


def test_a_listener_that_raises_or_never_ends_changes_nothing_for_the_run() -> None:
    async def main() -> RunStatus:
        async with ExecutionAgent(tools=[fake_tool("t")]) as agent:

            async def raises(_: Any) -> None:
                raise MissingValueError("always")

            agent.bus.listen(raises)
            stuck = agent.bus.listen(waiting)
            one = await agent.submit(ONE)
            async with asyncio.timeout(PATIENCE_S):
                result = await one
            await stuck.stop()
            return result.status

    assert asyncio.run(main()) is RunStatus.SUCCESS


def test_programs_that_ended_long_ago_are_known_from_the_record() -> None:
    async def main() -> tuple[int, str]:
        async with ExecutionAgent(tools=[fake_tool("t")]) as agent:
            agent.remembered = 2
            for number in range(6):
                await (await agent.submit(ONE, run_id=f"r{number}"))
            return len(agent.submissions), await agent.status("r0")

    assert asyncio.run(main()) == (3, "success")


def test_explaining_a_step_that_never_began_shows_what_it_waits_for() -> None:
    async def main() -> Any:
        async with ExecutionAgent(tools=[fake_tool("t")]) as agent:
            await (await agent.submit(ASK, run_id="r"))
            with pytest.raises(ConfigError, match="no step 'x'"):
                await agent.explain("r", "x")
            return await agent.explain("r", "b")

    found = asyncio.run(main())

    assert (found.status, found.needs, found.chain[-1].event) == ("pending", {"ok": "running"}, "run_started")
    assert found.to_dict()["chain"][-1]["seq"] == 1


def test_explaining_a_cancelled_step_says_who_asked() -> None:
    async def main() -> str:
        async with ExecutionAgent(tools=[fake_tool("t", waiting)]) as agent:
            one = await agent.submit(ONE, run_id="r")
            await under_way(one)
            await one.cancel(by="ann", reason="late")
            await one
            return str(await agent.explain("r", "a"))

    text = asyncio.run(main())

    assert "ann asked to cancel the run, because of late" in text
    assert text.splitlines()[-1].endswith("the run was submitted: plan plan")


def test_explaining_a_resumed_step_says_that_an_engine_took_the_run_up_again() -> None:
    journal = MemoryJournal()

    async def main() -> str:
        async with Engine(journal, tools=[fake_tool("t", waiting)]) as engine:
            await engine.start(ONE, run_id="r")
            await turns()
        async with ExecutionAgent(journal=journal, tools=[fake_tool("t")]) as agent:
            await agent.submissions[0]
            return str(await agent.explain("r", "a"))

    assert "an engine took the run up again" in asyncio.run(main())


def test_nothing_can_be_explained_from_no_record() -> None:
    with pytest.raises(RunNotFoundError):
        explained("r", [], "a")


# --- worker processes ---------------------------------------------------------------------------


@pytest.mark.slow
def test_programs_run_on_worker_processes_that_are_provisioned_and_released_for_them() -> None:
    async def main() -> tuple[set[int], list[Any], list[Any], int]:
        document = plan(step("a", "w.pid", {"n": 1, "seconds": 0.1}))
        async with pool_of(2, 2) as pool, ExecutionAgent(pool=pool, tools=load_tools(TOOLS)) as agent:
            await until(lambda: pool.idle == 2)
            programs = [await agent.submit(document, run_id=f"r{number}") for number in range(6)]
            results = [await one for one in programs]
            assert {result.status for result in results} == {RunStatus.SUCCESS}
            await until(lambda: pool.busy == 0)
            given = [event.correlation_id for event in agent.bus.recent("planloom.worker.provisioned")]
            back = [event.correlation_id for event in agent.bus.recent("planloom.worker.released")]
            return {result.step("a").output for result in results}, given, back, pool.size

    pids, given, back, size = asyncio.run(main())

    assert len(pids) == 2
    assert sorted(given) == sorted(back) == sorted(f"r{number}" for number in range(6))
    assert size == 2


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told_and_its_program_goes_on_elsewhere(tmp_path: Any) -> None:
    async def main() -> tuple[RunStatus, int, list[dict[str, Any]]]:
        document = plan(step("a", "w.pid", {"n": 1, "seconds": 0.4}))
        journal = SqliteJournal(tmp_path / "runs.db")
        async with pool_of(1, 2) as pool, ExecutionAgent(pool=pool, journal=journal, tools=load_tools(TOOLS)) as agent:
            one = await agent.submit(document, run_id="r")
            async with asyncio.timeout(10), agent.bus.subscribe("planloom.worker.provisioned", "r") as lent:
                if not agent.bus.recent("planloom.worker.provisioned"):
                    await anext(lent)
            (worker,) = [event.data["worker"] for event in agent.bus.recent("planloom.worker.provisioned")]
            await asyncio.sleep(0.1)
            os.kill(pool.pids[worker], signal.SIGKILL)
            result = await one
            lost = told(agent.bus, "planloom.worker.lost")
        await journal.close()
        return result.status, result.step("a").attempts, lost

    status, attempts, lost = asyncio.run(main())

    assert status is RunStatus.SUCCESS
    assert attempts == 2
    assert [one["program"] for one in lost] == ["r"]
    assert lost[0]["why"]
