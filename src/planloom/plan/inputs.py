"""What a run is given, held against what its plan asks for.

Rule 1: a plan that declares no inputs takes whatever it is given.
Rule 2: what comes back is fresh and complete: nothing of it is shared with the caller or the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planloom.errors import InputsError, OutputError, PlanError, plan_error, suggestion
from planloom.plan.model import Plan
from planloom.plan.schemas import MAX_CHECKS, value_problems
from planloom.plan.terms import fresh
from planloom.plan.values import as_json


def check_inputs(plan: Plan, inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the inputs of a run, defaults filled in.

    Raises:
        InputsError: One is missing, unknown, of the wrong type or no JSON; several at once as `InvalidPlanError`.
    """
    if inputs is not None and not isinstance(inputs, Mapping):
        raise InputsError(f"inputs are a {type(inputs).__name__}", remedy="give a dict: name → value")
    try:
        given: dict[str, Any] = as_json(dict(inputs or {}), where="inputs")
    except OutputError as error:
        raise InputsError(error.message, remedy="give text, numbers, true, false, null, lists and dicts") from None
    if not plan.inputs:
        return given
    problems: list[PlanError] = []
    for name in given.keys() - plan.inputs.keys():
        remedy = suggestion(name, plan.inputs)
        problems.append(InputsError(f"the plan has no input {name!r}", remedy=remedy, path=("inputs", name)))
    for name, schema in plan.inputs.items():
        if name in given:
            problems += input_problems(name, given[name], schema)
        elif "default" in schema:
            given[name] = fresh(schema["default"])
        else:
            what = schema.get("description") or f"it is of type {schema.get('type', 'any')}"
            message = f"input {name!r} is missing: {what}"
            problems.append(InputsError(message, remedy=f"give a value for {name!r}", path=("inputs", name)))
    if problems:
        raise plan_error(sorted(problems, key=lambda problem: problem.path))
    return given


def inputs_schema(plan: Plan) -> dict[str, Any]:
    """Return what a plan takes as one JSON Schema; a plan that declares no inputs takes any."""
    if not plan.inputs:
        return {"type": "object"}
    required = [name for name, schema in plan.inputs.items() if "default" not in schema]
    schema: dict[str, Any] = {"type": "object", "properties": dict(plan.inputs), "additionalProperties": False}
    return schema | ({"required": required} if required else {})


def input_problems(
    name: str, value: Any, schema: dict[str, Any], *, max_checks: int | None = MAX_CHECKS
) -> list[PlanError]:
    """Return what keeps a value from being this input; `max_checks` as for `value_problems`."""
    remedy = "give what its schema asks for"
    return [
        InputsError(f"input {name!r} does not fit: {problem}", remedy=remedy, path=("inputs", name))
        for _, problem in value_problems(value, schema, max_checks=max_checks)
    ]
