"""What the tools of the crash tests do: the same whenever they are asked, and known to the last digit beforehand.

Rule 1: a tool keeps nothing. What it answers depends on what it is given, and on which attempt it is of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from planloom import Effects, NotDoneError, Tool, ToolContext

Answer = Callable[[int, ToolContext], Awaitable[int]]
BIG = 40_000
"""Characters of a large output: journals keep it apart."""
OLD = "old"
"""Name of a run that came before."""


async def add_one(n: int, context: ToolContext) -> int:
    return n + 1


async def flaky(n: int, context: ToolContext) -> int:
    """Fail twice."""
    if context.attempt < 3:
        raise ConnectionError("not yet")
    return n + 1


async def not_yet(n: int, context: ToolContext) -> int:
    """Say twice that nothing has happened."""
    if context.attempt < 3:
        raise NotDoneError("come back later")
    return n + 1


async def picky(n: int, context: ToolContext) -> int:
    """Fail if it is given 2."""
    await asyncio.sleep(0)
    if n == 2:
        raise LookupError("not two")
    return n + 1


async def endless(n: int, context: ToolContext) -> int:
    """Never answer."""
    await asyncio.Event().wait()
    return n


ANSWERS: dict[str, tuple[Effects, Answer]] = {
    "pure": (Effects.NONE, add_one),
    "put": (Effects.IDEMPOTENT, add_one),
    "pay": (Effects.ONCE, add_one),
    "flaky": (Effects.IDEMPOTENT, flaky),
    "not_yet": (Effects.ONCE, not_yet),
    "picky": (Effects.NONE, picky),
    "endless": (Effects.NONE, endless),
}
"""The tools of every shape, by name."""


async def slow(n: int) -> int:
    """Take three seconds."""
    await asyncio.sleep(3)
    return n + 1


async def fast(n: int) -> int:
    """Take a tenth of a second."""
    await asyncio.sleep(0.1)
    return n + 1


def sync_pay(n: int) -> int:
    return n + 1


def sync_pure(n: int) -> int:
    return n + 1


async def bounce(n: int) -> int:
    """Fail, and nobody knows how far it came."""
    raise ConnectionResetError("lost")


async def big(n: int) -> str:
    return str(n % 10) * BIG


async def measure(text: str) -> int:
    return len(text)


async def key_of(n: int, context: ToolContext) -> str:
    return context.idempotency_key


async def broken_at_first(n: int, context: ToolContext) -> int:
    """Fail in the run that came before."""
    if context.run_id == OLD:
        raise ConnectionError("broken")
    return n + 1


async def late_at_first(n: int, context: ToolContext) -> int:
    """Take too long twice."""
    await asyncio.sleep(60 if context.attempt < 3 else 0.1)
    return n + 1


def _tool(name: str, function: Callable[..., Any], effects: str, **declared: Any) -> Tool:
    return Tool.from_function(function, name=name, effects=effects, **declared)


TOOLS: tuple[Tool, ...] = (
    *(_tool(name, answer, effects.value) for name, (effects, answer) in ANSWERS.items()),
    _tool("slow", slow, "none"),
    _tool("fast", fast, "none"),
    _tool("sync_pay", sync_pay, "once"),
    _tool("sync_pure", sync_pure, "none"),
    _tool("bounce", bounce, "once"),
    _tool("big", big, "none"),
    _tool("measure", measure, "idempotent"),
    _tool("key_of", key_of, "idempotent"),
    _tool("broken_at_first", broken_at_first, "none"),
    _tool("late_at_first", late_at_first, "none"),
    _tool("rated", add_one, "none", rate_per_second=0.5),
    _tool("fragile", flaky, "none", breaker={"failures": 2, "open_seconds": 30}),
    _tool("dear", add_one, "idempotent", cost_per_call=0.25),
    _tool("page", add_one, "none", source="web"),
    _tool("wire", add_one, "once", needs_approval=True),
    _tool("wire_later", not_yet, "once", needs_approval=True),
    _tool("clean", add_one, "none", cleans=("web",)),
)
