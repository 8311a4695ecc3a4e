"""What is true of the SQLite journal alone: its file, its locks, its thread."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from planloom.core.events import AttemptSucceeded, CancelRequested, RunFinished, RunStarted, StepDispatched
from planloom.core.result import RunStatus
from planloom.errors import (
    JournalConflictError,
    JournalDamagedError,
    JournalError,
    JournalFormatError,
    JournalWriteError,
    OutputError,
    RunBusyError,
)
from planloom.journal.memory import MemoryJournal
from planloom.journal.open import open_journal
from planloom.journal.schema import APPLICATION_ID, newest_format
from planloom.journal.sqlite import SqliteJournal
from planloom.journal.writer import RunPen
from planloom.plan.model import Plan

PLAN = Plan.from_dict({"name": "p", "steps": [{"id": "a", "tool": "t"}]})
STARTED = RunStarted(PLAN, {}, 1.5)
DISPATCHED = StepDispatched("a", 1, 0, 1.5)


def ignore(seq: int, error: BaseException | None) -> None:
    pass


async def begun(journal: SqliteJournal, run_id: str = "run-1") -> RunPen:
    writer = await journal.create(run_id, ignore)
    writer.append((STARTED,), (0,))
    await writer.flush()
    return writer


async def in_writers_thread(journal: SqliteJournal, sql: str) -> Any:
    """Run a statement on the connection that writes, for limits that belong to a connection."""
    committer = await journal._writing()
    return await committer.do(lambda connection: connection.execute(sql).fetchall())


def run_in(path: Path, work: Callable[[SqliteJournal], Any]) -> None:
    async def main() -> None:
        journal = SqliteJournal(path)
        try:
            await work(journal)
        finally:
            await journal.close()

    asyncio.run(main())


def sql(path: Path, *statements: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "down" / "runs.db"


# --- the file ---------------------------------------------------------------------------------


def test_only_the_owner_may_read_the_files_of_a_journal(path: Path) -> None:
    async def main(journal: SqliteJournal) -> None:
        await begun(journal)

        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}

        assert modes == dict.fromkeys(["runs.db", "runs.db-wal", "runs.db-shm", "runs.db-owners"], 0o600)

    run_in(path, main)


def test_a_journal_says_what_it_is(path: Path) -> None:
    run_in(path, begun)

    assert sql(path, "PRAGMA application_id") == [(APPLICATION_ID,)]
    assert sql(path, "PRAGMA journal_mode") == [("wal",)]
    assert sql(path, "PRAGMA user_version") == [(newest_format(),)]


def test_a_commit_is_on_disk_when_it_returns(path: Path) -> None:
    async def main(journal: SqliteJournal) -> None:
        assert await in_writers_thread(journal, "PRAGMA synchronous") == [(2,)]

    run_in(path, main)


def test_many_can_make_the_same_journal_at_once(path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        journals = list(threads.map(SqliteJournal, [path] * 8))

    for journal in journals:
        asyncio.run(journal.close())
    assert sql(path, "PRAGMA user_version") == [(newest_format(),)]


def test_an_empty_file_becomes_a_journal(tmp_path: Path) -> None:
    (tmp_path / "runs.db").touch()

    run_in(tmp_path / "runs.db", begun)

    assert sql(tmp_path / "runs.db", "SELECT run_id FROM runs") == [("run-1",)]


@pytest.mark.parametrize("content", [b"planloom: 1\nsteps: []\n" * 100, b"x", b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plan.yaml"
    path.write_bytes(content)

    with pytest.raises(JournalFormatError, match=r"plan\.yaml") as caught:
        SqliteJournal(path)

    assert caught.value.remedy
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    sql(path, "CREATE TABLE runs (run_id TEXT)")
    before = path.read_bytes()

    with pytest.raises(JournalFormatError, match="another program"):
        SqliteJournal(path)

    assert path.read_bytes() == before


def test_a_journal_of_a_newer_planloom_is_refused(path: Path) -> None:
    run_in(path, begun)
    sql(path, "PRAGMA user_version = 99")

    with pytest.raises(JournalFormatError, match="format 99") as caught:
        SqliteJournal(path)

    assert "upgrade" in caught.value.remedy


@pytest.mark.parametrize("place", ["", "file/runs.db", "file/deeper/runs.db"])
def test_a_place_where_no_file_can_be_is_a_write_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(JournalWriteError) as caught:
        SqliteJournal(tmp_path / place)

    assert caught.value.remedy


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that refuses even root")
def test_a_folder_that_takes_no_files_is_a_write_error() -> None:
    with pytest.raises(JournalWriteError, match="cannot be made") as caught:
        SqliteJournal("/proc/runs.db")

    assert caught.value.remedy


def test_a_journal_that_vanished_does_not_come_back_empty(path: Path) -> None:
    async def main(journal: SqliteJournal) -> None:
        for file in path.parent.iterdir():
            file.unlink()

        with pytest.raises(JournalWriteError, match="cannot be opened"):
            await journal.create("run-1", ignore)

        assert list(path.parent.iterdir()) == []

    run_in(path, main)


def test_open_journal_takes_nothing_a_path_or_a_journal(path: Path) -> None:
    journal = open_journal(str(path))

    assert isinstance(open_journal(), MemoryJournal)
    assert isinstance(journal, SqliteJournal)
    assert open_journal(journal) is journal
    asyncio.run(journal.close())


# --- what is in it ----------------------------------------------------------------------------


def test_a_hundred_runs_of_one_plan_store_it_once(path: Path) -> None:
    async def main(journal: SqliteJournal) -> None:
        writers = [await journal.create(f"run-{number}", ignore) for number in range(100)]
        for writer in writers:
            writer.append((STARTED, AttemptSucceeded("a", 1, 0, ["large"] * 9_000, 1.5, 1.5)), (0, 1))
        for writer in writers:
            await writer.flush()

    run_in(path, main)

    assert sql(path, "SELECT count(*), sum(size) FROM blobs") == [(2, len(PLAN.canonical_json) + 72_001)]
    assert sql(path, "SELECT count(*) FROM blobs WHERE sha256 = (SELECT max(plan_hash) FROM runs)") == [(1,)]


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("DELETE FROM events WHERE seq = 2", "run 'run-1' is damaged at event 2: it is missing, 3 is there"),
        ("DELETE FROM events WHERE seq = 1", "run 'run-1' is damaged at event 1: it is missing"),
        ("DELETE FROM events", "run 'run-1' is damaged at event 1: it is missing"),
        ("DELETE FROM runs", "run 'run-1' is damaged at event 1: it is not in the list of runs"),
        ("UPDATE events SET body = substr(body, 1, 9) WHERE seq = 2", "run 'run-1' is damaged at event 2"),
        ("UPDATE events SET kind = 'step_teleported' WHERE seq = 3", "run 'run-1' is damaged at event 3"),
        ("UPDATE events SET version = 7 WHERE seq = 3", "run 'run-1' is damaged at event 3"),
        ("DELETE FROM blobs", "run 'run-1' is damaged at event 1: .*missing"),
        ("UPDATE blobs SET body = body || ' '", "run 'run-1' is damaged at event 1: .*damaged"),
    ],
)
def test_a59_a_damaged_record_is_an_error_that_names_the_place(path: Path, damage: str, what: str) -> None:
    async def write(journal: SqliteJournal) -> None:
        writer = await begun(journal)
        writer.append((DISPATCHED, DISPATCHED), (1, 1))

    async def read(journal: SqliteJournal) -> None:
        for reading in (journal.read("run-1"), journal.take("run-1", ignore)):
            with pytest.raises(JournalDamagedError, match=what) as caught:
                await reading
            assert caught.value.remedy

    run_in(path, write)
    sql(path, damage)
    run_in(path, read)


def test_another_process_sees_an_ended_run_as_ended(path: Path) -> None:
    async def main(journal: SqliteJournal) -> None:
        writer = await begun(journal)
        writer.append((RunFinished(RunStatus.PARTIAL, None, 2.5),), (1,))
        await writer.flush()

        assert sql(path, "SELECT status, plan FROM runs") == [("partial", "p")]

    run_in(path, main)


# --- who owns what ----------------------------------------------------------------------------


def test_a_run_is_busy_under_every_name_of_the_file(path: Path, tmp_path: Path) -> None:
    async def main(journal: SqliteJournal) -> None:
        await begun(journal)
        (tmp_path / "link.db").symlink_to(path)
        other = SqliteJournal(tmp_path / "link.db")

        with pytest.raises(RunBusyError, match="this process"):
            await other.take("run-1", ignore)
        await other.close()
        with pytest.raises(RunBusyError):
            await journal.take("run-1", ignore)

    run_in(path, main)


def test_closing_one_journal_of_a_file_keeps_the_others_locks(path: Path) -> None:
    async def main(journal: SqliteJournal) -> None:
        await begun(journal)
        other = SqliteJournal(path)
        await begun(other, "run-2")
        await other.close()
        third = SqliteJournal(path)

        with pytest.raises(RunBusyError):
            await third.take("run-1", ignore)
        _, writer = await third.take("run-2", ignore)
        await writer.close()
        await third.close()

    run_in(path, main)


def test_a_take_that_fails_leaves_the_run_free(path: Path) -> None:
    async def main(journal: SqliteJournal) -> None:
        with pytest.raises(JournalError):
            await journal.take("run-1", ignore)

        await begun(journal)

    run_in(path, main)


# --- who waits for news -----------------------------------------------------------------------


def test_who_begins_to_wait_is_woken_once_as_a_commit_may_have_been_missed(path: Path) -> None:
    async def main(journal: SqliteJournal) -> None:
        with journal._followers.waiting("run-1") as waiter:
            async with asyncio.timeout(5):
                await waiter.news()

    run_in(path, main)


# --- when writing fails -----------------------------------------------------------------------


def test_a_full_disk_ends_the_writer_and_a_later_one_goes_on(path: Path) -> None:
    told: list[BaseException] = []

    async def main(journal: SqliteJournal) -> None:
        await begun(journal, "run-0")
        writer = await journal.create("run-1", lambda seq, error: told.append(error) if error else None)
        writer.append((STARTED,), (0,))
        await writer.flush()
        [(pages,)] = await in_writers_thread(journal, "PRAGMA page_count")
        await in_writers_thread(journal, f"PRAGMA max_page_count = {pages + 2}")

        writer.append((AttemptSucceeded("a", 1, 0, "x" * 30_000, 1.5, 1.5),), (1,))
        with pytest.raises(JournalWriteError, match="disk is full") as caught:
            await writer.flush()

        assert "resume" in caught.value.remedy
        assert told == [caught.value]
        with pytest.raises(JournalWriteError):
            writer.append((DISPATCHED,), (1,))
        with pytest.raises(JournalWriteError):
            await writer.flush()
        await writer.close()

        await in_writers_thread(journal, "PRAGMA max_page_count = 100000")
        recorded, writer = await journal.take("run-1", ignore)
        assert len(recorded) == 1
        assert writer.append((DISPATCHED,), (1,)) == 2
        await writer.close()

    run_in(path, main)


def test_nothing_after_a_failed_append_is_written(path: Path) -> None:
    async def main(journal: SqliteJournal) -> None:
        writer = await begun(journal)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writer.append((DISPATCHED,), (1,))
            await asyncio.sleep(0.02)  # the thread has taken the first by now, and waits
            writer.append((DISPATCHED,), (1,))
            other.execute(
                "INSERT INTO events VALUES ('run-1', 2, 0, 'timer_fired', 1, 1.5, '{\"step\":\"\",\"at\":1.5}', NULL)"
            )
            other.execute("COMMIT")

        with pytest.raises(JournalConflictError):
            await writer.flush()
        await begun(journal, "run-2")

        assert sql(path, "SELECT max(seq) FROM events WHERE run_id = 'run-1'") == [(2,)]

    run_in(path, main)


def test_a_value_that_is_not_json_fails_its_own_append_and_no_other(path: Path) -> None:
    async def main(journal: SqliteJournal) -> None:
        writer = await begun(journal)

        with pytest.raises(OutputError, match="not JSON"):
            writer.append((DISPATCHED, AttemptSucceeded("a", 1, 0, float("nan"), 1.5, 1.5)), (1, 1))
        assert writer.append((DISPATCHED,), (1,)) == 2
        await writer.flush()

        assert len(await journal.read("run-1")) == 2

    run_in(path, main)


def test_a_commit_waits_for_another_writer_and_the_loop_does_not(path: Path) -> None:
    async def main(journal: SqliteJournal) -> None:
        writer = await begun(journal)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writer.append((DISPATCHED,), (1,))
            flush = asyncio.ensure_future(writer.flush())
            for _ in range(10):
                await asyncio.sleep(0)

            assert (flush.done(), writer.backlog) == (False, 1)
            assert len(await journal.read("run-1")) == 1
            other.execute("COMMIT")
            await flush

        assert len(await journal.read("run-1")) == 2

    run_in(path, main)


def test_a_journal_that_stays_locked_is_a_write_error(path: Path) -> None:
    async def main(journal: SqliteJournal) -> None:
        writer = await begun(journal)
        await in_writers_thread(journal, "PRAGMA busy_timeout = 20")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writer.append((DISPATCHED,), (1,))

            with pytest.raises(JournalWriteError, match="stayed locked"):
                await writer.flush()

    run_in(path, main)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_ever_when_the_writing_thread_dies_of_a_bug(path: Path) -> None:
    def bug(connection: sqlite3.Connection) -> None:
        raise LookupError("a bug")

    async def main(journal: SqliteJournal) -> None:
        writer = await begun(journal)
        committer = await journal._writing()
        died = asyncio.ensure_future(committer.do(bug))
        await asyncio.sleep(0)
        with pytest.raises(JournalError, match="died"):
            await died

        with pytest.raises(JournalError, match="closed"):
            writer.append((DISPATCHED,), (1,))
        with pytest.raises(JournalError, match="closed"):
            await journal.post("run-1", CancelRequested("ann", 1.5))
        await writer.close()

    run_in(path, main)


# --- loops and tasks --------------------------------------------------------------------------


def test_one_journal_serves_one_event_loop_after_the_other(path: Path) -> None:
    journal = SqliteJournal(path)

    async def first() -> None:
        writer = await begun(journal)
        writer.append((DISPATCHED,), (1,))

    async def second() -> None:
        await begun(journal, "run-2")
        assert len(await journal.read("run-1")) == 2
        await journal.close()

    asyncio.run(first())
    asyncio.run(second())


def test_a_flush_that_is_cancelled_leaves_the_writer_whole(path: Path) -> None:
    async def main(journal: SqliteJournal) -> None:
        writer = await begun(journal)
        writer.append((DISPATCHED,), (1,))
        flush = asyncio.ensure_future(writer.flush())
        await asyncio.sleep(0)
        flush.cancel()

        await writer.flush()

        assert flush.cancelled()
        assert writer.backlog == 0

    run_in(path, main)


def test_what_waits_is_committed_together(path: Path) -> None:
    async def main(journal: SqliteJournal) -> None:
        batches: list[int] = []
        writer = await journal.create("run-1", lambda seq, error: batches.append(seq))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writer.append((STARTED,), (0,))
            await asyncio.sleep(0.02)
            for _ in range(500):
                writer.append((DISPATCHED,), (1,))
            other.execute("COMMIT")
            await writer.flush()

        assert batches == [1, 501]

    run_in(path, main)
