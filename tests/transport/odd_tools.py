"""Tools that do to their own process what no tool should."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Any

from planloom import tool


@tool(name="o.exit", effects="none")
async def leave() -> None:
    """End the process without a word."""
    os._exit(0)


@tool(name="o.close", effects="none")
async def close() -> None:
    """Close every file and socket there is."""
    os.closerange(3, 256)
    await asyncio.sleep(30)


@tool(name="o.crash", effects="none")
async def crash() -> None:
    """Read what must not be read."""
    ctypes.string_at(0)


@tool(name="o.fork", effects="none")
async def fork() -> None:
    """Have a child hold the socket, and die."""
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


@tool(name="o.keep", effects="none")
async def keep() -> None:
    """Have a process of another session hold every file, and die."""
    subprocess.Popen(["sleep", "3"], start_new_session=True, close_fds=False)
    os.kill(os.getpid(), signal.SIGKILL)


@tool(name="o.stop", effects="none")
async def stop() -> None:
    """Stop the process."""
    os.kill(os.getpid(), signal.SIGSTOP)


@tool(name="o.loop", effects="none")
async def loop() -> None:
    """Stop the event loop."""
    asyncio.get_running_loop().stop()
    await asyncio.sleep(30)


@tool(name="o.cancel", effects="none")
async def cancel() -> None:
    """Cancel every task there is."""
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(30)


@tool(name="o.quit", effects="none")
async def quit_() -> None:
    """Ask Python to end."""
    sys.exit(3)


@tool(name="o.nan", effects="none")
async def nan() -> float:
    """Return no number."""
    return float("nan")


@tool(name="o.text", effects="none")
async def text() -> str:
    """Return text that cannot be written."""
    return "\ud800"


@tool(name="o.deep", effects="none")
async def deep() -> Any:
    """Return something deep."""
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    return value


@tool(name="o.big", effects="none")
async def big() -> str:
    """Return more than a message may hold."""
    return "x" * 70_000_000


@tool(name="o.signals", effects="none")
async def signals() -> int:
    """Ignore what can be ignored, leave the folder, close what is printed to."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    sys.stdout.close()
    sys.stderr.close()
    return 1
