"""The process that is killed: `killed.py FOLDER RUN` starts the run, or takes it up, and goes on to its end.

Every call of a tool leaves a line in calls.log before it does anything else: "effects key attempt". That line is the
effect: whoever counts the lines knows what really happened, whatever the journal says.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from planloom import Engine, RunStatus, ToolContext, tool
from planloom.errors import RunNotFoundError

FOLDER = Path(sys.argv[1]) if __name__ == "__main__" else Path()
PLAN = """
planloom: 1
name: killed
steps:
  - id: read
    tool: kill.pure
    for_each: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    max_parallel: 3
    with: {number: "${{ item }}"}
  - {id: chain_1, tool: kill.pure, with: {number: 100}}
  - {id: chain_2, tool: kill.pure, with: {number: "${{ steps.chain_1.output }}"}}
  - {id: chain_3, tool: kill.pure, with: {number: "${{ steps.chain_2.output }}"}}
  - id: put
    tool: kill.put
    for_each: "${{ steps.read.output }}"
    max_parallel: 4
    with: {number: "${{ item }}"}
  - id: flaky
    tool: kill.flaky
    retry: {max_attempts: 4, initial_delay: 0.02, jitter: false}
    with: {number: "${{ steps.chain_3.output }}"}
  - id: pay
    tool: kill.pay
    for_each: "${{ steps.put.output }}"
    max_parallel: 2
    with: {number: "${{ item }}"}
  - {id: last, tool: kill.pure, with: {number: "${{ sum(steps.pay.output) }}"}, needs: [flaky]}
outputs: "${{ steps.last.output }}"
"""
EXPECTED = sum(n + 3 for n in range(1, 13)) + 1


def note(effects: str, context: ToolContext) -> None:
    line = f"{effects} {context.step} {context.attempt}\n".encode()
    log = os.open(FOLDER / "calls.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(log, line)
    finally:
        os.close(log)


@tool(name="kill.pure", effects="none")
async def pure(number: int, context: ToolContext) -> int:
    """Add one, after a moment."""
    note("none", context)
    await asyncio.sleep(0.004)
    return number + 1


@tool(name="kill.put", effects="idempotent")
async def put(number: int, context: ToolContext) -> int:
    """Add one, after a moment; may be called again."""
    note("idempotent", context)
    await asyncio.sleep(0.004)
    return number + 1


@tool(name="kill.flaky", effects="idempotent")
async def flaky(number: int, context: ToolContext) -> int:
    """Fail twice, then work."""
    note("idempotent", context)
    if context.attempt < 3:
        raise ConnectionError("not yet")
    return number


@tool(name="kill.pay", effects="once")
async def pay(number: int, context: ToolContext) -> int:
    """Add one, after a moment; must never be called twice."""
    note("once", context)
    await asyncio.sleep(0.004)
    return number + 1


def happened(key: str) -> bool:
    return f"once {key} " in (FOLDER / "calls.log").read_text(encoding="utf-8")


async def main(run_id: str) -> None:
    async with Engine(FOLDER / "runs.db", tools=[pure, put, flaky, pay]) as engine:
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


if __name__ == "__main__":
    asyncio.run(main(sys.argv[2]))
