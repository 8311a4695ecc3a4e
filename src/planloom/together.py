"""Several things at once, their results in order: the first error ends the others, and nothing is left running.

Rule 1: a thing is begun in its own task: one that is cancelled before its turn was never begun.
Rule 2: what would end the process is an error like any other: out of a task it would end the event loop instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import TypeVar

T = TypeVar("T")


class ExitError(Exception):
    """Stands in a task for what would end the process: its `cause`."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


async def together(makes: Sequence[Callable[[], Awaitable[T]]], *, limit: int | None = None) -> list[T]:
    """Return what each comes to, in order.

    Args:
        makes: Each begins one of them.
        limit: How many are under way at once; None: all.
    """
    if len(makes) == 1:
        return [await makes[0]()]
    gate = nullcontext() if limit is None else asyncio.Semaphore(limit)

    async def one(make: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            return await carried(make)

    tasks = [asyncio.create_task(one(make)) for make in makes]
    try:
        return list(await asyncio.gather(*tasks))
    except ExitError as left:
        raise left.cause from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def carried(make: Callable[[], Awaitable[T]]) -> T:
    """Return what it comes to, in a task of its own; see rule 2.

    Raises:
        ExitError: It wanted to end the process.
    """
    try:
        return await make()
    except (SystemExit, KeyboardInterrupt) as error:
        raise ExitError(error) from error
