"""Processes killed with SIGKILL at random moments while their agents and programs make calls of their own.

What really happened stands in calls.log; the record and it must agree, however often the process dies. PLANLOOM_KILLS
says how often: a third of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from planloom import Engine, RunStatus, SqliteJournal
from planloom.core.events import OutcomeUnknown
from planloom.core.result import RunResult
from planloom.errors import RunNotFoundError
from planloom.observe.looks import every_step
from planloom.ports import Recorded
from planloom.testing.sweep.findings import come_to
from tests.crash.inner_shapes import answered_on_record
from tests.crash.killed_inside import world_of
from tests.crash.looking import books, look, look_inside

KILLS = max(4, int(os.environ.get("PLANLOOM_KILLS", "20")) // 3)
SEED = int(os.environ.get("PLANLOOM_SEED", "1"))
ROOT = Path(__file__).parents[2]


def go(folder: Path, *, die_after_s: float | None) -> float | None:
    """Start or take up the run and kill the process; return how long it took if it came to its end before that."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.crash.killed_inside", str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    began = time.monotonic()
    try:
        child.wait(60 if die_after_s is None else die_after_s)
    except subprocess.TimeoutExpired:
        child.kill()
    took_s = time.monotonic() - began
    _, errors = child.communicate()
    assert child.returncode in (0, -9), errors.decode()
    return took_s if child.returncode == 0 else None


def record(folder: Path) -> list[Recorded]:
    async def read() -> list[Recorded]:
        journal = SqliteJournal(folder / "runs.db")
        try:
            return await journal.read("r")
        except RunNotFoundError:
            return []
        finally:
            await journal.close()

    return asyncio.run(read())


def result_in(folder: Path) -> RunResult:
    async def read() -> RunResult:
        async with Engine(folder / "runs.db", tools=[]) as engine:
            return await engine.result_of("r")

    return asyncio.run(read())


@pytest.mark.crash
def test_whatever_the_moment_of_the_kill_no_call_inside_a_step_is_made_again(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    took_s = go(whole, die_after_s=None)
    assert took_s is not None
    expected = result_in(whole)
    assert expected.status is RunStatus.SUCCESS, expected.error
    outputs = json.dumps({step.id: step.output for step in every_step(expected.steps)})
    asked = Counter(one.what for one in world_of(whole).asked)
    chance, killed, unknown, number = random.Random(SEED), 0, 0, 0
    while killed < KILLS:
        number += 1
        folder = tmp_path / f"run-{number}"
        folder.mkdir()
        (folder / "outputs.json").write_text(outputs, encoding="utf-8")
        is_over = False
        while not is_over:
            before, world = record(folder), world_of(folder)
            is_over = go(folder, die_after_s=chance.uniform(0, took_s) if killed < KILLS else None) is not None
            killed += not is_over
            where = f"seed {SEED}, run {number}, kill {killed}"
            now, called = record(folder), len(world.log)
            again = Counter(one.what for one in world_of(folder).asked[len(world.asked) :])
            if before:
                assert not again - (asked - answered_on_record(before)), f"{where}: asked again though on record"
            if now:
                look(where, before, world_of(folder), called, now)
                look_inside(where, before, world_of(folder), called, now)
        result = result_in(folder)
        assert come_to(result) == come_to(expected), where
        books(where, world_of(folder), now, result)
        unknown += sum(isinstance(entry.event, OutcomeUnknown) for entry in now)
    sys.stdout.write(f"{killed} kills in {number} runs left {unknown} outcomes unknown\n")
