"""Several agents alike behind one name."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from planloom.agents.pool import AgentPool
from planloom.api.steps import StepExecutor
from planloom.errors import ConfigError


class One:
    """An agent that must not be asked twice at once."""

    def __init__(self) -> None:
        self.is_busy = False
        self.is_closed = False

    async def run_step(self, request: Any, context: dict[str, Any]) -> int:
        assert not self.is_busy
        self.is_busy = True
        await asyncio.sleep(0.001)
        self.is_busy = False
        if request == "fail":
            raise RuntimeError("boom")
        return int(request)

    async def close(self) -> None:
        self.is_closed = True


def pooled(size: int, **options: Any) -> tuple[AgentPool, list[One]]:
    made: list[One] = []

    def make() -> One:
        made.append(One())
        return made[-1]

    return AgentPool(make, size, **options), made


def test_s4_31_each_agent_of_a_pool_does_one_step_at_a_time() -> None:
    pool, made = pooled(3)
    requests = [{"agent_name": "A", "request": n} for n in range(20)]

    answers = asyncio.run(StepExecutor({"A": pool}).execute_batch(requests, max_concurrent=10))

    assert answers == [{"content": str(n)} for n in range(20)]
    assert len(made) == 3


def test_an_agent_that_is_free_is_used_again() -> None:
    pool, made = pooled(3)

    async def main() -> None:
        for _ in range(5):
            await pool.run_step("1", {})

    asyncio.run(main())

    assert len(made) == 1


@pytest.mark.parametrize(("sound", "count"), [(True, 1), (False, 2)])
def test_an_agent_that_is_not_sound_any_more_is_replaced(sound: bool, count: int) -> None:
    pool, made = pooled(1, is_sound=lambda agent: sound)

    async def main() -> int:
        with pytest.raises(RuntimeError):
            await pool.run_step("fail", {})
        return int(await pool.run_step("7", {}))

    assert asyncio.run(main()) == 7
    assert len(made) == count
    assert made[0].is_closed is not sound


def test_an_agent_whose_thread_cannot_be_stopped_is_not_used_again() -> None:
    begun, release = threading.Event(), threading.Event()
    made: list[object] = []

    class Sync:
        def run(self, value: Any) -> Any:
            begun.set()
            release.wait(5)
            return value

    def make() -> object:
        made.append(Sync())
        return made[-1]

    async def main() -> None:
        pool = AgentPool(make, 1)
        doing = asyncio.create_task(pool.run_step("1", {}))
        await asyncio.to_thread(begun.wait)
        doing.cancel()
        await asyncio.gather(doing, return_exceptions=True)
        release.set()
        await pool.run_step("2", {})

    asyncio.run(main())

    assert len(made) == 2


def test_closing_a_pool_closes_its_agents() -> None:
    pool, made = pooled(2)

    async def main() -> None:
        await asyncio.gather(pool.run_step("1", {}), pool.run_step("2", {}))
        await pool.close()

    asyncio.run(main())

    assert [one.is_closed for one in made] == [True, True]


def test_agents_of_every_kind_fit_into_a_pool() -> None:
    class Sync:
        def run(self, value: Any) -> str:
            return f"{value}!"

    async def made() -> Sync:
        return Sync()

    assert asyncio.run(AgentPool(made).run_step("go", {})) == "go!"
    assert asyncio.run(AgentPool(lambda: str.upper).run_step("go", {})) == "GO"


def test_a_pool_of_none_is_refused() -> None:
    with pytest.raises(ConfigError):
        AgentPool(One, 0)


def test_a_pool_serves_one_event_loop_after_the_other_with_callers_waiting_in_both() -> None:
    pool, made = pooled(2)

    async def main() -> list[Any]:
        return await asyncio.gather(*(pool.run_step(str(place), {}) for place in range(5)))

    assert asyncio.run(main()) == asyncio.run(main()) == [0, 1, 2, 3, 4]
    assert len(made) == 2


def test_as_many_sync_agents_work_at_once_as_there_may_be() -> None:
    size = 40  # more than the threads that an event loop has of its own
    all_there = threading.Barrier(size, timeout=5)

    async def main() -> list[Any]:
        pool = AgentPool(lambda: lambda value: (all_there.wait(), value)[1], size)
        return await asyncio.gather(*(pool.run_step(place, {}) for place in range(size)))

    assert asyncio.run(main()) == list(range(size))


def test_an_agent_that_was_at_work_when_its_pool_closed_is_closed_when_it_is_done() -> None:
    pool, made = pooled(1)

    async def main() -> None:
        doing = asyncio.create_task(pool.run_step("1", {}))
        await asyncio.sleep(0)
        await pool.close()
        assert not made[0].is_closed
        await doing

    asyncio.run(main())

    assert made[0].is_closed
