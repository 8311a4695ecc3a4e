"""Tools that worker processes of the tests have. Each leaves a line in a file: "name key attempt pid"."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from planloom import ToolContext, tool


def note(folder: str, name: str, context: ToolContext) -> None:
    line = f"{name} {context.step} {context.attempt} {os.getpid()}\n".encode()
    log = os.open(Path(folder) / "calls.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(log, line)
    finally:
        os.close(log)


@tool(name="w.add", effects="none")
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@tool(name="w.pid", effects="none")
async def pid(n: int = 0, seconds: float = 0.0) -> int:
    """Return the number of the process that does this."""
    await asyncio.sleep(seconds)
    return os.getpid()


@tool(name="w.put", effects="idempotent")
async def put(folder: str, n: int, context: ToolContext, seconds: float = 0.0) -> int:
    """Leave a line, after a moment."""
    note(folder, "put", context)
    await asyncio.sleep(seconds)
    return n * n


@tool(name="w.pay", effects="once")
async def pay(folder: str, context: ToolContext, seconds: float = 0.0) -> str:
    """Leave a line that must stand there once."""
    note(folder, "pay", context)
    await asyncio.sleep(seconds)
    return "paid"


@tool(name="w.fail", effects="none")
async def fail() -> None:
    """Fail."""
    raise RuntimeError("no")


@tool(name="w.die", effects="idempotent")
async def die(folder: str, context: ToolContext) -> None:
    """Kill the process that does this."""
    note(folder, "die", context)
    os.kill(os.getpid(), signal.SIGKILL)


@tool(name="w.block", effects="none")
async def block(folder: str, context: ToolContext, seconds: float = 60.0) -> None:
    """Keep the event loop, as no async tool should."""
    note(folder, "block", context)
    time.sleep(seconds)


@tool(name="w.thread", effects="none")
def thread(folder: str, context: ToolContext, seconds: float = 60.0) -> None:
    """Keep a thread that nobody can stop."""
    note(folder, "thread", context)
    time.sleep(seconds)


@tool(name="w.child", effects="none")
async def child(folder: str, context: ToolContext) -> None:
    """Start a process and wait for it."""
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (Path(folder) / "child.pid").write_text(str(started.pid))
    note(folder, "child", context)
    await asyncio.sleep(60)


@tool(name="w.lock", effects="none")
async def lock(folder: str, context: ToolContext) -> None:
    """Keep Python's lock: nothing else in this process goes on."""
    note(folder, "lock", context)
    ctypes.PyDLL(None).sleep(60)
