"""A plan in place of a failed step: whether it may be asked for, what is asked, and what may come back.

Rule 1: never more authority than the step had: tools that the run was told of and that every allowlist around the step
covers, models that the run was told of, effects no laxer than recorded, no plan inside the plan.
Rule 2: deny by default: a field of a step that is not listed here is refused, whatever it means.
Rule 3: nothing here reads a registry, a file or a clock: machine.py decides with it, and a replay decides the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from planloom.core.asking import RE_ASK_TOKENS, size_bytes, text_of
from planloom.core.budget import Claim
from planloom.core.needs import SPEC_BYTES, rounded_up
from planloom.core.state import Replan
from planloom.errors import FieldError, NotAllowedError, PlanError, UnknownModelError, plan_error, suggestion
from planloom.plan.check import check_plan
from planloom.plan.graph import compile_plan
from planloom.plan.inputs import check_inputs
from planloom.plan.model import Plan, Step
from planloom.plan.policy import Effects, FailureKind
from planloom.plan.rules import PLANNED_FIELDS, STRICTNESS
from planloom.plan.schemas import value_problems

if TYPE_CHECKING:
    from planloom.core.events import AttemptFailed, RunStarted, ToolFacts
    from planloom.core.prices import ModelFacts
    from planloom.core.state import Node

NEVER = frozenset({FailureKind.NOT_ALLOWED, FailureKind.CANCELLED, FailureKind.LIMIT})
"""Kinds of failure that no other plan is asked for."""
KINDS = frozenset({"tool", "model"})
"""Kinds of step that a plan in place of one may have."""
FIELDS = PLANNED_FIELDS | KINDS
"""Fields that its steps may set."""
MAX_ERROR = 2_000
"""Characters of the error that a model is told."""
MAX_TOLD_TOOLS = 10
"""Most tools that a model is told of."""
MAX_TOLD_VALUE = 2_000
"""Tokens that telling a model of one input takes, at most."""
FORMAT_TOKENS = 8_000
"""Most tokens of what a model is told of plans as such."""


# --- whether and what to ask --------------------------------------------------------------------


def may_replan(node: Node, failure: AttemptFailed, effects: Effects) -> bool:
    """Return whether a step without a retry left may have its job done by another plan.

    What happened once must not happen again another way: a `once` step is replaced only if nothing had happened yet.
    """
    if node.step.replan is None or failure.kind in NEVER:
        return False
    if node.deadline_at is not None and failure.at >= node.deadline_at:
        return False
    return effects is not Effects.ONCE or failure.kind is FailureKind.NOT_DONE


def asked_with(node: Node, started: RunStarted) -> dict[str, Any]:
    """Return the arguments of the attempt that asks for a plan.

    Raises:
        MissingValueError, EvaluationError: The step's own arguments cannot be worked out.
    """
    document = Plan(steps=(node.step,)).to_dict()["steps"][0]
    return {
        "task": {name: value for name, value in document.items() if name != "replan"},
        "error": node.error or "",
        "inputs": node.entry.args.resolve(node.view),
        "tools": usable_tools(node, started),
    }


def usable_tools(node: Node, started: RunStarted) -> list[str]:
    """Return the tools that a plan in place of this step may use, by name."""
    lists = node.scope.allow or (frozenset(_named(started.plan)),)
    return sorted(name for name in started.tools if all(_covers(names, name, started.tools) for names in lists))


def _covers(names: Iterable[str], tool: str, known: Mapping[str, ToolFacts]) -> bool:
    """Return whether an allowlist covers a tool, perhaps under another of its names: then both have one digest."""
    digest = known[tool].digest
    return any(
        name == tool
        or (name.endswith(".*") and tool.startswith(name[:-1]))
        or (name in known and known[name].digest == digest and digest != "")
        for name in names
    )


def _named(plan: Plan) -> Iterator[str]:
    for step in plan.steps:
        if step.tool is not None:
            yield step.tool
        yield from step.tools or ()
        if isinstance(step.plan, Plan):
            yield from _named(step.plan)


def plan_claim(args: Mapping[str, Any], facts: ModelFacts | None, tools: Mapping[str, ToolFacts]) -> Claim:
    """Return what asking for a plan needs, one answer, and could use: another one, told what was wrong with the first.

    Args:
        args: What it is asked with, see `asked_with`.
        facts: Of the model that is asked.
    """
    if facts is None:
        return Claim(tokens=1)
    told = FORMAT_TOKENS
    # Twice: the texts stand inside a JSON text, in which quotes and line ends take two characters.
    told += 2 * sum(size_bytes(text) for text in (text_of(args["task"]), json.dumps(args["error"][:MAX_ERROR])))
    told += sum(
        size_bytes(name) + min(size_bytes(text_of(value)), MAX_TOLD_VALUE) for name, value in args["inputs"].items()
    )
    sizes = sorted((tools[name].spec_bytes or SPEC_BYTES for name in args["tools"]), reverse=True)
    told += 2 * sum(sizes[:MAX_TOLD_TOOLS])
    prompt, answer = rounded_up(told), facts.max_tokens
    again = prompt + answer + RE_ASK_TOKENS
    usd = (0.0, 0.0)
    if facts.price is not None:
        usd = (facts.price.ceiling_usd(prompt, answer), facts.price.ceiling_usd(again, answer))
    return Claim(cost_usd=usd[0], tokens=prompt + answer, metered=True, spare_usd=usd[1], spare_tokens=again + answer)


# --- what may come back -------------------------------------------------------------------------


def plan_in_place(document: Any, node: Node, started: RunStarted, keys: Iterable[str]) -> tuple[Plan, dict[str, Any]]:
    """Return the plan of a document that a model wrote, and its inputs.

    Args:
        keys: Those of every step of the run.

    Raises:
        PlanError: It is none, or goes beyond what the step might do.
        MissingValueError, EvaluationError: The step's own arguments cannot be worked out.
    """
    if not isinstance(document, dict):
        raise FieldError("the answer is no plan", remedy="answer with a plan as an object")
    plan = Plan.from_dict(document)
    problems = check_plan(plan) or [*_beyond(plan, node, started, frozenset(keys))]
    if problems:
        raise plan_error(problems)
    compile_plan(plan)
    return plan, check_inputs(plan, node.entry.args.resolve(node.view))


def _beyond(plan: Plan, node: Node, started: RunStarted, keys: frozenset[str]) -> Iterator[PlanError]:
    policy = node.step.replan
    assert policy is not None, f"{node.key} is not to be replanned"
    if not 1 <= len(plan.steps) <= policy.max_steps:
        message = f"the plan has {len(plan.steps)} steps, and 1 to {policy.max_steps} are allowed"
        yield FieldError(
            message, remedy="write another one, or allow more with `replan: {max_steps: …}`", path=("steps",)
        )
    if plan.limits is not None:
        yield FieldError("the plan has limits of its own", remedy="take them out", path=("limits",))
    tools = usable_tools(node, started)
    for place, step in enumerate(plan.steps):
        for problem in _step_beyond(step, ("steps", place), tools, started):
            problem.step = step.id
            yield problem
        if f"{node.key}/{step.id}" in keys:
            message = f"the run has a step {node.key}/{step.id!r} already"
            yield FieldError(message, remedy="give it another id", step=step.id, path=("steps", place, "id"))


def _step_beyond(step: Step, path: tuple[str | int, ...], tools: list[str], started: RunStarted) -> Iterator[PlanError]:
    if step.kind not in KINDS:
        message = f"step {step.id!r} is a {step.kind} step, and only {' and '.join(sorted(KINDS))} steps are allowed"
        yield FieldError(message, remedy="do it with a tool or a model", path=(*path, step.kind))
    for name in sorted(_set_fields(step) - FIELDS - {step.kind}):
        yield FieldError(f"step {step.id!r} may not set {name!r}", remedy="take it out", path=(*path, name))
    for name in (*([step.tool] if step.tool is not None else []), *(step.tools or ())):
        if name not in tools:
            message = f"step {step.id!r} uses tool {name!r}, which is not allowed"
            yield NotAllowedError(message, remedy=suggestion(name, tools), path=(*path, "tool"), tool=name)
    if step.model is not None and step.model not in started.models:
        message = f"step {step.id!r} asks model {step.model!r}, which the run was not started with"
        remedy = suggestion(step.model, started.models)
        yield UnknownModelError(message, remedy=remedy, path=(*path, "model"), model=step.model)
    named = [name for name in (step.tool, *(step.tools or ())) if name in started.tools]
    strictest = max((STRICTNESS[started.tools[name].effects or Effects.ONCE] for name in named), default=0)
    if step.effects is not None and STRICTNESS[step.effects] < strictest:
        message = f"step {step.id!r} says its effects are '{step.effects}', and its tool does not say so"
        yield FieldError(message, remedy="take `effects` out", path=(*path, "effects"))


def _set_fields(step: Step) -> set[str]:
    blank = Step(id=step.id)
    return {one.name for one in fields(Step) if getattr(step, one.name) != getattr(blank, one.name)}


# --- what came of it ----------------------------------------------------------------------------


def told_of(node: Node, part: Node) -> str:
    """Return the error of a step whose inner plan failed at this part of it."""
    if node.replan is Replan.NO:
        return f"step {part.step.id!r} of the sub-plan: {part.error}"
    return f"{node.error}; step {part.step.id!r} of the plan in its place: {part.error}"


def misfit(node: Node, output: Any) -> str | None:
    """Return why what a plan in place of a step returns is not what the step was to; None if it is."""
    if node.replan is Replan.NO or node.step.output is None:
        return None
    problems = value_problems(output, node.step.output)
    return (
        f"{node.error}; what the plan in its place returns does not fit `output`: {problems[0][1]}"
        if problems
        else None
    )
