"""Plans and tools that the tests of this folder share."""

from __future__ import annotations

import asyncio
from typing import Any

from planloom.ports import Journal
from planloom.runtime.people import answer_fact
from planloom.runtime.replay import replayed

ONE = {"planloom": 1, "steps": [{"id": "a", "tool": "t"}]}
ASK = {
    "planloom": 1,
    "steps": [
        {"id": "a", "tool": "t"},
        {"id": "ok", "approve": "Go on?", "needs": ["a"]},
        {"id": "b", "tool": "t", "needs": ["ok"], "with": {"n": 2}},
    ],
}


async def leave_yes(journal: Journal, run_id: str, *, by: str = "me", at: float = 0.0) -> None:
    """Leave a yes to what step `ok` of a run asks, as another process would."""
    state = replayed(run_id, await journal.read(run_id)).state
    await journal.post(run_id, answer_fact(state, "ok", by=by, approved=True, output=None, at=at))


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def waiting(_: Any = None, **args: Any) -> None:
    await asyncio.Event().wait()
