"""An engine whose disk is full in the middle of a run: `python -m tests.journal.small_disk FOLDER`, on a small disk.

Fills the disk but for a little, runs until the journal can grow no more, makes room, resumes, and prints as JSON what
was seen on the way.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from planloom import Engine, SqliteJournal, Tool
from planloom.errors import JournalError
from planloom.journal.writer import RunPen
from planloom.ports import OnDurable

ITEMS = 60
PLAN = {
    "planloom": 1,
    "name": "fills",
    "steps": [
        {"id": "each", "tool": "pay", "for_each": list(range(ITEMS)), "max_parallel": 3, "with": {"n": "${{ item }}"}}
    ],
    "outputs": {"count": "${{ len(steps.each.output) }}"},
}
ROOM = 300 * 1024
"""Bytes that are left free for the journal at first."""


class Telling(SqliteJournal):
    """A journal that remembers what it acknowledged."""

    told = 0

    async def create(self, run_id: str, on_durable: OnDurable) -> RunPen:
        def durable(seq: int, error: BaseException | None) -> None:
            if error is None:
                self.told = seq
            on_durable(seq, error)

        return await super().create(run_id, durable)


def fill(folder: Path) -> Path:
    """Leave `ROOM` on the disk; return what takes the rest."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        with suppress(OSError):  # ENOSPC
            while True:
                file.write(bytes(4096))
        file.truncate(file.tell() - ROOM)
    return ballast


async def main(folder: Path) -> dict[str, Any]:
    calls: list[int] = []

    async def pay(n: int) -> str:
        calls.append(n)
        return "receipt " * 300

    ballast, path, seen = fill(folder), folder / "runs.db", dict[str, Any]()
    tools = [Tool.from_function(pay, name="pay", effects="once")]
    journal = Telling(path)
    async with Engine(journal, tools=tools) as engine:
        try:
            await engine.run(PLAN, run_id="r")
        except JournalError as error:
            seen["error"] = error.to_dict()
    await journal.close()
    seen["told"], seen["called"] = journal.told, len(calls)

    journal = SqliteJournal(path)
    chain = await journal.chain_of("r")
    seen["events"], seen["chained"] = chain.events, chain.chained
    ballast.unlink()
    async with Engine(journal, tools=tools) as engine:
        run = await engine.resume("r")
        result = await run.result()
        seen["unknown"] = len(result.blocked)
        for step in result.blocked:
            n = int(step.id.partition("[")[2].rstrip("]"))
            await run.resolve(step.id, "output" if n in calls else "retry", by="a person", output="receipt")
        seen["output"] = (await run.result()).output
    await journal.close()
    return seen | {"calls": sorted(calls)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(Path(sys.argv[1])))))
