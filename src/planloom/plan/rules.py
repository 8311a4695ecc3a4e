"""What the fields of one step mean together: which kind it is, what fits that kind, and what each field may hold.

Rule 1: every rule returns problems, with the path of the field; none raises.
Rule 2: nothing here knows other steps or any tool; those are `check.py` and `against.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from planloom.errors import ExpressionError, FieldError, PlanError, suggestion
from planloom.plan.document import Path
from planloom.plan.expression import parse_expression
from planloom.plan.gasa import READ_APART
from planloom.plan.model import KINDS, Plan, Step
from planloom.plan.policy import BY_TOKENS, Effects
from planloom.plan.schemas import schema_problem

RUNTIMES = ("monty", "cpython")

_DOING = frozenset({"tool", "model", "agent", "code", "plan", "task"})
_TRIED = _DOING - {"plan"}
"""Kinds that an executor attempts; a sub-plan's own steps are attempted, not the sub-plan."""
_ASKING = frozenset({"model", "agent"})
_FITS: dict[str, frozenset[str]] = {
    "args": _DOING,
    "prompt": _ASKING,
    "system": _ASKING,
    "tools": _ASKING | {"task"},
    "max_tokens": _ASKING,
    "temperature": _ASKING,
    "output": _TRIED,
    "retry": _TRIED,
    "attempt_timeout": _TRIED,
    "effects": _TRIED,
    "idempotency_key": _TRIED,
    "cache": _TRIED,
    "verify": _TRIED,
    "timeout_seconds": _DOING,
    "speculate": frozenset({"model"}),
    "gasa": frozenset({"model"}),
    "stream": _ASKING,
    "replan": _TRIED,
}
"""Field → the kinds of step it means something for; a field that is not listed fits every kind."""
_EMPTY: tuple[Any, ...] = (None, {}, (), False)
STREAMED_DRAFTS = frozenset({"compare", "predicted", *BY_TOKENS})
"""Policies of speculation whose answer is always the step's own model's."""
PLANNED_FIELDS = frozenset(
    {"id", "description", "args", "prompt", "system", "tools", "max_tokens", "temperature", "output"}
    | {"for_each", "on_item_error", "max_parallel", "needs", "when", "join", "mode", "on_error"}
    | {"retry", "timeout_seconds", "attempt_timeout", "effects"}
)
"""Fields, besides its kind, that a step may have where a model wrote it; every other one is refused."""
STRICTNESS = {Effects.NONE: 0, Effects.IDEMPOTENT: 1, Effects.ONCE: 2}
_PURE = frozenset({"model", "code"})
"""Kinds that change nothing outside unless they say so."""
_LENT = frozenset({"tool", "agent", "task"})
"""Kinds that somebody else does: what that changes outside is known where a plan is held against what is here."""


def own_effects(step: Step) -> Effects | None:
    """Return the effects a step has by itself; None where its tool or its agent decides."""
    if step.effects is not None:
        return step.effects
    if step.kind in _PURE:
        return Effects.NONE
    return None if step.kind in _LENT else Effects.ONCE


def step_problems(step: Step, path: Path, *, dropped: frozenset[str] = frozenset()) -> list[PlanError]:
    """Return everything wrong with one step by itself.

    Args:
        path: Where the step stands in the plan.
        dropped: Fields that were there but could not be read; their absence proves nothing.
    """
    found: list[PlanError] = []
    if dropped.isdisjoint(KINDS):
        found += _kind(step, path)
    found += _fit(step, path)
    found += _limits_inside(step, path)
    found += _needed(step, path, dropped)
    found += _rate(step, path)
    found += _names(step, path)
    found += _choices(step, path)
    found += _wait(step, path, dropped)
    found += _again(step, path)
    found += _replaced(step, path)
    found += again_problems(step, path, own_effects(step))
    found += _stream(step, path)
    found += _documents(step, path, dropped)
    found += _condition(step, path)
    for field, schema in (("output", step.output), ("form", step.approve.form if step.approve else None)):
        place = (*path, "approve", "form") if field == "form" else (*path, field)
        if schema is not None and (unsound := schema_problem(schema)):
            found.append(FieldError(f"not a JSON Schema: {unsound}", remedy="see json-schema.org", path=place))
    for problem in found:
        problem.step = step.id
    return found


def kinds_of(step: Step) -> list[str]:
    return [kind for kind in KINDS if getattr(step, kind) is not None]


def _kind(step: Step, path: Path) -> Iterator[PlanError]:
    kinds = kinds_of(step)
    if not kinds:
        remedy = f"give it one of {', '.join(KINDS)}"
        yield FieldError(f"step {step.id!r} does not say what to do", remedy=remedy, path=path)
    elif len(kinds) > 1:
        yield FieldError(
            f"step {step.id!r} is of several kinds: {', '.join(kinds)}",
            remedy=f"keep {kinds[0]!r}, and make a step of its own for each other",
            path=(*path, kinds[1]),
        )


def _fit(step: Step, path: Path) -> Iterator[PlanError]:
    kinds = kinds_of(step)
    if len(kinds) != 1:
        return
    for field, fitting in _FITS.items():
        if getattr(step, field) in _EMPTY or kinds[0] in fitting:
            continue
        name = "with" if field == "args" else field
        yield FieldError(
            f"{name!r} means nothing for the {kinds[0]} step {step.id!r}",
            remedy=f"take it out, or make the step one of {', '.join(sorted(fitting))}",
            path=(*path, name),
        )


def _limits_inside(step: Step, path: Path) -> Iterator[PlanError]:
    if isinstance(step.plan, Plan) and step.plan.limits is not None:
        yield FieldError(
            f"the sub-plan of step {step.id!r} has limits of its own, and a run has one budget",
            remedy="put them on the outer plan, or give the step `timeout_seconds`",
            path=(*path, "plan", "limits"),
        )


def _needed(step: Step, path: Path, dropped: frozenset[str]) -> Iterator[PlanError]:
    if kinds_of(step) in (["model"], ["agent"]) and step.prompt is None and not step.args and "prompt" not in dropped:
        yield FieldError(
            f"{step.kind} step {step.id!r} has no prompt",
            remedy="write `prompt: …`, what is asked",
            path=(*path, step.kind),
        )
    if step.for_each is None and "for_each" not in dropped:
        for field, is_set in (
            ("max_parallel", step.max_parallel is not None),
            ("on_item_error", step.on_item_error != "fail_fast"),
            ("max_failure_rate", step.max_failure_rate is not None),
        ):
            if is_set:
                remedy = "add `for_each: …`, or take it out"
                yield FieldError(f"{field!r} means nothing without 'for_each'", remedy=remedy, path=(*path, field))


def _rate(step: Step, path: Path) -> Iterator[PlanError]:
    if step.max_failure_rate is not None and step.for_each is not None and step.on_item_error != "collect":
        yield FieldError(
            f"'max_failure_rate' means nothing for step {step.id!r}, which stops at its first failed item",
            remedy="write `on_item_error: collect`, or take it out",
            path=(*path, "max_failure_rate"),
        )


def _names(step: Step, path: Path) -> Iterator[PlanError]:
    agent = step.agent.name if step.agent else None
    for field, name in (
        ("tool", step.tool),
        ("model", step.model),
        ("agent", agent),
        ("concurrency", step.concurrency),
    ):
        if name is None or (name.strip() and "${{" not in name):
            continue
        what = "may hold no reference" if name.strip() else "is empty"
        remedy = f"write the name of one {field}: a plan says before it runs what it uses"
        yield FieldError(f"{field!r} of step {step.id!r} {what}", remedy=remedy, path=(*path, field))


def _choices(step: Step, path: Path) -> Iterator[PlanError]:
    chosen: list[tuple[Path, str, tuple[str, ...]]] = []
    if step.code is not None:
        chosen.append((("code", "runtime"), step.code.runtime, RUNTIMES))
    for field, value, choices in chosen:
        if value not in choices:
            name = ".".join(str(part) for part in field)
            message = f"{name!r} must be one of {', '.join(choices)}, not {value!r}"
            yield FieldError(message, remedy=suggestion(value, choices), path=(*path, *field))


def _wait(step: Step, path: Path, dropped: frozenset[str]) -> Iterator[PlanError]:
    if step.wait is None or "wait" in dropped:
        return
    seconds, until = step.wait.seconds, step.wait.until
    if (seconds is None) is (until is None):
        has = "neither" if seconds is None else "both"
        remedy = "write exactly one of them, e.g. `wait: {seconds: 60}`"
        message = f"wait step {step.id!r} has {has} of 'seconds' and 'until'"
        yield FieldError(message, remedy=remedy, path=(*path, "wait"))
        return
    place = (*path, "wait", "seconds")
    if isinstance(seconds, str) and "${{" not in seconds:
        remedy = "write a number, or a reference in ${{ }}"
        yield FieldError(f"'seconds' of step {step.id!r} is the text {seconds!r}", remedy=remedy, path=place)
    elif isinstance(seconds, float) and not 0 <= seconds < float("inf"):
        remedy = "write a number of seconds, 0 or more"
        yield FieldError(f"'seconds' of step {step.id!r} is {seconds}", remedy=remedy, path=place)
    if until is not None and "${{" not in until and not _is_moment(until):
        yield FieldError(
            f"'until' of step {step.id!r} is no moment with an offset: {until!r}",
            remedy="write it as 2026-12-01T09:00:00+01:00",
            path=(*path, "wait", "until"),
        )


def _is_moment(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _again(step: Step, path: Path) -> Iterator[PlanError]:
    """Reuse and running ahead are for steps that change nothing."""
    effects = own_effects(step)
    if effects in (None, Effects.NONE):
        return
    for field in ("cache", "speculate"):
        if getattr(step, field) is not None and step.kind in _FITS[field]:
            yield not_pure(step, field, str(effects), path)


def _replaced(step: Step, path: Path) -> Iterator[PlanError]:
    """Another plan takes the place of a whole step, never of one of its items."""
    if step.replan is not None and step.for_each is not None:
        yield FieldError(
            f"step {step.id!r} has 'replan' and 'for_each', and no plan can take the place of one item",
            remedy="take one of them out, or put the step into a sub-plan that runs for each item",
            path=(*path, "replan"),
        )


def not_pure(step: Step, field: str, effects: str, path: Path) -> FieldError:
    return FieldError(
        f"step {step.id!r} has {field!r}, but its effects are {effects!r}",
        remedy="take it out, or write `effects: none` if running the step again changes nothing",
        path=(*path, field),
    )


def again_problems(step: Step, path: Path, effects: Effects | None) -> Iterator[FieldError]:
    """Yield why a step cannot be done again in the way that it asks for.

    Args:
        effects: What doing it once more would do; None where that is not known yet.
    """
    if problem := verify_problem(step, path, effects):
        yield problem
    if step.replan is not None and effects is Effects.ONCE and step.kind in _FITS["replan"]:
        yield FieldError(
            f"step {step.id!r} has 'replan', but its effects are 'once': it may have had them when it failed, and a "
            "plan in its place would have them again",
            remedy="take 'replan' out, or write `effects: none` or `effects: idempotent` where the tool allows it",
            path=(*path, "replan"),
        )


def verify_problem(step: Step, path: Path, effects: Effects | None) -> FieldError | None:
    """Return why a step may not be done as often, or asked in the way, that its verification wants; None if it may."""
    policy = step.verify
    if policy is None or step.kind not in _FITS["verify"]:
        return None
    several = policy.strategy == "self_consistency"
    if several and policy.refinement != "none":
        problem = "'self_consistency' compares several answers at once, so 'refinement' means nothing with it"
        remedy = "take 'refinement' out, or choose another strategy"
    elif (several or policy.refinement != "none") and effects not in (None, Effects.NONE):
        problem = f"its verification would do it again, but its effects are '{effects}'"
        remedy = "write `refinement: none`, or `effects: none` if doing it again changes nothing"
    elif policy.refinement in ("feedback", "iterative") and step.kind != "model":
        problem = f"refinement '{policy.refinement}' is told to a model, and this is a {step.kind} step"
        remedy = "write `refinement: retry` or `refinement: none`"
    else:
        return None
    return FieldError(f"step {step.id!r}: {problem}", remedy=remedy, path=(*path, "verify"))


def _stream(step: Step, path: Path) -> Iterator[PlanError]:
    """Refuse to stream what may still be thrown away."""
    if not step.stream or step.kind not in _FITS["stream"]:
        return
    against = [name for name in ("verify", "output", "tools") if getattr(step, name) not in _EMPTY]
    if step.speculate is not None and step.speculate.policy not in STREAMED_DRAFTS:
        against.append(f"speculate.policy: {step.speculate.policy}")
    if against:
        names = " and ".join(f"'{name}'" for name in against)
        yield FieldError(
            f"step {step.id!r} has 'stream' together with {names}: its answer may still be thrown away, so it cannot "
            "be shown while it comes",
            remedy=f"take 'stream' out, or {names}",
            path=(*path, "stream"),
        )


def _documents(step: Step, path: Path, dropped: frozenset[str]) -> Iterator[PlanError]:
    """Reading along a graph needs something to read, and parts that are read apart are put together by one answer."""
    if step.gasa is None or step.kind not in _FITS["gasa"]:
        return
    if "documents" not in step.args and "with" not in dropped:
        yield FieldError(
            f"step {step.id!r} has 'gasa' and no documents",
            remedy="write `with: {documents: …}`, a list of texts or of {id, content}, and `graph: …` beside them",
            path=(*path, "gasa"),
        )
    if step.tools and step.gasa.fallback_strategy in READ_APART:
        yield FieldError(
            f"step {step.id!r} has 'tools', and with fallback_strategy '{step.gasa.fallback_strategy}' its model would "
            "be asked about several parts at once",
            remedy="take 'tools' out, or write `fallback_strategy: prompt_composer`",
            path=(*path, "gasa", "fallback_strategy"),
        )


def _condition(step: Step, path: Path) -> Iterator[PlanError]:
    """Refuse Python's own names, which can only be an attempt to leave the language."""
    if not isinstance(step.when, str) or "__" not in step.when:
        return
    try:
        refs = parse_expression(step.when).refs
    except ExpressionError:
        return  # reported with the other expressions
    for ref in refs:
        for part in ref.path:
            if isinstance(part, str) and part.startswith("__") and part.endswith("__"):
                remedy = "name a value of the plan: steps.ID.output… or inputs.…"
                yield ExpressionError(f"{part!r} is not part of the language", remedy=remedy, path=(*path, "when"))


def plan_problems(plan: Plan) -> list[PlanError]:
    """Return everything wrong with a plan's own fields, its steps aside."""
    found: list[PlanError] = []
    for name, schema in plan.inputs.items():
        if problem := schema_problem(schema):
            message = f"input {name!r} is not a JSON Schema: {problem}"
            found.append(FieldError(message, remedy="write e.g. {type: string}", path=("inputs", name)))
    return found
