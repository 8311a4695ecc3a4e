"""How runs stand that a list names: read once, and again when there is more on record."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from planloom import MemoryJournal
from planloom.ports import Recorded
from planloom.server import standing
from tests.server.common import ASK, Served, serving


class Counting(MemoryJournal):
    """Knows whose records were read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    async def read(self, run_id: str, **options: Any) -> list[Recorded]:
        self.reads.append(run_id)
        return await super().read(run_id, **options)


async def paused(server: Served, count: int) -> list[str]:
    """Return runs that wait for a person and that nobody drives."""
    runs = [await server.begun(ASK) for _ in range(count)]
    for run_id in runs:
        await server.settled(run_id)
        await server.post(f"/runs/{run_id}/pause")
    await let_go(server)
    return runs


async def let_go(server: Served) -> None:
    while server.service.held:
        await asyncio.sleep(0)


async def listed(server: Served, status: str) -> list[str]:
    rows = (await server.get(f"/runs?status={status}"))["runs"]
    return sorted(row["run_id"] for row in rows)


def test_a_list_reads_no_record_again_that_has_not_grown() -> None:
    journal = Counting()

    async def main() -> None:
        async with serving(journal=journal) as server:
            runs = await paused(server, 3)
            await listed(server, "waiting")
            journal.reads.clear()
            again = await listed(server, "waiting"), await listed(server, "running")
            unread = list(journal.reads)
            await server.post(f"/runs/{runs[0]}/resume")
            await server.post(f"/runs/{runs[0]}/pause")
            await let_go(server)
            journal.reads.clear()
            grown = await listed(server, "waiting")

        assert again == (sorted(runs), [])
        assert unread == []
        assert grown == sorted(runs)
        assert journal.reads == [runs[0]]

    asyncio.run(main())


def test_what_a_list_remembers_of_runs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "KEPT_RUNS", 2)
    journal = Counting()

    async def main() -> None:
        async with serving(journal=journal) as server:
            runs = await paused(server, 3)
            await listed(server, "waiting")
            journal.reads.clear()
            again = await listed(server, "waiting")

        assert again == sorted(runs)
        assert set(journal.reads) <= set(runs)
        assert journal.reads

    asyncio.run(main())
