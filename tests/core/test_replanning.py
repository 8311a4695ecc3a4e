"""A failed step may have its job done another way: asked once, checked whole, and then a part of the run like any."""

from __future__ import annotations

from typing import Any

import pytest

from planloom.core.commands import RunStep, SetTimer
from planloom.core.events import (
    AttemptFailed,
    ReplanRequested,
    RunFinished,
    RunStopping,
    StepDispatched,
    StepFailed,
    StepReplanned,
    StepSucceeded,
    ToolFacts,
)
from planloom.core.prices import ModelFacts, ModelPrice
from planloom.core.result import RunStatus, StepStatus
from planloom.plan.flow import FlowPolicy
from planloom.plan.model import Plan
from planloom.plan.policy import Effects, FailureKind, ResourceLimits
from tests.core.driving import NONE, TOOLS, Drive, kinds, plan, tool, usage

HERE = TOOLS | {"mirror": ToolFacts("mirror", Effects.NONE), "mail": ToolFacts("mail", Effects.ONCE)}
MODELS = {"default": ModelFacts("test://m", price=ModelPrice(1.0, 1.0), max_tokens=1_000)}
OTHER_WAY = {
    "name": "other_way",
    "steps": [
        {"id": "x", "tool": "mirror", "with": {"n": "${{ inputs.n }}"}},
        {"id": "y", "tool": "t", "with": {"x": "${{ steps.x.output }}"}},
    ],
    "outputs": {"got": "${{ steps.y.output }}"},
}
ALLOWED = ("t", "mirror", "once", "key")


def get(**fields: Any) -> dict[str, Any]:
    return tool("get", **({"with": {"n": 3}, "replan": {"max_steps": 2}} | fields))


def drive(*steps: dict[str, Any], allow: tuple[str, ...] | None = ALLOWED, **options: Any) -> Drive:
    return Drive(plan(*(steps or (get(),)), allow=allow), **({"tools": HERE, "models": MODELS} | options))


def other(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": "other", "steps": list(steps)} | fields


def test_a_failed_step_asks_once_for_another_plan() -> None:
    run = drive()

    turn = run.fail("get", error="503")

    assert turn.events[1:] == (ReplanRequested("get", 2, 0.0), StepDispatched("get", 2, 1, 0.0))
    (asked,) = [command for command in turn.commands if isinstance(command, RunStep)]
    assert (asked.role, asked.effects, asked.after_durable, asked.attempt) == ("replan", Effects.NONE, False, 2)
    assert asked.args == {
        "task": {"id": "get", "tool": "t", "with": {"n": 3}},
        "error": "503",
        "inputs": {"n": 3},
        "tools": ["key", "mirror", "once", "t"],
    }
    assert asked.allow == (frozenset(ALLOWED),)


def test_the_plan_takes_the_place_of_the_step_and_dependants_get_its_output() -> None:
    run = drive(get(), tool("after", **{"with": {"in": "${{ steps.get.output.got }}"}}))

    run.fail("get", error="503")
    turn = run.ok("get", OTHER_WAY, usage=usage(70), cost_usd=0.5)
    run.ok("get/x", 4, cost_usd=0.25)
    run.ok("get/y", 5)

    assert turn.events[1:] == (
        StepReplanned("get", Plan.from_dict(OTHER_WAY), {"n": 3}, 0.0),
        StepDispatched("get/x", 1, 1, 0.0),
    )
    assert run.started[2].args == {"n": 3}
    assert run.of_type(StepSucceeded) == [StepSucceeded("get", {"got": 5}, 0.0)]
    assert run.under_way["after"].args == {"in": 5}
    result = run.finish()
    assert result.status is RunStatus.SUCCESS
    told = result.step("get")
    assert (told.status, told.attempts, told.error) == (StepStatus.COMPLETED, 2, None)
    assert [part.id for part in told.parts] == ["get/x", "get/y"]
    assert told.cost_usd == 0.75
    assert [event.error for event in run.of_type(AttemptFailed)] == ["503"]
    run.assert_replays()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("no plan", "no plan"),
        ({"steps": [{"id": "x", "tool": "mirror", "nonsense": 1}]}, "not a plan"),
        (other(), "0 steps"),
        (other(tool("x"), tool("y"), tool("z")), "3 steps"),
        (other({"id": "x", "tool": "mail"}), "'mail', which is not allowed"),
        (other({"id": "x", "tool": "shell"}), "'shell', which is not allowed"),
        (other({"id": "x", "model": "default", "prompt": "p", "tools": ["mail"]}), "'mail', which is not allowed"),
        (other({"id": "x", "model": "test://other", "prompt": "p"}), "not started with"),
        (other(get(id="x")), "may not set 'replan'"),
        (other(tool("x", cache=True)), "may not set 'cache'"),
        (other({"id": "x", "wait": 1}), "is a wait step"),
        (other({"id": "x", "plan": other(tool("x"))}), "is a plan step"),
        (other({"id": "x", "approve": "Go?"}), "is a approve step"),
        (other(tool("x"), limits={"max_tool_calls": 1_000}), "limits of its own"),
        (other({"id": "x", "tool": "once", "effects": "none"}), "effects are 'none'"),
        (other(tool("x", "y"), tool("y", "x")), "each other"),
        (other(tool("x", **{"with": {"n": "${{ steps.other.output }}"}})), "other"),
        (other(tool("x"), inputs={"m": {"type": "string"}}), "'n'"),
    ],
)
def test_a_plan_that_goes_beyond_the_step_is_refused_whole(answer: Any, says: str) -> None:
    run = drive()

    run.fail("get", error="503")
    turn = run.ok("get", answer)

    (failed,) = [event for event in turn.events if isinstance(event, StepFailed)]
    assert (failed.status, failed.kind) == (StepStatus.FAILED, FailureKind.ERROR)
    assert failed.error.startswith("503; no other plan: ")
    assert says in failed.error
    assert run.running == []
    assert run.of_type(StepReplanned) == []
    assert run.status is RunStatus.FAILED
    run.assert_replays()


def test_who_asks_for_the_plan_has_the_facts_and_the_policy_of_the_run() -> None:
    policy = FlowPolicy()
    run = drive(flow=policy)

    run.fail("get", error="503")

    assert (run.under_way["get"].role, run.under_way["get"].tools) == ("replan", HERE)
    assert run.under_way["get"].flow is policy


@pytest.mark.parametrize("effects", ["idempotent", "once"])
def test_a_plan_may_say_of_a_tool_what_it_says_itself_or_more(effects: str) -> None:
    run = drive()

    run.fail("get", error="503")
    run.ok("get", other(tool("x", tool="key", effects=effects)))

    assert run.running == ["get/x"]


def test_without_any_allowlist_only_tools_that_the_plan_itself_names_may_be_used() -> None:
    named = drive(get(), tool("after", "get", tool="mirror"), allow=None)
    unnamed = drive(allow=None)

    for run in (named, unnamed):
        run.fail("get")
        run.ok("get", other({"id": "x", "tool": "mirror"}))

    assert named.running == ["get/x"]
    assert unnamed.status is RunStatus.FAILED


def test_every_allowlist_around_the_step_counts_whatever_name_it_has_a_tool_by() -> None:
    tools = {"t": NONE, "web.get": ToolFacts("web"), "page": ToolFacts("web"), "web.put": ToolFacts("put")}
    inner = {"name": "i", "steps": [get()], "allow": ["t", "page"]}
    run = drive({"id": "sub", "plan": inner}, tools=tools, allow=("t", "web.*", "page"))

    run.fail("sub/get")

    assert run.under_way["sub/get"].args["tools"] == ["page", "t", "web.get"]


def test_the_plan_may_use_no_id_that_makes_a_key_of_another_step() -> None:
    run = drive(get(), tool("get/x", when="false"))

    run.fail("get")
    run.ok("get", other(tool("x")))

    assert "has a step get/'x' already" in run.of_type(StepFailed)[0].error


@pytest.mark.parametrize("kind", [FailureKind.NOT_ALLOWED, FailureKind.CANCELLED, FailureKind.LIMIT])
def test_what_no_other_plan_can_mend_is_not_replanned(kind: FailureKind) -> None:
    run = drive()

    run.fail("get", kind)

    assert run.of_type(ReplanRequested) == []
    assert run.status is RunStatus.FAILED


@pytest.mark.parametrize(
    ("effects", "kind", "asked"),
    [
        ("once", FailureKind.ERROR, 0),
        ("once", FailureKind.TIMEOUT, 0),
        ("once", FailureKind.NOT_DONE, 1),
        ("key", FailureKind.ERROR, 1),
    ],
)
def test_what_may_have_happened_once_does_not_happen_again_another_way(
    effects: str, kind: FailureKind, asked: int
) -> None:
    run = drive(get(tool=effects))

    run.fail("get", kind)

    assert len(run.of_type(ReplanRequested)) == asked


def test_retries_come_first() -> None:
    run = drive(get(retry={"max_attempts": 2, "jitter": False}))

    run.fail("get")
    assert run.of_type(ReplanRequested) == []
    run.fire("get")
    run.fail("get", error="again")

    assert run.under_way["get"].role == "replan"
    assert run.under_way["get"].attempt == 3
    assert run.under_way["get"].args["error"] == "again"


def test_if_the_model_has_no_answer_the_step_fails_as_it_did() -> None:
    run = drive()

    run.fail("get", FailureKind.REFUSED, "404")
    turn = run.fail("get", FailureKind.TIMEOUT, "the model is away")

    assert turn.events[1:] == (
        StepFailed("get", StepStatus.FAILED, FailureKind.REFUSED, "404; no other plan: the model is away", 0.0),
        RunStopping(RunStatus.FAILED, 0.0, "get"),
        RunFinished(RunStatus.FAILED, None, 0.0, "404; no other plan: the model is away", "get"),
    )
    run.assert_replays()


def test_a_plan_that_fails_fails_the_step_and_is_not_replaced_again() -> None:
    run = drive(get(on_error="continue"), tool("after", "get"))

    run.fail("get", error="503")
    run.ok("get", OTHER_WAY)
    run.fail("get/x", error="504")

    assert len(run.of_type(ReplanRequested)) == 1
    told = run.result.step("get")
    assert told.error == "503; step 'x' of the plan in its place: 504"
    assert run.running == ["after"]
    assert run.finish().status is RunStatus.PARTIAL


@pytest.mark.parametrize(("output", "status"), [(5, RunStatus.SUCCESS), ("five", RunStatus.FAILED)])
def test_what_the_plan_returns_must_fit_the_output_of_the_step(output: Any, status: RunStatus) -> None:
    schema = {"type": "object", "properties": {"got": {"type": "integer"}}}
    run = drive(get(output=schema))

    run.fail("get", error="503")
    run.ok("get", OTHER_WAY)
    run.ok("get/x")
    run.ok("get/y", output)

    assert run.status is status
    if status is RunStatus.FAILED:
        (failed,) = run.of_type(StepFailed)
        assert failed.kind is FailureKind.OUTPUT
        assert failed.error.startswith("503; what the plan in its place returns does not fit `output`")


def test_the_step_that_asks_when_its_engine_dies_asks_again_and_nothing_else() -> None:
    run = drive()
    run.fail("get", error="503")

    turn = run.restart()

    (asked,) = [command for command in turn.commands if isinstance(command, RunStep)]
    assert (asked.role, asked.attempt, asked.epoch, asked.args["error"]) == ("replan", 3, 2, "503")
    run.ok("get", OTHER_WAY)
    run.restart()
    assert run.running == ["get/x"]
    run.ok("get/x", 1)
    run.ok("get/y", 2)
    assert run.output == {"got": 2}
    run.assert_replays()


def test_a_once_step_that_asks_for_a_plan_is_no_unknown_outcome_when_its_engine_dies() -> None:
    run = drive(get(tool="once"))
    run.fail("get", FailureKind.NOT_DONE)

    run.restart()

    assert run.under_way["get"].role == "replan"
    assert not run.machine.waits_for_person


def test_a_run_that_stops_asks_for_nothing_and_takes_no_plan() -> None:
    run = drive(get(), get(id="two"))
    run.fail("get", error="503")
    run.cancel()

    run.ok("get", OTHER_WAY)
    run.fail("two", error="502")

    assert run.of_type(StepReplanned) == []
    assert [event.step for event in run.of_type(ReplanRequested)] == ["get"]
    assert run.status is RunStatus.CANCELLED
    run.assert_replays()


def test_the_time_of_the_step_is_the_time_of_the_plan_in_its_place() -> None:
    run = drive(get(timeout_seconds=10))
    run.after(4).fail("get", error="503")
    turn = run.ok("get", OTHER_WAY)

    assert SetTimer("get", 10.0) in turn.commands
    run.fire("get")
    run.halt("get/x")

    assert run.statuses()["get"] == "timed_out"
    run.assert_replays()


def test_the_longest_path_leads_through_the_plan_in_place_of_a_step() -> None:
    run = drive(get(), tool("after", "get"))

    run.after(1).fail("get")
    run.after(1).ok("get", other(tool("x")))
    run.after(3).ok("get/x")
    run.after(2).ok("after")

    assert run.result.critical_path_ms == 7_000


def test_a_step_that_took_too_long_stays_one_when_no_plan_takes_its_place() -> None:
    run = drive()

    run.fail("get", FailureKind.TIMEOUT, "2 s passed")
    run.ok("get", other())

    assert run.statuses()["get"] == "timed_out"


def test_after_its_time_no_other_plan_is_asked_for() -> None:
    run = drive(get(timeout_seconds=10))

    run.after(10).fail("get", FailureKind.TIMEOUT)

    assert run.of_type(ReplanRequested) == []


def test_what_asking_may_cost_is_set_aside_and_granted() -> None:
    run = drive(limits=ResourceLimits(max_total_cost_usd=1.0, max_total_tokens=1_000_000))

    run.fail("get")

    grant = run.under_way["get"].grant
    budget = run.machine.state.budget
    assert grant.tokens is not None
    assert grant.usd is not None
    assert 0 < budget._reserved_cost == pytest.approx(grant.usd)
    assert budget._reserved_tokens == grant.tokens
    run.ok("get", OTHER_WAY, usage=usage(70), cost_usd=0.00007)
    assert (budget._reserved_cost, budget._reserved_tokens) == (pytest.approx(0), 0)


def test_without_the_means_to_ask_the_step_fails_as_it_did_and_the_run_is_at_no_limit() -> None:
    run = drive(get(on_error="continue"), tool("after", "get"), limits=ResourceLimits(max_total_tokens=10_000))

    run.fail("get", error="503")

    assert run.started[-1].key == "after"
    (failed,) = run.of_type(StepFailed)
    assert failed.error == "503; no other plan: too little is left of max_total_tokens to ask for one"
    assert run.finish().status is RunStatus.PARTIAL


def test_after_a_crash_what_there_were_no_means_to_ask_is_not_asked_either() -> None:
    """In a replay a started step's place in the queue stays behind; it must not be taken for the next one's."""
    run = drive(get(), tool("long"), limits=ResourceLimits(max_total_tokens=10_000))
    run.restart()
    run.fail("get", error="503")
    assert run.running == ["long"]

    run.restart()

    assert run.running == ["long"]
    run.ok("long")
    assert run.finish().status is RunStatus.FAILED
    run.assert_replays()


def test_steps_of_the_plan_count_against_the_limits_of_the_run() -> None:
    run = drive(limits=ResourceLimits(max_tool_calls=2, max_total_cost_usd=None))

    run.fail("get")
    run.ok("get", OTHER_WAY)
    run.ok("get/x")

    assert run.status is RunStatus.LIMIT_EXCEEDED
    assert run.result.exceeded_limits == ("max_tool_calls",)


def test_a_replaced_step_holds_what_it_names_until_the_plan_in_its_place_has_ended() -> None:
    run = drive(get(mode="sequential"), tool("two", mode="sequential"))

    run.fail("get")
    assert run.running == ["get"]
    run.ok("get", OTHER_WAY)
    run.ok("get/x")
    assert run.running == ["get/y"]
    run.ok("get/y")

    assert run.running == ["two"]
    run.assert_replays()


def test_outputs_that_are_reused_are_never_those_of_another_plan() -> None:
    run = drive(reused={"get/x": "of another plan"}, from_run="old")

    run.fail("get")
    run.ok("get", OTHER_WAY)

    assert run.running == ["get/x"]


def test_the_order_on_record_is_failed_asked_replaced_done() -> None:
    run = drive()

    run.fail("get")
    run.ok("get", other(tool("x")))
    run.ok("get/x")

    assert kinds(run.journal)[1:] == [
        "StepDispatched get",
        "AttemptFailed get",
        "ReplanRequested get",
        "StepDispatched get",
        "AttemptSucceeded get",
        "StepReplanned get",
        "StepDispatched get/x",
        "AttemptSucceeded get/x",
        "StepSucceeded get",
        "RunFinished",
    ]
