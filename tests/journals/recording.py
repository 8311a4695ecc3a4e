"""Runs on record as text, one event a line: what today's planloom wrote, kept so that every later one must read it.

`python -m tests.journals.recording FOLDER` records anew every shape of the crash tests, undisturbed and with a power
cut in the middle, a run that is cancelled, and one so wide that its first turn is cut. Never record into a folder of a
released version: its recordings stay as they were.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planloom import Engine, MemoryJournal
from planloom.journal.codec import decode, encode
from planloom.ports import Recorded
from planloom.testing.clock import ManualClock
from planloom.testing.crash import CrashingJournal, Spoil
from tests.crash.shapes import SHAPES, World, driven, plan_of

CUT_AT = 4
"""The write at which the power goes, in the recordings with a cut."""


def written(record: list[Recorded]) -> Iterator[str]:
    """Yield a line of JSON for each event: number, cause, and what the codec makes of it."""
    for entry in record:
        kind, version, body, blobs = encode(entry.event)
        line: dict[str, Any] = {"seq": entry.seq, "cause": entry.cause, "kind": kind, "version": version, "body": body}
        yield json.dumps(line | {"blobs": {blob.sha256: blob.text for blob in blobs}}, ensure_ascii=False)


def read(path: Path) -> list[Recorded]:
    """Return the events of a recording."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        event = decode(line["kind"], line["version"], line["body"], line["blobs"].__getitem__)
        found.append(Recorded(line["seq"], line["cause"], event))
    return found


async def recorded(shape: str, *, cut: bool) -> list[Recorded]:
    """Run a shape to its end, with a power cut and a resume on the way if `cut`; return its record."""
    clock, world, disk = ManualClock(), World(), MemoryJournal()
    world.disk = disk
    if cut:
        journal = CrashingJournal(disk, at=CUT_AT, how=Spoil.AFTER, lag=1)
        async with Engine(journal, tools=world.tools(), clock=clock) as engine:
            starting = engine.start(plan_of(shape), run_id="r")
            if await driven(starting, clock, world, until=journal.stopped) is not None:
                return await disk.read("r")
        clock.advance(60)
    async with Engine(disk, tools=world.tools(), clock=clock) as engine:
        await driven(engine.resume("r") if cut else engine.start(plan_of(shape), run_id="r"), clock, world)
    return await disk.read("r")


async def cancelled() -> list[Recorded]:
    """Cancel a run in the middle of a step that never ends; return its record."""
    clock, world, disk = ManualClock(), World(), MemoryJournal()
    steps = [
        {"id": "long", "tool": "endless", "with": {"n": 1}},
        {"id": "next", "tool": "pure", "with": {"n": 2}, "needs": ["long"]},
    ]
    async with Engine(disk, tools=world.tools(), clock=clock) as engine:
        run = await engine.start({"planloom": 1, "steps": steps}, run_id="r")
        await asyncio.sleep(0)
        await run.cancel(by="a person", reason="enough")
        await run.result()
    return await disk.read("r")


async def wide() -> list[Recorded]:
    """Run more steps at once than one turn decides about; return the record."""
    clock, world, disk = ManualClock(), World(), MemoryJournal()
    plan = {"planloom": 1, "steps": [{"id": f"s{n}", "tool": "pure", "with": {"n": n}} for n in range(1_005)]}
    async with Engine(disk, tools=world.tools(), clock=clock) as engine:
        await engine.run(plan, run_id="r")
    return await disk.read("r")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    keep(folder / "cancelled.jsonl", asyncio.run(cancelled()))
    keep(folder / "wide.jsonl", asyncio.run(wide()))
    for shape in SHAPES:
        for cut in (False, True):
            name = f"{shape.replace(' ', '-').replace(',', '')}{'-cut' if cut else ''}.jsonl"
            keep(folder / name, asyncio.run(recorded(shape, cut=cut)))


def keep(path: Path, record: list[Recorded]) -> None:
    path.write_text("\n".join(written(record)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
