"""An engine in a process of its own that is killed: `python -m tests.journal.victim JOURNAL`.

Prints what its journal told it was durable, "SEQ SIZE" a line: the event's number and the size of the log by then. Its
last step but one kills it with SIGKILL, with everything in the log and nothing in the file itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from planloom import Engine, SqliteJournal, Tool
from planloom.journal.writer import RunPen
from planloom.ports import OnDurable

PLAN = {
    "planloom": 1,
    "name": "victim",
    "steps": [
        {"id": "a", "tool": "pay", "with": {"n": 1}},
        {"id": "each", "tool": "put", "for_each": ["${{ steps.a.output }}", 5], "with": {"n": "${{ item }}"}},
        {"id": "b", "tool": "pay", "with": {"n": "${{ sum(steps.each.output) }}"}},
        {"id": "die", "tool": "die", "with": {"n": "${{ steps.b.output }}"}},
        {"id": "end", "tool": "pay", "with": {"n": "${{ steps.die.output }}"}},
    ],
    "outputs": {"end": "${{ steps.end.output }}"},
}
OUTPUT = {"end": 12}
RUN = "killed-run"


def tools(*, deadly: bool) -> list[Tool]:
    """Return the tools of the plan; `deadly`: one of them kills its process."""

    async def add_one(n: int) -> int:
        return n + 1

    async def die(n: int) -> int:
        if deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return n + 1

    return [
        Tool.from_function(add_one, name="pay", effects="once"),
        Tool.from_function(add_one, name="put", effects="idempotent"),
        Tool.from_function(die, name="die", effects="idempotent"),
    ]


class Telling(SqliteJournal):
    """A journal that prints what it acknowledges."""

    async def create(self, run_id: str, on_durable: OnDurable) -> RunPen:
        log = self.path.with_name(self.path.name + "-wal")

        def told(seq: int, error: BaseException | None) -> None:
            if error is None:
                os.write(1, f"{seq} {log.stat().st_size}\n".encode())
            on_durable(seq, error)

        return await super().create(run_id, told)


async def main(path: Path) -> None:
    async with Engine(Telling(path), tools=tools(deadly=True)) as engine:
        await engine.run(PLAN, run_id=RUN)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
