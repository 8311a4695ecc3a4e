"""What a plan means, said once more, naively: one step after the other, each when all before it have ended.

Rule 1: no scheduler, no events, no clock, no budget: nothing of the heart is used, so that the two can be compared.
Rule 2: only what does not depend on who is faster has a meaning here; what does, raises `TimingError`, or is UNKNOWN.
Rule 3: slow and plain is better than fast and clever: whoever doubts the engine reads this file.

Left out, because it has to do with time, place or money: limits, time-outs, how long a wait step waits, priorities,
names and modes, speculation, caches, replanning, labels, cancelling, pauses and lost attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from planloom.core.result import RunStatus, SkipReason, StepStatus
from planloom.errors import EvaluationError, MissingValueError, PlanError
from planloom.plan.expression import Expression
from planloom.plan.graph import GraphStep, PlanGraph, compile_plan
from planloom.plan.inputs import check_inputs
from planloom.plan.model import Plan, Step
from planloom.plan.policy import NO_RETRY, Effects, FailureKind, JoinRule, OnError
from planloom.plan.refs import Template
from planloom.plan.terms import truthy

UNKNOWN: Any = object()
"""Of what depends on who is faster."""
_HOPELESS = frozenset({FailureKind.INPUT, FailureKind.NOT_ALLOWED, FailureKind.REFUSED, FailureKind.CANCELLED})
_CANNOT = (MissingValueError, EvaluationError)
S = StepStatus


class TimingError(Exception):
    """What a plan comes to depends on which of its steps is faster."""


@dataclass(frozen=True, slots=True)
class AttemptAnswer:
    """What one attempt comes to, or what a person says: an output, or a failure of this kind."""

    output: Any = None
    failure: FailureKind | None = None
    error: Any = ""
    error_types: tuple[str, ...] = ("Exception",)


BAD_INPUT = AttemptAnswer(failure=FailureKind.INPUT, error=UNKNOWN)
Answers = Callable[[str, int, dict[str, Any]], AttemptAnswer]
"""Says what an attempt comes to: by the step's key, the attempt's number from 1, and its arguments."""


@dataclass(slots=True)
class StepEnd:
    """How a step must end."""

    status: StepStatus
    output: Any = None
    reason: SkipReason | None = None
    error: Any = None
    """Text, or UNKNOWN where the engine has words of its own for it."""
    kind: FailureKind | None = None
    errors: Any = ()
    attempts: int = 0

    @property
    def failed(self) -> bool:
        return self.status in (S.FAILED, S.TIMED_OUT)


@dataclass(slots=True)
class RunEnd:
    """How a run must end, with each of its steps and items by key; those that depend on timing are not there."""

    status: RunStatus
    output: Any
    steps: dict[str, StepEnd]
    failed_step: str | None = None


def expected(
    plan: Plan,
    inputs: Mapping[str, Any] | None = None,
    *,
    answers: Answers,
    effects: Mapping[str, Effects] | None = None,
    run_id: str = "run",
) -> RunEnd:
    """Return what a run of this plan must come to.

    Args:
        answers: What attempts and approvals come to.
        effects: Of tools, by name; a tool that is not there is one that may be called only once.

    Raises:
        TimingError: That depends on which of its steps is faster.
    """
    return _Meaning(answers, effects or {}, run_id).of_run(plan, check_inputs(plan, inputs))


@dataclass(slots=True)
class _Scope:
    """One plan as it is run: what references in it see. `item` and `index` are those of an item, or None."""

    graph: PlanGraph
    inputs: dict[str, Any]
    prefix: str
    run_id: str
    ends: dict[int, StepEnd] = field(default_factory=dict)
    item: tuple[int, Any] | None = None

    def root(self, name: str) -> Any:
        if name == "inputs":
            return self.inputs
        if name == "run":
            return {"id": self.run_id, "plan": self.graph.plan.name}
        if self.item is None:
            raise MissingValueError(f"{name!r} exists only inside an item", remedy="refer to a step")
        return self.item[name == "item"]

    def step(self, step_id: str, field: str) -> Any:
        place = self.graph.index[step_id]
        if place not in self.ends:
            raise TimingError(f"step {step_id!r} is looked at, and nobody waits for it")
        end, tolerated = self.ends[place], self.graph.steps[place].step.on_error is OnError.CONTINUE
        known = {"status": end.status.value, "error": end.error, "errors": end.errors or [], "attempts": end.attempts}
        if field == "output" and end.status is not S.COMPLETED and not (end.failed and tolerated):
            raise MissingValueError(f"step {step_id!r} has no output", remedy="give a fallback")
        value = end.output if field == "output" else known[field]
        if value is UNKNOWN:
            raise TimingError(f"{field} of step {step_id!r}")
        return value


class _Meaning:
    def __init__(self, answers: Answers, effects: Mapping[str, Effects], run_id: str) -> None:
        self.answers = answers
        self.effects = effects
        self.run_id = run_id
        self.steps: dict[str, StepEnd] = {}
        self.imperfect = False

    # --- a whole plan ---

    def of_run(self, plan: Plan, inputs: dict[str, Any]) -> RunEnd:
        scope, broke = self.of_plan(compile_plan(plan), inputs, "")
        if broke is not None and plan.fail_fast:
            return RunEnd(RunStatus.FAILED, UNKNOWN, {}, UNKNOWN)  # which step fails first, and what is left, is timing
        if broke is not None:
            return RunEnd(RunStatus.FAILED, _output(scope, lenient=True), self.steps, broke)
        if self.imperfect:
            return RunEnd(RunStatus.PARTIAL, _output(scope, lenient=True), self.steps)
        try:
            return RunEnd(RunStatus.SUCCESS, _output(scope, lenient=False), self.steps)
        except _CANNOT:
            return RunEnd(RunStatus.FAILED, None, self.steps)

    def of_plan(self, graph: PlanGraph, inputs: dict[str, Any], prefix: str) -> tuple[_Scope, str | None]:
        """Return a plan with all its steps at their end, and the first step that fails it."""
        scope = _Scope(graph, inputs, prefix, self.run_id)
        for place in graph.order:
            entry = graph.steps[place]
            end = self.of_step(scope, entry)
            scope.ends[place] = self.steps[prefix + entry.step.id] = end
            tolerated = end.failed and entry.step.on_error is OnError.CONTINUE
            self.imperfect |= end.status is S.SKIPPED or tolerated or bool(end.errors)
        for entry in graph.steps:
            if scope.ends[entry.place].failed and entry.step.on_error is not OnError.CONTINUE:
                return scope, prefix + entry.step.id
        return scope, None

    # --- whether a step starts ---

    def of_step(self, scope: _Scope, entry: GraphStep) -> StepEnd:
        _check_timing(scope.graph, entry)
        broken, counted = False, []
        for above in entry.upstream:
            try:
                counted.append(_counts(scope, above, entry.conditions.get(above)))
            except _CANNOT:
                broken = True
        if broken:
            if entry.join is JoinRule.ONE_SUCCESS:
                raise TimingError(f"step {entry.step.id!r} waits for one success, and a condition cannot be worked out")
            return _as_told(entry.step, _failure(BAD_INPUT))
        reason = _left_out(entry.join, counted)
        if reason is not None:
            return StepEnd(S.SKIPPED, reason=reason)
        try:
            if entry.when is not None and not truthy(entry.when.evaluate(scope)):
                return StepEnd(S.SKIPPED, reason=SkipReason.CONDITION_FALSE)
        except _CANNOT:
            return _as_told(entry.step, _failure(BAD_INPUT))
        return _as_told(
            entry.step, self.of_map(scope, entry) if entry.for_each else self.done(scope, entry, entry.step.id)
        )

    # --- what a step comes to ---

    def of_map(self, scope: _Scope, entry: GraphStep) -> StepEnd:
        assert entry.for_each is not None
        try:
            items = entry.for_each.resolve(scope)
        except _CANNOT:
            items = None
        if not isinstance(items, list):
            return _failure(BAD_INPUT)
        if entry.step.max_failure_rate is not None:
            raise TimingError(f"step {entry.step.id!r} gives up when too many of its items failed so far")
        before, ends = dict(self.steps), []
        for index, item in enumerate(items):
            view = _Scope(scope.graph, scope.inputs, scope.prefix, scope.run_id, scope.ends, (index, item))
            ends.append(self.done(view, entry, f"{entry.step.id}[{index}]"))
        bad = [index for index, end in enumerate(ends) if end.failed]
        if bad and entry.step.on_item_error == "fail_fast":
            self.steps = before  # the other items may be done, stopped, or never begin
            return StepEnd(S.FAILED, error=UNKNOWN)
        self.steps.update({f"{scope.prefix}{entry.step.id}[{index}]": end for index, end in enumerate(ends)})
        if bad and len(bad) == len(ends):
            return StepEnd(S.FAILED, error=UNKNOWN)
        errors: Any = [{"index": at, "error": ends[at].error, "kind": str(ends[at].kind)} for at in bad]
        if any(error["error"] is UNKNOWN for error in errors):
            errors = UNKNOWN
        return StepEnd(S.COMPLETED, [None if end.failed else end.output for end in ends], errors=errors)

    def done(self, scope: _Scope, entry: GraphStep, name: str) -> StepEnd:
        """Return what doing a step, or one item of it, comes to."""
        key, step = scope.prefix + name, entry.step
        try:
            args = entry.args.resolve(scope)
            if entry.key is not None:
                entry.key.resolve(scope)
            if entry.sub is not None:
                return self.of_sub_plan(entry.sub, check_inputs(entry.sub.plan, args), key)
        except (*_CANNOT, PlanError):
            return _failure(BAD_INPUT)
        if step.wait is not None:
            return StepEnd(S.COMPLETED)
        if step.approve is not None:
            said = self.answers(key, 1, args)
            return StepEnd(S.COMPLETED, said.output) if said.failure is None else _failure(said)
        return self.attempted(step, key, args)

    def attempted(self, step: Step, key: str, args: dict[str, Any]) -> StepEnd:
        """Try until it succeeds, or until trying again is no use, or not allowed."""
        policy, attempt = step.retry or NO_RETRY, 0
        while True:
            attempt += 1
            said = self.answers(key, attempt, args)
            if said.failure is None:
                return StepEnd(S.COMPLETED, said.output, attempts=attempt)
            again = said.failure is FailureKind.NOT_DONE or (
                self._effects(step) is not Effects.ONCE
                and not set(policy.retryable_exceptions).isdisjoint(said.error_types)
            )
            if attempt >= policy.max_attempts or said.failure in _HOPELESS or not again:
                return _failure(said, attempt)

    def of_sub_plan(self, graph: PlanGraph, inputs: dict[str, Any], key: str) -> StepEnd:
        before = dict(self.steps)
        inner, broke = self.of_plan(graph, inputs, f"{key}/")
        if broke is not None:
            if graph.plan.fail_fast:
                self.steps = before  # which of its steps were done by then is timing
            return StepEnd(S.FAILED, error=UNKNOWN)
        try:
            return StepEnd(S.COMPLETED, _output(inner, lenient=False))
        except _CANNOT:
            return _failure(BAD_INPUT)

    def _effects(self, step: Step) -> Effects:
        if step.effects is not None:
            return step.effects
        if step.code is not None:
            return Effects.NONE
        names = (step.tool,) if step.tool is not None else step.tools or ()
        found = {self.effects.get(name, Effects.ONCE) for name in names}
        if step.model is None and step.tool is None:
            return Effects.ONCE
        return next((one for one in (Effects.ONCE, Effects.IDEMPOTENT) if one in found), Effects.NONE)


def _counts(scope: _Scope, above: int, condition: Expression | None) -> str:
    """Return how a step that has ended counts for one behind it: "ok", "failed" or "skipped"."""
    end, step = scope.ends[above], scope.graph.steps[above].step
    if end.status is S.SKIPPED:
        return "failed" if end.reason is SkipReason.UPSTREAM_FAILED else "skipped"
    if end.failed and step.on_error is not OnError.CONTINUE:
        return "failed"
    return "ok" if condition is None or truthy(condition.evaluate(scope)) else "skipped"


def _left_out(rule: JoinRule, counted: list[str]) -> SkipReason | None:
    """Return why a step does not start after steps that count so, None if it does."""
    ok, failed = "ok" in counted or not counted, "failed" in counted
    starts = {
        JoinRule.ALL_SUCCESS: set(counted) <= {"ok"},
        JoinRule.NONE_FAILED: not failed,
        JoinRule.ONE_SUCCESS: ok,
        JoinRule.NONE_FAILED_MIN_ONE_SUCCESS: ok and not failed,
        JoinRule.ALL_DONE: True,
        JoinRule.ALWAYS: True,
    }[rule]
    if starts:
        return None
    return SkipReason.UPSTREAM_FAILED if failed else SkipReason.UPSTREAM_SKIPPED


def _as_told(step: Step, end: StepEnd) -> StepEnd:
    """Return the end of a step as its `on_error` has it; that of an item is that of its `for_each` step."""
    if end.failed and step.on_error is OnError.SKIP:
        return StepEnd(S.SKIPPED, reason=SkipReason.ON_ERROR_SKIP, error=UNKNOWN, attempts=end.attempts)
    return end


def _failure(said: AttemptAnswer, attempts: int = 0) -> StepEnd:
    status = S.TIMED_OUT if said.failure is FailureKind.TIMEOUT else S.FAILED
    return StepEnd(status, error=said.error, kind=said.failure, attempts=attempts)


def _check_timing(graph: PlanGraph, entry: GraphStep) -> None:
    """Refuse a step that looks at steps which may or may not have ended by then."""
    given = [entry.args, entry.when, entry.for_each, entry.key]
    looks = any(ref.root == "steps" for one in given if one is not None for ref in one.refs)
    if entry.join is JoinRule.ONE_SUCCESS and len(entry.upstream) > 1 and looks:
        raise TimingError(f"step {entry.step.id!r} starts at its first success")
    for above, condition in entry.conditions.items():
        seen = {graph.index[str(ref.path[0])] for ref in condition.refs if ref.root == "steps"}
        if not seen <= {above, *graph.ancestors(above)}:
            raise TimingError(f"a condition before step {entry.step.id!r} looks at a step that is not before it")


def _output(scope: _Scope, *, lenient: bool) -> Any:
    """Return what a plan returns; with `lenient`, null for a part that leads nowhere."""
    template = scope.graph.outputs
    if template is None:
        last = [entry for entry in scope.graph.steps if not entry.downstream]
        ends = {entry.step.id: scope.ends[entry.place] for entry in last}
        if len(ends) == 1:
            return next(iter(ends.values())).output
        return {name: end.output for name, end in ends.items() if end.status is S.COMPLETED} or None

    def one(part: Template) -> Any:
        try:
            return part.resolve(scope)
        except _CANNOT:
            if lenient:
                return None
            raise

    parts = template.parts() if lenient else None
    return one(template) if parts is None else {name: one(part) for name, part in parts.items()}
