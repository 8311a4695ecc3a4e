"""The plain walk of a run: what starts when, what each turn says, what is refused, what the run returns."""

from __future__ import annotations

from typing import Any

import pytest

from planloom.core import machine
from planloom.core.commands import EndRun, GoOn, RunStep
from planloom.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    CancelRequested,
    ResultRefused,
    RunFinished,
    RunStarted,
    RunStopping,
    StepDispatched,
    StepFailed,
    StepSkipped,
    TimerFired,
    WentOn,
)
from planloom.core.machine import RunMachine
from planloom.core.result import RunStatus, SkipReason, StepStatus
from planloom.core.turns import Turn
from planloom.plan.policy import Effects, FailureKind
from tests.core.driving import NONE, TOOLS, Drive, kinds, plan, tool

S = StepStatus


# --- turns ---


def test_the_first_turn_starts_what_waits_for_nothing_and_nothing_else() -> None:
    asked = plan(tool("a", **{"with": {"x": [1]}}), tool("b", "a"))
    heart = RunMachine("run")
    started = RunStarted(asked, {}, 5.0, tools=TOOLS)

    turn = heart.handle(started)

    assert turn.events == (started, StepDispatched("a", 1, 1, 5.0))
    assert turn.causes == (0, 1)
    assert turn.commands == (RunStep("run", "a", asked.steps[0], 1, 1, {"x": [1]}, Effects.NONE, False, "run/a"),)


def test_a_success_starts_what_waited_for_it() -> None:
    asked = plan(tool("a"), tool("b", **{"with": {"x": "${{ steps.a.output.n }}"}}))
    drive = Drive(asked)
    fact = AttemptSucceeded("a", 1, 1, {"n": 2}, 0.0, 1.0)

    turn = drive.hand(fact)

    assert turn.events == (fact, StepDispatched("b", 1, 1, 1.0))
    assert turn.causes == (2, 3)
    assert turn.commands == (RunStep("run", "b", asked.steps[1], 1, 1, {"x": 2}, Effects.NONE, False, "run/b"),)


def test_the_last_success_ends_the_run() -> None:
    drive = Drive(plan(tool("a")))
    fact = AttemptSucceeded("a", 1, 1, 7, 0.0, 1.0)

    turn = drive.hand(fact)

    assert turn.events == (fact, RunFinished(RunStatus.SUCCESS, 7, 1.0))
    assert turn.causes == (2, 3)
    assert turn.commands == (EndRun(RunStatus.SUCCESS),)


def test_a_failure_stops_the_run_and_says_which_step_it_was() -> None:
    drive = Drive(plan(tool("a"), tool("b", "a")))
    fact = AttemptFailed("a", 1, 1, FailureKind.ERROR, "no", 0.0, 1.0)

    turn = drive.hand(fact)

    assert turn.events == (
        fact,
        StepFailed("a", S.FAILED, FailureKind.ERROR, "no", 1.0),
        RunStopping(RunStatus.FAILED, 1.0, "a"),
        RunFinished(RunStatus.FAILED, None, 1.0, "no", "a"),
    )
    assert turn.commands == (EndRun(RunStatus.FAILED),)
    assert drive.statuses() == {"a": "failed", "b": "skipped: not_started"}
    drive.assert_replays()


def test_an_empty_plan_ends_in_its_first_turn() -> None:
    drive = Drive(plan())

    assert drive.first.events[1:] == (RunFinished(RunStatus.SUCCESS, None, 0.0),)
    assert drive.first.commands == (EndRun(RunStatus.SUCCESS),)


def test_a_step_starts_when_its_own_inputs_are_there_and_not_its_level() -> None:
    drive = Drive(plan(tool("a"), tool("b"), tool("c", "a"), tool("d", "b")))

    drive.after(1).ok("a")

    assert drive.running == ["b", "c"]


@pytest.mark.parametrize(
    "edges",
    [
        pytest.param({"b": ["a"], "c": ["a", "b"]}, id="triangle"),
        pytest.param({"b": ["a"], "d": ["b"], "c": ["a", "d"]}, id="skewed"),
    ],
)
def test_a3_uneven_plans_run_in_dependency_order(edges: dict[str, list[str]]) -> None:
    names = ["a", *edges]
    drive = Drive(plan(*(tool(name, *edges.get(name, [])) for name in names)))

    drive.finish()

    order = drive.order()
    assert sorted(order) == sorted(names)
    assert all(order.index(need) < order.index(name) for name, needs in edges.items() for need in needs)
    assert drive.status is RunStatus.SUCCESS


def test_a_fan_in_starts_once_with_the_last_of_its_upstream_steps() -> None:
    drive = Drive(plan(*(tool(f"s{at}") for at in range(50)), tool("end", *(f"s{at}" for at in range(50)))))

    for at in range(49):
        assert drive.ok(f"s{at}").commands == ()
    turn = drive.ok("s49")

    assert [command.key for command in turn.commands if isinstance(command, RunStep)] == ["end"]


# --- what an attempt is told ---


@pytest.mark.parametrize(
    ("given", "effects", "after_durable"),
    [
        ({"tool": "t"}, Effects.NONE, False),
        ({"tool": "key"}, Effects.IDEMPOTENT, True),
        ({"tool": "once"}, Effects.ONCE, True),
        ({"tool": "says_nothing"}, Effects.ONCE, True),
        ({"tool": "unknown"}, Effects.ONCE, True),
        ({"tool": "t", "effects": "once"}, Effects.ONCE, True),
        ({"model": "m://x", "prompt": "hi"}, Effects.NONE, False),
        ({"code": "1"}, Effects.NONE, False),
        ({"agent": "ann", "prompt": "hi"}, Effects.ONCE, True),
        ({"agent": "ann", "prompt": "hi", "effects": "none"}, Effects.NONE, False),
    ],
    ids=str,
)
def test_what_has_effects_waits_for_the_record(given: dict[str, Any], effects: Effects, after_durable: bool) -> None:
    tools = TOOLS | {"says_nothing": type(NONE)("digest")}
    drive = Drive(plan({"id": "a"} | given), tools=tools)

    (command,) = drive.first.commands

    assert isinstance(command, RunStep)
    assert (command.effects, command.after_durable) == (effects, after_durable)


def test_a_task_that_an_agent_carries_out_is_not_taken_to_be_harmless() -> None:
    drive = Drive(plan({"id": "a", "task": "Send everyone an email"}))

    (command,) = drive.first.commands

    assert isinstance(command, RunStep)
    assert command.effects is Effects.ONCE


def test_every_attempt_of_a_step_has_the_same_key() -> None:
    drive = Drive(
        plan(tool("a", retry={"max_attempts": 2, "jitter": False}), tool("b", idempotency_key="k-${{ inputs.n }}")),
        inputs={"n": 3},
    )

    drive.fail("a")
    drive.fire("a")

    keys = [(request.key, request.attempt, request.idempotency_key) for request in drive.started]
    assert keys == [("a", 1, "run/a"), ("b", 1, "k-3"), ("a", 2, "run/a")]


def test_the_resolved_arguments_of_a_step_are_its_own() -> None:
    drive = Drive(
        plan(
            tool("a"),
            tool("b", **{"with": {"x": "${{ steps.a.output }}"}}),
            tool("c", **{"with": {"x": "${{ steps.a.output }}"}}),
        )
    )

    drive.ok("a", {"list": [1]})
    drive.under_way["b"].args["x"]["list"].append(2)

    assert drive.under_way["c"].args == {"x": {"list": [1]}}
    assert drive.machine.state.nodes["a"].output == {"list": [1]}


def test_a_reference_that_leads_nowhere_fails_the_step_before_it_starts() -> None:
    drive = Drive(plan(tool("a"), tool("b", **{"with": {"x": "${{ steps.a.output.total }}"}})))

    turn = drive.ok("a", {"sum": 1})

    failed = turn.events[1]
    assert isinstance(failed, StepFailed)
    assert (failed.step, failed.status, failed.kind) == ("b", S.FAILED, FailureKind.INPUT)
    assert "steps.a.output.total" in failed.error
    assert "'total'" in failed.error
    assert "sum" in failed.error
    assert drive.status is RunStatus.FAILED
    assert drive.order() == ["a"]


def test_allowlists_add_up() -> None:
    drive = Drive(plan(tool("a"), allow=["t", "x"]), allow=("t", "y"))

    (command,) = drive.first.commands

    assert isinstance(command, RunStep)
    assert command.allow == (frozenset({"t", "y"}), frozenset({"t", "x"}))


# --- what is refused ---


def test_a_late_result_changes_nothing_and_is_counted() -> None:
    drive = Drive(plan(tool("a"), tool("b", "a")))
    drive.ok("a", 1)

    turn = drive.hand(AttemptSucceeded("a", 1, 1, 2, 0.0, 3.0))

    assert turn == Turn((ResultRefused("a", 1, 1, 3.0),), (0,), ())
    assert drive.machine.state.nodes["a"].output == 1
    assert drive.machine.state.refused == 1
    drive.finish()
    drive.assert_replays()


@pytest.mark.parametrize(("attempt", "epoch"), [(0, 1), (2, 1), (1, 0), (1, 2)])
def test_a_result_of_another_attempt_or_epoch_is_refused(attempt: int, epoch: int) -> None:
    drive = Drive(plan(tool("a")))

    turn = drive.hand(AttemptFailed("a", attempt, epoch, FailureKind.ERROR, "no", 0.0, 3.0))

    assert turn == Turn((ResultRefused("a", attempt, epoch, 3.0),), (0,), ())
    assert drive.running == ["a"]


def test_a_result_for_a_step_nobody_knows_is_not_even_recorded() -> None:
    drive = Drive(plan(tool("a")))

    assert drive.hand(AttemptSucceeded("zzz", 1, 1, 2, 0.0, 3.0)) == Turn((), (), ())


@pytest.mark.parametrize(
    "fact",
    [
        AttemptSucceeded("a", 1, 1, 2, 0.0, 3.0),
        AttemptFailed("a", 1, 1, FailureKind.ERROR, "no", 0.0, 3.0),
        TimerFired("", 99.0),
        TimerFired("a", 99.0),
        CancelRequested("Ann", 3.0),
    ],
    ids=lambda fact: type(fact).__name__,
)
def test_after_the_end_nothing_is_recorded(fact: Any) -> None:
    drive = Drive(plan(tool("a")))
    drive.ok("a")

    assert drive.hand(fact) == Turn((), (), ())
    assert isinstance(drive.journal[-1], RunFinished)


def test_a_timer_that_nobody_set_says_nothing() -> None:
    drive = Drive(plan(tool("a")))

    assert drive.hand(TimerFired("a", 9.0)) == Turn((), (), ())
    assert drive.hand(TimerFired("zzz", 9.0)) == Turn((), (), ())


def test_a_timer_that_rings_early_says_nothing() -> None:
    drive = Drive(plan({"id": "w", "wait": 10}))

    assert drive.hand(TimerFired("w", 9.99)) == Turn((), (), ())
    assert drive.hand(TimerFired("w", 10.0)).events[-1] == RunFinished(RunStatus.SUCCESS, None, 10.0)


def test_an_approval_or_resolution_that_nobody_asked_for_says_nothing() -> None:
    drive = Drive(plan(tool("a"), {"id": "ask", "approve": "Go?"}))

    for turn in (drive.approve("a"), drive.resolve("a", "fail"), drive.resolve("ask", "fail"), drive.approve("zzz")):
        assert turn == Turn((), (), ())


# --- `when` ---


def test_a7_a_false_condition_skips_the_step_and_what_needs_it_and_the_run_is_partial() -> None:
    drive = Drive(plan(tool("a"), tool("b", when="${{ steps.a.output > 1 }}"), tool("c", "b")))

    turn = drive.ok("a", 1)

    assert turn.events[1:] == (
        StepSkipped("b", SkipReason.CONDITION_FALSE, 0.0, "${{ steps.a.output > 1 }}"),
        StepSkipped("c", SkipReason.UPSTREAM_SKIPPED, 0.0, "b"),
        RunFinished(RunStatus.PARTIAL, None, 0.0),
    )


def test_a_true_condition_lets_the_step_run() -> None:
    drive = Drive(plan(tool("a"), tool("b", when="steps.a.output > 1"), tool("c", when=True)))

    drive.ok("a", 2)

    assert drive.running == ["c", "b"]


def test_a_condition_that_cannot_be_worked_out_fails_the_step() -> None:
    drive = Drive(plan(tool("a"), tool("b", when="steps.a.output.total > 1")))

    turn = drive.ok("a", {})

    failed = turn.events[1]
    assert isinstance(failed, StepFailed)
    assert (failed.step, failed.kind) == ("b", FailureKind.INPUT)
    assert failed.error.startswith("`when` cannot be worked out: steps.a.output.total leads nowhere")
    assert drive.status is RunStatus.FAILED


def test_a_condition_that_compares_unlike_things_fails_the_step() -> None:
    drive = Drive(plan(tool("a"), tool("b", when="steps.a.output > 1", on_error="continue")))

    drive.ok("a", "text")

    assert drive.statuses() == {"a": "completed", "b": "failed"}
    assert drive.status is RunStatus.PARTIAL


# --- what the run returns ---


def test_the_output_of_the_one_last_step_is_the_result() -> None:
    drive = Drive(plan(tool("a"), tool("b", "a")))

    assert drive.finish().output == "b"


def test_several_ends_give_an_object_of_those_that_completed() -> None:
    drive = Drive(plan(tool("a"), tool("b", "a"), tool("c", "a", when=False), tool("d", "a")))

    assert drive.finish().output == {"b": "b", "d": "d"}


def test_several_ends_of_which_none_completed_give_nothing() -> None:
    drive = Drive(plan(tool("a", when=False), tool("b", when=False)))

    assert drive.output is None
    assert drive.status is RunStatus.PARTIAL


def test_outputs_say_what_the_run_returns() -> None:
    drive = Drive(
        plan(
            tool("a"),
            tool("b"),
            outputs={"x": "${{ steps.a.output }}", "y": ["${{ inputs.n }}", "b ${{ steps.b.output }}"]},
        ),
        inputs={"n": 1},
    )

    assert drive.finish().output == {"x": "a", "y": [1, "b b"]}


def test_an_output_that_leads_nowhere_fails_a_run_that_did_all_its_steps() -> None:
    drive = Drive(plan(tool("a"), outputs={"x": "${{ steps.a.output.n }}"}))

    result = drive.finish(lambda request: {"m": 1})

    assert result.status is RunStatus.FAILED
    assert result.output is None
    assert result.error is not None
    assert result.error.startswith("`outputs` of the plan: steps.a.output.n leads nowhere")
    assert result.failed_step is None


def test_an_output_that_leads_nowhere_is_null_where_steps_were_left_out() -> None:
    outputs = {"x": "${{ steps.a.output }}", "y": "${{ steps.b.output }}"}
    drive = Drive(plan(tool("a"), tool("b", when=False), outputs=outputs))

    result = drive.finish()

    assert result.status is RunStatus.PARTIAL
    assert result.output == {"x": "a", "y": None}


def test_a_lone_output_that_leads_nowhere_is_null_where_the_run_failed() -> None:
    drive = Drive(plan(tool("a"), outputs="${{ steps.a.output }}"))

    drive.fail("a")

    assert (drive.status, drive.output) == (RunStatus.FAILED, None)


# --- turns that are cut short ---


def test_a_wide_turn_is_cut_short_and_goes_on_when_others_had_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DECISIONS_A_TURN", 3)
    drive = Drive(plan(*(tool(name) for name in "abcd")), at_once=False)

    assert kinds(drive.first.events) == ["RunStarted", "StepDispatched a", "StepDispatched b"]
    assert drive.first.commands[-1] == GoOn()
    turn = drive.after(1).go_on()

    assert turn.events == (WentOn(1.0), StepDispatched("c", 1, 1, 1.0), StepDispatched("d", 1, 1, 1.0))
    drive.finish()
    drive.assert_replays()


def test_going_on_says_nothing_when_everything_is_decided() -> None:
    drive = Drive(plan(tool("a")))

    assert drive.hand(WentOn(1.0)) == Turn((), (), ())


def test_a_refused_result_between_two_turns_leaves_the_rest_to_be_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DECISIONS_A_TURN", 3)
    drive = Drive(plan(*(tool(name) for name in "abcd")), at_once=False)

    drive.hand(AttemptSucceeded("a", 7, 1, None, 0.0, 0.0))
    drive.go_on()

    assert drive.running == ["a", "b", "c", "d"]


def test_skips_fill_a_turn_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DECISIONS_A_TURN", 3)
    drive = Drive(plan(*(tool(name, when=False) for name in "abcd"), tool("e")), at_once=False)

    assert kinds(drive.first.events) == ["RunStarted", "StepSkipped a", "StepSkipped b"]
    assert kinds(drive.go_on().events) == ["WentOn", "StepSkipped c", "StepSkipped d"]
    assert kinds(drive.go_on().events) == ["WentOn", "StepDispatched e"]
    drive.finish()
    drive.assert_replays()
