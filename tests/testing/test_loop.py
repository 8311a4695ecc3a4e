"""The loop without time and without chance."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from planloom.errors import DeadlockError, SimulationError
from planloom.testing.clock import NOON
from planloom.testing.loop import SimulatedClock, run


def test_what_waits_for_time_takes_none() -> None:
    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(1_000_000)
        return began, loop.time()

    before = time.monotonic()
    began, ended = run(main())

    assert time.monotonic() - before < 1.0
    assert (began, ended) == (0.0, 1_000_000.0)


def test_timers_come_in_the_order_of_their_times() -> None:
    async def main() -> list[float]:
        loop, called = asyncio.get_running_loop(), []
        for delay in (3.0, 1.0, 2.0, 1.5):
            loop.call_later(delay, lambda: called.append(loop.time()))
        await asyncio.sleep(10)
        return called

    for seed in range(20):
        assert run(main(), seed=seed) == [1.0, 1.5, 2.0, 3.0]


async def race(count: int) -> list[int]:
    """Return in which order so many tasks came to their second line."""
    order: list[int] = []

    async def come(number: int) -> None:
        await asyncio.sleep(0)
        order.append(number)

    await asyncio.gather(*(come(number) for number in range(count)))
    return order


def test_a_seed_decides_who_is_first_and_decides_it_again() -> None:
    orders = {tuple(run(race(3), seed=seed)) for seed in range(60)}

    assert len(orders) == 6, "every order that could happen happens with some seed"
    for seed in range(20):
        assert run(race(8), seed=seed) == run(race(8), seed=seed)


def test_timers_due_at_the_same_time_come_in_any_order() -> None:
    async def main() -> tuple[int, ...]:
        order: list[int] = []
        for number in range(3):
            asyncio.get_running_loop().call_later(1.0, order.append, number)
        await asyncio.sleep(2)
        return tuple(order)

    assert len({run(main(), seed=seed) for seed in range(60)}) == 6


def test_callbacks_keep_the_order_that_asyncio_promises() -> None:
    async def main() -> list[int]:
        order: list[int] = []
        others = [asyncio.ensure_future(race(4)) for _ in range(3)]
        for number in range(20):
            asyncio.get_running_loop().call_soon(order.append, number)
        await asyncio.gather(*others)
        return order

    for seed in range(50):
        assert run(main(), seed=seed) == list(range(20))


def test_a_callback_may_come_before_or_after_a_task_that_woke_with_it() -> None:
    async def main() -> str:
        order: list[str] = []

        async def task() -> None:
            order.append("task")

        asyncio.get_running_loop().call_soon(order.append, "callback")
        await asyncio.create_task(task())
        await asyncio.sleep(0)
        return order[0]

    assert {run(main(), seed=seed) for seed in range(30)} == {"task", "callback"}


def test_nobody_waits_while_others_run_twice() -> None:
    async def main() -> int:
        turns = [0, 0]

        async def go_round(number: int) -> None:
            for _ in range(100):
                turns[number] += 1
                assert abs(turns[0] - turns[1]) <= 1
                await asyncio.sleep(0)

        await asyncio.gather(go_round(0), go_round(1))
        return sum(turns)

    for seed in range(20):
        assert run(main(), seed=seed) == 200


def test_a_deadlock_is_an_error_that_names_who_waits_and_where() -> None:
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.create_task(waits_for_ever())

    with pytest.raises(DeadlockError, match=r"waits_for_ever at .*test_loop\.py:\d+"):
        run(main())


def test_what_goes_round_and_round_is_an_error() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(SimulationError, match="no end after 500 turns"):
        run(main(), max_turns=500)


def test_what_is_to_run_in_a_thread_is_refused() -> None:
    async def main() -> None:
        await asyncio.to_thread(time.monotonic)

    with pytest.raises(SimulationError, match="thread"):
        run(main())


def test_a_thread_that_has_a_hand_in_it_is_an_error() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        told = loop.create_future()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(told.set_result, 1))
        thread.start()
        thread.join()
        await told
        await asyncio.sleep(1)

    with pytest.raises(SimulationError, match=r"another thread asks for .*set_result"):
        run(main())


def test_its_clock_tells_the_loops_time_as_that_of_a_day() -> None:
    async def main() -> list[float]:
        clock, other, told = SimulatedClock(), SimulatedClock(NOON + 60), []
        clock.call_at(NOON + 5, lambda: told.append(clock.now()))
        never = clock.call_at(NOON + 6, lambda: told.append(0.0))
        never()
        await asyncio.sleep(10)
        told += [clock.now(), other.now()]
        return told

    assert run(main()) == [NOON + 5, NOON + 10, NOON + 70]


def test_asyncios_own_tools_work_on_it() -> None:
    async def main() -> list[str]:
        told: list[str] = []
        queue: asyncio.Queue[int] = asyncio.Queue(maxsize=1)
        lock = asyncio.Lock()

        async def put() -> None:
            for number in range(3):
                await queue.put(number)
                async with lock:
                    await asyncio.sleep(0.1)

        async with asyncio.TaskGroup() as group:
            group.create_task(put())
            for _ in range(3):
                told.append(str(await queue.get()))
        try:
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        except TimeoutError:
            told.append("late")
        return told

    for seed in range(20):
        assert run(main(), seed=seed) == ["0", "1", "2", "late"]
