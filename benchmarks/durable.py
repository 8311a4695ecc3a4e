"""What a step costs with a journal in SQLite, beside bare sqlite3 writing the very rows that the journal then holds.

Rule 1: the reference does no steps at all: it gets its rows ready made and only writes them, in a copy of the journal's
tables, with the same pragmas (WAL, synchronous=FULL), inline.
Rule 2: for `none` steps the strictest reference writes everything in one commit; beside it stands one that commits as
often as the engine did, and one that does the steps as well, by hand.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import count as numbers
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.by_hand import Rows, bare_sqlite, contents, dataflow, write_in_groups
from benchmarks.plans import Needs, chain, fan_out, pass_on, pass_on_once, plan_of
from benchmarks.rows import Budget, Row
from benchmarks.timing import Scale, in_turns, timed, wall_s
from planloom import Engine, Plan, SqliteJournal
from planloom.ports import OnDurable

UNIT = "µs/step"
WHY_NONE = (
    "the reference does no steps and gets its rows ready made; doing the steps, and encoding two events for each, "
    "comes on top"
)
WHY_ONCE = (
    "the loop must not block, so a commit is waited for in a thread: two thread switches and a wake-up of the loop, "
    "which take as long on any disk and weigh less on a slower one"
)


class CountingJournal(SqliteJournal):
    """A journal that counts the commits of its runs."""

    commits = 0

    async def create(self, run_id: str, on_durable: OnDurable) -> Any:
        def counted(seq: int, error: BaseException | None) -> None:
            self.commits += 1
            on_durable(seq, error)

        return await super().create(run_id, counted)


@dataclass
class Ran:
    """What the engine's last run left behind."""

    schema: list[str]
    rows: dict[str, Rows]
    commits: int


class Durable:
    """The arms of one plan. The engine's comes first: the others write what it wrote."""

    def __init__(self, needs: Needs, plan: Plan, folder: Path) -> None:
        self.needs = needs
        self.plan = plan
        self.ran = Ran([], {}, 0)
        self._folder = folder
        self._numbers = numbers()

    def path(self) -> Path:
        return self._folder / f"{next(self._numbers)}.db"

    async def engine(self) -> float:
        path = self.path()
        journal = CountingJournal(path)
        async with Engine(journal, tools=[pass_on, pass_on_once]) as engine:
            engine.check(self.plan)
            await journal.runs()
            await engine.run(plan_of(chain(2), tool="bench.pass_on"))
            before = contents(path)[1]
            journal.commits = 0
            with timed(wall_s) as took:
                result = await engine.run(self.plan)
            assert result.status == "success"
        await journal.close()
        schema, rows = contents(path)
        new = {table: [row for row in found if row not in before.get(table, ())] for table, found in rows.items()}
        self.ran = Ran(schema, new, journal.commits)
        return took.seconds

    async def bare(self, groups: Callable[[Ran], list[dict[str, Rows]]]) -> float:
        with closing(bare_sqlite(self.path(), self.ran.schema)) as connection:
            ready = groups(self.ran)
            with timed(wall_s) as took:
                write_in_groups(connection, ready)
            assert connection.execute("SELECT count(*) FROM events").fetchone() == (len(self.ran.rows["events"]),)
        return took.seconds

    async def one_commit(self) -> float:
        return await self.bare(lambda ran: [ran.rows])

    async def as_many_commits(self) -> float:
        return await self.bare(lambda ran: in_groups(ran.rows, ran.commits))

    async def commit_per_step(self) -> float:
        return await self.bare(lambda ran: in_groups(ran.rows, len(self.needs)))

    async def commit_per_step_in_thread(self) -> float:
        """As `commit_per_step`, in a thread, as it must be for an event loop to go on meanwhile."""
        loop = asyncio.get_running_loop()
        with closing(bare_sqlite(self.path(), self.ran.schema)) as connection:
            ready = in_groups(self.ran.rows, len(self.needs))
            with ThreadPoolExecutor(1) as thread, timed(wall_s) as took:
                for group in ready:
                    await loop.run_in_executor(thread, write_in_groups, connection, [group])
        return took.seconds

    async def by_hand(self) -> float:
        with closing(bare_sqlite(self.path(), self.ran.schema)) as connection:
            with timed(wall_s) as took:
                await steps_on_record(self.needs, connection)
            found = connection.execute("SELECT count(*) FROM events").fetchone()
            assert found == (2 * len(self.needs),)
        return took.seconds


def in_groups(rows: Mapping[str, Rows], count: int) -> list[dict[str, Rows]]:
    """Return the events in `count` groups of nearly equal size, everything else with the first."""
    events = rows["events"]
    edges = [len(events) * at // count for at in range(count + 1)]
    groups = [{"events": events[a:b]} for a, b in pairwise(edges) if b > a]
    return [{**rows, **groups[0]}, *groups[1:]]


async def steps_on_record(needs: Needs, connection: Any) -> None:
    """Do the steps by hand, with a row for the start and the end of each; a thread commits whatever waits."""
    waiting: Rows = []
    work = asyncio.Event()
    seq = numbers(1)
    loop = asyncio.get_running_loop()

    def record(kind: str, body: dict[str, Any]) -> None:
        number = next(seq)
        waiting.append(("by-hand", number, number - 1, kind, 1, loop.time(), json.dumps(body), None))
        work.set()

    async def recorded(x: int = 0) -> int:
        record("step_started", {"x": x})
        output = await pass_on(x)
        record("step_ended", {"output": output})
        return output

    async def write() -> None:
        nonlocal waiting
        while len(needs) * 2 > written[0]:
            await work.wait()
            work.clear()
            group, waiting = waiting, []
            await loop.run_in_executor(thread, write_in_groups, connection, [{"events": group}])
            written[0] += len(group)

    written = [0]
    with ThreadPoolExecutor(1) as thread:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            tasks.create_task(dataflow(needs, dict.fromkeys(needs, recorded)))


async def measure(scale: Scale, folder: Path) -> list[Row]:
    """Return the rows for `none` steps in a chain and a fan-out, and for `once` steps in a chain."""
    count = scale.of(1_000)
    return [
        *await _none(f"durable, chain of {count:,} `none` steps", chain(count), scale, folder / "chain"),
        *await _none(f"durable, fan-out of {count:,} `none` steps", fan_out(count), scale, folder / "fan-out"),
        *await _once(scale.of(300), scale, folder / "once"),
    ]


async def _none(what: str, needs: Needs, scale: Scale, folder: Path) -> list[Row]:
    folder.mkdir()
    arms = Durable(needs, plan_of(needs, tool="bench.pass_on"), folder)
    found = await in_turns(arms.engine, arms.one_commit, arms.as_many_commits, arms.by_hand, rounds=scale.rounds(11))
    ours, one, as_many, by_hand = (min(seconds) * 1e6 / len(needs) for seconds in found)
    return [
        Row(what, UNIT, ours, one, "sqlite3, same rows, 1 commit", Budget(2.0, 1.3, why=WHY_NONE)),
        Row(f"{what}: as many commits", UNIT, ours, as_many, f"sqlite3, same rows, commits: {arms.ran.commits}"),
        Row(f"{what}: steps too", UNIT, ours, by_hand, "asyncio + graphlib + sqlite3 by hand"),
    ]


async def _once(count: int, scale: Scale, folder: Path) -> list[Row]:
    folder.mkdir()
    needs = chain(count)
    arms = Durable(needs, plan_of(needs, tool="bench.pass_on_once"), folder)
    found = await in_turns(arms.engine, arms.commit_per_step, arms.commit_per_step_in_thread, rounds=scale.rounds(7))
    ours, bare, in_thread = (median(seconds) * 1e6 / count for seconds in found)
    what = f"durable, chain of {count:,} `once` steps"
    return [
        Row(what, UNIT, ours, bare, "sqlite3, same rows, 1 commit a step", Budget(1.3, 1.1, why=WHY_ONCE)),
        Row(f"{what}: in a thread", UNIT, ours, in_thread, "the same, in a thread"),
    ]
