"""A pool of worker processes: lent and given back once, grown as needed, shrunk when idle, closed to strangers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from planloom import RunStatus
from planloom.errors import ConfigError, NoWorkerError, OverloadedError, WorkerError, WorkerStartError
from planloom.transport.handshake import Address
from planloom.transport.pool import WorkerPool
from planloom.transport.post import Post
from planloom.transport.setup import WorkerSetup
from planloom.transport.staff import PoolEvent
from tests.transport.workplace import alive, calls, engine_on, plan, pool_of, step, until

slow = pytest.mark.slow


@slow
def test_a32_a_pool_grows_with_what_waits_and_shrinks_when_idle() -> None:
    async def main() -> None:
        async with pool_of(1, 4, idle_s=0.3, lease_s=5) as pool, engine_on(pool, linger_s=float("inf")) as engine:
            await until(lambda: pool.idle == 1)
            began = time.monotonic()

            one_second = plan(step("a", "w.pid", {"seconds": 1.0}))
            results = await asyncio.gather(*(engine.run(one_second) for _ in range(8)))

            took_s = time.monotonic() - began
            assert all(result.status is RunStatus.SUCCESS for result in results)
            assert 2.0 <= took_s < 6.0  # 2.6 s on a machine of its own
            assert len({result.output for result in results}) == pool.counts.peak == 4
            await until(lambda: pool.size == 1)
            assert pool.counts.provisioned == pool.counts.released == 8

    asyncio.run(main())


@slow
def test_a32_every_provision_is_released_once_after_success_failure_and_cancel(tmp_path: Path) -> None:
    async def main() -> None:
        async with pool_of(2, 2) as pool, engine_on(pool) as engine:
            await engine.run(plan(step("a", "w.add", {"a": 1, "b": 2})))
            await engine.run(plan(step("a", "w.fail")))
            run = await engine.start(plan(step("a", "w.put", {"folder": str(tmp_path), "n": 1, "seconds": 60})))
            await until(lambda: calls(tmp_path))
            await run.cancel()
            await run.result()
            await engine.release(run.run_id)
            lost = await engine.start(plan(step("a", "w.pay", {"folder": str(tmp_path), "seconds": 60})))
            await until(lambda: calls(tmp_path, "pay"))
            os.kill(int(calls(tmp_path, "pay")[0][3]), signal.SIGKILL)
            await lost.result()
            queued = [asyncio.ensure_future(engine.run(plan(step("a", "w.pid", {"seconds": 0.2})))) for _ in range(6)]
            await asyncio.sleep(0.1)
            for one in queued:
                one.cancel()
            await asyncio.gather(*queued, return_exceptions=True)

            await until(lambda: pool.busy == 0)
            assert pool.waiting == 0
            assert pool.counts.provisioned == pool.counts.released >= 4

    asyncio.run(main())


@slow
def test_giving_a_worker_back_twice_is_an_error() -> None:
    async def main() -> None:
        async with pool_of(1, 1) as pool:
            worker = await pool.provision("p")
            pool.release(worker)
            other = await pool.provision("q")

            with pytest.raises(WorkerError, match="given back already"):
                pool.release(worker)

            assert pool.busy == 1
            assert other.id == worker.id
            pool.release(other)

    asyncio.run(main())


@slow
def test_a_provision_that_is_cancelled_takes_no_worker() -> None:
    async def main() -> None:
        async with pool_of(1, 1) as pool:
            first = await pool.provision("first")
            early = asyncio.ensure_future(pool.provision("early"))
            await asyncio.sleep(0)
            early.cancel()
            await asyncio.gather(early, return_exceptions=True)
            assert pool.waiting == 0
            second = asyncio.ensure_future(pool.provision("second"))
            await asyncio.sleep(0)
            assert pool.waiting == 1

            pool.release(first)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second

            assert (pool.waiting, pool.busy) == (0, 0)
            assert pool.counts.provisioned == pool.counts.released

    asyncio.run(main())


@slow
def test_too_many_that_wait_are_told_so_and_nothing_is_lost() -> None:
    async def main() -> None:
        async with pool_of(1, 1, max_waiting=2) as pool:
            held = await pool.provision()
            waiting = [asyncio.ensure_future(pool.provision()) for _ in range(2)]
            await asyncio.sleep(0)

            with pytest.raises(OverloadedError):
                await pool.provision()

            for one in waiting:
                pool.release(held)
                held = await one
            pool.release(held)
            assert pool.counts.released == 3

    asyncio.run(main())


@slow
def test_labels_are_kept_to_and_preferred_ones_waited_for_a_while() -> None:
    async def main() -> None:
        async with pool_of(2, 2, labels=[{"region": "eu"}, {"region": "us"}]) as pool:
            await until(lambda: pool.idle == 2)
            eu = await pool.provision(prefer={"region": "eu"})
            began = time.monotonic()
            instead = await pool.provision(prefer={"region": "eu"}, patience_s=0.3)

            assert eu.labels["region"] == "eu"
            assert instead.labels["region"] == "us"
            assert time.monotonic() - began >= 0.3
            with pytest.raises(NoWorkerError, match="not labelled region=mars"):
                await pool.provision(require={"region": "mars"})
            pool.release(eu)
            pool.release(instead)

    asyncio.run(main())


@slow
def test_a_worker_that_crashes_on_start_is_reported_with_its_last_words_and_not_started_in_a_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planloom.transport.staff.FIRST_BACKOFF_S", 0.8)
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('nobody installed the spline reticulator')\n")
    seen: list[PoolEvent] = []

    async def main() -> None:
        async with pool_of(1, 2, setup=WorkerSetup(tools=(str(broken),))) as pool:
            pool.watch(seen.append)

            with pytest.raises(WorkerStartError, match="spline reticulator"):
                await pool.provision()

    asyncio.run(main())

    failed = [event for event in seen if event.kind == "start_failed"]
    assert len(failed) == 3
    assert failed[1].at - failed[0].at >= 0.8
    assert failed[2].at - failed[1].at >= 1.6
    assert "spline reticulator" in failed[0].why


@slow
def test_a35_a_worker_with_the_wrong_token_is_refused() -> None:
    said: list[tuple[str, bool]] = []

    async def main() -> None:
        async with pool_of(0, 0) as pool:
            post = stranger(pool, "not the token", said)
            await until(lambda: said)
            post.stop()

            assert said[0][1]
            assert "token" in said[0][0]
            assert (pool.counts.refused, pool.size) == (1, 0)
            assert pool.token not in repr(said)

    asyncio.run(main())


@slow
def test_nobody_can_come_in_under_the_name_of_a_process_of_the_pool() -> None:
    said: list[tuple[str, bool]] = []

    async def main() -> None:
        async with pool_of(1, 1) as pool:
            await until(lambda: pool.idle == 1)
            post = stranger(pool, pool.token, said, worker=next(iter(pool.pids)))
            await until(lambda: said)
            post.stop()

            assert said[0][1]
            assert pool.size == 1

    asyncio.run(main())


def test_an_engine_that_does_not_know_the_token_is_told_nothing() -> None:
    said: list[tuple[str, bool]] = []

    async def main() -> None:
        async with WorkerPool(0, 0, token="the real one") as real, WorkerPool(0, 0, token="another") as false:
            false._staff.reception.token_of = lambda worker: real.token  # type: ignore[union-attr]
            wrong = "0" * 64
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr("planloom.transport.reception.proof", lambda *_: wrong)
                post = stranger(false, real.token, said)
                await until(lambda: said)
            post.stop()

            assert said == [("whoever listens there is not the engine", True)]

    asyncio.run(main())


def stranger(pool: WorkerPool, token: str, said: list[tuple[str, bool]], *, worker: str = "stranger") -> Post:
    offer: dict[str, Any] = {"worker": worker, "pid": os.getpid()}
    post = Post(
        pool.address, token, offer, heard=lambda message: None, ended=lambda why, refused: said.append((why, refused))
    )
    post.start()
    return post


@pytest.mark.parametrize(
    "garbage", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x02{}", b"\x00\x00\x00\x07[1,0,1]", b"\x00\x00\x00\x03abc"]
)
def test_what_is_no_message_ends_the_connection_and_nothing_else(garbage: bytes) -> None:
    async def main() -> None:
        async with WorkerPool(0, 0) as pool:
            reader, writer = await asyncio.open_unix_connection(Address.of(pool.address).path)
            writer.write(garbage)

            async with asyncio.timeout(5):
                rest = await reader.read()

            assert b"challenge" in rest
            assert pool.size == 0
            writer.close()

    asyncio.run(main())


def test_the_socket_is_for_this_user_alone_and_gone_afterwards() -> None:
    async def main() -> Path:
        async with WorkerPool(0, 0) as pool:
            path = Path(Address.of(pool.address).path)
            assert path.stat().st_mode & 0o077 == 0
            assert path.parent.stat().st_mode & 0o077 == 0
        return path

    assert not asyncio.run(main()).parent.exists()


@pytest.mark.parametrize("text", ["unix:", "tcp:10.0.0.1:7000", "tcp:example.com:7000", "tcp:127.0.0.1", "http://x"])
def test_an_address_that_is_not_of_this_machine_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Address.of(text)


@slow
def test_a_worker_told_to_stop_by_its_operator_finishes_what_it_began_and_takes_nothing_new(tmp_path: Path) -> None:
    async def main() -> None:
        async with pool_of(2, 2) as pool, engine_on(pool) as engine:
            await until(lambda: pool.idle == 2)
            run = await engine.start(plan(step("a", "w.put", {"folder": str(tmp_path), "n": 5, "seconds": 0.5})))
            await until(lambda: calls(tmp_path))
            worker = int(calls(tmp_path)[0][3])

            os.kill(worker, signal.SIGTERM)
            result = await run.result()

            assert result.output == 25
            assert len(calls(tmp_path)) == 1
            await until(lambda: not alive(worker))
            assert pool.counts.lost == 0

    asyncio.run(main())


@slow
def test_workers_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    program = f"""
import asyncio, os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.transport.workplace import *
async def main():
    async with pool_of(2, 2) as pool, engine_on(pool) as engine:
        await until(lambda: pool.idle == 2)
        print(*pool.pids.values(), flush=True)
        await engine.run(plan(step("a", "w.child", {{"folder": {str(tmp_path)!r}}})))
asyncio.run(main())
"""

    async def main() -> None:
        parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
        assert parent.stdout is not None
        workers = [int(pid) for pid in (await parent.stdout.readline()).split()]
        await until(lambda: calls(tmp_path))
        grandchild = int((tmp_path / "child.pid").read_text())

        parent.kill()
        await parent.wait()

        await until(lambda: not any(alive(pid) for pid in (*workers, grandchild)), within_s=5)

    asyncio.run(main())
