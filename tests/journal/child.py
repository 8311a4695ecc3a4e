"""The other process of the journal's tests: `python child.py WORK PATH RUN`; what it prints is what it was told."""

import asyncio
import os
import resource
import sys

from planloom.core.events import RunStarted, StepDispatched
from planloom.errors import JournalError, RunNotFoundError
from planloom.journal.sqlite import SqliteJournal
from planloom.plan.model import Plan

PLAN = Plan.from_dict({"name": "crash", "steps": [{"id": "a", "tool": "t"}]})


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


async def append_for_ever(path: str, run_id: str) -> None:
    """Append without end and print each seq that is durable."""
    told: list[int] = []

    def on_durable(seq: int, error: BaseException | None) -> None:
        if error is None:
            told.append(seq)
            say(str(seq))

    journal = SqliteJournal(path)
    try:
        recorded, writer = await journal.take(run_id, on_durable)
        seq = recorded[-1].seq
    except RunNotFoundError:
        writer = await journal.create(run_id, on_durable)
        seq = writer.append((RunStarted(PLAN, {}, 1.5),), (0,))
    say("ready")
    while True:
        for _ in range(seq % 7):
            seq = writer.append((StepDispatched("a", 1, 0, 1.5), StepDispatched("x" * (seq % 3000), 1, 0, 1.5)), (1, 1))
        seq = writer.append((StepDispatched("a", 1, 0, 1.5),), (1,))
        if seq % 3:
            await writer.flush()


async def hold(path: str, run_id: str) -> None:
    """Own the run until killed."""
    journal = SqliteJournal(path)
    await journal.take(run_id, lambda seq, error: None)
    say("ready")
    await asyncio.Event().wait()


async def outgrow(path: str, run_id: str) -> None:
    """Append until the disk, as far as this process may use it, ends."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    await append_for_ever(path, run_id)


WORK = {work.__name__: work for work in (append_for_ever, hold, outgrow)}

if __name__ == "__main__":
    try:
        asyncio.run(WORK[sys.argv[1]](*sys.argv[2:]))
    except JournalError as problem:
        say(f"{type(problem).__name__}: {problem}")
