from __future__ import annotations

import asyncio
from typing import Any

import pytest

from planloom.errors import ConfigError, NoWorkerError, WorkerError
from planloom.transport.slots import SlotPool
from planloom.transport.staff import PoolEvent


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_slots_are_made_as_they_are_needed_lent_one_program_each_and_used_again() -> None:
    async def main() -> list[tuple[str, str, str]]:
        told: list[PoolEvent] = []
        async with SlotPool(1, 2) as pool:
            pool.watch(told.append)
            first, second = await pool.provision("p1"), await pool.provision("p2")
            assert (first.id, second.id, pool.busy, pool.idle) == ("slot-1", "slot-2", 2, 0)
            pool.release(first)
            again = await pool.provision("p3")
            assert again.id == "slot-1"
            assert again is not first
        return [(event.kind, event.worker, event.program) for event in told]

    assert asyncio.run(main()) == [
        ("provisioned", "slot-1", "p1"),
        ("started", "slot-2", ""),
        ("provisioned", "slot-2", "p2"),
        ("released", "slot-1", "p1"),
        ("provisioned", "slot-1", "p3"),
    ]


def test_whoever_asked_first_is_served_first_and_whoever_went_away_is_passed_over() -> None:
    async def main() -> list[str]:
        served: list[str] = []
        pool = SlotPool(0, 1)
        held = await pool.provision("holder")

        async def ask(name: str) -> None:
            slot = await pool.provision(name)
            served.append(name)
            pool.release(slot)

        tasks = [asyncio.create_task(ask(name)) for name in ("a", "b", "c")]
        await turns()
        assert pool.waiting == 3
        tasks[1].cancel()
        await turns()
        pool.release(held)
        await asyncio.gather(*tasks, return_exceptions=True)
        await pool.close()
        return served

    assert asyncio.run(main()) == ["a", "c"]


def test_a_slot_lent_in_the_moment_nobody_wants_it_any_more_goes_back() -> None:
    async def main() -> tuple[int, int]:
        pool = SlotPool(0, 1)
        held = await pool.provision("holder")
        waiting = asyncio.create_task(pool.provision("late"))
        await turns()
        pool.release(held)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return pool.busy, pool.idle

    assert asyncio.run(main()) == (0, 1)


def test_giving_a_slot_back_twice_is_an_error() -> None:
    async def main() -> None:
        async with SlotPool() as pool:
            slot = await pool.provision("p")
            pool.release(slot)
            with pytest.raises(WorkerError, match="given back already"):
                pool.release(slot)

    asyncio.run(main())


def test_slots_that_nobody_needs_go_down_to_the_least_there_must_be() -> None:
    async def main() -> tuple[int, int, int]:
        async with SlotPool(1, 3, idle_s=0.01) as pool:
            slots = [await pool.provision(str(number)) for number in range(3)]
            for slot in slots:
                pool.release(slot)
            most = pool.size
            while pool.size > 1:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.03)
            return most, pool.size, pool.peak

    assert asyncio.run(main()) == (3, 1, 3)


def test_a_slot_without_the_labels_that_are_required_is_not_waited_for() -> None:
    async def main() -> str:
        async with SlotPool(labels={"region": "eu"}) as pool:
            pool.release(await pool.provision("p", require={"region": "eu"}))
            with pytest.raises(NoWorkerError) as error:
                await pool.provision("p", require={"region": "us"})
            return error.value.message

    assert "us" in asyncio.run(main())


def test_closing_tells_whoever_waits_and_what_is_lent_can_still_be_given_back() -> None:
    async def main() -> None:
        pool = SlotPool(0, 1)
        held = await pool.provision("p")
        waiting = asyncio.create_task(pool.provision("q"))
        await turns()
        await pool.close()
        with pytest.raises(WorkerError, match="closes"):
            await waiting
        pool.release(held)
        assert pool.size == 0
        with pytest.raises(ConfigError, match="is closed"):
            await pool.provision("r")

    asyncio.run(main())


@pytest.mark.parametrize("sizes", [{"min": 2, "max": 1}, {"min": 0, "max": 0}, {"min": -1}, {"idle_s": -1}])
def test_a_pool_that_cannot_be_is_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cannot be"):
        SlotPool(**sizes)
