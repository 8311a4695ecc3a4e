"""What an expression is made of: terms that work out to a JSON value, and the fixed list of functions.

Rule 1: no calls into Python, no attributes, no loops, no arithmetic: what is not in here cannot be said.
Rule 2: what cannot be found is an error that names the step, the path and what is there. `default` and `exists` are
the only ways round it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any, NoReturn, Protocol

from planloom.errors import EvaluationError, MissingValueError, suggestion

ROOTS = ("inputs", "steps", "item", "index", "run")
STEP_FIELDS = ("output", "status", "error", "errors", "attempts")
MAX_TEXT = 16_000_000
"""Characters one text may grow to; and all texts together that the functions of one expression make on the way."""
MAX_DIGITS = 4_300
"""Places to round to, either way; Python itself reads no longer number."""

Part = str | int


class Scope(Protocol):
    """What references see: the heart gives one per plan or sub-plan instance, and one per item."""

    def root(self, name: str) -> Any:
        """Return the value of `inputs`, `item`, `index` or `run`; raises MissingValueError."""
        ...

    def step(self, step_id: str, field: str) -> Any:
        """Return one of STEP_FIELDS of a step; raises MissingValueError where it has none."""
        ...


def fresh(value: Any) -> Any:
    """Return the JSON value with every container copied."""
    if type(value) is dict:
        return {key: fresh(entry) for key, entry in value.items()}
    if type(value) is list:
        return [fresh(entry) for entry in value]
    return value


def as_text(value: Any) -> str:
    """Return text as it is, anything else as compact JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def truthy(value: Any) -> bool:
    """Return False for null, false, 0, "", [] and {}."""
    return bool(value)


# --- the tree of an expression ----------------------------------------------------------------


class Term(Protocol):
    def evaluate(self, scope: Scope) -> Any: ...


class _Metered:
    """A scope that also counts what functions make: `json(json(json(…)))` doubles its text with every call."""

    def __init__(self, scope: Scope) -> None:
        self.root = scope.root
        self.step = scope.step
        self._made = 0

    def made(self, value: Any) -> None:
        """Count a value that a function made; a list counts as much as it takes."""
        self._made += 8 * len(value) if isinstance(value, list) else len(value) * (1 if value.isascii() else 4)
        if self._made > MAX_TEXT:
            message = f"functions make over {MAX_TEXT} characters in all"
            raise EvaluationError(
                message, remedy="nest fewer of json, text, join and split, or refer to smaller values"
            )


@dataclass(frozen=True, slots=True)
class Bounded:
    """A term with functions in it that make something of what others made."""

    inner: Term

    def evaluate(self, scope: Scope) -> Any:
        return self.inner.evaluate(scope if isinstance(scope, _Metered) else _Metered(scope))


@dataclass(frozen=True, slots=True)
class Literal:
    value: Any

    def evaluate(self, scope: Scope) -> Any:
        return self.value


@dataclass(frozen=True, slots=True)
class Ref:
    """A typed reference. For root `steps`, `path` begins with the step's id and the field."""

    root: str
    path: tuple[Part, ...] = ()

    def __str__(self) -> str:
        return self.root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)

    def evaluate(self, scope: Scope) -> Any:
        if self.root == "steps":
            value = scope.step(self.path[0], self.path[1])  # type: ignore[arg-type]  # the parser made both text
            rest = self.path[2:]
        else:
            value = scope.root(self.root)
            rest = self.path
        for part in rest:
            if type(value) is dict:
                key = part if part in value else str(part)
                if key not in value:
                    self._missing(part, value)
                value = value[key]
            elif type(value) is list and isinstance(part, int) and -len(value) <= part < len(value):
                value = value[part]
            else:
                self._missing(part, value)
        return value

    def _missing(self, part: Part, found: Any) -> NoReturn:
        there: str
        if isinstance(found, dict):
            there = f"the keys there are {', '.join(sorted(found)[:20])}" if found else "it is an empty object"
            remedy = suggestion(str(part), found)
        elif isinstance(found, list):
            there = f"there is a list of {len(found)}"
            remedy = f"use an index from 0 to {len(found) - 1}" if found else "check for an empty list with `len`"
        else:
            there = f"there is {as_text(found)[:60]}, which has no parts"
            remedy = "refer to the value itself"
        raise MissingValueError(
            f"{self} leads nowhere: no {part!r}; {there}",
            remedy=f"{remedy or 'check the spelling'}, or give a fallback: default({self}, …)",
            reference=str(self),
        )


@dataclass(frozen=True, slots=True)
class Not:
    inner: Term

    def evaluate(self, scope: Scope) -> Any:
        return not truthy(self.inner.evaluate(scope))


@dataclass(frozen=True, slots=True)
class AndOr:
    is_and: bool
    sides: tuple[Term, ...]

    def evaluate(self, scope: Scope) -> Any:
        if self.is_and:
            return all(truthy(side.evaluate(scope)) for side in self.sides)
        return any(truthy(side.evaluate(scope)) for side in self.sides)


@dataclass(frozen=True, slots=True)
class Listing:
    entries: tuple[Term, ...]

    def evaluate(self, scope: Scope) -> Any:
        return [entry.evaluate(scope) for entry in self.entries]


@dataclass(frozen=True, slots=True)
class Comparison:
    left: Term
    sign: str
    right: Term

    def evaluate(self, scope: Scope) -> Any:
        left, right = self.left.evaluate(scope), self.right.evaluate(scope)
        if self.sign in ("==", "!="):
            return _same(left, right) is (self.sign == "==")
        if self.sign in ("in", "not in"):
            return _contains(right, left) is (self.sign == "in")
        if not _ordered(left, right):
            raise EvaluationError(
                f"cannot compare {_kind(left)} {self.sign} {_kind(right)}",
                remedy="compare numbers with numbers and text with text; number(…) turns text into a number",
            )
        if self.sign == "<":
            return left < right
        if self.sign == "<=":
            return left <= right
        return left > right if self.sign == ">" else left >= right


@dataclass(frozen=True, slots=True)
class FunctionCall:
    name: str
    arguments: tuple[Term, ...]

    def evaluate(self, scope: Scope) -> Any:
        if self.name in ("default", "exists"):
            try:
                value = self.arguments[0].evaluate(scope)
            except MissingValueError:
                return self.arguments[1].evaluate(scope) if self.name == "default" else False
            return value if self.name == "default" else True
        values = [argument.evaluate(scope) for argument in self.arguments]
        try:
            value = FUNCTIONS[self.name][0](*values)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            given = ", ".join(_kind(value) for value in values)
            raise EvaluationError(
                f"{self.name}({given}) cannot be worked out: {error}", remedy=f"see {FUNCTIONS[self.name][2]}"
            ) from None
        if self.name in MAKING and type(scope) is _Metered:
            scope.made(value)
        return value


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true/false", int: "number", float: "number", str: "text", list: "list", dict: "object"}
    return names.get(type(value), type(value).__name__)


def _same(left: Any, right: Any) -> bool:
    """Return whether two JSON values are equal. Python says True == 1, also inside lists; JSON does not."""
    pairs = [(left, right)]
    while pairs:
        one, other = pairs.pop()
        if isinstance(one, bool) is not isinstance(other, bool):
            return False
        if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
            pairs.extend(zip(one, other, strict=True))
        elif isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
            pairs.extend((one[key], other[key]) for key in one)
        elif one != other:
            return False
    return True


def _ordered(left: Any, right: Any) -> bool:
    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    return (number(left) and number(right)) or (isinstance(left, str) and isinstance(right, str))


def _contains(container: Any, value: Any) -> bool:
    if isinstance(container, str):
        return isinstance(value, str) and value in container
    if isinstance(container, dict):
        return value in container if isinstance(value, str) else False
    if isinstance(container, list):
        return any(_same(entry, value) for entry in container)
    raise EvaluationError(f"cannot look inside {_kind(container)}", remedy="use `in` with a list, an object or a text")


def _number(value: Any) -> int | float:
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 400:
            raise ValueError("too long for a number")
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else finite(float(text))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise TypeError("not a number")


def finite(value: float) -> float:
    if not isfinite(value):
        raise ValueError("not a finite number")
    return value


def _join(values: list[Any], separator: str = "") -> str:
    parts = [as_text(value) for value in values]
    if sum(map(len, parts)) + len(separator) * (len(parts) - 1) > MAX_TEXT:
        raise ValueError(f"text over {MAX_TEXT} characters")
    return separator.join(parts)


def _round(value: Any, digits: int | None = None) -> int | float:
    number = _number(value)
    if digits is not None and abs(digits) > MAX_DIGITS:
        raise ValueError(f"over {MAX_DIGITS} digits")
    return round(number, digits)


def _sized(value: Any) -> int:
    if isinstance(value, str | list | dict):
        return len(value)
    raise TypeError("has no length")


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[int, int], str]] = {
    "default": (lambda value, other: value, (2, 2), "default(reference, fallback): the fallback if it leads nowhere"),
    "exists": (lambda value: True, (1, 1), "exists(reference): whether it leads somewhere"),
    "len": (_sized, (1, 1), "len(text, list or object)"),
    "lower": (lambda text: str.lower(text), (1, 1), "lower(text)"),
    "upper": (lambda text: str.upper(text), (1, 1), "upper(text)"),
    "trim": (lambda text: str.strip(text), (1, 1), "trim(text): without space at both ends"),
    "contains": (_contains, (2, 2), "contains(list, object or text; value)"),
    "starts_with": (lambda text, start: str.startswith(text, start), (2, 2), "starts_with(text, start)"),
    "ends_with": (lambda text, end: str.endswith(text, end), (2, 2), "ends_with(text, end)"),
    "number": (_number, (1, 1), "number(text)"),
    "text": (as_text, (1, 1), "text(value)"),
    "json": (lambda value: json.dumps(value, ensure_ascii=False), (1, 1), "json(value): as JSON, text in quotes"),
    "round": (_round, (1, 2), "round(number, digits)"),
    "abs": (lambda value: abs(_number(value)), (1, 1), "abs(number)"),
    "min": (lambda values: min(map(_number, values)), (1, 1), "min(list of numbers)"),
    "max": (lambda values: max(map(_number, values)), (1, 1), "max(list of numbers)"),
    "sum": (lambda values: finite(sum(map(_number, values))), (1, 1), "sum(list of numbers)"),
    "all": (lambda values: all(map(truthy, list(values))), (1, 1), "all(list)"),
    "any": (lambda values: any(map(truthy, list(values))), (1, 1), "any(list)"),
    "keys": (lambda value: list(dict.keys(value)), (1, 1), "keys(object)"),
    "values": (lambda value: list(dict.values(value)), (1, 1), "values(object)"),
    "first": (lambda values: list.__getitem__(values, 0) if values else None, (1, 1), "first(list): null if empty"),
    "last": (lambda values: list.__getitem__(values, -1) if values else None, (1, 1), "last(list): null if empty"),
    "join": (_join, (1, 2), "join(list, separator)"),
    "split": (lambda text, separator: str.split(text, separator), (2, 2), "split(text, separator)"),
}
"""Name → (what it does, fewest and most arguments, how it is written)."""
MAKING = frozenset({"json", "text", "join", "lower", "upper", "trim", "split"})
"""Functions whose value can be larger than what the expression and its references hold, if they are nested."""
