"""What a durable append costs beside bare SQLite: `python benchmarks/journal.py`, under 20 seconds.

Rule 1: a number is a ratio to a reference measured in the same process, in turns with it, on the same disk.
Rule 2: the reference is what one would write by hand: the same rows in the same table, with the same pragmas. It gets
its rows ready made, the journal encodes and numbers its own; beside it stands a reference that makes its JSON too.
Rule 3: a chain is measured beside bare SQLite inline, which blocks its loop, and in a thread, which does not.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import perf_counter

from planloom.core.events import AttemptSucceeded, RunStarted, StepDispatched
from planloom.journal.codec import encode
from planloom.journal.memory import MemoryJournal
from planloom.journal.sqlite import SqliteJournal
from planloom.plan.model import Plan

TURNS = 1_000
CHAIN = 300
ROUNDS = 9
AT = 1_700_000_000.123
PLAN = Plan.from_dict({"name": "bench", "steps": [{"id": "fetch", "tool": "t"}]})
STARTED = RunStarted(PLAN, {}, AT)
OUTPUT = {"merchant": "Acme", "total": 12.5, "lines": [1, 2, 3]}
_TABLE = """CREATE TABLE events (run_id TEXT NOT NULL, seq INTEGER NOT NULL, cause INTEGER NOT NULL, kind TEXT NOT NULL,
version INTEGER NOT NULL, at REAL NOT NULL, body TEXT NOT NULL, PRIMARY KEY (run_id, seq))"""
_INSERT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)"


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
    found = []
    for seq, event in enumerate(events(count), 2):
        kind, version, body, _ = encode(event)
        found.append((run_id, seq, seq - 1, kind, version, event.at, body))
    return found


def bare(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(_TABLE)
    return connection


def bare_group(connection: sqlite3.Connection, run_id: str) -> float:
    ready = rows(run_id, TURNS)
    started = perf_counter()
    connection.execute("BEGIN IMMEDIATE")
    for row in ready:
        connection.execute(_INSERT, row)
    connection.execute("COMMIT")
    return (perf_counter() - started) / TURNS


def by_hand_group(connection: sqlite3.Connection, run_id: str) -> float:
    """As `bare_group`, with the JSON made in the loop, as whoever writes it by hand would."""
    ready = [(event, asdict(event)) for event in events(TURNS)]
    started = perf_counter()
    connection.execute("BEGIN IMMEDIATE")
    for seq, (event, fields) in enumerate(ready, 2):
        body = json.dumps(fields)
        connection.execute(_INSERT, (run_id, seq, seq - 1, type(event).__name__, 1, event.at, body))
    connection.execute("COMMIT")
    return (perf_counter() - started) / TURNS


async def threaded_chain(path: Path, run_id: str) -> list[float]:
    """As `bare_chain`, in a thread, as it must be for the event loop to go on meanwhile."""
    times = []
    with ThreadPoolExecutor(1) as thread, closing(bare(path)) as connection:
        for row in rows(run_id, CHAIN):
            started = perf_counter()
            await asyncio.get_running_loop().run_in_executor(thread, bare_one, connection, row)
            times.append(perf_counter() - started)
    return times


def bare_chain(connection: sqlite3.Connection, run_id: str) -> list[float]:
    times = []
    for row in rows(run_id, CHAIN):
        started = perf_counter()
        bare_one(connection, row)
        times.append(perf_counter() - started)
    return times


def bare_one(connection: sqlite3.Connection, row: tuple[object, ...]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(_INSERT, row)
    connection.execute("COMMIT")


async def journal_group(journal: SqliteJournal | MemoryJournal, run_id: str) -> float:
    writer = await journal.create(run_id, lambda seq, error: None)
    writer.append((STARTED,), (0,))
    await writer.flush()
    ready = events(TURNS)
    started = perf_counter()
    for cause, event in enumerate(ready, 1):
        writer.append((event,), (cause,))
    await writer.flush()
    took = (perf_counter() - started) / TURNS
    await writer.close()
    return took


async def journal_chain(journal: SqliteJournal, run_id: str) -> list[float]:
    writer = await journal.create(run_id, lambda seq, error: None)
    writer.append((STARTED,), (0,))
    await writer.flush()
    times = []
    for cause, event in enumerate(events(CHAIN), 1):
        started = perf_counter()
        writer.append((event,), (cause,))
        await writer.flush()
        times.append(perf_counter() - started)
    await writer.close()
    return times


def encode_s(event: StepDispatched | AttemptSucceeded) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        started = perf_counter()
        for _ in range(2_000):
            encode(event)
        best = min(best, (perf_counter() - started) / 2_000)
    return best


async def main(folder: Path) -> None:
    connection = bare(folder / "bare.db")
    journal = SqliteJournal(folder / "journal.db")
    memory = MemoryJournal()
    group: list[tuple[float, float, float, float]] = []
    chain: tuple[list[float], list[float], list[float]] = ([], [], [])
    for number in range(ROUNDS):
        run_id = f"run-{number:06}"
        ours = await journal_group(journal, run_id)
        in_memory = await journal_group(memory, run_id)
        group.append((bare_group(connection, run_id), by_hand_group(connection, f"own-{number:06}"), ours, in_memory))
        if number % 3 == 0:
            chain[0].extend(bare_chain(connection, f"chain-{number:04}"))
            chain[1].extend(await threaded_chain(folder / f"thread{number}.db", f"chain-{number:04}"))
            chain[2].extend(await journal_chain(journal, f"chain-{number:04}"))
    await journal.close()
    connection.close()
    ready_made, by_hand, ours, in_memory = (min(column) for column in zip(*group, strict=True))
    inline, threaded, chained = (median(times) for times in chain)
    table = (
        ("group commit of 1,000 one-event turns", "rows ready made", ready_made, ours),
        ("", "json.dumps by hand", by_hand, ours),
        ("the same in memory", "rows ready made", ready_made, in_memory),
        ("chain, one commit per event", "inline", inline, chained),
        ("", "in a thread", threaded, chained),
    )
    print(f"{'':40}{'reference':22}{'bare µs':>10}{'ours µs':>10}{'ratio':>8}")
    for name, reference, bare_s, ours_s in table:
        print(f"{name:40}{reference:22}{bare_s * 1e6:10.2f}{ours_s * 1e6:10.2f}{ours_s / bare_s:8.2f}")
    for event in events(2):
        print(f"encode {type(event).__name__:65}{encode_s(event) * 1e6:10.2f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else ".") as place:
        asyncio.run(main(Path(place)))
