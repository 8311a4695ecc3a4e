"""What a run on record, not ended, would come to with what is here now: what stops it, and what its steps would find.

Rule 1: what stops a run is decided in `checks.py`, for `Engine.resume` and for this report alike: they cannot disagree.
Rule 2: only what is left of a run counts: a step that has ended needs no tool any more.
Rule 3: nothing is called or written: arguments are resolved from the record, and held against the tool's schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from planloom.core.events import ToolFacts
from planloom.errors import (
    AgentNotFoundError,
    ArgumentsError,
    ConfigError,
    EvaluationError,
    MissingValueError,
    NotAllowedError,
    NotInstalledError,
    PlanError,
    UnknownModelError,
    UnknownToolError,
)
from planloom.plan.model import Plan, Step
from planloom.plan.policy import OnError
from planloom.plan.rules import STRICTNESS
from planloom.runtime.asked import models_named
from planloom.runtime.replay import diverges

if TYPE_CHECKING:
    from planloom.agents.roster import AgentRegistry
    from planloom.core.events import RunStarted
    from planloom.core.machine import RunMachine
    from planloom.core.state import Node
    from planloom.models.catalogue import Models
    from planloom.ports import Recorded
    from planloom.tools.registry import ToolRegistry
    from planloom.tools.tool import Tool


_ITEM = re.compile(r"\[\d+\]")
_TOLD_ELSEWHERE = (UnknownToolError, AgentNotFoundError, UnknownModelError, NotAllowedError)
"""Problems of a plan that are looked for by what the run was told, and not by what a new one would be."""


class Weight(StrEnum):
    """What a finding means for the run."""

    STOPS = "stops"
    """The run is not taken up at all."""
    FAILS = "fails"
    """The run is taken up, and this step of it will fail."""
    DIFFERS = "differs"
    """It goes on, and not quite as it would have."""


class Outlook(StrEnum):
    GOES_ON = "goes on"
    GOES_ON_BUT = "goes on, but"
    CANNOT = "cannot go on"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One thing about a run that is not as it was when it began.

    Attributes:
        about: "tool", "agent", "model", "allow", "plan", "record" or "decision", and its name where it has one.
        step: Key of the step concerned; "" where it is the whole run.
        is_borne: A step that fails here takes the run with it only if this is False.
        is_another_tool: Whether the step's tool has another version or other parameters.
    """

    weight: Weight
    about: str
    words: str
    step: str = ""
    remedy: str = ""
    is_borne: bool = False
    is_another_tool: bool = False


@dataclass(frozen=True, slots=True)
class InFlight:
    """How a run that has not ended stands against what is here.

    Attributes:
        plan: Name of its plan; "" where the record cannot be read.
        left: Keys of the steps that have not ended.
    """

    run_id: str
    plan: str
    left: tuple[str, ...]
    findings: tuple[Obstacle, ...]

    @property
    def verdict(self) -> Outlook:
        if any(
            one.weight is Weight.STOPS or (one.weight is Weight.FAILS and not one.is_borne) for one in self.findings
        ):
            return Outlook.CANNOT
        return Outlook.GOES_ON_BUT if self.findings else Outlook.GOES_ON

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        findings = [
            {"weight": one.weight.value, "about": one.about, "step": one.step, "what": one.words, "remedy": one.remedy}
            for one in self.findings
        ]
        head = {"run_id": self.run_id, "plan": self.plan, "verdict": self.verdict.value}
        return {**head, "steps_left": list(self.left), "findings": findings}


def on_workers(found: InFlight) -> InFlight:
    """Return how a run stands whose steps are made by workers: they make none with another tool than it began with."""
    remedy = "keep workers with the tool as it was until the run has ended, or give the new one a name of its own"
    findings = (
        replace(one, weight=Weight.FAILS, words=f"{one.words}; workers that have it refuse the step", remedy=remedy)
        if one.is_another_tool and one.weight is Weight.DIFFERS
        else one
        for one in found.findings
    )
    return replace(found, findings=tuple(once_each(list(findings))))


def unreadable(run_id: str, error: Exception) -> InFlight:
    """Return how a run stands whose record, or the plan in it, cannot be read by this planloom."""
    words, remedy = getattr(error, "message", str(error)), getattr(error, "remedy", "")
    return InFlight(run_id, "", (), (Obstacle(Weight.STOPS, "record", words, remedy=remedy),))


@dataclass(frozen=True, slots=True)
class Needed:
    """What is left of a run, and what that names.

    Attributes:
        nodes: Steps and items that have not ended, each to be done by what its step names; neither those that another
            plan is done in place of, nor those whose parts have begun.
        tools, agents, models: By the names that the record has for them.
    """

    nodes: tuple[Node, ...]
    tools: frozenset[str]
    agents: frozenset[str]
    models: frozenset[str]


def needed_of(machine: RunMachine) -> Needed:
    """Return what is left of a run and what it needs."""
    state = machine.state
    assert state.started is not None
    nodes = tuple(node for node in state.nodes.values() if not (node.ended or node.inner or node.children is not None))
    steps: dict[int, Step] = {id(node.step): node.step for node in nodes}
    steps |= {
        id(step): step for one in list(steps.values()) if isinstance(one.plan, Plan) for step in _steps_in(one.plan)
    }
    tools = {name for step in steps.values() for name in tools_named(step)}
    agents = {step.agent_name for step in steps.values() if step.agent_name is not None}
    models = {ref for step in steps.values() for ref in models_named(step)}
    models |= {
        facts.model for name, facts in state.started.agents.items() if name in agents and facts.model is not None
    }
    return Needed(nodes, frozenset(tools), frozenset(agents), frozenset(models))


def tools_named(step: Step) -> Iterator[str]:
    """Yield each tool that a step names, whoever is to call it."""
    if step.tool is not None:
        yield step.tool
    yield from step.tools or ()
    yield from step.code.tools if step.code is not None else ()


def _steps_in(plan: Plan) -> Iterator[Step]:
    for step in plan.steps:
        yield step
        if isinstance(step.plan, Plan):
            yield from _steps_in(step.plan)


# --- what has changed -------------------------------------------------------------------------


def changed_tools(needed: Needed, started: RunStarted, registry: ToolRegistry) -> Iterator[Obstacle]:
    """Yield what is other about the tools that are still needed, and which steps cannot be done with them."""
    for node in needed.nodes:
        for name in tools_named(node.step):
            pinned = started.tools.get(name)
            if pinned is None or registry.resolve(name) is None:
                continue
            tool = registry.get(name)
            if tool.digest != pinned.digest:
                yield _other_parameters(node, tool)
            yield from _other_effects(node.key, tool, pinned)


def _other_parameters(node: Node, tool: Tool) -> Obstacle:
    """Return whether what a step gives to a tool, as far as it is known, fits the parameters it has now."""
    about, changed = (
        f"tool {tool.name}",
        f"tool {tool.name!r} has another version or other parameters than when the run began",
    )
    differs = Obstacle(Weight.DIFFERS, about, changed, node.key, is_borne=_is_borne(node), is_another_tool=True)
    if node.step.tool is None:
        return replace(differs, words=f"{changed}; it is called as it is now")
    args = known_arguments(node)
    if args is None:
        return replace(differs, words=f"{changed}; what the step will give to it is not known yet")
    try:
        tool.validate(args)
    except ArgumentsError as error:
        return _fails(node, about, f"{changed}: {error.message}", error.remedy)
    return replace(differs, words=f"{changed}; what the step gives to it still fits")


def known_arguments(node: Node) -> Any:
    """Return what a step is given, if all that it refers to is on record."""
    if node.step.for_each is not None and node.index is None:
        return None  # its items are not on record
    scope = node.scope
    steps = [str(ref.path[0]) for ref in node.entry.args.refs if ref.root == "steps"]
    if not all(scope.nodes[scope.graph.index[name]].ended for name in steps):
        return None
    try:
        return node.entry.args.resolve(node.view)
    except (MissingValueError, EvaluationError):
        return None  # it fails with any tool


def _other_effects(key: str, tool: Tool, pinned: ToolFacts) -> Iterator[Obstacle]:
    now, then = tool.effects, pinned.effects
    if now == then:
        return
    if now is None or then is None or STRICTNESS[now] < STRICTNESS[then]:
        meaning = "the run goes by what it was told"
    else:
        meaning = "the run may still call it again, as it was told it might"
    declared = f"effects '{now or 'once'}' now, and '{then or 'once'}' when the run began"
    words = f"tool {tool.name!r} declares {declared}; {meaning}"
    yield Obstacle(Weight.DIFFERS, f"tool {tool.name}", words, key)


def not_allowed_now(needed: Needed, registry: ToolRegistry, allow: tuple[str, ...] | None) -> Iterator[Obstacle]:
    """Yield tools that a run that began now would not be allowed."""
    for node in needed.nodes:
        for name in tools_named(node.step):
            if registry.resolve(name) is not None and not registry.allows(name, allow):
                words = f"tool {name!r} is not allowed here any more; the run keeps what it was allowed when it began"
                remedy = "cancel the run if it must not be called"
                yield Obstacle(Weight.DIFFERS, f"allow {name}", words, node.key, remedy)


def changed_agents(needed: Needed, started: RunStarted, agents: AgentRegistry) -> Iterator[Obstacle]:
    for name in sorted(needed.agents & started.agents.keys()):
        if name in agents and agents.facts(name).digest != started.agents[name].digest:
            words = f"agent {name!r} is another one than when the run began; it works as it is now"
            yield Obstacle(Weight.DIFFERS, f"agent {name}", words)


def changed_models(needed: Needed, started: RunStarted, models: Models) -> Iterator[Obstacle]:
    """Yield models that a name stands for, or prices, that are not those the run was told; it keeps those."""
    for ref in sorted(needed.models & started.models.keys()):
        then = started.models[ref]
        try:
            now = models.facts(ref, priced=then.price is not None)
        except ConfigError as error:
            words = f"a new run could not ask model {ref!r}: {error.message}; this one asks {then.uri}"
            yield Obstacle(Weight.DIFFERS, f"model {ref}", words)
            continue
        if now.uri != then.uri:
            words = f"{ref!r} stands for {now.uri} now; the run goes on asking {then.uri}"
            yield Obstacle(Weight.DIFFERS, f"model {ref}", words)
        elif now.price != then.price:
            words = f"the price of model {ref!r} is another one now; the run reckons with the one it was told"
            yield Obstacle(Weight.DIFFERS, f"model {ref}", words)


def another_decision(run_id: str, record: Sequence[Recorded]) -> Iterator[Obstacle]:
    """Yield where this planloom would have decided otherwise than the one that recorded the run."""
    other = diverges(run_id, record)
    if other is not None:
        then, now = (type(event).__name__ if event else "nothing" for event in (other.recorded, other.decided))
        words = f"at event {other.seq} this planloom would decide {now}, and {then} is on record; the record counts"
        yield Obstacle(Weight.DIFFERS, "decision", words, remedy=f"planloom replay {run_id} shows it")


def problems_left(machine: RunMachine, found: Mapping[str, list[PlanError]]) -> Iterator[Obstacle]:
    """Yield what would keep a plan from being started here, as far as steps are concerned that are left.

    Args:
        found: Prefix of a plan's steps → its problems here.
    """
    nodes = machine.state.nodes
    for prefix, problems in found.items():
        for problem in problems:
            key = prefix + (problem.step or "")
            if problem.step is None or _is_over(key, machine):
                continue
            node = nodes.get(key)
            if isinstance(problem, ArgumentsError) and node is not None and known_arguments(node) is not None:
                continue  # all that it is given was held against the tool already
            fails = isinstance(problem, ArgumentsError | NotInstalledError) or "verify" in problem.path
            if fails and node is not None:
                yield _fails(node, "plan", problem.message, problem.remedy)
            elif fails:  # inside a sub-plan that has not begun
                yield Obstacle(Weight.FAILS, "plan", problem.message, key, problem.remedy)
            elif not isinstance(problem, _TOLD_ELSEWHERE):
                words = f"a new run of this plan would be refused: {problem.message}"
                yield Obstacle(Weight.DIFFERS, "plan", words, key, problem.remedy)


def _is_over(key: str, machine: RunMachine) -> bool:
    """Return whether a step, or one that it is part of, has ended or is done another way."""
    parts = key.split("/")
    for length in range(1, len(parts) + 1):
        node = machine.state.nodes.get("/".join(parts[:length]))
        if node is not None and (node.ended or (node.inner is not None and node.step.plan is None)):
            return True
    return False


def _fails(node: Node, about: str, words: str, remedy: str = "") -> Obstacle:
    if node.waiting == "unknown":
        return Obstacle(Weight.DIFFERS, about, words, node.key, "resolve the step with --output or --fail")
    return Obstacle(Weight.FAILS, about, words, node.key, remedy, _is_borne(node))


def _is_borne(node: Node) -> bool:
    step = node.step
    return step.on_error is not OnError.FAIL or (node.index is not None and step.on_item_error == "collect")


def once_each(findings: list[Obstacle]) -> list[Obstacle]:
    """Return the findings, what is the same for many items of a step only once, the gravest first."""
    seen: dict[tuple[str, ...], Obstacle] = {}
    for one in findings:
        seen.setdefault((one.weight, one.about, one.words, _ITEM.sub("", one.step)), one)
    return sorted(seen.values(), key=lambda one: list(Weight).index(one.weight))
