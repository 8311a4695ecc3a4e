"""An agent graph as boxes and arrows, with how its nodes stand.

Rule 1: steps that only belong to the graph's plan (its conditions) are no nodes, and are not drawn.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from planloom.observe.looks import duration_text, note_of, status_of, step_facts
from planloom.observe.picture import Arrow, Box, Picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planloom.api.dag_node import AgentNode, Edge
    from planloom.core.result import StepResult


class NodesShown(Protocol):
    """How the nodes of a graph stand; a `DAGResult` says so."""

    @property
    def nodes(self) -> Mapping[str, StepResult]: ...


def agent_picture(name: str, nodes: Sequence[AgentNode], edges: Sequence[Edge], result: NodesShown | None) -> Picture:
    """Return a graph of agents as a picture.

    Args:
        result: A run of it; None: what the nodes themselves show.
    """
    place = {node.name: at for at, node in enumerate(nodes)}
    boxes = tuple(_shown(node) if result is None else _of_run(node, result) for node in nodes)
    arrows = tuple(Arrow(place[edge.source], place[edge.target], edge.told) for edge in edges)
    return Picture(name, boxes, arrows)


def _box(node: AgentNode) -> Box:
    agent = node.agent
    doer = getattr(agent, "name", None) or getattr(agent, "__name__", None) or type(agent).__name__
    return Box(node.name, node.name, "agent", str(doer), description=node.description)


def _shown(node: AgentNode) -> Box:
    facts = []
    if node.start_time is not None and node.end_time is not None:
        facts.append(duration_text(node.end_time - node.start_time))
    if node.execution_count > 1:
        facts.append(f"{node.execution_count} attempts")
    return replace(_box(node), status=node.status.value, facts=tuple(facts), note=node.error or "")


def _of_run(node: AgentNode, result: NodesShown) -> Box:
    step = result.nodes[node.name]
    return replace(_box(node), status=status_of(step), facts=step_facts(step), note=note_of(step))
