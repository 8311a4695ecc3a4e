"""JSON Schemas that a plan or a tool brings along: are they schemas, and does a value fit.

Rule 1: nothing is ever fetched: a `$ref` leads inside its own schema or is refused.
Rule 2: draft 2020-12, whatever `$schema` says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable

_META = Draft202012Validator(Draft202012Validator.META_SCHEMA)
_NOWHERE: Registry[Any] = Registry()


def schema_problem(schema: Any) -> str | None:
    """Return what is wrong with a JSON Schema, in one sentence, or None."""
    return _schema_problem(json.dumps(schema, sort_keys=True))


@lru_cache(maxsize=1024)
def _schema_problem(text: str) -> str | None:
    schema = json.loads(text)
    if _is_plainly_sound(schema):
        return None
    error = best_match(_META.iter_errors(schema))
    if error is not None:
        return f"{_where(error.absolute_path)}{plain(error)}"
    for entry in _mappings(schema):
        reference = entry.get("$ref", entry.get("$dynamicRef", "#"))
        if isinstance(reference, str) and not reference.startswith("#"):
            return f"$ref {reference!r} leads outside the schema"
        for pattern in (entry.get("pattern"), *_keys(entry.get("patternProperties"))):
            if isinstance(pattern, str) and (problem := _pattern_problem(pattern)):
                return f"pattern {pattern[:60]!r} cannot be read: {problem}"
    return None


_TYPES = frozenset({"string", "number", "integer", "boolean", "null", "object", "array"})
_TEXTS = frozenset({"title", "description", "format", "$comment"})
_COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems"})
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})


def _is_plainly_sound(schema: Any) -> bool:
    """Return True for a schema of common keywords, rightly used; False says nothing.

    The metaschema takes half a millisecond for the smallest schema, and a plan of 2,000 steps may bring 2,000.
    """
    if isinstance(schema, bool):
        return True
    if not isinstance(schema, dict):
        return False
    return all(_is_plain_keyword(name, value) for name, value in schema.items())


def _is_plain_keyword(name: str, value: Any) -> bool:
    if name == "type":
        return isinstance(value, str) and value in _TYPES
    if name in ("items", "additionalProperties"):
        return _is_plainly_sound(value)
    if name == "properties":
        return isinstance(value, dict) and all(map(_is_plainly_sound, value.values()))
    if name == "required":
        return isinstance(value, list) and all(isinstance(one, str) for one in value) and len(set(value)) == len(value)
    if name == "enum":
        return isinstance(value, list)
    if name in _TEXTS:
        return isinstance(value, str)
    if name in _COUNTS:
        return type(value) is int and value >= 0
    return name in ("const", "default") or (name in _BOUNDS and type(value) in (int, float))


def value_problems(value: Any, schema: Any, *, part: Any = None) -> list[tuple[tuple[str | int, ...], str]]:
    """Return the path and the sentence for each way in which a value does not fit.

    Args:
        value: JSON value.
        schema: The whole schema; `$ref` looks here.
        part: The schema inside it that is meant, if not the whole.
    """
    validator = Draft202012Validator(schema, registry=_NOWHERE)
    errors = validator.iter_errors(value) if part is None else validator.descend(value, part)
    try:
        return [(tuple(error.absolute_path), f"{_where(error.absolute_path)}{plain(error)}") for error in errors]
    except Unresolvable as error:
        return [((), f"the schema refers to {error.ref!r}, which it does not hold")]
    except RecursionError:
        return [((), "the schema refers to itself without end")]


def plain(error: ValidationError) -> str:
    """Return jsonschema's sentence, cut to a length one can read."""
    text = str(error.message)
    return text if len(text) <= 200 else f"{text[:160]} … {text[-30:]}"


def _where(path: Iterable[str | int]) -> str:
    shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    return f"{shown}: " if shown else ""


def _mappings(schema: Any) -> Iterator[dict[str, Any]]:
    stack = [schema]
    while stack:
        entry = stack.pop()
        if isinstance(entry, dict):
            yield entry
            stack.extend(value for key, value in entry.items() if key not in ("const", "enum", "default", "examples"))
        elif isinstance(entry, list):
            stack.extend(entry)


def _keys(value: Any) -> list[str]:
    return list(value) if isinstance(value, dict) else []


def _pattern_problem(pattern: str) -> str | None:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    return None
