"""When a failed attempt is tried again, and after how long; what a step's own time limits mean."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planloom.core.commands import RunStep, SetTimer
from planloom.core.events import (
    AttemptFailed,
    RetryScheduled,
    RunFinished,
    RunStopping,
    StepDispatched,
    StepFailed,
    TimerFired,
)
from planloom.core.result import RunStatus, StepStatus
from planloom.core.retry import delay_s, worth_retrying
from planloom.plan.policy import Effects, FailureKind, RetryPolicy
from tests.core.driving import Drive, kinds, plan, tool

PLAIN = RetryPolicy(max_attempts=9, initial_delay=1, exponential_base=2, max_delay=60, jitter=False)
JITTERY = PLAIN.model_copy(update={"jitter": True})


def failure(kind: FailureKind = FailureKind.ERROR, *types: str) -> AttemptFailed:
    return AttemptFailed("a", 1, 1, kind, "no", 0.0, 1.0, types or ("ValueError", "Exception"))


# --- how long ---


def test_c10_the_wait_doubles_from_the_first_retry_on() -> None:
    assert [delay_s(PLAIN, retry, "s") for retry in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a52_a_large_base_is_capped() -> None:
    policy = RetryPolicy(initial_delay=1, exponential_base=10, jitter=False)

    assert [delay_s(policy, retry, "s") for retry in (1, 2, 3, 5)] == [1, 10, 60, 60]


@pytest.mark.parametrize("retry", [62, 63, 64, 65, 5_000, 10**9])
def test_a_wait_never_overflows(retry: int) -> None:
    policy = RetryPolicy(initial_delay=1e300, exponential_base=1e300, max_delay=60, jitter=False)

    assert delay_s(policy, retry, "s") == 60


def test_a_first_delay_of_zero_stays_zero() -> None:
    policy = RetryPolicy(initial_delay=0, jitter=False)

    assert [delay_s(policy, retry, "s") for retry in (1, 2, 90)] == [0, 0, 0]


@given(st.integers(1, 200), st.text(max_size=30))
def test_jitter_is_a_share_of_the_wait_and_the_same_each_time(retry: int, seed: str) -> None:
    wait = delay_s(JITTERY, retry, seed)

    assert 0 <= wait <= delay_s(PLAIN, retry, seed)
    assert wait == delay_s(JITTERY, retry, seed)


def test_jitter_spreads_over_the_whole_wait() -> None:
    waits = [delay_s(JITTERY, 4, f"run-{at}/a/4") / 8 for at in range(1_000)]

    shares = [sum(low <= wait < low + 0.25 for wait in waits) for low in (0, 0.25, 0.5, 0.75)]
    assert all(200 < share < 300 for share in shares)


@pytest.mark.parametrize(("asked", "waits"), [(7, 7), (0, 0), (-3, 0), (61, 60), (1e18, 60)])
def test_a52_what_the_server_asks_for_wins_up_to_the_ceiling(asked: float, waits: float) -> None:
    assert delay_s(JITTERY, 1, "s", retry_after_s=asked) == waits


# --- whether ---


@pytest.mark.parametrize(
    ("kind", "none", "once"),
    [
        (FailureKind.ERROR, True, False),
        (FailureKind.TIMEOUT, True, False),
        (FailureKind.OUTPUT, True, False),
        (FailureKind.LOST, False, False),
        (FailureKind.NOT_DONE, True, True),
        (FailureKind.REFUSED, False, False),
        (FailureKind.INPUT, False, False),
        (FailureKind.NOT_ALLOWED, False, False),
        (FailureKind.CANCELLED, False, False),
    ],
)
def test_what_is_worth_another_attempt(kind: FailureKind, none: bool, once: bool) -> None:
    told = {
        effects: worth_retrying(PLAIN, failure(kind), failures=1, effects=effects)
        for effects in (Effects.NONE, Effects.IDEMPOTENT, Effects.ONCE)
    }

    assert told == {Effects.NONE: none, Effects.IDEMPOTENT: none, Effects.ONCE: once}


@pytest.mark.parametrize("kind", list(FailureKind))
@pytest.mark.parametrize("failures", [9, 10])
def test_the_last_attempt_is_the_last(kind: FailureKind, failures: int) -> None:
    assert not worth_retrying(PLAIN, failure(kind), failures=failures, effects=Effects.NONE)


@pytest.mark.parametrize(
    ("names", "types", "again"),
    [
        (("TimeoutError",), ("TimeoutError", "OSError", "Exception"), True),
        (("OSError",), ("TimeoutError", "OSError", "Exception"), True),
        (("KeyError",), ("TimeoutError", "OSError", "Exception"), False),
        ((), ("TimeoutError",), False),
        (("Exception",), (), False),
    ],
)
def test_a_policy_names_the_errors_it_tries_again(names: Any, types: Any, again: bool) -> None:
    policy = RetryPolicy(retryable_exceptions=names)
    told = AttemptFailed("a", 1, 1, FailureKind.ERROR, "no", 0.0, 1.0, types)

    assert worth_retrying(policy, told, failures=1, effects=Effects.NONE) is again


# --- in a run ---


def retrying(limits: dict[str, Any] | None = None, **fields: Any) -> Drive:
    policy = {"max_attempts": 3, "initial_delay": 1, "jitter": False} | fields.pop("retry", {})
    return Drive(plan(tool("a", retry=policy, **fields), limits=limits))


def test_timeout_schedules_a_retry_and_nothing_else() -> None:
    drive = retrying(retry={"initial_delay": 3})
    fact = AttemptFailed("a", 1, 1, FailureKind.TIMEOUT, "30 s passed", 0.0, 30.0, ("TimeoutError", "Exception"))

    turn = drive.hand(fact)

    assert turn.events == (fact, RetryScheduled("a", 2, 33.0, 30.0))
    assert turn.commands == (SetTimer("a", 33.0),)


def test_a52_two_failures_and_a_success_wait_one_and_two_seconds() -> None:
    drive = retrying()

    drive.fail("a")
    first = drive.fire("a")
    drive.fail("a")
    drive.fire("a")
    drive.ok("a", "done")

    assert first.events == (TimerFired("a", 1.0), StepDispatched("a", 2, 1, 1.0))
    assert [type(command) for command in first.commands] == [RunStep]
    assert [event.due_at - event.at for event in drive.of_type(RetryScheduled)] == [1, 2]
    assert [event.attempt for event in drive.of_type(RetryScheduled)] == [2, 3]
    assert drive.result.step("a").attempts == 3
    assert drive.status is RunStatus.SUCCESS
    drive.assert_replays()


def test_when_no_attempt_is_left_the_step_fails_with_its_last_error() -> None:
    drive = retrying(retry={"max_attempts": 2})

    drive.fail("a", error="first")
    drive.fire("a")
    turn = drive.fail("a", error="second")

    assert turn.events[1:] == (
        StepFailed("a", StepStatus.FAILED, FailureKind.ERROR, "second", 1.0),
        RunStopping(RunStatus.FAILED, 1.0, "a"),
        RunFinished(RunStatus.FAILED, None, 1.0, "second", "a"),
    )


def test_without_a_policy_there_is_one_attempt() -> None:
    drive = Drive(plan(tool("a")))

    drive.fail("a")

    assert drive.order() == ["a"]
    assert drive.machine.ended


@pytest.mark.parametrize(("kind", "again"), [(FailureKind.NOT_DONE, True), (FailureKind.ERROR, False)])
def test_a_once_step_is_tried_again_only_if_nothing_has_happened(kind: FailureKind, again: bool) -> None:
    drive = retrying(effects="once")

    turn = drive.fail("a", kind)

    assert (kinds(turn.events)[1] == "RetryScheduled a") is again


def test_jitter_is_on_record_as_the_moment_it_leads_to() -> None:
    drive = retrying(retry={"jitter": True, "initial_delay": 8})

    drive.fail("a")

    (scheduled,) = drive.of_type(RetryScheduled)
    assert 0 < scheduled.due_at < 8
    assert scheduled.due_at == delay_s(RetryPolicy(initial_delay=8), 1, "run/a/1")
    drive.assert_replays()


def test_retry_after_decides_the_moment() -> None:
    drive = retrying()

    drive.fail("a", retry_after_s=7.0)

    assert drive.timers["a"] == 7.0


def test_while_a_step_waits_for_its_retry_its_slot_is_free() -> None:
    asked = plan(tool("a", retry={"initial_delay": 5, "jitter": False}), tool("b"), limits={"max_concurrent": 1})
    drive = Drive(asked)

    turn = drive.fail("a")

    assert kinds(turn.events) == ["AttemptFailed a", "RetryScheduled a", "StepDispatched b"]


def test_a_retry_that_is_due_waits_for_a_slot_and_goes_by_its_turn() -> None:
    steps = (tool("a", retry={"initial_delay": 5, "jitter": False}), tool("b"), tool("c"))
    drive = Drive(plan(*steps, limits={"max_concurrent": 1}))
    drive.fail("a")

    assert drive.fire("a").commands == ()
    drive.ok("b")

    assert drive.order() == ["a", "b", "a"]


# --- time limits of a step ---


def test_the_step_limit_counts_from_the_first_attempt_over_all_of_them() -> None:
    drive = retrying(timeout_seconds=10)

    drive.after(4).fail("a")
    drive.fire("a")

    assert [(request.attempt, request.deadline_at) for request in drive.started] == [(1, 10.0), (2, 10.0)]
    assert drive.now == 5.0


@pytest.mark.parametrize(("failed_at", "again"), [(8.9, True), (9.0, False), (9.5, False)])
def test_no_retry_is_planned_for_after_the_step_limit(failed_at: float, again: bool) -> None:
    drive = retrying(timeout_seconds=10)

    turn = drive.after(failed_at).fail("a")

    assert (kinds(turn.events)[1] == "RetryScheduled a") is again
    assert drive.machine.ended is not again


def test_an_attempt_limit_counts_from_each_attempt() -> None:
    drive = retrying(attempt_timeout=3)

    drive.after(2).fail("a")
    drive.fire("a")

    assert [request.deadline_at for request in drive.started] == [3.0, 6.0]


def test_c12_the_nearer_of_the_two_limits_binds() -> None:
    drive = retrying(attempt_timeout=3, timeout_seconds=5)

    drive.after(2.5).fail("a")
    drive.fire("a")

    assert [request.deadline_at for request in drive.started] == [3.0, 5.0]


def test_a_timed_out_attempt_that_is_not_tried_again_times_the_step_out() -> None:
    drive = Drive(plan(tool("a"), fail_fast=False))

    drive.fail("a", FailureKind.TIMEOUT)

    assert drive.statuses() == {"a": "timed_out"}
    assert drive.status is RunStatus.FAILED


def test_a_step_whose_time_ran_out_while_it_waited_for_a_slot_is_not_started_again() -> None:
    steps = (tool("a", timeout_seconds=10, retry={"initial_delay": 5, "jitter": False}), tool("b"))
    drive = Drive(plan(*steps, limits={"max_concurrent": 1}))
    drive.fail("a")
    drive.fire("a")

    turn = drive.after(20).ok("b")

    assert kinds(turn.events) == ["AttemptSucceeded b", "StepFailed a", "RunStopping", "RunFinished"]
    assert drive.statuses()["a"] == "timed_out"
