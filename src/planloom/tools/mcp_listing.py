"""What an MCP server says of its tools, what of it is approved, and how the two differ.

Rule 1: nothing of a listing is believed: it is measured, and held against what a person approved, before it counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pydantic import BaseModel, ConfigDict

from planloom.errors import ConfigError, McpTrustError
from planloom.plan.policy import Effects

MAX_TOOLS = 1_000
MAX_DESCRIPTION = 20_000
"""Characters."""
MAX_SCHEMA = 256_000
"""Characters of a schema as JSON."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:-]{0,127}")


@dataclass(frozen=True, slots=True)
class ListedTool:
    """One tool, in its server's words.

    Attributes:
        name: As the server calls it.
        reads_only, may_repeat: What the server hints of its effects.
    """

    name: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None = None
    reads_only: bool = False
    may_repeat: bool = False

    @property
    def hinted_effects(self) -> Effects:
        """Return what its effects are if the server is believed."""
        if self.reads_only:
            return Effects.NONE
        return Effects.IDEMPOTENT if self.may_repeat else Effects.ONCE

    @property
    def pin(self) -> Pin:
        return Pin(
            description=self.description,
            parameters=_digest(self.input_schema),
            result=None if self.output_schema is None else _digest(self.output_schema),
            effects=self.hinted_effects,
        )


class Pin(BaseModel):
    """What a person approved of one tool.

    Attributes:
        parameters, result: SHA-256 of the schemas, 64 hex digits.
        effects: What the server hinted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    parameters: str
    result: str | None = None
    effects: Effects = Effects.ONCE


@dataclass(frozen=True, slots=True)
class Change:
    """One way in which a listing is not what was approved.

    Attributes:
        tool: The server's name of it.
        what: "new", "description", "parameters", "result", "effects" or "gone".
    """

    tool: str
    what: str

    def __str__(self) -> str:
        return f"{self.tool} is {self.what}" if self.what in {"new", "gone"} else f"{self.what} of {self.tool} changed"


def changes(approved: Mapping[str, Pin], listed: Iterable[ListedTool]) -> list[Change]:
    """Return how what is listed differs from what was approved, in its order; what is gone comes last."""
    found: list[Change] = []
    seen = set()
    for tool in listed:
        seen.add(tool.name)
        known, now = approved.get(tool.name), tool.pin
        if known is None:
            found.append(Change(tool.name, "new"))
            continue
        found += [Change(tool.name, name) for name in Pin.model_fields if getattr(known, name) != getattr(now, name)]
    return found + [Change(name, "gone") for name in approved if name not in seen]


def refuse_changes(server: str, found: Iterable[Change]) -> None:
    """Let pass what takes nothing new in.

    Raises:
        McpTrustError: Something was not approved; says what.
    """
    refused = [one for one in found if one.what != "gone"]
    if refused:
        told = ", ".join(map(str, refused[:8])) + (f" and {len(refused) - 8} more" if len(refused) > 8 else "")
        raise McpTrustError(
            f"MCP server {server!r} offers what nobody approved: {told}",
            remedy=f"read it with `planloom mcp show {server}`, then approve it with `planloom mcp trust {server}`",
            server=server,
            changes=[{"tool": one.tool, "what": one.what} for one in refused],
        )


def check_listing(server: str, tools: list[ListedTool]) -> None:
    """Refuse a listing that is out of all measure, or names a tool twice.

    Raises:
        ConfigError: It is.
    """
    if len(tools) > MAX_TOOLS:
        _refuse(server, f"it lists {len(tools)} tools, and {MAX_TOOLS} are the most")
    seen: set[str] = set()
    for tool in tools:
        name = repr(tool.name[:100])
        if tool.name in seen:
            _refuse(server, f"it lists {name} twice")
        seen.add(tool.name)
        if len(tool.description) > MAX_DESCRIPTION:
            _refuse(server, f"the description of {name} has {len(tool.description)} characters")
        for schema in (tool.input_schema, tool.output_schema):
            if schema is not None and len(_canonical(schema)) > MAX_SCHEMA:
                _refuse(server, f"a schema of {name} has over {MAX_SCHEMA} characters")


def check_names(server: str, tools: Iterable[ListedTool]) -> None:
    """Refuse names that no tool has which means well: of signs that nobody sees, of none, or like a path upwards.

    Raises:
        ConfigError: There is one.
    """
    for tool in tools:
        if not _NAME.fullmatch(tool.name) or ".." in tool.name:
            _refuse(server, f"{tool.name[:100]!r} is no name for a tool")


def _refuse(server: str, why: str) -> None:
    raise ConfigError(
        f"MCP server {server!r} is not used: {why}", remedy="name the tools you need in its `allow`, or leave it out"
    )


def _digest(schema: dict[str, Any]) -> str:
    return sha256(_canonical(schema).encode()).hexdigest()


def _canonical(schema: dict[str, Any]) -> str:
    return json.dumps(schema, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
