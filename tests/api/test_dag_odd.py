"""Graphs at their edges: what agents do, odd names, wide and deep graphs, graphs that grow, cancels at every turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest

from planloom.api.dag import AgentDAG, AgentNode, NodeStatus
from planloom.api.dag_executor import DAGExecutor
from planloom.api.shared_state import SharedState
from planloom.errors import FieldError, InputsError
from planloom.journal.memory import MemoryJournal


def echo(value: Any) -> Any:
    return value


async def one(_: Any) -> int:
    return 1


def pair(first: Any, second: Any, condition: Any = None) -> AgentDAG:
    dag = AgentDAG().add_node(AgentNode("a", first)).add_node(AgentNode("b", second))
    return dag.add_edge("a", "b", condition)


# --- what agents do ------------------------------------------------------------------------------


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("str")

    def __repr__(self) -> str:
        raise RuntimeError("repr")


@pytest.mark.parametrize(
    "error",
    [Unspeakable(), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(), asyncio.CancelledError()],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("is_async", [True, False])
def test_whatever_an_agent_raises_fails_its_node_and_nothing_else(error: BaseException, is_async: bool) -> None:
    def raises(_: Any) -> None:
        raise error

    async def raises_async(_: Any) -> None:
        raise error

    dag = pair(raises_async if is_async else raises, echo).add_node(AgentNode("c", echo))

    result = DAGExecutor(dag).execute({"x": 1})

    assert [result.nodes[name].status for name in "abc"] == [
        NodeStatus.FAILED,
        NodeStatus.SKIPPED,
        NodeStatus.COMPLETED,
    ]
    assert result.errors["a"]


def pieces(_: Any) -> Iterator[int]:
    yield 1


async def pieces_async(_: Any) -> AsyncIterator[int]:
    yield 1


def holds_itself(_: Any) -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "agent",
    [
        pieces,
        pieces_async,
        holds_itself,
        lambda _: object(),
        lambda _: b"x",
        lambda _: float("nan"),
        lambda _: "\ud800",
    ],
)
def test_what_is_no_json_fails_its_node(agent: Any) -> None:
    result = DAGExecutor(AgentDAG().add_node(AgentNode("a", agent))).execute()

    assert result.nodes["a"].status is NodeStatus.FAILED
    assert "output" in result.errors["a"]


def test_an_agent_that_changes_what_it_was_given_or_gave_changes_nothing_for_others() -> None:
    kept: list[Any] = []

    def keeps(value: Any) -> Any:
        value["deep"].append(2)
        kept.append(value)
        return value

    def spoils(value: Any) -> str:
        kept[0]["deep"].clear()
        value["deep"].clear()
        return "spoilt"

    initial, state = {"deep": [1]}, SharedState({"own": [1]})
    dag = pair(keeps, spoils).add_node(AgentNode("c", echo)).add_edge("b", "c")

    result = DAGExecutor(dag, state).execute(initial)

    assert initial == {"deep": [1]}
    assert result.node_results["c"] == {"own": [1], "deep": [1], "a": {"own": [1], "deep": [1, 2]}, "b": "spoilt"}


# --- conditions ----------------------------------------------------------------------------------


async def never(_: Any) -> bool:
    return False


def never_in_pieces(_: Any) -> Iterator[bool]:
    yield False


@pytest.mark.parametrize("condition", [lambda state: never(state), never_in_pieces])
def test_a_condition_that_returns_something_to_wait_for_is_an_error_and_not_true(condition: Any) -> None:
    result = DAGExecutor(pair(one, one, condition)).execute()

    assert result.nodes["b"].status is NodeStatus.FAILED
    assert "async def" in result.errors["b"]


def test_a_condition_that_is_part_of_an_async_function_is_awaited() -> None:
    result = DAGExecutor(pair(one, one, partial(never))).execute()

    assert result.nodes["b"].status is NodeStatus.SKIPPED


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a.b", "a/b", "ü ☃", "'", '"', "a]", "a\\b", "steps", "0", "a\nb", "before z", "null"]
)
def test_a_node_may_have_any_name_that_can_be_written(name: str) -> None:
    dag = AgentDAG().add_node(AgentNode(name, lambda _: 1)).add_node(AgentNode("z", echo))
    dag.add_edge(name, "z", lambda _: True)

    result = DAGExecutor(dag).execute({"x": 1})

    assert result.node_results == {name: 1, "z": {"x": 1, name: 1}}
    for drawn in (dag.visualize(result), dag.mermaid(result), dag.dot(result), dag.svg(result)):
        assert drawn


@pytest.mark.parametrize("field", ["name", "description", "output_key", "input_mapping"])
def test_a_node_of_text_that_nobody_can_write_is_refused(field: str) -> None:
    value = {"p": "\ud800"} if field == "input_mapping" else "\ud800"
    fields: dict[str, Any] = {"name": "n", "agent": echo} | {field: value}

    with pytest.raises(FieldError, match="node"):
        AgentNode(**fields)


@pytest.mark.parametrize("state", [{5: 1}, {None: 1}, {"\ud800": 1}, "text", 5])
def test_an_initial_state_of_odd_keys_is_refused_before_anything_runs(state: Any) -> None:
    with pytest.raises(InputsError):
        DAGExecutor(AgentDAG().add_node(AgentNode("a", echo))).execute(state)


# --- a graph under way ---------------------------------------------------------------------------


def test_a_graph_that_grows_while_it_runs_is_run_as_it_was() -> None:
    async def main() -> Any:
        let_go = asyncio.Event()

        async def waits(_: Any) -> int:
            await let_go.wait()
            return 1

        dag = AgentDAG().add_node(AgentNode("a", waits))
        running = asyncio.create_task(DAGExecutor(dag).aexecute())
        while dag.node("a").status is not NodeStatus.RUNNING:
            await asyncio.sleep(0)
        dag.add_node(AgentNode("b", echo)).add_edge("a", "b")
        let_go.set()
        return await running

    result = asyncio.run(main())

    assert (result.status, result.total_nodes, result.node_results) == ("success", 1, {"a": 1})


@pytest.mark.parametrize("turns", range(16))
def test_a_run_that_is_cancelled_at_any_turn_leaves_nothing_and_ends_on_record(turns: int) -> None:
    async def main() -> tuple[list[str], int]:
        journal = MemoryJournal()
        running = asyncio.create_task(DAGExecutor(pair(one, echo), journal=journal).aexecute(run_id="r"))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return [row.status for row in await journal.runs()], len(asyncio.all_tasks())

    statuses, tasks = asyncio.run(main())

    assert tasks == 1
    assert set(statuses) <= {"cancelled", "success"}


# --- size ----------------------------------------------------------------------------------------


def test_a_thousand_nodes_side_by_side_meet_in_one() -> None:
    dag = AgentDAG().add_node(AgentNode("end", lambda value: len(value)))
    for number in range(1_000):
        dag.add_node(AgentNode(f"n{number}", one)).add_edge(f"n{number}", "end")

    result = asyncio.run(DAGExecutor(dag).aexecute())

    assert (result.status, result.node_results["end"]) == ("success", 1_000)


@pytest.mark.slow
def test_two_thousand_nodes_one_after_the_other_come_to_an_end() -> None:
    dag = AgentDAG().add_node(AgentNode("n0", one))
    for number in range(1, 2_000):
        above = f"n{number - 1}"
        dag.add_node(AgentNode(f"n{number}", one, input_mapping={"input": above})).add_edge(above, f"n{number}")

    result = DAGExecutor(dag).execute()

    assert (result.status, result.completed_nodes) == ("success", 2_000)
