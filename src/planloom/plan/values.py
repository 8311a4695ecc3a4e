"""JSON values: the only kind of value that a step gives, takes and leaves on record.

Rule 1: `as_json` returns a fresh copy in plain types; nothing of it is shared with what it was made from.
Rule 2: whatever has no one faithful JSON form is refused with the path to it, never guessed at or dropped.
Rule 3: the copy survives `json.loads(json.dumps(copy))` unchanged, and its text can be written as UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from types import CoroutineType
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from planloom.errors import OutputError

MAX_DEPTH = 200
"""Levels of lists and dicts inside each other; parsers of other languages stop not far beyond."""
MAX_INT = 10**4299
"""Python itself refuses to read or write an integer of more than 4,300 digits."""

_REMEDY = "return text, numbers, booleans, None, lists and dicts of them, dataclasses or pydantic models"
_INFINITY = float("inf")


class _Refused(Exception):  # noqa: N818 - never leaves this file
    """Why a value is not JSON; each container it passes on its way up adds where it was."""

    def __init__(self, problem: str, remedy: str = _REMEDY) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy
        self.path: list[str | int] = []
        self.containers: list[int] = []

    def within(self, container: object, place: str | int) -> _Refused:
        self.path.append(place)
        self.containers.append(id(container))
        return self


def as_json(value: object, *, where: str = "output") -> Any:
    """Return a deep copy of a value in plain JSON types.

    Pydantic models are written as they serialise themselves (`model_dump(mode="json")`), dataclasses by their fields,
    tuples as lists, enums by their value, datetime, date, time, UUID, path and Decimal as text. A set becomes a list
    sorted by value, or, where its items cannot be compared, by their JSON text.

    Args:
        value: What a tool returned, or what a run is given.
        where: What the path in an error begins with.

    Raises:
        OutputError: Anything else, and NaN, infinity, keys that are not text, cycles, bytes, coroutines, more than
            `MAX_DEPTH` levels, integers of more than 4,299 digits, and text that UTF-8 cannot write.
    """
    try:
        return _copy(value, MAX_DEPTH)
    except _Refused as refused:
        raise _output_error(refused, where) from None


def _copy(value: Any, levels: int) -> Any:
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _text(value)
    if kind is int:
        return value if -MAX_INT < value < MAX_INT else _too_long()
    if value is None or kind is bool:
        return value
    if kind is dict:
        return _dict(value, levels)
    if kind is float:
        return value if -_INFINITY < value < _INFINITY else _not_finite(value)
    if kind is list or kind is tuple:
        return _list(value, levels)
    return _other(value, levels)


def _dict(value: dict[Any, Any], levels: int) -> dict[str, Any]:
    if not levels:
        raise _Refused(f"lies more than {MAX_DEPTH} levels deep", "return something flatter")
    copy: dict[str, Any] = {}
    key: Any = None
    try:
        for key, entry in value.items():
            name = key if type(key) is str and key.isascii() else _key(key)
            copy[name] = _copy(entry, levels - 1)
    except _Refused as refused:
        raise refused.within(value, key if isinstance(key, str) else _shown(key)) from None
    if len(copy) < len(value):
        raise _Refused("two of its keys are the same text", "give each entry a key of its own")
    return copy


def _list(value: list[Any] | tuple[Any, ...], levels: int) -> list[Any]:
    if not levels:
        raise _Refused(f"lies more than {MAX_DEPTH} levels deep", "return something flatter")
    copy: list[Any] = []
    try:
        for entry in value:
            copy.append(_copy(entry, levels - 1))
    except _Refused as refused:
        raise refused.within(value, len(copy)) from None
    return copy


def _other(value: Any, levels: int) -> Any:
    """Return the JSON form of what is not of a plain type itself."""
    if isinstance(value, Enum):
        return _copy(value.value, levels)
    if isinstance(value, str):
        return _text(str.__str__(value))
    if isinstance(value, int):
        return _copy(int.__pos__(value), levels)
    if isinstance(value, float):
        return _copy(float.__pos__(value), levels)
    if isinstance(value, dict):
        return _dict(value, levels)
    if isinstance(value, list | tuple):
        return _list(value, levels)
    if isinstance(value, set | frozenset):
        return _sorted(_list(list(value), levels))
    if isinstance(value, BaseModel):
        return _copy(_model(value), levels)
    if is_dataclass(value) and not isinstance(value, type):
        return _dict({field.name: getattr(value, field.name) for field in fields(value)}, levels)
    return _as_text(value)


def _as_text(value: Any) -> str:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, PurePath):
        return _text(str(value))
    if isinstance(value, Decimal):
        return str(value) if value.is_finite() else _not_finite(value)
    raise _no_json(value)


def _model(model: BaseModel) -> Any:
    try:
        return model.model_dump(mode="json")
    except ValueError as error:  # pydantic's own serialisation error, and its word for a cycle
        raise _Refused(f"is a {type(model).__name__} that cannot be serialised: {error}") from None


def _sorted(items: list[Any]) -> list[Any]:
    try:
        return sorted(items)
    except TypeError:
        return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))


def _key(key: Any) -> str:
    if isinstance(key, Enum):
        key = key.value
    if not isinstance(key, str):
        raise _Refused(f"is a key that is not text: {_shown(key)}", "make every key a string, e.g. with str(key)")
    return _text(str.__str__(key))


def _shown(key: object) -> str:
    """Return a number as it is and anything else as its type: its own `repr` may be long, secret or fail."""
    return str(key) if isinstance(key, int | float) and -MAX_INT < key < MAX_INT else f"a {type(key).__name__}"


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Refused(
            "is text that UTF-8 cannot write (half of a surrogate pair)",
            "decode it properly, or return text.encode('utf-8', 'replace').decode()",
        ) from None
    return text


def _too_long() -> Any:
    raise _Refused("is an integer of more than 4,299 digits", "return it as text")


def _not_finite(value: object) -> Any:
    raise _Refused(f"is {value}, which JSON does not have", "return None, or leave it out")


def _no_json(value: object) -> _Refused:
    name = type(value).__name__
    if isinstance(value, Awaitable):
        if isinstance(value, CoroutineType):
            value.close()  # else Python warns of a coroutine never awaited, long after anyone could tell whose it was
        return _Refused(f"is a {name} that nobody awaited", "declare the tool with `async def`, or await it inside")
    if isinstance(value, bytes | bytearray | memoryview):
        return _Refused(f"is {name}", "decode it, or return base64 text")
    if isinstance(value, BaseException):
        return _Refused(f"is an error ({name}: {value})", "raise it: an error is never a value")
    return _Refused(f"is of type {name}, which has no JSON form")


def _output_error(refused: _Refused, where: str) -> OutputError:
    names = [where, *map(_segment, reversed(refused.path))]
    if len(set(refused.containers)) < len(refused.containers):
        problem, remedy = "contains itself", "return a tree, without references back to what holds it"
    else:
        problem, remedy = refused.problem, refused.remedy
    path = "".join(names if len(names) <= 12 else [*names[:6], " … ", *names[-3:]])
    return OutputError(f"{path} {problem}", remedy=remedy, path=path)


def _segment(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if part.isidentifier() else f"[{part[:60]!r}]"
