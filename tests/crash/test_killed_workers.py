"""Worker processes, and engines with workers, ended and stopped in every way until the run has ended.

What really happened stands in the log that the tools write in the workers; what is said to have happened stands in the
journal. The two must agree, and nothing may stay alive. PLANLOOM_KILLS says how often.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from planloom import RunStatus
from planloom.core.events import AttemptFailed, AttemptSucceeded
from tests.crash.effects import FROM_INSIDE
from tests.crash.killed import EXPECTED, LEASE_S
from tests.crash.victims import OUTSIDE, Known, Victim, in_turn, left_alive, strike, under
from tests.crash.witness import Witness
from tests.transport.workplace import calls as effects_in
from tests.transport.workplace import engine_on, plan, pool_of, step, until

KILLS = int(os.environ.get("PLANLOOM_KILLS", "20"))
SEED = int(os.environ.get("PLANLOOM_SEED", "1"))
WAYS = (
    *(f"worker: {way}" for way in (*OUTSIDE, *FROM_INSIDE, "stopped for good", "stopped")),
    "engine: SIGKILL",
    "engine: SIGTERM",
    "engine: stopped",
    "all stopped, engine: SIGKILL",
)
MOMENT_S = 0.05
STRIKES = 6
"""At most, in one run."""


def struck(victim: Victim, way: str, chance: random.Random) -> set[Known]:
    """Do one of WAYS; return the processes that must be gone once the engine has ended, if that was to end it."""
    whom, _, how = way.rpartition(": ")
    mine = under(victim.pid)
    if whom == "worker":
        if how in FROM_INSIDE:
            victim.effects.strike(how)
            return set()
        there = victim.workers
        with suppress(ProcessLookupError):
            if how == "stopped for good" and there:
                os.kill(chance.choice(there), signal.SIGSTOP)
            elif there:
                strike(chance.choice(there), how, stopped_s=1.5 * LEASE_S)
        return set()
    if whom.startswith("all stopped"):
        for pid in victim.workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
    strike(victim.pid, how, stopped_s=1.5 * LEASE_S)
    return set() if how == "stopped" else mine


def one_life(folder: Path, ways: Iterator[str], strikes: int, chance: random.Random, done: Counter[str]) -> str:
    """Start or go on with the run, strike until the engine is dead or there were enough; return what it said."""
    with Victim(folder, "r", workers=True, moment_s=MOMENT_S) as victim:
        mourning: set[Known] = set()
        time.sleep(chance.uniform(0.2, 0.7))
        while strikes and not mourning and not victim.is_over:
            way = next(ways)
            mourning = struck(victim, way, chance)
            done[way] += 1
            strikes -= 1
            time.sleep(0 if mourning else chance.uniform(0.05, 0.4))
        told = victim.ended()
        assert left_alive(mourning) == set(), "a worker outlives its engine"
        assert victim.process.returncode in (0, -signal.SIGKILL, -signal.SIGTERM), victim.complaints
        victim.effects.withdraw()
        return told


@pytest.mark.crash
def test_whatever_is_ended_or_stopped_and_when_the_record_and_the_world_agree(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    ways, done = in_turn(WAYS, chance), Counter[str]()
    runs = unknown = 0
    while done.total() < KILLS:
        runs += 1
        folder = tmp_path / f"run-{runs}"
        folder.mkdir()
        unknown += one_run(folder, ways, chance, done).unknown
    sys.stdout.write(f"workers: {dict(sorted(done.items()))} in {runs} runs left {unknown} outcomes unknown\n")


def one_run(folder: Path, ways: Iterator[str], chance: random.Random, done: Counter[str]) -> Witness:
    """Run once to the end, through a few kills, and compare the record and the world whenever an engine has died."""
    witness, told, before = Witness(folder, "r"), "", done.total()
    while not told:
        few = max(0, min(STRIKES + before, KILLS) - done.total())
        told = one_life(folder, ways, few, chance, done)
        witness.look()
    ended = witness.ended()
    if told == "success":
        assert ended.output == EXPECTED
        return witness
    failed = [entry.event for entry in witness.events if isinstance(entry.event, AttemptFailed)]
    lost = Counter(event.step for event in failed if event.kind == "lost")
    why = [event.error for event in failed if event.kind != "lost"]
    hopeless = max(lost.values(), default=0) >= 3 or any("no worker process can be started" in one for one in why)
    assert hopeless or any("MemoryError" in one for one in why), f"it failed, and not for want of workers: {why}"
    return witness


@pytest.mark.slow
def test_a35_after_an_engine_is_killed_with_its_workers_another_one_repeats_no_completed_step(tmp_path: Path) -> None:
    witness = Witness(tmp_path, "r")
    with Victim(tmp_path, "r", workers=True, moment_s=MOMENT_S) as first:
        end = time.monotonic() + 30
        while first.effects.counted("once").total() < 5 and time.monotonic() < end:
            time.sleep(0.005)
        mine, workers = under(first.pid), first.workers
        first.process.kill()
    witness.look()
    completed = sum(isinstance(entry.event, AttemptSucceeded) for entry in witness.events)

    with Victim(tmp_path, "r", workers=True, moment_s=MOMENT_S) as second:
        told = second.ended()
    witness.look()

    assert told == "success"
    assert workers
    assert left_alive(mine) == set()
    assert completed > 16
    assert witness.ended().output == EXPECTED


@pytest.mark.crash
def test_hundreds_of_attempts_over_four_workers_that_die_all_end_or_name_what_they_wait_for(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    kinds = {
        "w.pay": {"folder": str(tmp_path), "seconds": 0.02},
        "w.put": {"folder": str(tmp_path), "n": 2, "seconds": 0.02},
        "w.pid": {"seconds": 0.02},
    }
    plans = [
        plan(*(step(f"r{run}s{n}", name, kinds[name]) for n in range(5) for name in [chance.choice(list(kinds))]))
        for run in range(100)
    ]

    async def main() -> None:
        async with pool_of(4, 4, lease_s=2.0) as pool, engine_on(pool) as engine:
            await until(lambda: pool.idle == 4)
            runs = [await engine.start(one) for one in plans]

            async def killing() -> None:
                for _ in range(KILLS):
                    await asyncio.sleep(chance.uniform(0.05, 0.3))
                    if pool.pids:
                        os.kill(
                            chance.choice(list(pool.pids.values())), chance.choice([signal.SIGKILL, signal.SIGSEGV])
                        )

            killer = asyncio.ensure_future(killing())
            async with asyncio.timeout(120):
                results = await asyncio.gather(*(run.result() for run in runs))
            killer.cancel()

            paid = Counter(line[1] for line in effects_in(tmp_path, "pay"))
            assert max(paid.values()) == 1, "a once effect happened twice"
            for result in results:
                assert result.status in (RunStatus.SUCCESS, RunStatus.WAITING), result.steps
                assert (result.status is RunStatus.WAITING) == bool(result.blockers())
            assert pool.counts.lost > 0
            assert pool.counts.provisioned == pool.counts.released

    asyncio.run(main())
