"""After the engine died: what is asked again and what is not, how time counts; what a new run takes over."""

from __future__ import annotations

from typing import Any

import pytest

from planloom.core.commands import EndRun, RunStep, SetTimer
from planloom.core.events import (
    AttemptSucceeded,
    RetryScheduled,
    RunResumed,
    StepDispatched,
    StepSucceeded,
)
from planloom.core.result import RunStatus
from planloom.plan.policy import Effects
from tests.core.driving import TOOLS, Drive, kinds, plan, tool

AGAIN = {"max_attempts": 3, "initial_delay": 5, "jitter": False}


def test_replay_decides_nothing() -> None:
    drive = Drive(plan(tool("a"), tool("b", "a")))
    drive.ok("a", 1)

    before = list(drive.journal)
    drive.replay()

    assert drive.journal == before
    assert drive.statuses() == {"a": "completed", "b": "running"}


@pytest.mark.parametrize(("name", "effects"), [("t", Effects.NONE), ("key", Effects.IDEMPOTENT)])
def test_what_may_run_again_runs_again_as_a_new_attempt_with_the_same_key(name: str, effects: Effects) -> None:
    drive = Drive(plan(tool("a", tool=name)))

    turn = drive.after(5).restart()

    assert turn.events == (RunResumed(2, 5.0), StepDispatched("a", 2, 2, 5.0))
    (command,) = turn.commands
    assert isinstance(command, RunStep)
    assert (command.attempt, command.epoch, command.effects) == (2, 2, effects)
    assert command.idempotency_key == "run/a"


def test_an_attempt_that_was_lost_is_no_failed_one() -> None:
    drive = Drive(plan(tool("a", retry=AGAIN | {"max_attempts": 2})))

    for _ in range(5):
        drive.restart()
    drive.fail("a")
    drive.fire("a")
    drive.ok("a", "done")

    assert [request.attempt for request in drive.started] == [1, 2, 3, 4, 5, 6, 7]
    assert drive.result.status is RunStatus.SUCCESS
    drive.assert_replays()


def test_a_result_of_the_engine_that_died_is_refused() -> None:
    drive = Drive(plan(tool("a")))
    drive.restart()

    turn = drive.hand(AttemptSucceeded("a", 1, 1, "old", 0.0, 3.0))

    assert kinds(turn.events) == ["ResultRefused a"]
    drive.ok("a", "new")
    assert drive.output == "new"
    assert drive.machine.state.refused == 1


def test_what_is_on_record_is_not_done_again() -> None:
    drive = Drive(plan(*(tool(f"s{at}", *([f"s{at - 1}"] if at else [])) for at in range(5))))
    for at in range(3):
        drive.ok(f"s{at}", at)

    drive.restart()

    assert drive.running == ["s3"]
    drive.finish()
    assert drive.order() == ["s0", "s1", "s2", "s3", "s3", "s4"]
    drive.assert_replays()


def test_what_waited_for_a_slot_still_does_and_in_the_same_order() -> None:
    steps = (tool("a"), tool("b", priority=2), tool("c", priority=1))
    drive = Drive(plan(*steps, limits={"max_concurrent": 1}))

    drive.restart()
    drive.finish()

    assert drive.order() == ["b", "b", "c", "a"]


def test_a_wait_before_a_retry_outlives_the_engine() -> None:
    drive = Drive(plan(tool("a", retry=AGAIN)))
    drive.fail("a")

    turn = drive.after(3).restart()

    assert turn.events == (RunResumed(2, 3.0),)
    assert turn.commands == (SetTimer("a", 5.0),)
    turn = drive.fire("a")
    assert kinds(turn.events) == ["TimerFired a", "StepDispatched a"]
    drive.ok("a")
    drive.assert_replays()


def test_a_wait_that_was_over_while_nobody_looked_is_asked_for_all_the_same() -> None:
    drive = Drive(plan({"id": "w", "wait": 5}))

    turn = drive.after(60).restart()

    assert turn.commands == (SetTimer("w", 5.0),)
    drive.fire("w")
    assert (drive.now, drive.status) == (60.0, RunStatus.SUCCESS)


def test_items_and_sub_plans_are_taken_up_where_they_were() -> None:
    sub = {"steps": [tool("x"), tool("y", "x")]}
    drive = Drive(plan(tool("m", for_each=[1, 2, 3], max_parallel=2), {"id": "sub", "plan": sub}))
    drive.ok("m[0]", "a")
    drive.ok("sub/x", "x")

    drive.restart()

    assert drive.running == ["m[1]", "m[2]", "sub/y"]
    result = drive.finish()
    assert result.output == {"m": ["a", "m[1]", "m[2]"], "sub": "sub/y"}
    drive.assert_replays()


def test_what_was_closed_stays_closed() -> None:
    drive = Drive(plan(tool("m", for_each=[1]), {"id": "sub", "plan": {"steps": []}}, tool("a")))
    drive.ok("m[0]", 1)

    turn = drive.restart()

    assert kinds(turn.events) == ["RunResumed", "StepDispatched a"]
    assert drive.finish().output == {"m": [1], "sub": None, "a": "a"}
    drive.assert_replays()


@pytest.mark.parametrize("stop", ["cancel", "fail", "limit"])
def test_a_run_that_was_stopping_starts_nothing_when_it_is_taken_up(stop: str) -> None:
    drive = Drive(plan(tool("a"), tool("b"), limits={"timeout_seconds": 9}))
    {"cancel": drive.cancel, "fail": lambda: drive.fail("b"), "limit": lambda: drive.fire("")}[stop]()
    if stop != "fail":
        drive.halt("b")

    turn = drive.restart()

    status = {"cancel": RunStatus.CANCELLED, "fail": RunStatus.FAILED, "limit": RunStatus.LIMIT_EXCEEDED}[stop]
    assert turn.commands == (EndRun(status),)
    assert drive.order() == ["a", "b"]
    assert drive.statuses()["a"] == ("timed_out" if stop == "limit" else "cancelled"), "as if it had answered"
    drive.assert_replays()


def test_clean_up_is_taken_up_where_it_was() -> None:
    drive = Drive(plan(tool("a"), tool("tidy", "a", join="always")))
    drive.fail("a")

    turn = drive.restart()

    assert kinds(turn.events) == ["RunResumed", "StepDispatched tidy"]
    assert drive.finish().status is RunStatus.FAILED
    drive.assert_replays()


def test_a_once_step_lost_while_the_run_stopped_is_not_started_by_its_resolution() -> None:
    drive = Drive(plan(tool("pay", tool="once")))
    drive.cancel()
    drive.restart()

    drive.resolve("pay", "retry")

    assert drive.order() == ["pay"]
    assert drive.status is RunStatus.CANCELLED


def test_an_ended_run_is_not_taken_up() -> None:
    drive = Drive(plan(tool("a")))
    drive.ok("a")

    assert drive.restart().events == ()


# --- time ---


def timed() -> Drive:
    return Drive(plan(tool("a"), tool("b", "a"), limits={"timeout_seconds": 30}))


def test_the_time_nobody_worked_on_it_does_not_count() -> None:
    drive = timed()
    drive.after(10).ok("a")

    turn = drive.after(1_000).restart()

    assert turn.commands[0] == SetTimer("", 1_010 + 20.0)
    drive.after(5).ok("b")
    assert drive.result.active_s == 15.0


def test_time_adds_up_over_every_engine() -> None:
    drive = timed()
    drive.after(10).ok("a")
    drive.after(1_000).restart()
    drive.after(5).hand(AttemptSucceeded("b", 1, 1, "late", 0.0, drive.now))

    turn = drive.after(2_000).restart()

    assert turn.commands[0] == SetTimer("", drive.now + 15.0)
    drive.after(5).ok("b")
    assert drive.result.active_s == 20.0
    drive.assert_replays()


def test_time_of_a_step_adds_up_over_every_engine() -> None:
    drive = Drive(plan(tool("a", timeout_seconds=10, retry=AGAIN)), at=1_000.0)
    drive.after(1).fail("a")
    for _ in range(3):
        drive.after(100).restart()

    drive.fire("a")

    assert drive.started[-1].deadline_at == 1_310.0
    drive.assert_replays()


def test_a_limit_that_is_used_up_stops_the_run_as_soon_as_it_is_taken_up() -> None:
    drive = timed()
    drive.after(30).ok("a")

    turn = drive.after(7).restart()

    assert turn.commands[0] == SetTimer("", 37.0)
    drive.fire("")
    drive.halt("b")
    assert drive.status is RunStatus.LIMIT_EXCEEDED


def test_a_run_that_was_stopping_has_no_timer_when_it_is_taken_up() -> None:
    drive = Drive(plan(tool("a", tool="once"), limits={"timeout_seconds": 30}))
    drive.cancel()

    turn = drive.restart()

    assert [command for command in turn.commands if isinstance(command, SetTimer)] == []


def test_lost_attempts_count_against_the_limits() -> None:
    tools = TOOLS | {"t": type(TOOLS["t"])("d", Effects.NONE, cost_per_call_usd=1.0)}
    drive = Drive(plan(tool("a"), limits={"max_tool_calls": 2, "max_total_cost_usd": 9}), tools=tools)

    drive.restart()
    turn = drive.restart()

    assert kinds(turn.events) == ["RunResumed", "RunStopping", "RunFinished"]
    assert (drive.result.tool_calls, drive.result.cost_usd) == (2, 2.0)
    assert drive.result.exceeded_limits == ("max_tool_calls",)
    drive.assert_replays()


# --- taking over from an earlier run ---


def taken_over(reused: dict[str, Any], *steps: dict[str, Any], **fields: Any) -> Drive:
    return Drive(plan(*steps, **fields), reused=reused, from_run="old")


def test_what_stands_in_an_earlier_run_is_not_done_again() -> None:
    drive = taken_over({"a": 1, "b": 2}, tool("a"), tool("b", "a"), tool("c", "b"))

    assert drive.first.events[1:] == (
        StepSucceeded("a", 1, 0.0, reused=True),
        StepSucceeded("b", 2, 0.0, reused=True),
        StepDispatched("c", 1, 1, 0.0),
    )
    drive.finish()
    assert drive.order() == ["c"]
    drive.assert_replays()


def test_what_is_behind_something_done_anew_is_done_anew() -> None:
    drive = taken_over({"a": 1, "c": 3, "d": 4}, tool("a"), tool("b", "a"), tool("c", "b"), tool("d", "a"))

    drive.finish()

    assert drive.order() == ["b", "c"]


def test_what_is_behind_a_failure_that_was_tolerated_is_done_anew() -> None:
    drive = taken_over({"b": 2}, tool("a", on_error="continue"), tool("b", "a"))

    drive.fail("a")
    drive.finish()

    assert drive.order() == ["a", "b"]


def test_what_is_behind_a_step_whose_condition_is_false_again_is_taken_over() -> None:
    steps = (tool("a"), tool("b", "a", when="steps.a.output > 5"), tool("c", "a", "b", join="none_failed"))
    drive = taken_over({"a": 1, "c": 3}, *steps)

    assert drive.started == []
    assert (drive.status, drive.output) == (RunStatus.PARTIAL, 3)


def test_items_that_stand_are_taken_over_and_the_others_done() -> None:
    drive = taken_over({"a": [1, 2, 3], "m[0]": "A", "m[2]": "C"}, tool("a"), tool("m", for_each="steps.a.output"))

    drive.finish()

    assert drive.order() == ["m[1]"]
    assert drive.output == ["A", "m[1]", "C"]


def test_a_map_that_stands_is_taken_over_whole() -> None:
    drive = taken_over({"m": ["A"], "m[0]": "A"}, tool("m", for_each=[1]), tool("b", "m"))

    assert kinds(drive.first.events) == ["RunStarted", "StepSucceeded m", "StepDispatched b"]


def test_the_steps_of_a_sub_plan_that_stand_are_taken_over() -> None:
    sub = {"steps": [tool("x"), tool("y", "x"), tool("z", "y")]}
    drive = taken_over({"sub/x": 1, "sub/z": 3}, {"id": "sub", "plan": sub}, tool("b", "sub"))

    drive.finish()

    assert drive.order() == ["sub/y", "sub/z", "b"]


def test_approvals_and_waits_that_stand_are_taken_over() -> None:
    steps = ({"id": "ask", "approve": "Go?"}, {"id": "w", "wait": 5, "needs": ["ask"]}, tool("a", "w"))
    drive = taken_over({"ask": {"approved_by": "Bob"}, "w": None}, *steps)

    assert drive.running == ["a"]


def test_a_condition_that_now_fails_still_skips_what_stands() -> None:
    drive = Drive(plan(tool("a", when="inputs.go")), inputs={"go": False}, reused={"a": 1})

    assert drive.statuses() == {"a": "skipped: condition_false"}


def test_retries_are_planned_anew() -> None:
    drive = taken_over({"a": 1}, tool("a"), tool("b", "a", retry=AGAIN))

    drive.fail("b")

    assert drive.of_type(RetryScheduled)[0].due_at == 5.0
