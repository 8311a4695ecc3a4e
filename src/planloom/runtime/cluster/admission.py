"""A submission becomes a run, or is refused where whoever submitted it looks.

Rule 1: it is checked whole, as an engine checks it, and against the modules: all that is wrong is told at once.
Rule 2: nothing runs ahead in a run of the cluster: whoever takes its next turn knows only the record.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pydantic

from planloom.errors import ConfigError, FieldError, PlanloomError, field_problems, plan_error
from planloom.runtime.cluster.inputs import Submitted
from planloom.runtime.declared import without_secrets
from planloom.runtime.run_ids import checked_run_id

if TYPE_CHECKING:
    from planloom.runtime.cluster.bodies import PlanSubmission
    from planloom.runtime.cluster.capabilities import Capabilities
    from planloom.runtime.engine import Engine


def admitted(submission: PlanSubmission, engine: Engine, capabilities: Capabilities) -> Submitted:
    """Return the run that a submission asks for.

    Raises:
        PlanloomError: It cannot run here, and why.
    """
    run_id = checked_run_id(submission.run_id)
    try:
        limits = submission.own_limits
    except (pydantic.ValidationError, TypeError) as error:
        told = "; ".join(field_problems(error)) if isinstance(error, pydantic.ValidationError) else str(error)
        raise FieldError(f"limits: {told}") from error
    started = engine.prepared(
        submission.plan,
        submission.inputs,
        limits=limits,
        parallel=submission.parallel,
        track_cost=submission.track_cost,
        allow=submission.allow,
        module=submission.module,
        request=submission.request,
        run_ahead=False,
    )
    problems = capabilities.problems(started.plan)
    if problems:
        raise plan_error(problems)
    return Submitted(run_id, without_secrets(run_id, started))


def refusal_of(error: PlanloomError, request: str) -> str:
    """Return what whoever submitted a run is told of its refusal; `request` says which submission it was."""
    return json.dumps({"request": request, "error": error.to_dict()}, default=str)


def taken_name(run_id: str) -> ConfigError:
    """Return the refusal of a run whose name another one has."""
    return ConfigError(f"there is a run {run_id!r} already", remedy="give it another run_id, or none")
