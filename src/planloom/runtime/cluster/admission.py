"""A submission becomes a run, or is refused where whoever submitted it looks.

Rule 1: it is checked whole, as an engine checks it, and against the modules: all that is wrong is told at once.
Rule 2: nothing runs ahead in a run of the cluster: whoever takes its next turn knows only the record.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pydantic

from planloom.errors import ConfigError, FieldError, PlanloomError, field_problems, plan_error
from planloom.runtime.cluster.inputs import Submitted
from planloom.runtime.declared import without_secrets
from planloom.runtime.run_ids import checked_run_id

if TYPE_CHECKING:
    from planloom.core.events import RunStarted
    from planloom.core.machine import RunMachine
    from planloom.plan.model import Plan
    from planloom.runtime.checks import PlanSource
    from planloom.runtime.cluster.bodies import PlanSubmission
    from planloom.runtime.cluster.capabilities import Capabilities
    from planloom.runtime.engine import Engine

MOST_KEPT = 64
MOST_KEPT_CHARS = 256 * 1024
"""Plans that are known, and how long the text of one may be."""


class PlansInHand:
    """Plans that were admitted, by their text: one that is submitted again and again is read and compiled once."""

    def __init__(self) -> None:
        self._plans: OrderedDict[str, Plan] = OrderedDict()

    def of(self, given: dict[str, Any]) -> tuple[str, PlanSource]:
        """Return the text of a plan, and what it is read from: the plan itself where it is known."""
        text = json.dumps(given, separators=(",", ":"))
        plan = self._plans.get(text)
        if plan is None:
            return text, given
        self._plans.move_to_end(text)
        return text, plan

    def keep(self, text: str, plan: Plan) -> None:
        if len(text) <= MOST_KEPT_CHARS:
            self._plans[text] = plan
        while len(self._plans) > MOST_KEPT:
            self._plans.popitem(last=False)


def admitted(
    submission: PlanSubmission,
    engine: Engine,
    capabilities: Capabilities,
    *,
    known: PlansInHand | None = None,
    earlier: RunMachine | None = None,
) -> Submitted:
    """Return the run that a submission asks for.

    Args:
        known: Plans that need not be read again.
        earlier: The run that it is to go on from, if it names one.

    Raises:
        PlanloomError: It cannot run here, and why.
    """
    run_id = checked_run_id(submission.run_id)
    text, plan = (known or PlansInHand()).of(submission.plan)
    started = _prepared(submission, plan, engine) if earlier is None else _prepared_again(submission, engine, earlier)
    problems = capabilities.problems(started.plan)
    if problems:
        raise plan_error(problems)
    if known is not None and earlier is None:
        known.keep(text, started.plan)
    return Submitted(run_id, without_secrets(run_id, started))


def _prepared(submission: PlanSubmission, plan: PlanSource, engine: Engine) -> RunStarted:
    try:
        limits = submission.own_limits
    except (pydantic.ValidationError, TypeError) as error:
        told = "; ".join(field_problems(error)) if isinstance(error, pydantic.ValidationError) else str(error)
        raise FieldError(f"limits: {told}") from error
    return engine.openings.of(
        plan,
        submission.inputs,
        limits=limits,
        parallel=submission.parallel,
        track_cost=submission.track_cost,
        allow=submission.allow,
        module=submission.module,
        request=submission.request,
        run_ahead=False,
    )


def _prepared_again(submission: PlanSubmission, engine: Engine, machine: RunMachine) -> RunStarted:
    asked = submission.earlier
    assert asked is not None
    if asked.step is None:
        return engine.openings.retry(machine, request=submission.request, run_ahead=False)
    return engine.openings.fork(
        machine,
        asked.step,
        asked.output,
        repeat_effects=asked.repeat_effects,
        request=submission.request,
        run_ahead=False,
    )


def refusal_of(error: PlanloomError, ticket: str) -> str:
    """Return what whoever submitted a run is told of its refusal; `ticket` says which submission it was."""
    return json.dumps({"request": ticket, "error": error.to_dict()}, default=str)


def taken_name(run_id: str) -> ConfigError:
    """Return the refusal of a run whose name another one has."""
    return ConfigError(f"there is a run {run_id!r} already", remedy="give it another run_id, or none")
