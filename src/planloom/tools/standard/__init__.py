"""The tools that come with planloom, one family a file; each says what it does to the world.

Rule 1: nothing here reads a file or reaches a host unless a root or a list of hosts is given.
Rule 2: whatever a plan gives them is hostile: every input and every result is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from planloom.tools.standard.arithmetic import arithmetic_tools
from planloom.tools.standard.files import file_tools
from planloom.tools.standard.http import http_tools
from planloom.tools.standard.json_text import json_tools
from planloom.tools.standard.text import text_tools
from planloom.tools.standard.times import time_tools
from planloom.tools.tool import Tool

__all__ = ["file_tools", "get_default_tools", "http_tools"]


def get_default_tools(root: str | Path | None = None, allow_hosts: Sequence[str] = ()) -> list[Tool]:
    """Return the standard tools.

    Args:
        root: Folder that `files.*` work in; without one there are no file tools.
        allow_hosts: Hosts that `http.*` may reach, ``"*"`` for any at a public address; without any there are none.

    Raises:
        ConfigError: No such folder, or an entry that is no host.
    """
    tools = [*arithmetic_tools(), *text_tools(), *json_tools(), *time_tools()]
    if root is not None:
        tools += file_tools(root)
    if allow_hosts:
        tools += http_tools(allow_hosts=tuple(allow_hosts))
    return tools
