"""What the tests of worker processes share: a pool with the tools above, plans, and looks at what really happened."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from planloom import Engine
from planloom.runtime.workers import on_workers
from planloom.tools.load import load_tools
from planloom.transport.pool import WorkerPool
from planloom.transport.setup import WorkerSetup

TOOLS = str(Path(__file__).with_name("worker_tools.py"))
SETUP = WorkerSetup(tools=(TOOLS,))


def pool_of(low: int = 1, high: int = 1, **options: Any) -> WorkerPool:
    return WorkerPool(low, high, **({"setup": SETUP, "lease_s": 1.0} | options))


def engine_on(pool: WorkerPool, **options: Any) -> Engine:
    engine_options = {"tools": load_tools(TOOLS)} | {k: options.pop(k) for k in ("tools", "journal") if k in options}
    return Engine(transport=on_workers(pool, **options), **engine_options)


def plan(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"planloom": 1, "steps": list(steps), **fields}


def step(step_id: str, tool: str, args: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "tool": tool, "with": args or {}, **fields}


def calls(folder: Path, name: str = "") -> list[list[str]]:
    """Return what tools left: name, key, attempt, pid."""
    log = folder / "calls.log"
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [line for line in lines if not name or line[0] == name]


async def until(reached: Callable[[], Any], *, within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not reached():
        if time.monotonic() > end:
            raise TimeoutError("it did not come to that")
        await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def children() -> set[int]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def open_files() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(f"{fd}:{os.readlink(f'/proc/self/fd/{fd}')}")
    return found
