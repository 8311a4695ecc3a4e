"""Processes killed with SIGKILL at random moments, taken up again until the run has ended.

What really happened stands in calls.log, written by the tools themselves; what is said to have happened stands in the
journal. The two must agree, however often and whenever the process dies. PLANLOOM_KILLS says how often.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from planloom import SqliteJournal, StepStatus
from planloom.core.events import AttemptSucceeded, OutcomeUnknown, RunFinished, StepDispatched
from planloom.errors import RunNotFoundError
from planloom.observe.looks import every_step
from planloom.runtime.engine import Engine
from planloom.runtime.replay import diverges

if TYPE_CHECKING:
    from planloom.core.result import StepResult
    from planloom.ports import Recorded

KILLS = int(os.environ.get("PLANLOOM_KILLS", "20"))
SEED = int(os.environ.get("PLANLOOM_SEED", "1"))
CHILD = Path(__file__).parent / "killed.py"
LONGEST_S = 0.15
"""A little longer than the run takes, so that some processes live to its end."""
EXPECTED = sum(number + 3 for number in range(1, 13)) + 1


def go(folder: Path, run_id: str, *, die_after_s: float) -> bool:
    """Start or take up the run and kill the process; return False if it came to its end before that."""
    child = subprocess.Popen([sys.executable, str(CHILD), str(folder), run_id], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    try:
        child.wait(die_after_s)
    except subprocess.TimeoutExpired:
        child.kill()
    child.wait()
    child.stdout.close()
    assert child.returncode in (0, -9)
    return child.returncode == -9


def record(folder: Path, run_id: str) -> list[Recorded]:
    async def read() -> list[Recorded]:
        journal = SqliteJournal(folder / "runs.db")
        try:
            return await journal.read(run_id)
        except RunNotFoundError:
            return []
        finally:
            await journal.close()

    return asyncio.run(read())


def completed(folder: Path, run_id: str) -> dict[str, StepResult]:
    async def read() -> dict[str, StepResult]:
        async with Engine(folder / "runs.db", tools=[]) as engine:
            result = await engine.result_of(run_id)
        return {step.id: step for step in every_step(result.steps) if step.status is StepStatus.COMPLETED}

    return asyncio.run(read())


def calls(folder: Path) -> Counter[tuple[str, str]]:
    log = folder / "calls.log"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return Counter((effects, key) for effects, key, _ in map(str.split, lines))


@pytest.mark.crash
def test_whatever_the_moment_of_the_kill_the_record_and_the_world_agree(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    killed = number = unknown = 0
    while killed < KILLS:
        number += 1
        folder = tmp_path / f"run-{number}"
        folder.mkdir()
        killed += one_run(folder, f"r{number}", chance, KILLS - killed)
        unknown += sum(isinstance(entry.event, OutcomeUnknown) for entry in record(folder, f"r{number}"))
    sys.stdout.write(f"{killed} kills in {number} runs left {unknown} outcomes unknown\n")


def one_run(folder: Path, run_id: str, chance: random.Random, kills_left: int) -> int:
    """Run once to the end, through as many kills as chance has it; return how many."""
    killed = 0
    known: dict[str, StepResult] = {}
    called: Counter[tuple[str, str]] = Counter()
    started = time.monotonic()
    while True:
        die_after_s = chance.uniform(0, LONGEST_S) if killed < kills_left else 60.0
        died = go(folder, run_id, die_after_s=die_after_s)
        killed += died
        events = record(folder, run_id)
        if events:
            known, called = look(folder, run_id, known, called)
        if not died and events:
            break
        assert time.monotonic() - started < 120, "the run does not come to its end"
    assert isinstance(events[-1].event, RunFinished)
    assert events[-1].event.output == EXPECTED
    assert diverges(run_id, events) is None
    every_start_was_on_record(events, calls(folder))
    return killed


def look(
    folder: Path, run_id: str, before: dict[str, StepResult], called_before: Counter[tuple[str, str]]
) -> tuple[dict[str, StepResult], Counter[tuple[str, str]]]:
    """Compare the record and the world with how they stood at the last look."""
    now, called = completed(folder, run_id), calls(folder)
    assert {key: step.output for key, step in before.items()} == {key: now[key].output for key in before}, "I1, I2"
    again = {key for effects, key in called if called[effects, key] > called_before[effects, key] and key in before}
    assert again == set(), "called again although its result was on record"
    twice = {key: count for (effects, key), count in called.items() if effects == "once" and count > 1}
    assert twice == {}, "I3: a once effect happened twice"
    return now, called


def every_start_was_on_record(events: list[Recorded], called: Counter[tuple[str, str]]) -> None:
    dispatched = Counter(entry.event.step for entry in events if isinstance(entry.event, StepDispatched))
    succeeded = Counter(entry.event.step for entry in events if isinstance(entry.event, AttemptSucceeded))
    for (effects, key), count in called.items():
        if effects != "none":
            assert count <= dispatched[key], f"{key} was started without being on record"
    assert max(succeeded.values()) == 1, "a step succeeded twice"
