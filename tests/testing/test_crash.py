"""The journal that cuts the power: what it loses, what it keeps, and that it is a journal like any other until then."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from planloom import MemoryJournal, SqliteJournal
from planloom.core.events import CancelRequested, RunStarted
from planloom.errors import JournalWriteError
from planloom.plan.model import Plan
from planloom.testing.conformance.journal import CHECKS, LASTING_CHECKS, Check, JournalPlace, run_check
from planloom.testing.crash import CrashingJournal, Spoil

PLAN = Plan.from_dict({"name": "p", "steps": [{"id": "a", "tool": "t"}]})


class ClosesBoth(CrashingJournal):
    async def close(self) -> None:
        await self.inner.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_unspoiled_it_is_a_journal_in_memory(check: Check) -> None:
    run_check(check, JournalPlace(lambda: ClosesBoth(MemoryJournal())))


@pytest.mark.parametrize("check", [*CHECKS, *LASTING_CHECKS], ids=lambda check: check.__name__)
def test_unspoiled_it_is_a_journal_in_a_file(check: Check, tmp_path: Path) -> None:
    run_check(check, JournalPlace(lambda: ClosesBoth(SqliteJournal(tmp_path / "runs.db"))))


async def written(
    how: Spoil, at: int, lag: int, writes: int, inner: Any
) -> tuple[list[int], list[str], CrashingJournal]:
    """Write so often; return what was told durable, what went wrong, and the journal."""
    told: list[int] = []
    wrong: list[str] = []

    def on_durable(seq: int, error: BaseException | None) -> None:
        told.append(seq) if error is None else wrong.append(str(error))

    journal = CrashingJournal(inner, at=at, how=how, lag=lag)
    writer = await journal.create("r", on_durable)
    for number in range(writes):
        event = RunStarted(PLAN, {}, 1.0) if number == 0 else CancelRequested("x", float(number))
        try:
            writer.append((event,), (0,))
        except JournalWriteError as error:
            wrong.append(str(error))
        for _ in range(3):
            await asyncio.sleep(0)
    for _ in range(30):
        await asyncio.sleep(0)
    await writer.close()
    return told, wrong, journal


@pytest.mark.parametrize(
    ("how", "lag", "told", "kept"),
    [
        (Spoil.BEFORE, 0, [1, 2], 2),
        (Spoil.BEFORE, 1, [1, 2], 2),
        (Spoil.BEFORE, 20, [], 0),
        (Spoil.AFTER, 0, [1, 2], 3),
        (Spoil.AFTER, 20, [], 3),
    ],
)
def test_a_power_cut_keeps_what_was_told_and_tells_nothing_after(
    how: Spoil, lag: int, told: list[int], kept: int
) -> None:
    async def main() -> None:
        disk = MemoryJournal()
        heard, wrong, journal = await written(how, 3, lag, 6, disk)
        assert heard == told
        assert wrong == []
        assert journal.dead
        assert len(await disk.read("r") if kept else []) == kept
        assert bool(await disk.runs()) is bool(kept)

    asyncio.run(main())


def test_a_broken_disk_says_so_to_whoever_wrote_and_writes_nothing_more() -> None:
    async def main() -> None:
        disk = MemoryJournal()
        heard, wrong, journal = await written(Spoil.BROKEN, 3, 0, 6, disk)
        assert heard == [1, 2]
        assert len(wrong) == 4  # once through on_durable, then each append
        assert not journal.dead
        assert len(await disk.read("r")) == 2

    asyncio.run(main())


def test_writes_that_come_while_one_is_on_its_way_are_committed_together() -> None:
    async def main() -> None:
        told: list[int] = []
        journal = CrashingJournal(MemoryJournal(), lag=3)
        writer = await journal.create("r", lambda seq, error: told.append(seq))
        writer.append((RunStarted(PLAN, {}, 1.0),), (0,))
        writer.append((CancelRequested("x", 2.0),), (0,))
        assert (told, writer.backlog) == ([], 2)
        await writer.flush()
        assert (told[-1], writer.backlog) == (2, 0)
        assert journal.writes == 2

    asyncio.run(main())
