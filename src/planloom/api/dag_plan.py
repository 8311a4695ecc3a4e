"""An agent graph as a plan: each node a step of kind `agent`, everything it is given written as references.

What a node sees of the state is what the run began with, and over it what the nodes before it left, in the graph's
stable topological order: where several left a value under one key, the last of them in that order counts.

Rule 1: a plan's references are the only way by which a value reaches a node; so what it was given is on record.
Rule 2: a reference makes its step wait for another, and must not change when it may run. Nodes that are certain to be
done whenever this one may run are referred to outright; all others through a hidden step that takes whatever they left.
Rule 3: hidden steps (those, and conditions that are functions) come first in the plan, so that one step at a time runs
the nodes in the graph's own order. They are no nodes: nobody counts, shows or names them.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from planloom.agents.roster import definition_of
from planloom.errors import FieldError, PlanError, plan_error, suggestion
from planloom.plan.model import Need, Plan, Step
from planloom.plan.policy import AgentPolicy, Effects, JoinRule, OnError, RetryPolicy
from planloom.tools.tool import Tool

if TYPE_CHECKING:
    from planloom.api.dag import AgentDAG
    from planloom.api.dag_node import AgentNode, Edge

INPUT = "input"
"""The key which, where it is the only one, stands for its value."""
FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 10.0
MAX_REFERENCES = 1_000_000
"""References a plan may hold: in a long chain whose nodes all see the whole state, they grow with its square."""
MAX_UNCERTAIN = 30
"""Nodes that may leave a value under one key, or may not; expressions nest no deeper than 40."""
NEVER = "false"
"""Condition of an edge that is only there to be waited for: it counts as skipped."""
_LEFT = "dag.left"
_PLAIN = re.compile(r"\w[\w-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """What a graph became.

    Attributes:
        nodes: Those there were then, as they came: the graph may grow while this runs.
        order: The nodes in stable topological order.
        tools: What its hidden steps call.
        conditions: Hidden step → the edge whose condition it works out.
    """

    plan: Plan
    nodes: dict[str, AgentNode]
    order: tuple[str, ...]
    tools: tuple[Tool, ...]
    conditions: dict[str, Edge]


def plan_of(dag: AgentDAG, given: Iterable[str] = ()) -> GraphPlan:
    """Return a graph as a plan.

    Args:
        given: Keys of the state that its run begins with.

    Raises:
        PlanError: The graph is not sound, or a node is to be given a key that nobody before it sets; all of that in
            `.problems`.
    """
    return _Translation(dag.validate(), given).graph_plan()


@dataclass(slots=True)
class _View:
    """What a step sees, and how it may refer to it.

    Attributes:
        seen: Nodes before it, one bit each by their place in the order.
        certain: Those of them that are done, or failed and were tolerated, whenever it runs.
        near: Nodes it waits for by an edge of its own.
        needs: What it waits for.
    """

    who: str
    join: JoinRule
    seen: int
    certain: int
    near: frozenset[str]
    needs: dict[str, str | Need]
    hidden: dict[str, str] = field(default_factory=dict)
    """Key → what the hidden step in front of it takes for it."""
    hidden_id: str = ""

    def wait_for(self, name: str) -> None:
        """Wait for a step without a say in whether this one runs: it counts as one more that is done, or skipped."""
        if self.join in (JoinRule.ALL_SUCCESS, JoinRule.ALL_DONE, JoinRule.ALWAYS):
            self.needs.setdefault(name, name)
        else:
            self.needs.setdefault(name, Need(step=name, when=NEVER))


class _Translation:
    def __init__(self, dag: AgentDAG, given: Iterable[str]) -> None:
        self.dag = dag
        self.given = tuple(dict.fromkeys(given))
        self.order = dag.order()
        self.rank = {name: at for at, name in enumerate(self.order)}
        self.seen: dict[str, int] = {}
        self.certain: dict[str, int] = {}
        self.behind: dict[str, int] = {}
        """Nodes that are certain to be done, or failed and were tolerated, when this one is."""
        self.joins: dict[str, JoinRule] = {}
        self.writers: dict[str, list[str]] = {}
        """Key → nodes that leave a value under it, in order."""
        self.before: list[Step] = []
        self.tools: list[Tool] = []
        self.conditions: dict[str, Edge] = {}
        self.problems: list[PlanError] = []
        self.references = 0
        self.taken = set(dag.nodes)

    def graph_plan(self) -> GraphPlan:
        behind_condition: set[str] = set()
        for name in self.order:
            edges = self.dag.edges_to(name)
            if any(edge.condition is not None or edge.source in behind_condition for edge in edges):
                behind_condition.add(name)
            self._look(self.dag.nodes[name], edges, is_branched=name in behind_condition)
        steps = {name: self._step(self.dag.nodes[name]) for name in self.order}
        if self.problems:
            raise plan_error(self.problems)
        # In the order they came: the engine's own order of them is then the graph's.
        ordered = (*self.before, *(steps[name] for name in self.dag.nodes))
        plan = Plan(name=self.dag.name, fail_fast=False, steps=ordered)
        return GraphPlan(plan, dict(self.dag.nodes), tuple(self.order), tuple(self.tools), self.conditions)

    def _look(self, node: AgentNode, edges: tuple[Edge, ...], *, is_branched: bool) -> None:
        """Work out when a node may run, which nodes are before it, and which of them are certain to be done then."""
        rule = JoinRule.NONE_FAILED_MIN_ONE_SUCCESS if is_branched else JoinRule.ALL_SUCCESS
        join = rule if node.join is None else JoinRule(node.join)
        seen = 0
        behind = [self.behind[edge.source] for edge in edges]
        for edge in edges:
            seen |= self.seen[edge.source] | self._bit(edge.source)
        certain = 0
        if behind and join is JoinRule.ALL_SUCCESS:
            for bits in behind:
                certain |= bits
        elif behind and join is JoinRule.NONE_FAILED_MIN_ONE_SUCCESS:
            certain = behind[0]
            for bits in behind[1:]:
                certain &= bits
        self.seen[node.name], self.certain[node.name], self.joins[node.name] = seen, certain, join
        # An edge may break whatever became of the other ones; where that is no failure, nothing before it is certain.
        may_break = node.on_error != OnError.FAIL and any(edge.condition is not None for edge in edges)
        self.behind[node.name] = self._bit(node.name) | (0 if may_break else certain)
        self.writers.setdefault(node.state_key, []).append(node.name)

    def _bit(self, name: str) -> int:
        return 1 << self.rank[name]

    # --- steps ----------------------------------------------------------------------------------

    def _step(self, node: AgentNode) -> Step:
        name = node.name
        needs: dict[str, str | Need] = {}
        near = set()
        for edge in self.dag.edges_to(name):
            if edge.condition is None:
                needs[edge.source] = edge.source
                near.add(edge.source)
            elif isinstance(edge.condition, str):
                needs[edge.source] = Need(step=edge.source, when=edge.condition)
                near.add(edge.source)
            else:
                hidden = self._condition(edge, edge.condition)
                # Nothing where it raised, and nothing cannot be compared: the edge fails, it is not false.
                needs[hidden] = Need(step=hidden, when=f"{_reference('steps', hidden, 'output')} > 0")
        view = _View(name, self.joins[name], self.seen[name], self.certain[name], frozenset(near), needs)
        wanted = self._wanted(node, view)
        value = self._object(wanted, view)
        given = value[INPUT] if value.keys() == {INPUT} else value
        retry = None
        if node.retry_count:
            retry = RetryPolicy(
                max_attempts=1 + node.retry_count, initial_delay=FIRST_DELAY_S, max_delay=LONGEST_DELAY_S
            )
        return Step(
            id=name,
            agent=_policy(node),
            **_with({INPUT: given}),
            needs=tuple(view.needs.values()),
            join=view.join,
            on_error=OnError(node.on_error),
            retry=retry,
            timeout_seconds=node.timeout_seconds,
            effects=_effects(node),
            description=node.description,
        )

    def _condition(self, edge: Edge, condition: Callable[[dict[str, Any]], Any]) -> str:
        """Put a condition that is a function into a step of its own; return the step's id."""
        source = edge.source
        name = self._hidden_id(f"{source} -> {edge.target}")
        tool = _condition_tool(f"dag.condition_{len(self.conditions) + 1}", condition)
        seen = self.seen[source] | self._bit(source)
        view = _View(name, JoinRule.ALL_SUCCESS, seen, self.behind[source], frozenset({source}), {source: source})
        state = self._object({key: key for key in self._visible(seen)}, view)
        self.tools.append(tool)
        self.conditions[name] = edge
        self.before.append(
            Step(
                id=name,
                tool=tool.name,
                **_with({"state": state}),
                needs=tuple(view.needs.values()),
                join=view.join,
                on_error=OnError.CONTINUE,
                description=f"condition {edge.told}",
            )
        )
        return name

    def _hidden_id(self, wanted: str) -> str:
        shortened = wanted if len(wanted) <= 180 else f"{wanted[:180]}…"
        number = 1
        name = shortened
        while name in self.taken:
            number += 1
            name = f"{shortened} ({number})"
        self.taken.add(name)
        return name

    # --- what a step is given -------------------------------------------------------------------

    def _wanted(self, node: AgentNode, view: _View) -> dict[str, str]:
        """Return parameter → key of the state."""
        if node.input_mapping is None:
            return {key: key for key in self._visible(view.seen)}
        there = None
        for parameter, key in node.input_mapping.items():
            if key in self.given or any(self._bit(name) & view.seen for name in self.writers.get(key, ())):
                continue
            there = list(self._visible(view.seen)) if there is None else there
            self.problems.append(
                FieldError(
                    f"node {node.name!r} is to be given key {key!r} of the state as {parameter!r}, and it is not "
                    f"there: the keys there are {', '.join(map(repr, there)) or 'none'}",
                    remedy=suggestion(key, there, otherwise=f"put {key!r} into the initial state"),
                    step=node.name,
                )
            )
        return {} if there is not None else dict(node.input_mapping)

    def _visible(self, seen: int) -> Iterator[str]:
        """Yield the keys of the state that a step sees: those the run begins with, then by who left them first."""
        told = dict.fromkeys(self.given)
        while seen:
            first = seen & -seen
            told[self.dag.nodes[self.order[first.bit_length() - 1]].state_key] = None
            seen ^= first
        yield from told

    def _object(self, wanted: dict[str, str], view: _View) -> dict[str, str]:
        """Return an object of references, and have the view wait for whatever they refer to."""
        self.references += len(wanted)
        if self.references > MAX_REFERENCES:
            raise FieldError(
                f"the nodes of graph {self.dag.name!r} see more than {MAX_REFERENCES:,} values between them",
                remedy="give the nodes an input_mapping that names what they need",
                step=view.who,
            )
        given = {parameter: self._value(key, view) for parameter, key in wanted.items()}
        if view.hidden:
            self._take_what_is_left(view)
        return {parameter: f"${{{{ {text} }}}}" for parameter, text in given.items()}

    def _value(self, key: str, view: _View) -> str:
        """Return the expression for a value of the state as a step sees it."""
        sources, is_certain = [], False
        for name in reversed(self.writers.get(key, ())):
            bit = self._bit(name)
            if bit & view.seen:
                sources.append(name)
                if bit & view.certain:
                    is_certain = True
                    break
        if len(sources) > MAX_UNCERTAIN:
            raise FieldError(
                f"{len(sources)} nodes may leave {key!r} for {view.who!r}, or may not: that is too many",
                remedy="give them output_keys of their own",
                step=view.who,
            )
        far = [name for name in sources if name not in view.near]
        is_open = all(self._bit(name) & view.certain for name in far)
        terms = [_reference("steps", name, "output") for name in sources]
        if not is_certain:
            terms.append(_reference("inputs", key) if key in self.given else "null")
        elif not is_open:
            terms.append("null")  # the hidden step does not know whether this one will run
        text = terms.pop()
        for term in reversed(terms):
            text = f"default({term}, {text})"
        if is_open:
            for name in far:
                view.wait_for(name)
            return text
        view.hidden_id = view.hidden_id or self._hidden_id(f"before {view.who}")
        view.hidden[key] = text
        return _reference("steps", view.hidden_id, "output", key)

    def _take_what_is_left(self, view: _View) -> None:
        """Put a step before this one that takes what nodes left, whether they are done or not."""
        if not any(tool.name == _LEFT for tool in self.tools):
            self.tools.append(Tool.from_function(_left, name=_LEFT, effects="none"))
        args = {"values": {key: f"${{{{ {text} }}}}" for key, text in view.hidden.items()}}
        self.before.append(
            Step(id=view.hidden_id, tool=_LEFT, **_with(args), join=JoinRule.ALL_DONE, description="what nodes left")
        )
        view.wait_for(view.hidden_id)


def _left(values: dict[str, Any]) -> dict[str, Any]:
    """Return what nodes left in the state."""
    return values


def _condition_tool(name: str, condition: Callable[[dict[str, Any]], Any]) -> Tool:
    """Return a tool that works a condition out: 1 where it holds, else 0."""
    is_async = inspect.iscoroutinefunction(condition) or inspect.iscoroutinefunction(
        getattr(condition, "__call__", None)  # noqa: B004 - whether calling it gives something to await
    )

    async def wait_for_it(state: dict[str, Any]) -> int:
        told: Awaitable[bool] = condition(state)
        return int(bool(await told))

    def ask(state: dict[str, Any]) -> int:
        told = condition(state)
        if inspect.isawaitable(told) or inspect.isgenerator(told) or inspect.isasyncgen(told):
            if inspect.iscoroutine(told):
                told.close()
            # It would count as true, whatever it came to.
            raise TypeError(f"a condition that returns a {type(told).__name__} says nothing: write it with `async def`")
        return int(bool(told))

    described = f"Whether {getattr(condition, '__name__', 'the condition')} holds."
    return Tool.from_function(wait_for_it if is_async else ask, name=name, description=described, effects="none")


def _policy(node: AgentNode) -> AgentPolicy:
    """Return what a node's step says of its agent: nothing that its definition does not say itself."""
    definition = definition_of(node.agent)
    if definition is None:
        return AgentPolicy(name=node.name)
    return AgentPolicy(name=node.name, max_iterations=definition.max_iterations)


def _effects(node: AgentNode) -> Effects | None:
    """Return what doing a node again would do, None where its agent says it.

    Raises:
        FieldError: It is to be tried again, and its agent says that it may run only once.
    """
    if node.effects is not None:
        return Effects(node.effects)
    said = getattr(node.agent, "effects", None)
    if node.retry_count and said == Effects.ONCE:
        raise FieldError(
            f"node {node.name!r} has retry_count={node.retry_count}, and its agent may run only once",
            remedy='leave retry_count out, or give the node effects="idempotent" if it may run again',
            step=node.name,
        )
    says_itself = definition_of(node.agent) is not None or said is not None
    return Effects.IDEMPOTENT if node.retry_count and not says_itself else None


def _with(args: dict[str, Any]) -> dict[str, Any]:
    return {"with": args}


def _reference(root: str, *path: str) -> str:
    return root + "".join(f".{part}" if _PLAIN.fullmatch(part) else f"[{json.dumps(part)}]" for part in path)
