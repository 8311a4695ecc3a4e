"""An engine and its runs: start, follow, cancel, many at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from planloom import (
    Engine,
    JournalConflictError,
    RunStatus,
)
from planloom.core.events import (
    RunFinished,
    RunStarted,
    StepDispatched,
)
from planloom.errors import RunNotFoundError
from planloom.testing.fakes import fake_tool
from tests.runtime.common import ASK, ONE, turns, waiting


def test_a_run_has_its_id_or_a_new_one_that_sorts_by_time(place: Any) -> None:
    async def main() -> None:
        async with Engine(place(), tools=[fake_tool("t")]) as engine:
            first = await engine.run(ONE)
            second = await engine.run(ONE)
            assert first.run_id[:15] <= second.run_id[:15]
            assert first.run_id != second.run_id
            assert (await engine.run(ONE, run_id="mine")).run_id == "mine"
            with pytest.raises(JournalConflictError):
                await engine.run(ONE, run_id="mine")

    asyncio.run(main())


def test_a_run_that_does_not_exist_is_not_found(place: Any) -> None:
    async def main() -> None:
        async with Engine(place(), tools=[fake_tool("t")]) as engine:
            for work in (engine.resume, engine.result_of, engine.retry_failed):
                with pytest.raises(RunNotFoundError):
                    await work("nobody")

    asyncio.run(main())


def test_followers_see_every_event_once_and_in_order_from_wherever_they_begin(place: Any) -> None:
    async def main() -> None:
        async with Engine(place(), tools=[fake_tool("t")]) as engine:
            run = await engine.start(ASK, run_id="r")
            live: list[int] = []

            async def follow() -> None:
                async for entry in run.follow():
                    live.append(entry.seq)

            follower = asyncio.create_task(follow())
            await run.result()
            await run.approve("ok", by="me")
            await run.result()
            await asyncio.wait_for(follower, 5)
            late = [entry async for entry in engine.follow("r", after=3)]

        assert live == list(range(1, len(live) + 1))
        assert [entry.seq for entry in late] == live[3:]
        assert isinstance(late[-1].event, RunFinished)

    asyncio.run(main())


def test_cancel_is_recorded_then_enforced(place: Any) -> None:
    async def main() -> None:
        async with Engine(place(), tools=[fake_tool("t", waiting)]) as engine:
            run = await engine.start(ONE, run_id="r")
            await turns()
            await run.cancel(by="me", reason="enough")
            await run.cancel(by="me")
            result = await engine.finish(run)
            kinds = [type(entry.event).__name__ for entry in await engine.journal.read("r")]

        assert result.status is RunStatus.CANCELLED
        assert kinds.count("CancelRequested") == 1
        assert kinds.index("CancelRequested") < kinds.index("AttemptFailed")

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("durable", [True, False])
def test_a_thousand_runs_at_once(durable: bool, tmp_path: Path) -> None:
    async def add(n: int) -> int:
        await asyncio.sleep(0)
        return n + 1

    plan = {
        "planloom": 1,
        "inputs": {"n": {"type": "integer"}},
        "steps": [
            {"id": "a", "tool": "add", "with": {"n": "${{ inputs.n }}"}},
            {"id": "b", "tool": "add", "with": {"n": "${{ steps.a.output }}"}},
            {"id": "c", "tool": "add", "with": {"n": "${{ steps.a.output }}"}},
            {"id": "d", "tool": "add", "with": {"n": "${{ steps.b.output }}"}, "needs": ["c"]},
        ],
    }

    async def main() -> None:
        async with Engine(tmp_path / "runs.db" if durable else None, tools=[fake_tool("add", add)]) as engine:
            checked = engine.check(plan)
            results = await asyncio.gather(*(engine.run(checked, {"n": n}, run_id=f"r{n}") for n in range(1_000)))
            assert [result.output for result in results] == [n + 3 for n in range(1_000)]
            assert len(await engine.journal.runs(status="success", limit=2_000)) == 1_000
            assert engine._drivers == {}
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_everything_the_engine_shows_stays_the_same_when_read_by_another(place: Any) -> None:
    async def main() -> None:
        async with Engine(place(), tools=[fake_tool("t")]) as engine:
            result = await engine.run({**ONE, "name": "shown"}, run_id="r")
            row = (await engine.journal.runs())[0]
            assert (row.run_id, row.plan, row.status) == ("r", "shown", "success")
        async with Engine(place(), tools=[]) as engine:
            assert (await engine.result_of("r")).to_dict() == result.to_dict()
            resumed = await engine.resume("r")
            assert (await resumed.result()).to_dict() == result.to_dict()
            first = (await engine.journal.read("r"))[0].event
            assert isinstance(first, RunStarted)
            assert first.tools["t"].digest

    asyncio.run(main())


def test_a_once_start_is_known_to_the_record_before_its_tool_runs(place: Any) -> None:
    seen: list[bool] = []

    async def main() -> None:
        engine: Engine

        async def pay(**args: Any) -> None:
            events = [entry.event for entry in await engine.journal.read("r")]
            seen.append(any(isinstance(event, StepDispatched) for event in events))

        engine = Engine(place(), tools=[fake_tool("pay", pay, effects="once")])
        async with engine:
            await engine.run({"planloom": 1, "steps": [{"id": "a", "tool": "pay"}]}, run_id="r")

    asyncio.run(main())

    assert seen == [True]
