from __future__ import annotations

from typing import Any

import pytest

from planloom.api.dag import AgentDAG, AgentNode, NodeStatus
from planloom.errors import CycleError, DuplicateStepError, ExpressionError, FieldError, PlanError, UnknownStepError


def echo(value: Any) -> Any:
    return value


def graph(*edges: str, nodes: str = "") -> AgentDAG:
    """Return a graph of edges written "a b"."""
    dag = AgentDAG("g")
    names = dict.fromkeys(nodes.split() + [name for edge in edges for name in edge.split()])
    for name in names:
        dag.add_node(AgentNode(name, echo))
    for edge in edges:
        dag.add_edge(*edge.split())
    return dag


def test_nodes_and_edges_are_added_in_a_chain_of_calls() -> None:
    dag = AgentDAG("g").add_node(AgentNode("a", echo)).add_node(AgentNode("b", echo)).add_edge("a", "b")

    assert list(dag.nodes) == ["a", "b"]
    assert [(edge.source, edge.target) for edge in dag.edges] == [("a", "b")]


def test_a_graph_says_where_it_starts_ends_and_what_depends_on_what() -> None:
    dag = graph("a b", "a c", "b d", "c d", nodes="a b c d lone")

    assert dag.get_start_nodes() == ["a", "lone"]
    assert dag.get_end_nodes() == ["d", "lone"]
    assert dag.get_dependencies("d") == ["b", "c"]
    assert dag.get_dependents("a") == ["b", "c"]


def test_the_levels_are_those_of_the_longest_path() -> None:
    dag = graph("a b", "b c", "a c", "c d", nodes="a b c d lone")

    assert dag.get_execution_order() == [["a", "lone"], ["b"], ["c"], ["d"]]


def test_a_node_without_edges_and_a_graph_without_nodes_are_sound() -> None:
    assert graph(nodes="a").validate().get_execution_order() == [["a"]]
    assert AgentDAG().validate().get_execution_order() == []


def test_a_second_node_of_one_name_is_refused() -> None:
    with pytest.raises(DuplicateStepError, match="'a' already"):
        graph(nodes="a").add_node(AgentNode("a", echo))


@pytest.mark.parametrize("edge", [("a", "zzz"), ("zzz", "a")])
def test_an_edge_to_a_node_that_is_not_there_is_refused(edge: tuple[str, str]) -> None:
    with pytest.raises(UnknownStepError, match="zzz"):
        graph(nodes="a").add_edge(*edge)


def test_an_edge_from_a_node_to_itself_is_refused() -> None:
    with pytest.raises(CycleError, match="a -> a"):
        graph(nodes="a").add_edge("a", "a")


def test_a_circle_is_named_with_its_path_and_what_to_take_out() -> None:
    dag = graph("a b", "b c", "c a", nodes="a b c d")

    with pytest.raises(CycleError, match="a -> b -> c -> a") as caught:
        dag.validate()

    assert isinstance(caught.value, ValueError)
    assert "edge from 'c' to 'a'" in caught.value.remedy
    with pytest.raises(CycleError):
        dag.get_execution_order()


def test_the_same_edge_twice_is_one_edge_and_another_condition_is_an_error() -> None:
    dag = graph("a b")

    dag.add_edge("a", "b")

    assert len(dag.edges) == 1
    with pytest.raises(FieldError, match="another condition"):
        dag.add_edge("a", "b", "steps.a.output")


@pytest.mark.parametrize("condition", ["steps.a.output >", "__import__('os')", "state.score > 3"])
def test_a_condition_that_cannot_be_read_is_refused_at_once(condition: str) -> None:
    with pytest.raises(ExpressionError):
        graph(nodes="a b").add_edge("a", "b", condition)


def test_a_condition_that_is_neither_text_nor_function_is_refused() -> None:
    with pytest.raises(FieldError, match="int is no condition"):
        graph(nodes="a b").add_edge("a", "b", 3)  # type: ignore[arg-type]


def test_a_condition_may_look_at_what_comes_before_its_source_and_at_nothing_else() -> None:
    dag = graph("a b", nodes="a b c other")
    dag.add_edge("b", "c", "steps.a.output and steps.b.output")
    dag.validate()

    dag.add_edge("a", "other", "steps.b.output or steps.nowhere.output")

    with pytest.raises(PlanError) as caught:
        dag.validate()
    assert ["'b'" in str(one) or "'nowhere'" in str(one) for one in caught.value.problems] == [True, True]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("retry_count", -1),
        ("retry_count", True),
        ("retry_count", 1.5),
        ("timeout_seconds", 0),
        ("timeout_seconds", float("nan")),
        ("timeout_seconds", "3"),
        ("on_error", "ignore"),
        ("join", "some"),
        ("join", "one_success"),
        ("effects", "many"),
        ("output_key", ""),
        ("input_mapping", ["a"]),
        ("input_mapping", {"a": 1}),
        ("agent", None),
        ("name", ""),
        ("name", "x" * 201),
        ("name", "${{ inputs.x }}"),
    ],
)
def test_a_node_with_a_value_that_cannot_be_meant_is_refused(field: str, value: Any) -> None:
    fields: dict[str, Any] = {"name": "n", "agent": echo} | {field: value}

    with pytest.raises(FieldError):
        AgentNode(**fields)


def test_a_node_takes_its_fields_in_the_order_people_know() -> None:
    node = AgentNode("n", echo, "what it is for", {"x": "key"}, "out", 2, 1.5, "skip")

    assert (node.description, node.input_mapping, node.output_key) == ("what it is for", {"x": "key"}, "out")
    assert (node.retry_count, node.timeout_seconds, node.on_error) == (2, 1.5, "skip")
    assert (node.status, node.result, node.error) == (NodeStatus.PENDING, None, None)
    assert (node.start_time, node.end_time, node.execution_count) == (None, None, 0)


def test_reset_forgets_what_came_of_the_nodes() -> None:
    dag = graph(nodes="a")
    node = dag.node("a")
    node.status, node.result, node.error, node.execution_count = NodeStatus.FAILED, 1, "no", 3

    dag.reset()

    shown: list[Any] = [node.status, node.result, node.error, node.execution_count]
    assert shown == [NodeStatus.PENDING, None, None, 0]


def test_a_graph_is_drawn_with_levels_edges_and_conditions() -> None:
    def is_large(state: dict[str, Any]) -> bool:
        return bool(state)

    dag = graph("a b", nodes="a b c").add_edge("a", "c", is_large)
    dag.add_edge("b", "c", "steps.b.output > 1")

    lines = dag.visualize().splitlines()

    assert [line for line in lines if line.startswith("level")] == ["level 0", "level 1", "level 2"]
    assert "  a → b" in lines
    assert "  a → c  if is_large(state)" in lines
    assert "  b → c  if steps.b.output > 1" in lines
    assert dag.visualize(ascii_only=True).isascii()


def test_a_graph_can_be_drawn_in_every_form() -> None:
    dag = graph("a b")

    assert dag.mermaid().startswith("flowchart TD\n")
    assert dag.dot().startswith('digraph "g" {\n')
    assert dag.svg().lstrip().startswith("<svg")


def test_a_chain_of_ten_thousand_nodes_is_a_graph_like_any_other() -> None:
    dag = AgentDAG("long")
    for number in range(10_000):
        dag.add_node(AgentNode(f"n{number}", echo))
        if number:
            dag.add_edge(f"n{number - 1}", f"n{number}")

    assert len(dag.validate().get_execution_order()) == 10_000
