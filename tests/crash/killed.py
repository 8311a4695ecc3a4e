"""The process that is killed: `-m tests.crash.killed FOLDER RUN [workers]` starts the run, or goes on with it.

With `workers` its tools are called by worker processes, which load this file for them. Every call is in the log of
`effects.py` before anything else is done about it. The last line of output is how the run ended.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from planloom import Engine, RunStatus, ToolContext, WorkerPool, WorkerSetup, on_workers, tool
from planloom.errors import RunNotFoundError
from tests.crash.effects import Effects

LEASE_S = 0.6
PLAN = """
planloom: 1
name: killed
steps:
  - id: read
    tool: kill.pure
    for_each: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    max_parallel: 3
    with: {number: "${{ item }}"}
  - id: early
    tool: kill.pay
    for_each: [21, 22, 23, 24, 25, 26, 27, 28]
    max_parallel: 1
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
    retry: {max_attempts: 9, initial_delay: 0.02, jitter: false}
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
MOMENT_S = float(os.environ.get("KILLED_MOMENT_S", "0.004"))
"""Seconds that each call takes."""
WORLD = Effects(Path(os.environ.get("KILLED_FOLDER", "")))


def noted(tool: str, effects: str, number: int, context: ToolContext) -> None:
    key = context.idempotency_key
    WORLD.note(f"kill.{tool}", effects, number, step=context.step, attempt=context.attempt, key=key)


@tool(name="kill.pure", effects="none")
async def pure(number: int, context: ToolContext) -> int:
    """Add one, after a moment."""
    noted("pure", "none", number, context)
    await asyncio.sleep(MOMENT_S)
    return number + 1


@tool(name="kill.put", effects="idempotent")
def put(number: int, context: ToolContext) -> int:
    """Add one, in a thread; may be called again."""
    noted("put", "idempotent", number, context)
    return number + 1


@tool(name="kill.flaky", effects="idempotent")
async def flaky(number: int, context: ToolContext) -> int:
    """Fail twice, then work."""
    noted("flaky", "idempotent", number, context)
    if context.attempt < 3:
        raise ConnectionError("not yet")
    return number


@tool(name="kill.pay", effects="once")
async def pay(number: int, context: ToolContext) -> int:
    """Add one, after a moment; must never be called twice."""
    noted("pay", "once", number, context)
    await asyncio.sleep(MOMENT_S)
    return number + 1


TOOLS = [pure, put, flaky, pay]


async def to_the_end(engine: Engine, run_id: str) -> RunStatus:
    """Start the run or go on with it, and answer for what is unknown as a person would who looked."""
    try:
        run = await engine.resume(run_id)
    except RunNotFoundError:
        run = await engine.start(PLAN, run_id=run_id)
    result = await run.result()
    while result.status is RunStatus.WAITING:
        for blocker in result.blockers():
            number = WORLD.argument(blocker["step"])
            how, output = ("retry", None) if number is None else ("output", number + 1)
            await run.resolve(blocker["step"], how, by="whoever looked", output=output)
        result = await run.result()
    return result.status


async def main(run_id: str, *, has_workers: bool) -> None:
    async with AsyncExitStack() as stack:
        transport = None
        if has_workers:
            setup = WorkerSetup(tools=(__file__,))
            transport = on_workers(
                await stack.enter_async_context(WorkerPool(2, 3, setup=setup, capacity=2, lease_s=LEASE_S))
            )
        engine = await stack.enter_async_context(Engine(WORLD.folder / "runs.db", tools=TOOLS, transport=transport))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        status = await to_the_end(engine, run_id)
        sys.stdout.write(f"{status.value}\n")


if __name__ == "__main__":
    WORLD = Effects(Path(sys.argv[1]))
    os.environ["KILLED_FOLDER"] = sys.argv[1]
    asyncio.run(main(sys.argv[2], has_workers=sys.argv[3:] == ["workers"]))
