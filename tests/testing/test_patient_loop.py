"""The loop in which waiting takes no time: it jumps, unless somebody outside may still have something to say."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import pytest

from planloom.errors import DeadlockError
from planloom.testing.sweep import loop as patient
from planloom.testing.sweep.loop import PatientLoop, for_ever, run_patiently


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_sleep_takes_no_time_and_lasts_as_long_as_it_says() -> None:
    async def main() -> float:
        await asyncio.gather(asyncio.sleep(86_400), asyncio.sleep(10))
        return now()

    began_at = time.monotonic()

    assert run_patiently(main()) == pytest.approx(86_400)
    assert time.monotonic() - began_at < 5


def test_what_is_due_comes_in_order() -> None:
    async def main() -> list[int]:
        order: list[int] = []

        async def after(seconds: int) -> None:
            await asyncio.sleep(seconds)
            order.append(seconds)

        await asyncio.gather(*map(after, (30, 10, 20)))
        return order

    assert run_patiently(main()) == [10, 20, 30]


def test_where_nothing_will_ever_happen_whoever_runs_it_is_told_at_once() -> None:
    began_at = time.monotonic()

    with pytest.raises(DeadlockError, match="nothing will ever happen: for_ever"):
        run_patiently(for_ever())

    assert time.monotonic() - began_at < 5


def test_time_waits_for_a_thread() -> None:
    def work() -> str:
        time.sleep(0.05)
        return "done"

    async def main() -> tuple[str, float]:
        async with asyncio.timeout(3_600):
            return await asyncio.to_thread(work), now()

    done, at = run_patiently(main())

    assert done == "done"
    assert 0.01 < at < 60


def test_time_waits_for_a_socket_and_passes_once_that_is_silent() -> None:
    async def main() -> tuple[bytes, float]:
        loop = asyncio.get_running_loop()
        mine, other = socket.socketpair()
        with mine, other:
            mine.setblocking(False)
            threading.Timer(0.01, other.send, [b"x"]).start()
            async with asyncio.timeout(3_600):
                got = await loop.sock_recv(mine, 1)
            waiting = asyncio.ensure_future(loop.sock_recv(mine, 1))
            await asyncio.sleep(60)
            waiting.cancel()
            return got, now()

    got, at = run_patiently(main())

    assert got == b"x"
    assert 60 <= at < 120


def test_a_call_of_which_nobody_knows_what_it_waits_for_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient, "PATIENCE_S", 0.05)

    async def main(*, is_answered: bool) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PatientLoop)
        loop.calls += 1
        answered = loop.create_future()
        if is_answered:
            threading.Timer(0.01, loop.call_soon_threadsafe, [_answer, answered]).start()
        await answered

    run_patiently(main(is_answered=True))
    with pytest.raises(DeadlockError, match="nothing came from outside"):
        run_patiently(main(is_answered=False))


def _answer(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)


def test_what_is_left_behind_is_ended() -> None:
    ended: list[str] = []

    async def left() -> None:
        try:
            await for_ever()
        finally:
            ended.append("left")

    tasks: list[asyncio.Task[None]] = []

    async def main() -> None:
        tasks.append(asyncio.ensure_future(left()))
        await asyncio.sleep(0)

    run_patiently(main())

    assert ended == ["left"]
