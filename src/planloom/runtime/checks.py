"""What is looked at before a run exists: its plan held against everything that is here, and what the run is told of it.

Rule 1: all problems at once, before any side effect: unknown tools, agents, models, prices, keys, kinds of step.
Rule 2: what a run is told is pinned: a deploy changes nothing for it, and whoever takes it up checks that all is there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planloom.core.events import AgentFacts, ToolFacts
from planloom.errors import ConfigError, NotAllowedError, PlanError, plan_error, unknown_agent
from planloom.executors.calls import spec_bytes
from planloom.executors.foreign_agent import named_tools
from planloom.plan.against import check_against
from planloom.plan.check import check_plan, together
from planloom.plan.load import load_plan
from planloom.plan.model import Plan, Step
from planloom.plan.policy import Effects
from planloom.plan.rules import STRICTNESS
from planloom.runtime.asked import NamedModel, asked_by, facts_for, model_problems, refused_models, verify_problems
from planloom.runtime.inflight import (
    Obstacle,
    Weight,
    changed_agents,
    changed_models,
    changed_tools,
    needed_of,
    not_allowed_now,
    once_each,
    problems_left,
)

if TYPE_CHECKING:
    from planloom.agents.roster import AgentRegistry
    from planloom.core.machine import RunMachine
    from planloom.core.prices import ModelFacts
    from planloom.models.catalogue import Models
    from planloom.plan.document import Path as PlanPath
    from planloom.plan.flow import FlowPolicy
    from planloom.plan.policy import ResourceLimits
    from planloom.runtime.inflight import Needed
    from planloom.runtime.labelled import Labelled
    from planloom.runtime.reach import Reach
    from planloom.tools.registry import ToolRegistry
    from planloom.verify.checks import ValidatorRegistry

PlanSource = Plan | Mapping[str, Any] | Path | str
CHECKED_PLANS = 256
"""Checked plans that are remembered."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A plan that can run here, and what a run of it is told."""

    plan: Plan
    tools: dict[str, ToolFacts]
    agents: dict[str, AgentFacts]
    asked: list[NamedModel]
    flow: FlowPolicy | None
    """What a run of it does about labelled values; None: there are none."""


class Checks:
    """Holds plans and records against what one engine has.

    Args:
        allow: Canonical names of the tools that plans may use; None: all of `registry`.
        kinds: Kinds of step that can be done here, and what steps may ask for on top.
        reach: Whether what a plan names can be had where its steps are done.
        labelled: What becomes of labelled values.
    """

    def __init__(
        self,
        registry: ToolRegistry,
        models: Models,
        agents: AgentRegistry,
        validators: ValidatorRegistry,
        *,
        allow: tuple[str, ...] | None,
        kinds: frozenset[str],
        reach: Reach,
        labelled: Labelled,
    ) -> None:
        self._registry = registry
        self._models = models
        self._agents = agents
        self._validators = validators
        self._allow = allow
        self._kinds = kinds
        self._reach = reach
        self._labelled = labelled
        self._checked: OrderedDict[tuple[int, tuple[str, ...] | None], Checked] = OrderedDict()

    def narrowed(self, allow: Iterable[str] | None) -> tuple[str, ...] | None:
        """Return the allowlist of one run: what the engine allows, and of that what its caller does."""
        if allow is None:
            return self._allow
        wanted = self._registry.expanded(allow)
        return tuple(sorted(wanted if self._allow is None else wanted & frozenset(self._allow)))

    def problems_here(self, plan: Plan, allow: tuple[str, ...] | None = None) -> list[PlanError]:
        """Return why a plan, sound by itself, cannot run here."""
        found = check_against(
            plan,
            self._registry,
            allow=self._allow if allow is None else allow,
            installed_kinds=self._kinds,
            own_tools=[name for name in self._agents if self._tools_of_agent(name) is not None],
            agent_effects=self._effects_of_agent,
        )
        found += model_problems(plan, self._models)
        found += [*verify_problems(plan, self._validators), *self._agent_problems(plan, (), "")]
        return [*found, *self._reach.problems(plan), *self._labelled.problems(plan)]

    def of(self, source: PlanSource, allow: tuple[str, ...] | None) -> Checked:
        """Return a plan, checked, and what a run of it is told.

        Raises:
            PlanError: All that is wrong with it, in `.problems`.
        """
        known = self._checked.get((id(source), allow))
        if known is not None and known.plan is source:
            return known
        plan = load_plan(source, also=lambda loaded: self.problems_here(loaded, allow))
        if plan is source:  # built in Python: nobody has looked at it yet
            problems = together(check_plan(plan), self.problems_here(plan, allow))
            if problems:
                raise plan_error(problems)
        agents = {name: self._agents.facts(name) for name in sorted(_agents_of(plan)) if name in self._agents}
        tools = self._tool_facts(plan)
        checked = Checked(plan, tools, agents, self._asked(plan, agents), self._labelled.policy_of(plan, tools))
        self._checked[id(plan), allow] = checked
        while len(self._checked) > CHECKED_PLANS:
            self._checked.popitem(last=False)
        return checked

    def model_facts(
        self, checked: Checked, limits: ResourceLimits | None, *, track_cost: bool
    ) -> dict[str, ModelFacts]:
        """Return what a run is told of its models; see `facts_for`."""
        if not checked.asked:
            return {}
        return facts_for(checked.asked, self._models, limits=limits, track_cost=track_cost)

    def recorded(self, machine: RunMachine) -> None:
        """Check that what is left of a run on record can be done here.

        Raises:
            ConfigError: Tools, agents or models are missing.
            MissingKeyError: There is no key for one of its models.
        """
        for error in self._refusals(machine, needed_of(machine)):
            raise error

    def in_flight(self, machine: RunMachine) -> list[Obstacle]:
        """Return everything about a run on record that is not as it was when it began; what `recorded` raises first."""
        started = machine.state.started
        assert started is not None
        needed = needed_of(machine)
        found = [
            Obstacle(Weight.STOPS, "run", error.message, remedy=error.remedy)
            for error in self._refusals(machine, needed)
        ]
        found += changed_tools(needed, started, self._registry)
        found += not_allowed_now(needed, self._registry, self._allow)
        found += changed_agents(needed, started, self._agents)
        found += changed_models(needed, started, self._models)
        plans = {"": started.plan}
        for node in machine.state.nodes.values():
            if node.inner is not None and node.step.plan is None and not node.ended:  # another plan in its place
                plans[f"{node.key}/"] = node.inner.graph.plan
        problems = {prefix: self.problems_here(plan, started.allow) for prefix, plan in plans.items()}
        return once_each([*found, *problems_left(machine, problems)])

    def _refusals(self, machine: RunMachine, needed: Needed) -> Iterator[ConfigError]:
        """Yield why a run on record is not taken up here."""
        started = machine.state.started
        assert started is not None
        for what, missing in (
            ("tools", [name for name in started.tools if name in needed.tools and not self._registry.resolve(name)]),
            ("agents", [name for name in started.agents if name in needed.agents and name not in self._agents]),
        ):
            if missing:
                yield ConfigError(
                    f"run {machine.run_id} uses {what} that are not here: {', '.join(sorted(missing))}",
                    remedy=f"give the {what} it was started with" + (", e.g. with --tools" if what == "tools" else ""),
                )
        models = {ref: known for ref, known in started.models.items() if ref in needed.models}
        yield from refused_models(machine.run_id, models, self._models)

    # --- inside ---------------------------------------------------------------------------------

    def _asked(self, plan: Plan, agents: Mapping[str, AgentFacts]) -> list[NamedModel]:
        """Return every place of a plan that asks a model, those of its agents included."""
        found = asked_by(plan)
        for name, facts in agents.items():
            if facts.model is not None:
                found.append(NamedModel(facts.model, f"agent {name}", ()))
        return found

    def _agent_problems(self, plan: Plan, path: PlanPath, prefix: str) -> Iterator[PlanError]:
        for place, step in enumerate(plan.steps):
            here = (*path, "steps", place)
            name = step.agent_name
            if name is not None and "agent" in self._kinds and name not in self._agents:
                field = "agent" if step.agent is not None else "task"
                yield unknown_agent(name, self._agents.names(), step=prefix + step.id, path=(*here, field))
            elif name is not None:
                yield from self._own_tool_problems(name, step, here, prefix)
            if isinstance(step.plan, Plan):
                yield from self._agent_problems(step.plan, (*here, "plan"), f"{prefix}{step.id}/")

    def _own_tool_problems(self, agent: str, step: Step, path: PlanPath, prefix: str) -> Iterator[PlanError]:
        """Refuse tools that a step gives to an agent that has tools of its own: it can only leave some out."""
        own = self._tools_of_agent(agent)
        if own is None:
            return
        narrowed = None if step.agent is None else step.agent.tools
        for field, names in ((("agent", "tools"), narrowed), (("tools",), step.tools)):
            for at, name in enumerate(names or ()):
                if name not in own:
                    yield NotAllowedError(
                        f"step {step.id!r} gives agent {agent!r} the tool {name!r}, which is none of its own",
                        remedy=f"a step can only narrow an agent's tools: {', '.join(own.names()) or 'it has none'}",
                        step=prefix + step.id,
                        path=(*path, *field, at),
                        tool=name,
                    )

    def _tools_of_agent(self, name: str) -> ToolRegistry | None:
        """Return the tools that an agent brings; None of one that has those its step names."""
        definition = self._agents.definition(name) if name in self._agents else None
        return None if definition is None else definition.tools

    def _effects_of_agent(self, step: Step) -> Effects | None:
        """Return what a step's agent does outside: by its own word, or by the tools that it has in this step."""
        name = step.agent_name
        if name is None or name not in self._agents:
            return None
        if self._agents.definition(name) is None:
            return self._agents.facts(name).effects
        own = self._tools_of_agent(name)
        tools = self._registry if own is None else own
        named = named_tools(step)
        if named is None:
            named = () if own is None else tuple(own.names())
        known = [canonical for one in named if (canonical := tools.resolve(one)) is not None]
        found = [tools.get(one).effects or Effects.ONCE for one in known]
        return max(found, key=STRICTNESS.__getitem__, default=Effects.NONE)

    def _tool_facts(self, plan: Plan) -> dict[str, ToolFacts]:
        facts: dict[str, ToolFacts] = {}
        for name, is_told in (*_tools_of(plan), *self._tools_of_replacements(plan)):
            if name not in self._registry:
                continue  # an agent's own
            tool = self._registry.get(name)
            if name not in facts:
                facts[name] = tool.facts
            if is_told and facts[name].spec_bytes is None:
                facts[name] = replace(facts[name], spec_bytes=spec_bytes(tool))
        return facts

    def _tools_of_replacements(self, plan: Plan) -> Iterator[tuple[str, bool]]:
        """Yield the tools that a plan in place of a failed step may use: those that the plan names, or allows."""
        plans = list(_plans_of(plan))
        if not any(step.replan is not None for one in plans for step in one.steps):
            return
        here = self._registry.expanded(self._allow)
        named = {self._registry.resolve(name) for one in plans for name, _ in _tools_of(one)}
        allowed = {name for one in plans if one.allow is not None for name in self._registry.expanded(one.allow)}
        for name in sorted(here & (allowed | named)):
            yield name, True


def _agents_of(plan: Plan) -> set[str]:
    return {name for one in _plans_of(plan) for step in one.steps if (name := step.agent_name) is not None}


def _tools_of(plan: Plan) -> Iterable[tuple[str, bool]]:
    """Yield each tool that a plan names, and whether a model is told of it."""
    for step in plan.steps:
        if step.tool is not None:
            yield step.tool, False
        for name in step.tools or ():
            yield name, True
        for name in step.code.tools if step.code is not None else ():
            yield name, False
        if isinstance(step.plan, Plan):
            yield from _tools_of(step.plan)


def _plans_of(plan: Plan) -> Iterator[Plan]:
    yield plan
    for step in plan.steps:
        if isinstance(step.plan, Plan):
            yield from _plans_of(step.plan)
