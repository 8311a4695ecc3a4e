"""`for_each`: width and items on record first, one result per item, an end when all items have ended."""

from __future__ import annotations

from typing import Any

import pytest

from planloom.core.events import (
    AttemptSucceeded,
    RunFinished,
    RunStopping,
    StepDispatched,
    StepExpanded,
    StepFailed,
    StepSucceeded,
)
from planloom.core.result import RunStatus, StepStatus
from planloom.plan.policy import FailureKind
from tests.core.driving import Drive, kinds, plan, tool

S = StepStatus
ITEM = {"with": {"x": "${{ item }}", "at": "${{ index }}"}}


def mapped(items: Any, **fields: Any) -> Drive:
    return Drive(plan(tool("m", for_each=items, **ITEM, **fields), tool("end", "m", join="all_done")))


def test_items_are_on_record_before_any_of_them_starts() -> None:
    drive = mapped(["a", "b"])

    assert drive.first.events[1:] == (
        StepExpanded("m", ["a", "b"], 0.0),
        StepDispatched("m[0]", 1, 1, 0.0),
        StepDispatched("m[1]", 1, 1, 0.0),
    )
    assert [command.args for command in drive.under_way.values()] == [{"x": "a", "at": 0}, {"x": "b", "at": 1}]
    assert drive.result.step("m").width == 2
    assert drive.statuses() == {"m": "running", "end": "pending", "m[0]": "running", "m[1]": "running"}


def test_results_stand_in_the_order_of_the_items_whatever_came_first() -> None:
    drive = mapped([1, 2, 3])

    for key in ("m[2]", "m[0]"):
        assert drive.ok(key, key).commands == ()
    turn = drive.ok("m[1]", "m[1]")

    assert turn.events[1:] == (
        StepSucceeded("m", ["m[0]", "m[1]", "m[2]"], 0.0),
        StepDispatched("end", 1, 1, 0.0),
    )
    drive.finish()
    drive.assert_replays()


def test_no_items_give_an_empty_list() -> None:
    drive = mapped([])

    assert kinds(drive.first.events) == ["RunStarted", "StepExpanded m", "StepSucceeded m", "StepDispatched end"]
    assert drive.machine.state.nodes["m"].output == []
    assert drive.result.step("m").width == 0


@pytest.mark.parametrize("value", [None, 3, "text", {"a": 1}, True])
def test_what_is_no_list_fails_the_step(value: Any) -> None:
    drive = Drive(plan(tool("m", for_each="inputs.list", **ITEM)), inputs={"list": value})

    (failed,) = drive.of_type(StepFailed)
    assert (failed.step, failed.kind) == ("m", FailureKind.INPUT)
    assert failed.error == f"`for_each` needs a list and got {type(value).__name__}: 'inputs.list'"


def test_a_list_that_is_not_there_fails_the_step() -> None:
    drive = Drive(plan(tool("m", for_each="${{ inputs.list }}", **ITEM)), inputs={})

    (failed,) = drive.of_type(StepFailed)
    assert failed.error.startswith("inputs.list leads nowhere")


def test_items_may_be_anything_and_refer_to_their_parts_and_to_other_steps() -> None:
    given = {
        "first": "${{ item.list[0] }}",
        "of": "${{ len(steps.a.output) }}",
        "k": "${{ inputs.k }}",
        "all": "${{ item }}",
    }
    drive = Drive(plan(tool("a"), tool("m", for_each="steps.a.output", **{"with": given})), inputs={"k": "v"})
    items = [{"name": "x", "list": [1]}, {"name": "y", "list": [[2]]}]

    drive.ok("a", items)

    assert [request.args for request in drive.under_way.values()] == [
        {"first": 1, "of": 2, "k": "v", "all": items[0]},
        {"first": [2], "of": 2, "k": "v", "all": items[1]},
    ]


def test_one_item_that_cannot_be_resolved_fails_the_map() -> None:
    drive = Drive(plan(tool("m", for_each=[{"n": 1}, {}], **{"with": {"x": "${{ item.n }}"}})))

    assert drive.running == ["m[0]"]
    assert drive.stopped == ["m[0]"]
    drive.halt("m[0]")
    assert drive.result.step("m").error == ("item 1: item.n leads nowhere: no 'n'; it is an empty object")


def test_a_list_of_items_may_hold_references() -> None:
    drive = Drive(plan(tool("m", for_each=["${{ inputs.a }}", 2], **ITEM)), inputs={"a": [1]})

    assert [request.args["x"] for request in drive.under_way.values()] == [[1], 2]


def test_fail_fast_stops_the_other_items_and_fails_the_step() -> None:
    drive = mapped([1, 2, 3], max_parallel=2, on_error="continue")

    turn = drive.fail("m[1]", error="bad")
    assert kinds(turn.events) == ["AttemptFailed m[1]", "StepFailed m[1]"]
    assert drive.stopped == ["m[0]"]
    turn = drive.halt("m[0]")

    assert turn.events[1:] == (
        StepFailed("m[0]", S.CANCELLED, FailureKind.CANCELLED, "stopped", 0.0),
        StepFailed("m", S.FAILED, FailureKind.ERROR, "item 1: bad", 0.0),
        StepDispatched("end", 1, 1, 0.0),
    )
    assert drive.statuses() == {
        "m": "failed",
        "end": "running",
        "m[0]": "cancelled",
        "m[1]": "failed",
        "m[2]": "skipped: not_started",
    }
    drive.finish()
    drive.assert_replays()


def test_an_item_that_finishes_although_it_was_stopped_keeps_its_result() -> None:
    drive = mapped([1, 2])

    drive.fail("m[0]")
    drive.ok("m[1]", "kept")

    assert drive.machine.state.nodes["m[1]"].output == "kept"
    assert drive.statuses()["m"] == "failed"


def test_collect_gives_null_for_what_failed_and_says_what_did() -> None:
    drive = mapped([1, 2, 3], on_item_error="collect")

    drive.fail("m[1]", FailureKind.TIMEOUT, "late")
    drive.ok("m[0]", "a")
    turn = drive.ok("m[2]", "c")

    errors = ({"index": 1, "error": "late", "kind": FailureKind.TIMEOUT},)
    assert turn.events[1] == StepSucceeded("m", ["a", None, "c"], 0.0, errors)
    assert drive.finish().status is RunStatus.PARTIAL
    assert drive.result.step("m").errors == errors
    drive.assert_replays()


def test_collected_errors_can_be_referred_to() -> None:
    drive = Drive(
        plan(
            tool("m", for_each=[1, 2], on_item_error="collect"),
            tool("b", **{"with": {"bad": "${{ len(steps.m.errors) }}", "which": "${{ steps.m.errors[0].index }}"}}),
        )
    )
    drive.fail("m[1]")

    drive.ok("m[0]")

    assert drive.under_way["b"].args == {"bad": 1, "which": 1}


def test_collect_fails_when_every_item_failed() -> None:
    drive = mapped([1, 2, 3], on_item_error="collect")

    for key in ("m[2]", "m[0]", "m[1]"):
        drive.fail(key, error=f"no {key}")

    (_, _, _, failed) = drive.of_type(StepFailed)
    assert failed == StepFailed("m", S.FAILED, FailureKind.ERROR, "item 0: no m[0] (and 2 more)", 0.0)


def test_a_failed_map_stops_the_run_unless_it_is_tolerated() -> None:
    drive = mapped([1])

    turn = drive.fail("m[0]", error="bad")

    assert turn.events[2:] == (
        StepFailed("m", S.FAILED, FailureKind.ERROR, "item 0: bad", 0.0),
        RunStopping(RunStatus.FAILED, 0.0, "m"),
        RunFinished(RunStatus.FAILED, None, 0.0, "item 0: bad", "m"),
    )


def test_on_error_skip_is_about_the_step_and_not_its_items() -> None:
    drive = mapped([1, 2], on_error="skip", on_item_error="collect")

    drive.fail("m[0]")
    drive.fail("m[1]")

    assert drive.statuses()["m"] == "skipped: on_error_skip"
    assert drive.statuses()["m[0]"] == "failed"
    assert drive.running == ["end"]


def test_each_item_is_tried_again_by_itself() -> None:
    drive = mapped([1, 2], retry={"max_attempts": 2, "initial_delay": 3, "jitter": False})

    drive.fail("m[0]")
    drive.ok("m[1]", "b")
    drive.fire("m[0]")
    turn = drive.ok("m[0]", "a")

    assert [(request.key, request.attempt) for request in drive.started[:3]] == [("m[0]", 1), ("m[1]", 1), ("m[0]", 2)]
    assert turn.events[1] == StepSucceeded("m", ["a", "b"], 3.0)


def test_each_item_has_its_own_key() -> None:
    drive = Drive(plan(tool("m", for_each=[7, 8]), tool("k", for_each=[7], idempotency_key="pay-${{ item }}")))

    assert [request.idempotency_key for request in drive.started] == ["run/m[0]", "run/m[1]", "pay-7"]


def test_each_item_has_its_own_time_limit() -> None:
    drive = mapped([1, 2], max_parallel=1, timeout_seconds=10)

    drive.after(6).ok("m[0]")

    assert [request.deadline_at for request in drive.started] == [10.0, 16.0]


def test_an_item_waiting_for_its_retry_ends_when_the_map_stops() -> None:
    drive = mapped([1, 2], retry={"max_attempts": 2, "jitter": False}, on_error="continue")
    drive.fail("m[0]")

    turn = drive.fail("m[1]", FailureKind.REFUSED)

    assert kinds(turn.events) == ["AttemptFailed m[1]", "StepFailed m[1]", "StepFailed m", "StepDispatched end"]
    assert drive.statuses()["m[0]"] == "cancelled"
    assert "m[0]" not in drive.machine.state.timers


def test_a_condition_on_a_map_is_asked_once_and_before_its_items() -> None:
    drive = mapped("inputs.nothing", when=False)

    assert drive.statuses() == {"m": "skipped: condition_false", "end": "running"}


def test_a_map_over_waits_rings_each() -> None:
    drive = Drive(plan({"id": "w", "wait": "${{ item }}", "for_each": [1, 2]}))

    assert drive.running == []
    assert drive.machine.state.timers == {"w[0]": 1.0, "w[1]": 2.0}
    drive.fire("w[0]")
    drive.fire("w[1]")
    assert drive.output == [None, None]


def test_a_map_over_approvals_asks_each() -> None:
    drive = Drive(plan({"id": "ask", "approve": "Pay ${{ item }}?", "for_each": ["a", "b"]}))

    drive.approve("ask[1]")
    drive.approve("ask[0]")

    assert drive.output == [{"approved_by": "Ann"}, {"approved_by": "Ann"}]


def test_a_thousand_items_are_one_list_of_a_thousand_results() -> None:
    drive = mapped(list(range(3)) + [{"n": at} for at in range(3, 1_000)])

    for at in range(1_000):
        drive.machine.handle(AttemptSucceeded(f"m[{at}]", 1, 1, at, 0.0, 0.0))

    assert drive.machine.state.nodes["m"].output == list(range(1_000))


@pytest.mark.slow
def test_a_map_of_ten_thousand_items_goes_through_one_slot() -> None:
    drive = Drive(plan(tool("m", for_each="inputs.list", max_parallel=1)), inputs={"list": list(range(10_000))})

    for at in range(10_000):
        turn = drive.machine.handle(AttemptSucceeded(f"m[{at}]", 1, 1, at, 0.0, 0.0))
        assert len(turn.commands) == 1

    assert drive.output == list(range(10_000))
