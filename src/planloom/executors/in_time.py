"""A bound on how long something may take, also for what will not be cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from planloom.ports import AttemptContext

T = TypeVar("T")


async def in_time(
    what: Awaitable[T],
    *,
    allowed_s: float,
    who: str,
    context: AttemptContext | None = None,
    limit_s: float | None = None,
) -> T:
    """Await it for at most `allowed_s` seconds.

    What swallows its cancellation is given up a little later, and a value that comes after its time is no value.

    Args:
        limit_s: What to call the bound, where part of it was used up on the way here; None: `allowed_s`.
        context: Of the attempt that this is all of; None for a part of one, which has the attempt's own bound.

    Raises:
        TimeoutError: Names `who`.
    """
    late = f"{who} gave no answer within {allowed_s if limit_s is None else limit_s:g} s"
    if context is not None:
        context.give_up_after(allowed_s, late)
    scope = asyncio.timeout(allowed_s)
    try:
        async with scope:
            value = await what
    except TimeoutError as error:
        if scope.expired():
            raise TimeoutError(late) from error
        raise
    if scope.expired():
        raise TimeoutError(late)
    return value
