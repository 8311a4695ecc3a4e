"""Is a plan sound by itself: every problem in it, found before anything runs.

Rule 1: problems are collected, never raised one by one; only a sound plan gets past `load_plan` or an engine.
Rule 2: each problem's path leads to the very text it is about, so that a line can be given for it.
Rule 3: whether the tools exist and may be used is asked in `against.py`, what a run is given in `inputs.py`; callers
find all of it here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from planloom.errors import (
    ArgumentsError,
    CycleError,
    ExpressionError,
    FieldError,
    InputsError,
    NotInstalledError,
    PlanError,
    UnknownStepError,
    suggestion,
)
from planloom.plan.against import Catalogue, check_against, notices
from planloom.plan.document import MAX_PROBLEMS, Path
from planloom.plan.expression import parse_expression
from planloom.plan.graph import find_cycle, topological_order
from planloom.plan.inputs import check_inputs, input_problems
from planloom.plan.model import Need, Plan, Step, unique_ids
from planloom.plan.refs import compile_template
from planloom.plan.rules import plan_problems, step_problems
from planloom.plan.schemas import one_plan
from planloom.plan.terms import Ref

__all__ = ["MAX_NESTING", "Catalogue", "check_against", "check_inputs", "check_plan", "notices"]

MAX_NESTING = 8
"""Levels of sub-plans inside each other."""

_ITEM_ROOTS = ("item", "index")
_OF_REFERENCES = (ExpressionError, UnknownStepError, CycleError, InputsError)
"""What is wrong with what a text refers to, and not with the field that it stands in."""
_MAX_SUGGESTED = 20
_MAX_COMPARED = 5_000
"""Ids compared for a suggestion; for a hostile plan, comparing every name with every other would take hours."""


def check_plan(plan: Plan) -> list[PlanError]:
    """Return every problem of a plan and its sub-plans; none if it is sound."""
    with one_plan():
        return _nested(plan, depth=0)


def together(own: list[PlanError], further: list[PlanError]) -> list[PlanError]:
    """Return a plan's own problems and those with what is here, without what only follows from the former.

    Of a step whose fields are wrong it is not said that its tool lacks parameters. References that lead nowhere, or
    that cannot be read, are no such fields: all else that the step is given is as it is.
    """
    unsure = {
        problem.path[:2]
        for problem in own
        if problem.path[:1] == ("steps",) and not isinstance(problem, _OF_REFERENCES)
    }
    return own + [
        problem
        for problem in further
        if not (isinstance(problem, ArgumentsError | NotInstalledError) and problem.path[:2] in unsure)
    ]


def _nested(plan: Plan, *, depth: int) -> list[PlanError]:
    found = structure_problems(plan)
    for place, step in enumerate(plan.steps):
        path: Path = ("steps", place, "plan")
        if isinstance(step.plan, str):
            remedy = "load the plan with load_plan, which reads its sub-plans, or give a Plan"
            found.append(FieldError(f"sub-plan {step.plan!r} is not loaded", remedy=remedy, step=step.id, path=path))
        elif step.plan is not None and depth == MAX_NESTING:
            found.append(too_nested(step.id, path))
        elif step.plan is not None:
            found += [within(problem, step.id, path) for problem in _nested(step.plan, depth=depth + 1)]
    return found


def within(problem: PlanError, step_id: str, path: Path) -> PlanError:
    """Return a sub-plan's problem as one of the plan around it."""
    problem.path = (*path, *problem.path)
    problem.step = step_id if problem.step is None else f"{step_id}/{problem.step}"
    return problem


def too_nested(step_id: str, path: Path) -> FieldError:
    message = f"sub-plans are nested over {MAX_NESTING} deep"
    return FieldError(message, remedy="put some of their steps into one plan", step=step_id, path=path)


def structure_problems(plan: Plan, dropped: Mapping[int, frozenset[str]] | None = None) -> list[PlanError]:
    """Return the problems of a plan, those inside its sub-plans aside.

    Args:
        dropped: Place of a step → fields that were there but could not be read.
    """
    lost = dropped or {}
    found: list[PlanError] = [*plan_problems(plan)]
    if not found:
        for name, schema in plan.inputs.items():
            if "default" in schema:
                found += input_problems(name, schema["default"], schema, max_checks=None)
    found += unique_ids(plan.steps)[: MAX_PROBLEMS + 1]
    for place, step in enumerate(plan.steps):
        if len(found) > MAX_PROBLEMS:
            return found
        found += step_problems(step, ("steps", place), dropped=lost.get(place, frozenset()))
        found += _sub_plan_inputs(step, place)
        if step.concurrency is not None and step.concurrency not in plan.concurrency and "${{" not in step.concurrency:
            remedy = suggestion(
                step.concurrency, plan.concurrency, otherwise=f"add `concurrency: {{{step.concurrency}: 1}}`"
            )
            message = f"the plan has no limit {step.concurrency!r} in 'concurrency'"
            found.append(FieldError(message, remedy=remedy, step=step.id, path=("steps", place, "concurrency")))
    return found + _reference_problems(plan)


def _sub_plan_inputs(step: Step, place: int) -> Iterator[PlanError]:
    """Hold what a sub-plan is given against what it asks for; values are checked when they are known."""
    if not isinstance(step.plan, Plan) or not step.plan.inputs:
        return
    path: Path = ("steps", place, "with")
    for name in step.args.keys() - step.plan.inputs.keys():
        remedy = suggestion(name, step.plan.inputs)
        message = f"the sub-plan of step {step.id!r} has no input {name!r}"
        yield ArgumentsError(message, remedy=remedy, step=step.id, path=(*path, name))
    for name, schema in step.plan.inputs.items():
        if name not in step.args and "default" not in schema:
            message = f"the sub-plan of step {step.id!r} needs input {name!r}"
            yield ArgumentsError(message, remedy=f"add it below `with:` as `{name}: …`", step=step.id, path=path)


# --- references -------------------------------------------------------------------------------


def _reference_problems(plan: Plan) -> list[PlanError]:
    """Return unreadable expressions, references to what is not there, and the first circle of steps."""
    references = _References(plan)
    for place, step in enumerate(plan.steps):
        if len(references.problems) > MAX_PROBLEMS:
            return references.problems
        references.read_step(step, place)
    for path, text in _walk(plan.outputs, ("outputs",)):
        references.read_text(text, path, None, is_expression=False, item=False)
    upstream = [sorted(above) for above in references.upstream]
    downstream: list[list[int]] = [[] for _ in upstream]
    for place, above in enumerate(upstream):
        for parent in above:
            downstream[parent].append(place)
    order = topological_order(upstream, downstream)
    if len(order) < len(upstream):
        references.problems.append(_cycle(plan, find_cycle(upstream, set(range(len(upstream))) - set(order))))
    return references.problems


def _cycle(plan: Plan, places: list[int]) -> CycleError:
    """Return the error of a circle; its path leads to the very need that closes it, where there is one."""
    names = tuple(plan.steps[place].id for place in places)
    path: Path = ("steps", places[-1])
    for at, need in enumerate(plan.steps[places[-1]].needs):
        if _needed_id(need) == names[-2]:
            path = (*path, "needs", at)
            break
    return CycleError(names, path=path)


def _needed_id(need: str | Need) -> str:
    return need.step if isinstance(need, Need) else need


class _References:
    """Every reference of a plan: which steps it leads to, and what is wrong with it, at the text it stands in."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.index = {step.id: place for place, step in enumerate(plan.steps)}
        self.upstream: list[set[int]] = [set() for _ in plan.steps]
        self.problems: list[PlanError] = []
        self.suggested = 0

    def read_step(self, step: Step, place: int) -> None:
        path: Path = ("steps", place)
        for at, need in enumerate(step.needs):
            name = _needed_id(need)
            if name in self.index:
                self.upstream[place].add(self.index[name])
            elif len(self.problems) <= MAX_PROBLEMS:
                self.unknown(name, f"step {step.id!r} needs {name!r}", step, (*path, "needs", at))
        for where, text, is_expression, item in _texts_of(step, path):
            self.read_text(text, where, step, is_expression=is_expression, item=item)

    def read_text(self, text: str, path: Path, step: Step | None, *, is_expression: bool, item: bool) -> None:
        try:
            refs = parse_expression(text).refs if is_expression else compile_template(text).refs
        except ExpressionError as error:
            error.path, error.step = path, step.id if step else None
            self.problems.append(error)
            return
        for ref in dict.fromkeys(refs):
            name = str(ref.path[0]) if ref.root == "steps" else ""
            if ref.root == "steps" and name not in self.index:
                who = f"step {step.id!r}" if step else "'outputs'"
                self.unknown(name, f"{who} refers to {ref}, but there is no step {name!r}", step, path)
            elif ref.root == "steps" and step is not None:
                self.upstream[int(path[1])].add(self.index[name])
            elif problem := _ref_problem(ref, self.plan, item=item):
                problem.path, problem.step = path, step.id if step else None
                self.problems.append(problem)

    def unknown(self, name: str, message: str, step: Step | None, path: Path) -> None:
        remedy = "name a step of this plan, or add that step"
        if self.suggested < _MAX_SUGGESTED and len(self.index) <= _MAX_COMPARED:
            others = self.index.keys() - {step.id if step else None}
            remedy = suggestion(name, others, otherwise="add that step")
            self.suggested += 1
        self.problems.append(UnknownStepError(message, remedy=remedy, step=step.id if step else None, path=path))


def _texts_of(step: Step, path: Path) -> Iterator[tuple[Path, str, bool, bool]]:
    """Yield the path of each text that may refer to something, the text, whether all of it is an expression, and
    whether it is worked out once per item."""
    item = step.for_each is not None
    for at, need in enumerate(step.needs):
        if isinstance(need, Need):
            yield (*path, "needs", at, "when"), need.when, True, False
    if isinstance(step.when, str):
        yield (*path, "when"), step.when, True, False
    if isinstance(step.for_each, str):
        yield (*path, "for_each"), step.for_each, "${{" not in step.for_each, False
    elif step.for_each is not None:
        yield from ((*one, False, False) for one in _walk(step.for_each, (*path, "for_each")))
    values: dict[tuple[str, ...], Any] = {
        ("with",): step.args,
        ("prompt",): step.prompt,
        ("system",): step.system,
        ("task",): step.task,
        ("idempotency_key",): step.idempotency_key,
    }
    if step.approve is not None:
        values["approve", "message"] = step.approve.message
    if step.wait is not None:
        values |= {("wait", "seconds"): step.wait.seconds, ("wait", "until"): step.wait.until}
    for field, value in values.items():
        yield from ((*one, False, item) for one in _walk(value, (*path, *field)))


def _walk(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the path of each text in a JSON value that holds a reference."""
    if isinstance(value, str):
        if "${{" in value:
            yield path, value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _walk(entry, (*path, key))
    elif isinstance(value, list | tuple):
        for at, entry in enumerate(value):
            yield from _walk(entry, (*path, at))


def _ref_problem(ref: Ref, plan: Plan, *, item: bool) -> PlanError | None:
    """Return what is wrong with a reference to anything but a step."""
    if ref.root in _ITEM_ROOTS and not item:
        return ExpressionError(
            f"{ref} has no meaning here: {ref.root!r} exists only in what a step with `for_each` is given",
            remedy="add `for_each: …` to the step, or refer to the whole list",
        )
    if ref.root == "inputs" and ref.path and plan.inputs and ref.path[0] not in plan.inputs:
        name = str(ref.path[0])
        return InputsError(f"{ref} leads nowhere: the plan has no input {name!r}", remedy=suggestion(name, plan.inputs))
    return None
