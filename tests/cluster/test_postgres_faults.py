"""A journal in PostgreSQL whose server, line or rival misbehaves: what was acknowledged is on record, once."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from planloom import Effects, Engine, RunStatus, Tool
from planloom.errors import JournalConflictError, JournalError, JournalWriteError, RunBusyError
from planloom.journal.postgres.journal import PostgresJournal
from planloom.journal.postgres.shared import SharedRuns
from planloom.journal.postgres.work import Decided, LockedRun
from planloom.testing.conformance.journal_place import Told, begun, dispatched, finished, seqs, started
from planloom.testing.history.check import judged
from tests.cluster.postgres_proxy import Cut, PostgresProxy
from tests.cluster.servers import Postgres, comes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from planloom.testing.history.violation import Findings


@asynccontextmanager
async def journal_at(dsn: str, *, patience_s: float = 15.0) -> AsyncIterator[PostgresJournal]:
    journal = PostgresJournal(dsn, patience_s=patience_s)
    try:
        yield journal
    finally:
        await journal.close()


@pytest.fixture
def proxy(postgres_server: Postgres) -> Iterator[PostgresProxy]:
    with tempfile.TemporaryDirectory(prefix="planloom-proxy-", dir="/tmp") as folder:
        standing = PostgresProxy(Path(folder), postgres_server.folder)
        yield standing
        standing.close()


@pytest.mark.parametrize("cut", list(Cut), ids=lambda cut: cut.name.lower())
def test_events_whose_commit_was_not_answered_are_on_record_once(cut: Cut, postgres: str, proxy: PostgresProxy) -> None:
    told = Told()

    async def main() -> list[int]:
        async with journal_at(proxy.dsn(postgres)) as journal:
            writer = await begun(journal, told=told)
            proxy.next_cut = cut
            writer.append((dispatched(1), dispatched(2)), (1, 1))
            await writer.flush()
            proxy.released.set()
            writer.append((dispatched(3),), (1,))
            await writer.flush()
            await writer.close()
            return seqs(await journal.read("run-1"))

    found = asyncio.run(main())

    assert proxy.cuts == 1
    assert found == [1, 2, 3, 4]
    assert told.seqs == [1, 3, 4]
    assert told.errors == []


@pytest.mark.parametrize("cut", list(Cut), ids=lambda cut: cut.name.lower())
def test_a_turn_whose_commit_was_not_answered_happens_once(cut: Cut, postgres: str, proxy: PostgresProxy) -> None:
    calls: list[int] = []

    def decide(run: LockedRun) -> Decided:
        calls.append(run.last_seq)
        return Decided((dispatched(7),), (1,))

    async def main() -> int:
        runs = SharedRuns(proxy.dsn(postgres), patience_s=15.0)
        try:
            await runs.turn({"run-1": 0}, lambda run: Decided((started(),), (0,)))
            proxy.next_cut = cut
            await runs.turn({"run-1": 1}, decide)
            proxy.released.set()
            seen: list[LockedRun] = []
            await runs.turn({"run-1": 0}, seen.append)
            return seen[0].last_seq
        finally:
            await runs.close()

    found = asyncio.run(main())

    assert proxy.cuts == 1
    assert found == 2
    assert calls == ([1] if cut is Cut.AFTER else [1, 1])


def test_what_a_person_left_over_a_line_that_broke_is_there_once(postgres: str, proxy: PostgresProxy) -> None:
    async def main() -> int:
        async with journal_at(proxy.dsn(postgres)) as journal:
            await begun(journal)
            proxy.next_cut = Cut.AFTER
            await journal.post("run-1", dispatched(1))  # type: ignore[arg-type]  # any event will do
            return len(await journal.posted("run-1"))

    assert asyncio.run(main()) == 1


def test_who_lost_the_line_and_then_the_run_writes_no_more(postgres: str, proxy: PostgresProxy) -> None:
    told = Told()

    async def main() -> list[int]:
        async with journal_at(proxy.dsn(postgres)) as first, journal_at(postgres) as second:
            writer = await begun(first, told=told)
            other = await begun(first, "run-2")
            proxy.cut_all()

            async def takes() -> object:
                try:
                    return await second.take("run-1", Told())
                except RunBusyError:
                    return None

            await comes(takes)
            writer.append((dispatched(1),), (1,))
            other.append((dispatched(1),), (1,))
            with pytest.raises(JournalConflictError):
                await writer.flush()
            await other.flush()
            return seqs(await second.read("run-1")) + seqs(await second.read("run-2"))

    assert asyncio.run(main()) == [1, 1, 2]
    assert [type(error) for error in told.errors] == [JournalConflictError]


@pytest.mark.slow
def test_a_server_that_was_killed_and_came_back_has_all_that_was_acknowledged() -> None:
    server = Postgres(durable=True).start()
    told = Told()

    async def main() -> tuple[list[int], int]:
        async with journal_at(server.database()) as journal:
            writer = await begun(journal, told=told)
            for number in range(400):
                writer.append((dispatched(number),), (1,))
                if number == 200:
                    await asyncio.get_running_loop().run_in_executor(None, server.restart)
                await asyncio.sleep(0)
            acknowledged = told.seqs[-1]
            writer.append((finished(),), (1,))
            await writer.close()
            return seqs(await journal.read("run-1")), acknowledged

    try:
        found, _ = asyncio.run(main())
    finally:
        server.remove()

    assert found == list(range(1, 403))
    assert told.errors == []
    assert told.seqs[-1] == 402


@pytest.mark.slow
def test_a_server_that_stays_away_ends_the_writing_and_a_later_resume_goes_on_with_what_is_there() -> None:
    server = Postgres(durable=True).start()
    told = Told()

    async def main() -> list[int]:
        dsn = server.database()
        async with journal_at(dsn, patience_s=0.5) as journal:
            writer = await begun(journal, told=told)
            server.kill()
            writer.append((dispatched(1),), (1,))
            with pytest.raises(JournalWriteError) as refused:
                await writer.flush()
            assert "cannot be reached" in str(refused.value)
            with pytest.raises(JournalWriteError):
                await journal.read("run-1")
            with pytest.raises(JournalWriteError):
                await journal.create("run-2", Told())
            await writer.close()
            server.start()
            recorded, again = await journal.take("run-1", Told())
            assert seqs(recorded) == [1]
            again.append((dispatched(1), finished()), (1, 1))
            await again.close()
            return seqs(await journal.read("run-1"))

    try:
        found = asyncio.run(main())
    finally:
        server.remove()

    assert found == [1, 2, 3]
    assert [type(error) for error in told.errors] == [JournalWriteError]


@pytest.mark.slow
def test_a_plan_goes_on_through_killed_servers_and_does_nothing_twice() -> None:
    server = Postgres(durable=True).start()
    dsn = server.database()
    paid: list[int] = []

    async def pay(number: int) -> int:
        paid.append(number)
        return number

    async def think(number: int) -> int:
        await asyncio.sleep(0.01)
        return number

    steps: list[dict[str, object]] = [{"id": "pay_0", "tool": "t.pay", "with": {"number": 0}}]
    for number in range(1, 12):
        before = f"pay_{number - 1}"
        steps.append({"id": f"think_{number}", "tool": "t.think", "needs": [before], "with": {"number": number}})
        steps.append({"id": f"pay_{number}", "tool": "t.pay", "needs": [f"think_{number}"], "with": {"number": number}})
    tools = [
        Tool.from_function(pay, name="t.pay", effects=Effects.ONCE),
        Tool.from_function(think, name="t.think", effects=Effects.NONE),
    ]

    async def main() -> tuple[RunStatus, Findings]:
        async with journal_at(dsn, patience_s=60) as journal, Engine(journal, tools=tools) as engine:
            run = await engine.start({"name": "long", "steps": steps}, run_id="r1")
            for reached in (3, 6, 9):
                await comes(lambda reached=reached: len(paid) >= reached)
                await asyncio.get_running_loop().run_in_executor(None, server.restart)
            result = await run.result()
            return result.status, judged(await journal.read("r1"), run_id="r1")

    try:
        status, findings = asyncio.run(main())
    finally:
        server.remove()

    assert status is RunStatus.SUCCESS
    assert paid == list(range(12))
    assert findings.violations == []


def test_the_appends_of_many_runs_are_committed_together(postgres: str, proxy: PostgresProxy) -> None:
    async def main() -> int:
        async with journal_at(proxy.dsn(postgres)) as journal:
            writers = [await begun(journal, f"run-{number}") for number in range(20)]
            before = proxy.commits
            for _ in range(20):
                for writer in writers:
                    writer.append((dispatched(1),), (1,))
            await asyncio.gather(*(writer.flush() for writer in writers))
            return proxy.commits - before

    assert asyncio.run(main()) <= 5  # of 400 appends


def test_a_journal_closed_while_its_server_is_away_says_so_and_ends(postgres_server: Postgres) -> None:
    server = Postgres().start()

    async def main() -> tuple[float, list[type]]:
        told = Told()
        journal = PostgresJournal(server.database(), patience_s=0.3)
        writer = await begun(journal, told=told)
        server.kill()
        writer.append((dispatched(1),), (1,))
        begin = time.monotonic()
        await journal.close()
        with pytest.raises(JournalError):
            await journal.read("run-1")
        return time.monotonic() - begin, [type(error) for error in told.errors]

    try:
        took_s, errors = asyncio.run(main())
    finally:
        server.remove()

    assert took_s < 5
    assert errors == [JournalWriteError]
