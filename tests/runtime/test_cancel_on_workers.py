"""Workers are free two seconds after a cancel, and gone with their pool."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from planloom.runtime.workers import on_workers
from planloom.tools.load import load_tools
from planloom.transport.pool import WorkerPool
from planloom.transport.setup import WorkerSetup
from tests.runtime.test_cancel_everywhere import MOST_TURNS, Alive, Cancelling, Case, World, until

WORKER_TOOLS = str(Path(__file__).parents[1] / "transport" / "worker_tools.py")
LENT = [
    {"id": "many", "tool": "w.pid", "for_each": [1, 2, 3, 4], "with": {"seconds": 0.2}},
    {"id": "pay", "tool": "w.pay", "with": {"folder": "", "seconds": 0.2}},
    {"id": "asked", "code": {"source": "return [w_add(a=n, b=n) for n in range(9)]", "tools": ["w.add"]}},
]
"""What workers are at when they are cancelled: tools, one that must not run twice, a program with calls of its own."""


@pytest.mark.slow
@pytest.mark.parametrize("by_run", [True, False])
def test_workers_are_free_two_seconds_after_a_cancel_and_gone_after_their_pool(tmp_path: Path, by_run: bool) -> None:
    cancelling = Lent(tmp_path)

    asyncio.run(cancelling.on_a_pool(by_run=by_run))

    print(f"workers: {cancelling.cancels} cancels")
    assert cancelling.cancels >= 4


class Lent(Cancelling):
    """Cancels runs whose attempts worker processes make."""

    pool: WorkerPool

    def __init__(self, folder: Path) -> None:
        steps = [
            step | {"with": step["with"] | {"folder": str(folder)}} if "pay" in step["id"] else step for step in LENT
        ]
        super().__init__(Case(steps, in_real_time=True, turn_s=0.004), folder)

    async def on_a_pool(self, *, by_run: bool) -> None:
        before = Alive.now()
        async with WorkerPool(2, 2, setup=WorkerSetup(tools=(WORKER_TOOLS,)), lease_s=5.0) as self.pool:
            pool = self.pool
            await until(lambda: pool.idle == 2)
            held = Alive.now()
            for turns in range(0, MOST_TURNS, 4):
                self.run_id = f"r{turns}"  # no two runs that a worker may meet are called the same
                await self.once(turns, by_run=by_run)
                assert await until(lambda: pool.idle == pool.size), f"after {turns} turns a worker is still lent"
            assert len(Alive.now().children) <= len(held.children), "more children than workers"
        await self._gone(before)

    def _parts(self, world: World) -> dict[str, Any]:
        return {"tools": load_tools(WORKER_TOOLS), "transport": on_workers(self.pool)}
