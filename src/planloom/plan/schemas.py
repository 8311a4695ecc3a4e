"""JSON Schemas that a plan or a tool brings along: are they schemas, and does a value fit.

Rule 1: a plan's schema is untrusted: checking it takes time in proportion to its size, holding a value against it is
counted and stopped, and its patterns are matched by an engine that cannot run away.
Rule 2: nothing is ever fetched: a `$ref` leads inside its own schema or is refused.
Rule 3: draft 2020-12, whatever `$schema` says. Keywords it does not have are let pass, as the draft says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from pydantic_core import SchemaError, SchemaValidator, core_schema
from referencing import Registry
from referencing.exceptions import Unresolvable

MAX_CHECKS = 2_000_000
"""Keywords of a schema held against parts of a value, long ones and long values counting more; seconds of work."""
MAX_NESTED = 200
"""Keywords that hold schemas, inside each other while a value is looked at; each takes some four frames of Python."""
MAX_PLAN_CHECKS = 20_000
"""The same for all the defaults of one plan together."""
MAX_FOUND = 200
"""Problems of one value that are told."""
MAX_PATTERN_WORK = 10_000
"""What compiling one pattern may cost; a hundred are about half a millisecond, and one class such as `\\w`."""
MAX_PLAN_PATTERN_WORK = 20_000
"""The same for all the different patterns of one plan together."""

Where = tuple[str | int, ...]
Found = tuple[Where, str] | None

_TYPES = frozenset({"string", "number", "integer", "boolean", "null", "object", "array"})
_SCHEMAS = frozenset(
    {"items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames", "contentSchema"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)
_SCHEMA_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SCHEMA_MAPS = frozenset({"properties", "$defs", "definitions", "dependentSchemas"})
_TEXTS = frozenset({"title", "description", "format", "contentEncoding", "contentMediaType", "$comment"})
_TEXTS |= {"$id", "$schema", "$anchor", "$dynamicAnchor"}
_REFERENCES = frozenset({"$ref", "$dynamicRef"})
_COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})
_COUNTS |= {"minContains", "maxContains"}
_NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_FLAGS = frozenset({"uniqueItems", "deprecated", "readOnly", "writeOnly"})


_PARTS = re.compile(
    r"(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])|(?P<escape>\\.)|(?P<open>\()|(?P<close>\))"
    r"|\{(?P<least>\d{1,9})(?:,(?P<most>\d{0,9}))?\}|(?P<dot>\.)",
    re.DOTALL,
)
_CLASSES = re.compile(r"\\[wWdDsSpPbB]")
_CLASS_WORK, _SET_WORK, _PATTERN_WORK = 100, 3, 20


@dataclass(slots=True)
class _Work:
    """What is left of the work that the schemas of one plan may make."""

    checks: list[int] = field(default_factory=lambda: [MAX_PLAN_CHECKS, 0])
    patterns_left: int = MAX_PLAN_PATTERN_WORK
    patterns: set[str] = field(default_factory=set)


_work: ContextVar[_Work | None] = ContextVar("work", default=None)


@contextmanager
def one_plan() -> Iterator[None]:
    """Let all schemas of a plan, its sub-plans included, share one measure of work; inside another one: that one's."""
    token = None if _work.get() is not None else _work.set(_Work())
    try:
        yield
    finally:
        if token is not None:
            _work.reset(token)


# --- is it a schema ---------------------------------------------------------------------------


def schema_problem(schema: Any) -> str | None:
    """Return the first thing wrong with a plan's JSON Schema, in one sentence, or None."""
    stack: list[tuple[Where, Any]] = [((), schema)]
    while stack:
        path, part = stack.pop()
        if isinstance(part, bool):
            continue
        if not isinstance(part, dict):
            return f"{_where(path)}a schema is an object, true or false"
        for name, value in part.items():
            here = (*path, name)
            if name in _SCHEMAS:
                stack.append((here, value))
            elif name in _SCHEMA_LISTS:
                if not isinstance(value, list) or not value:
                    return f"{_where(here)}must be a list of schemas"
                stack += [((*here, at), inner) for at, inner in enumerate(value)]
            elif name in _SCHEMA_MAPS:
                if not isinstance(value, dict):
                    return f"{_where(here)}must be an object of schemas"
                stack += [((*here, key), inner) for key, inner in value.items()]
            elif problem := _keyword_problem(name, value):
                return f"{_where(here)}{problem}"
    return None


def _keyword_problem(name: str, value: Any) -> str | None:
    """Return what is wrong with the value of a keyword that holds no schemas."""
    is_sound, wanted = True, ""
    if name == "type":
        kinds = value if isinstance(value, list) else [value]
        is_sound = bool(kinds) and all(isinstance(kind, str) and kind in _TYPES for kind in kinds)
        is_sound, wanted = is_sound and len(set(kinds)) == len(kinds), f"one of {', '.join(sorted(_TYPES))}, or several"
    elif name == "required":
        is_sound, wanted = _is_names(value), "a list of different names"
    elif name == "dependentRequired":
        is_sound, wanted = (
            isinstance(value, dict) and all(map(_is_names, value.values())),
            "an object of lists of names",
        )
    elif name in ("enum", "examples"):
        is_sound, wanted = isinstance(value, list), "a list"
    elif name in _TEXTS:
        is_sound, wanted = isinstance(value, str), "text"
    elif name in _COUNTS:
        is_sound, wanted = _is_number(value) and value >= 0 and value == int(value), "a whole number, 0 or more"
    elif name in _NUMBERS:
        is_sound, wanted = _is_number(value) and (name != "multipleOf" or value > 0), "a number"
    elif name in _FLAGS:
        is_sound, wanted = isinstance(value, bool), "true or false"
    elif name in _REFERENCES:
        is_sound, wanted = isinstance(value, str) and value.startswith("#"), "a reference that stays inside the schema"
    elif name == "pattern":
        is_sound, wanted = isinstance(value, str) and _is_pattern(value), "a pattern without look-around, and not large"
    elif name == "patternProperties":
        is_sound, wanted = False, "left out: plans do not have it"
    return None if is_sound else f"must be {wanted}"


def _is_pattern(pattern: str) -> bool:
    """Return whether a plan may have this pattern: one that can be read, at no great cost."""
    needed = _pattern_work(pattern)
    work = _work.get()
    if work is not None and pattern not in work.patterns:
        work.patterns.add(pattern)
        work.patterns_left -= needed
    if needed > MAX_PATTERN_WORK or (work is not None and work.patterns_left < 0):
        return False
    return _linear(pattern) is not None


def _pattern_work(pattern: str) -> int:
    """Return about what a pattern costs to compile: its classes of characters, as often as they are repeated."""
    groups = [[0, 0]]  # of each open group: all but its last part, and that
    for part in _PARTS.finditer(pattern):
        inner = groups[-1]
        if part["least"]:
            inner[1] *= max(1, int(part["least"]), int(part["most"] or 0))
        elif part["close"] and len(groups) > 1:
            groups.pop()
            groups[-1] = [sum(groups[-1]), sum(inner)]
        elif part["open"]:
            groups.append([0, 0])
        else:
            groups[-1] = [sum(inner), _SET_WORK + _CLASS_WORK * len(_CLASSES.findall(part[0]))]
    return _PATTERN_WORK + sum(map(sum, groups))


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value) and len(set(value)) == len(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# --- does a value fit -------------------------------------------------------------------------


class TooManyChecks(Exception):  # noqa: N818 - told as a problem of the value, never raised to anybody
    """More work than a schema may make."""


_checks_left: ContextVar[list[int]] = ContextVar("checks_left")
"""How many checks are left, and how many keywords are being looked at inside each other."""


@contextmanager
def counted(max_checks: int | None = MAX_CHECKS) -> Iterator[None]:
    """Let schemas be held against values in here for so many keywords; then TooManyChecks is raised.

    None: for as many as are left to the plan whose checks these are.
    """
    work = _work.get()
    token = _checks_left.set(work.checks if max_checks is None and work is not None else [max_checks or MAX_CHECKS, 0])
    try:
        with no_panic():
            yield
    finally:
        _checks_left.reset(token)  # a step's context must be as it was: see transport/local.py


@contextmanager
def no_panic() -> Iterator[None]:
    """Raise a RecursionError for what jsonschema's Rust libraries make of one: an exception that is no Exception."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # its class cannot be imported
            raise RecursionError("nested too deeply") from None
        raise


def validator_of(schema: Any) -> Any:
    """Return jsonschema's validator of a schema, its work counted and its patterns linear; use it inside `counted`."""
    return _Counting(schema, registry=Registry())


def value_problems(
    value: Any, schema: Any, *, part: Any = None, max_checks: int | None = MAX_CHECKS
) -> list[tuple[Where, str]]:
    """Return the path and the sentence for each way in which a value does not fit.

    Args:
        value: JSON value.
        schema: The whole schema; `$ref` looks here.
        part: The schema inside it that is meant, if not the whole.
        max_checks: Keywords that may be held against parts of the value before it counts as not fitting; None: what is
            left to the plan whose checks these are (`one_plan`).
    """
    validator = validator_of(schema)
    errors = validator.iter_errors(value) if part is None else validator.descend(value, part)
    try:
        with counted(max_checks):
            found = islice(errors, MAX_FOUND)
            return [(tuple(error.absolute_path), f"{_where(error.absolute_path)}{plain(error)}") for error in found]
    except Unresolvable as error:
        return [((), f"the schema refers to {error.ref!r}, which it does not hold")]
    except RecursionError:
        return [((), "the schema refers to itself without end")]
    except TooManyChecks:
        return [((), f"the schema asks for over {max_checks or MAX_PLAN_CHECKS:,} checks")]
    except (OverflowError, ValueError) as error:
        return [((), f"it cannot be held against its schema: {error}")]


def plain(error: ValidationError) -> str:
    """Return jsonschema's sentence, cut to a length one can read."""
    text = str(error.message)
    return text if len(text) <= 200 else f"{text[:160]} … {text[-30:]}"


def _where(path: Iterable[str | int]) -> str:
    shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    return f"{shown}: " if shown else ""


Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


def _counted(keyword: Keyword) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError] | None:
        left = _checks_left.get()
        left[0] -= 1 + (_length(value) + _length(instance)) // 8
        if left[0] < 0:
            raise TooManyChecks
        found = keyword(validator, value, instance, schema)
        return found if found is None or keyword not in _NESTING else _nested(left, found)

    return check


def _nested(left: list[int], errors: Iterator[ValidationError]) -> Iterator[ValidationError]:
    """Yield what a keyword that holds schemas finds, if it does not lie too deep inside others."""
    if left[1] == MAX_NESTED:
        raise RecursionError("nested too deeply")
    left[1] += 1
    try:
        yield from errors
    finally:
        left[1] -= 1


def _length(value: Any) -> int:
    return len(value) if isinstance(value, dict | list) else 0


def _unique(validator: Any, wanted: bool, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if wanted and isinstance(instance, list) and len({_key(entry) for entry in instance}) < len(instance):
        yield ValidationError(f"{instance!r} has non-unique elements")


def _enum(validator: Any, choices: list[Any], instance: Any, schema: Any) -> Iterator[ValidationError]:
    wanted = _key(instance)
    if not any(_key(choice) == wanted for choice in choices if choice == instance):
        yield ValidationError(f"{instance!r} is not one of {choices!r}")


_TRUTH = object()


def _key(value: Any) -> Any:
    """Return what is equal for JSON values that are, and can be looked up; to Python, True is 1 as well."""
    if isinstance(value, dict):
        return frozenset((name, _key(entry)) for name, entry in value.items())
    if isinstance(value, list):
        return tuple(_key(entry) for entry in value)
    return (_TRUTH, value) if isinstance(value, bool) else value


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str):
        matches = _linear(pattern) or _backtracking(pattern)
        if not matches(instance):
            yield ValidationError(f"{instance!r} does not match {pattern!r}")


@lru_cache(maxsize=512)
def _linear(pattern: str) -> Callable[[str], bool] | None:
    """Return what searches a text in time proportional to its length; None if that engine cannot read the pattern."""
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex")).isinstance_python
    except SchemaError:
        return None


@lru_cache(maxsize=512)
def _backtracking(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)  # only a tool's: `schema_problem` refuses a plan's
    return lambda text: compiled.search(text) is not None


_KEYWORDS: dict[str, Keyword] = {
    **Draft202012Validator.VALIDATORS,
    "pattern": _pattern,
    "uniqueItems": _unique,
    "enum": _enum,
}
_NESTING = frozenset(
    keyword
    for name, keyword in _KEYWORDS.items()
    if name in _SCHEMAS | _SCHEMA_LISTS | _SCHEMA_MAPS | _REFERENCES | {"patternProperties"}
)
_Counting: Any = extend(  # type: ignore[no-untyped-call]  # jsonschema does not say
    Draft202012Validator, {name: _counted(keyword) for name, keyword in _KEYWORDS.items()}
)
