"""One bit of a journal's file, or of its log, is the other way: what is read is what was written, or nothing is."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from planloom import SqliteJournal
from planloom.errors import JournalError
from planloom.ports import Recorded
from tests.journal.damage import RUNS, Outcome, compared, quick_folder, read_file, written

KILLS = int(os.environ.get("PLANLOOM_KILLS", "20"))
SEED = 59


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_folder() as found:
        yield found


def flipped(raw: bytes, dice: random.Random) -> bytes:
    damaged = bytearray(raw)
    damaged[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
    return bytes(damaged)


def place(copy: Path, raw: bytes, log: bytes | None = None) -> None:
    """Make this the whole journal."""
    for suffix in ("-wal", "-shm"):
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)
    copy.write_bytes(raw)
    if log is not None:
        copy.with_name(copy.name + "-wal").write_bytes(log)


def flip_file(folder: Path, times: int) -> Counter[Outcome]:
    """Flip one bit of a file at a time; return what reading its runs came to."""
    path, copy = folder / "runs.db", folder / "copy.db"
    written(path)
    raw, dice = path.read_bytes(), random.Random(SEED)
    wanted = {run_id: read_file(path, run_id) for run_id in RUNS}
    found: Counter[Outcome] = Counter()
    for _ in range(times):
        place(copy, flipped(raw, dice))
        for run_id, events in wanted.items():
            assert isinstance(events, list)
            found[compared(read_file(copy, run_id), events)] += 1
    return found


def told(what: str, found: Counter[Outcome], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{what}: {', '.join(f'{outcome} {count:,}' for outcome, count in sorted(found.items()))}")


@pytest.mark.slow
def test_a59_a_bit_of_the_file_is_noticed_or_does_not_matter(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = flip_file(folder, 250)

    told("bits of the file, by runs read", found, capsys)
    assert found.keys() == {Outcome.REFUSED, Outcome.SAME}


@pytest.mark.crash
@pytest.mark.slow
def test_a59_many_bits_of_the_file_are_noticed_or_do_not_matter(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = flip_file(folder, 100 * KILLS)

    told("bits of the file, by runs read", found, capsys)
    assert found.keys() == {Outcome.REFUSED, Outcome.SAME}


async def taken(path: Path, run_id: str) -> list[Recorded] | JournalError:
    """Open the journal as an engine does, and take the run; return its events, or why there are none."""
    try:
        journal = SqliteJournal(path)
    except JournalError as error:
        return error
    try:
        recorded, writer = await journal.take(run_id, lambda seq, error: None)
        await writer.close()
    except JournalError as error:
        return error
    finally:
        await journal.close()
    return recorded


@pytest.mark.slow
def test_a59_whoever_opens_a_damaged_file_and_takes_a_run_gets_it_whole_or_a_typed_error(folder: Path) -> None:
    path, copy = folder / "runs.db", folder / "copy.db"
    written(path)
    raw, dice = path.read_bytes(), random.Random(SEED + 1)
    wanted = read_file(path, "cut")
    assert isinstance(wanted, list)
    found: Counter[Outcome] = Counter()

    for _ in range(60):
        # where a file says what it is, and where its tables and their indexes begin
        head = flipped(raw[:512], dice) + raw[512:]
        for damaged in (flipped(raw, dice), head):
            place(copy, damaged)
            found[compared(asyncio.run(taken(copy, "cut")), wanted)] += 1

    assert found.keys() == {Outcome.REFUSED, Outcome.SAME}


@pytest.mark.slow
def test_a59_a_bit_of_the_log_ends_the_record_there_and_is_never_read_as_something_else(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    released = Path(__file__).parents[1] / "journals/v0.1/format-2-killed.sqlite3"
    raw, log = released.read_bytes(), released.with_name(released.name + "-wal").read_bytes()
    copy, dice = folder / "copy.db", random.Random(SEED + 2)
    place(copy, raw, log)
    wanted = read_file(copy, "killed")
    assert isinstance(wanted, list)
    found: Counter[Outcome] = Counter()

    for _ in range(120):
        place(copy, raw, flipped(log, dice))
        found[compared(read_file(copy, "killed"), wanted)] += 1

    told("bits of the log", found, capsys)
    assert Outcome.DIFFERENT not in found
    assert found[Outcome.SHORTER] > 0  # a log ends where its check sums do: SQLite takes the rest for not written yet


@pytest.mark.slow
def test_a59_a_file_cut_short_is_refused_or_whole(folder: Path) -> None:
    path, copy = folder / "runs.db", folder / "copy.db"
    written(path)
    raw = path.read_bytes()
    wanted = read_file(path, "ended")
    assert isinstance(wanted, list)
    pages = range(0, len(raw), 4096)

    found = Counter[Outcome]()
    for length in sorted({max(0, border + by) for border in (*pages, len(raw)) for by in (-1, 0, 100)}):
        place(copy, raw[:length])
        found[compared(asyncio.run(taken(copy, "ended")), wanted)] += 1

    assert found.keys() == {Outcome.REFUSED, Outcome.SAME}
