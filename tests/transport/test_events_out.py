from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from planloom import Engine, MemoryJournal
from planloom.core import events as record
from planloom.core.report import run_result
from planloom.ports import Recorded
from planloom.runtime.replay import replayed
from planloom.testing.fakes import fake_tool
from planloom.transport import events_out
from planloom.transport.bus import EventBus
from planloom.transport.event import Event
from planloom.transport.events_out import DEAD_LETTER, RunEvents, events_of, publish_run, topics
from tests.journals.recording import read

RECORDINGS = sorted((Path(__file__).parent.parent / "journals").glob("v*/*.jsonl"))
ENDS = ("planloom.step.completed", "planloom.step.failed", "planloom.step.skipped")
BAD = {"id": "bad", "tool": "bad", "retry": {"max_attempts": 2, "initial_delay": 0, "jitter": False}}


def told(entries: list[Recorded], run_id: str = "r") -> list[Event]:
    run = RunEvents(run_id)
    return [event for entry in entries for event in run.of(entry)]


def ran(*steps: dict[str, Any], **fields: Any) -> list[Recorded]:
    async def main() -> list[Recorded]:
        tools = [fake_tool("t"), fake_tool("bad", [ConnectionError("503")])]
        async with Engine(MemoryJournal(), tools=tools) as engine:
            await engine.run({"planloom": 1, "steps": list(steps), **fields}, run_id="r")
            return await engine.journal.read("r")

    return asyncio.run(main())


def of_type(events: list[Event], what: str) -> list[tuple[str | None, str]]:
    return [(event.subject, event.id) for event in events if event.type == what]


def test_every_kind_of_entry_has_a_topic() -> None:
    assert set(record.EVENT_TYPES) == set(events_out._TOPICS)
    assert all(topic.startswith("planloom.") for topic in topics())


def test_a_step_is_requested_started_once_and_completed_and_each_is_caused_by_the_one_before() -> None:
    events = told(ran({"id": "a", "tool": "t"}))

    of_a = [event for event in events if event.subject == "a"]
    assert [event.type.removeprefix("planloom.step.") for event in of_a] == ["requested", "started", "completed"]
    requested, started, completed = of_a
    assert (requested.id, requested.causation_id, requested.correlation_id) == ("r/2", "r/1", "r")
    assert (started.id, started.causation_id) == ("r/2/started", "r/2")
    assert completed.causation_id == "r/2"
    assert completed.data["output"] == {}


def test_each_attempt_is_requested_and_the_step_starts_and_fails_once() -> None:
    events = told(ran(BAD))

    assert len(of_type(events, "planloom.step.requested")) == 2
    assert len(of_type(events, "planloom.step.started")) == 1
    assert len(of_type(events, "planloom.attempt.failed")) == 2
    assert len(of_type(events, "planloom.step.failed")) == 1
    assert len(of_type(events, DEAD_LETTER)) == 1


def test_steps_that_end_with_their_run_are_told_at_its_end() -> None:
    events = told(ran(BAD, {"id": "behind", "tool": "t", "needs": ["bad"]}))

    (skipped,) = [event for event in events if event.type == "planloom.step.skipped"]
    stopping = next(event for event in events if event.type == "planloom.run.stopping")
    assert (skipped.subject, skipped.causation_id) == ("behind", stopping.id)
    assert skipped.data["status"] == "skipped"


@pytest.mark.parametrize(("on_error", "tolerated"), [("fail", False), ("continue", True), ("skip", True)])
def test_a_dead_letter_says_whether_the_plan_put_up_with_it(on_error: str, tolerated: bool) -> None:
    (letter,) = [event for event in told(ran(BAD | {"on_error": on_error})) if event.type == DEAD_LETTER]

    assert letter.data["tolerated"] is tolerated
    assert letter.data["attempts"] == 2
    assert "503" in letter.data["error"]


def test_a_step_that_nobody_tried_or_that_was_cancelled_is_no_dead_letter() -> None:
    events = told(ran({"id": "a", "tool": "t", "with": {"x": "${{ inputs.x.y }}"}}, inputs={"x": {"default": 1}}))

    assert len(of_type(events, "planloom.step.failed")) == 1
    assert of_type(events, DEAD_LETTER) == []


def test_a_dead_letter_tells_the_last_entries_and_the_first_and_no_more() -> None:
    retry = {"max_attempts": 60, "initial_delay": 0, "jitter": False}
    (letter,) = [event for event in told(ran(BAD | {"retry": retry})) if event.type == DEAD_LETTER]

    history = letter.data["history"]
    assert len(history) == events_out.MAX_HISTORY + 1
    assert (history[0]["event"], history[0]["attempt"]) == ("StepDispatched", 1)
    assert history[-1]["event"] == "StepFailed"


@pytest.mark.parametrize("path", RECORDINGS, ids=[path.stem for path in RECORDINGS])
def test_a_run_of_an_earlier_version_is_told_as_json_each_step_ending_once_and_the_same_each_time(path: Path) -> None:
    entries = read(path)

    events = told(entries)

    json.dumps([event.to_dict() for event in events])
    assert events == told(entries)
    assert len({event.id for event in events}) == len(events)
    ended = [event.subject for event in events if event.type in ENDS]
    assert len(ended) == len(set(ended))
    steps = run_result(replayed("r", entries).state).steps
    assert {step.id for step in steps} <= set(ended)


def test_a_run_is_followed_from_its_first_entry_or_after_a_number() -> None:
    async def main() -> tuple[list[str], list[str]]:
        async with Engine(MemoryJournal(), tools=[fake_tool("t")]) as engine:
            await engine.run({"planloom": 1, "steps": [{"id": "a", "tool": "t"}]}, run_id="r")
            everything = [event.id async for event in events_of(engine.journal, "r")]
            rest = [event.id async for event in events_of(engine.journal, "r", after=2)]
            bus = EventBus()
            heard = bus.subscribe()
            await publish_run(bus, engine.journal, "r")
            await publish_run(bus, engine.journal, "r")
            await bus.close()
            assert [event.id async for event in heard] == everything
        return everything, rest

    assert asyncio.run(main()) == (["r/1", "r/2", "r/2/started", "r/3", "r/4"], ["r/3", "r/4"])


def test_a_wide_run_does_not_outrun_a_subscriber_that_reads() -> None:
    steps = [{"id": f"s{number}", "tool": "t"} for number in range(500)]

    async def main() -> int:
        async with Engine(MemoryJournal(), tools=[fake_tool("t")]) as engine:
            await engine.run({"planloom": 1, "steps": steps}, run_id="r")
            bus = EventBus(buffer=200)
            heard = bus.subscribe()
            publishing = asyncio.create_task(publish_run(bus, engine.journal, "r"))
            count = 0
            async for event in heard:
                count += 1
                if event.type == "planloom.run.finished":
                    break
            await publishing
            return count

    assert asyncio.run(main()) >= 1_502


def test_a_run_whose_name_has_a_slash_shares_no_event_with_another() -> None:
    async def main() -> tuple[list[str], list[str]]:
        async with Engine(tools=[fake_tool("t")]) as engine:
            for name in ("a", "a/1"):
                await engine.run({"planloom": 1, "steps": [{"id": "1", "tool": "t"}]}, run_id=name)
            return tuple([[event.id async for event in events_of(engine.journal, name)] for name in ("a", "a/1")])  # type: ignore[return-value]

    first, second = asyncio.run(main())

    assert set(first).isdisjoint(second)
    assert second[0] == "a%2F1/1"
