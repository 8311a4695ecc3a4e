"""A plan as a step of another plan: inputs in, outputs out, failures and limits through the wall between them."""

from __future__ import annotations

from typing import Any

import pytest

from planloom.core.commands import RunStep, SetTimer, StopStep
from planloom.core.events import (
    RunFinished,
    RunStopping,
    StepDispatched,
    StepFailed,
    StepSucceeded,
    SubPlanStarted,
    TimerFired,
)
from planloom.core.result import RunStatus, StepStatus
from planloom.plan.policy import FailureKind
from tests.core.driving import Drive, kinds, plan, tool

S = StepStatus
DOUBLE = {
    "name": "double",
    "inputs": {"n": {"type": "integer"}, "by": {"type": "integer", "default": 2}},
    "steps": [tool("x", **{"with": {"n": "${{ inputs.n }}", "by": "${{ inputs.by }}"}}), tool("y", "x")],
    "outputs": {"x": "${{ steps.x.output }}", "who": "${{ run.plan }}"},
}


def sub(inner: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": "sub", "plan": inner} | fields


def inner(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"steps": list(steps)} | fields


def test_a_sub_plan_gets_its_inputs_with_their_defaults() -> None:
    drive = Drive(plan(tool("a"), sub(DOUBLE, **{"with": {"n": "${{ steps.a.output }}"}})))

    turn = drive.ok("a", 3)

    assert turn.events[1:] == (SubPlanStarted("sub", {"n": 3, "by": 2}, 0.0), StepDispatched("sub/x", 1, 1, 0.0))
    assert drive.under_way["sub/x"].args == {"n": 3, "by": 2}


def test_its_outputs_are_the_output_of_the_step() -> None:
    drive = Drive(plan(sub(DOUBLE, **{"with": {"n": 3}}), tool("b", **{"with": {"x": "${{ steps.sub.output.x }}"}})))

    drive.ok("sub/x", 6)
    turn = drive.ok("sub/y")

    assert turn.events[1:] == (
        StepSucceeded("sub", {"x": 6, "who": "double"}, 0.0),
        StepDispatched("b", 1, 1, 0.0),
    )
    assert drive.under_way["b"].args == {"x": 6}
    assert drive.finish().status is RunStatus.SUCCESS
    drive.assert_replays()


@pytest.mark.parametrize(
    ("given", "says"),
    [({}, "'n' is missing"), ({"n": "three"}, "'n'"), ({"n": 1, "m": 2}, "no input 'm'")],
    ids=["missing", "wrong type", "unknown"],
)
def test_wrong_inputs_fail_the_step_before_anything_of_it_starts(given: dict[str, Any], says: str) -> None:
    drive = Drive(plan(sub(DOUBLE, **{"with": given})))

    (failed,) = drive.of_type(StepFailed)
    assert (failed.step, failed.kind) == ("sub", FailureKind.INPUT)
    assert says in failed.error
    assert drive.started == []


def test_a_sub_plan_without_steps_succeeds_with_nothing() -> None:
    drive = Drive(plan(sub(inner())))

    assert kinds(drive.first.events) == ["RunStarted", "SubPlanStarted sub", "StepSucceeded sub", "RunFinished"]
    assert drive.status is RunStatus.SUCCESS


def test_steps_inside_cannot_see_steps_outside() -> None:
    drive = Drive(
        plan(tool("a"), sub(inner(tool("a"), tool("b", **{"with": {"x": "${{ steps.a.output }}"}})), needs=["a"]))
    )

    drive.ok("a", "outer")
    drive.ok("sub/a", "inner")

    assert drive.under_way["sub/b"].args == {"x": "inner"}


def test_sub_plans_nest() -> None:
    deep = inner({"id": "mid", "plan": inner(tool("leaf"), outputs="${{ steps.leaf.output }}")})
    drive = Drive(plan(sub(deep)))

    assert drive.running == ["sub/mid/leaf"]
    assert drive.finish().output == "sub/mid/leaf"


def test_a_failure_deep_inside_is_told_at_every_wall() -> None:
    drive = Drive(plan(sub(inner({"id": "mid", "plan": inner(tool("leaf"))}))))

    turn = drive.fail("sub/mid/leaf", error="kaboom")

    inside = "step 'mid' of the sub-plan: step 'leaf' of the sub-plan: kaboom"
    assert turn.events[1:] == (
        StepFailed("sub/mid/leaf", S.FAILED, FailureKind.ERROR, "kaboom", 0.0),
        StepFailed("sub/mid", S.FAILED, FailureKind.ERROR, "step 'leaf' of the sub-plan: kaboom", 0.0),
        StepFailed("sub", S.FAILED, FailureKind.ERROR, inside, 0.0),
        RunStopping(RunStatus.FAILED, 0.0, "sub"),
        RunFinished(RunStatus.FAILED, None, 0.0, inside, "sub"),
    )
    drive.assert_replays()


def test_a_failure_inside_stops_what_is_inside_and_nothing_else() -> None:
    drive = Drive(plan(sub(inner(tool("a"), tool("b"), tool("c", "b")), on_error="continue"), tool("out")))

    drive.fail("sub/a", error="bad")

    assert drive.stopped == ["sub/b"]
    assert drive.statuses() == {
        "sub": "running",
        "out": "running",
        "sub/a": "failed",
        "sub/b": "running",
        "sub/c": "pending",
    }
    drive.ok("sub/b")
    assert drive.statuses()["sub/c"] == "skipped: not_started"
    assert drive.running == ["out"]


def test_the_step_that_failed_is_named_and_not_one_that_was_stopped_because_of_it() -> None:
    drive = Drive(plan(sub(inner(tool("a"), tool("b")))))

    drive.fail("sub/b", FailureKind.REFUSED, "kaboom")
    drive.halt("sub/a")

    result = drive.result.step("sub")
    assert (result.error, result.error_kind) == ("step 'b' of the sub-plan: kaboom", "refused")


def test_the_step_that_failed_is_named_and_not_one_that_was_skipped_for_an_error_before() -> None:
    drive = Drive(plan(sub(inner(tool("a", on_error="skip"), tool("b", "a", join="all_done")))))

    drive.fail("sub/a", error="skipped over")
    drive.fail("sub/b", error="kaboom")

    assert drive.result.step("sub").error == "step 'b' of the sub-plan: kaboom"


def test_the_step_that_failed_is_named_and_not_one_that_was_tried_twice() -> None:
    again = {"max_attempts": 2, "initial_delay": 0, "jitter": False}
    drive = Drive(plan(sub(inner(tool("a", retry=again), tool("b", "a")))))

    drive.fail("sub/a", error="first try")
    drive.fire("sub/a")
    drive.ok("sub/a")
    drive.fail("sub/b", error="kaboom")

    assert drive.result.step("sub").error == "step 'b' of the sub-plan: kaboom"


def test_a_sub_plan_that_does_not_fail_fast_goes_on_and_fails_at_its_end() -> None:
    drive = Drive(plan(sub(inner(tool("a"), tool("b"), tool("c", "b"), fail_fast=False))))

    drive.fail("sub/a", error="bad")
    drive.ok("sub/b")

    assert drive.running == ["sub/c"]
    assert drive.finish().step("sub").error == "step 'a' of the sub-plan: bad"


def test_clean_up_inside_runs_after_a_failure_inside() -> None:
    drive = Drive(plan(sub(inner(tool("a"), tool("b", "a"), tool("tidy", "b", join="always"))), tool("out")))

    drive.fail("sub/a", error="bad")

    assert drive.running == ["out", "sub/tidy"]
    drive.ok("sub/tidy")
    assert drive.result.step("sub").error == "step 'a' of the sub-plan: bad"


def test_clean_up_inside_runs_after_a_failure_outside() -> None:
    drive = Drive(plan(tool("out"), sub(inner(tool("a"), tool("tidy", "a", join="always")))))

    drive.fail("out")
    turn = drive.halt("sub/a")

    assert kinds(turn.events) == ["AttemptFailed sub/a", "StepFailed sub/a", "StepDispatched sub/tidy"]
    assert drive.finish().status is RunStatus.FAILED


def test_a_sub_plan_that_was_stopped_is_cancelled() -> None:
    drive = Drive(plan(tool("out"), sub(inner(tool("a"), tool("b", "a")))))

    drive.fail("out")
    turn = drive.halt("sub/a")

    assert turn.events[2] == StepFailed("sub", S.CANCELLED, FailureKind.CANCELLED, "stopped with steps not done", 0.0)
    assert drive.statuses()["sub/b"] == "skipped: not_started"


def test_a_sub_plan_that_did_all_its_steps_keeps_its_output_although_it_was_asked_to_stop() -> None:
    drive = Drive(plan(tool("out"), sub(inner(tool("a"), tool("b")))))
    drive.ok("sub/b", 1)
    drive.fail("out")

    drive.ok("sub/a", 2)

    assert drive.statuses()["sub"] == "completed"
    assert drive.result.step("sub").output == {"a": 2, "b": 1}


def test_an_output_that_leads_nowhere_fails_the_step() -> None:
    drive = Drive(plan(sub(inner(tool("a"), outputs={"x": "${{ steps.a.output.n }}"}))))

    drive.ok("sub/a", {})

    (failed,) = drive.of_type(StepFailed)
    assert failed.kind is FailureKind.INPUT
    assert failed.error.startswith("`outputs` of the sub-plan: steps.a.output.n leads nowhere")


def test_a_step_skipped_inside_makes_the_run_partial() -> None:
    drive = Drive(plan(sub(inner(tool("a", when=False), tool("b")))))

    assert drive.finish().status is RunStatus.PARTIAL


def test_a_tolerated_failure_inside_lets_the_sub_plan_succeed() -> None:
    drive = Drive(plan(sub(inner(tool("a", on_error="continue"), tool("b", "a")))))

    drive.fail("sub/a")
    drive.ok("sub/b", 1)

    assert drive.statuses()["sub"] == "completed"
    assert (drive.status, drive.output) == (RunStatus.PARTIAL, 1)


def test_a_map_of_sub_plans_gives_each_item_its_own() -> None:
    step = sub(DOUBLE, for_each=[1, 2], **{"with": {"n": "${{ item }}"}})
    drive = Drive(plan(step))

    assert kinds(drive.first.events) == [
        "RunStarted",
        "StepExpanded sub",
        "SubPlanStarted sub[0]",
        "StepDispatched sub[0]/x",
        "SubPlanStarted sub[1]",
        "StepDispatched sub[1]/x",
    ]
    assert [request.args["n"] for request in drive.under_way.values()] == [1, 2]
    result = drive.finish()
    assert result.output == [{"x": "sub[0]/x", "who": "double"}, {"x": "sub[1]/x", "who": "double"}]
    drive.assert_replays()


def test_a_failure_in_one_sub_plan_of_a_map_stops_the_others() -> None:
    drive = Drive(plan(sub(inner(tool("a"), tool("b", "a")), for_each=[1, 2])))

    drive.fail("sub[0]/a", error="bad")
    drive.halt("sub[1]/a")

    assert drive.statuses() == {
        "sub": "failed",
        "sub[0]": "failed",
        "sub[1]": "cancelled",
        "sub[0]/a": "failed",
        "sub[0]/b": "skipped: not_started",
        "sub[1]/a": "cancelled",
        "sub[1]/b": "skipped: not_started",
    }
    assert drive.result.error == "item 0: step 'a' of the sub-plan: bad"


def test_a_stopped_item_tries_nothing_again_not_even_its_clean_up() -> None:
    again = {"max_attempts": 3, "jitter": False}
    tidy = tool("tidy", "a", join="always", retry=again)
    drive = Drive(plan(sub(inner(tool("a"), tidy), for_each=[1, 2], on_error="continue")))
    drive.ok("sub[1]/a")
    drive.fail("sub[0]/a", error="bad")
    drive.ok("sub[0]/tidy")

    turn = drive.fail("sub[1]/tidy", error="broken off")

    assert "RetryScheduled sub[1]/tidy" not in kinds(turn.events)
    assert drive.machine.ended


def test_a_map_inside_a_sub_plan_inside_a_map() -> None:
    step = sub(
        inner(tool("m", for_each="inputs.list"), inputs={"list": {}}),
        for_each=[[1], [2, 3]],
        **{"with": {"list": "${{ item }}"}},
    )
    drive = Drive(plan(step))

    assert drive.running == ["sub[0]/m[0]", "sub[1]/m[0]", "sub[1]/m[1]"]
    assert drive.finish().output == [["sub[0]/m[0]"], ["sub[1]/m[0]", "sub[1]/m[1]"]]
    drive.assert_replays()


def test_what_is_allowed_only_narrows() -> None:
    deep = inner({"id": "mid", "plan": inner(tool("leaf"), allow=["t", "more"])}, tool("x"), allow=["t", "x"])
    drive = Drive(plan(sub(deep), tool("out"), allow=["t", "y"]), allow=("t",))

    allows = {command.key: command.allow for command in drive.first.commands if isinstance(command, RunStep)}

    outer = (frozenset({"t"}), frozenset({"t", "y"}))
    assert allows == {
        "out": outer,
        "sub/x": (*outer, frozenset({"t", "x"})),
        "sub/mid/leaf": (*outer, frozenset({"t", "x"}), frozenset({"t", "more"})),
    }


# --- its time ---


def timed(*steps: dict[str, Any], **fields: Any) -> Drive:
    return Drive(plan(sub(inner(*steps), timeout_seconds=10, **fields), tool("out", "sub")))


def test_a_sub_plan_has_its_time_for_everything_in_it() -> None:
    drive = timed(tool("a"), tool("b", "a"))

    assert SetTimer("sub", 10.0) in drive.first.commands
    drive.after(6).ok("sub/a")
    turn = drive.fire("sub")

    assert kinds(turn.events) == ["TimerFired sub"]
    assert turn.commands == (StopStep("sub/b"),)
    drive.halt("sub/b")
    assert drive.statuses()["sub"] == "timed_out"
    assert drive.status is RunStatus.FAILED
    drive.assert_replays()


def test_a_sub_plan_that_ends_in_time_is_not_woken_any_more() -> None:
    drive = timed(tool("a"))

    drive.ok("sub/a")

    assert drive.machine.state.timers == {}
    assert drive.hand(TimerFired("sub", 10.0)).events == ()


def test_a_run_that_waits_for_a_person_after_a_timed_sub_plan_says_so() -> None:
    drive = Drive(plan(sub(inner(tool("a")), timeout_seconds=10), {"id": "ask", "approve": "Go?", "needs": ["sub"]}))

    drive.ok("sub/a")

    assert drive.machine.waits_for_person


def test_the_time_of_a_sub_plan_does_not_count_while_nobody_works_on_it() -> None:
    drive = timed(tool("a"))

    turn = drive.after(0).restart()
    assert SetTimer("sub", 10.0) in turn.commands
    turn = drive.after(100).restart()

    assert SetTimer("sub", 110.0) in turn.commands


def test_clean_up_inside_runs_when_its_time_is_over() -> None:
    drive = timed(tool("a"), tool("tidy", "a", join="always"))

    drive.fire("sub")
    drive.halt("sub/a")

    assert drive.running == ["sub/tidy"]
    drive.ok("sub/tidy")
    assert drive.statuses()["sub"] == "timed_out"


def test_after_a_cancel_its_time_brings_nothing_back() -> None:
    drive = timed(tool("a"), tool("tidy", "a", join="always"))
    drive.cancel()

    drive.hand(TimerFired("sub", 10.0))
    drive.halt("sub/a")

    assert drive.order() == ["sub/a"]
    assert drive.status is RunStatus.CANCELLED
