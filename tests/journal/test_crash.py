"""What a journal keeps when its process is killed or its file may not grow, and what it says of missing rights."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from planloom.core.events import RunStarted, StepDispatched
from planloom.errors import JournalWriteError, RunBusyError
from planloom.journal.sqlite import SqliteJournal
from planloom.plan.model import Plan
from planloom.ports import Recorded

PLAN = Plan.from_dict({"name": "crash", "steps": [{"id": "a", "tool": "t"}]})
CHILD = str(Path(__file__).with_name("child.py"))


@contextmanager
def child(work: str, path: Path, run_id: str = "run-1") -> Iterator[subprocess.Popen[str]]:
    """Run child.py until the end of the block, at the latest."""
    with subprocess.Popen(
        [sys.executable, CHILD, work, str(path), run_id], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    return (line.rstrip("\n") for line in process.stdout)


def on_record(path: Path, run_id: str = "run-1") -> list[Recorded]:
    async def main() -> list[Recorded]:
        journal = SqliteJournal(path)
        try:
            return await journal.read(run_id)
        finally:
            await journal.close()

    return asyncio.run(main())


def record(path: Path, events: int, run_id: str = "run-1") -> None:
    """Begin a run, append so many events more, one commit each, and close."""

    async def main() -> None:
        journal = SqliteJournal(path)
        writer = await journal.create(run_id, lambda seq, error: None)
        writer.append((RunStarted(PLAN, {}, 1.5),), (0,))
        for _ in range(events):
            writer.append((StepDispatched("a", 1, 0, 1.5),), (1,))
            await writer.flush()
        await journal.close()

    asyncio.run(main())


@pytest.mark.crash
@pytest.mark.slow
def test_everything_told_durable_is_there_after_each_of_twenty_kills(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    last = 0
    for kill in range(20):
        with child("append_for_ever", path) as process:
            told = [int(line) for line, _ in zip(lines_of_numbers(process), range(1 + kill * 7), strict=False)]
            process.send_signal(signal.SIGKILL)
            told += list(lines_of_numbers(process))

        seqs = [recorded.seq for recorded in on_record(path)]

        assert told[-1] > last
        assert seqs == list(range(1, len(seqs) + 1))
        assert seqs[-1] >= told[-1]
        last = seqs[-1]


def lines_of_numbers(process: subprocess.Popen[str]) -> Iterator[int]:
    return (int(line) for line in lines(process) if line.isdigit())


@pytest.mark.crash
@pytest.mark.slow
def test_a_run_is_busy_while_its_process_lives_and_free_when_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    record(path, 1)

    async def main() -> None:
        journal = SqliteJournal(path)
        with child("hold", path) as process:
            assert next(lines(process)) == "ready"

            with pytest.raises(RunBusyError, match=rf"process {process.pid} drives run 'run-1'" if LINUX else "drives"):
                await journal.take("run-1", lambda seq, error: None)
            process.kill()
            process.wait()

            recorded, _ = await journal.take("run-1", lambda seq, error: None)
            assert len(recorded) == 2
        await journal.close()

    asyncio.run(main())


LINUX = sys.platform == "linux"


@pytest.mark.crash
@pytest.mark.slow
def test_a_file_that_cannot_grow_ends_the_run_and_keeps_what_was_told(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"

    with child("outgrow", path) as process:
        said = list(lines(process))

    assert said[-2].startswith("JournalWriteError: journal ")
    assert said[-1].startswith("  try: ")
    told = [int(line) for line in said if line.isdigit()]
    assert len(on_record(path)) == told[-1] > 10


@contextmanager
def as_somebody_with_no_rights() -> Iterator[None]:
    """Give up root's right to write whatever the mode of a file says."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_read_only_journal_can_be_read_and_says_that_it_cannot_be_written() -> None:
    async def main(path: Path) -> None:
        journal = SqliteJournal(path)

        assert len(await journal.read("run-1")) == 4
        for _ in range(2):
            with pytest.raises(JournalWriteError, match="read-only") as caught:
                await journal.create("another", lambda seq, error: None)
            assert caught.value.remedy
        await journal.close()

    with tempfile.TemporaryDirectory() as folder:  # not tmp_path: only its owner may enter that one
        path = Path(folder) / "runs.db"
        record(path, 3)
        Path(folder).chmod(0o777)
        path.chmod(0o444)

        with as_somebody_with_no_rights():
            asyncio.run(main(path))


def test_a_folder_without_rights_is_a_write_error() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)

        with as_somebody_with_no_rights(), pytest.raises(JournalWriteError, match="cannot be made"):
            SqliteJournal(Path(folder) / "runs.db")
