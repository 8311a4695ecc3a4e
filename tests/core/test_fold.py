"""State from events alone: legal moves, what references see, and that replay needs nothing but the record."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from planloom.core.events import EVENT_TYPES
from planloom.core.fold import APPLY, apply
from planloom.core.result import ENDED, StepStatus
from planloom.core.run_state import RunState
from planloom.core.state import TRANSITIONS
from planloom.errors import MissingValueError
from tests.core.driving import Drive, plan, tool

S = StepStatus


def test_every_event_has_its_place_in_the_fold() -> None:
    assert set(APPLY) == set(EVENT_TYPES)


def test_every_status_has_its_moves_and_ended_ones_have_none() -> None:
    assert set(TRANSITIONS) == set(StepStatus)
    assert {status for status, moves in TRANSITIONS.items() if not moves} == ENDED
    assert all(moves <= set(StepStatus) - {S.PENDING} for moves in TRANSITIONS.values())


@pytest.mark.parametrize(("now", "then"), list(product(StepStatus, StepStatus)))
def test_only_legal_moves_are_made(now: StepStatus, then: StepStatus) -> None:
    node = Drive(plan(tool("a"))).machine.state.nodes["a"]
    node.status = now

    if then in TRANSITIONS[now]:
        node.move(then)
        assert node.status is then
    else:
        with pytest.raises(AssertionError):
            node.move(then)


def test_events_are_counted_and_timed() -> None:
    drive = Drive(plan(tool("a")))
    drive.after(4).ok("a")

    assert drive.machine.state.seq == len(drive.journal) == 4
    assert drive.machine.state.last_at == 4.0


def test_the_same_events_give_the_same_state_however_often() -> None:
    drive = Drive(plan(tool("a"), tool("m", "a", for_each="steps.a.output"), tool("b", "m")))
    drive.ok("a", [1, 2])
    drive.ok("m[0]")

    states = [RunState("run") for _ in range(2)]
    for state in states:
        for event in drive.journal:
            apply(state, event)

    assert [list(state.nodes) for state in states] == [["a", "m", "b", "m[0]", "m[1]"]] * 2
    assert [sorted(state.running) for state in states] == [["m[1]"]] * 2
    drive.assert_replays()


# --- what references see ---


def seen(given: Any, **inputs: Any) -> Any:
    drive = Drive(plan(tool("a"), tool("b", "a", join="all_done", **{"with": {"x": given}})), inputs=inputs)
    drive.ok("a", {"n": 1})
    return drive.under_way["b"].args["x"]


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("${{ steps.a }}", {"n": 1}),
        ("${{ steps.a.output.n }}", 1),
        ("${{ steps.a.status }}", "completed"),
        ("${{ steps.a.error }}", None),
        ("${{ steps.a.errors }}", []),
        ("${{ steps.a.attempts }}", 1),
        ("${{ inputs.k }}", "v"),
        ("${{ inputs }}", {"k": "v"}),
        ("${{ run.id }}", "run"),
        ("${{ run.plan }}", "p"),
    ],
)
def test_what_a_step_sees(reference: str, value: Any) -> None:
    assert seen(reference, k="v") == value


@pytest.mark.parametrize("root", ["item", "index"])
def test_item_exists_only_inside_a_for_each(root: str) -> None:
    scope = Drive(plan(tool("a"))).machine.state.root

    with pytest.raises(MissingValueError, match=f"'{root}' exists only inside a `for_each` step"):
        scope.root(root)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"when": False}, r"step 'a' has no output: it is skipped \(condition_false\)"),
        ({"on_error": "skip"}, r"step 'a' has no output: it is skipped \(on_error_skip\)"),
        ({}, r"step 'a' has no output: it is failed"),
    ],
)
def test_a_step_without_output_says_why(fields: dict[str, Any], says: str) -> None:
    drive = Drive(plan(tool("a", **fields), tool("b"), fail_fast=False))
    if "a" in drive.under_way:
        drive.fail("a")

    with pytest.raises(MissingValueError, match=says) as caught:
        drive.machine.state.root.step("a", "output")

    assert caught.value.facts["reference"] == "steps.a.output"
    assert "default(steps.a.output, …)" in caught.value.remedy


def test_a_tolerated_step_that_has_not_ended_has_no_output_yet() -> None:
    drive = Drive(plan(tool("a", on_error="continue")))

    with pytest.raises(MissingValueError, match="it is running"):
        drive.machine.state.root.step("a", "output")


def test_what_a_step_handed_out_is_not_what_is_on_record() -> None:
    drive = Drive(plan(tool("a"), tool("b", **{"with": {"x": "${{ steps.a.output }}"}})))
    drive.ok("a", {"deep": [1]})

    drive.under_way["b"].args["x"]["deep"].clear()

    assert drive.journal[2].output == {"deep": [1]}
