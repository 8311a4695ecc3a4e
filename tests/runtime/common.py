"""Plans and tools that the tests of this folder share."""

from __future__ import annotations

import asyncio
from typing import Any

ONE = {"planloom": 1, "steps": [{"id": "a", "tool": "t"}]}
ASK = {
    "planloom": 1,
    "steps": [
        {"id": "a", "tool": "t"},
        {"id": "ok", "approve": "Go on?", "needs": ["a"]},
        {"id": "b", "tool": "t", "needs": ["ok"], "with": {"n": 2}},
    ],
}


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def waiting(_: Any = None, **args: Any) -> None:
    await asyncio.Event().wait()
