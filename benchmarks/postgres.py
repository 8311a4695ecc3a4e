"""What the journal in PostgreSQL costs beside bare psycopg writing such rows, on a server that waits for its disk.

Rule 1: the reference writes into a copy of the table, with the same indexes, on the same server, over the same socket,
and gets its rows ready made. It decides, encodes, numbers and links nothing, and does no steps.
Rule 2: of the ways to write so many rows by hand it is given the fastest, COPY; beside it stands `executemany`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count as numbers
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.journal import STARTED, events, rows
from benchmarks.plans import chain, fan_out, pass_on, pass_on_once, plan_of
from benchmarks.rows import Row
from benchmarks.timing import Scale, in_turns, timed, wall_s
from planloom import Engine
from planloom.core.events import AttemptSucceeded, StepDispatched

RUNS = 64
"""Runs of one turn."""
UNIT = "µs/event"
AT = 1_700_000_000.123
_TABLES = """CREATE TABLE bare_events (LIKE planloom.events INCLUDING ALL);
CREATE TABLE bare_work (LIKE planloom.work INCLUDING ALL)"""
_COLUMNS = "run_id, seq, cause, kind, version, at, body, link"
_COPY = f"COPY bare_events ({_COLUMNS}) FROM STDIN"
_INSERT = f"INSERT INTO bare_events ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
_READ = f"SELECT {_COLUMNS} FROM planloom.events WHERE run_id = %s ORDER BY seq"
_OPEN = "INSERT INTO bare_work VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
_CLOSE = "DELETE FROM bare_work WHERE run_id = %s AND step = %s AND attempt = %s AND epoch = %s"


class Bare:
    """What one would write by hand."""

    def __init__(self, dsn: str) -> None:
        import psycopg

        self.connection = psycopg.connect(dsn, autocommit=True)
        self.connection.execute(_TABLES)

    def copy(self, ready: list[tuple[Any, ...]]) -> None:
        with self.connection.cursor() as cursor, cursor.copy(_COPY) as copy:
            for row in ready:
                copy.write_row(row)

    async def copied(self, ready: list[tuple[Any, ...]]) -> float:
        with timed(wall_s) as took:
            self.copy(ready)  # a statement of its own is a transaction of its own
        return took.seconds

    async def inserted(self, ready: list[tuple[Any, ...]]) -> float:
        with timed(wall_s) as took, self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(_INSERT, ready)
        return took.seconds

    async def one_by_one(self, ready: list[tuple[Any, ...]]) -> float:
        with timed(wall_s) as took:
            for row in ready:
                self.connection.execute(_INSERT, row)
        return took.seconds

    async def starts_and_ends(self, ready: list[tuple[Any, ...]]) -> float:
        """Write two events at a time, as many commits as a chain needs that waits for each."""
        with timed(wall_s) as took:
            for begin in range(0, len(ready), 2):
                with self.connection.pipeline(), self.connection.transaction():
                    for row in ready[begin : begin + 2]:
                        self.connection.execute(_INSERT, row)
        return took.seconds

    async def stepped(self, turns: list[tuple[list[Any], list[Any], list[Any]]]) -> float:
        """Write events and change work, one transaction for each turn."""
        with timed(wall_s) as took:
            for ready, closed, opened in turns:
                with self.connection.transaction():
                    with self.connection.pipeline(), self.connection.cursor() as cursor:
                        cursor.executemany(_CLOSE, closed)
                        cursor.executemany(_OPEN, opened)
                    self.copy(ready)
        return took.seconds


class Ours:
    """The journal, what orchestrators share of it, and an engine on it."""

    def __init__(self, dsn: str) -> None:
        from planloom.journal.postgres.journal import PostgresJournal
        from planloom.journal.postgres.shared import SharedRuns

        self.journal = PostgresJournal(dsn)
        self.shared = SharedRuns(dsn)

    async def grouped(self, run_id: str, count: int, *, flush_each: bool = False) -> float:
        writer = await self.journal.create(run_id, lambda seq, error: None)
        writer.append((STARTED,), (0,))
        await writer.flush()
        ready = events(count)
        with timed(wall_s) as took:
            for cause, event in enumerate(ready, 1):
                writer.append((event,), (cause,))
                if flush_each:
                    await writer.flush()
            await writer.flush()
        await writer.close()
        return took.seconds

    async def stepped(self, prefix: str, turns: int) -> float:
        from planloom.journal.postgres.work import Decided, LockedRun, Work

        def work(run_id: str, number: int) -> Work:
            return Work(run_id, f"step_{number}", 1, 0, "token", "main", "", '{"v":1}', AT)

        def decide(run: LockedRun) -> Decided:
            number = run.last_seq // 2
            events = (
                AttemptSucceeded(f"step_{number}", 1, 0, {"n": number}, AT, AT),
                StepDispatched(f"step_{number + 1}", 1, 0, AT),
            )
            opened = [work(run.run_id, number + 1)]
            return Decided(events, (run.last_seq,) * 2, opened, [(f"step_{number}", 1, 0)], wake_at=AT + number)

        names = [f"{prefix}-{number}" for number in range(RUNS)]
        begun = Decided((STARTED, StepDispatched("step_1", 1, 0, AT)), (0, 1))
        await self.shared.turn(dict.fromkeys(names, 0), lambda run: begun)
        with timed(wall_s) as took:
            for turn in range(turns):
                await self.shared.turn(dict.fromkeys(names, 2 + 2 * turn), decide)
        return took.seconds

    async def ran(self, run_id: str, plan: Any) -> float:
        async with Engine(self.journal, tools=[pass_on, pass_on_once]) as engine:
            engine.check(plan)
            with timed(wall_s) as took:
                result = await engine.run(plan, run_id=run_id)
            assert result.status == "success"
        return took.seconds

    async def close(self) -> None:
        await self.journal.close()
        await self.shared.close()


async def measure(scale: Scale, folder: Path) -> list[Row]:
    """Return the rows; none where PostgreSQL or psycopg is missing."""
    from pytest import skip  # noqa: PT013 - it is what the servers of the tests say that they are missing with

    from tests.cluster.servers import Postgres

    try:
        import psycopg  # noqa: F401 - only to see that it is there

        server = Postgres(durable=True)
    except (ImportError, skip.Exception):
        return []
    try:
        dsn = server.start().database()
        ours = Ours(dsn)
        bare = Bare(dsn)
        try:
            return await _measured(scale, ours, bare)
        finally:
            bare.connection.close()
            await ours.close()
    finally:
        await asyncio.to_thread(server.remove)


async def _measured(scale: Scale, ours: Ours, bare: Bare) -> list[Row]:
    names = (f"run-{number:06}" for number in numbers())
    return [
        *await _events(scale, ours, bare, names),
        *await _turns(scale, ours, bare, names),
        *await _engine(scale, ours, bare, names),
    ]


async def _events(scale: Scale, ours: Ours, bare: Bare, names: Any) -> list[Row]:
    count, links = scale.of(1_000), scale.of(200)
    grouped = await in_turns(
        lambda: ours.grouped(next(names), count),
        lambda: bare.copied(rows(next(names), count)),
        lambda: bare.inserted(rows(next(names), count)),
        rounds=scale.rounds(9),
    )
    chained = await in_turns(
        lambda: ours.grouped(next(names), links, flush_each=True),
        lambda: bare.one_by_one(rows(next(names), links)),
        rounds=scale.rounds(5),
    )
    one, copied, inserted = (min(seconds) * 1e6 / count for seconds in grouped)
    each, alone = (median(seconds) * 1e6 / links for seconds in chained)
    group = f"postgres journal, group commit of {count:,} events"
    return [
        Row(group, UNIT, one, copied, "psycopg, COPY, rows ready made"),
        Row(f"{group}: executemany", UNIT, one, inserted, "psycopg, executemany, rows ready made"),
        Row("postgres journal, one commit per event", UNIT, each, alone, "psycopg, one INSERT, inline"),
    ]


async def _turns(scale: Scale, ours: Ours, bare: Bare, names: Any) -> list[Row]:
    turns = scale.of(20)

    def written(prefix: str) -> list[tuple[list[Any], list[Any], list[Any]]]:
        found = []
        for turn in range(turns):
            ready, closed, opened = [], [], []
            for number in range(RUNS):
                run_id = f"{prefix}-{number}"
                for seq, row in enumerate(rows(run_id, 2), 2 * turn + 1):
                    ready.append((run_id, seq, *row[2:6], str(row[6]).replace("step_", f"step_{turn}"), row[7]))
                closed.append((run_id, f"step_{turn}", 1, 0))
                step = (run_id, f"step_{turn + 1}", 1, 0)
                opened.append((*step, "token", "main", "", '{"v":1}', AT, None, None, None, AT))
            found.append((ready, closed, opened))
        return found

    async def only_events() -> float:
        ready = [turn[0] for turn in written(next(names))]
        return sum([await bare.copied(turn) for turn in ready])

    found = await in_turns(
        lambda: ours.stepped(next(names), turns),
        lambda: bare.stepped(written(next(names))),
        only_events,
        rounds=scale.rounds(5),
    )
    steps = turns * RUNS
    one, all_of_it, events_alone = (min(seconds) * 1e6 / steps for seconds in found)
    what = f"postgres, a step of {RUNS} shared runs in one turn"
    return [
        Row(what, "µs/step", one, all_of_it, "psycopg, COPY of its events, its work by hand"),
        Row(f"{what}: events alone", "µs/step", one, events_alone, "psycopg, COPY of its events"),
    ]


async def _engine(scale: Scale, ours: Ours, bare: Bare, names: Any) -> list[Row]:
    wide, long = fan_out(scale.of(500)), chain(scale.of(100))
    free = await _ran(ours, bare, names, plan_of(wide, tool="bench.pass_on"), bare.copied, scale.rounds(5))
    once = await _ran(
        ours, bare, names, plan_of(long, tool="bench.pass_on_once"), bare.starts_and_ends, scale.rounds(5)
    )
    return [
        Row(
            f"engine on postgres, fan-out of {len(wide)} `none` steps",
            "µs/step",
            *(seconds * 1e6 / len(wide) for seconds in free),
            "psycopg, COPY of its events, once",
        ),
        Row(
            f"engine on postgres, chain of {len(long)} `once` steps",
            "µs/step",
            *(seconds * 1e6 / len(long) for seconds in once),
            "psycopg, INSERT of its events in pairs",
        ),
    ]


async def _ran(
    ours: Ours, bare: Bare, names: Any, plan: Any, by_hand: Callable[[list[Any]], Awaitable[float]], rounds: int
) -> tuple[float, float]:
    """Return the seconds of an engine's run, and of writing its events by hand."""
    last = ""

    async def ran() -> float:
        nonlocal last
        last = next(names)
        return await ours.ran(last, plan)

    async def written() -> float:
        name = next(names)
        found = bare.connection.execute(_READ, (last,)).fetchall()
        return await by_hand([(name, *row[1:]) for row in found])

    engine, alone = await in_turns(ran, written, rounds=rounds)
    return min(engine), min(alone)
