"""One plan on many inputs: bounded, in order, and each run's end is its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from planloom import ConfigError, Engine, PlanError, RunResult, RunStatus
from planloom.tools.tool import Tool

PLAN = {
    "planloom": 1,
    "inputs": {"n": {"type": "integer"}},
    "steps": [{"id": "a", "tool": "t", "with": {"n": "${{ inputs.n }}"}}],
}


def tool(function: Any) -> Tool:
    return Tool.from_function(function, name="t", effects="none")


def test_results_come_in_the_order_of_the_inputs_whatever_ends_first() -> None:
    async def late_first(n: int) -> int:
        for _ in range(20 - n):
            await asyncio.sleep(0)
        return n * n

    async def main() -> list[RunResult]:
        async with Engine(tools=[tool(late_first)]) as engine:
            return await engine.batch(PLAN, [{"n": n} for n in range(20)])

    results = asyncio.run(main())

    assert [result.output for result in results] == [n * n for n in range(20)]


def test_no_more_runs_are_under_way_than_asked_and_inputs_are_taken_as_they_are_needed() -> None:
    under_way = 0
    peak = 0
    taken = 0
    most_ahead = 0
    done = 0

    async def count(n: int) -> int:
        nonlocal under_way, peak
        under_way += 1
        peak = max(peak, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        return n

    def inputs() -> Iterator[dict[str, int]]:
        nonlocal taken, most_ahead
        for n in range(30):
            taken += 1
            most_ahead = max(most_ahead, taken - done)
            yield {"n": n}

    async def main() -> None:
        nonlocal done
        async with Engine(tools=[tool(count)]) as engine:
            async for _, result in engine.each(PLAN, inputs(), max_concurrent=4):
                assert result.status is RunStatus.SUCCESS
                done += 1

    asyncio.run(main())

    assert (peak, done) == (4, 30)
    assert most_ahead <= 2 * 4  # 4 under way, and at most 4 that ended and were not yet handed out


def test_a_run_that_fails_is_a_result_like_any_other() -> None:
    async def odd_fails(n: int) -> int:
        if n % 2:
            raise ValueError(f"{n} is odd")
        return n

    async def main() -> list[RunResult]:
        async with Engine(tools=[tool(odd_fails)]) as engine:
            return await engine.batch(PLAN, [{"n": n} for n in range(4)])

    results = asyncio.run(main())

    assert [result.status.value for result in results] == ["success", "failed", "success", "failed"]


def test_inputs_may_come_from_an_async_source_and_none_at_all_is_no_work() -> None:
    async def same(n: int) -> int:
        return n

    async def source(count: int) -> AsyncIterator[dict[str, int]]:
        for n in range(count):
            yield {"n": n}

    async def main() -> tuple[list[RunResult], list[RunResult]]:
        async with Engine(tools=[tool(same)]) as engine:
            return await engine.batch(PLAN, source(3)), await engine.batch(PLAN, source(0))

    three, none = asyncio.run(main())

    assert ([result.output for result in three], none) == ([0, 1, 2], [])


def test_wrong_inputs_end_the_batch_and_cancel_what_is_under_way_on_record(tmp_path: Path) -> None:
    async def main() -> list[str]:
        begun = asyncio.Event()

        async def slow(n: int) -> int:
            begun.set()
            await asyncio.sleep(30)
            return n

        async def source() -> AsyncIterator[dict[str, Any]]:
            yield {"n": 1}
            await begun.wait()
            yield {"n": "two"}

        async with Engine(tmp_path / "runs.db", tools=[tool(slow)]) as engine:
            with pytest.raises(PlanError, match="n"):
                await asyncio.wait_for(engine.batch(PLAN, source()), 10)
            return [row.status for row in await engine.journal.runs()]

    assert asyncio.run(main()) == ["cancelled"]


def test_a_batch_that_lets_nothing_run_is_refused() -> None:
    async def main() -> None:
        async with Engine(tools=[]) as engine:
            with pytest.raises(ConfigError, match="max_concurrent=0"):
                await engine.batch({"planloom": 1, "steps": []}, [{}], max_concurrent=0)

    asyncio.run(main())


def test_a_run_in_hand_is_on_record_already(tmp_path: Path) -> None:
    async def wait(n: int) -> int:
        await asyncio.sleep(30)
        return n

    async def main() -> None:
        path = tmp_path / "runs.db"
        async with Engine(path, tools=[tool(wait)]) as engine, Engine(path, tools=[tool(wait)]) as other:
            run = await engine.start(PLAN, {"n": 1})
            assert [row.run_id for row in await other.journal.runs()] == [run.run_id]

    asyncio.run(main())
