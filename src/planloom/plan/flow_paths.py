"""Every way on which a labelled value may reach a way out of a plan, found before anything runs.

Rule 1: what is found here is at least what can happen: a run may decide better (a step was skipped, an agent called no
    tool), never worse. Nothing is known here of a replacement plan, nor of what an agent does that is plain code.
Rule 2: one path for each label and way out: a shortest one. Others may lead there too; they end in the same verdict.
Rule 3: it costs what looking at each reference once costs, for each label that occurs: a thousand steps are no matter.
Rule 4: what a model, an agent or a program may call is not what it will call. Such a path is listed and is not
    `certain`; nobody can be asked in the middle of an attempt, so a call that would be asked about is refused there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from planloom.errors import FlowRefusedError
from planloom.plan.document import Path
from planloom.plan.flow import (
    NO_LABELS,
    SECRET,
    FlowFacts,
    FlowPolicy,
    Verdict,
    VerdictKind,
    decide,
    decide_model,
    is_sink,
    labels_after,
)
from planloom.plan.frozen import frozen
from planloom.plan.graph import GraphStep, PlanGraph, compile_plan
from planloom.plan.model import Plan, Step
from planloom.plan.policy import JUDGED, Effects, JoinRule, OnError
from planloom.plan.refs import compile_template
from planloom.plan.rules import STRICTNESS
from planloom.plan.terms import Ref

_TELLS_A_MODEL = frozenset({"model", "agent", "task"})
"""Kinds of step that tell a model, or an agent, what they are given."""

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


@frozen
class FlowPath:
    """One way of a label through a plan.

    Attributes:
        source: Key of the step whose result carries it first, e.g. ``fetch`` or ``sub/fetch``.
        source_tool: The tool that declares the label.
        through: Keys of the steps in between, in order.
        sink: Key of the step where it is decided about.
        tool: What is decided about there: a tool, or the model, agent or judge that would be told.
        certain: False where it depends on what a model, an agent or a program decides to call.
        at: Where the sink stands in the plan.
    """

    label: str
    source: str
    source_tool: str
    through: tuple[str, ...]
    sink: str
    tool: str
    verdict: VerdictKind
    why: str
    certain: bool
    at: Path = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "label": self.label,
            "source": self.source,
            "source_tool": self.source_tool,
            "through": list(self.through),
            "sink": self.sink,
            "tool": self.tool,
            "verdict": self.verdict,
            "why": self.why,
            "certain": self.certain,
        }


def flows(
    plan: Plan, catalogue: FlowCatalogue, policy: FlowPolicy, *, inner: InnerTools = lambda _: None
) -> list[FlowPath]:
    """Return how labelled values may reach tools with effects and models, the gravest verdicts first.

    Args:
        plan: One that `check_plan` finds nothing wrong with; tools that are not in the catalogue are passed over.
        inner: The tools that an agent has by itself.
    """
    found = _Walk.of(plan, catalogue, inner).paths(policy)
    weight: dict[str, int] = {"refused": 0, "needs_approval": 1, "allowed": 2}
    return sorted(found, key=lambda one: (weight[one.verdict], not one.certain))


def refusals(paths: Iterable[FlowPath]) -> list[FlowRefusedError]:
    """Return one error for each path that is refused whatever anybody decides to call."""
    return [
        FlowRefusedError(
            f"what step {one.source!r} gives is {one.label!r}{_by_way_of(one.through)}, "
            f"and step {one.sink!r} would hand it to {one.tool!r}",
            remedy="have a tool that cleans it in between, declare that the tool accepts it, or change [flow]",
            step=one.sink,
            path=one.at,
            flow=one.to_dict(),
        )
        for one in paths
        if one.verdict == "refused" and one.certain
    ]


def _by_way_of(through: tuple[str, ...]) -> str:
    return f", goes on through {', '.join(through)}" if through else ""


@dataclass(slots=True)
class _Node:
    """A step, or a part of a sub-plan's step: one of its inputs, or whether it is done at all.

    Attributes:
        step: None for a part: nothing is decided there.
        tool: What a tool step calls.
        inner: What a model, an agent or a program may call.
    """

    key: str
    at: Path
    step: Step | None = None
    tool: DeclaredTool | None = None
    inner: Mapping[str, DeclaredTool] = field(default_factory=dict)
    below: list[int] = field(default_factory=list)

    def passes(self, label: str) -> bool:
        """Return whether what comes out carries a label that came in."""
        step = self.step
        if step is not None and step.approve is not None:
            return False  # what comes out is what a person filled in
        if step is not None and step.for_each is not None and step.on_item_error == "collect":
            return True  # errors of its items are part of what it gives
        return self.tool is None or label in labels_after(frozenset((label,)), self.tool)

    @property
    def says_more_if_failed(self) -> bool:
        """Return whether its error may carry what its output does not: what was cleaned, what is inside."""
        if self.tool is not None:
            return bool(self.tool.cleans)
        return self.step is not None and isinstance(self.step.plan, Plan)


def _own(facts: FlowFacts) -> frozenset[str]:
    return labels_after(NO_LABELS, facts)


@dataclass(slots=True)
class _Walk:
    catalogue: FlowCatalogue
    usable: frozenset[str]
    inner_tools: InnerTools
    nodes: list[_Node] = field(default_factory=list)
    failed: dict[int, int] = field(default_factory=dict)
    """Of steps whose error may say more than their output: the node of everything but their output."""

    @classmethod
    def of(cls, plan: Plan, catalogue: FlowCatalogue, inner: InnerTools) -> _Walk:
        walk = cls(catalogue, catalogue.expanded(None), inner)
        walk.scope(compile_plan(plan), "", (), {}, None)
        return walk

    # --- the graph of what is read by what ------------------------------------------------------

    def scope(
        self, graph: PlanGraph, prefix: str, path: Path, inputs: Mapping[str, int], control: int | None
    ) -> list[int]:
        """Add a plan's steps; return the node of each.

        Args:
            inputs: Nodes of the plan's inputs that may carry anything.
            control: Node of what decides whether any of it is done.
        """
        places = [self.node(entry, prefix, (*path, "steps", entry.place)) for entry in graph.steps]
        self.failed.update((place, self.part_of(place)) for place in places if self.nodes[place].says_more_if_failed)
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
        else:
            ends = {below[inner.place] for inner in sub.steps if not inner.downstream}
        self.link({control, *ends}, out)
        self.link({out, control, *given.values(), *below}, self.failed[out])

    def node(self, entry: GraphStep, prefix: str, at: Path) -> int:
        step = entry.step
        tool = self.facts(step.tool) if step.tool is not None else None
        self.nodes.append(_Node(prefix + step.id, at, step, tool, self.inside(step)))
        return len(self.nodes) - 1

    def part_of(self, place: int) -> int:
        """Add a node that is a part of a step's: one of its inputs, its error, whether it is done."""
        self.nodes.append(_Node(self.nodes[place].key, self.nodes[place].at))
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
                place = places[above.place]
                is_whole = ref.path[1] == "output" and above.step.on_error is OnError.FAIL and not of_failed
                found.add(place if is_whole else self.failed.get(place, place))
            elif ref.root == "inputs":
                name = str(ref.path[0]) if ref.path else None
                found.update(node for given, node in inputs.items() if name is None or given == name)
        return found

    def link(self, above: Iterable[int], below: int | None) -> None:
        if below is not None:
            for place in above:
                self.nodes[place].below.append(below)

    # --- the paths through it -------------------------------------------------------------------

    def paths(self, policy: FlowPolicy) -> Iterator[FlowPath]:
        brought = [frozenset[str]().union(*map(_own, node.inner.values())) for node in self.nodes]
        own = [NO_LABELS if node.tool is None else _own(node.tool) for node in self.nodes]
        for label in sorted(NO_LABELS.union(*brought, *own)):
            told: set[tuple[int, str]] = set()
            for certain, labels in ((True, own), (False, brought)):
                starts = {place for place, carried in enumerate(labels) if label in carried}
                yield from self.of_label(label, starts, policy, certain=certain, told=told)

    def of_label(
        self, label: str, starts: set[int], policy: FlowPolicy, *, certain: bool, told: set[tuple[int, str]]
    ) -> Iterator[FlowPath]:
        above = self.reached(label, starts)
        for place in sorted(above.keys() | starts):
            node = self.nodes[place]
            if node.step is None:
                continue
            for tool, verdict, is_certain in _ways_out(
                node, node.step, label, policy, comes_in=place in above, begins=place in starts, at_once=certain
            ):
                if (place, tool) in told:
                    continue
                told.add((place, tool))
                way = self.way(place, above, starts, within=place not in above)
                source = self.nodes[way[0]]
                through = dict.fromkeys(self.nodes[at].key for at in way[1:])
                through.pop(node.key, None)
                yield FlowPath(
                    label,
                    source.key,
                    _bringer(source, label, certain=certain),
                    tuple(key for key in through if key != source.key),
                    node.key,
                    tool,
                    verdict.kind,
                    verdict.why,
                    certain and is_certain,
                    node.at,
                )

    def reached(self, label: str, starts: Iterable[int]) -> dict[int, int]:
        """Return what the label comes into, each with the node it comes from on a shortest way."""
        above: dict[int, int] = {}
        waiting = deque(sorted(starts))
        begun = set(waiting)
        while waiting:
            place = waiting.popleft()
            for below in self.nodes[place].below:
                if below not in above:
                    above[below] = place
                    if below not in begun and self.nodes[below].passes(label):
                        waiting.append(below)
        return above

    def way(self, sink: int, above: Mapping[int, int], starts: Container[int], *, within: bool) -> list[int]:
        """Return the nodes on the way to a sink, first the one where the label begins."""
        way = [sink]
        while not within or len(way) > 1:
            way.append(above[way[-1]])
            if way[-1] in starts:
                break
        return way[::-1]


def _deciding(entry: GraphStep) -> Iterator[Ref]:
    """Yield what decides whether, how often and under which key a step is done."""
    for compiled in (entry.when, entry.for_each, entry.key, *entry.conditions.values()):
        if compiled is not None:
            yield from compiled.refs


def _ways_out(
    node: _Node, step: Step, label: str, policy: FlowPolicy, *, comes_in: bool, begins: bool, at_once: bool
) -> Iterator[tuple[str, Verdict, bool]]:
    """Yield what is decided about a label in one step: of what, the verdict, and whether it is certain to be asked.

    Args:
        comes_in: Whether what the step is given, or what decides about it, carries the label.
        begins: Whether a tool that the step calls brings it.
        at_once: Whether that tool is the step's own.
    """
    labels = frozenset((label,))
    if comes_in and step.tool is not None:
        effects = _strictest(step, node.tool)
        if is_sink(node.tool, effects):
            yield step.tool, decide(labels, node.tool, effects, policy), True
    goes_out = (comes_in and node.passes(label)) or (begins and at_once)
    if step.verify is not None and step.verify.strategy in JUDGED and goes_out and label == SECRET:
        yield step.verify.model or step.model or "its judge", decide_model(labels, policy), True
    if comes_in and step.kind in _TELLS_A_MODEL and label == SECRET:
        yield step.doer, decide_model(labels, policy), True
    if begins and not at_once and step.kind in _TELLS_A_MODEL and label == SECRET:
        yield step.doer, _inside(decide_model(labels, policy)), False
    for name, facts in node.inner.items():
        effects = facts.effects or Effects.ONCE
        if is_sink(facts, effects):
            yield name, _inside(decide(labels, facts, effects, policy)), False


def _inside(verdict: Verdict) -> Verdict:
    """Return what becomes of a call inside an attempt: nobody can be asked there."""
    if verdict.kind != "needs_approval":
        return verdict
    return Verdict("refused", verdict.labels, f"{verdict.why}, and nobody can be asked inside an attempt")


def _strictest(step: Step, facts: DeclaredTool | None) -> Effects:
    declared = (facts.effects if facts is not None else None) or Effects.ONCE
    return declared if step.effects is None else max(declared, step.effects, key=STRICTNESS.__getitem__)


def _bringer(source: _Node, label: str, *, certain: bool) -> str:
    if certain:
        return source.step.tool or "" if source.step is not None else ""
    return next(name for name, facts in source.inner.items() if label in _own(facts))
