"""execute_plan and run_plan: every way in, and the one dict that comes out."""

from __future__ import annotations

import asyncio
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import planloom
from planloom import (
    ConfigError,
    Engine,
    MemoryJournal,
    Plan,
    PlanError,
    ResourceLimits,
    SqliteJournal,
    Step,
    ToolExecutionError,
    ToolRegistry,
    execute_plan,
    load_plan,
    run_plan,
)
from planloom.testing.fakes import CallLog, fake_tool

PLAN = {"planloom": 1, "name": "p", "steps": [{"id": "a", "tool": "t", "with": {"n": 1}}]}
YAML = "planloom: 1\nname: p\nsteps:\n  - {id: a, tool: t, with: {n: 1}}\n"
PROMISED = {
    "result",
    "steps",
    "cost",
    "latency_ms",
    "steps_completed",
    "parallel_efficiency",
    "status",
    "exceeded_limits",
}


def test_the_signature_is_what_the_contract_says() -> None:
    parameters = list(inspect.signature(execute_plan).parameters)

    assert parameters[:5] == ["plan", "worker", "context", "limits", "track_cost"]
    assert inspect.iscoroutinefunction(execute_plan)


@pytest.mark.parametrize(
    "source",
    [PLAN, load_plan(PLAN), YAML, json.dumps(PLAN), Plan(name="p", steps=(Step(id="a", tool="t", args={"n": 1}),))],
    ids=["dict", "plan", "yaml", "json", "python"],
)
def test_a_plan_comes_in_any_form(source: Any) -> None:
    result = asyncio.run(execute_plan(source, tools=[fake_tool("t")]))

    assert result["result"] == {"n": 1}
    assert result.keys() >= PROMISED
    assert result["steps"][0].keys() >= {"id", "tool", "cost", "status", "output"}
    json.dumps(result)


def test_a_plan_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(YAML)

    for source in (tmp_path / "plan.yaml", str(tmp_path / "plan.yaml")):
        assert run_plan(source, tools=[fake_tool("t")])["result"] == {"n": 1}


def test_tools_come_as_a_list_a_function_or_a_registry() -> None:
    def t(n: int) -> int:
        return n

    for tools in ([t], t, ToolRegistry([t]), {"t": t}):
        assert run_plan(PLAN, tools=tools)["result"] == 1


@pytest.mark.parametrize("kind", ["path", "text", "sqlite", "memory"])
def test_a_run_is_on_record_where_the_caller_says(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "runs.db"
        journal: Any = {
            "path": lambda: path,
            "text": lambda: str(path),
            "sqlite": lambda: SqliteJournal(path),
            "memory": MemoryJournal,
        }[kind]()
        result = await execute_plan(PLAN, tools=[fake_tool("t")], journal=journal, run_id="r")
        async with Engine(journal, tools=[]) as engine:
            assert (await engine.result_of("r")).to_dict() == result
        if not isinstance(journal, str | Path):
            assert await journal.read("r"), "a journal that was handed in stays open"
            await journal.close()

    asyncio.run(main())


def test_costs_are_left_out_when_nobody_tracks_them() -> None:
    tools = [fake_tool("t", cost_per_call=0.25)]

    assert run_plan(PLAN, tools=tools)["cost"] == 0.25
    untracked = run_plan(PLAN, tools=tools, track_cost=False)
    assert (untracked["cost"], untracked["steps"][0]["cost"]) == (None, None)


def test_limits_given_take_the_place_of_the_plan_s() -> None:
    plan = {**PLAN, "limits": {"max_tool_calls": 0}}

    assert run_plan(plan, tools=[fake_tool("t")])["status"] == "limit_exceeded"
    assert run_plan(plan, tools=[fake_tool("t")], limits=ResourceLimits())["status"] == "success"


def test_a_worker_that_is_not_here_is_a_clear_error_and_nothing_runs() -> None:
    log = CallLog()

    with pytest.raises(ConfigError, match="worker"):
        run_plan(PLAN, worker=object(), tools=[fake_tool("t", log=log)])
    assert len(log) == 0


@pytest.mark.parametrize("depth", ["in a coroutine", "in a tool of a run", "in a callback"])
def test_the_blocking_door_says_so_inside_a_running_loop(depth: str) -> None:
    caught: list[ConfigError] = []

    def call() -> None:
        with pytest.raises(ConfigError, match="event loop") as error:
            run_plan(PLAN, tools=[fake_tool("t")])
        caught.append(error.value)

    async def inside() -> None:
        call()

    async def main() -> None:
        if depth == "in a tool of a run":
            steps = [{"id": "a", "tool": "inside"}]
            await execute_plan({"planloom": 1, "steps": steps}, tools=[fake_tool("inside", inside)])
        elif depth == "in a callback":
            asyncio.get_running_loop().call_soon(call)
            await asyncio.sleep(0.01)
        else:
            await inside()

    asyncio.run(main())

    assert len(caught) == 1
    assert "execute_plan" in caught[0].remedy


def test_a_sync_tool_may_use_the_blocking_door_in_its_own_thread() -> None:
    def outer() -> Any:
        return run_plan(PLAN, tools=[fake_tool("t")])["result"]

    steps = [{"id": "a", "tool": "outer"}]

    assert run_plan({"planloom": 1, "steps": steps}, tools=[outer])["result"] == {"n": 1}


def test_two_loops_one_after_the_other_leave_nothing_behind() -> None:
    for _ in range(3):
        assert run_plan(PLAN, tools=[fake_tool("t")])["status"] == "success"
        assert asyncio.run(execute_plan(PLAN, tools=[fake_tool("t")]))["status"] == "success"


def test_runs_side_by_side_share_nothing() -> None:
    async def main() -> list[Any]:
        log = CallLog()
        plan = {"planloom": 1, "steps": [{"id": "a", "tool": "t", "with": {"n": "${{ inputs.n }}"}}]}
        tools = [fake_tool("t", log=log)]
        return await asyncio.gather(*(execute_plan(plan, context={"n": [n]}, tools=tools) for n in range(20)))

    assert [result["result"]["n"] for result in asyncio.run(main())] == [[n] for n in range(20)]


def test_a_failure_in_the_outputs_of_the_plan_is_told_as_such() -> None:
    plan = {**PLAN, "outputs": {"x": "${{ steps.a.output.nothing }}"}}

    with pytest.raises(ToolExecutionError, match="outputs"):
        run_plan(plan, tools=[fake_tool("t")])
    result = run_plan(plan, tools=[fake_tool("t")], on_error="return")
    assert result["status"] == "failed"
    assert result["steps"][0]["status"] == "completed"


def test_a_failure_inside_a_sub_plan_names_the_step_and_its_error() -> None:
    plan = {
        "planloom": 1,
        "steps": [
            {"id": "sub", "plan": {"planloom": 1, "name": "inner", "steps": [{"id": "x", "tool": "bad"}]}},
            {"id": "each", "tool": "bad", "for_each": [1, 2], "needs": ["sub"]},
        ],
    }

    with pytest.raises(ToolExecutionError) as caught:
        run_plan(plan, tools=[fake_tool("bad", [ValueError("deep down")])])

    assert caught.value.step_id == "sub"
    assert "deep down" in caught.value.error
    assert "'x'" in caught.value.error


def test_a_run_that_waits_for_a_person_comes_back_with_what_it_waits_for() -> None:
    result = run_plan({"planloom": 1, "steps": [{"id": "ok", "approve": "Go on?"}]}, tools=[])

    assert result["status"] == "waiting"
    assert result["blocked"][0]["step"] == "ok"


def test_context_that_is_no_dict_is_refused() -> None:
    for context in ([1], "x", 3):
        with pytest.raises(PlanError):
            run_plan(PLAN, context=context, tools=[fake_tool("t")])


def test_the_public_names_are_there() -> None:
    for name in planloom.__all__:
        assert getattr(planloom, name) is not None
