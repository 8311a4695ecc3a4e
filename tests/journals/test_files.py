"""A journal file that any released planloom wrote opens, reads, replays and goes on. Files are added, never changed."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from planloom import Engine, RunStatus, SqliteJournal
from planloom.core.events import ApprovalAnswered
from planloom.errors import JournalDamagedError, JournalKeyError
from planloom.journal.schema import newest_format
from planloom.runtime.replay import diverges, replayed
from planloom.testing.clock import ManualClock
from planloom.testing.history.check import check_history
from tests.crash.shapes import World, driven
from tests.journals.files import KEY

FILES = sorted(Path(__file__).parent.glob("v*/*.sqlite3"))
NAMES = [f"{path.parent.name}/{path.stem}" for path in FILES]
every_file = pytest.mark.parametrize("file", FILES, ids=NAMES)
ENDS = {
    "ended": RunStatus.SUCCESS,
    "ended-badly": RunStatus.FAILED,
    "ended-after-a-cut": RunStatus.SUCCESS,
    "cut": RunStatus.SUCCESS,
    "cut-in-a-map": RunStatus.SUCCESS,
    "blocked-by-an-approval": RunStatus.SUCCESS,
    "blocked-by-an-outcome": RunStatus.SUCCESS,
    "paused": RunStatus.SUCCESS,
    "answered": RunStatus.SUCCESS,
    "killed": RunStatus.SUCCESS,
}
"""How each run of these files ends, at once or once it is resumed."""


@asynccontextmanager
async def opened(file: Path, folder: Path) -> AsyncIterator[SqliteJournal]:
    """Open a copy of a file."""
    copy = folder / file.name
    for suffix in ("", "-wal"):
        beside = file.with_name(file.name + suffix)
        if beside.exists() and not copy.with_name(copy.name + suffix).exists():
            shutil.copyfile(beside, copy.with_name(copy.name + suffix))
    journal = SqliteJournal(copy, key=KEY if "keyed" in file.name else None)
    try:
        yield journal
    finally:
        await journal.close()


async def time_passes(clock: ManualClock) -> None:
    while True:
        await asyncio.sleep(0.001)
        clock.advance(1)


def test_there_is_a_file_of_every_format() -> None:
    formats = {int(path.stem.split("-")[1]) for path in FILES}

    assert formats == set(range(1, newest_format() + 1))


@every_file
def test_the_runs_of_a_file_replay_to_the_decisions_in_them(file: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(file, tmp_path) as journal:
            rows = await journal.runs()
            assert {row.run_id for row in rows} == ({"killed"} if "killed" in file.name else ENDS.keys() - {"killed"})
            for row in rows:
                record = await journal.read(row.run_id)
                assert diverges(row.run_id, record) is None
                assert check_history(record, run_id=row.run_id) == []
                assert replayed(row.run_id, record).ended == (row.status != "running")
                assert len(record) == row.last_seq

    asyncio.run(main())


@every_file
@pytest.mark.slow
def test_the_runs_of_a_file_go_on_to_their_ends(file: Path, tmp_path: Path) -> None:
    clock, world = ManualClock(), World(in_real_time=True)
    clock.advance(3_600)

    async def main() -> None:
        async with opened(file, tmp_path) as journal:
            before = {row.run_id: await journal.chain_of(row.run_id) for row in await journal.runs()}
            passing = asyncio.ensure_future(time_passes(clock))
            async with Engine(journal, tools=world.tools(), clock=clock) as engine:
                for run_id in before:
                    result = await driven(engine.resume(run_id), clock, world)
                    assert result is not None
                    assert result.status is ENDS[run_id], run_id
            passing.cancel()
            for run_id, chain in before.items():
                record, after = await journal.read(run_id), await journal.chain_of(run_id)
                old = chain.events if file.name.startswith("format-1") else 0
                assert diverges(run_id, record) is None
                assert check_history(record, run_id=run_id) == []
                assert (chain.chained, after.events - after.chained) == (chain.events - old, old)
                assert after.keyed == ("keyed" in file.name)
            if "answered" in before:
                answers = [e.event for e in await journal.read("answered") if isinstance(e.event, ApprovalAnswered)]
                assert [(answer.step, answer.by) for answer in answers] == [("ok", "a person")]
                assert await journal.posted("answered") == []

    asyncio.run(main())


def test_what_was_written_before_there_were_links_is_guarded_from_when_it_is_taken_up(tmp_path: Path) -> None:
    file = next(path for path in FILES if path.name == "format-1.sqlite3")

    async def main() -> None:
        async with opened(file, tmp_path) as journal:
            recorded, writer = await journal.take("cut", lambda seq, error: None)
            writer.append((recorded[-1].event,), (1,))
            await writer.close()
            chain = await journal.chain_of("cut")
            assert (chain.events, chain.chained) == (13, 1)
            assert [await anext(journal.follow("cut", after=12))] == await journal.read("cut", after=12)
            change = "UPDATE events SET cause = cause + 1 WHERE run_id = 'cut' AND seq = 5"
            await (await journal._writing()).do(lambda connection: connection.execute(change))

            for after in (0, 6, 12):
                with pytest.raises(JournalDamagedError, match="event 13"):
                    await journal.read("cut", after=after)

    asyncio.run(main())


def test_what_was_written_before_there_were_links_is_refused_by_a_journal_with_a_key(tmp_path: Path) -> None:
    file = next(path for path in FILES if path.name == "format-1.sqlite3")

    async def main() -> None:
        async with opened(file, tmp_path):
            pass
        journal = SqliteJournal(tmp_path / file.name, key=KEY)
        for run_id in ("cut", "ended"):
            with pytest.raises(JournalKeyError, match="was not written with the key"):
                await journal.read(run_id)
        with pytest.raises(JournalKeyError, match="without this journal's key"):
            await journal.posted("answered")
        await journal.close()

    asyncio.run(main())
