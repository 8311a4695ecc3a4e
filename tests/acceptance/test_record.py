"""A19, A20, A36, A46: what a run leaves behind, and what it is good for."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from planloom import ConfigError, Engine, MemoryJournal, execute_plan, load_plan, run_plan
from planloom.core.events import AttemptSucceeded, RunStarted, StepDispatched
from planloom.core.report import run_result
from planloom.observe.mermaid import graph_dot, graph_mermaid
from planloom.observe.svg import graph_svg
from planloom.observe.text import graph_text
from planloom.observe.timeline import timeline_svg, timeline_text
from planloom.runtime.replay import diverges, replayed
from planloom.testing.fakes import CallLog, fake_tool


def five(log: CallLog, gate: asyncio.Event) -> tuple[dict[str, Any], list[Any]]:
    async def work(n: int) -> int:
        if n == 4 and not gate.is_set():
            await gate.wait()
        return n * 10

    steps = [
        {"id": f"s{n}", "tool": "work", "with": {"n": n}, "needs": [f"s{n - 1}"] if n > 1 else []} for n in range(1, 6)
    ]
    return {"planloom": 1, "steps": steps}, [fake_tool("work", work, log=log)]


@pytest.mark.parametrize("durable", [True, False])
def test_a19_after_a_crash_in_step_four_the_first_three_come_from_the_record(durable: bool, tmp_path: Any) -> None:
    log = CallLog()
    place: Any = tmp_path / "runs.db" if durable else MemoryJournal()

    async def main() -> dict[str, Any]:
        gate = asyncio.Event()
        plan, tools = five(log, gate)
        async with Engine(place, tools=tools) as engine:
            await engine.start(plan, run_id="r")
            while len(log) < 4:
                await asyncio.sleep(0.001)
        gate.set()
        assert [args["n"] for args in log.of("work")] == [1, 2, 3, 4]
        return await execute_plan(plan, tools=tools, journal=place, run_id="r")

    result = asyncio.run(main())

    assert result["status"] == "success"
    assert [step["output"] for step in result["steps"]] == [10, 20, 30, 40, 50]
    assert [args["n"] for args in log.of("work")] == [1, 2, 3, 4, 4, 5]
    assert [step["attempts"] for step in result["steps"]] == [1, 1, 1, 2, 1]


def test_a19_a_run_that_has_ended_is_told_again_and_nothing_is_called() -> None:
    log, journal = CallLog(), MemoryJournal()

    async def main() -> tuple[dict[str, Any], dict[str, Any]]:
        gate = asyncio.Event()
        gate.set()
        plan, tools = five(log, gate)
        first = await execute_plan(plan, tools=tools, journal=journal, run_id="r")
        return first, await execute_plan(plan, tools=tools, journal=journal, run_id="r")

    first, second = asyncio.run(main())

    assert first == second
    assert len(log) == 5


def test_a19_the_same_run_id_with_another_plan_or_other_inputs_is_refused() -> None:
    async def main() -> None:
        journal, tools = MemoryJournal(), [fake_tool("t")]
        plan = {"planloom": 1, "steps": [{"id": "a", "tool": "t", "with": {"x": "${{ inputs.x }}"}}]}
        await execute_plan(plan, context={"x": 1}, tools=tools, journal=journal, run_id="r")
        with pytest.raises(ConfigError, match="other inputs"):
            await execute_plan(plan, context={"x": 2}, tools=tools, journal=journal, run_id="r")
        with pytest.raises(ConfigError, match="another plan"):
            await execute_plan({**plan, "name": "x"}, context={"x": 1}, tools=tools, journal=journal, run_id="r")

    asyncio.run(main())


def test_a19_an_idempotency_key_gives_no_tool_another_tool_s_value_nor_one_for_another_input() -> None:
    log = CallLog()
    steps = [
        {"id": "a", "tool": "one", "with": {"n": 1}},
        {"id": "same", "tool": "one", "with": {"n": 1}},
        {"id": "input", "tool": "one", "with": {"n": 2}},
        {"id": "tool", "tool": "two", "with": {"n": 1}},
        {"id": "key", "tool": "one", "with": {"n": 1}, "idempotency_key": "another"},
    ]
    shared = {"cache": True, "idempotency_key": "k"}
    tools = [fake_tool(name, lambda name=name, **args: [name, args["n"]], log=log) for name in ("one", "two")]

    result = run_plan({"planloom": 1, "steps": [shared | step for step in steps]}, tools=tools, parallel=False)

    assert [step["output"] for step in result["steps"]] == [["one", 1], ["one", 1], ["one", 2], ["two", 1], ["one", 1]]
    assert [(call.tool, call.args["n"]) for call in log.calls] == [("one", 1), ("one", 2), ("two", 1), ("one", 1)]


def test_a19_errors_and_effects_are_never_kept_for_reuse() -> None:
    log = CallLog()
    tools = [fake_tool("flaky", [ValueError("x"), "done"], log=log), fake_tool("once", log=log, effects="once")]
    steps = [
        {"id": "a", "tool": "flaky", "cache": True, "on_error": "continue"},
        {"id": "b", "tool": "flaky", "cache": True},
    ]

    result = run_plan({"planloom": 1, "steps": steps}, tools=tools, parallel=False)

    assert [step["output"] for step in result["steps"]] == [None, "done"]


async def slept(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@pytest.mark.slow
@pytest.mark.timing
def test_a20_times_and_efficiency_of_a_plan_with_two_steps_side_by_side() -> None:
    steps = [
        {"id": "a", "tool": "sleep", "with": {"seconds": 0.2}},
        {"id": "b", "tool": "sleep", "with": {"seconds": 0.15}, "needs": ["a"]},
        {"id": "c", "tool": "sleep", "with": {"seconds": 0.1}, "needs": ["a"]},
        {"id": "d", "tool": "sleep", "with": {"seconds": 0.1}, "needs": ["b", "c"]},
    ]

    result = run_plan({"planloom": 1, "steps": steps}, tools=[fake_tool("sleep", slept)])

    assert result["steps_completed"] == 4
    assert result["latency_ms"] == pytest.approx(450, rel=0.2)
    assert result["speedup"] == pytest.approx(1.22, rel=0.15)
    assert result["parallel_efficiency"] == pytest.approx(0.61, rel=0.15)
    assert result["critical_path_ms"] == pytest.approx(450, rel=0.2)
    assert result["scheduler_overhead_ms"] == pytest.approx(result["latency_ms"] - result["critical_path_ms"], abs=1)


@pytest.mark.slow
def test_a20_a_serial_plan_is_as_efficient_as_it_can_be() -> None:
    steps = [{"id": f"s{n}", "tool": "sleep", "with": {"seconds": 0.1}} for n in range(3)]

    result = run_plan({"planloom": 1, "steps": steps}, tools=[fake_tool("sleep", slept)], parallel=False)

    assert result["parallel_efficiency"] == pytest.approx(1.0, abs=0.1)
    assert result["parallel_efficiency"] <= 1.0


def test_a20_an_empty_plan_has_an_efficiency() -> None:
    result = run_plan({"planloom": 1, "steps": []}, tools=[])

    assert (result["status"], result["result"], result["parallel_efficiency"]) == ("success", None, 1.0)


MIXED = {
    "planloom": 1,
    "name": "mixed",
    "fail_fast": False,
    "steps": [
        {"id": "done", "tool": "say", "with": {"value": 1}},
        {"id": "broken", "tool": "bad", "needs": ["done"]},
        {"id": "behind", "tool": "say", "needs": ["broken"]},
        {"id": "no", "tool": "say", "needs": ["done"], "when": "steps.done.output.value > 5"},
        {"id": "slow", "tool": "late", "needs": ["done"], "timeout_seconds": 0.02},
        {"id": "each", "tool": "say", "for_each": [1, 2, 3], "with": {"value": "${{ item }}"}},
        {"id": "ask", "approve": "Really?", "needs": ["each"]},
    ],
}


async def _late() -> None:
    await asyncio.sleep(5)


TOOLS = [fake_tool("say"), fake_tool("bad", [ValueError("no")]), fake_tool("late", _late)]


def test_a36_the_record_alone_tells_statuses_times_and_outputs() -> None:
    async def main() -> None:
        journal = MemoryJournal()
        async with Engine(journal, tools=TOOLS) as engine:
            run = await engine.start(MIXED, run_id="r")
            result = await run.result()
            assert result.status.value == "waiting"
            await run.approve("ask", by="me")
            live = await run.result()
            record = await journal.read("r")
            again = run_result(replayed("r", record).state)

            assert again.to_dict() == live.to_dict() == (await engine.result_of("r")).to_dict()
            assert diverges("r", record) is None
            assert [entry.seq for entry in record] == list(range(1, len(record) + 1))

    asyncio.run(main())


def test_a36_every_event_leads_back_to_the_start_of_the_run() -> None:
    async def main() -> None:
        journal = MemoryJournal()
        async with Engine(journal, tools=TOOLS) as engine:
            run = await engine.start(MIXED, run_id="r")
            await run.result()
            await run.approve("ask", by="me")
            await run.result()
            record = {entry.seq: entry for entry in await journal.read("r")}

        for entry in record.values():
            chain = [entry]
            while chain[-1].cause:
                assert chain[-1].cause < chain[-1].seq
                chain.append(record[chain[-1].cause])
            assert isinstance(chain[-1].event, RunStarted), f"{entry} leads to {chain[-1]}"
        for entry in record.values():
            if isinstance(entry.event, StepDispatched) and entry.event.step in ("broken", "slow"):
                because = record[entry.cause].event
                assert isinstance(because, AttemptSucceeded)
                assert because.step == "done"

    asyncio.run(main())


def test_a46_a_mixed_run_is_drawn_with_a_symbol_for_each_status_in_every_form() -> None:
    plan = load_plan(MIXED)

    async def main() -> Any:
        async with Engine(tools=TOOLS) as engine:
            run = await engine.start(plan)
            return await run.result()

    result = asyncio.run(main())
    text = graph_text(plan, result)

    lines = [line.split() for line in text.splitlines() if re.match(r"\s+\S+ (\w+) ", line)]
    symbols = {words[1]: words[0] for words in lines if words[1] in {step["id"] for step in MIXED["steps"]}}  # type: ignore[index]
    assert symbols.keys() == {"done", "broken", "behind", "no", "slow", "each", "ask"}
    assert len({symbols[name] for name in ("done", "broken", "behind", "slow", "ask")}) == 5
    assert symbols["behind"] == symbols["no"]
    assert sum(line.startswith("level") for line in text.splitlines()) == 3

    mermaid = graph_mermaid(plan, result)
    assert mermaid.splitlines()[0].startswith("flowchart")
    assert len(re.findall(r"-->|-\.->|==>", mermaid)) == 5
    dot = graph_dot(plan, result)
    assert dot.startswith("digraph")
    assert dot.count("{") == dot.count("}")
    assert dot.count("->") == 5

    for drawing in (graph_svg(plan, result), timeline_svg(result)):
        assert ElementTree.fromstring(drawing).tag.endswith("svg")
    for name in ("done", "broken", "slow", "each"):
        assert name in timeline_text(result)
