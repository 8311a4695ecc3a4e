"""A run that ends early: what is stopped, what is kept, what still runs, and what the run is called then."""

from __future__ import annotations

from typing import Any

import pytest

from planloom.core.commands import EndRun, SetTimer, StopStep
from planloom.core.events import (
    AttemptFailed,
    CancelRequested,
    RunFinished,
    RunStopping,
    StepFailed,
    TimerFired,
)
from planloom.core.result import RunStatus, SkipReason, StepStatus
from planloom.plan.policy import FailureKind, ResourceLimits
from tests.core.driving import Drive, kinds, plan, tool

S = StepStatus
AGAIN = {"max_attempts": 3, "initial_delay": 5, "jitter": False}


# --- after a failure ---


def test_a11_a_failure_stops_what_is_under_way_and_starts_nothing_new() -> None:
    drive = Drive(plan(tool("ok"), tool("bad"), tool("next", "ok")))
    fact = AttemptFailed("bad", 1, 1, FailureKind.ERROR, "no", 0.0, 1.0)

    turn = drive.hand(fact)

    assert turn.events == (
        fact,
        StepFailed("bad", S.FAILED, FailureKind.ERROR, "no", 1.0),
        RunStopping(RunStatus.FAILED, 1.0, "bad"),
    )
    assert turn.commands == (StopStep("ok"),)
    end = drive.after(1).halt("ok")
    assert end.commands == (EndRun(RunStatus.FAILED),)
    assert drive.statuses() == {"ok": "cancelled", "bad": "failed", "next": "skipped: not_started"}
    drive.assert_replays()


def test_a11_in_keep_going_mode_independent_branches_finish() -> None:
    drive = Drive(plan(tool("ok"), tool("bad"), tool("next", "ok"), fail_fast=False))

    drive.fail("bad")

    assert drive.stopped == []
    result = drive.finish()
    assert result.status is RunStatus.FAILED
    assert (result.error, result.failed_step) == ("no", "bad")
    assert result.output == {"next": "next"}


def test_a_step_that_finishes_although_it_was_stopped_keeps_its_output() -> None:
    drive = Drive(plan(tool("slow"), tool("bad"), tool("next", "slow")))

    drive.fail("bad")
    drive.ok("slow", "kept")

    assert drive.result.step("slow").output == "kept"
    assert drive.statuses()["next"] == "skipped: not_started"
    assert drive.status is RunStatus.FAILED


def test_a_stopped_step_is_not_tried_again() -> None:
    drive = Drive(plan(tool("slow", retry=AGAIN), tool("bad")))

    drive.fail("bad")
    turn = drive.fail("slow", error="broken off")

    assert kinds(turn.events) == ["AttemptFailed slow", "StepFailed slow", "RunFinished"]


def test_the_step_that_failed_the_run_is_named_and_not_one_that_broke_while_stopping() -> None:
    drive = Drive(plan(tool("slow"), tool("bad")))

    drive.fail("bad", error="kaboom")
    drive.fail("slow", error="broken off")

    assert (drive.result.failed_step, drive.result.error) == ("bad", "kaboom")


def test_a_step_waiting_for_its_retry_ends_at_once() -> None:
    drive = Drive(plan(tool("slow", retry=AGAIN), tool("bad")))
    drive.fail("slow", error="first")

    turn = drive.fail("bad")

    assert turn.commands == (EndRun(RunStatus.FAILED),)
    assert drive.statuses()["slow"] == "cancelled"
    assert drive.result.step("slow").error == "first"


def test_a_cancelled_attempt_nobody_asked_for_never_ends_in_success() -> None:
    drive = Drive(plan(tool("a"), tool("b"), fail_fast=False))

    drive.halt("a")
    drive.ok("b")

    assert drive.status is RunStatus.FAILED
    assert (drive.result.failed_step, drive.result.error) == ("a", "stopped")


# --- clean-up ---


def tidying(**fields: Any) -> Drive:
    return Drive(plan(tool("a"), tool("b", "a"), tool("tidy", "b", join="always", **fields)))


def test_clean_up_runs_after_a_failure() -> None:
    drive = tidying()

    turn = drive.fail("a")

    assert kinds(turn.events) == ["AttemptFailed a", "StepFailed a", "RunStopping", "StepDispatched tidy"]
    turn = drive.ok("tidy")
    assert turn.events[1:] == (RunFinished(RunStatus.FAILED, None, 0.0, "no", "a"),)
    drive.assert_replays()


def test_clean_up_that_fails_is_tried_again_and_does_not_hide_the_failure() -> None:
    drive = tidying(retry=AGAIN | {"max_attempts": 2})
    drive.fail("a", error="kaboom")

    drive.fail("tidy", error="stuck")
    drive.fire("tidy")
    drive.fail("tidy", error="stuck")

    assert drive.statuses()["tidy"] == "failed"
    assert (drive.result.failed_step, drive.result.error) == ("a", "kaboom")


def test_clean_up_does_not_run_after_a_cancel() -> None:
    drive = tidying()

    drive.cancel()
    drive.halt("a")

    assert drive.statuses()["tidy"] == "skipped: not_started"
    assert drive.status is RunStatus.CANCELLED


def test_clean_up_does_not_run_after_a_limit() -> None:
    drive = Drive(plan(tool("a"), tool("tidy", "a", join="always"), limits={"timeout_seconds": 3}))

    drive.fire("")
    drive.halt("a")

    assert drive.statuses()["tidy"] == "skipped: not_started"


def test_a_cancel_stops_clean_up_that_is_under_way() -> None:
    drive = tidying(retry=AGAIN)
    drive.fail("a")

    turn = drive.cancel()

    assert turn.commands == (StopStep("tidy"),)
    drive.fail("tidy", error="broken off")
    assert drive.status is RunStatus.CANCELLED


def test_clean_up_that_is_under_way_goes_on_after_a_failure_elsewhere() -> None:
    drive = Drive(plan(tool("a"), tool("tidy", "a", join="always"), tool("bad")))
    drive.ok("a")

    turn = drive.fail("bad")

    assert turn.commands == ()
    drive.ok("tidy", "tidied")
    assert drive.statuses()["tidy"] == "completed"


def test_clean_up_that_waits_for_its_retry_goes_on_after_a_failure_elsewhere() -> None:
    drive = Drive(plan(tool("a"), tool("tidy", "a", join="always", retry=AGAIN), tool("bad")))
    drive.ok("a")
    drive.fail("tidy")

    drive.fail("bad")
    drive.fire("tidy")
    drive.ok("tidy", "tidied")

    assert drive.statuses()["tidy"] == "completed"
    assert drive.status is RunStatus.FAILED


def test_clean_up_made_of_several_parts_runs_whole() -> None:
    tidy = {"id": "tidy", "plan": {"steps": [tool("x"), tool("y", "x")]}, "needs": ["a"], "join": "always"}
    drive = Drive(plan(tool("a"), tidy, tool("each", "a", join="always", for_each=[1, 2])))

    drive.fail("a")

    assert drive.running == ["tidy/x", "each[0]", "each[1]"]
    assert drive.finish().step("tidy").status is S.COMPLETED
    assert drive.statuses()["tidy/y"] == "completed"


def test_the_run_limit_bounds_clean_up_too() -> None:
    steps = (tool("a"), tool("tidy", "a", join="always"))
    drive = Drive(plan(*steps, limits={"timeout_seconds": 30}))
    drive.fail("a", error="kaboom")

    turn = drive.fire("")

    assert turn.commands == (StopStep("tidy"),)
    drive.halt("tidy")
    assert drive.result.exceeded_limits == ("timeout_seconds",)
    assert drive.result.failed_step == "a"


# --- cancel ---


def test_a17_a_cancel_is_on_record_and_stops_everything() -> None:
    drive = Drive(plan(tool("a"), tool("b"), tool("c", "a", "b")))

    turn = drive.after(2).cancel("changed my mind")

    assert turn.events == (
        CancelRequested("Ann", 2.0, "changed my mind"),
        RunStopping(RunStatus.CANCELLED, 2.0, "Ann: changed my mind"),
    )
    assert turn.commands == (StopStep("a"), StopStep("b"))
    drive.halt("a")
    turn = drive.halt("b")
    assert turn.events[1:] == (
        StepFailed("b", S.CANCELLED, FailureKind.CANCELLED, "stopped", 2.0),
        RunFinished(RunStatus.CANCELLED, None, 2.0),
    )
    assert drive.statuses() == {"a": "cancelled", "b": "cancelled", "c": "skipped: not_started"}
    drive.assert_replays()


def test_a_second_cancel_says_nothing_new() -> None:
    drive = Drive(plan(tool("a")))
    drive.cancel()

    assert drive.cancel().events == ()


def test_a_cancel_while_everything_waits_ends_the_run_at_once() -> None:
    steps = (tool("a", retry=AGAIN), {"id": "w", "wait": 60}, {"id": "ask", "approve": "Go?"})
    drive = Drive(plan(*steps))
    drive.fail("a")

    turn = drive.cancel()

    assert turn.commands == (EndRun(RunStatus.CANCELLED),)
    assert drive.statuses() == {"a": "cancelled", "w": "cancelled", "ask": "cancelled"}
    assert drive.machine.state.timers == {}


def test_a_cancel_reaches_items_and_sub_plans() -> None:
    sub = {"steps": [tool("x"), tool("y", "x"), tool("tidy", "x", join="always")]}
    drive = Drive(plan(tool("m", for_each=[1, 2, 3], max_parallel=1), {"id": "sub", "plan": sub}))

    turn = drive.cancel()

    assert turn.commands == (StopStep("m[0]"), StopStep("sub/x"))
    drive.halt("m[0]")
    drive.halt("sub/x")
    assert drive.statuses() == {
        "m": "cancelled",
        "m[0]": "cancelled",
        "m[1]": "skipped: not_started",
        "m[2]": "skipped: not_started",
        "sub": "cancelled",
        "sub/x": "cancelled",
        "sub/y": "skipped: not_started",
        "sub/tidy": "skipped: not_started",
    }
    drive.assert_replays()


def test_a_cancel_wins_over_a_failure() -> None:
    drive = Drive(plan(tool("a"), tool("b")))
    drive.fail("a")

    turn = drive.cancel()

    assert kinds(turn.events) == ["CancelRequested", "RunStopping"]
    drive.halt("b")
    assert drive.status is RunStatus.CANCELLED
    assert drive.result.failed_step == "a"


def test_a_cancelled_step_is_cancelled_even_if_it_may_be_skipped_on_error() -> None:
    drive = Drive(plan(tool("a", on_error="skip"), tool("b", on_error="continue")))
    drive.cancel()

    drive.halt("a")
    drive.halt("b")

    assert drive.statuses() == {"a": "cancelled", "b": "cancelled"}
    assert drive.status is RunStatus.CANCELLED


# --- the run's time ---


def test_a14_when_its_time_is_over_the_run_stops_with_what_it_has() -> None:
    drive = Drive(plan(tool("a"), tool("b"), tool("c", "b"), limits={"timeout_seconds": 0.3}))
    drive.ok("a", 1)

    turn = drive.fire("")

    assert drive.first.commands[0] == SetTimer("", 0.3)
    assert turn.events == (
        TimerFired("", 0.3),
        RunStopping(RunStatus.LIMIT_EXCEEDED, 0.3, "the run's time is over", ("timeout_seconds",)),
    )
    assert turn.commands == (StopStep("b"),)
    drive.halt("b")
    assert drive.statuses() == {"a": "completed", "b": "timed_out", "c": "skipped: not_started"}
    assert drive.result.exceeded_limits == ("timeout_seconds",)
    assert drive.status is RunStatus.LIMIT_EXCEEDED
    assert drive.output == {"a": 1}
    drive.assert_replays()


def test_a_run_that_ends_in_time_is_not_woken_any_more() -> None:
    drive = Drive(plan(tool("a"), limits={"timeout_seconds": 3}))
    drive.ok("a")

    assert drive.hand(TimerFired("", 3.0)).events == ()
    assert drive.status is RunStatus.SUCCESS


def test_the_time_of_a_run_that_stops_already_changes_nothing() -> None:
    drive = Drive(plan(tool("a"), limits={"timeout_seconds": 3}))
    drive.cancel()

    assert drive.hand(TimerFired("", 3.0)).events == ()
    drive.halt("a")
    assert drive.status is RunStatus.CANCELLED


@pytest.mark.parametrize("how", ["cancel", "fail", "limit"])
def test_nothing_is_tried_again_once_a_run_stops(how: str) -> None:
    drive = Drive(plan(tool("a", retry=AGAIN), tool("b"), limits={"timeout_seconds": 9}))
    {"cancel": drive.cancel, "fail": lambda: drive.fail("b"), "limit": lambda: drive.fire("")}[how]()

    drive.fail("a")
    if how != "fail":
        drive.halt("b")

    assert drive.machine.ended
    assert drive.order() == ["a", "b"]


def test_clean_up_over_items_stops_at_its_first_failed_item() -> None:
    tidy = tool("tidy", "a", for_each=[1, 2, 3], max_parallel=1, join="always")
    drive = Drive(plan(tool("a"), tidy))
    drive.fail("a")

    drive.fail("tidy[0]")

    assert drive.order() == ["a", "tidy[0]"]
    assert drive.machine.ended


def test_a_step_that_one_success_is_enough_for_does_not_start_once_its_run_is_to_stop() -> None:
    slow, broken = tool("slow"), tool("broken", "a", when="inputs.nothing")
    early = tool("early", "a", "slow", join="one_success")
    drive = Drive(plan(tool("a"), slow, broken, early))

    drive.ok("a", 1)

    assert drive.machine.state.nodes["early"].status is StepStatus.PENDING
    assert set(drive.under_way) == {"slow"}
    drive.fail("slow", FailureKind.CANCELLED)
    assert drive.machine.state.nodes["early"].reason is SkipReason.NOT_STARTED


def test_a_step_that_waits_for_a_slot_on_one_success_does_not_start_once_its_run_is_to_stop() -> None:
    early = tool("early", "a", "slow", join="one_success")
    drive = Drive(plan(tool("a"), tool("slow"), tool("bad"), early), limits=ResourceLimits(max_concurrent=2))

    drive.ok("a", 1)
    drive.fail("bad")

    assert set(drive.under_way) == {"slow"}
    drive.fail("slow", FailureKind.CANCELLED)
    assert drive.machine.ended
    assert drive.machine.state.nodes["early"].reason is SkipReason.NOT_STARTED


def test_a_cancelled_run_whose_engine_dies_at_its_limit_stays_cancelled() -> None:
    drive = Drive(plan(tool("a")), limits=ResourceLimits(max_tool_calls=1))
    drive.cancel()

    drive.restart()

    assert (drive.status, drive.statuses()) == (RunStatus.CANCELLED, {"a": "cancelled"})
    assert len(drive.of_type(RunStopping)) == 1
    drive.assert_replays()
