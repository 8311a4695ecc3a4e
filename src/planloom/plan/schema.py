"""The JSON Schema of the native plan format, for editors and for models that write plans.

Rule 1: made from the model, so the two cannot drift apart; only what the model's types cannot say is added here.
Rule 2: it never refuses a plan that `load_plan` takes. What only `load_plan` can see (cycles, references) it lets pass.
"""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from planloom.plan.model import KINDS, Plan

DRAFT = "https://json-schema.org/draft/2020-12/schema"

_TEXT: dict[str, Any] = {"type": "string"}
_ID: dict[str, Any] = {"type": ["string", "integer"], "minLength": 1, "maxLength": 200}
_SHORTHANDS: dict[str, list[dict[str, Any]]] = {
    "agent": [_TEXT],
    "code": [_TEXT],
    "approve": [_TEXT],
    "wait": [_TEXT, {"type": "number", "minimum": 0}],
    "cache": [{"type": "boolean"}],
    "tools": [_TEXT],
}
"""Step field → what may stand there instead of its full form."""
_NEED_NAMES = ("needs", "depends_on", "requires")


def plan_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a plan in native form."""
    return deepcopy(_plan_schema())


@lru_cache(maxsize=1)
def _plan_schema() -> dict[str, Any]:
    # "serialization" would miss what is only accepted; "validation" is what a plan's author writes
    made = TypeAdapter(Plan).json_schema(by_alias=True, mode="validation", ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = made.pop("$defs")
    plan = definitions.pop("Plan", None) or {key: value for key, value in made.items() if key != "$ref"}
    _tighten_plan(plan)
    _tighten_step(definitions["Step"])
    limits = definitions["ResourceLimits"]["properties"]
    limits["max_duration"] = {
        "description": "Another name for timeout_seconds.",
        "anyOf": limits["timeout_seconds"]["anyOf"],
    }
    definitions["RetryPolicy"]["properties"]["retryable_exceptions"] = {"type": "array", "items": _TEXT}
    root: dict[str, Any] = {"$schema": DRAFT, "title": "planloom plan", "$ref": "#/$defs/Plan"}
    return root | {"$defs": {"Plan": plan, **definitions}}


def _tighten_plan(plan: dict[str, Any]) -> None:
    properties = plan["properties"]
    properties["planloom"] = {"const": properties["planloom"]["default"], "description": "Version of this format."}
    properties["allow"]["anyOf"].append(_TEXT)
    plan["anyOf"] = [{"required": ["steps"]}, {"required": ["planloom"]}]


def _tighten_step(step: dict[str, Any]) -> None:
    properties = step["properties"]
    properties["id"] = _ID
    for name, shorthands in _SHORTHANDS.items():
        properties[name]["anyOf"] += shorthands
    needs = properties["needs"] | {"description": "Steps this one waits for; references imply theirs."}
    entries = {"anyOf": [_ID, {"$ref": "#/$defs/Need"}]}
    for name in _NEED_NAMES:
        properties[name] = {key: value for key, value in needs.items() if key not in ("items", "type")} | {
            "anyOf": [{"type": "array", "items": entries}, *entries["anyOf"]]
        }
    given = {kind: {"required": [kind], "properties": {kind: {"not": {"type": "null"}}}} for kind in KINDS}
    step["oneOf"] = list(given.values())
    step["allOf"] = [
        {"not": {"required": [first, second]}}
        for at, first in enumerate(_NEED_NAMES)
        for second in _NEED_NAMES[at + 1 :]
    ]
