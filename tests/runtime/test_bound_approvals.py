"""Questions about single attempts, answered here, by another engine, or too late: what was approved is what is done."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from planloom import ConfigError, Engine, MemoryJournal, RunStatus, Settings
from planloom.core.events import AnswerRefused, ApprovalRequested, StepDispatched
from planloom.plan.flow import FlowPolicy
from planloom.runtime.people import answer_fact
from planloom.runtime.replay import diverges, replayed
from planloom.testing import crash_everywhere
from planloom.testing.clock import ManualClock
from planloom.testing.fakes import CallLog, fake_tool

PAY = {
    "planloom": 1,
    "steps": [
        {"id": "pay", "tool": "pay", "with": {"sum": 5}, "retry": {"max_attempts": 2, "initial_delay": 0.001}},
        {"id": "after", "tool": "t", "needs": ["pay"]},
    ],
}


def tools(log: CallLog, answers: Any = ("paid",)) -> list[Any]:
    pay = fake_tool("pay", list(answers), log=log, effects="idempotent", needs_approval=True)
    return [pay, fake_tool("t")]


def asked(result: Any, step: str = "pay") -> dict[str, Any]:
    approval = result.step(step).approval
    assert approval is not None
    return dict(approval)


def test_nothing_is_called_before_a_person_said_yes_to_just_that(place: Any) -> None:
    log = CallLog()

    async def main() -> None:
        async with Engine(place(), tools=tools(log)) as engine:
            run = await engine.start(PAY, run_id="r")
            result = await run.result()
            assert (result.status, len(log)) == (RunStatus.WAITING, 0)
            seen = asked(result)
            assert (seen["tool"], seen["arguments"], seen["attempt"]) == ("pay", {"sum": 5}, 1)

            await run.approve("pay", by="me", binding=seen["binding"][:12])

            assert (await engine.finish(run)).status is RunStatus.SUCCESS
        assert log.of("pay") == [{"sum": 5}]

    asyncio.run(main())


def test_who_looked_at_something_else_is_told_what_changed(place: Any) -> None:
    log = CallLog()

    async def main() -> None:
        async with Engine(place(), tools=tools(log, [ValueError("no"), "paid"])) as engine:
            run = await engine.start(PAY, run_id="r")
            first = asked(await run.result())["binding"]
            await run.approve("pay", by="me", binding=first)
            result = await run.result()
            assert asked(result)["attempt"] == 2

            with pytest.raises(ConfigError, match=r"changed since: the attempt \(1 then, 2 now\)"):
                await run.approve("pay", by="me", binding=first)
            with pytest.raises(ConfigError, match="nothing that this step of this run asked"):
                await run.approve("pay", by="me", binding="0" * 64)
            with pytest.raises(ConfigError, match="12 digits"):
                await run.approve("pay", by="me", binding=asked(result)["binding"][:11])

            await run.approve("pay", by="me")
            assert (await engine.finish(run)).status is RunStatus.SUCCESS
        assert len(log) == 2

    asyncio.run(main())


def test_an_answer_that_comes_too_late_from_elsewhere_is_refused_and_on_record() -> None:
    log = CallLog()

    async def main() -> None:
        journal = MemoryJournal()
        async with Engine(journal, tools=tools(log, [ValueError("no"), "paid"])) as engine:
            run = await engine.start(PAY, run_id="r")
            await run.result()
            seen = replayed("r", await journal.read("r")).state
            stale = answer_fact(seen, "pay", by="somebody else", approved=True, output=None, at=0.0)
            await run.approve("pay", by="me")
            assert (await run.result()).status is RunStatus.WAITING
        await journal.post("r", stale)
        async with Engine(journal, tools=tools(log, ["paid"])) as engine:
            run = await engine.resume("r")
            assert (await run.result()).status is RunStatus.WAITING
            assert len(log) == 1
            await run.approve("pay", by="me")
            assert (await engine.finish(run)).status is RunStatus.SUCCESS
        record = await journal.read("r")
        (refused,) = (entry.event for entry in record if isinstance(entry.event, AnswerRefused))
        assert (refused.by, refused.why) == (
            "somebody else",
            "it answers an earlier question; changed since: the attempt (1 then, 2 now)",
        )
        assert diverges("r", record) is None

    asyncio.run(main())


def test_a_question_outlives_its_engine_and_expires_by_itself() -> None:
    log = CallLog()
    settings = Settings(flow=FlowPolicy(approval_seconds=600))

    async def main() -> None:
        clock, journal = ManualClock(), MemoryJournal()
        async with Engine(journal, tools=tools(log), clock=clock, settings=settings) as engine:
            first = asked(await (await engine.start(PAY, run_id="r")).result())
        clock.advance(599)
        async with Engine(journal, tools=tools(log), clock=clock, settings=settings) as engine:
            run = await engine.resume("r")
            assert asked(await run.result()) == first
            clock.advance(2)
            result = await engine.finish(run)
        assert (result.status, result.error) == (RunStatus.FAILED, "nobody approved it in time")
        assert result.step("pay").status.value == "timed_out"
        assert len(log) == 0

    asyncio.run(main())


def test_a_run_that_is_retried_asks_again_and_knows_what_its_old_results_carry(place: Any) -> None:
    log = CallLog()
    plan = {
        "planloom": 1,
        "steps": [
            {"id": "page", "tool": "fetch"},
            {"id": "send", "tool": "send", "with": {"text": "${{ steps.page.output }}"}},
        ],
    }
    fetch = fake_tool("fetch", ["text", "other text"], source="web")

    async def main() -> None:
        async with Engine(place(), tools=[fetch, fake_tool("send", ["sent"], log=log, effects="once")]) as engine:
            run = await engine.start(plan, run_id="r")
            first = asked(await run.result(), "send")
            await run.approve("send", by="me", approved=False)
            assert (await engine.finish(run)).status is RunStatus.FAILED

            again = await engine.retry_failed("r", new_id="again")
            second = asked(await again.result(), "send")
            assert (second["labels"], second["arguments"]) == (["web"], {"text": "text"})
            assert second["binding"] != first["binding"]
            with pytest.raises(ConfigError, match="nothing that this step of this run asked"):
                await again.approve("send", by="me", binding=first["binding"])
            await again.approve("send", by="me")
            assert (await engine.finish(again)).status is RunStatus.SUCCESS
            record = await engine.journal.read("again")
        assert log.of("send") == [{"text": "text"}]
        kinds = [type(entry.event) for entry in record]
        assert kinds.index(ApprovalRequested) < kinds.index(StepDispatched)

    asyncio.run(main())


def test_a_run_of_tools_that_say_nothing_pins_no_policy_and_binds_its_answers(place: Any) -> None:
    async def main() -> None:
        async with Engine(place(), tools=[fake_tool("t")]) as engine:
            await engine.run({"planloom": 1, "steps": [{"id": "a", "tool": "t"}]}, run_id="r")
            started = (await engine.journal.read("r"))[0].event
            assert (started.flow, started.binds, started.reused_labels) == (None, True, {})

    asyncio.run(main())


def labelled_tools() -> list[Any]:
    return [
        fake_tool("fetch", lambda **_: ["page 1", "page 2"], source="web"),
        fake_tool("clean", lambda **_: 1, cleans="web"),
        fake_tool("send", lambda **_: "sent", effects="once"),
        fake_tool("book", lambda **_: "booked", effects="idempotent", needs_approval=True),
    ]


CLEANING = {
    "inputs": {"page": {}},
    "steps": [{"id": "read", "tool": "clean", "with": {"n": "${{ inputs.page }}"}}],
}
LABELLED = {
    "planloom": 1,
    "steps": [
        {"id": "fetch", "tool": "fetch"},
        {"id": "each", "for_each": "${{ steps.fetch.output }}", "plan": CLEANING, "with": {"page": "${{ item }}"}},
        {"id": "send", "tool": "send", "for_each": "${{ steps.fetch.output }}", "with": {"n": "${{ item }}"}},
        {"id": "ask", "approve": "Fine?", "needs": ["send"]},
        {"id": "book", "tool": "book", "with": {"n": "${{ steps.each.output }}"}, "needs": ["ask"]},
    ],
}


@pytest.mark.slow
def test_a_run_whose_calls_are_asked_about_loses_and_doubles_nothing_wherever_its_power_is_cut() -> None:
    report = asyncio.run(crash_everywhere(LABELLED, labelled_tools))

    assert report.failures == [], str(report)
    assert len(report.points) >= 40
