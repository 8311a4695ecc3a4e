"""What a durable append costs beside bare SQLite: the journal alone, without an engine.

Rule 1: the reference is what one would write by hand: the same rows in the same table, with the same pragmas. It gets
its rows ready made, the journal encodes and numbers its own; beside it stands a reference that makes its JSON too.
Rule 2: a chain is measured beside bare SQLite inline, which blocks its loop, and in a thread, which does not.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from itertools import count as numbers
from pathlib import Path
from statistics import median

from benchmarks.by_hand import bare_sqlite
from benchmarks.rows import Row
from benchmarks.timing import Scale, in_turns, timed, wall_s
from planloom.core.events import AttemptSucceeded, RunStarted, StepDispatched
from planloom.journal.chain import LINK_BYTES
from planloom.journal.codec import encode
from planloom.journal.memory import MemoryJournal
from planloom.journal.sqlite import SqliteJournal
from planloom.plan.model import Plan

TURNS = 1_000
CHAIN = 300
UNIT = "µs/event"
AT = 1_700_000_000.123
PLAN = Plan.from_dict({"name": "bench", "steps": [{"id": "fetch", "tool": "t"}]})
STARTED = RunStarted(PLAN, {}, AT)
OUTPUT = {"merchant": "Acme", "total": 12.5, "lines": [1, 2, 3]}
_TABLE = """CREATE TABLE events (run_id TEXT NOT NULL, seq INTEGER NOT NULL, cause INTEGER NOT NULL, kind TEXT NOT NULL,
version INTEGER NOT NULL, at REAL NOT NULL, body TEXT NOT NULL, link BLOB, PRIMARY KEY (run_id, seq))"""
_INSERT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_LINK = bytes(LINK_BYTES)


def events(count: int) -> list[StepDispatched | AttemptSucceeded]:
    """Return what a chain of `none` steps records: starts and ends, in turns."""
    return [
        StepDispatched(f"step_{number}", 1, 0, AT)
        if number % 2
        else AttemptSucceeded(f"step_{number}", 1, 0, OUTPUT, AT, AT)
        for number in range(count)
    ]


def rows(run_id: str, count: int) -> list[tuple[object, ...]]:
    """Return the rows that those events become."""
    found: list[tuple[object, ...]] = []
    for seq, event in enumerate(events(count), 2):
        kind, version, body, _ = encode(event)
        found.append((run_id, seq, seq - 1, kind, version, event.at, body, _LINK))
    return found


def bare(path: Path) -> sqlite3.Connection:
    return bare_sqlite(path, [_TABLE])


async def bare_group(connection: sqlite3.Connection, run_id: str, count: int) -> float:
    ready = rows(run_id, count)
    with timed(wall_s) as took:
        connection.execute("BEGIN IMMEDIATE")
        for row in ready:
            connection.execute(_INSERT, row)
        connection.execute("COMMIT")
    return took.seconds


async def by_hand_group(connection: sqlite3.Connection, run_id: str, count: int) -> float:
    """As `bare_group`, with the JSON made in the loop, as whoever writes it by hand would."""
    ready = [(event, asdict(event)) for event in events(count)]
    with timed(wall_s) as took:
        connection.execute("BEGIN IMMEDIATE")
        for seq, (event, fields) in enumerate(ready, 2):
            body = json.dumps(fields)
            connection.execute(_INSERT, (run_id, seq, seq - 1, type(event).__name__, 1, event.at, body, _LINK))
        connection.execute("COMMIT")
    return took.seconds


async def journal_group(journal: SqliteJournal | MemoryJournal, run_id: str, count: int) -> float:
    writer = await journal.create(run_id, lambda seq, error: None)
    writer.append((STARTED,), (0,))
    await writer.flush()
    ready = events(count)
    with timed(wall_s) as took:
        for cause, event in enumerate(ready, 1):
            writer.append((event,), (cause,))
        await writer.flush()
    await writer.close()
    return took.seconds


async def bare_chain(connection: sqlite3.Connection, run_id: str, count: int) -> float:
    ready = rows(run_id, count)
    with timed(wall_s) as took:
        for row in ready:
            bare_one(connection, row)
    return took.seconds


async def threaded_chain(connection: sqlite3.Connection, run_id: str, count: int) -> float:
    """As `bare_chain`, in a thread, as it must be for the event loop to go on meanwhile."""
    ready = rows(run_id, count)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as thread, timed(wall_s) as took:
        for row in ready:
            await loop.run_in_executor(thread, bare_one, connection, row)
    return took.seconds


def bare_one(connection: sqlite3.Connection, row: tuple[object, ...]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(_INSERT, row)
    connection.execute("COMMIT")


async def journal_chain(journal: SqliteJournal, run_id: str, count: int) -> float:
    writer = await journal.create(run_id, lambda seq, error: None)
    writer.append((STARTED,), (0,))
    await writer.flush()
    ready = events(count)
    with timed(wall_s) as took:
        for cause, event in enumerate(ready, 1):
            writer.append((event,), (cause,))
            await writer.flush()
    await writer.close()
    return took.seconds


async def measure(scale: Scale, folder: Path) -> list[Row]:
    """Return the rows for a group commit, for the journal in memory, and for a chain of commits."""
    count, links = scale.of(TURNS), scale.of(CHAIN)
    journal, memory = SqliteJournal(folder / "journal.db"), MemoryJournal()
    with closing(bare(folder / "bare.db")) as connection, closing(bare(folder / "thread.db")) as other:
        names = (f"run-{number:06}" for number in numbers())
        grouped = await in_turns(
            lambda: journal_group(journal, next(names), count),
            lambda: journal_group(memory, next(names), count),
            lambda: bare_group(connection, next(names), count),
            lambda: by_hand_group(connection, next(names), count),
            rounds=scale.rounds(9),
        )
        chained = await in_turns(
            lambda: journal_chain(journal, next(names), links),
            lambda: bare_chain(connection, next(names), links),
            lambda: threaded_chain(other, next(names), links),
            rounds=scale.rounds(7),
        )
    await journal.close()
    ours, in_memory, ready_made, by_hand = (min(seconds) * 1e6 / count for seconds in grouped)
    one, inline, threaded = (median(seconds) * 1e6 / links for seconds in chained)
    group = f"journal, group commit of {count:,} events"
    return [
        Row(group, UNIT, ours, ready_made, "sqlite3, rows ready made"),
        Row(f"{group}: JSON too", UNIT, ours, by_hand, "sqlite3 and json.dumps by hand"),
        Row(f"journal in memory, {count:,} events", UNIT, in_memory, ready_made, "sqlite3, rows ready made"),
        Row("journal, one commit per event", UNIT, one, inline, "sqlite3, inline"),
        Row("journal, one commit per event: in a thread", UNIT, one, threaded, "sqlite3, in a thread"),
    ]
