"""Journal files as a planloom wrote them, kept so that every later one must open, read and resume what is in them.

`python -m tests.journals.files FOLDER` writes the files of today's format; never into a folder of a released version
that has them. Each holds the runs of `stories`; the file called "killed" is that of a process that was killed, with its
last commits in its log only.

Rule: what is in a file depends on nothing but the code: runs in memory with a clock set by hand, written out event by
event.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from planloom import Engine, MemoryJournal, SqliteJournal
from planloom.core.events import ApprovalAnswered, Fact, RunResumed
from planloom.journal.schema import newest_format
from planloom.ports import Recorded
from planloom.runtime.run import Run
from planloom.testing.clock import ManualClock
from planloom.testing.crash import CrashingJournal, Spoil
from tests.crash.shapes import World, driven, plan_of
from tests.journals.recording import paused, recorded

LONG = "a value too long for its own row: größer " * 900
"""38 KB."""


@dataclass(frozen=True, slots=True)
class Story:
    """A run as it stands in a file, and what people left for it that nobody has taken."""

    record: list[Recorded]
    posted: tuple[Fact, ...] = ()


async def _cut(shape: str, at: int) -> Story:
    """Cut the power at a write."""
    clock, world, disk = ManualClock(), World(), MemoryJournal()
    journal = CrashingJournal(disk, at=at, how=Spoil.AFTER, lag=1)
    async with Engine(journal, tools=world.tools(), clock=clock) as engine:
        assert await driven(engine.start(plan_of(shape), run_id="r"), clock, world, until=journal.stopped) is None
    return Story(await disk.read("r"))


async def _left(shape: str, **inputs: Any) -> Story:
    """Run until a person is needed, and leave it there."""
    clock, world, disk = ManualClock(), World(), MemoryJournal()
    plan = plan_of(shape) | ({"inputs": {name: {"type": "string"} for name in inputs}} if inputs else {})
    async with Engine(disk, tools=world.tools(), clock=clock) as engine:
        run = await engine.start(plan, inputs, run_id="r")
        await run.result()
    return Story(await disk.read("r"))


async def _unknown() -> Story:
    """Cut the power while a `once` step is under way, and resume until a person must say what came of it."""
    clock, world, disk = ManualClock(), World(), MemoryJournal()
    journal = CrashingJournal(disk, at=2, how=Spoil.AFTER, lag=1)
    async with Engine(journal, tools=world.tools(), clock=clock) as engine:
        await driven(engine.start(plan_of("diamond"), run_id="r"), clock, world, until=journal.stopped)
    async with Engine(disk, tools=world.tools(), clock=clock) as engine:
        run: Run = await engine.resume("r")
        assert [step.waiting for step in (await run.result()).blocked] == ["unknown"]
    return Story(await disk.read("r"))


async def stories() -> dict[str, Story]:
    """Return the runs of a file by their names, which say how they stand: ended, cut, blocked, paused or answered."""
    waiting = await _left("approvals", note=LONG)
    yes = ApprovalAnswered("ok", True, "a person", ManualClock().now() + 60)
    return {
        "ended": Story(await recorded("map of sub-plans", cut=False)),
        "ended-badly": Story(await recorded("failing, with clean-up", cut=False)),
        "ended-after-a-cut": Story(await recorded("retries", cut=True)),
        "cut": await _cut("fan", 3),
        "cut-in-a-map": await _cut("map", 3),
        "blocked-by-an-approval": waiting,
        "blocked-by-an-outcome": await _unknown(),
        "paused": Story(list(takewhile(lambda entry: not isinstance(entry.event, RunResumed), await paused()))),
        "answered": Story(waiting.record, (yes,)),
    }


async def write(journal: SqliteJournal, run_id: str, story: Story) -> None:
    """Write a run out."""
    writer = await journal.create(run_id, lambda seq, error: None)
    for entry in story.record:
        writer.append((entry.event,), (entry.cause,))
    await writer.close()
    for fact in story.posted:
        await journal.post(run_id, fact)


async def _written(path: Path) -> None:
    journal = SqliteJournal(path)
    for run_id, story in (await stories()).items():
        await write(journal, run_id, story)
    await journal.close()


async def _killed(path: Path) -> None:
    """Write a run, and die with all of it in the log."""
    journal = SqliteJournal(path)
    await write(journal, "killed", await _cut("fan", 5))
    os._exit(0)


def main(folder: Path) -> None:
    asyncio.run(_written(folder / f"format-{newest_format()}.sqlite3"))
    subprocess.run([sys.executable, "-m", "tests.journals.files", "--killed", str(folder)], check=True)
    for left in (*folder.glob("*-owners"), *folder.glob("*-shm")):
        left.unlink()


if __name__ == "__main__":
    if sys.argv[1] == "--killed":
        asyncio.run(_killed(Path(sys.argv[2]) / f"format-{newest_format()}-killed.sqlite3"))
    main(Path(sys.argv[1]))
