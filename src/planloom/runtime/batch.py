"""One plan, many inputs: bounded, in order, and no run's end is another's business."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from planloom.errors import ConfigError

if TYPE_CHECKING:
    from planloom.core.result import RunResult

Inputs = Mapping[str, Any]
RunOne = Callable[[Inputs], Coroutine[Any, Any, "RunResult"]]


async def run_batch(
    run_one: RunOne, many: Iterable[Inputs] | AsyncIterable[Inputs], *, max_concurrent: int
) -> AsyncGenerator[tuple[int, RunResult]]:
    """Yield place and result of each run as it ends; inputs are taken only as runs may begin.

    Args:
        run_one: Runs the plan on one set of inputs.
        max_concurrent: Runs under way at the same time, 1 or more.

    Raises:
        PlanError: Inputs that do not fit; runs under way are cancelled, on record.
    """
    if max_concurrent < 1:
        raise ConfigError(f"max_concurrent={max_concurrent} lets nothing run", remedy="give 1 or more")
    source = _numbered(many)
    under_way: dict[asyncio.Task[RunResult], int] = {}
    more = True
    try:
        while more or under_way:
            while more and len(under_way) < max_concurrent:
                entry = await anext(source, None)
                if entry is None:
                    more = False
                else:
                    under_way[asyncio.create_task(run_one(entry[1]))] = entry[0]
            if not under_way:
                break
            done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=under_way.__getitem__):
                yield under_way.pop(task), task.result()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def _numbered(many: Iterable[Inputs] | AsyncIterable[Inputs]) -> AsyncIterator[tuple[int, Inputs]]:
    place = 0
    if isinstance(many, AsyncIterable):
        async for inputs in many:
            yield place, inputs
            place += 1
    else:
        for inputs in many:
            yield place, inputs
            place += 1
