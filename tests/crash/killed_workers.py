"""The engine that is killed with its workers: `killed_workers.py FOLDER RUN` starts the run, or goes on with it.

Every call of a tool leaves a line in calls.log before it does anything else: "effects key attempt". That line is the
effect. Workers find the folder in their environment.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from planloom import Engine, RunStatus, ToolContext, WorkerPool, WorkerSetup, on_workers, tool
from planloom.errors import RunNotFoundError

FOLDER = Path(os.environ.get("KILLED_FOLDER", ""))
LEASE_S = 0.6
PLAN = """
planloom: 1
name: killed workers
steps:
  - id: read
    tool: lost.pure
    for_each: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    with: {number: "${{ item }}"}
  - id: put
    tool: lost.put
    for_each: "${{ steps.read.output }}"
    with: {number: "${{ item }}"}
  - id: pay
    tool: lost.pay
    for_each: "${{ steps.put.output }}"
    with: {number: "${{ item }}"}
  - {id: last, tool: lost.pure, with: {number: "${{ sum(steps.pay.output) }}"}}
outputs: "${{ steps.last.output }}"
"""
EXPECTED = sum(number + 3 for number in range(1, 17)) + 1


def note(effects: str, context: ToolContext) -> None:
    line = f"{effects} {context.step} {context.attempt}\n".encode()
    log = os.open(FOLDER / "calls.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(log, line)
    finally:
        os.close(log)


@tool(name="lost.pure", effects="none")
async def pure(number: int, context: ToolContext) -> int:
    """Add one, after a moment."""
    note("none", context)
    await asyncio.sleep(0.05)
    return number + 1


@tool(name="lost.put", effects="idempotent")
def put(number: int, context: ToolContext) -> int:
    """Add one, in a thread, after a moment; may be called again."""
    note("idempotent", context)
    return number + 1


@tool(name="lost.pay", effects="once")
async def pay(number: int, context: ToolContext) -> int:
    """Add one, after a moment; must never be called twice."""
    note("once", context)
    await asyncio.sleep(0.05)
    return number + 1


def happened(key: str) -> bool:
    return f"once {key} " in (FOLDER / "calls.log").read_text(encoding="utf-8")


async def main(run_id: str) -> None:
    setup = WorkerSetup(tools=(__file__,))
    async with (
        WorkerPool(2, 3, setup=setup, capacity=2, lease_s=LEASE_S) as pool,
        Engine(FOLDER / "runs.db", tools=[pure, put, pay], transport=on_workers(pool)) as engine,
    ):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        try:
            run = await engine.resume(run_id)
        except RunNotFoundError:
            run = await engine.start(PLAN, run_id=run_id)
        result = await run.result()
        while result.status is RunStatus.WAITING:
            for blocker in result.blockers():
                # What a person would do: look whether it happened, and say so.
                key = blocker["step"]
                number = int(key.partition("[")[2].rstrip("]")) + 3
                how, output = ("output", number + 1) if happened(key) else ("retry", None)
                await run.resolve(key, how, by="whoever looked", output=output)
            result = await run.result()
        sys.stdout.write(f"{result.status.value}\n")


if __name__ == "__main__":
    FOLDER = Path(sys.argv[1])
    os.environ["KILLED_FOLDER"] = str(FOLDER)
    asyncio.run(main(sys.argv[2]))
