"""A tool that is fine, and a run of it beside one that is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from planloom import Engine, RunResult, StepStatus, Tool, tool

PATIENCE_S = 5.0


@tool(effects="none", register=False)
async def fine(value: Any = "fine") -> Any:
    """Give back what it is given."""
    return value


def made(function: Callable[..., Any], **declared: Any) -> Tool:
    return Tool.from_function(function, **({"name": "bad", "effects": "none"} | declared))


def beside(bad: Tool, **fields: Any) -> RunResult:
    """Run the tool beside one that is fine, and another after that."""

    async def main() -> RunResult:
        plan = {
            "planloom": 1,
            "fail_fast": False,
            "steps": [
                {"id": "bad", "tool": "bad", **fields},
                {"id": "one", "tool": "fine"},
                {"id": "two", "tool": "fine", "needs": ["one"]},
            ],
        }
        async with asyncio.timeout(PATIENCE_S), Engine(tools=[bad, fine]) as engine:
            return await engine.run(plan)

    result = asyncio.run(main())
    assert [result.step(name).status for name in ("one", "two")] == [StepStatus.COMPLETED] * 2
    return result
