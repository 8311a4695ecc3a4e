"""A killed engine's log, cut at every byte: what is left is what was committed before the cut, and can be resumed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from planloom import Engine, RunStatus, SqliteJournal
from planloom.errors import RunNotFoundError
from planloom.ports import Recorded
from planloom.runtime.replay import diverges
from tests.journal.damage import quick_folder, read_file
from tests.journal.victim import OUTPUT, RUN, tools

KILLS = int(os.environ.get("PLANLOOM_KILLS", "100"))
"""100 or more: every byte; fewer: as much less often."""
HEADER, FRAME = 32, 24 + 4096
"""Bytes of a log's own header, and of a frame: a header and a page."""


@dataclass(frozen=True, slots=True)
class Wreck:
    """What a killed process left.

    Attributes:
        told: What it was told was durable: an event's number, and the size of the log by then.
        commits: How many events there were after each commit.
    """

    file: bytes
    log: bytes
    told: list[tuple[int, int]]
    record: list[Recorded]
    commits: set[int]

    def borders(self) -> list[int]:
        return list(range(HEADER, len(self.log) + 1, FRAME))


def put(path: Path, file: bytes, log: bytes) -> None:
    path.write_bytes(file)
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    path.with_name(path.name + "-wal").write_bytes(log)


def wrecked(folder: Path) -> Wreck:
    """Have an engine killed, and return what it left."""
    path = folder / "victim.db"
    ended = subprocess.run(
        [sys.executable, "-m", "tests.journal.victim", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == -9, ended.stderr
    told = [(int(seq), int(size)) for seq, size in (line.split() for line in ended.stdout.splitlines())]
    file, log = path.read_bytes(), path.with_name(path.name + "-wal").read_bytes()
    copy = folder / "whole.db"
    put(copy, file, log)
    record = read_file(copy, RUN)
    assert isinstance(record, list)
    return Wreck(file, log, told, record, {0} | {seq for seq, _ in told} | {len(record)})


def cut(wreck: Wreck, folder: Path, lengths: Iterable[int]) -> Counter[int]:
    """Cut the log to each length and see what is left; return how often so many events were."""
    copy, found = folder / "cut.db", Counter[int]()
    for length in lengths:
        put(copy, wreck.file, wreck.log[:length])
        events = read_file(copy, RUN)
        left = events if isinstance(events, list) else []
        assert left == wreck.record[: len(left)], length
        assert len(left) in wreck.commits, length
        assert len(left) >= max((seq for seq, size in wreck.told if size <= length), default=0), length
        found[len(left)] += 1
    return found


async def resumed(path: Path) -> list[Recorded]:
    """Resume the run to its end and return its record."""
    journal = SqliteJournal(path)
    try:
        async with Engine(journal, tools=tools(deadly=False)) as engine:
            run = await engine.resume(RUN)
            result = await run.result()
            for step in result.blocked:  # the process died while it was at it
                await run.resolve(step.id, "retry", by="a person")
                result = await run.result()
            assert (result.status, result.output) == (RunStatus.SUCCESS, OUTPUT)
        chain = await journal.chain_of(RUN)
        record = await journal.read(RUN)
        assert (chain.events, chain.chained) == (len(record), len(record))
    finally:
        await journal.close()
    return record


def told(what: str, found: Counter[int], wreck: Wreck, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(
            f"\n{what}: {found.total():,} cuts of {len(wreck.log):,} bytes left {len(found)} records,"
            f" {min(found)} to {max(found)} events of {len(wreck.record)}"
        )


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with quick_folder() as found:
        yield found


@pytest.fixture(scope="module")
def wreck(folder: Path) -> Wreck:
    return wrecked(folder)


@pytest.mark.slow
def test_a59_a_log_cut_at_the_borders_of_its_frames_leaves_whole_commits_that_resume(
    wreck: Wreck, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    near = {border + by for border in wreck.borders() for by in (-1, 0, 1, 24)}
    lengths = sorted(length for length in near | set(range(0, len(wreck.log), 997)) if 0 <= length <= len(wreck.log))

    found = cut(wreck, folder, lengths)

    told("log cut near frames", found, wreck, capsys)
    assert found.keys() == wreck.commits
    assert list(found) == sorted(found), "a longer log never held less"
    for number, border in enumerate(wreck.borders()):
        copy = folder / f"resumed-{number}.db"
        put(copy, wreck.file, wreck.log[:border])
        try:
            record = asyncio.run(resumed(copy))
        except RunNotFoundError:
            assert border < min(size for _, size in wreck.told)
        else:
            assert diverges(RUN, record) is None


@pytest.mark.crash
@pytest.mark.slow
def test_a59_a_log_cut_at_every_byte_leaves_whole_commits(
    wreck: Wreck, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stride = max(1, 100 // KILLS)

    found = cut(wreck, folder, [*range(0, len(wreck.log), stride), len(wreck.log)])

    told("log cut at every byte" if stride == 1 else f"log cut at every {stride}th byte", found, wreck, capsys)
    assert found.keys() == wreck.commits
    assert list(found) == sorted(found), "a longer log never held less"
