"""What a protocol is made of, and what all of them check alike.

Rule 1: a check is here because the real provider makes it, and because getting it wrong is easy: a test kit that takes
everything proves nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from planloom.testing.provider.answers import RecordedRequest, Reply, Status

WITHHELD = "(withheld)"


class Problem(Exception):  # noqa: N818 - it is no failure here: it is what the provider answers
    """Why a provider refuses a request.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True)
class SentEvent:
    """One event of a stream, as it goes over the wire.

    Attributes:
        piece: It carries a piece of the answer.
    """

    content: bytes
    piece: bool = False


@dataclass(frozen=True, slots=True)
class Wire:
    """How one API is spoken.

    Attributes:
        key_headers: The headers its key may come in.
        read: Path and body → what the request says; raises `Problem`.
        whole: The answer in one.
        stream: The answer in events.
        error: Body of an error.
        error_event: Message → event of an error that comes in the middle of a stream.
        tells_wait_in_header: Whether `Retry-After` says how long to wait; if not, the error's body does.
    """

    name: str
    key_headers: tuple[str, ...]
    read: Callable[[str, dict[str, Any]], dict[str, Any]]
    whole: Callable[[Reply, RecordedRequest], dict[str, Any]]
    stream: Callable[[Reply, RecordedRequest], Iterator[SentEvent]]
    error: Callable[[Status], dict[str, Any]]
    error_event: Callable[[str], bytes]
    required_headers: tuple[str, ...] = ()
    tells_wait_in_header: bool = True


def pieces(text: str) -> list[str]:
    """Return a text in words, each with the blanks after it; put together they are the text."""
    return re.findall(r"\s*\S+\s*", text) or ([text] if text else [])


def sse(value: Any, *, event: str | None = None, end: str = "\n\n") -> bytes:
    """Return a server-sent event."""
    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return ((f"event: {event}\n" if event else "") + f"data: {said}{end}").encode("utf-8", "surrogatepass")


# --- what requests have in common ---------------------------------------------------------------


def fields_of(body: Mapping[str, Any], known: str, where: str = "") -> None:
    """Refuse fields that the API does not have; `known` lists those it has."""
    unknown = sorted(body.keys() - set(known.split()))
    if unknown:
        raise Problem(f"{where}{unknown[0]}: unknown field")


def text_in(body: Mapping[str, Any], name: str) -> str:
    """Return a field that must be there and be text."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise Problem(f"{name}: field required")
    return value


def list_in(body: Mapping[str, Any], name: str) -> list[Any]:
    """Return a field that must be a list and hold something."""
    value = body.get(name)
    if not isinstance(value, list):
        raise Problem(f"{name}: a list is required")
    if not value:
        raise Problem(f"{name}: at least one is required")
    return value


def whole_number(body: Mapping[str, Any], name: str, *, least: int = 1) -> int | None:
    """Return a field that is a whole number, or None where it is not there."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise Problem(f"{name}: must be a whole number of at least {least}, not {value!r}")
    return value


def number(body: Mapping[str, Any], name: str, *, most: float) -> float | None:
    """Return a field between 0 and `most`, or None where it is not there."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise Problem(f"{name}: must be between 0 and {most}, not {value!r}")
    return float(value)


def object_schema(schema: Any, where: str) -> dict[str, Any]:
    """Return the schema of a tool's arguments."""
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise Problem(f"{where}: schema must be a JSON Schema of 'type: \"object\"', got {schema!r:.80}")
    return schema


def closed_schema(schema: Any, where: str, *, all_required: bool) -> None:
    """Refuse what strict output does not take: objects that are open, and, with OpenAI, properties left out."""
    if isinstance(schema, list):
        for part in schema:
            closed_schema(part, where, all_required=all_required)
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            raise Problem(f"{where}: 'additionalProperties' is required to be supplied and to be false")
        missing = sorted(schema.get("properties", {}).keys() - set(schema.get("required", ())))
        if all_required and missing:
            raise Problem(f"{where}: 'required' must hold every property, {missing[0]!r} is missing")
    for name, part in schema.items():
        if name in ("properties", "$defs", "definitions"):
            for inner in part.values():
                closed_schema(inner, where, all_required=all_required)
        elif name not in ("enum", "const", "default", "examples"):
            closed_schema(part, where, all_required=all_required)


def named(name: Any, pattern: str, where: str) -> str:
    """Return a name that fits what the provider takes."""
    if not isinstance(name, str) or not re.fullmatch(pattern, name):
        raise Problem(f"{where}: {name!r} does not fit {pattern}")
    return name
