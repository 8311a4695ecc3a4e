"""What OpenAI's two APIs have in common: what they refuse, and how they say so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from planloom.core.chat import Message, ToolSpec
from planloom.core.result import Usage
from planloom.testing.provider.answers import Status
from planloom.testing.provider.wire import Problem, closed_schema, named, object_schema, sse

NAME = r"[a-zA-Z0-9_-]{1,64}"
CREATED = 1_760_000_000
"""Seconds since the epoch that every answer says it was made at."""
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}
_REASONS = re.compile(r"(o\d|gpt-5(-mini|-nano)?(-\d|$))")


def reasons(model: str) -> bool:
    """Return whether a model thinks first: such models take no temperature and no `max_tokens`."""
    return _REASONS.match(model) is not None


def no_temperature(body: Mapping[str, Any], model: str) -> None:
    if reasons(model) and body.get("temperature") not in (None, 1):
        raise Problem("Unsupported value: 'temperature' does not support anything but 1 with this model.")


def error(status: Status) -> dict[str, Any]:
    kind = _TYPES.get(status.code, "server_error" if status.code >= 500 else "invalid_request_error")
    return {"error": {"message": status.message, "type": kind, "param": None, "code": None}}


def error_event(message: str) -> bytes:
    return sse(error(Status(500, message)))


def function_spec(function: Any, where: str) -> ToolSpec:
    """Return a function that may be called, of ``{"name", "description", "parameters", "strict"}``."""
    if not isinstance(function, dict):
        raise Problem(f"{where}: a function is required")
    name = named(function.get("name"), NAME, f"{where}.name")
    parameters = object_schema(function.get("parameters", {"type": "object"}), f"{where}.parameters")
    if function.get("strict"):
        closed_schema(parameters, f"{where}.parameters", all_required=True)
    return ToolSpec(name, function.get("description") or "", parameters)


def choice_of(choice: Any, name: str | None, tools: tuple[ToolSpec, ...]) -> str:
    """Return which tool must be called: "auto", "none", "required" or a name."""
    if choice is None:
        return "auto"
    if not tools:
        raise Problem("tool_choice: only allowed when 'tools' are specified")
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise Problem(f"tool_choice: {choice!r} is none of auto, none, required")
        return choice
    if name not in {tool.name for tool in tools}:
        raise Problem(f"tool_choice: {name!r} is not among 'tools'")
    return str(name)


def json_schema_of(form: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the schema of ``{"name", "schema", "strict"}``."""
    named(form.get("name"), NAME, f"{where}.name")
    schema = form.get("schema")
    if not isinstance(schema, dict):
        raise Problem(f"{where}.schema: a schema is required")
    if form.get("strict"):
        if schema.get("type") != "object":
            raise Problem(f"{where}.schema: schema must be a JSON Schema of 'type: \"object\"'")
        closed_schema(schema, f"{where}.schema", all_required=True)
    return schema


def says_json(messages: Iterable[Message]) -> None:
    if not any("json" in message.content.lower() for message in messages):
        raise Problem("the messages must contain the word 'json' in some form to ask for a JSON object")


def usage(used: Usage, names: tuple[str, str], *, thinking: int, **predicted: int | None) -> dict[str, Any]:
    """Return tokens in OpenAI's words; the two APIs have other names for the same."""
    prompt, completion = names
    told = {name: value for name, value in predicted.items() if value is not None}
    return {
        f"{prompt}_tokens": used.input_tokens,
        f"{completion}_tokens": used.output_tokens,
        "total_tokens": used.total_tokens,
        f"{prompt}_tokens_details": {
            "cached_tokens": used.cache_read_tokens,
            "cache_write_tokens": used.cache_write_tokens,
        },
        f"{completion}_tokens_details": {"reasoning_tokens": thinking, **told},
    }
