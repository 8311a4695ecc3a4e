"""AgentDAG: agents and who comes after whom, built in Python.

Rule 1: it says what is to be done and does nothing: `DAGExecutor` has it done, by an engine, as a plan.
Rule 2: no recursion along the graph: a chain of 10,000 nodes is a graph like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from planloom.api.dag_node import AgentNode, Condition, Edge, NodeStatus
from planloom.api.dag_picture import agent_picture
from planloom.errors import (
    CycleError,
    DuplicateStepError,
    ExpressionError,
    FieldError,
    PlanError,
    UnknownStepError,
    plan_error,
    suggestion,
)
from planloom.observe.mermaid import picture_dot, picture_mermaid
from planloom.observe.svg import picture_svg
from planloom.observe.text import picture_text
from planloom.plan.expression import parse_expression
from planloom.plan.graph import find_cycle, topological_order

if TYPE_CHECKING:
    from planloom.api.dag_picture import NodesShown
    from planloom.observe.picture import Picture

__all__ = ["AgentDAG", "AgentNode", "Edge", "NodeStatus"]


class AgentDAG:
    """A graph of agents.

    Args:
        name: Of the graph, and of the plans it becomes.
    """

    def __init__(self, name: str = "dag") -> None:
        self.name = name
        self.shown_run: object = None
        """Whose run the nodes show; the run that was started last takes it."""
        self._nodes: dict[str, AgentNode] = {}
        self._above: dict[str, dict[str, Edge]] = {}
        self._below: dict[str, list[str]] = {}

    # --- building -------------------------------------------------------------------------------

    def add_node(self, node: AgentNode) -> AgentDAG:
        """Add a node; return the graph.

        Raises:
            DuplicateStepError: There is a node of that name.
        """
        if not isinstance(node, AgentNode):
            raise FieldError(f"a {type(node).__name__} is no node", remedy="give an AgentNode")
        if node.name in self._nodes:
            raise DuplicateStepError(
                f"the graph {self.name!r} has a node {node.name!r} already",
                remedy=f"give this one another name, e.g. {node.name + '_2'!r}",
                step=node.name,
            )
        self._nodes[node.name] = node
        self._above[node.name] = {}
        self._below[node.name] = []
        return self

    def add_edge(self, source: str, target: str, condition: Condition | None = None) -> AgentDAG:
        """Have a node come after another; return the graph.

        Args:
            condition: When the edge counts, worked out once `source` is done: an expression, e.g.
                ``"steps.rate.output.score > 3"``, or a function of the state as it is after `source`, sync or async.

        Raises:
            UnknownStepError: There is no such node.
            CycleError: A node cannot come after itself. A longer circle is found by `validate`, before anything runs.
            ExpressionError: The condition cannot be read.
            FieldError: There is another edge between the two, or the condition is neither a text nor a function.
        """
        for name in (source, target):
            self.node(name)
        if source == target:
            raise _cycle((source, source))
        edge = Edge(source, target, condition)
        known = self._above[target].get(source)
        if known is not None and known != edge:
            raise FieldError(
                f"there is an edge from {source!r} to {target!r} already, with another condition",
                remedy="put both conditions into one",
                step=target,
            )
        if isinstance(condition, str):
            parse_expression(condition)
        elif condition is not None and not callable(condition):
            raise FieldError(
                f"a {type(condition).__name__} is no condition for the edge from {source!r} to {target!r}",
                remedy="give an expression as text, or a function of the state",
                step=target,
            )
        if known is None:
            self._above[target][source] = edge
            self._below[source].append(target)
        return self

    # --- asking ---------------------------------------------------------------------------------

    @property
    def nodes(self) -> Mapping[str, AgentNode]:
        """Return the nodes by name, in the order they came."""
        return MappingProxyType(self._nodes)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Return every edge, by target in the order the nodes came."""
        return tuple(edge for above in self._above.values() for edge in above.values())

    def node(self, name: str) -> AgentNode:
        """Return a node.

        Raises:
            UnknownStepError: There is none of that name.
        """
        found = self._nodes.get(name)
        if found is None:
            raise UnknownStepError(
                f"the graph {self.name!r} has no node {name!r}",
                remedy=suggestion(str(name), self._nodes, otherwise="add it first"),
                step=str(name),
            )
        return found

    def edges_to(self, name: str) -> tuple[Edge, ...]:
        """Return the edges that lead to a node."""
        self.node(name)
        return tuple(self._above[name].values())

    def get_start_nodes(self) -> list[str]:
        """Return the nodes that come after none."""
        return [name for name, above in self._above.items() if not above]

    def get_end_nodes(self) -> list[str]:
        """Return the nodes that none comes after."""
        return [name for name, below in self._below.items() if not below]

    def get_dependencies(self, name: str) -> list[str]:
        """Return the nodes that a node comes right after."""
        self.node(name)
        return list(self._above[name])

    def get_dependents(self, name: str) -> list[str]:
        """Return the nodes that come right after a node."""
        self.node(name)
        return list(self._below[name])

    def order(self) -> list[str]:
        """Return the nodes so that each stands after those it comes after; among equals, the one that came first.

        Raises:
            CycleError: There is a circle; it names the path.
        """
        names = list(self._nodes)
        place = {name: at for at, name in enumerate(names)}
        above = [[place[source] for source in self._above[name]] for name in names]
        below = [[place[target] for target in self._below[name]] for name in names]
        order = topological_order(above, below)
        if len(order) < len(names):
            circle = find_cycle(above, set(range(len(names))) - set(order))
            raise _cycle(tuple(names[at] for at in circle))
        return [names[at] for at in order]

    def get_execution_order(self) -> list[list[str]]:
        """Return the nodes by levels, for display: a node starts as soon as those before it are done.

        Raises:
            CycleError: There is a circle.
        """
        depth = dict.fromkeys(self._nodes, 0)
        for name in self.order():
            for below in self._below[name]:
                depth[below] = max(depth[below], depth[name] + 1)
        levels: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
        for name, level in depth.items():
            levels[level].append(name)
        return levels

    def validate(self) -> AgentDAG:
        """Return the graph itself, if it is sound.

        Raises:
            PlanError: All that is wrong with it, in `.problems`: a circle, or conditions that look at nodes which may
                not have ended yet.
        """
        self.order()
        problems = [problem for edge in self.edges for problem in self._wrong_looks(edge)]
        if problems:
            raise plan_error(problems)
        return self

    def _wrong_looks(self, edge: Edge) -> list[PlanError]:
        if not isinstance(edge.condition, str):
            return []
        looked_at = {str(ref.path[0]) for ref in parse_expression(edge.condition).refs if ref.root == "steps"}
        beyond = sorted(looked_at - {edge.source})
        if not beyond:
            return []
        ended = self._before(edge.source)
        return [
            ExpressionError(
                f"the condition on the edge from {edge.source!r} to {edge.target!r} looks at {name!r}, "
                + ("which may not have ended by then" if name in self._nodes else "and there is no such node"),
                remedy=f"look at {edge.source!r} or a node before it",
                step=edge.target,
            )
            for name in beyond
            if name not in ended
        ]

    def _before(self, name: str) -> set[str]:
        found: set[str] = set()
        stack = [name]
        while stack:
            for above in self._above[stack.pop()]:
                if above not in found:
                    found.add(above)
                    stack.append(above)
        return found

    def reset(self) -> None:
        """Forget on every node what came of it."""
        for node in self._nodes.values():
            node.reset()

    # --- drawing --------------------------------------------------------------------------------

    def picture(self, result: NodesShown | None = None) -> Picture:
        """Return what every drawing shows: the graph, and how its nodes stand.

        Args:
            result: A run, as a `DAGResult` tells it; None: the run that was started last.
        """
        return agent_picture(self.name, list(self._nodes.values()), self.edges, result)

    def visualize(self, result: NodesShown | None = None, *, ascii_only: bool = False) -> str:
        """Return the graph as text: nodes by levels with a sign for how each stands, then the edges."""
        self.order()
        return picture_text(self.picture(result), ascii_only=ascii_only)

    def mermaid(self, result: NodesShown | None = None) -> str:
        """Return the graph as a Mermaid flowchart."""
        return picture_mermaid(self.picture(result))

    def dot(self, result: NodesShown | None = None) -> str:
        """Return the graph as a Graphviz digraph."""
        return picture_dot(self.picture(result))

    def svg(self, result: NodesShown | None = None, *, theme: str = "auto") -> str:
        """Return the graph as an SVG image."""
        self.order()
        return picture_svg(self.picture(result), theme=theme)

    def __repr__(self) -> str:
        return f"AgentDAG({self.name!r}, {len(self._nodes)} nodes, {len(self.edges)} edges)"


def _cycle(circle: tuple[str, ...]) -> CycleError:
    error = CycleError(circle)
    error.remedy = f"take out the edge from {circle[-2]!r} to {circle[-1]!r}, or break the circle elsewhere"
    return error
