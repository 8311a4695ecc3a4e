"""Any graph at all: what its nodes are given and come to, held against the rules written out in a few lines.

The twin below goes through the nodes one after the other, with sets and dicts; the graph goes through the engine.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planloom.api.dag import AgentDAG, AgentNode
from planloom.api.dag_executor import DAGExecutor

KEYS = ("k", "l", None)
JOINS = (None, None, None, "all_success", "none_failed_min_one_success", "none_failed", "all_done", "always")
Shape = list[dict[str, Any]]


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Draw a graph: nodes in an order of their own, each with edges to nodes that were drawn before it."""
    shape: Shape = []
    for place in range(draw(st.integers(1, 7))):
        above = draw(st.lists(st.integers(0, place - 1), max_size=3, unique=True)) if place else []
        shape.append(
            {
                "name": f"n{place}",
                "fails": draw(st.sampled_from((False, False, False, True))),
                "on_error": draw(st.sampled_from(("fail", "skip", "continue"))),
                "key": draw(st.sampled_from(KEYS)),
                "join": draw(st.sampled_from(JOINS)) if above else None,
                "edges": {
                    f"n{one}": draw(st.sampled_from((None, None, "yes", "no", "text", "raise"))) for one in above
                },
            }
        )
    return draw(st.permutations(shape))


def graph_of(shape: Shape, seen: dict[str, Any]) -> AgentDAG:
    def agent(node: dict[str, Any]) -> Any:
        async def act(value: Any) -> str:
            seen[node["name"]] = value
            if node["fails"]:
                raise RuntimeError(f"{node['name']} broke")
            return f"by {node['name']}"

        return act

    def condition(kind: str | None, source: str) -> Any:
        def decide(state: dict[str, Any]) -> bool:
            if kind == "raise":
                raise RuntimeError("no idea")
            return kind == "yes" and "begin" in state

        # Not true for a source whose failure was tolerated: it left nothing.
        return f"steps.{source}.output == 'by {source}'" if kind == "text" else decide if kind else None

    dag = AgentDAG("any")
    for node in shape:
        on_error: Any = node["on_error"]
        name = node["name"]
        dag.add_node(AgentNode(name, agent(node), output_key=node["key"], on_error=on_error, join=node["join"]))
    for node in shape:
        for source, kind in node["edges"].items():
            dag.add_edge(source, node["name"], condition(kind, source))
    return dag


class Twin:
    def __init__(self, dag: AgentDAG, shape: Shape) -> None:
        self.nodes = {node["name"]: node for node in shape}
        self.order = dag.order()
        self.status: dict[str, str] = {}
        self.seen: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        """What each node left."""
        self.above: dict[str, set[str]] = {}
        for name in self.order:
            self.above[name] = set()
            for source in self.nodes[name]["edges"]:
                self.above[name] |= {source} | self.above[source]
        self.branched = {
            name: any(self.nodes[one]["edges"].get(two) for one in {name, *self.above[name]} for two in self.order)
            for name in self.order
        }

    def run(self) -> None:
        for name in self.order:
            self.node(self.nodes[name])

    def node(self, node: dict[str, Any]) -> None:
        name = node["name"]
        counts = [self.edge(source, kind) for source, kind in node["edges"].items()]
        if "raised" in counts:
            self.fail(node)
        elif not self.may_run(node, counts):
            self.status[name] = "skipped by failure" if "failed" in counts else "skipped"
        else:
            self.seen[name] = self.view(name)
            if node["fails"]:
                self.fail(node)
            else:
                self.status[name] = "completed"
                self.values[name] = f"by {name}"

    def fail(self, node: dict[str, Any]) -> None:
        self.status[node["name"]] = {"fail": "failed", "skip": "skipped", "continue": "tolerated"}[node["on_error"]]
        if node["on_error"] == "continue":
            self.values[node["name"]] = None

    def edge(self, source: str, kind: str | None) -> str:
        status = self.status[source]
        if status in ("failed", "skipped by failure"):
            return "failed"
        if status == "skipped":
            return "skipped"
        if kind == "raise":
            return "raised"
        holds = kind in (None, "yes") or (kind == "text" and status == "completed")
        return "ok" if holds else "skipped"

    def may_run(self, node: dict[str, Any], counts: list[str]) -> bool:
        branched = self.branched[node["name"]]
        rule = node["join"] or ("none_failed_min_one_success" if branched else "all_success")
        if rule == "all_success":
            return all(one == "ok" for one in counts)
        if rule == "none_failed_min_one_success":
            return "failed" not in counts and ("ok" in counts or not counts)
        return rule != "none_failed" or "failed" not in counts

    def view(self, name: str) -> dict[str, Any]:
        state: dict[str, Any] = {"begin": 1}
        for one in self.order:
            if one in self.above[name]:
                key = self.nodes[one]["key"] or one
                state[key] = self.values.get(one, state.get(key))
        return state


def shown(status: str) -> str:
    return {"tolerated": "failed", "skipped by failure": "skipped"}.get(status, status)


def node(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "fails": False, "on_error": "fail", "key": "k", "join": None, "edges": {}} | fields


FOUND = {
    "a tolerated failure of an edge says nothing of the nodes at the other edges": [
        node("n0"),
        node("n1", edges={"n0": "no"}),
        node("n2", on_error="continue", key="l", join="all_success", edges={"n0": "raise", "n1": None}),
        node("n3", edges={"n0": None, "n2": "raise"}),
    ],
    "nor does one that is skipped over": [
        node("n0"),
        node("n1", edges={"n0": "raise"}),
        node("n2", on_error="skip", key="l", join="all_success", edges={"n0": "raise", "n1": None}),
        node("n3", edges={"n0": None, "n2": "yes"}),
    ],
    "what is taken in front of a node is taken whether that node will run or not": [
        node("n0", fails=True, on_error="skip"),
        node("n1", edges={"n0": None}),
        node("n2", edges={"n0": None, "n1": "yes"}),
    ],
}


def check(shape: Shape, *, parallel: bool) -> None:
    seen: dict[str, Any] = {}
    dag = graph_of(shape, seen)
    twin = Twin(dag, shape)

    twin.run()
    result = asyncio.run(DAGExecutor(dag).aexecute({"begin": 1}, parallel=parallel))

    assert seen == twin.seen
    assert {name: step.status.value for name, step in result.nodes.items()} == {
        name: shown(status) for name, status in twin.status.items()
    }
    final: dict[str, Any] = {"begin": 1}
    for name in twin.order:
        if name in twin.values:
            final[twin.nodes[name]["key"] or name] = twin.values[name]
    assert result.final_state == final
    assert result.state.get_all() == final
    statuses = set(twin.status.values())
    assert result.status == (
        "failed" if "failed" in statuses else "success" if statuses == {"completed"} else "partial"
    )


@pytest.mark.parametrize("shape", FOUND.values(), ids=FOUND)
def test_a_graph_that_once_went_wrong_gives_its_nodes_what_the_rules_say(shape: Shape) -> None:
    check(shape, parallel=False)


@settings(max_examples=150)
@given(shapes(), st.booleans())
def test_any_graph_gives_its_nodes_what_the_rules_say_and_ends_as_they_say(shape: Shape, parallel: bool) -> None:
    check(shape, parallel=parallel)
