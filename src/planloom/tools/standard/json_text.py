"""`json.extract` and `json.get`: JSON out of messy text, and a value out of JSON.

Rule 1: the work on hostile text is bounded: each false start costs what was read of it, and the sum is capped.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from planloom.errors import ArgumentsError
from planloom.plan.values import as_json
from planloom.tools.tool import Tool

MAX_TEXT = 1_000_000
MAX_READ = 5_000_000
"""Characters read in all before giving up on a text."""
_TOO_DEEP_COSTS = 10_000
"""What a start that nests too deeply is charged: about what the parser read of it."""

_SEGMENT = re.compile(r'\.?([^.\[\]"]+)|\[(-?\d{1,9})\]|\["([^"]*)"\]')


class _Absent:
    """No default was given; `None` is one."""


def extract(text: str, path: str = "") -> Any:
    """Find the first JSON object or array in a text, e.g. in a model's answer with words around it.

    Args:
        text: The text.
        path: What to return of it, e.g. "items[0].name"; by default all of it.
    """
    if len(text) > MAX_TEXT:
        raise ArgumentsError(f"the text has more than {MAX_TEXT:,} characters", remedy="give the part with the JSON")
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    budget = MAX_READ
    for start in (match.start() for match in re.finditer(r"[{\[]", text)):
        try:
            found, _ = decoder.raw_decode(text, start)
            return get(as_json(found), path)
        except json.JSONDecodeError as error:
            budget -= error.pos - start + 1
        except RecursionError:
            budget -= _TOO_DEEP_COSTS
        except ArgumentsError:
            raise
        except ValueError:  # NaN, or a number of too many digits
            budget -= len(text) - start
        if budget < 0:
            raise ArgumentsError(
                "the text has too many beginnings of JSON and no end", remedy="give the part with the JSON"
            )
    raise ArgumentsError("the text has no JSON object or array", remedy="give a text with {…} or […] in it")


def get(value: Any, path: str, default: Any = _Absent) -> Any:
    """Return one value out of a JSON value.

    Args:
        value: The JSON value.
        path: Where it is, e.g. "items[0].name", or 'items[0]["first name"]'; "" is the value itself.
        default: What to return when nothing is there; without it that is an error.
    """
    walked = ""
    for part in _parts(path):
        try:
            value = _inside(value, part)
        except (KeyError, IndexError, TypeError):
            if default is not _Absent:
                return default
            raise ArgumentsError(
                f"nothing is at {path!r}: {walked or 'the value'} has no {part!r}", remedy=f"there is {_there(value)}"
            ) from None
        walked = f"{walked}[{part}]" if isinstance(part, int) else f"{walked}.{part}".lstrip(".")
    return value


def _parts(path: str) -> list[str | int]:
    parts: list[str | int] = []
    place = 0
    while place < len(path):
        match = _SEGMENT.match(path, place)
        if match is None:
            raise ArgumentsError(
                f"the path {path[:200]!r} cannot be read from {path[place : place + 20]!r} on", remedy="write a.b[0].c"
            )
        name, index, quoted = match.groups()
        parts.append(int(index) if index is not None else quoted if quoted is not None else name)
        place = match.end()
    return parts


def _inside(value: Any, part: str | int) -> Any:
    if isinstance(value, dict) and isinstance(part, str):
        return value[part]
    if isinstance(value, list) and isinstance(part, int):
        return value[part]
    raise TypeError


def _there(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(map(repr, list(value)[:12])) or "nothing in it"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"a {type(value).__name__}, with nothing in it"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def json_tools() -> list[Tool]:
    """Return `json.extract` and `json.get`."""
    return [
        Tool.from_function(extract, name="json.extract", effects="none"),
        Tool.from_function(get, name="json.get", effects="none"),
    ]
