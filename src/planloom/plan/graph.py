"""What follows from what: a plan's steps compiled once, with edges, order, levels and parsed references.

Rule 1: an edge is a need, written (`needs`) or implied by a reference to a step.
Rule 2: everything the heart asks at run time is worked out here, once per plan, by position instead of by name.
Rule 3: no recursion along the graph: a chain of 100,000 steps is a plan like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any

from planloom.errors import CycleError, ExpressionError, PlanError, UnknownStepError, plan_error, suggestion
from planloom.plan.expression import Expression, parse_expression
from planloom.plan.model import Need, Plan, Step, unique_ids
from planloom.plan.policy import JoinRule
from planloom.plan.refs import Template, compile_template
from planloom.plan.terms import Ref


@dataclass(slots=True)
class GraphStep:
    """One step with everything about it worked out.

    Attributes:
        place: Its position in the plan.
        upstream, downstream: Positions of the steps it waits for, and of those that wait for it.
        conditions: By upstream position, the condition of that edge.
        args: What the step is given: the executor's arguments, references parsed.
        sub: The compiled sub-plan of a `plan` step.
        is_leaf: True for what an executor does; False for sub-plans, waits and approvals.
        is_plain: True for a call of a tool that is no `for_each`, not judged, and bound by no named limit: nearly every
            step.
    """

    step: Step
    place: int
    upstream: tuple[int, ...]
    downstream: tuple[int, ...]
    conditions: Mapping[int, Expression]
    join: JoinRule
    args: Template
    when: Expression | None
    for_each: Template | None
    key: Template | None
    sub: PlanGraph | None
    is_leaf: bool
    is_plain: bool


@dataclass(slots=True)
class PlanGraph:
    """A compiled plan.

    Attributes:
        index: Step id → position.
        order: Positions in topological order; among steps that could go next, plan order.
        outputs: What the run returns, or None for the default.
    """

    plan: Plan
    steps: tuple[GraphStep, ...]
    index: Mapping[str, int]
    order: tuple[int, ...]
    outputs: Template | None
    _turns: list[int] | None = None

    def levels(self) -> list[list[str]]:
        """Return step ids by the length of the longest path that leads to them; for display only."""
        depth = [0] * len(self.steps)
        for place in self.order:
            for below in self.steps[place].downstream:
                depth[below] = max(depth[below], depth[place] + 1)
        rows: list[list[str]] = [[] for _ in range(max(depth, default=-1) + 1)]
        for place, row in enumerate(depth):
            rows[row].append(self.steps[place].step.id)
        return rows

    def remaining(self, weights: Sequence[float] | None = None) -> list[float]:
        """Return for each step the weight of the longest path from it to an end, its own included."""
        own = weights if weights is not None else [1.0] * len(self.steps)
        longest = [0.0] * len(self.steps)
        for place in reversed(self.order):
            below = max((longest[child] for child in self.steps[place].downstream), default=0.0)
            longest[place] = own[place] + below
        return longest

    def urgency(self, weights: Sequence[float] | None = None) -> list[int]:
        """Return each step's turn among ready steps: priority, then longest remaining path, then plan order."""
        if weights is None and self._turns is not None:
            return self._turns
        longest = self.remaining(weights)
        places = sorted(range(len(self.steps)), key=lambda at: (-self.steps[at].step.priority, -longest[at], at))
        turns = [0] * len(places)
        for turn, place in enumerate(places):
            turns[place] = turn
        if weights is None:
            self._turns = turns
        return turns

    def ancestors(self, place: int) -> set[int]:
        """Return the positions of every step this one waits for, directly or not."""
        found: set[int] = set()
        stack = list(self.steps[place].upstream)
        while stack:
            above = stack.pop()
            if above not in found:
                found.add(above)
                stack.extend(self.steps[above].upstream)
        return found


def compile_plan(plan: Plan) -> PlanGraph:
    """Return the compiled plan; the work is done once per Plan object.

    Raises:
        PlanError: Doubled ids, unknown steps, unreadable expressions, cycles; all of them in `.problems`.
    """
    kept: PlanGraph | None = plan.__dict__.get("_graph")
    if kept is None:
        kept = plan.__dict__["_graph"] = _Compiler(plan).graph()
    return kept


def critical_path(graph: PlanGraph, seconds: Mapping[str, float]) -> float:
    """Return the longest chain of dependent steps, in the unit of `seconds`; steps without an entry count 0."""
    return max(graph.remaining([seconds.get(entry.step.id, 0.0) for entry in graph.steps]), default=0.0)


class _Compiler:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.problems: list[PlanError] = [*unique_ids(plan.steps)]
        self.index = {step.id: place for place, step in enumerate(plan.steps)}

    def graph(self) -> PlanGraph:
        parsed = [self.parse(place, step) for place, step in enumerate(self.plan.steps)]
        outputs = self.template(self.plan.outputs, ("outputs",), None) if self.plan.outputs is not None else None
        if outputs is not None:
            self.step_refs(outputs.refs, ("outputs",), None)
        upstream = [entry.upstream for entry in parsed]
        downstream: list[list[int]] = [[] for _ in parsed]
        for place, above in enumerate(upstream):
            for parent in above:
                downstream[parent].append(place)
        order = topological_order(upstream, downstream)
        if len(order) < len(parsed):
            cycle = find_cycle(upstream, set(range(len(parsed))) - set(order))
            names = tuple(self.plan.steps[place].id for place in cycle)
            self.problems.append(CycleError(names, path=("steps", cycle[-1])))
        if self.problems:
            raise plan_error(self.problems)
        for entry in parsed:
            entry.downstream = tuple(downstream[entry.place])
        return PlanGraph(self.plan, tuple(parsed), self.index, tuple(order), outputs)

    def parse(self, place: int, step: Step) -> GraphStep:
        path = ("steps", place)
        edges: dict[int, Expression | None] = {}
        for at, need in enumerate(step.needs):
            name = need.step if isinstance(need, Need) else need
            condition = None
            if isinstance(need, Need):
                condition = self.expression(need.when, (*path, "needs", at, "when"), step)
                if condition is not None:
                    self.step_refs(condition.refs, (*path, "needs", at, "when"), step)
            if name not in self.index:
                self.unknown(name, (*path, "needs", at), step)
            elif edges.get(self.index[name]) is None:
                edges[self.index[name]] = condition
        args = self.template(_given(step), (*path, _given_field(step)), step)
        when = None if step.when is None else self.expression(_condition(step.when), (*path, "when"), step)
        for_each = None if step.for_each is None else self.items(step, (*path, "for_each"))
        key = None
        if step.idempotency_key is not None:
            key = self.template(step.idempotency_key, (*path, "idempotency_key"), step)
        for compiled, field in ((args, _given_field(step)), (when, "when"), (for_each, "for_each"), (key, "key")):
            if compiled is not None:
                for parent in self.step_refs(compiled.refs, (*path, field), step):
                    edges.setdefault(parent, None)
        conditions = {parent: condition for parent, condition in edges.items() if condition is not None}
        join = step.join or (JoinRule.NONE_FAILED_MIN_ONE_SUCCESS if conditions else JoinRule.ALL_SUCCESS)
        sub = self.sub_plan(step, (*path, "plan"))
        is_leaf = step.plan is None and step.wait is None and step.approve is None
        upstream = tuple(sorted(edges))
        unbound = step.concurrency is None and step.mode == "parallel" and step.max_parallel is None
        is_plain = step.kind == "tool" and step.verify is None and for_each is None and unbound
        return GraphStep(step, place, upstream, (), conditions, join, args, when, for_each, key, sub, is_leaf, is_plain)

    def sub_plan(self, step: Step, path: tuple[str | int, ...]) -> PlanGraph | None:
        if isinstance(step.plan, Plan):
            try:
                return compile_plan(step.plan)
            except PlanError as error:
                for problem in error.problems:
                    problem.path = (*path, *problem.path)
                    self.problems.append(problem)
        return None

    def items(self, step: Step, path: tuple[str | int, ...]) -> Template:
        if isinstance(step.for_each, str) and "${{" not in step.for_each:
            expression = self.expression(step.for_each, path, step)
            return Template(expression.node, expression.refs) if expression else compile_template([])
        return self.template(step.for_each, path, step)

    def template(self, value: Any, path: tuple[str | int, ...], step: Step | None) -> Template:
        try:
            return compile_template(value)
        except ExpressionError as error:
            self.place(error, (*path, *error.path), step)
            return compile_template(None)

    def expression(self, text: str, path: tuple[str | int, ...], step: Step | None) -> Expression | None:
        try:
            return parse_expression(text)
        except ExpressionError as error:
            self.place(error, path, step)
            return None

    def place(self, error: PlanError, path: tuple[str | int, ...], step: Step | None) -> None:
        error.path = path
        error.step = step.id if step else None
        self.problems.append(error)

    def step_refs(self, refs: Sequence[Ref], path: tuple[str | int, ...], step: Step | None) -> Iterator[int]:
        """Return the positions of the steps referred to; note each that does not exist."""
        found: list[int] = []
        for ref in refs:
            if ref.root == "steps":
                name = str(ref.path[0])
                if name in self.index:
                    found.append(self.index[name])
                else:
                    self.unknown(name, path, step, reference=str(ref))
        return iter(found)

    def unknown(
        self, name: str, path: tuple[str | int, ...], step: Step | None, *, reference: str | None = None
    ) -> None:
        who = f"step {step.id!r}" if step else "the plan's outputs"
        what = f"refers to {reference}" if reference else f"needs {name!r}"
        self.problems.append(
            UnknownStepError(
                f"{who} {what}, but there is no step {name!r}",
                remedy=suggestion(name, self.index, otherwise="add that step"),
                step=step.id if step else None,
                path=path,
            )
        )


def _condition(when: str | bool) -> str:
    return when if isinstance(when, str) else str(when).lower()


def _given(step: Step) -> Any:
    """Return what the step's executor is given, by kind, references still in it."""
    if step.model is not None or step.agent is not None:
        return {**step.args, "prompt": step.prompt or "", **({"system": step.system} if step.system else {})}
    if step.approve is not None:
        return {"message": step.approve.message}
    if step.wait is not None:
        return {"seconds": step.wait.seconds, "until": step.wait.until}
    if step.task is not None:
        return {**step.args, "task": step.task}
    return step.args


def _given_field(step: Step) -> str:
    fields = {"model": "prompt", "agent": "prompt", "approve": "approve", "wait": "wait", "task": "task"}
    return fields.get(step.kind, "with")


def topological_order(upstream: Sequence[Sequence[int]], downstream: Sequence[Sequence[int]]) -> list[int]:
    """Return positions so that each stands after those it waits for; the lowest position first among equals.

    Positions on a cycle, and those behind one, are left out.
    """
    unmet = [len(above) for above in upstream]
    ready = [place for place, count in enumerate(unmet) if count == 0]
    heapify(ready)
    order: list[int] = []
    while ready:
        place = heappop(ready)
        order.append(place)
        for below in downstream[place]:
            unmet[below] -= 1
            if unmet[below] == 0:
                heappush(ready, below)
    return order


def find_cycle(upstream: Sequence[Sequence[int]], among: set[int]) -> list[int]:
    """Return a cycle as positions in the order they would run, the first one again at the end."""
    place = min(among)
    seen: dict[int, int] = {}
    walk: list[int] = []
    while place not in seen:
        seen[place] = len(walk)
        walk.append(place)
        place = next(above for above in upstream[place] if above in among)
    circle = walk[seen[place] :]
    circle.reverse()
    first = circle.index(min(circle))
    circle = circle[first:] + circle[:first]
    return [*circle, circle[0]]
