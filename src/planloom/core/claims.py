"""What each step needs of the run's limits: `Claims.of(node)`.

Rule 1: equal needs are one `Claim` object, so that the steps wait in one queue.
Rule 2: a name that limits something belongs to one plan instance; a sub-plan brings its own.
Rule 3: a container holds what it names from its begin to its end; of a `for_each` step, `mode` binds the whole and
`concurrency` and `max_parallel` bind each item.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from planloom.core.budget import FREE, NO_CLAIM, Claim, tool_claim
from planloom.core.needs import agent_claim, agent_facts, code_claim, model_claim, verified_claim
from planloom.core.outputs import CANNOT_RESOLVE
from planloom.core.replanning import asked_with, plan_claim
from planloom.plan.policy import JUDGED

if TYPE_CHECKING:
    from planloom.core.budget import Budget
    from planloom.core.events import AgentFacts, RunStarted, ToolFacts
    from planloom.core.prices import ModelFacts
    from planloom.core.state import Node, ScopeState

_FIELDS = tuple(field.name for field in fields(Claim))


class Claims:
    """The claims of one run's steps."""

    def __init__(self, started: RunStarted, budget: Budget) -> None:
        self._started = started
        self._facts: dict[str, ToolFacts] = started.tools
        self._models: dict[str, ModelFacts] = started.models
        self._tools: dict[str, Claim] = {}
        self._budget = budget
        self._asking: dict[tuple[Any, ...], Claim] = {}
        self._named: dict[tuple[Claim, tuple[str, ...]], Claim] = {}

    def open(self, scope: ScopeState) -> None:
        """Learn the named limits of a plan instance."""
        for name, limit in scope.graph.plan.concurrency.items():
            self._budget.named[f"{scope.prefix}concurrency: {name}"] = limit

    def of(self, node: Node) -> Claim:
        """Return what starting this step takes."""
        entry = node.entry
        step = entry.step
        if entry.is_plain:
            return self._of_tool(step.tool or "")
        is_map = entry.for_each is not None and node.parent is None
        if is_map or not entry.is_leaf:
            claim = FREE
        elif step.model is not None or step.agent is not None or step.task is not None:
            claim = self._of_asking(node)
        elif step.code is not None:
            claim = self._of_code(node)
        elif step.verify is not None:
            claim = self._of_verified(node)
        else:
            claim = NO_CLAIM if step.tool is None else self._of_tool(step.tool)
        if step.concurrency is None and step.mode == "parallel" and step.max_parallel is None:
            return claim
        return self._with_names(claim, self._names(node, is_map=is_map))

    def of_replanning(self, node: Node) -> Claim:
        """Return what asking for a plan in place of this step takes; it holds what the step names."""
        policy, limits = node.step.replan, self._budget.limits
        claim = NO_CLAIM
        if policy is not None and limits is not None:
            try:
                args = asked_with(node, self._started)
            except CANNOT_RESOLVE:
                pass  # it fails before it starts
            else:
                claim = self._same(plan_claim(args, self._models.get(policy.model), self._facts))
        return self._with_names(claim, self._names(node, is_map=False))

    def of_container(self, node: Node) -> Claim:
        """Return what a step takes that another plan does the job of."""
        return self._with_names(FREE, self._names(node, is_map=False))

    def _of_asking(self, node: Node) -> Claim:
        step = node.entry.step
        facts = agent_facts(step, self._started.agents)
        if facts is not None and facts.model in self._models:
            return self._of_agent(node, facts)
        if step.model is None or step.model not in self._models:
            tokens = step.max_tokens or 1  # one at least: with none left, no model is asked
            return self._same(Claim(tokens=tokens))
        limits = self._budget.limits
        if limits is None:
            return NO_CLAIM
        if limits.max_total_cost_usd is None and limits.max_total_tokens is None and not step.tools:
            return NO_CLAIM
        try:
            args = node.entry.args.resolve(node.view)
        except CANNOT_RESOLVE:
            return NO_CLAIM  # it fails before it starts
        return self._same(model_claim(step, args, self._models, self._facts))

    def _of_agent(self, node: Node, facts: AgentFacts) -> Claim:
        """Return what an agent takes that asks one of the run's models."""
        if self._budget.limits is None:
            return NO_CLAIM
        try:
            args = node.entry.args.resolve(node.view)
        except CANNOT_RESOLVE:
            return NO_CLAIM  # it fails before it starts
        return self._same(agent_claim(node.entry.step, args, facts, self._models, self._facts))

    def _of_code(self, node: Node) -> Claim:
        limits = self._budget.limits
        plainly = NO_CLAIM if node.entry.step.verify is None else self._of_verified(node)
        if limits is None:
            return plainly
        return self._same(code_claim(node.entry.step, plainly, self._facts))

    def of_ahead(self, node: Node, args: dict[str, Any], role: str) -> Claim:
        """Return what an attempt ahead of its time takes: all it could use, for there is no asking again.

        Args:
            role: "ahead", or "draft": another model is asked the same, once.
        """
        step, limits = node.entry.step, self._budget.limits
        if step.tool is not None:
            tool = self._of_tool(step.tool)
            return Claim(calls=tool.calls, cost_usd=tool.cost_usd)
        if role == "draft" and step.speculate is not None:
            step = replace(step, model=step.speculate.draft, verify=None, speculate=None, tools=None)
        if limits is None or step.model is None or step.model not in self._models:
            return Claim()
        need = model_claim(step, args, self._models, self._facts)
        return Claim(
            calls=need.spare_calls, cost_usd=need.cost_usd + need.spare_usd, tokens=need.tokens + need.spare_tokens
        )

    def _of_verified(self, node: Node) -> Claim:
        """Return what a step takes that asks no model itself, and whose result is judged."""
        step = node.entry.step
        plainly = NO_CLAIM if step.tool is None else self._of_tool(step.tool)
        policy = step.verify
        if policy is None or self._budget.limits is None:
            return plainly
        if policy.refinement == "none" and policy.strategy not in JUDGED and policy.strategy != "self_consistency":
            return plainly  # done once, and judged by no model
        try:
            args = node.entry.args.resolve(node.view)
        except CANNOT_RESOLVE:
            return plainly  # it fails before it starts
        return self._same(verified_claim(step, args, self._models, self._facts.get(step.tool or "")))

    def _same(self, claim: Claim) -> Claim:
        return self._asking.setdefault(tuple(getattr(claim, name) for name in _FIELDS), claim)

    def _of_tool(self, tool: str) -> Claim:
        known = self._tools.get(tool)
        if known is None:
            known = self._tools[tool] = tool_claim(self._facts.get(tool))
        return known

    def _names(self, node: Node, *, is_map: bool) -> tuple[str, ...]:
        step, prefix = node.step, node.scope.prefix
        names = []
        if step.concurrency is not None and not is_map:
            names.append(f"{prefix}concurrency: {step.concurrency}")
        if step.mode == "sequential" and node.parent is None:
            names.append(f"{prefix}mode: sequential")
        if step.max_parallel is not None and node.parent is not None:
            name = f"max_parallel of {node.parent.key}"
            self._budget.named[name] = step.max_parallel
            names.append(name)
        return tuple(names)

    def _with_names(self, claim: Claim, names: tuple[str, ...]) -> Claim:
        if not names:
            return claim
        named = self._named.get((claim, names))
        if named is None:
            named = self._named[claim, names] = replace(claim, names=names)
        return named
