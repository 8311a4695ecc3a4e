"""Several things at once, a few at a time, their results in order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


async def side_by_side(makes: Sequence[Callable[[], Awaitable[T]]], *, limit: int) -> list[T]:
    """Return what each comes to, in order; what one raises ends the others, and nothing is left running."""
    gate = asyncio.Semaphore(limit)

    async def one(make: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            return await make()

    tasks = [asyncio.create_task(one(make)) for make in makes]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
