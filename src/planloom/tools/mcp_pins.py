"""The file beside `planloom.toml` that holds which tools of which MCP servers a person approved.

Rule 1: written as a whole or not at all; whoever reads it meanwhile sees the old one.
Rule 2: what is approved in it cannot be told apart from what is not by anything but this file: keep it under version
    control.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from planloom.errors import ConfigError
from planloom.tools.mcp_listing import Pin
from planloom.whole_file import write_whole

PINS_FILE = "planloom.mcp.lock"


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    planloom_mcp: Literal[1] = 1
    servers: dict[str, dict[str, Pin]] = {}


def read_pins(path: Path) -> dict[str, dict[str, Pin]]:
    """Return what is approved: by server, by the server's name of the tool; nothing where there is no file.

    Raises:
        ConfigError: Not such a file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", remedy="mend it, or restore it") from error
    try:
        return dict(_Document.model_validate_json(text).servers)
    except ValidationError as error:
        raise ConfigError(
            f"{path} is no record of approved MCP tools: {error.errors()[0]['msg']}",
            remedy="restore it, or take it away and approve each server again with `planloom mcp trust`",
        ) from None


def write_pins(path: Path, server: str, tools: dict[str, Pin]) -> None:
    """Record that these tools of a server, and no others of it, are approved.

    Raises:
        ConfigError: The file cannot be read, or not be written.
    """
    servers = read_pins(path) | {server: tools}
    ordered = {name: dict(sorted(servers[name].items())) for name in sorted(servers)}
    text = json.dumps(_Document(servers=ordered).model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    try:
        write_whole(path, text)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", remedy="make its folder writable") from error
