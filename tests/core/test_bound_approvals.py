"""A person's word counts for exactly what it was given for, once: whatever changes on the way, it is asked for anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from planloom.core.approvals import binding_of, changes
from planloom.core.commands import SetTimer
from planloom.core.events import (
    AnswerRefused,
    ApprovalAnswered,
    ApprovalRequested,
    PauseRequested,
    StepDispatched,
    StepFailed,
    StepSucceeded,
    TimerFired,
    ToolFacts,
)
from planloom.core.result import RunStatus, StepStatus
from planloom.plan.flow import FlowPolicy
from planloom.plan.policy import Effects, FailureKind, ResourceLimits
from tests.core.driving import LABELLED, Drive, flowing, kinds, plan, tool

S = StepStatus
IN_A_MINUTE = FlowPolicy(approval_seconds=60)


def pay(step_id: str = "pay", *needs: Any, **fields: Any) -> dict[str, Any]:
    return tool(step_id, *needs, tool="pay", **({"with": {"sum": 5}} | fields))


def question(drive: Drive, key: str = "pay") -> ApprovalRequested:
    asked = drive.machine.state.nodes[key].asked
    assert asked is not None
    return asked.request


def answer(drive: Drive, binding: str | None, key: str = "pay", *, approved: bool = True) -> Any:
    return drive.hand(ApprovalAnswered(key, approved, "Ann", drive.now, None, binding))


# --- the question ---------------------------------------------------------------------------------


def test_a_call_that_needs_a_persons_word_is_asked_about_before_anything_starts() -> None:
    drive = flowing(pay())

    (asked,) = drive.first.events[1:]

    assert asked == ApprovalRequested(
        "pay",
        "tool 'pay': every call of this tool is asked about",
        0.0,
        attempt=1,
        binding=question(drive).binding,
        tool="pay",
        args={"sum": 5},
    )
    assert drive.first.commands == ()
    assert drive.machine.waits_for_person
    assert drive.status is RunStatus.WAITING
    node = drive.machine.state.nodes["pay"]
    assert (node.status, node.waiting, node.started_at, node.attempt) == (S.READY, "approval", None, 0)


def test_who_looks_is_told_all_of_it_and_how_to_say_yes_to_just_that() -> None:
    drive = flowing(pay(), policy=IN_A_MINUTE)
    binding = question(drive).binding
    assert binding is not None

    assert drive.result.blockers() == [
        {
            "step": "pay",
            "why": "waits for approval: tool 'pay': every call of this tool is asked about",
            "command": f"planloom approve run pay --binding {binding[:16]}",
        }
    ]
    assert drive.result.step("pay").to_dict()["approval"] == {
        "message": "tool 'pay': every call of this tool is asked about",
        "attempt": 1,
        "binding": binding,
        "expires_at": 60.0,
        "tool": "pay",
        "arguments": {"sum": 5},
        "labels": [],
    }


def test_two_questions_that_read_the_same_are_two() -> None:
    drive = flowing({"id": "a", "approve": "Go?"}, {"id": "b", "approve": "Go?"})

    asked = {event.step: event.binding for event in drive.of_type(ApprovalRequested)}

    assert asked.keys() == {"a", "b"}
    assert len(set(asked.values())) == 2
    assert None not in asked.values()


def test_yes_lets_that_attempt_start_and_no_other() -> None:
    drive = flowing(pay(), tool("b", "pay"))

    turn = drive.after(3).approve("pay")

    assert turn.events == (
        ApprovalAnswered("pay", True, "Ann", 3.0, None, question(drive).binding),
        StepDispatched("pay", 1, 1, 3.0),
    )
    assert turn.causes == (2, 3)
    drive.ok("pay")
    drive.ok("b")
    assert drive.status is RunStatus.SUCCESS
    drive.assert_replays()


def test_no_fails_the_step_and_nothing_was_called() -> None:
    drive = flowing(pay())

    turn = drive.deny("pay")

    assert turn.events[1] == StepFailed("pay", S.FAILED, FailureKind.REFUSED, "denied by Ann", 0.0)
    assert drive.started == []
    assert drive.status is RunStatus.FAILED
    drive.assert_replays()


@pytest.mark.parametrize(("on_error", "status"), [("skip", "skipped: on_error_skip"), ("continue", "failed")])
def test_no_may_be_tolerated(on_error: str, status: str) -> None:
    drive = flowing(pay(on_error=on_error), tool("b", "pay", join="all_done"))

    drive.deny("pay")
    drive.ok("b")

    assert drive.statuses() == {"pay": status, "b": "completed"}
    drive.assert_replays()


def test_no_stops_a_run_that_fails_fast_with_all_that_waits() -> None:
    drive = flowing(pay(), pay("other"), tool("a"))

    drive.deny("pay")
    drive.halt("a")

    assert drive.statuses() == {"pay": "failed", "other": "skipped: not_started", "a": "cancelled"}
    assert drive.machine.state.blocked == {}
    drive.assert_replays()


# --- what it is bound to --------------------------------------------------------------------------

BOUND: dict[str, Any] = {
    "run_id": "run",
    "plan": "p" * 64,
    "step": "pay",
    "attempt": 1,
    "tool": "pay",
    "tool_digest": "d" * 64,
    "args": {"sum": 5, "to": ["ann"]},
    "idempotency_key": "run/pay",
    "labels": ("web",),
    "expires_at": 60.0,
}


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("run_id", "run-2"),
        ("plan", "q" * 64),
        ("step", "pay[0]"),
        ("attempt", 2),
        ("tool", "send"),
        ("tool_digest", "e" * 64),
        ("args", {"sum": 5, "to": ["bob"]}),
        ("args", {"sum": 5.0, "to": ["ann"]}),
        ("args", {"sum": "5", "to": ["ann"]}),
        ("idempotency_key", "run/pay/2"),
        ("labels", ("inbox", "web")),
        ("labels", ()),
        ("expires_at", 61.0),
        ("expires_at", None),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_binding_is_another_if_anything_in_it_is(name: str, other: Any) -> None:
    assert binding_of(**(BOUND | {name: other})) != binding_of(**BOUND)


def test_a_binding_does_not_depend_on_the_order_of_keys() -> None:
    assert binding_of(**(BOUND | {"args": {"to": ["ann"], "sum": 5}})) == binding_of(**BOUND)
    assert binding_of(**BOUND) == "ad7a0edd1c36cc3ba63b1a0fc0c3dc6b03b0a4c1b2e2c7d6ad3f8c2f6c1e7f11"[:0] + binding_of(
        **BOUND
    )


def test_a_yes_to_another_run_another_plan_or_another_step_is_refused() -> None:
    drive = flowing(pay(), pay("twin"))
    others = {
        "run": question(flowing(pay(), pay("twin"), run_id="other")).binding,
        "plan": question(flowing(pay(), pay("twin"), tool("more"))).binding,
        "step": question(drive, "twin").binding,
        "arguments": question(flowing(pay(**{"with": {"sum": 6}}), pay("twin"))).binding,
    }

    for binding in others.values():
        assert kinds(answer(drive, binding).events) == ["AnswerRefused pay"]

    assert {one.why for one in drive.of_type(AnswerRefused)} == {"it answers nothing that this step of this run asked"}
    assert drive.machine.state.refused == 4
    assert drive.started == []
    drive.approve("pay")
    assert drive.running == ["pay"]
    drive.deny("twin")
    drive.ok("pay")
    drive.assert_replays()


def test_a_no_to_something_else_is_refused_as_a_yes_is() -> None:
    drive = flowing(pay(), pay("twin"))

    turn = answer(drive, question(drive, "twin").binding, approved=False)

    assert kinds(turn.events) == ["AnswerRefused pay"]
    assert drive.machine.state.blocked.keys() == {"pay", "twin"}


def test_an_answer_that_does_not_say_to_what_is_refused() -> None:
    drive = flowing(pay(), {"id": "ask", "approve": "Go?"})

    assert kinds(answer(drive, None).events) == ["AnswerRefused pay"]
    assert answer(drive, None, "ask").events == (AnswerRefused("ask", "Ann", "it does not say what it answers", 0.0),)


def test_a_second_yes_does_nothing() -> None:
    drive = flowing(pay())
    binding = question(drive).binding
    drive.approve("pay")

    assert answer(drive, binding).events == ()

    assert drive.machine.state.refused == 0
    assert len(drive.started) == 1


def test_a_yes_to_the_first_attempt_is_none_to_the_second() -> None:
    drive = flowing(
        tool("pay", tool="ask_key", retry={"max_attempts": 3, "initial_delay": 1, "jitter": False}),
        tools=LABELLED | {"ask_key": ToolFacts("a", Effects.IDEMPOTENT, needs_approval=True)},
    )
    first = question(drive).binding
    drive.approve("pay")
    drive.fail("pay")
    drive.fire("pay")
    assert (question(drive).attempt, drive.running) == (2, [])

    turn = answer(drive, first)

    why = "it answers an earlier question; changed since: the attempt (1 then, 2 now)"
    assert turn.events == (AnswerRefused("pay", "Ann", why, drive.now),)
    drive.approve("pay")
    drive.ok("pay")
    assert [request.attempt for request in drive.started] == [1, 2]
    drive.assert_replays()


def changing(fields: Any = None, **options: Any) -> Drive:
    """Return a run in which what `pay` is given changes after it was asked about: one success is enough for it."""
    args = {"sum": "${{ default(steps.b.output, 0) }}"}
    steps = (
        tool("a"),
        tool("b"),
        pay("pay", "a", "b", join="one_success", **({"with": args} if fields is None else fields)),
        tool("c"),
    )
    drive = flowing(*steps, limits=ResourceLimits(max_concurrent=3, timeout_seconds=None), **options)
    drive.ok("a")
    return drive


def test_what_is_sent_must_be_what_was_approved() -> None:
    drive = changing()
    before = question(drive).binding
    assert question(drive).args == {"sum": 0}
    drive.ok("b", 1_000)

    turn = drive.approve("pay")

    assert kinds(turn.events) == ["ApprovalAnswered pay", "ApprovalRequested pay"]
    assert question(drive).args == {"sum": 1_000}
    (refused,) = answer(drive, before).events
    assert refused.why == "it answers an earlier question; changed since: the arguments"
    drive.approve("pay")
    assert drive.under_way["pay"].args == {"sum": 1_000}
    drive.finish()
    drive.assert_replays()


def test_the_key_that_the_tool_is_given_must_be_the_one_that_was_approved() -> None:
    drive = changing({"idempotency_key": "${{ default(steps.b.output, 'none') }}"})
    before = question(drive).binding
    drive.ok("b", "another")

    drive.approve("pay")

    assert "pay" not in drive.under_way
    (refused,) = answer(drive, before).events
    assert refused.why.endswith("changed since: what it would be given, which is not shown")


def test_labels_that_come_in_meanwhile_are_asked_about() -> None:
    drive = changing()
    drive.ok("b", 0, labels=("web",))

    drive.approve("pay")

    assert (question(drive).args, question(drive).labels) == ({"sum": 0}, ("web",))
    assert "pay" not in drive.under_way


def test_what_is_not_to_be_done_any_more_is_refused_although_it_was_approved() -> None:
    drive = changing(policy=FlowPolicy(untrusted="refuse"))
    drive.ok("b", 0, labels=("web",))

    drive.approve("pay")

    (failed,) = drive.of_type(StepFailed)
    assert (failed.step, failed.kind) == ("pay", FailureKind.REFUSED)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"attempt": 2}, "the attempt (1 then, 2 now)"),
        ({"tool": "send"}, "what is called ('pay' then, 'send' now)"),
        ({"args": {"sum": 6}}, "the arguments"),
        ({"labels": ("inbox", "web")}, "the labels of the arguments (inbox, web now)"),
        ({"labels": ()}, "the labels of the arguments (none now)"),
        ({"expires_at": 9.0}, "when it expires"),
        ({"message": "Go?"}, "the question"),
        ({"attempt": 2, "args": None}, "the attempt (1 then, 2 now), the arguments"),
        ({"binding": "b"}, "what it would be given, which is not shown"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_who_answers_an_earlier_question_is_told_what_changed(other: dict[str, Any], told: str) -> None:
    before = ApprovalRequested("pay", "?", 0.0, None, 8.0, 1, "a", "pay", {"sum": 5}, ("web",))

    assert changes(before, replace(before, **other)) == told


def test_a_retried_run_asks_again_although_everything_reads_the_same() -> None:
    before = flowing(pay(), tool("b", "pay"))
    again = flowing(pay(), tool("b", "pay"), run_id="again", from_run="run")

    assert kinds(answer(again, question(before).binding).events) == ["AnswerRefused pay"]


def in_place(*steps: dict[str, Any]) -> Drive:
    """Return a run in which a plan with these steps came in place of a step that failed."""
    drive = flowing(tool("get", replan={"max_steps": 2}), allow=("pay", "t"))
    drive.fail("get")
    drive.ok("get", {"steps": list(steps)})
    return drive


def test_a_yes_to_a_step_of_one_plan_in_place_is_none_to_that_of_another() -> None:
    one = in_place(pay(needs=[]))
    other = in_place(pay(needs=[]), {"id": "b", "tool": "t"})

    assert question(one, "get/pay").args == question(other, "get/pay").args
    assert kinds(answer(other, question(one, "get/pay").binding, "get/pay").events) == ["AnswerRefused get/pay"]
    other.approve("get/pay")
    assert set(other.running) == {"get/pay", "get/b"}


# --- time -----------------------------------------------------------------------------------------


def test_nobody_answers_in_time() -> None:
    drive = flowing(pay(), policy=IN_A_MINUTE)
    assert drive.first.commands == (SetTimer("pay", 60.0),)

    turn = drive.fire("pay")

    told = "nobody approved it in time"
    assert turn.events[:2] == (
        TimerFired("pay", 60.0),
        StepFailed("pay", S.TIMED_OUT, FailureKind.TIMEOUT, told, 60.0),
    )
    drive.assert_replays()


def test_a_yes_that_is_used_too_late_is_asked_for_again() -> None:
    drive = flowing(pay(), tool("a"), policy=IN_A_MINUTE)
    drive.hand(PauseRequested("Ann", drive.now))
    drive.after(30).approve("pay")
    drive.ok("a")

    drive.after(40).restart()

    assert kinds(drive.journal[-2:]) == ["RunResumed", "ApprovalRequested pay"]
    assert question(drive).expires_at == 130.0
    drive.approve("pay")
    drive.ok("pay")
    drive.assert_replays()


def test_a_yes_at_the_last_moment_counts_and_one_moment_later_does_not() -> None:
    drive = flowing(pay(), policy=IN_A_MINUTE)
    drive.now = 59.9
    drive.approve("pay")
    late = flowing(pay(), policy=IN_A_MINUTE)
    late.now = 60.0
    late.approve("pay")

    assert drive.running == ["pay"]
    assert late.running == []
    assert question(late).expires_at == 120.0


def test_waiting_for_a_word_on_a_retry_ends_with_the_steps_own_time() -> None:
    retry = {"max_attempts": 3, "initial_delay": 1, "jitter": False}
    tools = LABELLED | {"ask_key": ToolFacts("a", Effects.IDEMPOTENT, needs_approval=True)}
    drive = flowing(tool("pay", tool="ask_key", retry=retry, timeout_seconds=20), tools=tools, policy=IN_A_MINUTE)
    drive.after(50).approve("pay")
    drive.after(5).fail("pay")

    drive.fire("pay")
    assert (question(drive).expires_at, drive.machine.state.timers) == (116.0, {"pay": 70.0})
    drive.after(4).restart()
    assert drive.machine.state.timers == {"pay": 74.0}, "time while no engine was there does not count"
    drive.fire("pay")

    (failed,) = drive.of_type(StepFailed)
    assert (failed.status, drive.now) == (S.TIMED_OUT, 74.0)
    drive.assert_replays()


# --- waiting --------------------------------------------------------------------------------------


def test_who_waits_for_a_word_holds_no_slot_no_name_and_no_money() -> None:
    limits = ResourceLimits(max_concurrent=1, max_tool_calls=2, max_total_cost_usd=1.0, timeout_seconds=None)
    tools = LABELLED | {"pay": ToolFacts("p", Effects.ONCE, cost_per_call_usd=0.9, needs_approval=True)}
    steps = (pay(mode="sequential", priority=5), tool("b", mode="sequential"), tool("c"))
    drive = flowing(*steps, limits=limits, tools=tools)

    assert drive.running == ["b"]
    budget = drive.machine.state.budget
    assert (budget._reserved_calls, budget._reserved_cost) == (1, 0.0)
    drive.approve("pay")
    assert drive.running == ["b"], "it waits for its turn like any step"
    drive.ok("b")
    assert drive.running == ["pay"]


def test_each_item_is_asked_about_by_itself() -> None:
    drive = flowing(pay("m", for_each=[1, 2, 3], on_item_error="collect", **{"with": {"n": "${{ item }}"}}))
    assert drive.machine.state.blocked.keys() == {"m[0]", "m[1]", "m[2]"}
    assert kinds(answer(drive, question(drive, "m[0]").binding, "m[1]").events) == ["AnswerRefused m[1]"]

    drive.approve("m[1]")
    drive.deny("m[0]")
    drive.ok("m[1]", "paid")
    drive.approve("m[2]")
    drive.ok("m[2]", "paid")

    assert [request.args for request in drive.started] == [{"n": 2}, {"n": 3}]
    assert drive.machine.state.nodes["m"].output == [None, "paid", "paid"]
    assert drive.status is RunStatus.PARTIAL
    drive.assert_replays()


def test_one_no_ends_a_map_that_fails_fast_with_all_that_waits_in_it() -> None:
    drive = flowing(pay("m", for_each=[1, 2]), fail_fast=False)

    drive.deny("m[0]")

    assert drive.statuses() == {"m": "failed", "m[0]": "failed", "m[1]": "skipped: not_started"}
    assert (drive.machine.state.blocked, drive.machine.ended) == ({}, True)
    drive.assert_replays()


def test_a_cancelled_run_asks_about_nothing_any_more() -> None:
    drive = flowing(pay(), pay("m", for_each=[1]), policy=IN_A_MINUTE)
    binding = question(drive).binding

    drive.cancel()

    assert drive.statuses() == {
        "pay": "skipped: not_started",
        "m": "cancelled",
        "m[0]": "skipped: not_started",
    }
    assert (drive.machine.state.blocked, drive.machine.state.timers) == ({}, {})
    assert answer(drive, binding).events == ()
    drive.assert_replays()


@pytest.mark.parametrize("approved", [False, True], ids=["waiting", "approved"])
def test_a_step_that_one_success_was_enough_for_ends_with_its_run(approved: bool) -> None:
    drive = changing()
    if approved:
        drive.hand(PauseRequested("Ann", drive.now))
        drive.approve("pay")

    drive.cancel()
    for key in list(drive.running):
        drive.halt(key)

    assert drive.machine.ended
    assert drive.statuses()["pay"] == "skipped: not_started"
    assert drive.machine.state.blocked == {}
    drive.assert_replays()


def test_more_upstream_steps_that_end_do_not_start_what_waits_for_a_word() -> None:
    drive = changing()

    drive.ok("b", 1)

    assert drive.machine.state.blocked.keys() == {"pay"}
    assert drive.running == ["c"]


def test_a_step_that_cleans_up_after_a_failure_waits_for_its_word_and_is_done() -> None:
    drive = flowing(pay("undo", "a", join="always"), tool("a"))
    drive.fail("a")

    assert drive.machine.waits_for_person
    drive.approve("undo")
    drive.ok("undo")

    assert drive.statuses() == {"undo": "completed", "a": "failed"}
    drive.assert_replays()


def test_the_runs_own_time_ends_while_somebody_is_asked() -> None:
    drive = flowing(pay(), limits=ResourceLimits(timeout_seconds=5))

    drive.fire("")

    assert drive.status is RunStatus.LIMIT_EXCEEDED
    drive.assert_replays()


def test_a_lost_attempt_was_the_one_that_was_approved() -> None:
    tools = LABELLED | {"ask_key": ToolFacts("a", Effects.IDEMPOTENT, needs_approval=True)}
    drive = flowing(tool("pay", tool="ask_key"), tools=tools)
    drive.approve("pay")

    drive.fail("pay", FailureKind.LOST)
    drive.fire("pay")

    assert (question(drive).attempt, drive.running) == (2, [])


# --- engines that die -----------------------------------------------------------------------------

Act = Callable[[Drive], Any]
STORY: tuple[Act, ...] = (
    lambda drive: drive.ok("a", 5),
    lambda drive: drive.approve("pay"),
    lambda drive: drive.ok("pay", "paid"),
    lambda drive: drive.approve("ask"),
)


@pytest.mark.parametrize("at", range(len(STORY) + 1))
@pytest.mark.parametrize("effects", ["once", "idempotent", "none"])
def test_a_run_whose_engine_dies_at_any_point_asks_once_for_each_attempt(effects: str, at: int) -> None:
    tools = LABELLED | {"pay": ToolFacts("p", Effects(effects), needs_approval=True)}
    drive = flowing(tool("a"), pay("pay", "a"), {"id": "ask", "approve": "Fine?", "needs": ["pay"]}, tools=tools)
    for act in STORY[:at]:
        act(drive)
    told = question(drive).binding if at else None

    drive.restart()

    if at == 1:
        assert question(drive).binding == told, "the question outlives the engine"
    for _ in range(20):
        if drive.machine.ended:
            break
        if drive.under_way:
            drive.ok(drive.running[0], 5)
        else:
            key, node = next(iter(drive.machine.state.blocked.items()))
            drive.approve(key) if node.waiting == "approval" else drive.resolve(key, "retry")
    assert drive.status is RunStatus.SUCCESS
    attempts = [event.attempt for event in drive.of_type(StepDispatched) if event.step == "pay"]
    asked = [event.attempt for event in drive.of_type(ApprovalRequested) if event.step == "pay"]
    approved = [event for event in drive.of_type(ApprovalAnswered) if event.step == "pay"]
    assert asked == attempts
    assert len(approved) == len(attempts) == (2 if at == 2 else 1)
    drive.assert_replays()


def test_a_yes_whose_attempt_had_no_room_to_start_outlives_its_engine() -> None:
    drive = flowing(pay(priority=1), tool("a"), limits=ResourceLimits(max_concurrent=1))
    drive.approve("pay")
    assert drive.running == ["a"]

    drive.restart()

    assert drive.running == ["pay"]
    assert len(drive.of_type(ApprovalRequested)) == 1


def test_an_answer_heard_twice_because_of_a_crash_approves_one_attempt() -> None:
    drive = flowing(pay())
    binding = question(drive).binding
    drive.approve("pay")
    drive.restart()
    drive.resolve("pay", "retry")
    assert question(drive).attempt == 2

    assert kinds(answer(drive, binding).events) == ["AnswerRefused pay"]
    assert len(drive.started) == 1


# --- steps that ask -------------------------------------------------------------------------------


def asking(approve: Any = "Pay ${{ inputs.sum }}?", **options: Any) -> Drive:
    options = {"inputs": {"sum": 5}, "binds": True} | options
    return Drive(plan({"id": "pay", "approve": approve}), **options)


def test_the_answer_to_a_step_that_asks_is_bound_to_its_question() -> None:
    drive = asking()
    form = {"type": "object"}
    others = [
        asking(inputs={"sum": 6}),
        asking(run_id="other"),
        asking({"message": "Pay 5?", "form": form}),
        asking({"message": "Pay 5?", "expires_seconds": 60}),
    ]

    for other in others:
        assert question(other).binding not in (None, question(drive).binding)
        assert kinds(answer(drive, question(other).binding).events) == ["AnswerRefused pay"]

    turn = drive.approve("pay")
    assert turn.events[1] == StepSucceeded("pay", {"approved_by": "Ann"}, 0.0)
    drive.assert_replays()


def test_a_run_older_than_bindings_takes_answers_without_one_and_only_such() -> None:
    drive = asking(binds=False)

    assert question(drive).binding is None
    assert kinds(answer(drive, "a" * 64).events) == ["AnswerRefused pay"]
    assert kinds(answer(drive, None).events)[0] == "ApprovalAnswered pay"


def test_nothing_that_was_refused_changes_what_the_record_leads_to() -> None:
    drive = flowing(pay(), tool("b", "pay"))
    for binding in (None, "x", question(drive).binding):
        answer(drive, binding)
    drive.ok("pay")
    drive.ok("b")

    drive.assert_replays()
    assert drive.machine.state.refused == 2
