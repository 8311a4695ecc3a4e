"""From words on the command line to a run's inputs and limits.

Rule 1: a text is taken as text wherever the input's schema allows text; only else is it read as JSON.
Rule 2: whether the inputs are complete and fit is asked of the plan afterwards, not here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from pydantic import ValidationError

from planloom.errors import InputsError, field_problems, suggestion
from planloom.plan.inputs import input_problems
from planloom.plan.policy import ResourceLimits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planloom.plan.model import Plan


def read_inputs(plan: Plan, *, pairs: Iterable[str], files: Iterable[str], document: Path | None) -> dict[str, Any]:
    """Return the inputs given by `--inputs`, `--input-file` and `--input`, the later ones first in rank.

    Raises:
        InputsError: A file that cannot be read, or is not a JSON object.
        click.UsageError: Not NAME=VALUE, or a name given twice.
    """
    given: dict[str, Any] = _document(document) if document is not None else {}
    named: dict[str, Any] = {}
    for name, path in _pairs(files, "--input-file"):
        _once(name, named)
        named[name] = _file_text(name, Path(path))
    for name, text in _pairs(pairs, "--input"):
        _once(name, named)
        named[name] = _value(name, text, plan.inputs.get(name))
    return given | named


def _pairs(texts: Iterable[str], option: str) -> list[tuple[str, str]]:
    found = []
    for text in texts:
        name, equals, value = _as_typed(text).partition("=")
        if not equals or not name:
            raise click.UsageError(f"{option} {text!r} is not NAME=VALUE")
        found.append((name, value))
    return found


def _as_typed(text: str) -> str:
    """Return an argument as UTF-8, where Python took a locale without it at its word."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text


def _once(name: str, given: dict[str, Any]) -> None:
    if name in given:
        raise click.UsageError(f"input {name!r} is given twice")


def _value(name: str, text: str, schema: dict[str, Any] | None) -> Any:
    if schema and not input_problems(name, text, schema):
        return text
    try:
        return parse_json(text)
    except ValueError:
        return text


def parse_json(text: str) -> Any:
    """Return the JSON value of a text; ValueError if it is none, or holds NaN or Infinity."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _file_text(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputsError(f"input {name!r}: cannot read {path}: {error}", remedy="give a UTF-8 text file") from error


def _document(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputsError(
            f"cannot read the inputs in {path}: {error}", remedy="give a file with a JSON object"
        ) from error
    if not isinstance(value, dict):
        raise InputsError(f"{path} holds no JSON object", remedy='write {"name": value, …}')
    return value


def read_limits(plan: Plan, texts: Iterable[str], *, max_concurrent: int | None) -> ResourceLimits | None:
    """Return the plan's limits with those of the command line on top; None where neither says anything.

    A limit that nobody names stays off: `--limit max_tool_calls=5` is that limit and no other.

    Raises:
        click.UsageError: Not NAME=VALUE, an unknown name, or a value that is none.
    """
    given: dict[str, Any] = {}
    for name, text in _pairs(texts, "--limit"):
        if name not in ResourceLimits.model_fields:
            raise click.UsageError(f"there is no limit {name!r}; {suggestion(name, ResourceLimits.model_fields)}")
        given[name] = None if text == "none" else text
    if max_concurrent is not None:
        given["max_concurrent"] = max_concurrent
    if not given:
        return plan.limits
    off = dict.fromkeys(ResourceLimits.model_fields)
    base = plan.limits.model_dump() if plan.limits is not None else off
    try:
        return ResourceLimits(**(base | given))
    except ValidationError as error:
        told = "; ".join(field_problems(error))
        raise click.UsageError(f"--limit: {told}") from error
