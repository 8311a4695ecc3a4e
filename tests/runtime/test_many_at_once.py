"""Many runs of random plans at once on a real clock, with sync and async tools, while some are cancelled, let go of and
taken up again: every run ends, no law is broken, nothing is left.

PLANLOOM_SEED chooses the plans.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from planloom import Engine, RunResult, RunStatus, Tool, ToolContext
from planloom.core.result import ENDED
from planloom.observe.looks import every_step
from planloom.runtime.replay import diverges
from planloom.runtime.run import Run

SEED = int(os.environ.get("PLANLOOM_SEED", "1"))
RUNS = 100
PATIENCE_S = 60.0


class Tools:
    """Tools of every kind; `paid` counts how often each once step was called."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.paid: Counter[str] = Counter()
        self._lock = Lock()

    def _pay(self, context: ToolContext) -> None:
        with self._lock:
            self.paid[f"{context.run_id}/{context.step}"] += 1

    async def pure(self, n: int) -> int:
        await asyncio.sleep(self.chance.random() * 0.01)
        return n

    def threaded(self, n: int) -> int:
        time.sleep(self.chance.random() * 0.01)
        return n

    async def pay(self, n: int, context: ToolContext) -> int:
        self._pay(context)
        await asyncio.sleep(self.chance.random() * 0.01)
        if self.chance.random() < 0.1:
            raise LookupError("declined")
        return n

    def pay_threaded(self, n: int, context: ToolContext) -> int:
        self._pay(context)
        time.sleep(self.chance.random() * 0.01)
        return n

    async def flaky(self, n: int) -> int:
        if self.chance.random() < 0.4:
            raise ConnectionError("not now")
        return n

    async def deaf(self, n: int) -> int:
        for _ in range(3):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        return n

    def all(self) -> list[Tool]:
        none = (self.pure, self.threaded, self.flaky, self.deaf)
        made = [Tool.from_function(one, effects="none") for one in none]
        return made + [Tool.from_function(one, effects="once") for one in (self.pay, self.pay_threaded)]


def random_plan(chance: random.Random) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    for n in range(chance.randint(1, 10)):
        above = [step["id"] for step in steps]
        tool = chance.choice(("pure", "threaded", "pay", "pay_threaded", "flaky", "deaf"))
        step: dict[str, Any] = {"id": f"s{n}", "tool": tool, "with": {"n": n}}
        step["needs"] = chance.sample(above, min(len(above), chance.randint(0, 2)))
        if chance.random() < 0.3:
            step["for_each"] = list(range(chance.randint(0, 6)))
        if chance.random() < 0.3:
            step["on_error"] = chance.choice(("skip", "continue"))
        if chance.random() < 0.3:
            step["retry"] = {"max_attempts": 3, "initial_delay": 0.005}
        if chance.random() < 0.3:
            step["attempt_timeout"] = chance.choice((0.002, 0.008, 0.05))
        if tool in ("pure", "threaded", "flaky") and chance.random() < 0.3:
            step["cache"] = True
        steps.append(step)
    limits = {
        "timeout_seconds": chance.choice((0.02, 0.2, 20)),
        "max_concurrent": chance.choice((None, 1, 3)),
        "max_tool_calls": chance.choice((None, 5, 50)),
    }
    return {"planloom": 1, "fail_fast": chance.random() < 0.5, "steps": steps} | (
        {"limits": limits} if chance.random() < 0.5 else {}
    )


async def one_run(engine: Engine, run_id: str, chance: random.Random) -> RunResult:
    """Start a run, do something to it, and see it to its end."""
    run = await engine.start(random_plan(chance), run_id=run_id)
    what = chance.choice(("nothing", "cancel", "the waiter is cancelled", "let go", "let go"))
    if what == "cancel":
        await asyncio.sleep(chance.random() * 0.03)
        await run.cancel()
    elif what == "the waiter is cancelled":
        waiter = asyncio.ensure_future(engine.finish(run))
        await asyncio.sleep(chance.random() * 0.03)
        waiter.cancel()
        with suppress(asyncio.CancelledError):
            await waiter
        run = await engine.resume(run_id)  # it may have been waiting for a person, or has ended
    elif what == "let go":
        for _ in range(3):
            await asyncio.sleep(chance.random() * 0.02)
            await engine.release(run_id)
            run = await engine.resume(run_id)
    result = await answered(run)
    await engine.release(run_id)
    return result


async def answered(run: Run) -> RunResult:
    result = await run.result()
    while result.status is RunStatus.WAITING:
        for step in result.blocked:
            if step.id in {blocked.id for blocked in run.state_now().blocked}:
                await run.resolve(step.id, "fail", by="a person")
        result = await run.result()
    return result


@pytest.mark.slow
@pytest.mark.parametrize("durable", [True, False])
def test_whatever_is_done_to_many_runs_at_once_each_ends_and_keeps_every_law(durable: bool, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    tools = Tools(chance)

    async def main() -> None:
        async with Engine(tmp_path / "runs.db" if durable else None, tools=tools.all()) as engine:
            async with asyncio.timeout(PATIENCE_S):
                results = await asyncio.gather(*(one_run(engine, f"r{n}", chance) for n in range(RUNS)))
            for result in results:
                assert result.ended_at is not None
                assert [step.id for step in every_step(result.steps) if step.status not in ENDED] == []
                assert diverges(result.run_id, await engine.journal.read(result.run_id)) is None
                assert (await engine.result_of(result.run_id)).to_dict() == result.to_dict()
            assert len({result.status for result in results}) >= 4
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())

    assert [key for key, times in tools.paid.items() if times > 1] == []
