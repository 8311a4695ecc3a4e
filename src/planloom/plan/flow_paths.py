"""Every way on which a labelled value may reach a way out of a plan, found before anything runs.

Rule 1: what is found here is at least what can happen: a run may decide better (a step was skipped, an agent called no
    tool), never worse. Nothing is known here of a replacement plan, nor of what an agent does that is plain code.
Rule 2: one path for each label and way out: a shortest one. Others may lead there too; they end in the same verdict.
Rule 3: it costs what looking at each reference once costs, for each label that occurs: a thousand steps are no matter.
Rule 4: what a model, an agent or a program may call is not what it will call, and what a step says if it fails is not
    what it will say. Such a path is listed and not `certain`. Nobody can be asked in the middle of an attempt: there, a
    call that would be asked about is refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planloom.errors import FlowRefusedError
from planloom.plan.document import Path
from planloom.plan.flow import (
    NO_LABELS,
    SECRET,
    FlowFacts,
    FlowPolicy,
    FlowVerdict,
    VerdictKind,
    decide,
    decide_model,
    is_sink,
    labels_after,
)
from planloom.plan.flow_graph import AgentEffects, DeclaredTool, FlowCatalogue, FlowGraph, FlowNode, InnerTools
from planloom.plan.frozen import frozen
from planloom.plan.model import Plan, Step
from planloom.plan.policy import JUDGED, Effects
from planloom.plan.rules import STRICTNESS

_TELLS_A_MODEL = frozenset({"model", "agent", "task"})
"""Kinds of step that tell a model, or an agent, what they are given."""


@frozen
class FlowPath:
    """One way of a label through a plan.

    Attributes:
        source: Key of the step whose result carries it first, e.g. ``fetch`` or ``sub/fetch``.
        source_tool: The tool that declares the label.
        through: Keys of the steps in between, in order.
        sink: Key of the step where it is decided about.
        tool: What is decided about there: a tool, or the model, agent or judge that would be told.
        certain: False where it depends on a failure, or on what a model, an agent or a program decides to call.
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
    plan: Plan,
    catalogue: FlowCatalogue,
    policy: FlowPolicy,
    *,
    inner: InnerTools = lambda _: None,
    agent_effects: AgentEffects = lambda _: Effects.NONE,
) -> list[FlowPath]:
    """Return how labelled values may reach tools with effects and models, the gravest verdicts first.

    Args:
        plan: One that `check_plan` finds nothing wrong with; a tool that is not here counts as one that says nothing.
        inner: The tools that an agent has by itself.
        agent_effects: What an agent does besides calling them: one that is plain code may do anything.
    """
    found = _Search(FlowGraph.of(plan, catalogue, inner, agent_effects).nodes).paths(policy)
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


def _own(facts: FlowFacts) -> frozenset[str]:
    return labels_after(NO_LABELS, facts)


@dataclass(frozen=True, slots=True)
class _Search:
    """Looks for the paths through a graph."""

    nodes: Sequence[FlowNode]

    def paths(self, policy: FlowPolicy) -> Iterator[FlowPath]:
        brought = [frozenset[str]().union(*map(_own, node.inner.values())) for node in self.nodes]
        own = [NO_LABELS if node.tool is None else _own(node.tool) for node in self.nodes]
        for label in sorted(NO_LABELS.union(*brought, *own)):
            told: set[tuple[int, str]] = set()
            for certain in (True, False):
                starts = {place for place, carried in enumerate(own) if label in carried}
                if not certain:
                    starts |= {place for place, carried in enumerate(brought) if label in carried}
                yield from self.of_label(label, starts, policy, certain=certain, told=told)

    def of_label(
        self, label: str, starts: set[int], policy: FlowPolicy, *, certain: bool, told: set[tuple[int, str]]
    ) -> Iterator[FlowPath]:
        above = self.reached(label, starts, certain=certain)
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
                    _bringer(source, label),
                    tuple(key for key in through if key != source.key),
                    node.key,
                    tool,
                    verdict.kind,
                    verdict.why,
                    certain and is_certain,
                    node.at,
                )

    def reached(self, label: str, starts: Iterable[int], *, certain: bool) -> dict[int, int]:
        """Return what the label comes into, each with the node it comes from on a shortest way.

        Args:
            certain: Whether only ways count that need no failure.
        """
        above: dict[int, int] = {}
        waiting = deque(sorted(starts))
        begun = set(waiting)
        while waiting:
            place = waiting.popleft()
            for below in self.nodes[place].below:
                if below not in above and (self.nodes[below].is_certain or not certain):
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


def _ways_out(
    node: FlowNode, step: Step, label: str, policy: FlowPolicy, *, comes_in: bool, begins: bool, at_once: bool
) -> Iterator[tuple[str, FlowVerdict, bool]]:
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
    if step.verify is not None and step.verify.strategy in JUDGED and label == SECRET:
        judge, verdict = step.verify.model or step.model or "its judge", decide_model(labels, policy)
        if goes_out:
            yield judge, verdict, True
        elif begins:
            yield judge, _inside(verdict), False
    if comes_in and node.agent not in (None, Effects.NONE):
        yield step.doer, decide(labels, None, Effects.ONCE, policy), True
    elif comes_in and step.kind in _TELLS_A_MODEL and label == SECRET:
        yield step.doer, decide_model(labels, policy), True
    if begins and not at_once and step.kind in _TELLS_A_MODEL and label == SECRET:
        yield step.doer, _inside(decide_model(labels, policy)), False
    for name, facts in node.inner.items():
        effects = facts.effects or Effects.ONCE
        if is_sink(facts, effects):
            yield name, _inside(decide(labels, facts, effects, policy)), False


def _inside(verdict: FlowVerdict) -> FlowVerdict:
    """Return what becomes of a call inside an attempt: nobody can be asked there."""
    if verdict.kind != "needs_approval":
        return verdict
    return FlowVerdict("refused", verdict.labels, f"{verdict.why}, and nobody can be asked inside an attempt")


def _strictest(step: Step, facts: DeclaredTool | None) -> Effects:
    declared = (facts.effects if facts is not None else None) or Effects.ONCE
    return declared if step.effects is None else max(declared, step.effects, key=STRICTNESS.__getitem__)


def _bringer(source: FlowNode, label: str) -> str:
    """Return the tool that brings a label: the step's own, else the first that the step may call."""
    if source.step is not None and source.tool is not None and label in _own(source.tool):
        return source.step.doer
    return next(name for name, facts in source.inner.items() if label in _own(facts))
