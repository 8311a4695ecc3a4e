"""The models a plan asks, held against those there are: can each be reached, what does it cost, is its key here.

Rule 1: everything is found out before the run exists: an unknown model, price or key must not show half way through.
Rule 2: what a run was told is pinned: prices and addresses of a run on record are those it was started with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.errors import (
    ConfigError,
    FieldError,
    MissingKeyError,
    PlanError,
    UnknownModelError,
    UnknownPriceError,
    plan_error,
)
from planloom.executors.meter import pinned
from planloom.models.catalogue import DEFAULT
from planloom.plan.model import Plan, Step
from planloom.plan.policy import JUDGED
from planloom.verify.flow import check_policy

if TYPE_CHECKING:
    from planloom.core.prices import ModelFacts
    from planloom.models.catalogue import Models
    from planloom.plan.document import Path
    from planloom.plan.policy import ResourceLimits
    from planloom.verify.checks import ValidatorRegistry


@dataclass(frozen=True, slots=True)
class NamedModel:
    """One place of a plan that asks a model.

    Attributes:
        ref: Its name or URI there.
        step: The step's key, `sub/extract` in a sub-plan.
    """

    ref: str
    step: str
    path: Path


def asked_by(plan: Plan) -> list[NamedModel]:
    """Return every place of a plan and its sub-plans that asks a model, in plan order."""
    return list(_asked(plan, (), ""))


def _asked(plan: Plan, path: Path, prefix: str) -> Iterator[NamedModel]:
    for place, step in enumerate(plan.steps):
        here = (*path, "steps", place)
        for ref, inner in _by_step(step):
            yield NamedModel(ref, prefix + step.id, (*here, *inner))
        if isinstance(step.plan, Plan):
            yield from _asked(step.plan, (*here, "plan"), f"{prefix}{step.id}/")


def models_named(step: Step) -> Iterator[str]:
    """Yield each model that a step itself names."""
    return (ref for ref, _ in _by_step(step))


def _by_step(step: Step) -> Iterator[tuple[str, Path]]:
    if step.model is not None:
        yield step.model, ("model",)
    if step.verify is not None and step.verify.model is not None:
        yield step.verify.model, ("verify", "model")
    elif step.verify is not None and step.verify.strategy in JUDGED and step.model is None:
        yield DEFAULT, ("verify", "model")
    if step.speculate is not None:
        if step.speculate.draft is not None:
            yield step.speculate.draft, ("speculate", "draft")
        if step.speculate.judge is not None:
            yield step.speculate.judge, ("speculate", "judge")
    if step.gasa is not None and step.gasa.shadow_model is not None:
        yield step.gasa.shadow_model, ("gasa", "shadow_model")
    if step.replan is not None:
        yield step.replan.model, ("replan", "model")


def model_problems(plan: Plan, models: Models) -> list[PlanError]:
    """Return why models of a plan cannot be asked here, one problem for each place."""
    found: dict[str, ConfigError | None] = {}
    problems: list[PlanError] = []
    for asked in asked_by(plan):
        if asked.ref not in found:
            found[asked.ref] = _why_not(asked.ref, models)
        error = found[asked.ref]
        if error is not None:
            problems.append(
                UnknownModelError(error.message, remedy=error.remedy, step=asked.step, path=asked.path, model=asked.ref)
            )
    return problems


def verify_problems(plan: Plan, validators: ValidatorRegistry) -> list[PlanError]:
    """Return what plans say of verification that cannot be done here: validators, their options, rubrics."""
    return list(_verify_problems(plan, validators, (), ""))


def _verify_problems(plan: Plan, validators: ValidatorRegistry, path: Path, prefix: str) -> Iterator[PlanError]:
    for place, step in enumerate(plan.steps):
        here = (*path, "steps", place)
        if step.verify is not None:
            try:
                check_policy(step.verify, validators)
            except ConfigError as error:
                yield FieldError(error.message, remedy=error.remedy, step=prefix + step.id, path=(*here, "verify"))
        if isinstance(step.plan, Plan):
            yield from _verify_problems(step.plan, validators, (*here, "plan"), f"{prefix}{step.id}/")


def _why_not(ref: str, models: Models) -> ConfigError | None:
    try:
        models.get(ref)
    except ConfigError as error:
        return error
    return None


def facts_for(
    asked: list[NamedModel], models: Models, *, limits: ResourceLimits | None, track_cost: bool
) -> dict[str, ModelFacts]:
    """Return what a run is told about its models; prices only where it needs them.

    Raises:
        UnknownPriceError: Money is limited, and nobody knows what one of them costs.
        MissingKeyError: There is no key for one of them.
    """
    is_limited = limits is not None and limits.max_total_cost_usd is not None
    facts: dict[str, ModelFacts] = {}
    problems: list[PlanError] = []
    for one in asked:
        if one.ref in facts:
            continue
        known = facts[one.ref] = models.facts(one.ref, priced=track_cost or is_limited)
        if is_limited and known.price is None:
            problems.append(
                UnknownPriceError(
                    f"money is limited, and nobody knows what model {one.ref!r} costs",
                    remedy="give its price below [prices] in planloom.toml, or as ?price_in=&price_out= in its URI "
                    "(US dollars per million tokens), or take the limit out: max_total_cost_usd: null",
                    step=one.step,
                    path=one.path,
                    model=one.ref,
                )
            )
    if problems:
        raise plan_error(problems)
    for ref in facts:
        models.get(ref).ready()
    return facts


def refused_models(run_id: str, facts: Mapping[str, ModelFacts], models: Models) -> Iterator[ConfigError]:
    """Yield why models of a run on record cannot be asked here: one is not here any more, or there is no key for it."""
    for ref, known in facts.items():
        try:
            pinned(models, ref, known).ready()
        except MissingKeyError as error:
            yield error
        except ConfigError as error:
            yield ConfigError(
                f"run {run_id} asks model {ref!r} ({known.uri}), which is not here: {error.message}",
                remedy="give the models it was started with",
            )
