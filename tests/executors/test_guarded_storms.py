"""A hundred calls of one spared tool at once, cancelled at random: the breaker lets one try through, nobody is lost."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from typing import Any

import pytest

from planloom.errors import CircuitOpenError
from planloom.executors.wrap.breaker import CircuitBreaker, CircuitState
from planloom.executors.wrap.guarded import GuardedTool
from planloom.executors.wrap.limited import CallRate
from planloom.models.rates import RateLimits
from planloom.testing.clock import ManualClock
from planloom.tools.sparing import BreakerPolicy
from tests.executors.attempts import Books, asking

CALLS = 100
OPEN_S = 30.0


class Noting(Books):
    """Keeps what is noted."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.noted: list[Any] = []

    def note(self, fact: Any) -> None:
        self.noted.append(fact)

    def waiting(self, reason: str | None, until: float | None = None) -> None:
        """Nobody reads it here."""


async def spin() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(8))
def test_of_a_storm_on_a_broken_tool_one_call_at_a_time_tries_it_and_it_works_again_in_the_end(seed: int) -> None:
    chance = random.Random(seed)

    async def main() -> None:
        clock = ManualClock(0.0)
        breaker = CircuitBreaker("t", BreakerPolicy(open_seconds=OPEN_S), clock)
        context = Noting(clock)
        works = False

        async def begin() -> str:
            ending = asyncio.get_running_loop().create_future()
            clock.call_at(clock.now() + chance.random() * 5, lambda: ending.done() or ending.set_result(None))
            await ending
            if not works:
                raise ConnectionError("no")
            return "fine"

        async def one() -> str:
            return await breaker.around(begin, asking(), context, is_whole=True)

        for _ in range(20):
            tasks = [asyncio.ensure_future(one()) for _ in range(CALLS)]
            for _ in range(10):
                await spin()
                clock.advance(chance.random() * 10)
                for task in chance.sample(tasks, 5):
                    task.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        works = True
        clock.advance(OPEN_S)
        last = asyncio.ensure_future(one())
        await spin()
        clock.advance(5)

        assert await last == "fine"
        assert breaker.state is CircuitState.CLOSED
        moves = [fact.state for fact in context.noted]
        pairs = set(pairwise(moves))
        assert ("closed", "half_open") not in pairs
        assert ("closed", "closed") not in pairs
        assert ("open", "closed") not in pairs

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(8))
def test_of_a_storm_on_a_rate_those_that_are_not_cancelled_go_in_order_and_on_time(seed: int) -> None:
    chance = random.Random(seed)

    async def main() -> None:
        clock = ManualClock(0.0)
        guard = GuardedTool(None, CallRate("t", 10.0, RateLimits(clock)))
        begun: list[tuple[int, float]] = []

        async def one(number: int) -> None:
            async def begin() -> None:
                begun.append((number, clock.now()))

            await guard.call(begin, asking(), Noting(clock), is_whole=True)

        tasks = [asyncio.ensure_future(one(number)) for number in range(CALLS)]
        await spin()
        cancelled = set(chance.sample(range(20, CALLS), 40))
        for number in cancelled:
            tasks[number].cancel()
        while not all(task.done() for task in tasks):
            await spin()
            clock.advance_to_next()

        assert [number for number, _ in begun] == [number for number in range(CALLS) if number not in cancelled]
        for first, eleventh in zip(begun, begun[11:], strict=False):
            assert eleventh[1] - first[1] >= 0.1 - 1e-9
        assert begun[-1][1] == pytest.approx((CALLS - len(cancelled) - 10) / 10, abs=0.2)

    asyncio.run(main())


def test_a_call_whose_breaker_opens_while_it_waits_for_its_turn_is_refused_and_makes_way() -> None:
    async def main() -> None:
        clock = ManualClock(0.0)
        breaker = CircuitBreaker("t", BreakerPolicy(failures=1), clock)
        guard = GuardedTool(breaker, CallRate("t", 1.0, RateLimits(clock)))

        async def fails() -> None:
            raise ConnectionError("no")

        calls = [asyncio.ensure_future(guard.call(fails, asking(), Noting(clock), is_whole=True)) for _ in range(4)]
        for _ in range(4):
            await spin()
            clock.advance_to_next()
        found = await asyncio.gather(*calls, return_exceptions=True)

        assert [type(one) for one in found] == [ConnectionError, *[CircuitOpenError] * 3]

    asyncio.run(main())
