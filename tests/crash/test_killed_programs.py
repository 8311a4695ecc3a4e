"""Programs whose sandbox is struck in every way at random moments, while they call tools that may be called once.

What really happened is counted by the tools; what is said to have happened stands in the journal. PLANLOOM_KILLS says
how often.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from planloom import Engine, RunStatus, ToolContext, tool
from planloom.core.events import OutcomeUnknown
from planloom.runtime.replay import diverges
from planloom.sandbox.watch import descendants
from tests.crash.victims import Known, in_turn, known, left_alive, strike, under

KILLS = int(os.environ.get("PLANLOOM_KILLS", "20"))
SEED = int(os.environ.get("PLANLOOM_SEED", "1"))
WAYS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGABRT", "stopped")
MOMENT_S = 0.01
PAY_S = 0.1
"""Longer than a sandbox waits for the last words of a program that has died: a call may well end meanwhile."""
STOPPED_S = 0.05
SOURCE = """
import asyncio
first = await pay(n=n)
some = await asyncio.gather(*[look(n=n) for n in range(6)])
second = await pay(n=first)
return sum(some) + await pay(n=second)
"""
NUMBERS = [100, 200, 300, 400]


def plan_of(runtime: str) -> dict[str, Any]:
    return {
        "planloom": 1,
        "name": "programs",
        "steps": [
            {
                "id": "do",
                "code": {"source": SOURCE, "runtime": runtime, "tools": ["pay", "look"]},
                "for_each": NUMBERS,
                "max_parallel": 2,
                "on_item_error": "collect",
                "with": {"n": "${{ item }}"},
                "retry": {"max_attempts": 50, "initial_delay": 0.001, "jitter": False},
            }
        ],
        "outputs": "${{ steps.do.output }}",
    }


class World:
    """What the tools really did."""

    def __init__(self) -> None:
        self.paid: Counter[str] = Counter()
        self.paying = 0

    def tools(self) -> list[Any]:
        @tool(name="pay", effects="once")
        async def pay(n: int, context: ToolContext) -> int:
            """Add one, once."""
            self.paid[f"{context.step} {n}"] += 1
            self.paying += 1
            try:
                await asyncio.sleep(PAY_S)
            finally:
                self.paying -= 1
            return n + 1

        @tool(name="look", effects="none")
        async def look(n: int) -> int:
            """Return it."""
            await asyncio.sleep(MOMENT_S)
            return n

        return [pay, look]


async def striking(
    world: World, ways: Iterator[str], chance: random.Random, done: Counter[str], met: set[Known]
) -> None:
    """Strike some process of a sandbox, again and again: every other time while an effect is under way."""
    while done.total() < KILLS:
        await asyncio.sleep(chance.uniform(0.01, 0.2))
        while done.total() % 2 and not world.paying:
            await asyncio.sleep(0.001)
        there = list(descendants(os.getpid()))
        if there:
            way = next(ways)
            done[way] += 1
            met |= {known(pid) for pid in there}
            await asyncio.to_thread(strike, chance.choice(there), way, stopped_s=STOPPED_S)


async def one_run(folder: Path, runtime: str, chance: random.Random, ways: Iterator[str], done: Counter[str]) -> int:
    """Run once to the end while the sandboxes are struck; return how many outcomes were unknown."""
    world, met = World(), set[Known]()
    async with Engine(folder / "runs.db", tools=world.tools()) as engine:
        run = await engine.start(plan_of(runtime), run_id="r")
        striker = asyncio.create_task(striking(world, ways, chance, done, met))
        async with asyncio.timeout(60):
            while (result := await run.result()).status is RunStatus.WAITING:
                for blocker in result.blockers():
                    await run.resolve(blocker["step"], "fail", by="whoever looked")
        striker.cancel()
        await asyncio.gather(striker, return_exceptions=True)
        record = await engine.journal.read("r")
    assert left_alive(met) == set(), "something of a sandbox is left"
    assert diverges("r", record) is None
    assert max(world.paid.values(), default=0) <= 1, "a once effect happened twice"
    unknown = {entry.event.step for entry in record if isinstance(entry.event, OutcomeUnknown)}
    for item in result.step("do").parts:
        if "KeyboardInterrupt" in str(item.error):
            continue  # SIGINT is told to the program, which failed by itself
        assert (item.status == "completed") == (item.id not in unknown), item.error
        number = NUMBERS[int(item.id.partition("[")[2].rstrip("]"))]
        assert item.id in unknown or item.output == 15 + number + 3
        assert item.id in unknown or all(world.paid[f"{item.id} {number + more}"] == 1 for more in range(3))
    return len(unknown)


@pytest.mark.crash
@pytest.mark.parametrize("runtime", ["monty", "cpython"])
def test_however_and_whenever_a_sandbox_ends_no_call_inside_it_is_made_twice(runtime: str, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    ways, done = in_turn(WAYS, chance), Counter[str]()
    runs = unknown = 0
    began = time.monotonic()
    while done.total() < KILLS:
        runs += 1
        folder = tmp_path / f"run-{runs}"
        folder.mkdir()
        unknown += asyncio.run(one_run(folder, runtime, chance, ways, done))
    took_s = time.monotonic() - began
    told = f"{dict(sorted(done.items()))} in {runs} runs left {unknown} outcomes unknown, {took_s:.0f} s"
    sys.stdout.write(f"programs in {runtime}: {told}\n")


STARTS = """
import asyncio
from planloom.core.code import Program
from planloom.sandbox.sandbox import backend_of
async def main():
    backend = backend_of("cpython")
    await backend.run(Program("1"))
    print("ready", flush=True)
    while True:
        await asyncio.gather(*[backend.run(Program("1")) for _ in range(4)])
asyncio.run(main())
"""


@pytest.mark.crash
def test_no_sandbox_outlives_its_engine_whatever_it_is_at(tmp_path: Path) -> None:
    """Sandboxes that are just being made are not yet bound to whoever makes them."""
    chance, kills, met = random.Random(SEED), max(4, KILLS // 2), set[Known]()
    for _ in range(kills):
        with subprocess.Popen([sys.executable, "-c", STARTS], stdout=subprocess.PIPE) as engine:
            assert engine.stdout is not None
            assert engine.stdout.readline() == b"ready\n"
            until = time.monotonic() + chance.uniform(0.02, 0.1)
            while time.monotonic() < until:
                met |= under(engine.pid)
            engine.kill()
    assert len(met) > kills
    assert left_alive(met) == set()
    sys.stdout.write(f"{kills} engines killed over {len(met)} processes of sandboxes that start and end\n")
