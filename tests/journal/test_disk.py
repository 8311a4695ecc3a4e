"""A disk that is full, and one that breaks: the kernel's own errors, in SQLite's own code.

Real: a disk of four megabytes (tmpfs) that fills up; calls to write and to sync that the kernel answers with EIO. What
stays simulated elsewhere is said there (`Spoil.BROKEN`, `PRAGMA max_page_count`).
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from threading import Barrier

import pytest

from planloom import Engine, RunStatus, SqliteJournal, Tool
from planloom.core.events import RunStarted, StepDispatched
from planloom.errors import JournalDamagedError, JournalWriteError
from planloom.journal.reader import READING_THREADS
from planloom.plan.model import Plan
from tests.journal.broken_disk import break_calls, can_break
from tests.journal.damage import written
from tests.journal.small_disk import ITEMS

SMALL_DISK = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--size", "4000000", "--tmpfs", "/mnt"]
ONE = Plan.from_dict({"name": "p", "steps": [{"id": "a", "tool": "t"}]})
CHAIN = {
    "planloom": 1,
    "name": "chain",
    "steps": [{"id": "s0", "tool": "pay", "with": {"n": 0}}]
    + [{"id": f"s{n}", "tool": "pay", "with": {"n": f"${{{{ steps.s{n - 1}.output }}}}"}} for n in range(1, 6)],
    "outputs": {"last": "${{ steps.s5.output }}"},
}
needs_filters = pytest.mark.skipif(not can_break(), reason="needs Linux's system call filters")
WAYS = {"writing": ("pwrite64",), "syncing": ("fsync", "fdatasync"), "both": ("pwrite64", "fsync", "fdatasync")}


def small_disks() -> bool:
    return shutil.which("bwrap") is not None and subprocess.run([*SMALL_DISK, "true"], check=False).returncode == 0


@pytest.mark.slow
def test_a_run_whose_disk_is_full_keeps_what_was_told_and_goes_on_when_there_is_room() -> None:
    if not small_disks():
        pytest.skip("needs bubblewrap")

    ended = subprocess.run(
        [*SMALL_DISK, sys.executable, "-m", "tests.journal.small_disk", "/mnt"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    seen = json.loads(ended.stdout)

    assert seen["error"]["code"] == "journal.write"
    assert "the disk is full" in seen["error"]["message"]
    assert "free space" in seen["error"]["remedy"]
    assert ITEMS > seen["called"] > 5
    assert seen["events"] == seen["chained"] >= seen["told"] > 10
    assert seen["output"] == {"count": ITEMS}
    assert seen["calls"] == list(range(ITEMS)), "each was called once"


async def broken(journal: SqliteJournal, way: str) -> None:
    """Break the disk for the thread that writes."""
    committer = await journal._writing()
    await committer.do(lambda connection: break_calls(*WAYS[way]))


@needs_filters
@pytest.mark.parametrize("way", WAYS)
def test_a_write_that_fails_ends_the_writer_and_keeps_what_was_told(tmp_path: Path, way: str) -> None:
    told: list[int] = []
    errors: list[BaseException] = []

    def on_durable(seq: int, error: BaseException | None) -> None:
        errors.append(error) if error else told.append(seq)

    async def write() -> None:
        journal = SqliteJournal(tmp_path / "runs.db")
        writer = await journal.create("r", on_durable)
        writer.append((RunStarted(ONE, {}, 1.5), StepDispatched("a", 1, 0, 1.5)), (0, 1))
        await writer.flush()
        await broken(journal, way)

        writer.append((StepDispatched("a", 2, 0, 1.5),), (1,))
        with pytest.raises(JournalWriteError, match="disk I/O error") as caught:
            await writer.flush()

        assert "check the disk" in caught.value.remedy
        assert errors == [caught.value]
        with pytest.raises(JournalWriteError):
            writer.append((StepDispatched("a", 3, 0, 1.5),), (1,))
        await journal.close()

    async def go_on() -> None:
        journal = SqliteJournal(tmp_path / "runs.db")
        recorded, writer = await journal.take("r", lambda seq, error: None)
        assert told == [2]
        assert len(recorded) >= 2
        writer.append((StepDispatched("a", 9, 0, 1.5),), (1,))
        await writer.close()
        chain = await journal.chain_of("r")
        assert chain.events == chain.chained == len(recorded) + 1
        await journal.close()

    asyncio.run(write())
    asyncio.run(go_on())


@needs_filters
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES], ids=["EIO", "EACCES"])
def test_a_read_that_fails_is_a_typed_error_and_may_be_tried_again(tmp_path: Path, number: int) -> None:
    async def main() -> None:
        journal = SqliteJournal(tmp_path / "runs.db")
        writer = await journal.create("r", lambda seq, error: None)
        writer.append((RunStarted(ONE, {}, 1.5),), (0,))
        await writer.close()
        everybody = Barrier(READING_THREADS)

        def break_reading(connection: sqlite3.Connection) -> None:
            everybody.wait(timeout=20)  # so that each thread is given one
            break_calls("pread64", error=number)

        await asyncio.gather(*(journal._reads.read(break_reading) for _ in range(READING_THREADS)))

        # SQLite itself takes an EIO for a damaged file, and says so
        with pytest.raises(JournalDamagedError if number == errno.EIO else JournalWriteError) as caught:
            await journal.read("r")

        assert "check the disk" in caught.value.remedy
        await journal.close()
        journal = SqliteJournal(tmp_path / "runs.db")
        assert len(await journal.read("r")) == 1
        await journal.close()

    asyncio.run(main())


def test_a_file_that_is_cut_while_it_is_open_is_a_typed_error(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    written(path)

    async def main() -> None:
        journal = SqliteJournal(path)
        assert len(await journal.read("ended")) == 18
        os.truncate(path, 8192)

        for reading in (journal.read("cut"), journal.take("cut", lambda seq, error: None)):
            with pytest.raises(JournalDamagedError) as caught:
                await reading
            assert caught.value.remedy
        await journal.close()

    asyncio.run(main())


@needs_filters
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("at", [0, 3, 5])
def test_a_run_whose_disk_breaks_does_nothing_twice_once_it_is_mended(tmp_path: Path, way: str, at: int) -> None:
    calls: list[int] = []

    async def run(breaks: bool) -> None:
        journal = SqliteJournal(tmp_path / "runs.db")

        async def pay(n: int) -> int:
            calls.append(n)
            if breaks and n == at:
                await broken(journal, way)
            return n + 1

        async with Engine(journal, tools=[Tool.from_function(pay, name="pay", effects="once")]) as engine:
            if breaks:
                with pytest.raises(JournalWriteError, match="disk I/O error"):
                    await engine.run(CHAIN, run_id="r")
            else:
                taken = await engine.resume("r")
                for step in (await taken.result()).blocked:  # done, and its result not on record
                    await taken.resolve(step.id, "output", by="a person", output=at + 1)
                result = await taken.result()
                assert (result.status, result.output) == (RunStatus.SUCCESS, {"last": 6})
        await journal.close()

    asyncio.run(run(breaks=True))
    asyncio.run(run(breaks=False))

    assert calls == list(range(6))
