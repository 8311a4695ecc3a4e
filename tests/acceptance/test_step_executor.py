"""A50 to A59: the step executor, end to end. What is about one method alone lies in tests/api/test_step*.py."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planloom import Engine, MemoryJournal, RunStatus, load_plan
from planloom.agents.memory import AgentMemory
from planloom.api.step_forms import ExecutionStep, StepType
from planloom.api.steps import StepExecutor
from planloom.core.chat import Message
from planloom.core.events import RunFinished, StepDispatched
from planloom.testing.clock import ManualClock
from planloom.testing.fakes import CallLog, fake_tool
from planloom.verify.expected import FormatValidator


class Planner:
    """The agent of the founding document: it plans, and remembers whom it was asked for."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    async def run_step(self, request: Any, context: dict[str, Any]) -> dict[str, Any]:
        self.seen = [(one.role, one.content) for one in context["memory"].messages]
        return {"next_action": "search", "plan": [f"look for {request}"]}


def test_the_founding_document_s_own_examples_work() -> None:
    planner = Planner()
    memory = AgentMemory()
    memory.add_message(Message(role="user", content="What is new?"))

    async def main() -> tuple[Any, Any, Any]:
        async with StepExecutor({"Planner": planner}) as step_executor:
            result = await step_executor.execute_agent_step(
                agent_name="Planner",
                request="Create execution plan",
                memory=memory,
                metadata={"branch_id": "b", "step_number": 1, "from_agent": "Researcher"},
            )
            verdict = await FormatValidator().validate(result, expected_format={"next_action": str, "plan": list})
            step_executor.register_tool("search", lambda q: f"found {q}")
            results = await step_executor.execute_tool_calls([{"name": "search", "arguments": {"q": "news"}}])
            return result, verdict, results

    result, verdict, results = asyncio.run(main())

    assert result["next_action"] == "search"
    assert verdict.is_valid
    assert results[0]["result"] == "found news"
    assert planner.seen == [("user", "What is new?"), ("system", "Request from Researcher: Create execution plan")]
    assert len(memory) == 1


def test_a58_a_first_piece_comes_at_once_from_a_stream_of_a_second() -> None:
    class Slow:
        async def stream_step(self, request: Any, context: dict[str, Any]) -> Any:
            yield "first"
            await asyncio.sleep(1)
            yield "last"

    async def main() -> float:
        async with StepExecutor({"Slow": Slow()}) as executor:
            async for _ in executor.stream_agent_step("Slow", "warm up"):
                break
            began_at = time.monotonic()
            streaming = executor.stream_agent_step("Slow", "go")
            await anext(streaming)
            first_s = time.monotonic() - began_at
            await streaming.aclose()
            return first_s

    assert asyncio.run(main()) < 0.15


def test_a58_who_has_waited_long_enough_goes_before_a_higher_priority() -> None:
    clock = ManualClock()
    order: list[str] = []

    async def work(name: str) -> None:
        order.append(name)
        clock.advance(30)

    highs = [
        {"id": f"h{n}", "tool": "work", "with": {"name": "high"}, "priority": 2, "needs": [f"h{n - 1}"] if n else []}
        for n in range(20)
    ]
    low = {"id": "low", "tool": "work", "with": {"name": "low"}}
    plan = {"planloom": 1, "limits": {"max_concurrent": 1, "timeout_seconds": 3600}, "steps": [*highs, low]}

    async def main() -> RunStatus:
        async with Engine(tools=[fake_tool("work", work)], clock=clock) as engine:
            return (await engine.run(plan)).status

    assert asyncio.run(main()) is RunStatus.SUCCESS
    assert order[0] == "high"
    assert 0 < order.index("low") <= 7  # two points of priority are worth two minutes of waiting


# --- record and replay ------------------------------------------------------------------------

PLAN: dict[str, Any] = {
    "planloom": 1,
    "steps": [
        {"id": "fetch", "tool": "fetch", "with": {"n": 1}},
        {"id": "think", "agent": "thinker", "with": {"input": "${{ steps.fetch.output }}"}},
        {"id": "keep", "tool": "keep", "with": {"it": "${{ steps.think.output }}"}},
    ],
}


def recorded(log: CallLog) -> tuple[MemoryJournal, Any]:
    """Return a journal with the run "r" of PLAN, and its result."""
    journal = MemoryJournal()

    async def thinker(value: Any) -> str:
        log.calls.append(log.calls[-1])
        return f"thought of {value}"

    async def main() -> Any:
        tools = [fake_tool(name, log=log) for name in ("fetch", "keep")]
        async with Engine(journal, tools=tools, agents={"thinker": thinker}) as engine:
            return await engine.run(PLAN, run_id="r")

    return journal, asyncio.run(main())


def test_a59_a_run_on_record_is_told_again_without_a_single_call() -> None:
    log = CallLog()
    journal, result = recorded(log)
    calls = len(log)

    async def main() -> Any:
        async with StepExecutor({}, journal=journal) as executor:
            return await executor.replay("r"), await executor.replay("r", plan=PLAN)

    told, with_plan = asyncio.run(main())

    assert calls == 3
    assert len(log) == calls
    assert told.result.output == result.output == {"it": "thought of {'n': 1}"}
    assert [step.to_dict() for step in told.result.steps] == [step.to_dict() for step in result.steps]
    assert told.events == tuple(entry.event for entry in asyncio.run(journal.read("r")))
    assert isinstance(told.events[-1], RunFinished)
    assert told.divergence is None
    assert with_plan.divergence is None


@pytest.mark.parametrize(
    ("place", "change", "at"),
    [
        (0, {"with": {"n": 2}}, "fetch"),
        (1, {"agent": "another"}, "think"),
        (2, {"tool": "fetch"}, "keep"),
        (2, {"id": "renamed"}, "keep"),
    ],
)
def test_a59_a_changed_plan_is_found_at_the_first_step_that_differs(place: int, change: Any, at: str) -> None:
    journal, _ = recorded(CallLog())
    steps = [dict(step) for step in PLAN["steps"]]
    steps[place] |= change

    async def main() -> Any:
        async with StepExecutor({}, journal=journal) as executor:
            return await executor.replay("r", plan=PLAN | {"steps": steps})

    divergence = asyncio.run(main()).divergence

    assert isinstance(divergence.recorded, StepDispatched)
    assert divergence.recorded.step == at


def test_a59_a_plan_with_a_step_less_is_found_where_the_record_has_it() -> None:
    journal, _ = recorded(CallLog())
    plan = load_plan(PLAN)

    async def main() -> Any:
        async with StepExecutor({}, journal=journal) as executor:
            return await executor.replay("r", plan=replace(plan, steps=plan.steps[:2]))

    divergence = asyncio.run(main()).divergence

    assert isinstance(divergence.recorded, StepDispatched)
    assert divergence.recorded.step == "keep"
    assert divergence.decided != divergence.recorded


CHILD = """
import asyncio, sys
from planloom import Engine
from planloom.testing.fakes import fake_tool

async def main() -> None:
    tools = [fake_tool("work", lambda n: n * 10)]
    async with Engine(sys.argv[1], tools=tools) as engine:
        run = await engine.resume("r")
        result = await run.result()
        print(result.status, [step.output for step in result.steps], [step.attempts for step in result.steps])

asyncio.run(main())
"""


@pytest.mark.slow
def test_a59_a_run_paused_between_two_steps_goes_on_in_another_process(tmp_path: Path) -> None:
    journal = tmp_path / "runs.db"
    log = CallLog()
    steps = [{"id": f"s{n}", "tool": "work", "with": {"n": n}, "needs": [f"s{n - 1}"] if n else []} for n in range(4)]

    async def main() -> RunStatus:
        at_second, go_on = asyncio.Event(), asyncio.Event()

        async def work(n: int) -> int:
            if n == 1:
                at_second.set()
                await go_on.wait()
            return n * 10

        async with Engine(journal, tools=[fake_tool("work", work, log=log)]) as engine:
            run = await engine.start({"planloom": 1, "steps": steps}, run_id="r")
            await at_second.wait()
            await run.pause()
            go_on.set()
            return (await run.result()).status

    status = asyncio.run(main())
    other = subprocess.run(
        [sys.executable, "-c", CHILD, str(journal)], capture_output=True, text=True, timeout=60, check=False
    )

    assert status is RunStatus.WAITING
    assert [args["n"] for args in log.of("work")] == [0, 1]
    assert other.stdout.strip() == "success [0, 10, 20, 30] [1, 1, 1, 1]", other.stderr


def test_what_agents_were_asked_side_by_side_is_one_run_on_record(tmp_path: Path) -> None:
    async def main() -> tuple[int, Any]:
        async with StepExecutor({"A": lambda value: value}, journal=tmp_path / "runs.db") as executor:
            await executor.execute_parallel_steps([ExecutionStep(StepType.AGENT, "A", n) for n in range(3)])
            rows = await executor.journal.runs()
            return len(rows), await executor.replay(rows[0].run_id)

    count, told = asyncio.run(main())

    assert count == 1
    assert [step.output for step in told.result.steps] == [{"content": "0"}, {"content": "1"}, {"content": "2"}]
    assert told.divergence is None
