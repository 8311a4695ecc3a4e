"""`crash_everywhere`: it finds what is wrong, blames who did it, and says how to see it again."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from planloom import MemoryJournal, PlanError, ResourceLimits, Tool, ToolContext
from planloom.core.commands import SetTimer
from planloom.core.events import CancelRequested, Event, Fact, RunStarted, StepDispatched
from planloom.core.result import RunStatus
from planloom.core.run_state import RunState
from planloom.errors import ConfigError
from planloom.plan.load import load_plan
from planloom.plan.policy import Effects
from planloom.runtime.driver import Driver
from planloom.testing import CrashReport, CrashWorld, crash_everywhere
from planloom.testing.sweep import calls, person
from planloom.testing.sweep.everywhere import Sweep
from planloom.testing.sweep.findings import findings_of
from planloom.testing.sweep.loop import run_patiently
from planloom.testing.sweep.point import Point, read_cuts, text_of
from planloom.testing.sweep.story import Staging, Story, told


def add_one(n: int) -> int:
    return n + 1


PAY = Tool.from_function(add_one, name="pay", effects="once")
PUT = Tool.from_function(add_one, name="put", effects="idempotent")
PURE = Tool.from_function(add_one, name="pure", effects="none")
TOOLS = [PAY, PUT, PURE]
CHAIN: dict[str, Any] = {
    "name": "chain",
    "steps": [
        {"id": "a", "tool": "pure", "with": {"n": 1}},
        {"id": "b", "tool": "put", "with": {"n": "${{ steps.a.output }}"}},
        {"id": "c", "tool": "pay", "with": {"n": "${{ steps.b.output }}"}},
    ],
    "outputs": {"n": "${{ steps.c.output }}"},
}


def swept(plan: dict[str, Any] = CHAIN, tools: Any = TOOLS, **options: Any) -> CrashReport:
    return asyncio.run(crash_everywhere(plan, tools, **options))


def one(tool: str, **fields: Any) -> dict[str, Any]:
    return {"name": "one", "steps": [{"id": "a", "tool": tool, "with": {"n": 1}, **fields}]}


def kinds(report: CrashReport) -> set[str]:
    return {failure.kind for failure in report.failures}


# --- a plan that is as it should be -----------------------------------------------------------


def test_a_plan_of_repeatable_tools_is_the_same_wherever_it_is_stopped() -> None:
    report = swept()

    report.check()
    assert (report.lost, report.doubled) == (0, 0)
    assert {text_of(cuts) for cuts in report.points} >= {"write 1, before", "write 4, after", "call 3, after"}
    assert report.unknown > 0
    assert "before write" in str(report)
    assert report.summary() in str(report)


def test_it_stops_where_a_report_says_and_nowhere_else() -> None:
    report = swept(only=["call 3, before then post 1, after", "write 2, before"])

    assert [text_of(cuts) for cuts in report.points] == ["call 3, before then post 1, after", "write 2, before"]
    report.check()


@pytest.mark.slow
def test_a_second_stop_comes_everywhere_after_the_first() -> None:
    report = swept(one("pay"), twice=1)

    report.check()
    first = {cuts[0] for cuts in report.points}
    with_another = {cuts[0] for cuts in report.points if len(cuts) == 2}
    assert first - with_another == {Point("write", 2, "after")}, "the run had ended there"


@pytest.mark.parametrize("text", ["write 1", "sleep 1, before", "write x, after", "write 1, later", ""])
def test_what_is_no_point_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no point to stop at"):
        swept(only=text)


def test_the_text_of_a_point_is_read_back() -> None:
    cuts = (Point("write", 17, "after"), Point("call", 2, "before"))

    assert read_cuts(text_of(cuts)) == cuts


def test_a_plan_that_is_wrong_is_no_finding() -> None:
    with pytest.raises(PlanError):
        swept(one("nobody_knows"))


def test_people_are_answered_and_waits_take_no_time() -> None:
    plan = {
        "name": "people",
        "steps": [
            {"id": "ok", "approve": {"message": "How many?", "form": {"type": "object", "required": ["n"]}}},
            {"id": "no", "approve": "Really?", "on_error": "continue"},
            {"id": "w", "wait": 10_000_000, "needs": ["ok", "no"]},
            {"id": "a", "tool": "pay", "with": {"n": "${{ steps.ok.output.n }}"}, "needs": ["w"]},
        ],
        "outputs": {"n": "${{ steps.a.output }}"},
    }
    began_at = time.monotonic()

    report = swept(plan, answers={"ok": {"n": 4}, "no": False})

    report.check()
    assert {cuts[0].kind for cuts in report.points} == {"write", "call", "timer", "post"}
    assert time.monotonic() - began_at < 30


def test_somebody_may_say_something_at_any_event() -> None:
    def somebody() -> Callable[[Event], Fact | None]:
        def hear(event: Event) -> Fact | None:
            is_it = isinstance(event, StepDispatched) and event.step == "a"
            return CancelRequested("somebody", event.at) if is_it else None

        return hear

    async def for_ever(n: int) -> int:
        await asyncio.Event().wait()
        return n

    plan, statuses = one("for_ever"), set()
    tools = [Tool.from_function(for_ever, effects="none")]

    def law(story: Story, whole: Story) -> list[str]:
        statuses.add(story.result.status)
        return []

    swept(plan, tools, says=somebody, laws=[law]).check()

    assert statuses == {RunStatus.CANCELLED}


def test_options_of_the_run_are_handed_on() -> None:
    limits, seen = ResourceLimits(max_tool_calls=7), []

    def law(story: Story, whole: Story) -> list[str]:
        started = story.record[0].event
        assert isinstance(started, RunStarted)
        seen.append((started.limits, started.inputs))
        return []

    swept(
        one("pure") | {"inputs": {"n": {}}}, inputs={"n": 1}, limits=limits, laws=[law], only="write 1, after"
    ).check()

    assert seen == [(limits, {"n": 1})]


# --- tools of every kind ----------------------------------------------------------------------


def test_tools_stay_who_they_are() -> None:
    seen: list[Any] = []

    def parts(tools: Any) -> dict[str, Any]:
        seen.extend(tools)
        return {}

    swept(tools=CrashWorld(tools=TOOLS, parts=parts), only="write 1, before").check()

    told_of = [(tool.name, tool.schema, tool.effects, tool.digest) for tool in seen[:3]]
    assert told_of == [(tool.name, tool.schema, tool.effects, tool.digest) for tool in TOOLS]


@pytest.mark.slow
def test_a_sync_tool_does_its_work_in_a_thread_and_one_that_takes_long_lets_others_go_on() -> None:
    def long(n: int) -> int:
        time.sleep(0.3)
        return n + 1

    async def elsewhere(n: int) -> int:
        return await asyncio.to_thread(add_one, n)

    plan = {
        "name": "threads",
        "steps": [
            {"id": "a", "tool": "long", "with": {"n": 1}},
            {"id": "b", "tool": "elsewhere", "with": {"n": 1}},
            {"id": "c", "tool": "pay", "with": {"n": "${{ steps.b.output }}"}, "timeout_seconds": 60},
        ],
    }
    tools = [Tool.from_function(long, effects="once"), Tool.from_function(elsewhere, effects="once"), PAY]

    report = swept(plan, tools, only=["call 1, before", "call 1, after", "write 2, after", "call 3, after"])

    report.check()
    assert len(report.points) == 4
    assert report.unknown > 0


def test_a_sync_tool_that_never_ends_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "PATIENCE_S", 0.05)
    monkeypatch.setattr(calls, "SHORT_S", 0.05)
    over = threading.Event()

    def stuck(n: int) -> int:
        over.wait(20)
        return n

    plan = one("stuck", timeout_seconds=0.2)

    report = swept(plan, [Tool.from_function(stuck, effects="none")])
    over.set()

    assert kinds(report) == {"stuck"}
    assert "a sync tool was still at work" in str(report)


@pytest.mark.slow
def test_a_tool_that_fails_and_one_that_says_it_did_nothing_come_to_the_same() -> None:
    async def bad(n: int) -> int:
        raise ConnectionResetError("lost")

    async def third(n: int, context: ToolContext) -> int:
        if context.attempt < 3:
            raise ConnectionError("not yet")
        return n

    plan = {
        "name": "failing",
        "fail_fast": False,
        "steps": [
            {"id": "a", "tool": "bad", "with": {"n": 1}},
            {"id": "b", "tool": "third", "with": {"n": 1}, "retry": {"max_attempts": 9, "initial_delay": 600}},
            {"id": "c", "tool": "pay", "with": {"n": 1}, "needs": ["a"], "join": "always"},
        ],
    }
    tools = [Tool.from_function(bad, effects="once"), Tool.from_function(third, effects="idempotent"), PAY]

    swept(plan, tools).check()


class Shop:
    """A world that keeps something."""

    def __init__(self, *, keeps_keys: bool) -> None:
        self.orders: list[int] = []
        self._known: set[str] = set()
        self._keeps_keys = keeps_keys

    def order(self, n: int, context: ToolContext) -> str:
        if not self._keeps_keys or context.idempotency_key not in self._known:
            self.orders.append(n)
        self._known.add(context.idempotency_key)
        return "ordered"

    def world(self) -> CrashWorld:
        return CrashWorld(tools=[Tool.from_function(self.order, effects="idempotent")], look=lambda: self.orders)


def test_a_world_made_anew_for_each_point_is_looked_at_in_the_end() -> None:
    swept(one("order"), lambda: Shop(keeps_keys=True).world()).check()


def test_a_tool_that_does_twice_what_it_declares_idempotent_is_found_out_by_what_is_seen() -> None:
    report = swept(one("order"), lambda: Shop(keeps_keys=False).world())

    assert kinds(report) == {"outcome"}
    assert "what is seen at the end is [1, 1], undisturbed [1]" in str(report)
    assert "called again with the same key: 'order', which declares 'idempotent'" in str(report)


def test_a_tool_declared_idempotent_that_answers_otherwise_the_second_time_is_found_out() -> None:
    def shop() -> list[Tool]:
        orders: list[int] = []

        def order(n: int) -> int:
            orders.append(n)
            return len(orders)

        return [Tool.from_function(order, effects="idempotent")]

    report = swept(one("order"), shop)

    assert kinds(report) == {"tool"}
    assert "declares to be idempotent, and with the key 'r/a'" in report.failures[0].what
    assert report.failures[0].repeat == 'crash_everywhere(plan, tools, only="write 2, before")'
    again = swept(one("order"), shop, only="write 2, before")
    assert [failure.what for failure in again.failures] == [report.failures[0].what]
    with pytest.raises(AssertionError, match="declares to be idempotent"):
        report.check()


def test_a_tool_with_a_hidden_state_is_blamed_and_not_the_engine() -> None:
    times = 0

    def count(n: int) -> int:
        nonlocal times
        times += 1
        return times

    report = swept(one("count"), [Tool.from_function(count, effects="none")])

    assert kinds(report) == {"tool"}
    assert "is not repeatable" in report.failures[0].what
    assert report.points == {}, "it cannot be compared with itself"


def test_what_is_asked_of_no_tool_and_comes_to_something_else_is_not_repeatable() -> None:
    numbers = iter(range(1_000))
    world = CrashWorld(tools=TOOLS, look=lambda: next(numbers))

    report = swept(one("pure"), world)

    assert kinds(report) == {"tool"}
    assert "left alone it comes to one thing, then to another" in str(report)


def test_laws_of_the_callers_own_are_held_too() -> None:
    report = swept(one("pure"), laws=[lambda story, whole: ["no"]], only="write 1, after")

    assert [(failure.kind, failure.what) for failure in report.failures] == [("own", "no")]


# --- an engine that does wrong ----------------------------------------------------------------


def test_a_driver_that_submits_before_it_is_durable_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(self: Driver, command: Any) -> None:
        self._lane.submit(command, self.deliver, self.record)

    monkeypatch.setattr(Driver, "_submit", at_once)

    report = swept()

    assert "early" in kinds(report)
    assert "tool 'put' of step 'b' was called before its start was on record" in str(report)


def test_an_engine_that_does_again_what_may_be_done_once_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    effects = RunState.effects

    def lax(self: RunState, node: Any) -> Effects:
        found = effects(self, node)
        return Effects.IDEMPOTENT if found is Effects.ONCE else found

    monkeypatch.setattr(RunState, "effects", lax)

    report = swept()

    assert {"doubled", "law"} <= kinds(report)
    assert report.doubled > 0
    assert "what may be done once was done 2 times, with the key 'r/c'" in str(report)


class Forgetful(MemoryJournal):
    """Loses the last event whenever somebody takes a run up."""

    async def take(self, run_id: str, on_durable: Any) -> Any:
        run = self._found(run_id)
        run.events.pop()
        run.causes.pop()
        return await super().take(run_id, on_durable)


def test_a_journal_that_loses_what_it_acknowledged_is_found_out() -> None:
    report = swept(one("pay", needs=[]), journal=Forgetful, only=["call 1, after", "write 2, after"])

    assert "lost" in kinds(report)
    assert report.lost > 0


def test_a_timer_that_is_forgotten_over_a_restart_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    do = Driver._do

    def forgetful(self: Driver, command: Any) -> None:
        if not (isinstance(command, SetTimer) and self.machine.state.epoch > 1):
            do(self, command)

    monkeypatch.setattr(Driver, "_do", forgetful)
    plan = {"name": "waits", "steps": [{"id": "w", "wait": 60}]}

    report = swept(plan, [])

    assert kinds(report) == {"stuck"}
    assert "everything waits, and nothing will ever happen" in str(report)


def test_an_answer_heard_again_for_another_attempt_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    said = person.resolution_fact
    monkeypatch.setattr(person, "resolution_fact", lambda *told, **more: replace(said(*told, **more), attempt=0))

    report = swept(only="call 3, before then post 1, after")

    assert "doubled" in kinds(report)


def stories() -> tuple[Story, Story]:
    """Return a run undisturbed, and stopped once."""
    staging = Staging(plan=load_plan(CHAIN), world=lambda: CrashWorld(tools=TOOLS))
    whole = run_patiently(told(staging))
    return whole, run_patiently(told(staging, [Point("call", 3, "after")], undisturbed=whole.result))


def found(story: Story, whole: Story) -> set[str]:
    return {finding.kind for finding in findings_of(story, whole)}


def test_each_thing_that_must_not_be_is_found_where_it_is() -> None:
    whole, story = stories()
    assert findings_of(story, whole) == []

    made = next(made for made in story.made if made.step == "b")
    again = Story(story.world, story.lives, [*story.made, made], story.result)
    missing = Story(story.world, story.lives, [one for one in story.made if one.step != "b"], story.result)
    other = Story(story.world, story.lives, story.made, replace(story.result, output={"n": 0}))
    last = replace(story.lives[-1], after=[*story.lives[-1].after[:3], *story.lives[-1].after[4:]])
    gap = Story(story.world, [*story.lives[:-1], last], story.made, story.result)

    assert found(again, whole) == {"doubled"}
    assert found(missing, whole) == {"lost"}
    assert found(other, whole) == {"outcome"}
    assert found(gap, whole) >= {"lost", "law"}


def test_a_call_for_a_run_that_is_not_on_record_is_found() -> None:
    whole, story = stories()
    first = replace(story.lives[0], after=[])
    second = replace(story.lives[1], before=[], called=len(story.made))

    assert "early" in found(Story(story.world, [first, second], story.made, story.result), whole)


def test_whoever_no_longer_wants_to_know_ends_the_sweep() -> None:
    async def main() -> None:
        task = asyncio.ensure_future(crash_everywhere(CHAIN, TOOLS, twice=1))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])

    began_at = time.monotonic()

    asyncio.run(main())  # waits for the thread

    assert time.monotonic() - began_at < 10


def test_a_sweep_that_is_told_to_stop_stops() -> None:
    sweep = Sweep(Staging(plan=load_plan(CHAIN), world=lambda: CrashWorld(tools=TOOLS)))
    sweep.stop.set()

    assert sweep.run().points == {}
