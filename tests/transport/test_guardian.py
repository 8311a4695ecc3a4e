"""Nothing of a pool outlives its engine, whatever state it is in and however the engine ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from planloom.guardian import Guardian
from tests.transport.workplace import TOOLS, alive, calls, children, open_files, until

ROOT = Path(__file__).parents[2]
slow = pytest.mark.slow


def in_a_group_of_its_own(code: str = "import time; time.sleep(60)") -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True)


def end(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_what_was_watched_is_killed_at_the_end_and_what_was_forgotten_is_not() -> None:
    before = children(), open_files()
    watched, forgotten, stopped = (in_a_group_of_its_own() for _ in range(3))
    guardian = Guardian()
    for process in (forgotten, watched, stopped):
        guardian.watch(process.pid)
    guardian.forget(forgotten.pid)
    stopped.send_signal(signal.SIGSTOP)

    guardian.close()

    assert (watched.wait(5), stopped.wait(5)) == (-signal.SIGKILL, -signal.SIGKILL)
    assert forgotten.poll() is None
    end(forgotten)
    assert (children(), open_files()) == before


def test_a_guardian_that_was_killed_is_replaced_and_told_of_everybody() -> None:
    first, second = (in_a_group_of_its_own() for _ in range(2))
    before = children()
    guardian = Guardian()
    guardian.watch(first.pid)
    (shell,) = children() - before
    os.kill(shell, signal.SIGKILL)
    asyncio.run(until(lambda: not alive(shell)))

    guardian.watch(second.pid)
    guardian.close()

    assert (first.wait(5), second.wait(5)) == (-signal.SIGKILL, -signal.SIGKILL)


def test_a_process_that_was_forked_off_does_not_keep_the_guardian_waiting() -> None:
    watched = in_a_group_of_its_own()
    guardian = Guardian()
    guardian.watch(watched.pid)
    reading, writing = os.pipe()
    forked = os.fork()
    if forked == 0:
        os.read(reading, 1)
        os._exit(0)

    guardian.close()

    try:
        assert watched.wait(5) == -signal.SIGKILL
    finally:
        os.write(writing, b"x")
        os.waitpid(forked, 0)
        os.close(reading)
        os.close(writing)
        end(watched)


PROGRAM = """
import asyncio, os, sys
sys.path.insert(0, {root!r})
from planloom.transport.setup import WorkerSetup
from tests.transport.workplace import *
async def main():
    async with pool_of(2, 2, setup=WorkerSetup(tools=({tools!r},))) as pool, engine_on(pool) as engine:
        await until(lambda: pool.size == 2)
        print(*(seat.child.pid for seat in pool._staff.seats.values()), flush=True)
        await engine.run(plan(*(step(f"s{{n}}", "w.lock", {{"folder": {folder!r}}}) for n in range(2))))
asyncio.run(main())
"""


@slow
@pytest.mark.parametrize("state", ["locked", "stopped", "loading"])
def test_no_worker_outlives_a_killed_engine_even_if_it_cannot_notice(state: str, tmp_path: Path) -> None:
    tools = TOOLS
    if state == "loading":
        slow_to_load = tmp_path / "slow.py"
        slow_to_load.write_text("import time\ntime.sleep(60)\n")
        tools = str(slow_to_load)
    program = PROGRAM.format(root=str(ROOT), tools=tools, folder=str(tmp_path))

    async def main() -> None:
        engine = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
        assert engine.stdout is not None
        workers = [int(pid) for pid in (await engine.stdout.readline()).split()]
        assert len(workers) == 2
        if state != "loading":
            await until(lambda: len(calls(tmp_path)) == 2)
        for pid in workers if state == "stopped" else ():
            os.kill(pid, signal.SIGSTOP)
        assert all(alive(pid) for pid in workers)

        engine.kill()
        await engine.wait()

        try:
            await until(lambda: not any(alive(pid) for pid in workers), within_s=5)
        finally:
            for pid in workers:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    asyncio.run(main())
