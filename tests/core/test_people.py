"""What only a person or the clock can bring: approvals, waits, and outcomes nobody knows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from planloom.core import machine
from planloom.core.commands import EndRun, SetTimer
from planloom.core.events import (
    AnswerRefused,
    ApprovalAnswered,
    ApprovalRequested,
    AttemptSucceeded,
    OutcomeUnknown,
    RunFinished,
    RunResumed,
    RunStopping,
    StepDispatched,
    StepFailed,
    StepResolved,
    StepSucceeded,
    TimerFired,
    WaitStarted,
)
from planloom.core.result import RunStatus, StepStatus
from planloom.plan.policy import FailureKind
from tests.core.driving import Drive, kinds, plan, tool

S = StepStatus
NINE = "2026-12-01T09:00:00+01:00"
NINE_S = 1_796_112_000.0


def asking(approve: Any = "Pay ${{ inputs.sum }}?", **fields: Any) -> Drive:
    return Drive(plan({"id": "ask", "approve": approve} | fields, tool("pay", "ask")), inputs={"sum": 5})


# --- approvals ---


def test_an_approval_is_asked_for_and_the_run_waits() -> None:
    drive = asking()

    assert drive.first.events[1:] == (ApprovalRequested("ask", "Pay 5?", 0.0),)
    assert drive.first.commands == ()
    assert drive.machine.waits_for_person
    assert drive.status is RunStatus.WAITING
    assert drive.result.blockers() == [
        {"step": "ask", "why": "waits for approval", "command": "planloom approve run ask"}
    ]


def test_a_run_with_something_under_way_does_not_wait_for_a_person() -> None:
    drive = Drive(plan({"id": "ask", "approve": "Go?"}, tool("a")))

    assert not drive.machine.waits_for_person
    drive.ok("a")
    assert drive.machine.waits_for_person
    drive.approve("ask")
    assert not drive.machine.waits_for_person


def test_a_run_with_a_timer_of_its_own_does_not_wait_for_a_person() -> None:
    drive = Drive(plan({"id": "ask", "approve": "Go?"}, {"id": "w", "wait": 5}))

    assert not drive.machine.waits_for_person
    drive.fire("w")
    assert drive.machine.waits_for_person


def test_an_approval_takes_no_slot() -> None:
    steps = (tool("a"), {"id": "ask", "approve": "Go?"}, {"id": "w", "wait": 5}, tool("m", for_each=[]))
    drive = Drive(plan(*steps, limits={"max_concurrent": 1}))

    assert sorted(kinds(drive.first.events)) == [
        "ApprovalRequested ask",
        "RunStarted",
        "StepDispatched a",
        "StepExpanded m",
        "StepSucceeded m",
        "WaitStarted w",
    ]


def test_yes_lets_the_run_go_on_and_says_who_said_it() -> None:
    drive = asking()

    turn = drive.after(3).approve("ask")

    assert turn.events == (
        ApprovalAnswered("ask", True, "Ann", 3.0),
        StepSucceeded("ask", {"approved_by": "Ann"}, 3.0),
        StepDispatched("pay", 1, 1, 3.0),
    )
    assert turn.causes == (2, 3, 3)


def test_no_fails_the_step() -> None:
    drive = asking()

    turn = drive.deny("ask")

    assert turn.events[1:] == (
        StepFailed("ask", S.FAILED, FailureKind.REFUSED, "denied by Ann", 0.0),
        RunStopping(RunStatus.FAILED, 0.0, "ask"),
        RunFinished(RunStatus.FAILED, None, 0.0, "denied by Ann", "ask"),
    )
    assert drive.started == []


def test_no_may_be_tolerated() -> None:
    drive = asking(on_error="skip")

    drive.deny("ask")

    assert drive.statuses() == {"ask": "skipped: on_error_skip", "pay": "skipped: upstream_skipped"}
    assert drive.status is RunStatus.PARTIAL


def test_what_was_filled_in_is_the_output() -> None:
    form = {"type": "object", "properties": {"sum": {"type": "number"}}}
    drive = asking({"message": "How much?", "form": form})

    assert drive.of_type(ApprovalRequested) == [ApprovalRequested("ask", "How much?", 0.0, form)]
    drive.approve("ask", {"sum": 3})

    assert drive.machine.state.nodes["ask"].output == {"sum": 3}


def test_an_approval_expires() -> None:
    drive = asking({"message": "Go?", "expires_seconds": 60})

    assert drive.first.commands == (SetTimer("ask", 60.0),)
    assert drive.machine.waits_for_person
    turn = drive.fire("ask")

    assert turn.events[:2] == (
        TimerFired("ask", 60.0),
        StepFailed("ask", S.TIMED_OUT, FailureKind.TIMEOUT, "nobody answered in time", 60.0),
    )


@pytest.mark.parametrize("approved", [True, False])
def test_an_answer_that_comes_when_it_is_too_late_is_none(approved: bool) -> None:
    drive = asking({"message": "Go?", "expires_seconds": 60})

    late = drive.hand(ApprovalAnswered("ask", approved, "Ann", 60.0, None, drive.asked("ask")))

    assert late.events == (AnswerRefused("ask", "Ann", "it came when the time for it was over", 60.0),)
    assert drive.fire("ask").events[1] == StepFailed(
        "ask", S.TIMED_OUT, FailureKind.TIMEOUT, "nobody answered in time", 60.0
    )


def test_after_an_answer_nothing_expires() -> None:
    drive = asking({"message": "Go?", "expires_seconds": 60})
    drive.approve("ask")

    assert drive.hand(TimerFired("ask", 60.0)).events == ()
    assert drive.deny("ask").events == ()


def test_a_message_that_cannot_be_written_fails_the_step() -> None:
    drive = asking("Pay ${{ inputs.total }}?")

    (failed,) = drive.of_type(StepFailed)
    assert (failed.step, failed.kind) == ("ask", FailureKind.INPUT)


def test_a_cancelled_run_asks_nobody_any_more() -> None:
    drive = asking({"message": "Go?", "expires_seconds": 60})

    drive.cancel()

    assert drive.statuses() == {"ask": "cancelled", "pay": "skipped: not_started"}
    assert drive.machine.state.blocked == {}
    assert drive.machine.state.timers == {}
    assert drive.approve("ask").events == ()


def test_an_approval_outlives_its_engine() -> None:
    drive = asking({"message": "Go?", "expires_seconds": 60})

    turn = drive.after(10).restart()

    assert turn.events == (RunResumed(2, 10.0),)
    assert turn.commands == (SetTimer("ask", 60.0),)
    assert drive.machine.waits_for_person
    drive.approve("ask")
    assert drive.finish().status is RunStatus.SUCCESS
    drive.assert_replays()


# --- waits ---


def waiting(wait: Any, at: float = 0.0, **inputs: Any) -> Drive:
    return Drive(plan({"id": "w", "wait": wait}, tool("a", "w")), at=at, inputs=inputs)


def test_a_wait_is_a_timer_on_record() -> None:
    drive = waiting(10, at=5.0)

    assert drive.first.events[1:] == (WaitStarted("w", 15.0, 5.0),)
    assert drive.first.commands == (SetTimer("w", 15.0),)
    turn = drive.fire("w")

    assert turn.events == (TimerFired("w", 15.0), StepSucceeded("w", None, 15.0), StepDispatched("a", 1, 1, 15.0))
    assert drive.finish().status is RunStatus.SUCCESS


def test_a_wait_may_be_worked_out() -> None:
    assert waiting("${{ inputs.n }}", n=2.5).timers == {"w": 2.5}


def test_a_wait_of_nothing_is_over_at_once() -> None:
    assert waiting(0, at=3.0).timers == {"w": 3.0}


@pytest.mark.parametrize(
    "until", [NINE, "2026-12-01T08:00:00Z", "2026-12-01 08:00:00+00:00", "2026-12-01T13:30:00+05:30"]
)
def test_a_wait_until_a_moment(until: str) -> None:
    assert waiting({"until": until}).timers == {"w": NINE_S}


def test_a_moment_that_is_past_is_now() -> None:
    assert waiting({"until": NINE}, at=NINE_S + 7).timers == {"w": NINE_S + 7}


def test_a_moment_may_be_worked_out() -> None:
    assert waiting({"until": "${{ inputs.day }}T09:00:00+01:00"}, day="2026-12-01").timers == {"w": NINE_S}


@pytest.mark.parametrize(
    ("wait", "says"),
    [
        ("${{ inputs.x }}", "`wait` needs seconds, 0 or more, and got 'soon'"),
        ("5", "`wait` needs seconds, 0 or more, and got '5'"),
        ("${{ inputs.yes }}", "`wait` needs seconds, 0 or more, and got True"),
        ("${{ inputs.none }}", "`wait` needs seconds, 0 or more, and got None"),
        ("${{ inputs.less }}", "`wait` needs seconds, 0 or more, and got -1"),
        ("${{ inputs.much }}", "`wait` needs seconds, 0 or more, and got 10000000000"),
        ({"until": "tomorrow"}, "`until` needs a moment with an offset and got 'tomorrow'"),
        ({"until": "2026-12-01T09:00:00"}, "`until` needs a moment with an offset and got '2026-12-01T09:00:00'"),
        ({"until": "${{ inputs.less }}"}, "`until` needs a moment with an offset and got -1"),
        ("${{ inputs.zzz }}", "inputs.zzz leads nowhere"),
    ],
)
def test_a_wait_that_makes_no_sense_fails_the_step(wait: Any, says: str) -> None:
    drive = waiting(wait, x="soon", yes=True, none=None, less=-1, much=10**10)

    (failed,) = drive.of_type(StepFailed)
    assert (failed.step, failed.kind) == ("w", FailureKind.INPUT)
    assert failed.error.startswith(says)


def test_a_wait_outlives_its_engine() -> None:
    drive = waiting(10)

    turn = drive.after(4).restart()

    assert turn.commands == (SetTimer("w", 10.0),)
    drive.fire("w")
    assert drive.now == 10.0
    assert drive.running == ["a"]


# --- unknown outcomes ---


def lost(**fields: Any) -> Drive:
    """Return a run whose engine died while its `once` step was under way, and was taken up again."""
    steps = (tool("pay", tool="once", **fields), tool("after", "pay"), tool("other"))
    drive = Drive(plan(*steps, fail_fast=False))
    drive.ok("other")
    drive.after(5).restart()
    return drive


def test_a31_a_once_step_that_was_under_way_waits_for_a_person() -> None:
    drive = lost()

    assert drive.journal[-2:] == [RunResumed(2, 5.0), OutcomeUnknown("pay", 1, 5.0)]
    assert drive.running == []
    assert drive.status is RunStatus.WAITING
    assert drive.result.blockers() == [
        {
            "step": "pay",
            "why": "it may run only once, and whether it did is unknown",
            "command": "planloom resolve run pay --output JSON | --retry | --fail",
        }
    ]
    drive.assert_replays()


def test_everything_that_is_not_behind_it_goes_on() -> None:
    steps = (tool("pay", tool="once"), tool("after", "pay"), tool("x"), tool("y", "x"))
    drive = Drive(plan(*steps))

    drive.restart()

    assert drive.running == ["x"]
    drive.ok("x")
    drive.ok("y")
    assert drive.machine.waits_for_person


def test_resolved_with_an_output_it_is_completed() -> None:
    drive = lost()

    turn = drive.resolve("pay", "output", {"id": 7})

    assert turn.events == (
        StepResolved("pay", "output", "Ann", 5.0, {"id": 7}),
        StepSucceeded("pay", {"id": 7}, 5.0),
        StepDispatched("after", 1, 2, 5.0),
    )
    assert drive.finish().status is RunStatus.SUCCESS
    drive.assert_replays()


def test_resolved_with_retry_it_is_started_once_more() -> None:
    drive = lost()

    turn = drive.resolve("pay", "retry")

    assert turn.events == (StepResolved("pay", "retry", "Ann", 5.0), StepDispatched("pay", 2, 2, 5.0))
    assert drive.started[-1].idempotency_key == "run/pay"
    assert drive.finish().status is RunStatus.SUCCESS
    drive.assert_replays()


def test_what_was_said_of_one_attempt_says_nothing_of_the_next() -> None:
    drive = lost()
    said = StepResolved("pay", "retry", "Ann", 5.0, attempt=1)
    drive.hand(said)
    drive.restart()

    turn = drive.hand(said)

    assert turn.events == ()
    assert drive.machine.waits_for_person
    assert drive.hand(replace(said, attempt=2)).events[1:] == (StepDispatched("pay", 3, 3, drive.now),)


@pytest.mark.parametrize(("error", "told"), [("it bounced", "it bounced"), (None, "marked as failed by Ann")])
def test_resolved_as_failed_it_is_failed(error: str | None, told: str) -> None:
    drive = lost()

    turn = drive.resolve("pay", "fail", error=error)

    assert turn.events[1] == StepFailed("pay", S.FAILED, FailureKind.ERROR, told, 5.0)
    assert turn.commands == (EndRun(RunStatus.FAILED),)
    assert drive.statuses()["after"] == "skipped: upstream_failed"


def test_its_late_result_is_refused() -> None:
    drive = Drive(plan(tool("pay", tool="once")))
    request = drive.under_way["pay"]
    drive.restart()

    turn = drive.hand(AttemptSucceeded("pay", request.attempt, request.epoch, 1, 0.0, 1.0))

    assert kinds(turn.events) == ["ResultRefused pay"]
    assert drive.machine.waits_for_person


def test_a_once_item_that_was_lost_blocks_only_itself() -> None:
    drive = Drive(plan(tool("m", tool="once", for_each=[1, 2])))
    drive.ok("m[0]", "a")

    drive.restart()
    drive.resolve("m[1]", "output", "b")

    assert drive.output == ["a", "b"]


def test_a_second_engine_death_asks_nothing_twice() -> None:
    drive = lost()

    turn = drive.restart()

    assert turn.events == (RunResumed(3, 5.0),)
    assert drive.machine.waits_for_person
    assert len(drive.of_type(OutcomeUnknown)) == 1


@pytest.mark.parametrize("first", [{"wait": 5}, {"approve": "Go?"}], ids=["wait", "approve"])
def test_a_step_waits_while_a_person_or_the_clock_holds_its_named_limit(first: dict[str, Any]) -> None:
    drive = Drive(plan({"id": "w", "mode": "sequential"} | first, tool("s", mode="sequential")))

    assert drive.running == []
    assert not drive.machine.ended
    drive.approve("w") if "approve" in first else drive.fire("w")
    assert drive.running == ["s"]


def test_a_run_does_not_wait_for_a_person_while_it_has_more_to_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DECISIONS_A_TURN", 4)
    drive = Drive(plan({"id": "ask", "approve": "Go?"}, tool("a"), tool("b")), at_once=False)

    assert drive.undecided
    assert not drive.machine.waits_for_person
    while drive.undecided:
        drive.go_on()
    assert drive.running == ["a", "b"]
