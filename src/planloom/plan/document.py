"""The text of a plan as a checked JSON value, and where in the text each part of it stands.

Rule 1: a text is untrusted. Its bytes, depth and number of values are capped before anything is made of it.
Rule 2: a document holds JSON values only. What an alias stands for may be in it twice; nobody changes it.
Rule 3: positions cost a second reading, so they are worked out only once something is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from planloom.errors import FieldError, OutputError, PlanError, PlanSyntaxError
from planloom.plan.values import as_json

MAX_BYTES = 4 * 1024 * 1024
"""Bytes of one plan text."""
MAX_DEPTH = 64
"""Levels of lists and mappings inside each other."""
MAX_NODES = 500_000
"""Values in one plan, aliases and sub-plans counted each time they are used."""
MAX_PROBLEMS = 200
"""Problems that are looked for in one plan; whoever has so many mends those first."""
MAX_NUMBER = 300
"""Characters of one number."""

Part = str | int
Path = tuple[Part, ...]
Place = tuple[int, int]
"""Line and column, 1-based."""

_OTHER_NAMES: dict[Part, tuple[str, ...]] = {
    "id": ("step_id",),
    "tool": ("tool_name",),
    "with": ("input", "parameters", "args"),
    "needs": ("depends_on", "requires"),
    "when": ("run_if", "condition"),
    "retry": ("retry_policy", "retry_count"),
    "max_attempts": ("retries",),
    "initial_delay": ("backoff_s",),
    "timeout_seconds": ("timeout_s", "max_duration"),
    "name": ("request_id",),
    "description": ("task",),
}
"""Native field → what the same thing is called in the other forms, to find it again in their text."""


@dataclass(slots=True)
class Positions:
    """Where the parts of a document stand in its text.

    Attributes:
        values: Path → where the value begins.
        keys: Path → where the key that names the value begins.
    """

    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)

    def find(self, path: Path, *, key: bool = False) -> Place | None:
        """Return the place of a path, or of the nearest part around it that is in the text."""
        known: Path = ()
        exact = True
        for part in path:
            names = (part, *_OTHER_NAMES.get(part, ()))
            step = next((name for name in names if (*known, name) in self.values), None)
            if step is None:
                exact = False
                break
            known = (*known, step)
        if key and exact and known in self.keys:
            return self.keys[known]
        return self.values.get(known)


@dataclass(frozen=True, slots=True)
class PlanDocument:
    """A plan as it was written, in whatever form.

    Attributes:
        value: JSON value, fresh.
        positions: Works out where its parts stand; None for a plan that never was text.
    """

    value: Any
    positions: Callable[[], Positions] | None = None


def locate(problems: list[PlanError], positions: Callable[[], Positions] | None) -> None:
    """Give each problem that has no line yet the line and column of its path."""
    if positions is None or all(problem.line is not None for problem in problems):
        return
    places = positions()
    for problem in problems:
        if problem.line is None:
            place = places.find(problem.path, key="unknown_field" in problem.facts)
            problem.line, problem.column = place or (1, 1)


def decode(raw: bytes) -> str:
    """Return the text of a plan file.

    Raises:
        PlanSyntaxError: Too large, binary, UTF-16 or not UTF-8; says where.
    """
    if len(raw) > MAX_BYTES:
        too_large(len(raw))
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        refuse("the text is UTF-16", "save the file as UTF-8", (1, 1))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8", "replace")
        if b"\0" in raw:
            refuse("this is a binary file, not a plan", "give a YAML, JSON or text file", place_at(before))
        refuse(f"byte 0x{raw[error.start]:02x} is not UTF-8", "save the file as UTF-8", place_at(before))
    return checked_text(text)


def checked_text(text: str) -> str:
    """Return the text if it can be a plan's: not empty, not too large, no NUL, nothing UTF-8 cannot write."""
    if len(text) > MAX_BYTES:
        too_large(len(text))
    if (nul := text.find("\0")) != -1:
        refuse("the text holds a NUL character", "give a text file; this one looks binary", place_at(text[:nul]))
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        refuse("half of a surrogate pair", "decode the text as UTF-8 first", place_at(text[: error.start]))
    if size > MAX_BYTES:
        too_large(size)
    text = text.removeprefix("\ufeff")
    if not text.strip():
        refuse("the plan is empty", "write at least `steps:` and one step below it", (1, 1))
    return text


def too_large(size_bytes: int) -> NoReturn:
    refuse(
        f"the plan has {size_bytes:,} bytes, the most is {MAX_BYTES:,}",
        "split it into sub-plans, and give large values as inputs",
        (1, 1),
    )


def refuse(message: str, remedy: str, place: Place, **facts: Any) -> NoReturn:
    raise PlanSyntaxError(message, remedy=remedy, line=place[0], column=place[1], **facts)


def place_at(before: str) -> Place:
    """Return the place just behind a text."""
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def python_value(value: Any) -> Any:
    """Return a plan built in Python as a fresh JSON value.

    Raises:
        FieldError: Something in it is not JSON; says where.
        PlanSyntaxError: Too deep or too large.
    """
    try:
        plain = as_json(value, where="plan")
    except OutputError as error:
        raise FieldError(
            error.message, remedy="a plan holds text, numbers, true, false, null, lists and dicts"
        ) from None
    count_nodes(plain)
    return plain


def count_nodes(value: Any) -> int:
    """Return how many values there are in a JSON value.

    Raises:
        PlanSyntaxError: Too many, or nested too deep.
    """
    count = 0
    level: list[Any] = [value]
    depth = 0
    while level:
        count += len(level)
        if count > MAX_NODES:
            refuse(f"the plan has over {MAX_NODES:,} values", "give large values as inputs", (1, 1))
        level = [child for entry in level if isinstance(entry, dict | list) for child in children(entry)]
        depth += bool(level)
        if depth > MAX_DEPTH:
            refuse(f"values are nested over {MAX_DEPTH} deep", "write something flatter", (1, 1))
    return count


def children(container: dict[str, Any] | list[Any]) -> Iterator[Any]:
    return iter(container.values() if isinstance(container, dict) else container)


# --- JSON -------------------------------------------------------------------------------------


class _NotJson(Exception):  # noqa: N818 - never leaves this file
    """What a JSON text holds that a plan may not, and the text to look for to find it again."""

    def __init__(self, message: str, remedy: str, sought: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.sought = sought


def read_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        PlanSyntaxError: Not JSON, a doubled key, NaN or Infinity, or over a cap; with its line and column.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int
        )
        _write_utf8(value)
    except json.JSONDecodeError as error:
        refuse(f"this is not JSON: {error.msg}", "check commas, quotes and brackets there", (error.lineno, error.colno))
    except RecursionError:
        refuse(f"values are nested over {MAX_DEPTH} deep", "write something flatter", (1, 1))
    except _NotJson as error:
        refuse(error.message, error.remedy, place_at(text[: max(0, text.find(error.sought))]))
    count_nodes(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _NotJson(f"key {twice!r} stands twice in one object", "keep one of them", f'"{twice}"')
    return made


def _constant(name: str) -> NoReturn:
    raise _NotJson(f"{name} is not a JSON number", "use null, or leave the field out", name)


def _float(digits: str) -> float:
    value = float(digits) if len(digits) <= MAX_NUMBER else float("inf")
    if value in (float("inf"), float("-inf")):
        raise _NotJson(f"the number {digits[:40]} is too large", "write it as text, in quotes", digits)
    return value


def _int(digits: str) -> int:
    if len(digits) > MAX_NUMBER:
        raise _NotJson(f"a number of {len(digits)} digits", "write it as text, in quotes", digits)
    return int(digits)


def _write_utf8(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _NotJson("half of a surrogate pair in a text", "write the character itself", "\\ud") from None
