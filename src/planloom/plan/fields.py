"""Native document → Plan, with every wrong field in plain words.

Rule 1: types are strict: "30" is no number and 1 is no truth value. Forms and shorthands are the only leniency.
Rule 2: a wrong field never hides another problem: it is noted and left out, and the rest of its step is still read.
Rule 3: a step keeps its place among the steps, however little of it can be read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from planloom.errors import FieldError, PlanError, suggestion
from planloom.plan.document import MAX_PROBLEMS, Path
from planloom.plan.gasa import GasaPolicy
from planloom.plan.model import FORMAT_VERSION, Need, Plan, Step
from planloom.plan.policy import (
    AgentPolicy,
    ApprovePolicy,
    CachePolicy,
    CodePolicy,
    ResourceLimits,
    RetryPolicy,
    SpeculatePolicy,
    VerifyPolicy,
    WaitPolicy,
)

_PLAN: TypeAdapter[Plan] = TypeAdapter(Plan)
_STEP: TypeAdapter[Step] = TypeAdapter(Step)

PLAN_FIELDS = tuple(entry.name for entry in fields(Plan))
STEP_FIELDS = tuple("with" if entry.name == "args" else entry.name for entry in fields(Step))
LIMITS = (*ResourceLimits.model_fields, "max_duration")
_POLICIES: dict[str, tuple[str, ...]] = {
    "agent": tuple(AgentPolicy.model_fields),
    "code": tuple(CodePolicy.model_fields),
    "approve": tuple(ApprovePolicy.model_fields),
    "wait": tuple(WaitPolicy.model_fields),
    "retry": tuple(RetryPolicy.model_fields),
    "cache": tuple(CachePolicy.model_fields),
    "verify": tuple(VerifyPolicy.model_fields),
    "speculate": tuple(SpeculatePolicy.model_fields),
    "gasa": tuple(GasaPolicy.model_fields),
    "needs": tuple(entry.name for entry in fields(Need)),
}

_EXPECTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "dataclass_type": "a mapping",
    "dataclass_exact_type": "a mapping",
}
_BOUNDS = {
    "greater_than": ("gt", "over"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "under"),
    "less_than_equal": ("le", "at most"),
}


@dataclass(frozen=True, slots=True)
class Fields:
    """What could be read of a plan.

    Attributes:
        plan: The plan, wrong fields left out.
        dropped: Place of a step → its fields that were left out.
    """

    plan: Plan
    dropped: Mapping[int, frozenset[str]]
    problems: tuple[PlanError, ...]


def read_fields(document: Mapping[str, Any], sub_plans: Mapping[int, Plan]) -> Fields:
    """Return the plan of a native document, as far as it can be read, and everything wrong with its fields.

    Args:
        document: Native, JSON values only.
        sub_plans: Place of a step → its sub-plan, which the document no longer holds.
    """
    problems: list[PlanError] = []
    head = {name: value for name, value in document.items() if name != "steps"}
    problems += _check_limits(head)
    problems += _version(head)
    plan = _plan_of(head, problems)
    entries = document.get("steps", [])
    if not isinstance(entries, list):
        problems.append(_wrong(("steps",), "must be a list", entries, "write each step as `- id: …` below `steps:`"))
        entries = []
    elif "steps" not in document and "planloom" not in document:
        problems.append(
            FieldError("'steps' is missing", remedy="write `steps:` and one step below it", path=("steps",))
        )
    steps: list[Step] = []
    dropped: dict[int, frozenset[str]] = {}
    for place, entry in enumerate(entries):
        if len(problems) > MAX_PROBLEMS:
            break
        step, found, lost = _step_of(entry, place)
        steps.append(replace(step, plan=sub_plans[place]) if place in sub_plans else step)
        problems += found
        if lost:
            dropped[place] = lost
    return Fields(replace(plan, steps=tuple(steps)), dropped, tuple(problems))


def _plan_of(head: dict[str, Any], problems: list[PlanError]) -> Plan:
    try:
        return _PLAN.validate_json(json.dumps(head), strict=True)
    except ValidationError as error:
        found, lost = _translated(error, head, (), PLAN_FIELDS)
        problems += found
    kept = {name: value for name, value in head.items() if name not in lost}
    return _PLAN.validate_json(json.dumps(kept), strict=True)


def _step_of(entry: Any, place: int) -> tuple[Step, list[PlanError], frozenset[str]]:
    path: Path = ("steps", place)
    if not isinstance(entry, dict):
        no_step = _wrong(path, "must be a mapping", entry, "write each step as `- id: …`, its fields below")
        return Step(id=f"step {place + 1}"), [no_step], frozenset(STEP_FIELDS)
    try:
        return _STEP.validate_json(json.dumps(entry), strict=True), [], frozenset()
    except ValidationError as error:
        found, lost = _translated(error, entry, path, STEP_FIELDS)
    name = entry.get("id")
    for problem in found:
        problem.step = str(name) if isinstance(name, str | int) else None
    kept = {field: value for field, value in entry.items() if field not in lost}
    if "id" not in kept:
        kept["id"] = f"step {place + 1}"
    return _STEP.validate_json(json.dumps(kept), strict=True), found, lost


def _check_limits(head: dict[str, Any]) -> list[PlanError]:
    """Note limits of wrong names and types, and leave those out: `ResourceLimits` itself is lenient."""
    limits = head.get("limits")
    if not isinstance(limits, dict):
        return []
    found: list[PlanError] = []
    for name, value in limits.items():
        if len(found) > MAX_PROBLEMS:
            break
        path = ("limits", name)
        if name not in LIMITS:
            found.append(_unknown(path, name, LIMITS))
        elif isinstance(value, bool) or not isinstance(value, int | float | None):
            found.append(_wrong(path, "must be a number, or null for no limit", value))
    if {"max_duration", "timeout_seconds"} <= limits.keys():
        found.append(
            FieldError(
                "'max_duration' is another name for 'timeout_seconds'",
                remedy="keep one",
                path=("limits", "max_duration"),
            )
        )
    wrong = {found_one.path[1] for found_one in found}
    head["limits"] = {name: value for name, value in limits.items() if name in LIMITS and name not in wrong}
    return found


def _version(head: dict[str, Any]) -> list[PlanError]:
    version = head.get("planloom", FORMAT_VERSION)
    if type(version) is int and version == FORMAT_VERSION:
        return []
    del head["planloom"]
    return [
        FieldError(
            f"this plan is of format {version!r}; this planloom reads format {FORMAT_VERSION}",
            remedy=f"write `planloom: {FORMAT_VERSION}`, or install the planloom that reads it",
            path=("planloom",),
        )
    ]


# --- pydantic's errors in plain words ---------------------------------------------------------


def _translated(
    error: ValidationError, entry: dict[str, Any], base: Path, names: tuple[str, ...]
) -> tuple[list[PlanError], frozenset[str]]:
    """Return one problem for each part of the document that pydantic complains about, and the fields they lie in."""
    by_path: dict[Path, list[Any]] = {}
    for detail in error.errors(include_url=False):
        by_path.setdefault(_path_in(entry, detail), []).append(detail)
    around = {path[:length] for path in by_path for length in range(len(path))}
    deepest = [path for path in by_path if path not in around]
    told = [_problem(base, path, by_path[path], entry, names) for path in deepest[: MAX_PROBLEMS + 1]]
    return told, frozenset(str(path[0]) for path in deepest)


def _path_in(entry: Any, detail: Any) -> Path:
    """Return a pydantic location without the names of types in it."""
    path: Path = ()
    value = entry
    last = len(detail["loc"]) - 1
    for at, part in enumerate(detail["loc"]):
        is_there = (isinstance(value, dict) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        )
        if is_there:
            value = value[part]
            path = (*path, part)
        elif at == last and (detail["type"] == "missing" or not path):
            path = (*path, part)
    return path


def _problem(base: Path, path: Path, details: list[Any], entry: dict[str, Any], names: tuple[str, ...]) -> PlanError:
    detail = details[0]
    kind, context = detail["type"], detail.get("ctx", {})
    full = (*base, *path)
    name = path[-1] if path else "step"
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return _unknown(full, str(name), names if len(path) == 1 else _POLICIES.get(str(path[0]), ()))
    if kind == "missing":
        return FieldError(f"{name!r} is missing", remedy=f"write `{name}: …`", path=full)
    value = _at(entry, path)
    expected = list(dict.fromkeys(_EXPECTED[one["type"]] for one in details if one["type"] in _EXPECTED))
    if expected and len(expected) == len({one["type"] for one in details}):
        return _wrong(full, f"must be {' or '.join(expected)}", value)
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return _wrong(full, f"must be {words} {context[key]:g}", value)
    if kind == "enum":
        return _choice(full, value, _quoted(context["expected"]))
    if kind == "string_pattern_mismatch":
        return _choice(full, value, context["pattern"].strip("^$()").split("|"))
    if kind in ("string_too_short", "string_too_long"):
        least, most = context.get("min_length"), context.get("max_length")
        wanted = f"at least {least}" if least else f"at most {most}"
        return _wrong(full, f"must have {wanted} characters", value)
    expected = expected or [str(detail["msg"]).removeprefix("Input should be ")]
    return _wrong(full, f"must be {' or '.join(expected)}", value)


def _at(value: Any, path: Path) -> Any:
    for part in path:
        value = value[part]
    return value


def _quoted(expected: str) -> list[str]:
    return [part for at, part in enumerate(expected.split("'")) if at % 2]


def _unknown(path: Path, name: str, names: Iterable[str]) -> FieldError:
    where = "a step" if path[0] == "steps" and len(path) == 3 else f"{path[-2]!r}" if len(path) > 1 else "a plan"
    remedy = suggestion(name, names, otherwise="take it out")
    return FieldError(f"{where} has no field {name!r}", remedy=remedy, path=path, unknown_field=name)


def _choice(path: Path, value: Any, choices: list[str]) -> FieldError:
    return _wrong(path, f"must be one of {', '.join(choices)}", value, suggestion(str(value), choices))


def _wrong(path: Path, wanted: str, value: Any, remedy: str = "") -> FieldError:
    name = ".".join(str(part) for part in path[2:]) if path[0] == "steps" and len(path) > 2 else str(path[-1])
    subject = f"step {path[-1] + 1}" if isinstance(path[-1], int) and len(path) == 2 else repr(name)
    return FieldError(f"{subject} {wanted}, not {_shown(value)}", remedy=remedy or f"change it: it {wanted}", path=path)


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return f"the text {value[:60]!r}"
    return json.dumps(value)
