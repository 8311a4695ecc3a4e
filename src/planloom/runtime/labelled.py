"""What is looked at of labelled values before a run exists, and whether the run has to keep labels at all.

Rule 1: where no tool that a plan may reach says anything of what passes through it, nothing is kept and nothing costs.
Rule 2: a plan that would certainly be refused on its way is refused before it begins; anything less is only told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.errors import PlanError
from planloom.executors.foreign_agent import named_tools
from planloom.plan.flow import declares_flow
from planloom.plan.flow_paths import flows, refusals
from planloom.plan.graph import compile_plan
from planloom.plan.model import Plan
from planloom.plan.policy import Effects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planloom.agents.roster import AgentRegistry
    from planloom.core.events import ToolFacts
    from planloom.errors import FlowRefusedError
    from planloom.plan.flow import FlowPolicy
    from planloom.plan.flow_paths import FlowPath
    from planloom.plan.model import Step
    from planloom.tools.registry import ToolRegistry


@dataclass(frozen=True, slots=True)
class Labelled:
    """Looks at plans with the tools and agents of one engine."""

    registry: ToolRegistry
    agents: AgentRegistry
    policy: FlowPolicy

    def policy_of(self, plan: Plan, pinned: Mapping[str, ToolFacts]) -> FlowPolicy | None:
        """Return what a run of this plan does about labels; None: none can come up.

        Args:
            pinned: What the run is told of tools: those that the plan names, or that a plan in its place may.
        """
        is_declared = any(map(declares_flow, pinned.values())) or self._agents_declare(plan)
        return self.policy if is_declared else None

    def paths(self, plan: Plan) -> list[FlowPath]:
        """Return how labelled values may reach tools and models; none of a plan that is not sound."""
        try:
            compile_plan(plan)
        except PlanError:
            return []  # told already, and there is no telling what leads where
        return flows(plan, self.registry, self.policy, inner=self.tools_of_agent, agent_effects=self.effects_of_agent)

    def problems(self, plan: Plan) -> list[FlowRefusedError]:
        """Return each way of a labelled value that would certainly be refused."""
        if not any(declares_flow(tool) for tool in self.registry) and not self._agents_declare(plan):
            return []
        return refusals(self.paths(plan))

    def tools_of_agent(self, step: Step) -> dict[str, ToolFacts] | None:
        """Return the tools that the agent of a step has there, by name; None of one that nobody knows."""
        name = step.agent_name
        if name is None or name not in self.agents:
            return None
        definition = self.agents.definition(name)
        if definition is None:
            return {}  # plain code: what it calls is its own business
        tools = self.registry if definition.tools is None else definition.tools
        named = named_tools(step)
        if named is None:
            named = () if definition.tools is None else tuple(definition.tools.names())
        return {one: tools.get(one).facts for one in named if one in tools}

    def effects_of_agent(self, step: Step) -> Effects:
        """Return what the agent of a step does outside by itself."""
        name = step.agent_name
        return (
            Effects.NONE if name is None or name not in self.agents else self.agents.facts(name).effects or Effects.ONCE
        )

    def _agents_declare(self, plan: Plan) -> bool:
        brought = (self.tools_of_agent(step) or {} for step in _steps_of(plan))
        return any(declares_flow(facts) for tools in brought for facts in tools.values())


def _steps_of(plan: Plan) -> Iterator[Step]:
    for step in plan.steps:
        yield step
        if isinstance(step.plan, Plan):
            yield from _steps_of(step.plan)
