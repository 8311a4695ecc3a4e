"""A sound plan held against what is here: the tools, the allowlists and the kinds of step that can be done.

Rule 1: deny by default. With an allowlist, a tool not on it is refused under each of its names; lists only ever narrow.
Rule 2: a step may be stricter about its effects than its tool or its agent says, never laxer.
Rule 3: an argument that holds a reference is checked when its value is known, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from planloom.errors import (
    ArgumentsError,
    ExpressionError,
    FieldError,
    NotAllowedError,
    NotInstalledError,
    PlanError,
    UnknownToolError,
    suggestion,
)
from planloom.plan.document import Path
from planloom.plan.model import KINDS, Plan, Step
from planloom.plan.policy import Effects
from planloom.plan.refs import compile_template
from planloom.plan.rules import STRICTNESS, again_problems, not_pure, own_effects, verify_problem
from planloom.plan.schemas import value_problems

EXTRAS = ("verify", "speculate", "replan")
"""Fields that need something installed, whatever the step's kind."""
_EVERY_KIND = frozenset((*KINDS, *EXTRAS))


class Catalogue(Protocol):
    """The tools there are, as far as a plan is checked against them."""

    def names(self) -> Iterable[str]:
        """Return the canonical name of each tool."""
        ...

    def resolve(self, name: str) -> str | None:
        """Return the canonical name behind a name or alias, or None."""
        ...

    def expanded(self, allow: Iterable[str] | None) -> frozenset[str]:
        """Return the canonical names that an allowlist covers; None: of every tool that may be used."""
        ...

    def schema(self, name: str) -> dict[str, Any]:
        """Return the JSON Schema of the parameters of a tool, by canonical name."""
        ...

    def effects(self, name: str) -> Effects | None:
        """Return what a tool declares, or None if it declares nothing."""
        ...


AgentEffects = Callable[[Step], Effects | None]
"""What the agent of a step, with the tools that it has there, does outside; None: nobody says, which counts as once."""
AGENT_KINDS = frozenset({"agent", "task"})
"""Kinds of step that an agent does."""


def check_against(
    plan: Plan,
    catalogue: Catalogue,
    *,
    allow: Iterable[str] | None = None,
    installed_kinds: frozenset[str] = _EVERY_KIND,
    own_tools: Container[str] = (),
    agent_effects: AgentEffects = lambda _: None,
) -> list[PlanError]:
    """Return every reason why a sound plan cannot run here, sub-plans included; none if it can.

    Args:
        allow: Tools the caller allows, by any name; None: all. The plan's own `allow` narrows it.
        installed_kinds: Kinds of step that there is an executor for, and those of EXTRAS that are done here.
        own_tools: Agents that bring tools of their own: what their steps name is looked up there, not here.
    """
    return _Against(catalogue, installed_kinds, own_tools, agent_effects).plan(plan, catalogue.expanded(allow), (), "")


def notices(plan: Plan, catalogue: Catalogue) -> list[str]:
    """Return what is allowed and may still surprise the author, one sentence each."""
    return list(_notices(plan, catalogue, ""))


@dataclass(slots=True)
class _Against:
    catalogue: Catalogue
    installed_kinds: frozenset[str]
    own_tools: Container[str] = ()
    agent_effects: AgentEffects = lambda _: None
    schemas: dict[str, dict[str, Any]] = field(default_factory=dict)

    def plan(self, plan: Plan, allow: frozenset[str], path: Path, prefix: str) -> list[PlanError]:
        allowed = allow & self.catalogue.expanded(plan.allow)
        found: list[PlanError] = []
        for place, step in enumerate(plan.steps):
            here = (*path, "steps", place)
            problems = [*self.kind(step, here), *self.extras(step, here)]
            problems += [*self.names(step, allowed, here), *self.tool(step, allowed, here)]
            problems += [*self.agent(step, here), *self.again(step, allowed, here)]
            for problem in problems:
                problem.step = prefix + step.id
            found += problems
            if isinstance(step.plan, Plan):
                found += self.plan(step.plan, allowed, (*here, "plan"), f"{prefix}{step.id}/")
        return found

    def kind(self, step: Step, path: Path) -> Iterator[PlanError]:
        if step.kind not in self.installed_kinds:
            there = ", ".join(kind for kind in KINDS if kind in self.installed_kinds) or "none"
            yield NotInstalledError(
                f"step {step.id!r} is a {step.kind} step: not installed: nothing here does {step.kind} steps",
                remedy=f"install what does them, or use another kind ({there})",
                path=(*path, step.kind),
                kind=step.kind,
            )

    def extras(self, step: Step, path: Path) -> Iterator[PlanError]:
        """Refuse what a step asks for on top of its kind and nothing here would do: it must not be ignored."""
        for extra in EXTRAS:
            if getattr(step, extra) is not None and extra not in self.installed_kinds:
                yield NotInstalledError(
                    f"step {step.id!r} asks for {extra!r}: not installed: nothing here does that",
                    remedy="install what does it, or take the field out",
                    path=(*path, extra),
                    kind=extra,
                )

    def names(self, step: Step, allowed: frozenset[str], path: Path) -> Iterator[PlanError]:
        """Check that each tool a step names exists and may be used."""
        if step.agent_name in self.own_tools:
            return
        for name, place in _tools_named(step):
            canonical = self.catalogue.resolve(name)
            if canonical is None:
                yield UnknownToolError(
                    f"step {step.id!r} uses tool {name!r}, which is not here",
                    remedy=suggestion(name, self.catalogue.names(), otherwise="register it, e.g. with --tools MODULE"),
                    path=(*path, *place),
                    tool=name,
                )
            elif canonical not in allowed:
                listed = ", ".join(sorted(allowed)[:12]) or "there is none"
                yield NotAllowedError(
                    f"step {step.id!r} uses tool {name!r}, which is not allowed",
                    remedy=f"use a tool that is ({listed}), or have whoever runs the plan allow {canonical!r}",
                    path=(*path, *place),
                    tool=canonical,
                )

    def tool(self, step: Step, allowed: frozenset[str], path: Path) -> Iterator[PlanError]:
        """Check a tool step's arguments and effects."""
        canonical = self.catalogue.resolve(step.tool) if step.tool is not None else None
        if canonical is None or canonical not in allowed:
            return  # `names` has said so; of a tool that may not be used, not even the parameters are told
        if canonical not in self.schemas:
            self.schemas[canonical] = self.catalogue.schema(canonical)
        yield from _argument_problems(step, canonical, self.schemas[canonical], (*path, "with"))
        declared = self.catalogue.effects(canonical)
        yield from _laxer(step, declared, f"tool {canonical!r}", path)
        yield from _reused(step, declared, path)

    def agent(self, step: Step, path: Path) -> Iterator[PlanError]:
        """Check an agent step's effects."""
        if step.kind in AGENT_KINDS:
            declared = self.agent_effects(step)
            who = f"agent {step.agent_name!r} with its tools"
            yield from _laxer(step, declared, who, path)
            yield from _reused(step, declared, path)

    def again(self, step: Step, allowed: frozenset[str], path: Path) -> Iterator[PlanError]:
        """Check what doing a step again would do by its tools; of its own effects, `check_plan` has said so."""
        if step.effects is not None or verify_problem(step, path, None) is not None:
            return
        if step.kind in AGENT_KINDS:
            yield from again_problems(step, path, self.agent_effects(step) or Effects.ONCE)
            return
        names = (step.tool,) if step.tool is not None else step.tools or ()
        known = [canonical for name in names if (canonical := self.catalogue.resolve(name)) in allowed and canonical]
        if step.kind in ("tool", "model") and known:  # of the others, `names` has said all there is to say
            declared = [self.catalogue.effects(name) or Effects.ONCE for name in known]
            yield from again_problems(step, path, max(declared, key=STRICTNESS.__getitem__))


def _laxer(step: Step, declared: Effects | None, who: str, path: Path) -> Iterator[FieldError]:
    """Refuse effects that are less than what does the step says of itself."""
    if step.effects is not None and declared is not None and STRICTNESS[step.effects] < STRICTNESS[declared]:
        yield FieldError(
            f"step {step.id!r} says its effects are '{step.effects}', but {who} declares '{declared}'",
            remedy=f"write `effects: {declared}`, or leave it out: a step may only be stricter than what does it",
            path=(*path, "effects"),
        )


def _reused(step: Step, declared: Effects | None, path: Path) -> Iterator[FieldError]:
    """Refuse to reuse, or to do ahead, what changes something outside."""
    effects = declared or Effects.ONCE
    if effects is not Effects.NONE and step.effects is None:  # with effects of its own, `check_plan` has said so
        for name in ("cache", "speculate"):
            if getattr(step, name) is not None:
                yield not_pure(step, name, str(effects), path)


def _tools_named(step: Step) -> Iterator[tuple[str, Path]]:
    if step.tool is not None:
        yield step.tool, ("tool",)
    for at, name in enumerate(step.tools or ()):
        yield name, ("tools", at)
    if step.agent is not None:
        for at, name in enumerate(step.agent.tools or ()):
            yield name, ("agent", "tools", at)
    if step.code is not None:
        for at, name in enumerate(step.code.tools):
            yield name, ("code", "tools", at)


def _argument_problems(step: Step, tool: str, schema: dict[str, Any], path: Path) -> Iterator[PlanError]:
    """Yield missing, unknown and ill-typed arguments.

    A schema with `properties` and no word about others takes no others: tools rarely mean to, and a misspelt optional
    parameter would otherwise be ignored in silence.
    """
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in step.args:
            message = f"step {step.id!r} does not give {tool!r} its parameter {name!r}"
            yield ArgumentsError(message, remedy=f"add it below `with:` as `{name}: …`", path=path, parameter=name)
    is_closed = not schema.get("additionalProperties", "properties" not in schema) and "patternProperties" not in schema
    constants: dict[str, Any] = {}
    for name, value in step.args.items():
        if is_closed and name not in properties:
            message = f"{tool!r} has no parameter {name!r}"
            remedy = suggestion(name, properties, otherwise="take it out: the tool takes none")
            yield ArgumentsError(message, remedy=remedy, path=(*path, name), parameter=name)
        elif _is_constant(value):
            constants[name] = value
    for name, value in constants.items():
        if name in properties:
            for inner, problem in value_problems(value, schema, part=properties[name]):
                message = f"parameter {name!r} of {tool!r} does not fit: {problem}"
                remedy = "give what the tool's schema asks for"
                yield ArgumentsError(message, remedy=remedy, path=(*path, name, *inner), parameter=name)


def _is_constant(value: Any) -> bool:
    """Return whether a value refers to nothing; of what cannot be read, `check_plan` has said so."""
    if "${{" not in str(value):
        return True
    try:
        return compile_template(value).constant
    except ExpressionError:
        return False


def _notices(plan: Plan, catalogue: Catalogue, prefix: str) -> Iterator[str]:
    for name in plan.allow or ():
        if not catalogue.expanded((name,)):
            yield f"'allow' names {name!r}, and there is no such tool here"
    for step in plan.steps:
        who = f"step {prefix + step.id!r}"
        if step.retry is not None and step.retry.max_attempts > 1 and _effects(step, catalogue) is Effects.ONCE:
            yield (
                f"{who} has effects 'once': its retries happen only when the tool raises NotDoneError. "
                "Write `effects: idempotent` if it may run again with the same key"
            )
        if step.for_each is not None and step.idempotency_key is not None and "${{" not in step.idempotency_key:
            yield f"{who} gives every item the same idempotency_key; refer to `item` or `index` in it"
        if None not in (step.attempt_timeout, step.timeout_seconds) and step.attempt_timeout > step.timeout_seconds:  # type: ignore[operator]  # neither is None
            yield f"{who} allows one attempt {step.attempt_timeout:g} s, but all together {step.timeout_seconds:g} s"
        if isinstance(step.plan, Plan):
            yield from _notices(step.plan, catalogue, f"{prefix}{step.id}/")


def _effects(step: Step, catalogue: Catalogue) -> Effects:
    own = own_effects(step)
    if own is not None:
        return own
    canonical = catalogue.resolve(step.tool) if step.tool is not None else None
    declared = catalogue.effects(canonical) if canonical in catalogue.expanded(None) else None
    return declared or Effects.ONCE
