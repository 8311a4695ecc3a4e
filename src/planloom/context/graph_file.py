"""A dependency graph as JSON: read with care, for whoever wrote it may have had any intent, and written whole.

Rule 1: what is wrong is told with its place, "edges[3].weight"; nothing is repaired in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from planloom.context.graph_parts import Kind
from planloom.errors import ConfigError
from planloom.whole_file import write_whole

VERSION = 1
MAX_BYTES = 256 << 20
"""A larger file is refused unread: a graph of a million edges has less."""

_REMEDY = "give what DependencyGraph.to_dict or save wrote"
_Text = Field(min_length=1)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Node(_Strict):
    id: str = _Text
    kind: Kind = "document"
    title: str = ""
    metadata: dict[str, Any] = Field(default_factory=dict)


class _Edge(_Strict):
    src: str = _Text
    dst: str = _Text
    relationship_type: str = Field(default="depends_on", min_length=1)
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    metadata: dict[str, Any] = Field(default_factory=dict)


class _Graph(_Strict):
    version: Literal[1]
    nodes: list[_Node]
    edges: list[_Edge] = Field(default_factory=list)


def checked(told: Mapping[str, Any], *, where: str) -> _Graph:
    """Return what a graph's JSON says.

    Raises:
        ConfigError: It is no graph of this version.
    """
    try:
        return _Graph.model_validate(told)
    except ValidationError as error:
        problems = "; ".join(f"{_place(one['loc'])}: {one['msg']}" for one in error.errors(include_input=False)[:5])
        raise ConfigError(f"{where} is no graph of version {VERSION}: {problems}", remedy=_REMEDY) from error


def _place(parts: tuple[str | int, ...]) -> str:
    said = (
        f"[{part}]" if isinstance(part, int) else f".{part if part.isidentifier() else repr(part):.40}"
        for part in parts
    )
    return "".join(said).lstrip(".") or "it"


def read_file(path: Path) -> Any:
    """Return the JSON value of a file.

    Raises:
        ConfigError: It cannot be read, is over MAX_BYTES, or is no JSON.
    """
    try:
        with path.open("rb") as file:
            held = file.read(MAX_BYTES + 1)
        if len(held) > MAX_BYTES:
            raise ConfigError(f"{path} is over {MAX_BYTES >> 20} MiB", remedy=_REMEDY)
        return json.loads(held.decode(), parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path} is no JSON: {error.msg} at line {error.lineno}, column {error.colno}", remedy=_REMEDY
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deep", remedy=_REMEDY) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", remedy=_REMEDY) from error


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def write_file(path: Path, told: Mapping[str, Any]) -> None:
    """Write a graph's JSON, whole or not at all.

    Raises:
        ConfigError: The file cannot be written.
    """
    try:
        write_whole(path, json.dumps(told, ensure_ascii=False, indent=1) + "\n")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be written: {error}", remedy="give another path") from error
