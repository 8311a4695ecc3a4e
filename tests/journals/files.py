"""Journal files as a planloom wrote them, kept so that every later one must open, read and resume what is in them.

`python -m tests.journals.files FOLDER` writes the files of today's format; never into a folder of a released version
that has them. Each holds the runs of `stories`; "keyed" has a key, which is `KEY`; "killed" is that of a process that
was killed, with a commit for each event, in its log only.

Rule: what is in a file depends on nothing but the code: runs in memory with a clock set by hand, written out event by
event.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from planloom import Engine, MemoryJournal, SqliteJournal
from planloom.core.events import ApprovalAnswered, Fact
from planloom.journal.schema import newest_format
from planloom.ports import Recorded
from planloom.testing.clock import ManualClock
from planloom.testing.crash import CrashingJournal, Spoil
from tests.crash.shapes import World, driven, plan_of

KEY = b"the key of these files, which everybody may know"
KILLED = "killed"
LONG = "a value too long for its own row: größer " * 900
"""38 KB."""


@dataclass(frozen=True, slots=True)
class Story:
    """A run as it stands in a file, and what people left for it that nobody has taken."""

    record: list[Recorded]
    posted: tuple[Fact, ...] = ()


async def _cut(run_id: str, shape: str, *, at: int | None) -> MemoryJournal:
    """Run a shape up to a power cut at a write, or to its end; return what is on the disk."""
    clock, world, disk = ManualClock(), World(), MemoryJournal()
    journal = CrashingJournal(disk, at=at, how=Spoil.AFTER, lag=1)
    async with Engine(journal, tools=world.tools(), clock=clock) as engine:
        result = await driven(engine.start(plan_of(shape), run_id=run_id), clock, world, until=journal.stopped)
    assert (result is None) == (at is not None)
    return disk


async def _resumed(run_id: str, disk: MemoryJournal, *, to_the_end: bool) -> MemoryJournal:
    """Take a run up that was cut, as far as it goes without a person or to its end."""
    clock, world = ManualClock(), World()
    clock.advance(60)
    async with Engine(disk, tools=world.tools(), clock=clock) as engine:
        if to_the_end:
            await driven(engine.resume(run_id), clock, world)
        else:
            run = await engine.resume(run_id)
            await run.result()
    return disk


async def _left(run_id: str, shape: str, *, pause: bool = False, **inputs: str) -> MemoryJournal:
    """Run until a person is needed or, at once, somebody pauses it, and leave it there."""
    clock, world, disk = ManualClock(), World(), MemoryJournal()
    plan = plan_of(shape) | ({"inputs": {name: {"type": "string"} for name in inputs}} if inputs else {})
    async with Engine(disk, tools=world.tools(), clock=clock) as engine:
        run = await engine.start(plan, inputs, run_id=run_id)
        if pause:
            await run.pause(by="a person")
        await run.result()
    return disk


async def stories() -> dict[str, Story]:
    """Return the runs of a file by their names, which say how they stand."""
    disks = {
        "ended": await _cut("ended", "map of sub-plans", at=None),
        "ended-badly": await _cut("ended-badly", "failing, with clean-up", at=None),
        "ended-after-a-cut": await _resumed(
            "ended-after-a-cut", await _cut("ended-after-a-cut", "retries", at=4), to_the_end=True
        ),
        "cut": await _cut("cut", "fan", at=3),
        "cut-in-a-map": await _cut("cut-in-a-map", "map", at=3),
        KILLED: await _cut("killed", "fan", at=5),
        "blocked-by-an-approval": await _left("blocked-by-an-approval", "approvals", note=LONG),
        "blocked-by-an-outcome": await _resumed(
            "blocked-by-an-outcome", await _cut("blocked-by-an-outcome", "diamond", at=2), to_the_end=False
        ),
        "paused": await _left("paused", "idempotent", pause=True),
        "answered": await _left("answered", "approvals"),
    }
    told = {run_id: Story(await disk.read(run_id)) for run_id, disk in disks.items()}
    yes = ApprovalAnswered("ok", True, "a person", ManualClock().now() + 60)
    return told | {"answered": Story(told["answered"].record, (yes,))}


async def write(journal: SqliteJournal, run_id: str, story: Story, *, commit_each: bool = False) -> None:
    """Write a run out."""
    writer = await journal.create(run_id, lambda seq, error: None)
    for entry in story.record:
        writer.append((entry.event,), (entry.cause,))
        if commit_each:
            await writer.flush()
    await writer.close()
    for fact in story.posted:
        await journal.post(run_id, fact)


async def _written(path: Path, key: bytes | None = None) -> None:
    journal = SqliteJournal(path, key=key)
    for run_id, story in (await stories()).items():
        if run_id != KILLED:
            await write(journal, run_id, story)
    await journal.close()


async def _killed(path: Path) -> None:
    """Write a run, and die with all of it in the log."""
    journal = SqliteJournal(path)
    await write(journal, KILLED, (await stories())[KILLED], commit_each=True)
    os._exit(0)


def main(folder: Path) -> None:
    asyncio.run(_written(folder / f"format-{newest_format()}.sqlite3"))
    asyncio.run(_written(folder / f"format-{newest_format()}-keyed.sqlite3", KEY))
    subprocess.run([sys.executable, "-m", "tests.journals.files", "--killed", str(folder)], check=True)
    for left in (*folder.glob("*-owners"), *folder.glob("*-shm")):
        left.unlink()


if __name__ == "__main__":
    if sys.argv[1] == "--killed":
        asyncio.run(_killed(Path(sys.argv[2]) / f"format-{newest_format()}-killed.sqlite3"))
    main(Path(sys.argv[1]))
