"""Worker processes, and engines with workers, killed and stopped at random moments until the run has ended.

What really happened stands in calls.log, written by the tools in the workers; what is said to have happened stands in
the journal. The two must agree, and nothing may stay alive. PLANLOOM_KILLS says how often.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from planloom import RunStatus, SqliteJournal, StepStatus
from planloom.core.events import AttemptFailed, AttemptSucceeded, OutcomeUnknown, RunFinished, StepDispatched
from planloom.core.result import StepResult
from planloom.errors import RunNotFoundError
from planloom.observe.looks import every_step
from planloom.ports import Recorded
from planloom.runtime.engine import Engine
from planloom.runtime.replay import diverges
from tests.crash.killed_workers import EXPECTED, LEASE_S
from tests.transport.workplace import alive, engine_on, plan, pool_of, step, until
from tests.transport.workplace import calls as effects_in

KILLS = int(os.environ.get("PLANLOOM_KILLS", "20"))
SEED = int(os.environ.get("PLANLOOM_SEED", "1"))
CHILD = Path(__file__).with_name("killed_workers.py")
WAYS = ("worker", "worker", "worker", "worker stopped", "worker crashed", "engine", "engine stopped", "all stopped")


def children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return sorted(found)


def workers(engine: int) -> list[int]:
    found = []
    for pid in children(engine):
        with suppress(OSError):
            if b"planloom.runtime.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def strike(engine: subprocess.Popen[bytes], how: str, chance: random.Random) -> set[int]:
    """Do one of WAYS; return the processes that must be gone once the engine has been killed, if it was."""
    there = workers(engine.pid)
    one = chance.choice(there) if there else None
    with suppress(ProcessLookupError):
        match how:
            case "engine":
                engine.kill()
                return set(there)
            case "all stopped":
                for pid in there:
                    os.kill(pid, signal.SIGSTOP)
                engine.kill()
                return set(there)
            case "engine stopped":
                engine.send_signal(signal.SIGSTOP)
                time.sleep(1.5 * LEASE_S)
                engine.send_signal(signal.SIGCONT)
            case _ if one is not None:
                ways = {"worker": signal.SIGKILL, "worker stopped": signal.SIGSTOP, "worker crashed": signal.SIGSEGV}
                os.kill(one, ways[how])
    return set()


def go(folder: Path, run_id: str, chance: random.Random, strikes: int, done: Counter[str]) -> str:
    """Start or go on with the run, strike until the engine is dead or there were enough; return what it said."""
    engine = subprocess.Popen([sys.executable, str(CHILD), str(folder), run_id], stdout=subprocess.PIPE)
    assert engine.stdout is not None
    assert engine.stdout.readline() == b"ready\n"
    mourning: set[int] = set()
    time.sleep(chance.uniform(0.2, 0.7))
    while strikes and not mourning and engine.poll() is None:
        how = chance.choice(WAYS)
        mourning = strike(engine, how, chance)
        done[how] += 1
        strikes -= 1
        time.sleep(0 if mourning else chance.uniform(0.05, 0.4))
    engine.wait(60)
    told = engine.stdout.read().decode().strip()
    engine.stdout.close()
    end = time.monotonic() + 5
    while any(alive(pid) for pid in mourning) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(alive(pid) for pid in mourning), "a worker outlives its engine"
    assert engine.returncode in (0, -9), told
    return told


def record(folder: Path, run_id: str) -> tuple[list[Recorded], dict[str, StepResult]]:
    async def read() -> tuple[list[Recorded], dict[str, StepResult]]:
        journal = SqliteJournal(folder / "runs.db")
        try:
            async with Engine(journal, tools=[]) as engine:
                result = await engine.result_of(run_id)
                ended = {step.id: step for step in every_step(result.steps) if step.status is StepStatus.COMPLETED}
                return await journal.read(run_id), ended
        except RunNotFoundError:
            return [], {}
        finally:
            await journal.close()

    return asyncio.run(read())


def calls(folder: Path) -> Counter[tuple[str, str]]:
    log = folder / "calls.log"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return Counter((effects, key) for effects, key, _ in map(str.split, lines))


@pytest.mark.crash
def test_whatever_is_killed_or_stopped_and_when_the_record_and_the_world_agree(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    done: Counter[str] = Counter()
    number = unknown = 0
    while done.total() < KILLS:
        number += 1
        folder = tmp_path / f"run-{number}"
        folder.mkdir()
        events = one_run(folder, f"r{number}", chance, done)
        unknown += sum(isinstance(entry.event, OutcomeUnknown) for entry in events)
    sys.stdout.write(f"{dict(done)} in {number} runs left {unknown} outcomes unknown\n")


def one_run(folder: Path, run_id: str, chance: random.Random, done: Counter[str]) -> list[Recorded]:
    """Run once to the end, through a few kills, and compare the record and the world whenever an engine has died."""
    known: dict[str, StepResult] = {}
    called: Counter[tuple[str, str]] = Counter()
    told, few = "", 6
    while not told:
        before = done.total()
        told = go(folder, run_id, chance, min(few, KILLS - before), done)
        few -= done.total() - before
        events, now = record(folder, run_id)
        after = calls(folder)
        assert {key: step.output for key, step in known.items()} == {key: now[key].output for key in known}, "I1, I2"
        again = {key for effects, key in after if after[effects, key] > called[effects, key] and key in known}
        assert again == set(), "called again although its result was on record"
        known, called = now, after
    twice = {key: count for (effects, key), count in called.items() if effects == "once" and count > 1}
    assert twice == {}, "I3: a once effect happened twice"
    ended = events[-1].event
    assert isinstance(ended, RunFinished)
    lost = Counter(e.event.step for e in events if isinstance(e.event, AttemptFailed) and e.event.kind == "lost")
    if told == "success":
        assert ended.output == EXPECTED
    else:
        why = [e.event.error for e in events if isinstance(e.event, AttemptFailed) and e.event.kind == "not_done"]
        hopeless = max(lost.values(), default=0) >= 3 or any("no worker process can be started" in one for one in why)
        assert hopeless, f"it failed, and not for want of workers: {why}"
    dispatched = Counter(e.event.step for e in events if isinstance(e.event, StepDispatched))
    succeeded = Counter(e.event.step for e in events if isinstance(e.event, AttemptSucceeded))
    unseen = [key for (effects, key), count in called.items() if effects != "none" and count > dispatched[key]]
    assert unseen == [], "started without being on record"
    assert max(succeeded.values(), default=0) <= 1, "a step succeeded twice"
    assert diverges(run_id, events) is None
    return events


@pytest.mark.slow
def test_a35_after_an_engine_is_killed_with_its_workers_another_one_repeats_no_completed_step(tmp_path: Path) -> None:
    first = subprocess.Popen([sys.executable, str(CHILD), str(tmp_path), "r"], stdout=subprocess.PIPE)
    end = time.monotonic() + 30
    while sum(effects == "once" for effects, _ in calls(tmp_path)) < 5 and time.monotonic() < end:
        time.sleep(0.005)
    left = workers(first.pid)
    first.kill()
    first.communicate()
    _, completed = record(tmp_path, "r")
    before = calls(tmp_path)

    told = subprocess.run(
        [sys.executable, str(CHILD), str(tmp_path), "r"], capture_output=True, text=True, timeout=60, check=True
    )

    after = calls(tmp_path)
    events, ended = record(tmp_path, "r")
    assert told.stdout.split() == ["ready", "success"]
    assert left
    assert not any(alive(pid) for pid in left)
    assert len(completed) > 16
    assert {key: ended[key].output for key in completed} == {key: step.output for key, step in completed.items()}
    assert all(after[place] == before[place] for place in after if place[1] in completed)
    assert max(count for (effects, _), count in after.items() if effects == "once") == 1
    assert isinstance(events[-1].event, RunFinished)


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
