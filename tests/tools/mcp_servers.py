"""A folder with a real MCP server in it, and what became of its processes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from planloom.tools.mcp import McpServer
from planloom.tools.registry import ToolRegistry
from planloom.tools.tool import Tool

PROGRAM = Path(__file__).with_name("mcp_server.py")


class ServerFolder:
    """Where a server of tests keeps its marks."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def server(self, **terms: Any) -> McpServer:
        given = {"command": sys.executable, "args": (str(PROGRAM), str(self.path))} if "url" not in terms else {}
        return McpServer("calc", folder=self.path, **given | terms)

    async def tools(self, **terms: Any) -> ToolRegistry:
        return ToolRegistry(await self.server(**terms).load(trust_first=True))

    def lists(self, mood: str) -> None:
        (self.path / "listing").write_text(mood, encoding="utf-8")

    def marks(self, name: str) -> list[str]:
        path = self.path / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    async def marked(self, name: str) -> list[str]:
        """Return the marks as soon as there is one: another process makes it."""
        from asyncio import sleep

        until = time.monotonic() + 20
        while time.monotonic() < until:
            if found := self.marks(name):
                return found
            await sleep(0.02)
        raise AssertionError(f"nothing ever marked {name!r}")

    def alive(self) -> list[str]:
        """Return the server processes that are still there."""
        return [pid for pid in self.marks("pids") if is_alive(pid)]


def is_alive(pid: str) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


async def call(tools: ToolRegistry, name: str, **arguments: Any) -> Any:
    """Call a tool of the server as whoever holds it would."""
    tool: Tool = tools.get(f"calc.{name}")
    return await tool.call(arguments)
