"""What in a plan is given to what: its steps, those of its sub-plans, their inputs and errors, as one graph.

Rule 1: an edge is a reference, or the condition under which a plan inside is done: what may carry a value over.
Rule 2: a step that may say more than what it gives when all goes well (in an error, or by a list that is empty) has a
    second node for that. What leads through it is possible, and not certain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from planloom.plan.document import Path
from planloom.plan.flow import FlowFacts, labels_after
from planloom.plan.graph import GraphStep, PlanGraph, compile_plan
from planloom.plan.model import Plan, Step
from planloom.plan.policy import Effects, JoinRule, OnError
from planloom.plan.refs import compile_template
from planloom.plan.terms import Ref

_AFTER_A_FAILURE = frozenset({JoinRule.ALL_DONE, JoinRule.ALWAYS, JoinRule.ONE_SUCCESS})
"""Joins with which a step may be done after one that it refers to has failed."""


class DeclaredTool(FlowFacts, Protocol):
    """What a tool declares, as far as it matters here; `core.events.ToolFacts` is one."""

    @property
    def effects(self) -> Effects | None: ...


class FlowCatalogue(Protocol):
    """The tools there are; `tools.registry.ToolRegistry` is one."""

    def resolve(self, name: str) -> str | None:
        """Return the canonical name behind a name or alias, or None."""
        ...

    def expanded(self, allow: Iterable[str] | None) -> frozenset[str]:
        """Return the canonical names that an allowlist covers; None: of every tool that may be used."""
        ...

    def facts(self, name: str) -> DeclaredTool:
        """Return what a tool declares, by canonical name."""
        ...


InnerTools = Callable[[Step], Mapping[str, DeclaredTool] | None]
"""The tools that an agent's step may call, by name; None: those that the step names."""
AgentEffects = Callable[[Step], Effects]
"""What the agent of a step does outside by itself, calls of its tools aside."""


@dataclass(slots=True)
class FlowNode:
    """A step, or a part of a sub-plan's step: one of its inputs, or whether it is done at all.

    Attributes:
        step: None for a part: nothing is decided there.
        tool: What a tool step calls.
        inner: What a model, an agent or a program may call.
        agent: What the agent of an agent's step does by itself; None: there is none.
        is_certain: False: for what a step only says if it fails, or if it is done for nothing.
        below: Nodes that are given something of it.
    """

    key: str
    at: Path
    step: Step | None = None
    tool: DeclaredTool | None = None
    inner: Mapping[str, DeclaredTool] = field(default_factory=dict)
    agent: Effects | None = None
    is_certain: bool = True
    below: list[int] = field(default_factory=list)

    def passes(self, label: str) -> bool:
        """Return whether what comes out carries a label that came in."""
        step = self.step
        if step is not None and step.approve is not None:
            return False  # what comes out is what a person filled in
        return self.tool is None or label in labels_after(frozenset((label,)), self.tool)

    @property
    def may_say_more(self) -> bool:
        """Return whether it may say, by failing, what its output does not: what was cleaned, what is inside."""
        if self.tool is not None:
            return bool(self.tool.cleans)
        return self.step is not None and isinstance(self.step.plan, Plan)


@dataclass(slots=True)
class FlowGraph:
    """A plan's steps and those of its sub-plans as nodes, each with what refers to it."""

    catalogue: FlowCatalogue
    usable: frozenset[str]
    inner_tools: InnerTools
    agent_effects: AgentEffects
    nodes: list[FlowNode] = field(default_factory=list)
    failed: dict[int, int] = field(default_factory=dict)
    """The second nodes of rule 2."""

    @classmethod
    def of(cls, plan: Plan, catalogue: FlowCatalogue, inner: InnerTools, agent_effects: AgentEffects) -> FlowGraph:
        walk = cls(catalogue, catalogue.expanded(None), inner, agent_effects)
        walk.scope(compile_plan(plan), "", (), {}, None)
        return walk

    def scope(
        self, graph: PlanGraph, prefix: str, path: Path, inputs: Mapping[str, int], control: int | None
    ) -> list[int]:
        """Add a plan's steps; return the node of each.

        Args:
            inputs: Nodes of the plan's inputs that may carry anything.
            control: Node of what decides whether any of it is done.
        """
        places = [self.node(entry, prefix, (*path, "steps", entry.place)) for entry in graph.steps]
        for place in places:
            if self.nodes[place].may_say_more:
                self.failed[place] = self.part_of(place, is_certain=False)
        for entry, node in zip(graph.steps, places, strict=True):
            of_failed = entry.join in _AFTER_A_FAILURE
            decided = self.read(graph, places, inputs, _deciding(entry), of_failed=of_failed)
            if control is not None:
                decided.add(control)
            if entry.sub is None:
                comes_in = decided | self.read(graph, places, inputs, entry.args.refs, of_failed=of_failed)
                self.link(comes_in, node)
                self.link({node, *comes_in}, self.failed.get(node))
                continue
            self.sub_plan(graph, entry, entry.sub, places, inputs, decided)
        return places

    def sub_plan(
        self,
        graph: PlanGraph,
        entry: GraphStep,
        sub: PlanGraph,
        places: list[int],
        inputs: Mapping[str, int],
        decided: set[int],
    ) -> None:
        out = places[entry.place]
        control = self.part_of(out)
        self.link(decided, control)
        given: dict[str, int] = {}
        items = () if entry.for_each is None else entry.for_each.refs
        for name, value in entry.step.args.items():
            refs = compile_template(value).refs
            if refs:
                given[name] = self.part_of(out)
                item = items if any(ref.root in ("item", "index") for ref in refs) else ()
                of_failed = entry.join in _AFTER_A_FAILURE
                self.link(self.read(graph, places, inputs, (*refs, *item), of_failed=of_failed), given[name])
        below = self.scope(sub, f"{self.nodes[out].key}/", (*self.nodes[out].at, "plan"), given, control)
        if sub.outputs is not None:
            ends = self.read(sub, below, given, sub.outputs.refs)
            is_done = ends.isdisjoint(below)  # where a step leads to them, that carries what decided about it
        else:
            ends = {node for inner in sub.steps if not inner.downstream for node in self.said(inner, below)}
            is_done = not ends
        self.link({*ends, control} if is_done else ends, out)
        self.link({out, control, *given.values(), *below}, self.failed[out])

    def node(self, entry: GraphStep, prefix: str, at: Path) -> int:
        step = entry.step
        tool = self.facts(step.tool) if step.tool is not None else None
        agent = None if step.agent_name is None else self.agent_effects(step)
        self.nodes.append(FlowNode(prefix + step.id, at, step, tool, self.inside(step), agent))
        return len(self.nodes) - 1

    def part_of(self, place: int, *, is_certain: bool = True) -> int:
        """Add a node that is a part of a step's: one of its inputs, its error, whether it is done."""
        self.nodes.append(FlowNode(self.nodes[place].key, self.nodes[place].at, is_certain=is_certain))
        return len(self.nodes) - 1

    def facts(self, name: str) -> DeclaredTool | None:
        canonical = self.catalogue.resolve(name)
        return self.catalogue.facts(canonical) if canonical is not None and canonical in self.usable else None

    def inside(self, step: Step) -> dict[str, DeclaredTool]:
        if step.agent_name is not None:
            brought = self.inner_tools(step)
            if brought is not None:
                return dict(brought)
        named: Sequence[str] = (*(step.tools or ()), *(step.code.tools if step.code is not None else ()))
        if step.agent is not None:
            named = (*named, *(step.agent.tools or ()))
        return {name: facts for name in named if (facts := self.facts(name)) is not None}

    def read(
        self,
        graph: PlanGraph,
        places: Sequence[int],
        inputs: Mapping[str, int],
        refs: Iterable[Ref],
        *,
        of_failed: bool = False,
    ) -> set[int]:
        """Return the nodes that references of one plan lead to.

        Args:
            of_failed: Whether whoever refers is done although a step that it refers to has failed.
        """
        found: set[int] = set()
        for ref in refs:
            if ref.root == "steps":
                above = graph.steps[graph.index[str(ref.path[0])]]
                found.update(self.said(above, places, of_failed=of_failed or ref.path[1] != "output"))
            elif ref.root == "inputs":
                name = str(ref.path[0]) if ref.path else None
                found.update(node for given, node in inputs.items() if name is None or given == name)
        return found

    def said(self, entry: GraphStep, places: Sequence[int], *, of_failed: bool = False) -> Iterator[int]:
        """Yield the nodes of what a step says to whoever refers to it."""
        place = places[entry.place]
        yield place
        if place in self.failed and (
            of_failed or entry.step.on_error is not OnError.FAIL or entry.for_each is not None
        ):
            yield self.failed[place]

    def link(self, above: Iterable[int], below: int | None) -> None:
        if below is not None:
            for place in above:
                self.nodes[place].below.append(below)


def _deciding(entry: GraphStep) -> Iterator[Ref]:
    """Yield what decides whether, how often and under which key a step is done."""
    for compiled in (entry.when, entry.for_each, entry.key, *entry.conditions.values()):
        if compiled is not None:
            yield from compiled.refs
