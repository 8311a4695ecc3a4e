"""Engines that are ended in every way there is at random moments, and taken up again until their run has ended.

What really happened stands in a log that the tools write; what is said to have happened stands in the journal. The two
must agree, however often, however and whenever the process dies. PLANLOOM_KILLS says how often.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from planloom import Engine
from planloom.errors import RunBusyError
from tests.crash.effects import FROM_INSIDE, Effects
from tests.crash.killed import EXPECTED, TOOLS
from tests.crash.victims import OUTSIDE, Known, Victim, in_turn, left_alive, strike, under
from tests.crash.witness import Witness

KILLS = int(os.environ.get("PLANLOOM_KILLS", "20"))
SEED = int(os.environ.get("PLANLOOM_SEED", "1"))
CALLS = 20
"""Up to how many calls of tools a process makes before it ends itself; a run has 45 or more."""
MOMENT_S = 0.01
LONGEST_S = 0.3
"""A little longer than the run takes, so that some processes live to its end."""
STOPPED_S = 0.1
WAYS = ("SIGKILL", "SIGKILL", "SIGKILL", "SIGTERM", "SIGINT", "stopped", *FROM_INSIDE)
CODES = {"exit": 7, "segfault": -signal.SIGSEGV, "abort": -signal.SIGABRT} | {way: -n for way, n in OUTSIDE.items()}
"""What a process ends with that was struck in time."""
EXCUSES = {"SIGINT": "cancelled", "no memory": "failed"}
"""How a run may end, besides well, once its engine was struck in these ways: Ctrl-C while a run starts cancels it."""


def one_life(folder: Path, way: str | None, chance: random.Random) -> bool:
    """Start or take up a run in a process of its own, and strike; return whether that came in time."""
    effects = Effects(folder)
    if way in FROM_INSIDE:
        effects.strike(way, calls=chance.randrange(CALLS))
    with Victim(folder, "r", moment_s=MOMENT_S) as victim:
        mine, struck = set[Known](), False
        if way is not None and way not in FROM_INSIDE:
            time.sleep(chance.uniform(0, LONGEST_S))
            mine, struck = under(victim.pid), not victim.is_over
            strike(victim.pid, way, stopped_s=STOPPED_S)
        victim.ended()
        assert left_alive(mine) == set()
        if way in FROM_INSIDE:
            struck = effects.withdraw()
        code = victim.process.returncode
        assert way == "no memory" or code in (0, CODES.get(str(way), 0)), victim.complaints
        return struck


@pytest.mark.crash
def test_however_and_whenever_an_engine_ends_the_record_and_the_world_agree(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    ways, done = in_turn(WAYS, chance), Counter[str]()
    runs = unknown = 0
    while done.total() < KILLS:
        runs += 1
        folder = tmp_path / f"run-{runs}"
        folder.mkdir()
        witness, fates = Witness(folder, "r"), {"success"}
        began = time.monotonic()
        while not witness.has_ended:
            way = next(ways) if done.total() < KILLS else None
            if one_life(folder, way, chance) and way is not None:
                done[way] += 1
                fates.add(EXCUSES.get(way, "success"))
            witness.look()
            assert time.monotonic() - began < 120, "the run does not come to its end"
        ended = witness.ended()
        assert ended.status in fates, ended
        assert ended.output == (EXPECTED if ended.status == "success" else None)
        unknown += witness.unknown
    sys.stdout.write(f"engines: {dict(sorted(done.items()))} in {runs} runs left {unknown} outcomes unknown\n")


@pytest.mark.slow
def test_an_engine_that_stands_still_keeps_its_run_and_goes_on_with_it(tmp_path: Path) -> None:
    witness = Witness(tmp_path, "r")

    async def taken() -> str:
        async with Engine(tmp_path / "runs.db", tools=TOOLS) as engine:
            assert await engine.recover() == []
            with pytest.raises(RunBusyError) as refused:
                await engine.resume("r")
        return str(refused.value)

    with Victim(tmp_path, "r", moment_s=MOMENT_S) as victim:
        while len(victim.effects.lines()) < 5:
            time.sleep(0.002)
        os.kill(victim.pid, signal.SIGSTOP)

        refusal = asyncio.run(taken())

        witness.look()
        assert not witness.has_ended
        assert f"process {victim.pid}" in refusal
        os.kill(victim.pid, signal.SIGCONT)
        assert victim.ended() == "success"
    witness.look()
    assert witness.ended().output == EXPECTED


OTHER_BOOT = ("unshare", "--time", "--fork", "--kill-child", "--monotonic", "40000000", "--boottime", "50000000")
"""Starts a process for which the machine has been up for more than a year."""


@pytest.mark.slow
def test_a_run_goes_on_where_the_machines_counters_say_something_else(tmp_path: Path) -> None:
    """As after a restart of the machine: what counts from its start means nothing on record."""
    allowed = shutil.which("unshare") and subprocess.run([*OTHER_BOOT, "true"], capture_output=True, check=False)
    if not allowed or allowed.returncode:
        pytest.skip("time namespaces cannot be made here")
    witness = Witness(tmp_path, "r")
    with Victim(tmp_path, "r", moment_s=MOMENT_S, through=OTHER_BOOT) as first:
        while len(first.effects.lines()) < 15:
            time.sleep(0.002)
        mine = under(first.pid)
        first.process.kill()
    assert left_alive(mine) == set()
    witness.look()

    with Victim(tmp_path, "r", moment_s=MOMENT_S) as second:
        told = second.ended(within_s=20)

    witness.look()
    assert told == "success"
    assert witness.ended().output == EXPECTED
    assert abs(witness.events[-1].event.at - time.time()) < 60
