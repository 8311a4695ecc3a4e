"""Every field of a plan, with its type, bounds, default and meaning."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, TypeAdapter

from planloom.plan import gasa, model, policy
from scripts.reference.source import field_notes, field_notes_of_enum, introduction

TITLE = "Plan format"
TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "object",
}
SECTIONS: tuple[type, ...] = (
    model.Plan,
    model.Step,
    model.Need,
    policy.ResourceLimits,
    policy.RetryPolicy,
    policy.ApprovePolicy,
    policy.WaitPolicy,
    policy.CachePolicy,
    policy.AgentPolicy,
    policy.CodePolicy,
    policy.VerifyPolicy,
    policy.SpeculatePolicy,
    policy.ReplanPolicy,
    gasa.GasaPolicy,
    gasa.ChunkKVConfig,
)
CHOICES: tuple[type[StrEnum], ...] = (policy.Effects, policy.JoinRule, policy.OnError)


def body() -> str:
    schemas = TypeAdapter(model.Plan).json_schema()["$defs"]
    return "\n".join(
        [
            "The fields of the native form. Other forms and spellings become these when a plan is read.",
            "",
            *(line for of in SECTIONS for line in section(of, schemas[of.__name__])),
            *(line for of in CHOICES for line in _choice(of)),
        ]
    )


def section(of: type, schema: dict[str, Any]) -> list[str]:
    """Return what a class is for and its fields, under a heading that links lead to."""
    return [f"## {of.__name__}", "", _for_files(introduction(of.__doc__)), "", *field_rows(of, schema), ""]


def field_rows(of: type, schema: dict[str, Any]) -> list[str]:
    """Return a table of a class's fields, in the order of its source."""
    notes = field_notes(of)
    if not issubclass(of, BaseModel):
        notes["with"] = notes.pop("args", "Arguments, by name.")
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name in _in_order_of_source(of, schema["properties"]):
        field = schema["properties"][name]
        default = "required" if name in schema.get("required", ()) else _default(field)
        rows.append(f"| `{name}` | {_type(field)} | {default} | {_for_files(notes.get(name, ''))} |")
    return rows


def _for_files(note: str) -> str:
    """Return a note of the code in the words of a plan file."""
    words = note.replace("None:", "left out:").replace("`None`", "`null`")
    return words[:1].upper() + words[1:]


def _choice(of: type[StrEnum]) -> list[str]:
    notes = field_notes_of_enum(of)
    rows = [f"| `{member}` | {notes.get(member.name, '')} |" for member in of]
    return [
        f"## {of.__name__}",
        "",
        _for_files(introduction(of.__doc__)),
        "",
        "| value | meaning |",
        "|---|---|",
        *rows,
        "",
    ]


def _in_order_of_source(of: type, properties: dict[str, Any]) -> list[str]:
    written = [{"args": "with"}.get(name, name) for name in of.__annotations__]
    return sorted(properties, key=lambda name: written.index(name) if name in written else -1)


def _default(field: dict[str, Any]) -> str:
    default = field.get("default")
    return "" if default in (None, "", [], {}) else f"`{json.dumps(default)}`"


def _type(schema: dict[str, Any]) -> str:
    """Return a JSON Schema in a few words; an absent value is told by the default column."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(option) for option in schema["anyOf"] if option.get("type") != "null"))
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if schema.get("items") else "list"
    if "pattern" in schema:
        return " or ".join(f"`{value}`" for value in schema["pattern"].strip("^$()").split("|"))
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return TYPES.get(schema.get("type", ""), "any JSON") + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = ", ".join(f"{sign} {schema[word]}" for word, sign in words.items() if word in schema)
    return f" {bounds}" if bounds else ""
