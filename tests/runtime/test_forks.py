"""Runs that go on from another one as if a step had come to another output."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from planloom import Engine, MemoryJournal, RunResult, RunStatus
from planloom.core.events import StepSucceeded
from planloom.errors import JournalConflictError, NoStepError, RunNotFoundError, RunStateError, ValidationError
from planloom.runtime.replay import diverges
from planloom.testing.fakes import CallLog, fake_tool
from planloom.testing.history.check import check_history
from tests.runtime.common import ASK

DIAMOND = {
    "planloom": 1,
    "steps": [
        {"id": "a", "tool": "same", "with": {"n": 1}},
        {"id": "left", "tool": "same", "with": {"n": "${{ steps.a.output }}"}},
        {"id": "right", "tool": "same", "with": {"n": 30}, "needs": ["a"]},
        {"id": "end", "tool": "same", "with": {"n": "${{ [steps.left.output, steps.right.output] }}"}},
    ],
}


def same(log: CallLog, **options: Any) -> Any:
    return fake_tool("same", lambda n: n, log=log, **options)


async def forked(engine: Engine, step: str, output: Any, **options: Any) -> RunResult:
    return await engine.finish(await engine.fork("r", step, output, new_id="f", **options))


def test_a_fork_does_anew_only_what_follows_from_the_edited_step(place: Any) -> None:
    log = CallLog()

    async def main() -> None:
        async with Engine(place(), tools=[same(log)]) as engine:
            first = await engine.run(DIAMOND, run_id="r")
            before = len(log)
            second = await forked(engine, "left", 7)
            record = await engine.journal.read("f")
            untouched = await engine.result_of("r")

        assert first.output == [1, 30]
        assert second.output == [7, 30]
        assert [call.args for call in log.calls[before:]] == [{"n": [7, 30]}]
        assert record[0].event.from_run == "r"  # type: ignore[union-attr]
        assert record[0].event.edited == "left"  # type: ignore[union-attr]
        assert untouched.to_dict() == first.to_dict()
        assert diverges("f", record) is None
        assert check_history(record) == []

    asyncio.run(main())


def test_a_failed_step_can_be_given_the_output_it_should_have_had(place: Any) -> None:
    plan = {
        "planloom": 1,
        "steps": [{"id": "bad", "tool": "bad"}, {"id": "b", "tool": "same", "with": {"n": 2}, "needs": ["bad"]}],
    }

    async def main() -> None:
        async with Engine(place(), tools=[same(CallLog()), fake_tool("bad", [ValueError("no")])]) as engine:
            assert (await engine.run(plan, run_id="r")).status is RunStatus.FAILED
            second = await forked(engine, "bad", "mended")

        assert second.status is RunStatus.SUCCESS
        assert second.step("bad").output == "mended"

    asyncio.run(main())


def test_the_edited_output_counts_also_where_something_before_it_is_done_anew(place: Any) -> None:
    plan = {
        "planloom": 1,
        "steps": [
            {"id": "bad", "tool": "bad", "on_error": "continue"},
            {"id": "after", "tool": "same", "with": {"n": 1}, "needs": ["bad"], "join": "always"},
        ],
    }

    async def main() -> None:
        async with Engine(place(), tools=[same(CallLog()), fake_tool("bad", [ValueError("no")])]) as engine:
            await engine.run(plan, run_id="r")
            second = await forked(engine, "after", 5)
            record = await engine.journal.read("f")

        assert second.step("after").output == 5
        assert second.step("after").attempts == 0
        assert check_history(record) == []

    asyncio.run(main())


def test_a_fork_of_one_item_keeps_the_other_items(place: Any) -> None:
    log = CallLog()
    plan = {
        "planloom": 1,
        "steps": [
            {"id": "each", "tool": "same", "for_each": "${{ [1, 2, 3] }}", "with": {"n": "${{ item }}"}},
            {"id": "end", "tool": "same", "with": {"n": "${{ steps.each.output }}"}},
        ],
    }

    async def main() -> None:
        async with Engine(place(), tools=[same(log)]) as engine:
            await engine.run(plan, run_id="r")
            before = len(log)
            second = await forked(engine, "each[1]", 20)
            record = await engine.journal.read("f")

        assert second.output == [1, 20, 3]
        assert check_history(record) == []
        assert [call.args for call in log.calls[before:]] == [{"n": [1, 20, 3]}]

    asyncio.run(main())


def test_a_fork_inside_a_sub_plan_does_the_rest_of_it_and_what_follows(place: Any) -> None:
    log = CallLog()
    inner = {
        "steps": [
            {"id": "x", "tool": "same", "with": {"n": 1}},
            {"id": "y", "tool": "same", "with": {"n": "${{ steps.x.output }}"}},
            {"id": "z", "tool": "same", "with": {"n": 9}},
        ],
        "outputs": "${{ steps.y.output }}",
    }
    plan = {
        "planloom": 1,
        "steps": [
            {"id": "sub", "plan": inner},
            {"id": "end", "tool": "same", "with": {"n": "${{ steps.sub.output }}"}},
        ],
    }

    async def main() -> None:
        async with Engine(place(), tools=[same(log)]) as engine:
            await engine.run(plan, run_id="r")
            before = len(log)
            second = await forked(engine, "sub/x", 5)

        assert second.output == 5
        assert [call.args for call in log.calls[before:]] == [{"n": 5}, {"n": 5}]

    asyncio.run(main())


@pytest.mark.parametrize("effects", ["once", "idempotent"])
def test_effects_behind_the_edited_step_are_repeated_only_if_asked_for(place: Any, effects: str) -> None:
    sent = CallLog()
    plan = {
        "planloom": 1,
        "steps": [{"id": "a", "tool": "same", "with": {"n": 1}}, {"id": "send", "tool": "send", "needs": ["a"]}],
    }

    async def main() -> None:
        async with Engine(place(), tools=[same(CallLog()), fake_tool("send", log=sent, effects=effects)]) as engine:
            await engine.run(plan, run_id="r")
            with pytest.raises(RunStateError, match="repeat effects of send"):
                await engine.fork("r", "a", 2)
            assert len(sent) == 1
            await forked(engine, "a", 2, repeat_effects=True)

        assert len(sent) == 2

    asyncio.run(main())


def test_effects_that_do_not_follow_from_the_step_are_taken_over(place: Any) -> None:
    sent = CallLog()
    plan = {
        "planloom": 1,
        "steps": [{"id": "send", "tool": "send"}, {"id": "a", "tool": "same", "with": {"n": 1}, "needs": ["send"]}],
    }

    async def main() -> None:
        async with Engine(place(), tools=[same(CallLog()), fake_tool("send", log=sent, effects="once")]) as engine:
            await engine.run(plan, run_id="r")
            second = await forked(engine, "a", 2)

        assert second.output == 2
        assert len(sent) == 1

    asyncio.run(main())


def test_a_run_under_way_can_be_forked_and_goes_on(place: Any) -> None:
    async def main() -> None:
        async with Engine(place(), tools=[fake_tool("t", lambda **args: args.get("n", 1))]) as engine:
            run = await engine.start(ASK, run_id="r")
            assert (await run.result()).status is RunStatus.WAITING
            second = await forked(engine, "ok", {"approved_by": "me"})
            await run.approve("ok", by="me")

            assert second.output == 2
            assert (await run.result()).status is RunStatus.SUCCESS

    asyncio.run(main())


def test_an_effect_under_way_is_not_done_a_second_time_beside_itself() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def slow() -> str:
            await gate.wait()
            return "sent"

        plan = {"planloom": 1, "steps": [{"id": "a", "tool": "same", "with": {"n": 1}}, {"id": "send", "tool": "send"}]}
        async with Engine(MemoryJournal(), tools=[same(CallLog()), fake_tool("send", slow, effects="once")]) as engine:
            run = await engine.start(plan, run_id="r")
            async for recorded in run.follow():
                if getattr(recorded.event, "output", None) == 1:
                    break
            with pytest.raises(RunStateError, match="repeat effects of send"):
                await engine.fork("r", "a", 2)
            gate.set()
            await run.result()

    asyncio.run(main())


def test_what_cannot_be_forked_is_refused_and_nothing_is_begun() -> None:
    plan = {
        "planloom": 1,
        "steps": [
            {"id": "a", "tool": "same", "with": {"n": 1}, "output": {"type": "integer"}},
            {"id": "never", "tool": "same", "with": {"n": 1}, "when": "${{ false }}"},
        ],
    }

    async def main() -> None:
        async with Engine(tools=[same(CallLog())]) as engine:
            await engine.run(plan, run_id="r")
            for step, output, error in (
                ("b", 1, NoStepError),
                ("never", 1, RunStateError),
                ("a", "text", ValidationError),
            ):
                with pytest.raises(error):
                    await engine.fork("r", step, output)
            with pytest.raises(RunNotFoundError):
                await engine.fork("q", "a", 1)
            with pytest.raises(JournalConflictError):
                await engine.fork("r", "a", 1, new_id="r")
            assert len(await engine.journal.runs()) == 1

    asyncio.run(main())


def test_a_fork_of_a_fork_keeps_what_was_edited_before(place: Any) -> None:
    async def main() -> None:
        async with Engine(place(), tools=[same(CallLog())]) as engine:
            await engine.run(DIAMOND, run_id="r")
            await forked(engine, "left", 7)
            run = await engine.fork("f", "right", 8, new_id="g")
            second = await engine.finish(run)
            record = await engine.journal.read("g")

        assert second.output == [7, 8]
        assert {one.event.step for one in record if isinstance(one.event, StepSucceeded)} == {"a", "left", "right"}

    asyncio.run(main())
