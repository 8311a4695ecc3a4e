"""Plans of many shapes for a cluster whose parts are killed, and the tools that they call.

Every tool adds one to what it is given, and leaves a line in `effects.jsonl` of its folder for each execution, so that
what a run comes to is known beforehand, and what was done is known afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

EFFECTS = "effects.jsonl"
TOOLS = '''
"""Tools that leave a line for each execution."""

import asyncio
import json
import os

from planloom import ToolContext, tool


def note(name: str, n: int, context: ToolContext) -> None:
    told = {"run": context.run_id, "step": context.step, "attempt": context.attempt}
    told |= {"key": context.idempotency_key, "tool": name, "n": n, "pid": os.getpid()}
    log = os.open("effects.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(log, f"{json.dumps(told)}\\n".encode())
    finally:
        os.close(log)


@tool(effects="none")
async def look(n: int, context: ToolContext, seconds: float = 0.0) -> int:
    """Add one, after a moment."""
    note("look", n, context)
    await asyncio.sleep(seconds)
    return n + 1


@tool(effects="idempotent")
async def put(n: int, context: ToolContext, seconds: float = 0.0) -> int:
    """Add one; doing it twice does no harm."""
    await asyncio.sleep(seconds / 2)
    note("put", n, context)
    await asyncio.sleep(seconds / 2)
    return n + 1


@tool(effects="once")
async def pay(n: int, context: ToolContext, seconds: float = 0.0) -> int:
    """Add one; doing it twice is what must never be."""
    await asyncio.sleep(seconds / 2)
    note("pay", n, context)
    await asyncio.sleep(seconds / 2)
    return n + 1


@tool(effects="idempotent")
async def unsteady(n: int, context: ToolContext) -> int:
    """Add one, from the third attempt on."""
    note("unsteady", n, context)
    if context.attempt < 3:
        raise ConnectionError("503")
    return n + 1
'''
ONCE = "pay"
Steps = list[dict[str, Any]]


@dataclass(frozen=True)
class Drawn:
    """One run to be submitted.

    Attributes:
        output: What it comes to, if nobody stops it.
        is_cancelled: Whether somebody stops it.
    """

    run_id: str
    shape: str
    plan: dict[str, Any]
    output: Any
    is_cancelled: bool = False


def do(step_id: str, tool: str, n: Any, seconds: float = 0.0, *needs: str, **fields: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"id": step_id, "tool": tool, "with": {"n": n}, **fields}
    if tool != "unsteady":
        told["with"]["seconds"] = seconds
    return told | ({"needs": list(needs)} if needs else {})


def out(step: str) -> str:
    return f"${{{{ steps.{step}.output }}}}"


def chain(n: int, s: float) -> tuple[Steps, Any]:
    return [
        do("a", "look", n, s),
        do("b", "put", out("a"), s),
        do("c", "pay", out("b"), s),
        do("d", "look", out("c")),
    ], (n + 4)


def diamond(n: int, s: float) -> tuple[Steps, Any]:
    two = [do("b", "pay", out("a"), s), do("c", "put", out("a"), s)]
    return [do("a", "look", n, s), *two, do("d", "pay", out("b"), s, "c")], n + 3


def many(n: int, s: float) -> tuple[Steps, Any]:
    each = do("each", "put", "${{ item }}", s, for_each=[n, n + 1, n + 2, n + 3], max_parallel=3)
    return [each, do("end", "pay", "${{ sum(steps.each.output) }}", s)], 4 * n + 11


def many_once(n: int, s: float) -> tuple[Steps, Any]:
    each = do("each", "pay", "${{ item }}", s, for_each=[n, n + 1, n + 2])
    return [each, do("end", "look", "${{ sum(steps.each.output) }}")], 3 * n + 7


def retried(n: int, s: float) -> tuple[Steps, Any]:
    tried = do("a", "unsteady", n, retry={"max_attempts": 6, "initial_delay": 0.2, "max_delay": 1})
    return [tried, do("b", "pay", out("a"), s)], n + 2


def approved(n: int, s: float) -> tuple[Steps, Any]:
    ask = {"id": "ok", "approve": {"message": "Go on?"}, "needs": ["a"]}
    return [do("a", "pay", n, s), ask, do("b", "pay", out("a"), s, "ok")], n + 2


def waits(n: int, s: float) -> tuple[Steps, Any]:
    return [do("a", "put", n, s), {"id": "w", "wait": 0.5 + s, "needs": ["a"]}, do("b", "pay", out("a"), s, "w")], n + 2


def nested(n: int, s: float) -> tuple[Steps, Any]:
    inner = {
        "name": "inner",
        "steps": [do("x", "put", "${{ inputs.n }}", s), do("y", "pay", out("x"), s)],
        "outputs": {"y": out("y")},
    }
    sub = {"id": "sub", "plan": inner, "with": {"n": out("a")}}
    return [do("a", "look", n, s), sub, do("end", "pay", "${{ steps.sub.output.y }}", s)], n + 4


def asked(n: int, s: float) -> tuple[Steps, Any]:
    model = {"id": "m", "model": "default", "prompt": f"number {n}"}
    return [
        model,
        do("a", "pay", n, s, "m"),
        {"id": "last", "model": "default", "prompt": "${{ steps.a.output }}"},
    ], str(n + 1)


def stopped(n: int, s: float) -> tuple[Steps, Any]:
    return [do("a", "look", n, s), do("b", "pay", out("a"), 1.5), do("c", "put", out("b"), 2.0)], n + 3


SHAPES: dict[str, Callable[[int, float], tuple[Steps, Any]]] = {
    "chain": chain,
    "diamond": diamond,
    "map": many,
    "map of once": many_once,
    "retries": retried,
    "approval": approved,
    "wait": waits,
    "sub-plan": nested,
    "models": asked,
    "cancel": stopped,
}
LONG_S = 4.0
"""How long an attempt takes that takes longer than its lease."""


def drawn(number: int, dice: Random) -> Drawn:
    """Return the run of this number."""
    shape = list(SHAPES)[number % len(SHAPES)]
    seconds = LONG_S if dice.random() < 0.03 else round(dice.uniform(0.02, 0.6), 2)
    steps, output = SHAPES[shape](number, seconds)
    plan = {"planloom": 1, "name": shape, "steps": steps}
    return Drawn(f"r{number:04d}", shape, plan, output, shape == "cancel")
