"""Workers that join a pool by themselves: let in by token, disowned when silent, and refused when they speak again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from planloom.core.events import AttemptSucceeded, StepDispatched
from planloom.transport.pool import WorkerPool
from planloom.transport.staff import PoolEvent
from tests.transport.workplace import TOOLS, alive, calls, engine_on, plan, pool_of, step, until

pytestmark = pytest.mark.slow


async def joining(pool: WorkerPool, *options: str, token: str | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "planloom", "worker", "--connect", pool.address, "--tools", TOOLS, *options),
        env=os.environ | {"PLANLOOM_WORKER_TOKEN": pool.token if token is None else token},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


async def ended(process: asyncio.subprocess.Process) -> str:
    if process.returncode is None:
        process.kill()
    return (await process.communicate())[1].decode()


def test_workers_of_the_command_line_do_the_steps_of_a_run() -> None:
    async def main() -> None:
        async with pool_of(0, 0) as pool, engine_on(pool) as engine:
            joined = [await joining(pool, "--label", "region=eu", "--name", f"n{n}") for n in range(2)]
            await until(lambda: pool.idle == 2)

            result = await engine.run(
                plan(
                    step(
                        "a",
                        "w.pid",
                        {"n": "${{ item }}", "seconds": 0.1},
                        for_each=[1, 2, 3, 4],
                        labels={"require.region": "eu"},
                    )
                )
            )

            assert set(result.output) == {process.pid for process in joined}
            for process in joined:
                process.terminate()
            assert [await process.wait() for process in joined] == [0, 0]
            for process in joined:
                await ended(process)
            assert (pool.size, pool.counts.lost) == (0, 0)

    asyncio.run(main())


def test_a35_the_command_line_is_refused_with_a_wrong_token_and_says_so() -> None:
    async def main() -> None:
        async with pool_of(0, 0) as pool:
            process = await joining(pool, token="wrong")
            code = await process.wait()

            told = await ended(process)
            assert code == 3
            assert "it does not know the token" in told
            assert "Traceback" not in told
            assert pool.counts.refused == 1

    asyncio.run(main())


def test_a31_what_a_stopped_worker_says_when_it_wakes_up_after_its_lease_is_refused(tmp_path: Path) -> None:
    seen: list[PoolEvent] = []

    async def main() -> None:
        async with pool_of(0, 0, lease_s=0.5) as pool, engine_on(pool) as engine:
            pool.watch(seen.append)
            zombie = await joining(pool, "--name", "zombie")
            await until(lambda: pool.idle == 1)
            run = await engine.start(plan(step("a", "w.put", {"folder": str(tmp_path), "n": 3, "seconds": 0.4})))
            await until(lambda: calls(tmp_path))
            assert zombie.pid == int(calls(tmp_path)[0][3])

            os.kill(zombie.pid, signal.SIGSTOP)
            await until(lambda: pool.counts.lost == 1)
            other = await joining(pool, "--name", "other")
            result = await run.result()
            os.kill(zombie.pid, signal.SIGCONT)
            await until(lambda: pool.counts.late)
            await until(lambda: not alive(zombie.pid))

            events = [recorded.event for recorded in await engine.journal.read(run.run_id)]
            assert result.output == 9
            assert [line[2] for line in calls(tmp_path)] == ["1", "2"]
            assert sum(isinstance(event, AttemptSucceeded) for event in events) == 1
            assert sum(isinstance(event, StepDispatched) for event in events) == 2
            assert "outcome" in {event.why for event in seen if event.kind == "late"}
            await ended(zombie)
            await ended(other)

    asyncio.run(main())


def test_a_worker_that_joined_ends_with_its_engine() -> None:
    async def main() -> None:
        async with pool_of(0, 0) as pool:
            process = await joining(pool)
            await until(lambda: pool.idle == 1)
            pool._staff.in_state("idle")[0].link.abort("gone")  # type: ignore[union-attr,arg-type]

            async with asyncio.timeout(5):
                code = await process.wait()

            assert code == -signal.SIGKILL
            await ended(process)

    asyncio.run(main())


def test_nothing_of_the_token_is_left_where_others_could_read_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with pool_of(1, 1) as pool:
            await until(lambda: pool.idle == 1)
            seat = pool._staff.in_state("idle")[0]  # type: ignore[union-attr,arg-type]
            assert seat.child is not None

            known = [Path(f"/proc/{seat.child.pid}/{file}").read_bytes() for file in ("cmdline", "environ")]

            assert not any(token.encode() in text for token in (seat.token, pool.token) for text in known)

    asyncio.run(main())
