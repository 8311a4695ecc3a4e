"""Several things at once: in order, ended together, nothing left."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from planloom.together import together


async def answer(after: int, value: int, log: list[int]) -> int:
    for _ in range(after):
        await asyncio.sleep(0)
    log.append(value)
    return value


async def raises(error: BaseException) -> int:
    await asyncio.sleep(0)
    raise error


async def never(log: list[str]) -> int:
    try:
        await asyncio.Event().wait()
    finally:
        log.append("ended")
    return 0


def test_results_come_in_the_order_of_what_makes_them() -> None:
    log: list[int] = []

    found = asyncio.run(together([partial(answer, 3, 1, log), partial(answer, 1, 2, log)]))

    assert (found, log) == ([1, 2], [2, 1])


def test_a_limit_holds() -> None:
    busy = peak = 0

    async def one() -> None:
        nonlocal busy, peak
        busy += 1
        peak = max(peak, busy)
        await asyncio.sleep(0)
        busy -= 1

    asyncio.run(together([one] * 9, limit=2))

    assert peak == 2


@pytest.mark.parametrize("error", [LookupError("no"), SystemExit(3), KeyboardInterrupt()], ids=["error", "exit", "int"])
def test_what_one_raises_ends_the_others_and_is_raised(error: BaseException) -> None:
    log: list[str] = []

    async def main() -> None:
        with pytest.raises(type(error)) as raised:
            await together([partial(never, log), partial(raises, error)])
        assert raised.value is error

    asyncio.run(main())

    assert log == ["ended"]
