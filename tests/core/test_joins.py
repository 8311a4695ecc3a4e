"""When a step with several upstream steps runs, is skipped, or fails; and what a failed step means for the rest."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from planloom.core.events import RunFinished, StepFailed, StepSkipped
from planloom.core.result import RunStatus, SkipReason
from planloom.plan.policy import FailureKind, JoinRule
from tests.core.driving import Drive, kinds, plan, tool

ENDS = ("ok", "failed", "skipped", "tolerated")
RUNS, FAILED, SKIPPED = "completed", "skipped: upstream_failed", "skipped: upstream_skipped"


def upstream(name: str, end: str) -> dict[str, Any]:
    fields: dict[str, dict[str, Any]] = {"skipped": {"when": False}, "tolerated": {"on_error": "continue"}}
    return tool(name, **fields.get(end, {}))


def expected(rule: JoinRule, ends: tuple[str, ...]) -> str:
    """Return what the trigger rules of the workflow field say; a tolerated failure counts as a success."""
    good = sum(end in ("ok", "tolerated") for end in ends)
    failed, skipped = "failed" in ends, "skipped" in ends
    runs = {
        JoinRule.ALL_SUCCESS: not failed and not skipped,
        JoinRule.NONE_FAILED: not failed,
        JoinRule.ONE_SUCCESS: good > 0,
        JoinRule.NONE_FAILED_MIN_ONE_SUCCESS: not failed and good > 0,
        JoinRule.ALL_DONE: True,
        JoinRule.ALWAYS: True,
    }[rule]
    return RUNS if runs else FAILED if failed else SKIPPED


@pytest.mark.parametrize("rule", list(JoinRule))
@pytest.mark.parametrize("ends", list(product(ENDS, repeat=2)), ids="-".join)
def test_c29_every_join_rule_over_every_pair_of_ends(rule: JoinRule, ends: tuple[str, str]) -> None:
    drive = Drive(
        plan(upstream("a", ends[0]), upstream("b", ends[1]), tool("j", "a", "b", join=rule.value), fail_fast=False)
    )

    for name, end in zip("ab", ends, strict=True):
        if end in ("failed", "tolerated"):
            drive.fail(name)
    drive.finish()

    assert drive.statuses()["j"] == expected(rule, ends)
    drive.assert_replays()


@pytest.mark.parametrize("rule", list(JoinRule))
def test_a_step_without_upstream_steps_runs_under_every_rule(rule: JoinRule) -> None:
    assert Drive(plan(tool("a", join=rule.value))).running == ["a"]


def test_one_success_does_not_wait_for_the_others() -> None:
    drive = Drive(plan(tool("a"), tool("b"), tool("j", "a", "b", join="one_success")))

    turn = drive.ok("a")

    assert kinds(turn.events) == ["AttemptSucceeded a", "StepDispatched j"]
    assert drive.running == ["b", "j"]
    drive.ok("j")
    drive.ok("b")
    assert drive.order() == ["a", "b", "j"]
    assert drive.status is RunStatus.SUCCESS


def test_one_success_starts_once_however_many_succeed() -> None:
    drive = Drive(plan(tool("a"), tool("b"), tool("c"), tool("j", "a", "b", "c", join="one_success")))

    for name in "abc":
        drive.ok(name)

    assert drive.order() == ["a", "b", "c", "j"]


def test_all_done_waits_for_every_upstream_step() -> None:
    drive = Drive(plan(tool("a"), tool("b"), tool("j", "a", "b", join="all_done"), fail_fast=False))

    assert drive.fail("a").commands == ()
    drive.ok("b")

    assert drive.running == ["j"]


def test_skips_cascade_and_each_says_why() -> None:
    drive = Drive(plan(tool("a"), tool("b", "a"), tool("c", "b"), tool("d", "c"), fail_fast=False))

    turn = drive.fail("a")

    assert turn.events[2:] == (
        StepSkipped("b", SkipReason.UPSTREAM_FAILED, 0.0, "a"),
        StepSkipped("c", SkipReason.UPSTREAM_FAILED, 0.0, "b"),
        StepSkipped("d", SkipReason.UPSTREAM_FAILED, 0.0, "c"),
        RunFinished(RunStatus.FAILED, None, 0.0, "no", "a"),
    )


def test_an_attempt_that_was_cancelled_though_nobody_asked_for_it_is_a_failed_step() -> None:
    drive = Drive(plan(tool("a"), tool("j", "a", join="none_failed"), fail_fast=False))

    drive.halt("a")

    assert drive.statuses() == {"a": "failed", "j": "skipped: upstream_failed"}


# --- A44 ---


def forked(**conditions: str) -> Drive:
    steps = [tool(name, {"step": "a", "when": condition}) for name, condition in conditions.items()]
    return Drive(plan(tool("a"), *steps, tool("f", *conditions, join="none_failed_min_one_success")))


def test_a44_a_condition_chooses_the_branch_and_the_join_runs() -> None:
    drive = forked(h="steps.a.output > 5", l="steps.a.output <= 5")

    drive.ok("a", 9)
    result = drive.finish()

    assert drive.statuses() == {
        "a": "completed",
        "h": "completed",
        "l": "skipped: upstream_skipped",
        "f": "completed",
    }
    assert result.status is RunStatus.PARTIAL


def test_a44_when_no_condition_holds_the_join_is_skipped() -> None:
    drive = forked(h="steps.a.output > 5", l="steps.a.output < 5")

    drive.ok("a", 5)

    assert drive.statuses()["f"] == "skipped: upstream_skipped"
    assert drive.status is RunStatus.PARTIAL


def test_a44_a_step_with_a_conditional_edge_runs_when_one_of_its_upstream_steps_counts() -> None:
    drive = Drive(plan(tool("a"), tool("b"), tool("j", {"step": "a", "when": "steps.a.output"}, "b")))

    drive.ok("a", False)
    drive.ok("b")

    assert drive.running == ["j"]


def test_a44_a_failure_skips_everything_behind_it() -> None:
    drive = Drive(plan(tool("a"), tool("b", "a"), tool("c", "b"), tool("d"), fail_fast=False))

    drive.fail("a")

    assert drive.statuses() == {
        "a": "failed",
        "b": "skipped: upstream_failed",
        "c": "skipped: upstream_failed",
        "d": "running",
    }


def test_a44_a_condition_that_raises_is_an_error_on_record_and_not_silently_false() -> None:
    drive = forked(h="steps.a.output.n > 5")

    turn = drive.ok("a", {})

    failed = turn.events[1]
    assert isinstance(failed, StepFailed)
    assert (failed.step, failed.kind) == ("h", FailureKind.INPUT)
    assert failed.error.startswith("the condition on the edge from 'a' cannot be worked out: steps.a.output.n")
    assert drive.status is RunStatus.FAILED


def test_a_condition_that_cannot_be_compared_is_an_error_too() -> None:
    drive = forked(h="steps.a.output > 5")

    drive.ok("a", "many")

    assert drive.statuses()["h"] == "failed"
    assert "cannot compare text > number" in str(drive.machine.state.nodes["h"].error)


def test_a_condition_is_not_asked_when_its_step_did_not_complete() -> None:
    drive = Drive(plan(tool("a"), tool("h", {"step": "a", "when": "steps.a.output.n > 5"}), fail_fast=False))

    drive.fail("a")

    assert drive.statuses()["h"] == "skipped: upstream_failed"


# --- A42 ---


@pytest.mark.parametrize(
    ("on_error", "a", "b", "status"),
    [
        ("fail", "failed", "skipped: upstream_failed", RunStatus.FAILED),
        ("skip", "skipped: on_error_skip", "skipped: upstream_skipped", RunStatus.PARTIAL),
        ("continue", "failed", "completed", RunStatus.PARTIAL),
    ],
)
def test_a42_what_a_failed_step_means(on_error: str, a: str, b: str, status: RunStatus) -> None:
    drive = Drive(plan(tool("a", on_error=on_error), tool("b", "a"), fail_fast=False))

    drive.fail("a")
    result = drive.finish()

    assert drive.statuses() == {"a": a, "b": b}
    assert result.status is status
    assert result.step("a").error == "no"
    drive.assert_replays()


def test_a42_a_tolerated_failure_gives_null_and_keeps_its_error() -> None:
    given = {"x": "${{ steps.a.output }}", "why": "${{ steps.a.error }}", "how": "${{ steps.a.status }}"}
    drive = Drive(plan(tool("a", on_error="continue"), tool("b", **{"with": given})))

    drive.fail("a", error="kaboom")

    assert drive.under_way["b"].args == {"x": None, "why": "kaboom", "how": "failed"}


def test_a_tolerated_failure_does_not_stop_a_run_that_fails_fast() -> None:
    drive = Drive(plan(tool("a", on_error="continue"), tool("b")))

    turn = drive.fail("a")

    assert kinds(turn.events) == ["AttemptFailed a", "StepFailed a"]
    assert drive.finish().status is RunStatus.PARTIAL


def test_a_skipped_failure_lets_a_tolerant_join_run_without_its_value() -> None:
    given = {"x": "${{ default(steps.a.output, 'none') }}"}
    drive = Drive(plan(tool("a", on_error="skip"), tool("b", join="none_failed", **{"with": given})))

    drive.fail("a")

    assert drive.under_way["b"].args == {"x": "none"}


def test_a_step_that_succeeded_at_last_has_no_error() -> None:
    given = {"why": "${{ steps.a.error }}", "tries": "${{ steps.a.attempts }}"}
    drive = Drive(plan(tool("a", retry={"max_attempts": 2}), tool("b", **{"with": given})))
    drive.fail("a", error="first time")
    drive.fire("a")

    drive.ok("a")

    assert drive.under_way["b"].args == {"why": None, "tries": 2}
