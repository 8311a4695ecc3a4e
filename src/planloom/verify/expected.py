"""A result held against the form it was to have, written in Python's own types.

Rule 1: types are strict: True is no `int`, "1" is no number; what a form does not name may be there all the same.
Rule 2: every problem is told with the path to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from operator import or_
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from planloom.errors import ConfigError
from planloom.verify.verdict import Check, Verdict

_SHOWN = 80
"""Characters of a wrong value that are told."""


class FormatValidator:
    """Says whether a result has the form that was expected of it::

    verdict = await FormatValidator().validate(result, expected_format={"next_action": str, "plan": list})
    verdict.is_valid, verdict.feedback, [check.name for check in verdict.checks]
    """

    async def validate(self, result: Any, expected_format: Any) -> Verdict:
        """Return a verdict with one failed `Check` per problem, each named by its path, e.g. ``plan[0].tool``.

        Args:
            expected_format: A type as in an annotation (`str`, `list[int]`, `str | None`, a pydantic model); a tuple of
                types, any of which will do; a dict of these by key, each of which must be there; or a list of one
                form, for a list of such values.

        Raises:
            ConfigError: `expected_format` is none of these.
        """
        checks = tuple(
            Check(path, passed=False, feedback=problem) for path, problem in _problems(result, expected_format, "")
        )
        told = "; ".join(f"{check.name}: {check.feedback}" for check in checks)
        return Verdict(
            is_valid=not checks, feedback=told or "it has the expected form", strategy="format", checks=checks
        )


def _problems(value: Any, form: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(form, Mapping):
        yield from _of_dict(value, form, path)
    elif isinstance(form, list):
        yield from _of_list(value, form, path)
    else:
        yield from _of_type(value, form, path)


def _of_dict(value: Any, form: Mapping[Any, Any], path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, Mapping):
        yield path or "it", f"is no dict{_given(value)}"
        return
    for key, inner in form.items():
        here = _below(path, key)
        if key in value:
            yield from _problems(value[key], inner, here)
        else:
            yield here, "is missing"


def _of_list(value: Any, form: list[Any], path: str) -> Iterator[tuple[str, str]]:
    if len(form) != 1:
        raise ConfigError(f"{form!r} is no form of a list", remedy="give a list of one form: that of its items")
    if not isinstance(value, list | tuple):
        yield path or "it", f"is no list{_given(value)}"
        return
    for place, item in enumerate(value):
        yield from _problems(item, form[0], f"{path}[{place}]")


def _of_type(value: Any, form: Any, path: str) -> Iterator[tuple[str, str]]:
    try:
        _adapter(form).validate_python(value, strict=True)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_context=False):
            here = reduce(_below, problem["loc"], path)
            said = problem["msg"].removeprefix("Input ").removeprefix("Value error, ")
            yield here or "it", f"{said}{_given(problem['input'])}"


def _adapter(form: Any) -> TypeAdapter[Any]:
    if isinstance(form, str):  # pydantic would evaluate it
        raise ConfigError(f"the expected format {form!r} is text", remedy="give the type itself")
    try:
        return TypeAdapter(reduce(or_, form) if isinstance(form, tuple) and form else form)
    except (PydanticUserError, TypeError) as error:
        raise ConfigError(
            f"{form!r} is no expected format", remedy='give types, e.g. {"next_action": str, "plan": list}'
        ) from error


def _below(path: str, key: Any) -> str:
    return f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}" if path else str(key)


def _given(value: Any) -> str:
    told = repr(value)
    return f" (given {told if len(told) <= _SHOWN else told[: _SHOWN - 1] + '…'})"
