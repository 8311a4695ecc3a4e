"""Tools of the run that is killed through the command line: each first writes its effect to effects.log."""

from __future__ import annotations

import asyncio
import os
import time

from planloom import ToolContext, tool


def effect(kind: str, context: ToolContext) -> None:
    log = os.open("effects.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(log, f"{kind} {context.step} {context.attempt} {context.idempotency_key}\n".encode())
    finally:
        os.close(log)


@tool(name="cli.pure", effects="none")
async def pure(n: int, context: ToolContext) -> int:
    """Add one."""
    effect("none", context)
    await asyncio.sleep(0.01)
    return n + 1


@tool(name="cli.put", effects="idempotent")
def put(n: int, context: ToolContext) -> int:
    """Add one, in a thread."""
    effect("idempotent", context)
    time.sleep(0.01)
    return n + 1


@tool(name="cli.pay", effects="once")
async def pay(n: int, context: ToolContext) -> int:
    """Add one, and never twice."""
    effect("once", context)
    await asyncio.sleep(0.02)
    return n + 1


@tool(name="cli.long", effects="none")
async def long(context: ToolContext) -> None:
    """Take very long, and say when it is stopped."""
    effect("none", context)
    try:
        await asyncio.sleep(60)
    finally:
        effect("stopped", context)


@tool(name="cli.deaf", effects="none")
def deaf(context: ToolContext) -> None:
    """Block a thread for very long."""
    effect("none", context)
    time.sleep(60)
