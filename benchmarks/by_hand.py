"""The references: a plan carried out by hand, as one would write it for one program and leave it in."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from benchmarks.plans import Function, Needs

Rows = list[tuple[Any, ...]]


async def dataflow(needs: Needs, functions: Mapping[str, Function]) -> dict[str, int]:
    """Call each step's function once what it needs is there, in a task of its own; return all outputs."""
    outputs: dict[str, int] = {}
    ended: asyncio.Queue[str] = asyncio.Queue()

    async def do(step: str) -> None:
        above = needs[step]
        outputs[step] = await functions[step](x=outputs[above[0]] if above else 0)
        ended.put_nowait(step)

    order = TopologicalSorter(needs)
    order.prepare()
    async with asyncio.TaskGroup() as tasks:
        while order.is_active():
            for step in order.get_ready():
                tasks.create_task(do(step))
            order.done(await ended.get())
    return outputs


async def level_by_level(needs: Needs, functions: Mapping[str, Function]) -> dict[str, int]:
    """Do all steps of one level and wait for the slowest before the next, as many engines do."""
    outputs: dict[str, int] = {}

    async def do(step: str) -> None:
        above = needs[step]
        outputs[step] = await functions[step](x=outputs[above[0]] if above else 0)

    order = TopologicalSorter(needs)
    order.prepare()
    while order.is_active():
        level = order.get_ready()
        await asyncio.gather(*map(do, level))
        order.done(*level)
    return outputs


def bare_sqlite(path: Path, schema: Sequence[str]) -> sqlite3.Connection:
    """Return a new database with these tables, as durable as a journal."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    for statement in schema:
        connection.execute(statement)
    return connection


def write_in_groups(connection: sqlite3.Connection, groups: Sequence[Mapping[str, Rows]]) -> None:
    """Write rows by table, each group in one commit."""
    for group in groups:
        connection.execute("BEGIN IMMEDIATE")
        for table, rows in group.items():
            connection.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)
        connection.execute("COMMIT")


def contents(path: Path) -> tuple[list[str], dict[str, Rows]]:
    """Return the statements that made a database, and what is in each table that is not empty."""
    with closing(sqlite3.connect(path)) as connection:
        made = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
        rows = {
            name: connection.execute(f"SELECT * FROM {name}").fetchall() for kind, name, _ in made if kind == "table"
        }
    return [sql for *_, sql in made if sql], {name: found for name, found in rows.items() if found}
