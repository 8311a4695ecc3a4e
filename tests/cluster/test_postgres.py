"""What is true of the journal in PostgreSQL alone: its schema, its owner's lock, its rights, its errors."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from planloom import Effects, Engine, Plan, RunStatus, Tool
from planloom.core.events import AttemptSucceeded, CancelRequested, RunStarted, StepDispatched
from planloom.errors import (
    ConfigError,
    JournalConflictError,
    JournalDamagedError,
    JournalFormatError,
    JournalKeyError,
    JournalWriteError,
    RunBusyError,
    RunNotFoundError,
)
from planloom.journal.open import open_database, open_journal
from planloom.journal.postgres.connect import Server
from planloom.journal.postgres.journal import PostgresJournal
from planloom.journal.postgres.schema import newest_format
from planloom.journal.postgres.shared import SharedRuns
from planloom.journal.postgres.work import Decided, LockedRun, Work
from planloom.testing.conformance.journal import CHECKS, LASTING_CHECKS, JournalPlace, run_check
from planloom.testing.conformance.journal_place import AT, Told, begun, dispatched, finished, seqs, started, succeeded
from tests.cluster.servers import comes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.cluster.servers import Postgres

KEY = b"k" * 32


@asynccontextmanager
async def journal_at(dsn: str, **terms: Any) -> AsyncIterator[PostgresJournal]:
    journal = PostgresJournal(dsn, **terms)
    try:
        yield journal
    finally:
        await journal.close()


def name_of(dsn: str) -> str:
    return dsn.split("/")[3].split("?", maxsplit=1)[0]


# --- its schema ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_that_start_at_once_make_the_journal_once(postgres: str) -> None:
    program = (
        "import sys\nfrom planloom.journal.postgres.journal import PostgresJournal\n"
        "sys.stdin.readline()\nPostgresJournal(sys.argv[1])\nprint('made')\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, postgres], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]

    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    assert [process.communicate(timeout=30)[0] for process in processes] == ["made\n"] * 4
    with psycopg.connect(postgres) as connection:
        numbers = connection.execute("SELECT number FROM planloom.format ORDER BY number").fetchall()
    assert numbers == [(number,) for number in range(1, newest_format() + 1)]


def test_tables_of_others_in_the_same_database_are_left_alone(postgres: str) -> None:
    with psycopg.connect(postgres) as connection:
        connection.execute("CREATE TABLE runs (mine int); INSERT INTO runs VALUES (7)")

    async def main() -> None:
        async with journal_at(postgres) as journal:
            await begun(journal)

    asyncio.run(main())

    with psycopg.connect(postgres) as connection:
        assert connection.execute("SELECT * FROM public.runs").fetchall() == [(7,)]


def test_a_journal_of_a_newer_planloom_is_refused(postgres: str) -> None:
    async def main() -> None:
        async with journal_at(postgres):
            pass

    asyncio.run(main())
    with psycopg.connect(postgres) as connection:
        connection.execute("INSERT INTO planloom.format (number) VALUES (99)")

    with pytest.raises(JournalFormatError, match="format 99"):
        PostgresJournal(postgres)


def test_a_database_that_is_no_journal_is_not_made_one_by_whoever_only_reads(postgres: str) -> None:
    with pytest.raises(RunNotFoundError, match="no journal"):
        open_database(postgres, make=False)


def test_names_are_compared_byte_by_byte_whatever_the_database_would_do(postgres_server: Postgres) -> None:
    postgres_server.sql(
        "CREATE DATABASE sorted_otherwise TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en' LOCALE 'C.UTF-8'"
    )
    names = ["B", "a", "Z", "é", "b"]

    async def main() -> tuple[list[str], list[str]]:
        async with journal_at(postgres_server.dsn("sorted_otherwise")) as journal:
            for name in names:
                await begun(journal, name)
            runs = SharedRuns(postgres_server.dsn("sorted_otherwise"))
            seen: list[str] = []
            await runs.turn(dict.fromkeys(names, 0), lambda run: seen.append(run.run_id))
            await runs.close()
            return [row.run_id for row in await journal.runs()], seen

    listed, locked = asyncio.run(main())

    assert locked == sorted(names)
    assert listed == sorted(names, reverse=True)


def test_ids_of_commits_are_kept_for_the_last_ones_only(postgres: str) -> None:
    async def main() -> list[tuple[Any, ...]]:
        async with journal_at(postgres) as journal:
            writer = await begun(journal)
            with psycopg.connect(postgres) as connection:
                for age in ("2 days", "1 hour"):
                    connection.execute(
                        "INSERT INTO planloom.commits VALUES (gen_random_uuid(), now() - %s::interval)", (age,)
                    )
            for number in range(5):
                writer.append((dispatched(number),), (1,))
                await writer.flush()
        async with journal_at(postgres) as journal:
            await journal.take("run-1", Told())
        with psycopg.connect(postgres) as connection:
            return connection.execute("SELECT now() - at > interval '1 day' FROM planloom.commits").fetchall()

    assert asyncio.run(main()) == [(False,)] * 2  # another's of an hour ago, and the first journal's last


# --- its owner ----------------------------------------------------------------------------------


def test_a_run_that_another_journal_drives_is_busy_and_free_once_that_is_closed(postgres: str) -> None:
    async def main() -> list[bool]:
        async with journal_at(postgres) as reading:
            async with journal_at(postgres) as driving:
                await begun(driving)
                found = [await reading.is_driven("run-1")]
                with pytest.raises(RunBusyError, match=r"process \d+ on .* drives run 'run-1'"):
                    await reading.take("run-1", Told())
            found.append(await reading.is_driven("run-1"))
            _, writer = await reading.take("run-1", Told())
            await writer.close()
            return found

    assert asyncio.run(main()) == [True, False]


@pytest.mark.slow
def test_a_run_whose_process_was_killed_is_free_at_once(postgres: str) -> None:
    program = (
        "import asyncio, sys\nfrom planloom.journal.postgres.journal import PostgresJournal\n"
        "from planloom.testing.conformance.journal_place import begun\n"
        "async def main():\n    await begun(PostgresJournal(sys.argv[1]))\n    print('driving', flush=True)\n"
        "    await asyncio.sleep(60)\nasyncio.run(main())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, postgres], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "driving\n"

    async def main() -> list[int]:
        async with journal_at(postgres) as journal:
            with pytest.raises(RunBusyError):
                await journal.take("run-1", Told())
            process.kill()
            process.wait()

            async def taken() -> Any:
                try:
                    return await journal.take("run-1", Told())
                except RunBusyError:
                    return None

            recorded, _ = await comes(taken, within_s=5)
            return seqs(recorded)

    try:
        assert asyncio.run(main()) == [1]
    finally:
        process.kill()
        process.communicate()


def test_a_run_of_the_cluster_is_read_and_answered_but_driven_by_no_engine(postgres: str) -> None:
    async def main() -> tuple[list[int], bool | None, int]:
        runs = SharedRuns(postgres)
        await runs.turn({"run-1": 0}, lambda run: Decided((started(), dispatched(1)), (0, 1)))
        async with journal_at(postgres) as journal:
            with pytest.raises(RunBusyError, match="the cluster drives"):
                await journal.take("run-1", Told())
            with pytest.raises(JournalConflictError):
                await journal.create("run-1", Told())
            await journal.post("run-1", CancelRequested("ann", AT))
            posted: list[int] = []
            await runs.turn({"run-1": 2}, lambda run: posted.append(len(run.posted)))
            await runs.turn(
                {"run-1": 2}, lambda run: Decided((run.posted[0][1], finished()), (0, 3), taken=run.posted[0][0])
            )
            assert await journal.posted_runs() == set()
            followed = seqs([entry async for entry in journal.follow("run-1")])
            driven = await journal.is_driven("run-1")
        await runs.close()
        return followed, driven, posted[0]

    assert asyncio.run(main()) == ([1, 2, 3, 4], True, 1)


def test_two_engines_on_one_run_make_a_once_step_once(postgres: str) -> None:
    called: list[str] = []

    async def pay() -> str:
        called.append("paid")
        await asyncio.sleep(0.05)
        return "done"

    plan = {"name": "p", "steps": [{"id": "pay", "tool": "t.pay"}]}
    tool = Tool.from_function(pay, name="t.pay", effects=Effects.ONCE)

    async def main() -> tuple[Any, list[type]]:
        async with Engine(postgres, tools=[tool]) as one:
            run = await one.start(plan, run_id="r1")
            async with Engine(postgres, tools=[tool]) as other:
                refused = []
                for attempt in (other.resume("r1"), other.start(plan, run_id="r1")):
                    with pytest.raises((RunBusyError, JournalConflictError)) as error:
                        await attempt
                    refused.append(error.type)
            return (await run.result()).status, refused

    status, refused = asyncio.run(main())

    assert status is RunStatus.SUCCESS
    assert refused == [RunBusyError, JournalConflictError]
    assert called == ["paid"]


def test_names_that_postgresql_does_not_take_stop_nobody_elses_run(postgres: str) -> None:
    odd = ["a\0b", "half \ud800", "字" * 1_000]
    long_step = "s" * 6_000

    async def main() -> tuple[list[Any], list[str]]:
        runs = SharedRuns(postgres)
        problems: list[Any] = []

        def decide(run: LockedRun) -> Decided | None:
            problems.append((run.run_id, run.problem is None))
            if run.problem is not None:
                return None
            events = (started(), StepDispatched(long_step, 1, 0, AT), AttemptSucceeded(long_step, 1, 0, 7, AT, AT))
            work = Work("run-1", long_step, 1, 0, "t", "main", "re\0gion", "{}", AT, claimed_by="half \ud800")
            return Decided(events, (0, 1, 2), opened=[work])

        await runs.turn(dict.fromkeys([*odd, "run-1"], 0), decide)
        await runs.turn({"run-1": 3}, lambda run: Decided(claimed=[((long_step, 1, 0), "worker\0")]))
        seen: list[str] = []
        await runs.turn({"run-1": 3}, lambda run: seen.extend(str(one.claimed_by) for one in run.work.values()))
        for name in odd:
            await runs.refuse(name, "{}")
            assert await runs.refusal(name) is None
        await runs.close()
        async with journal_at(postgres) as journal:
            for name in odd:
                with pytest.raises(RunNotFoundError):
                    await journal.read(name)
                with pytest.raises(RunNotFoundError):
                    await journal.post(name, CancelRequested("ann", AT))
                with pytest.raises(JournalWriteError, match="can be no run's name"):
                    await journal.create(name, Told())
                assert await journal.posted(name) == []
            named = Plan.from_dict({"name": "p\0q", "steps": [{"id": "a", "tool": "t"}]})
            writer = await journal.create("run-2", Told())
            writer.append((RunStarted(named, {}, AT),), (0,))
            await writer.close()
            assert seqs(await journal.read("run-2")) == [1]
            assert [row.run_id for row in await journal.runs(plan="p\0q")] == ["run-2"]
        return problems, seen

    problems, seen = asyncio.run(main())

    assert sorted(problems) == sorted([("run-1", True), *((name, False) for name in odd)])
    assert seen == ["worker\ufffd"]


def test_a_turn_that_is_cancelled_anywhere_leaves_the_connections_to_others(postgres: str) -> None:
    async def main() -> int:
        runs = SharedRuns(postgres, connections=2)
        await runs.turn({"run-1": 0}, lambda run: Decided((started(),), (0,)))
        for number in range(30):
            turn = asyncio.ensure_future(
                runs.turn({"run-1": 0}, lambda run: Decided((dispatched(run.last_seq),), (1,)))
            )
            await asyncio.sleep(number / 5_000)
            turn.cancel()
            await asyncio.wait([turn])
        seen: list[LockedRun] = []
        await asyncio.wait_for(runs.turn({"run-1": 0}, seen.append), 5)
        turn = asyncio.ensure_future(runs.turn({"run-1": 0}, lambda run: None))
        await asyncio.sleep(0)
        await runs.close()
        await asyncio.wait([turn])
        return seen[0].last_seq

    assert 1 <= asyncio.run(main()) <= 31


# --- its rights ---------------------------------------------------------------------------------


@pytest.fixture
def roles(postgres: str, postgres_server: Postgres) -> dict[str, str]:
    """Return addresses of a journal whose roles are set, by role."""

    async def make() -> None:
        async with journal_at(postgres) as journal:
            await begun(journal, "run-0")

    asyncio.run(make())
    script = (files("planloom.journal.postgres") / "roles.sql").read_text()
    name = name_of(postgres)
    postgres_server.sql(script + script, database=name)
    found = {}
    for role in ("agent", "reader", "person"):
        postgres_server.sql(f"CREATE ROLE {name}_{role} LOGIN IN ROLE planloom_{role}")
        found[role] = postgres_server.dsn(name, user=f"{name}_{role}")
    postgres_server.sql(f"CREATE ROLE {name}_nobody LOGIN")
    return found | {"nobody": postgres_server.dsn(name, user=f"{name}_nobody")}


def test_an_agent_does_all_that_a_journal_does_and_can_change_no_event(roles: dict[str, str]) -> None:
    for check in (CHECKS[0], CHECKS[-1], LASTING_CHECKS[-1]):
        with psycopg.connect(roles["agent"].replace(f"{name_of(roles['agent'])}_agent@", "postgres@")) as connection:
            connection.execute("TRUNCATE planloom.runs, planloom.events, planloom.posted, planloom.work")
        run_check(check, JournalPlace(lambda: PostgresJournal(roles["agent"])))

    for statement in (
        "UPDATE planloom.events SET body = '{}'",
        "DELETE FROM planloom.events",
        "DELETE FROM planloom.runs",
        "UPDATE planloom.runs SET plan = 'other'",
        "TRUNCATE planloom.events",
        "DROP TABLE planloom.events",
        "UPDATE planloom.blobs SET body = ''",
    ):
        with psycopg.connect(roles["agent"]) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)


def test_an_agent_takes_turns(roles: dict[str, str]) -> None:
    async def main() -> int:
        runs = SharedRuns(roles["agent"])
        await runs.turn({"run-9": 0}, lambda run: Decided((started(), dispatched(1)), (0, 1), wake_at=AT))
        await runs.turn({"run-9": 2}, lambda run: Decided((succeeded(1), finished()), (2, 3)))
        await runs.take_slots("mail", 1, per_minute=60, now=AT)
        await runs.refuse("run-8", "{}")
        seen: list[int] = []
        await runs.turn({"run-9": 0}, lambda run: seen.append(run.last_seq))
        await runs.close()
        return seen[0]

    assert asyncio.run(main()) == 4


def test_a_reader_reads_and_a_person_answers_and_neither_writes_events(roles: dict[str, str]) -> None:
    async def main() -> int:
        async with journal_at(roles["reader"]) as reading, journal_at(roles["person"]) as answering:
            assert seqs(await reading.read("run-0")) == [1]
            with pytest.raises(JournalWriteError, match="permission denied"):
                await reading.post("run-0", CancelRequested("ann", AT))
            await answering.post("run-0", CancelRequested("ann", AT))
            for journal in (reading, answering):
                writer = await journal.create(f"by {journal.place} {id(journal)}", Told())
                writer.append((started(),), (0,))
                with pytest.raises(JournalWriteError, match="permission denied"):
                    await writer.flush()
            return len(await reading.posted("run-0"))

    assert asyncio.run(main()) == 1
    for role in ("reader", "person"):
        with psycopg.connect(roles[role]) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT token FROM planloom.work")


def test_whoever_has_no_role_sees_nothing(roles: dict[str, str]) -> None:
    with pytest.raises(JournalWriteError, match="permission denied"):
        PostgresJournal(roles["nobody"])


def test_a_server_that_does_not_wait_for_its_disk_by_default_does_so_for_a_journal(
    postgres: str, postgres_server: Postgres
) -> None:
    def waits(setting: str) -> str:
        postgres_server.sql(f"ALTER DATABASE {name_of(postgres)} SET synchronous_commit = {setting}")
        with Server(postgres).connect() as connection:
            return str(connection.execute("SHOW synchronous_commit").fetchall()[0][0])

    assert [waits(setting) for setting in ("off", "local", "on", "remote_apply")] == [
        "on",
        "local",
        "on",
        "remote_apply",
    ]


# --- its record ---------------------------------------------------------------------------------


def test_a_keyed_record_is_for_who_has_the_key_in_turns_as_well(postgres: str) -> None:
    async def main() -> tuple[bool, list[str]]:
        async with journal_at(postgres, key=KEY) as keyed, journal_at(postgres) as plain:
            await begun(keyed)
            with pytest.raises(JournalKeyError):
                await plain.read("run-1")
            with pytest.raises(JournalKeyError):
                await plain.post("run-1", CancelRequested("ann", AT))
            problems: list[str] = []
            for key in (None, b"x" * 32, KEY):
                runs = SharedRuns(postgres, key=key)
                await runs.turn({"run-1": 0}, lambda run: problems.append(type(run.problem).__name__))
                await runs.close()
            return (await keyed.chain_of("run-1")).keyed, problems

    assert asyncio.run(main()) == (True, ["JournalKeyError", "JournalKeyError", "NoneType"])


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE planloom.events SET body = replace(body, 'step_1', 'step_9') WHERE seq = 2",
        "DELETE FROM planloom.events WHERE seq = 2",
        "DELETE FROM planloom.events WHERE seq = 3",
        "UPDATE planloom.runs SET status = 'success' WHERE run_id = 'run-1'",
        "UPDATE planloom.events SET link = '\\x00' WHERE seq = 1",
    ],
)
def test_a_damaged_run_is_found_out_by_a_turn_and_stops_no_other(damage: str, postgres: str) -> None:
    async def main() -> list[tuple[str, type]]:
        runs = SharedRuns(postgres)
        for name in ("run-1", "run-2"):
            events = (started(), dispatched(1), dispatched(2))
            await runs.turn({name: 0}, lambda run, events=events: Decided(events, (0, 1, 1)))  # type: ignore[misc]
        with psycopg.connect(postgres) as connection:
            connection.execute(damage + (" AND run_id = 'run-1'"))
        found: list[tuple[str, type]] = []
        known = 3 if "seq = 3" in damage else 0
        await runs.turn({"run-1": known, "run-2": 0}, lambda run: found.append((run.run_id, type(run.problem))))
        await runs.close()
        return found

    assert asyncio.run(main()) == [("run-1", JournalDamagedError), ("run-2", type(None))]


def test_a_posted_fact_that_was_changed_is_refused(postgres: str) -> None:
    async def main() -> None:
        async with journal_at(postgres) as journal:
            await begun(journal)
            await journal.post("run-1", CancelRequested("ann", AT))
            with psycopg.connect(postgres) as connection:
                connection.execute("UPDATE planloom.posted SET body = replace(body, 'ann', 'bob')")
            with pytest.raises(JournalDamagedError):
                await journal.posted("run-1")

    asyncio.run(main())


# --- its address --------------------------------------------------------------------------------


def test_the_place_of_a_journal_has_no_password() -> None:
    server = Server("postgresql://ann:s3cret-word@db.example:6543/runs?sslmode=require")

    assert server.place == "postgresql://db.example:6543/runs"


@pytest.mark.parametrize("address", ["postgresql://a:b:c@@/x y", "postgresql://ann:s3cret-word@host/x?nonsense=1"])
def test_what_is_no_address_is_refused_without_quoting_it(address: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Server(address)

    assert "s3cret-word" not in str(refused.value)


def test_a_server_that_is_not_there_is_an_error_that_says_so() -> None:
    with pytest.raises(JournalWriteError, match="cannot be reached") as refused:
        open_journal("postgresql://ann@/runs?host=/nonexistent")

    assert refused.value.remedy
