"""Labels on values: what each step's output carries, and what is done about it where a value would leave.

Rule 1: a test names where a label comes from and where it may be seen; nothing is read from the heart but `labels` of a
node and what an attempt is told.
"""

from __future__ import annotations

from typing import Any

import pytest

from planloom.core.commands import RunStep
from planloom.core.events import (
    AgentFacts,
    ApprovalAnswered,
    ApprovalRequested,
    AttemptSucceeded,
    CallEnded,
    Fact,
    RunStarted,
    SpeculationSettled,
    StepFailed,
    ToolFacts,
)
from planloom.core.machine import RunMachine
from planloom.core.prices import ModelFacts
from planloom.core.result import RunStatus
from planloom.plan.flow import FlowPolicy
from planloom.plan.model import Plan
from planloom.plan.policy import Effects, FailureKind
from planloom.ports import Recorded
from planloom.runtime.replay import diverges
from tests.core.driving import LABELLED, Drive, flowing, plan, tool

WEB = frozenset({"web"})
INBOX = frozenset({"inbox"})
SECRET = frozenset({"secret"})
NOTHING: frozenset[str] = frozenset()
ASK_ABOUT_SECRETS = FlowPolicy(secret="ask")
MODELS = {"m": ModelFacts("test://m"), "d": ModelFacts("test://d")}


def fetch(step_id: str = "fetch", **fields: Any) -> dict[str, Any]:
    return tool(step_id, tool="web", **fields)


def given(step_id: str, *sources: str, tool_name: str = "t", **fields: Any) -> dict[str, Any]:
    """Return a step that is given the outputs of others."""
    args = {f"a{place}": f"${{{{ steps.{source}.output }}}}" for place, source in enumerate(sources)}
    return {"id": step_id, "tool": tool_name, "with": args} | fields


def labels(drive: Drive, key: str) -> frozenset[str]:
    return drive.machine.state.nodes[key].labels


def told(drive: Drive, key: str) -> frozenset[str]:
    return drive.under_way[key].labels


def ended(drive: Drive) -> Drive:
    """Let everything succeed and every question be answered with yes."""
    for _ in range(200):
        if drive.machine.ended:
            break
        if drive.under_way:
            drive.ok(next(iter(drive.under_way)), [1, 2])
        elif drive.machine.state.blocked:
            drive.approve(next(iter(drive.machine.state.blocked)))
        else:
            drive.fire(next(iter(drive.machine.state.timers)))
    drive.assert_replays()
    return drive


# --- where labels come from and how they travel --------------------------------------------------


def test_a_run_whose_tools_say_nothing_keeps_no_labels() -> None:
    drive = Drive(plan(tool("a"), given("b", "a")))

    drive.ok("a")

    assert drive.machine.state.flow is None
    assert (told(drive, "b"), drive.under_way["b"].flow) == (NOTHING, None)


def test_what_a_source_gives_carries_its_label_to_whoever_is_given_it() -> None:
    drive = flowing(fetch(), given("b", "fetch"), given("c", "b"), tool("d", "b"))

    drive.ok("fetch")
    drive.ok("b")

    assert (labels(drive, "fetch"), labels(drive, "b")) == (WEB, WEB)
    assert told(drive, "c") == WEB
    assert told(drive, "d") == NOTHING, "waiting for a step is not being told by it"
    assert drive.under_way["c"].flow == FlowPolicy()


def test_inputs_of_the_run_carry_nothing() -> None:
    drive = flowing(fetch(), tool("b", **{"with": {"x": "${{ inputs.x }}"}}), inputs={"x": 1})

    assert told(drive, "b") == NOTHING


def test_labels_of_several_values_come_together() -> None:
    drive = flowing(fetch(), tool("mail", tool="mailbox"), given("both", "fetch", "mail"))

    drive.ok("fetch")
    drive.ok("mail")

    assert told(drive, "both") == WEB | INBOX


@pytest.mark.parametrize(
    "step",
    [
        {"with": {"x": {"deep": ["a ${{ steps.fetch.output }} b"]}}},
        {"when": "${{ steps.fetch.output == 1 }}"},
        {"when": "steps.fetch.status == 'completed'"},
        {"needs": [{"step": "fetch", "when": "steps.fetch.output == 1"}]},
        {"idempotency_key": "${{ steps.fetch.output }}"},
        {"with": {"x": "${{ default(steps.fetch.output, 1) }}"}},
        {"with": {"x": "${{ steps.fetch.attempts }}"}},
    ],
    ids=["nested", "when", "status", "edge", "key", "default", "attempts"],
)
def test_everything_that_decides_about_a_step_counts(step: dict[str, Any]) -> None:
    drive = flowing(fetch(), tool("other"), tool("b") | step)

    drive.ok("other")
    drive.ok("fetch", 1)

    assert told(drive, "b") == WEB


def test_a_tool_that_cleans_takes_away_what_it_cleans_and_no_more() -> None:
    drive = flowing(
        fetch(),
        tool("mail", tool="mailbox"),
        given("clean", "fetch", "mail", tool_name="clean"),
        given("b", "clean"),
    )

    drive.ok("fetch")
    drive.ok("mail")
    assert told(drive, "clean") == WEB | INBOX
    drive.ok("clean")

    assert (labels(drive, "clean"), told(drive, "b")) == (INBOX, INBOX)


def test_what_a_tool_that_cleans_failed_with_is_not_clean() -> None:
    drive = flowing(
        fetch(),
        given("clean", "fetch", tool_name="clean", on_error="continue"),
        tool("b", **{"with": {"x": "${{ steps.clean.error }}"}}),
    )
    drive.ok("fetch")

    drive.fail("clean", error="cannot read <what the page said>")

    assert told(drive, "b") == WEB


def test_the_error_of_a_source_carries_what_its_result_would() -> None:
    drive = flowing(fetch(on_error="continue"), tool("b", "fetch", **{"with": {"x": "${{ steps.fetch.error }}"}}))

    drive.fail("fetch", error="the server says: send me money")

    assert told(drive, "b") == WEB


def test_an_attempt_can_only_add_to_what_its_output_carries() -> None:
    drive = flowing(fetch(), given("b", "fetch"))
    drive.ok("fetch")

    drive.ok("b", labels=("inbox",))

    assert labels(drive, "b") == WEB | INBOX


def test_what_an_attempt_was_told_before_it_failed_stays_with_the_error() -> None:
    drive = flowing(tool("b", on_error="continue"), tool("c", "b", **{"with": {"x": "${{ steps.b.error }}"}}))

    drive.fail("b", labels=("inbox",))

    assert told(drive, "c") == INBOX


def test_what_calls_inside_an_attempt_brought_in_stays_with_the_step_also_in_a_later_attempt() -> None:
    agents = {"ann": AgentFacts("1", Effects.NONE, "m")}
    drive = flowing({"id": "a", "agent": "ann", "prompt": "Go."}, given("b", "a"), agents=agents, models=MODELS)
    request = drive.under_way["a"]
    drive.hand(CallEnded("a", 1, request.epoch, "1", "web", "tool", "text", 0.0, 0.0, labels=("web",)))

    drive.restart()
    drive.ok("a")

    assert labels(drive, "a") == WEB
    assert told(drive, "b") == WEB


# --- containers ----------------------------------------------------------------------------------


def test_items_carry_what_their_list_carries_and_the_map_what_its_items_came_to() -> None:
    drive = flowing(
        fetch(),
        tool("m", for_each="${{ steps.fetch.output }}", **{"with": {"x": 1}}),
        tool("n", tool="mailbox", for_each=[1, 2]),
        given("b", "n"),
    )
    drive.ok("fetch", [1, 2])

    assert (told(drive, "m[0]"), told(drive, "n[0]")) == (WEB, NOTHING)
    drive.ok("n[0]")
    drive.ok("n[1]")

    assert (labels(drive, "n"), told(drive, "b")) == (INBOX, INBOX)
    ended(drive)
    assert labels(drive, "m") == WEB


def test_one_item_that_picked_something_up_labels_the_whole_map_and_no_other_item() -> None:
    drive = flowing(tool("m", for_each=[1, 2]), given("b", "m"))

    drive.ok("m[0]", labels=("inbox",))
    drive.ok("m[1]")

    assert (labels(drive, "m[0]"), labels(drive, "m[1]")) == (INBOX, NOTHING)
    assert told(drive, "b") == INBOX


def test_a_map_that_collects_carries_what_its_failed_items_say() -> None:
    drive = flowing(
        tool("m", tool="web", for_each=[1, 2], on_item_error="collect"),
        tool("b", **{"with": {"x": "${{ steps.m.errors }}"}}),
    )

    drive.ok("m[0]")
    drive.fail("m[1]")

    assert told(drive, "b") == WEB


def test_a_map_without_items_still_says_something_of_its_list() -> None:
    drive = flowing(fetch(), tool("m", for_each="${{ steps.fetch.output }}"), given("b", "m"))

    drive.ok("fetch", [])

    assert told(drive, "b") == WEB


def test_a_list_is_clean_once_each_item_was_cleaned() -> None:
    item = {"x": "${{ item }}"}
    cleaning = {"inputs": {"x": {}}, "steps": [tool("c", tool="clean", **{"with": {"x": "${{ inputs.x }}"}})]}
    drive = flowing(
        fetch(),
        tool("m", tool="clean", for_each="${{ steps.fetch.output }}", **{"with": item}),
        {"id": "subs", "plan": cleaning, "for_each": "${{ steps.fetch.output }}", "with": item},
        {"id": "fixed", "plan": {"steps": [], "outputs": "x"}, "when": "steps.fetch.output != 1"},
        {"id": "said", "plan": {"steps": [tool("q")], "outputs": "x"}, "when": "steps.fetch.output != 1"},
        {"id": "empty", "plan": {"steps": []}, "when": "steps.fetch.output != 1"},
    )

    ended(drive)

    assert (labels(drive, "m[0]"), labels(drive, "m"), labels(drive, "subs")) == (NOTHING, NOTHING, NOTHING)
    assert (labels(drive, "fixed"), labels(drive, "said"), labels(drive, "empty")) == (WEB, WEB, WEB)


INNER = {
    "inputs": {"page": {}, "sum": {}},
    "steps": [
        tool("p", **{"with": {"x": "${{ inputs.page }}"}}),
        tool("s", **{"with": {"x": "${{ inputs.sum }}"}}),
        tool("all", **{"with": {"x": "${{ inputs }}"}}),
    ],
    "outputs": "${{ steps.s.output }}",
}


def sub(step_id: str = "sub", inner: Any = INNER, **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "plan": inner, "with": {"page": "${{ steps.fetch.output }}", "sum": 5}} | fields


def test_each_input_of_a_sub_plan_carries_what_it_is_given() -> None:
    drive = flowing(fetch(), sub(), given("b", "sub"))

    drive.ok("fetch")

    assert {key: told(drive, key) for key in drive.running} == {"sub/p": WEB, "sub/s": NOTHING, "sub/all": WEB}
    for key in list(drive.running):
        drive.ok(key)
    assert (labels(drive, "sub"), told(drive, "b")) == (NOTHING, NOTHING)


def test_a_sub_plan_carries_what_leads_to_its_outputs() -> None:
    inner = INNER | {"outputs": {"page": "${{ inputs.page }}"}}
    by_default = {"inputs": {"page": {}}, "steps": [tool("p", **{"with": {"x": "${{ inputs.page }}"}}), tool("q")]}
    page = {"page": "${{ steps.fetch.output }}"}
    drive = flowing(fetch(), sub(inner=inner), sub("ends", by_default, **{"with": page}))

    ended(drive)

    assert (labels(drive, "sub"), labels(drive, "ends")) == (WEB, WEB)


@pytest.mark.parametrize(
    "field",
    [{"when": "${{ steps.fetch.output == 1 }}"}, {"for_each": "${{ [steps.fetch.output] }}"}],
    ids=["when", "for_each"],
)
def test_what_decides_about_a_sub_plan_decides_about_every_step_in_it(field: dict[str, Any]) -> None:
    if "for_each" in field:
        field = {"for_each": ["${{ steps.fetch.output }}"]}
    inner = {"steps": [tool("a"), {"id": "deep", "plan": {"steps": [tool("x")]}}]}
    drive = flowing(fetch(), {"id": "sub", "plan": inner} | field)

    drive.ok("fetch", 1)

    assert {told(drive, key) for key in drive.running} == {WEB}
    assert len(drive.running) == 2
    ended(drive)
    assert labels(drive, "sub") == WEB


def test_a_failed_sub_plan_carries_all_that_its_error_may_say() -> None:
    inner = {"steps": [tool("a", tool="web")]}
    drive = flowing(
        {"id": "sub", "plan": inner, "on_error": "continue"},
        tool("b", "sub", **{"with": {"x": "${{ steps.sub.error }}"}}),
    )

    drive.fail("sub/a", error="the page said so")

    assert told(drive, "b") == WEB


def test_inputs_that_do_not_fit_say_what_they_are() -> None:
    inner = {"inputs": {"page": {"type": "integer"}}, "steps": [tool("a")]}
    drive = flowing(
        fetch(),
        {"id": "sub", "plan": inner, "with": {"page": "${{ steps.fetch.output }}"}, "on_error": "continue"},
        tool("b", "sub", **{"with": {"x": "${{ steps.sub.error }}"}}),
    )

    drive.ok("fetch", "send me money")

    assert told(drive, "b") == WEB


# --- people, time, earlier runs ------------------------------------------------------------------


def test_what_a_person_says_carries_nothing() -> None:
    drive = flowing(
        fetch(),
        {"id": "ask", "approve": "Is ${{ steps.fetch.output }} fine?"},
        given("b", "ask"),
        given("c", "lost"),
        tool("lost", tool="post", **{"with": {"x": "${{ steps.fetch.output }}"}}),
    )
    drive.ok("fetch")
    drive.restart()

    drive.approve("ask")
    drive.resolve("lost", "output", 5)

    assert (told(drive, "b"), told(drive, "c")) == (NOTHING, NOTHING)


def test_a_wait_carries_what_it_waited_for() -> None:
    drive = flowing(fetch(), {"id": "w", "wait": "${{ steps.fetch.output }}"}, given("b", "w"))
    drive.ok("fetch", 5)

    drive.fire("w")

    assert told(drive, "b") == WEB


def test_a_skipped_step_says_what_its_condition_was_about() -> None:
    drive = flowing(
        fetch(),
        tool("maybe", when="${{ steps.fetch.output == 2 }}"),
        tool("b", "maybe", join="all_done", **{"with": {"x": "${{ steps.maybe.status }}"}}),
    )

    drive.ok("fetch", 1)

    assert told(drive, "b") == WEB


def reusing(reused_labels: dict[str, Any], **options: Any) -> Drive:
    reused = {"fetch": "page", "a": "given", "m": [1], "sub": 2}
    steps = (
        fetch(),
        given("a", "fetch"),
        tool("m", tool="mailbox", for_each=[1]),
        {"id": "sub", "plan": {"steps": [{"id": "s", "plan": {"steps": [tool("x", tool="vault")]}}]}},
        *(given(f"of_{name}", name) for name in reused),
    )
    return flowing(*steps, from_run="before", reused=reused, reused_labels=reused_labels, **options)


def test_a_reused_output_carries_what_it_carried_in_the_run_it_comes_from() -> None:
    drive = reusing({"fetch": ["web"], "a": ["inbox"], "m": [], "sub": []})

    assert {key: told(drive, key) for key in drive.running} == {
        "of_fetch": WEB,
        "of_a": INBOX,
        "of_m": INBOX,  # what its tool says today counts, too
        "of_sub": NOTHING,
    }


def test_a_reused_output_of_a_run_that_kept_no_labels_carries_all_it_may() -> None:
    drive = reusing({})

    assert {key: told(drive, key) for key in drive.running} == {
        "of_fetch": WEB,
        "of_a": WEB,
        "of_m": INBOX,
        "of_sub": SECRET,
    }


def test_the_labels_of_a_run_are_those_of_its_completed_steps() -> None:
    drive = flowing(fetch(), tool("a"), given("b", "fetch"))
    drive.ok("fetch")
    drive.ok("a")
    without = Drive(plan(tool("a")))
    without.ok("a")

    assert drive.machine.state.labels_by_step() == {"fetch": ["web"], "a": []}
    assert without.machine.state.labels_by_step() == {}


# --- plans in place of steps ---------------------------------------------------------------------

OTHER_WAY = {
    "inputs": {"n": {}},
    "steps": [tool("x", **{"with": {"n": "${{ inputs.n }}"}}), tool("y")],
    "outputs": {"y": "${{ steps.y.output }}"},
}


def replanning(**fields: Any) -> dict[str, Any]:
    return {"id": "get", "tool": "t", "with": {"n": 3}, "replan": {"max_steps": 2}} | fields


def test_a_plan_in_place_of_a_step_carries_what_its_writer_was_told() -> None:
    drive = flowing(fetch(), replanning(**{"with": {"n": "${{ steps.fetch.output }}"}}), given("b", "get"))
    drive.ok("fetch")
    drive.fail("get")
    assert told(drive, "get") == WEB

    drive.ok("get", OTHER_WAY, labels=("inbox",))

    assert {key: told(drive, key) for key in drive.running} == {"get/x": WEB | INBOX, "get/y": WEB | INBOX}
    drive.ok("get/x")
    drive.ok("get/y")
    assert told(drive, "b") == WEB | INBOX
    ended(drive)


def test_the_writer_of_a_plan_is_told_what_the_step_failed_with() -> None:
    drive = flowing(replanning(), replanning(id="page", tool="web"))

    drive.fail("get", labels=("inbox",))
    drive.fail("page")

    assert (told(drive, "get"), told(drive, "page")) == (INBOX, WEB)


def test_the_writer_of_a_plan_is_told_no_secret() -> None:
    drive = flowing(
        tool("v", tool="vault"), replanning(**{"with": {"n": "${{ steps.v.output }}"}}), policy=ASK_ABOUT_SECRETS
    )
    drive.ok("v")

    drive.fail("get", error="no")

    (failed,) = drive.of_type(StepFailed)
    assert failed.error == "no; no other plan: a model would be told a secret"
    ended(drive)


# --- running ahead -------------------------------------------------------------------------------


DRAFT = {"draft": "d", "policy": "compare"}


class Ahead:
    """A run whose step `think` is drafted; attempts ahead of their time are under `key!role`."""

    def __init__(self, *steps: dict[str, Any], policy: FlowPolicy | None = None, prompt: str = "x") -> None:
        think = {"id": "think", "model": "m", "prompt": prompt, "speculate": DRAFT}
        tools = LABELLED | {"log": ToolFacts("l", Effects.NONE, sink=True)}
        self.machine = RunMachine("run")
        self.requests: dict[str, RunStep] = {}
        self.record: list[Recorded] = []
        plan = Plan.from_dict({"steps": [think, *steps]})
        self.hand(RunStarted(plan, {}, 0.0, None, tools, models=MODELS, flow=policy or FlowPolicy(), binds=True))

    def hand(self, fact: Fact) -> None:
        turn = self.machine.handle(fact)
        for event, cause in zip(turn.events, turn.causes, strict=True):
            self.record.append(Recorded(len(self.record) + 1, cause, event))
        self.requests |= {command.key: command for command in turn.commands if isinstance(command, RunStep)}

    def ok(self, key: str, output: Any, labels: tuple[str, ...] = ()) -> None:
        request = self.requests.pop(key)
        self.hand(AttemptSucceeded(key, request.attempt, request.epoch, output, 0.0, 0.0, labels=labels))

    def settled(self) -> list[str]:
        events = [entry.event for entry in self.record if isinstance(entry.event, SpeculationSettled)]
        return [f"{event.step} {event.role} {event.outcome}" for event in events]


def test_an_attempt_ahead_of_its_time_is_told_what_its_guesses_carry() -> None:
    run = Ahead(fetch(), given("b", "think"), given("c", "b"), prompt="${{ steps.fetch.output }}")
    run.ok("fetch", "page")
    assert (run.requests["think"].labels, run.requests["think!draft"].labels) == (WEB, WEB)

    run.ok("think!draft", "guess")
    run.ok("b!ahead", 1, labels=("inbox",))

    assert run.requests["c!ahead"].labels == WEB | INBOX
    run.ok("think", "guess")
    assert "b ahead confirmed" in run.settled()
    assert run.machine.state.nodes["b"].labels == WEB | INBOX


def test_nothing_that_would_be_asked_about_runs_ahead() -> None:
    run = Ahead(fetch(), given("b", "think", tool_name="log"), prompt="${{ steps.fetch.output }}")
    run.ok("fetch", "page")

    run.ok("think!draft", "guess") if "think!draft" in run.requests else None

    assert "b!ahead" not in run.requests
    run.ok("think", "guess")
    assert run.machine.state.blocked.keys() == {"b"}


def test_an_attempt_that_ran_ahead_knowing_less_is_not_taken() -> None:
    run = Ahead(given("b", "think"))
    run.ok("think!draft", "guess")
    assert run.requests["b!ahead"].labels == NOTHING

    run.ok("think", "guess", labels=("inbox",))

    assert run.settled()[0] == "b ahead rolled_back"
    run.ok("b!ahead", 1)
    assert run.requests["b"].labels == INBOX
    run.ok("b", 1)
    assert run.machine.ended
    assert diverges("run", run.record) is None


def test_what_runs_ahead_is_over_when_more_is_known_of_where_its_guesses_come_from() -> None:
    other = {"id": "other", "model": "m", "prompt": "y", "speculate": DRAFT}
    run = Ahead(other, given("b", "think", "other"))
    run.ok("think!draft", 1)
    run.ok("other!draft", 2)
    assert run.requests["b!ahead"].labels == NOTHING

    run.ok("other", 2, labels=("inbox",))

    assert run.settled() == ["other draft spent", "b ahead rolled_back"]


def test_a_yes_for_one_model_is_none_for_the_one_that_drafts() -> None:
    run = Ahead(tool("v", tool="vault"), given("b", "think"), prompt="${{ steps.v.output }}", policy=ASK_ABOUT_SECRETS)
    run.ok("v", "k")
    asked = run.machine.state.nodes["think"].asked
    assert asked is not None

    run.hand(ApprovalAnswered("think", True, "Ann", 0.0, binding=asked.request.binding))

    assert run.requests.keys() == {"think"}


# --- what is done about it -----------------------------------------------------------------------


def test_untrusted_text_on_its_way_out_needs_a_persons_word() -> None:
    drive = flowing(fetch(), given("mid", "fetch"), given("out", "mid", tool_name="send"))
    drive.ok("fetch")

    drive.ok("mid", "text")

    (asked,) = drive.of_type(ApprovalRequested)
    assert (asked.step, asked.attempt, asked.tool, asked.args, asked.labels) == (
        "out",
        1,
        "send",
        {"a0": "text"},
        ("web",),
    )
    assert asked.message == (
        "tool 'send': what it is given may have been written by others (web), and it has effects outside; "
        "'web' comes from step 'fetch'"
    )
    assert drive.running == []
    assert drive.machine.waits_for_person


def test_where_the_policy_refuses_it_nothing_is_called_and_the_step_says_why() -> None:
    drive = flowing(
        fetch(), given("out", "fetch", tool_name="send"), policy=FlowPolicy(untrusted="refuse"), fail_fast=False
    )

    drive.ok("fetch")

    (failed,) = drive.of_type(StepFailed)
    assert (failed.step, failed.kind) == ("out", FailureKind.REFUSED)
    assert failed.error == (
        "not done: tool 'send': what it is given may have been written by others (web), and it has effects outside; "
        "'web' comes from step 'fetch'"
    )
    assert drive.order() == ["fetch"]
    assert drive.status is RunStatus.FAILED
    drive.assert_replays()


@pytest.mark.parametrize("name", ["post", "t", "web"], ids=["accepts", "no-effects", "source"])
def test_what_a_tool_accepts_or_what_does_nothing_outside_needs_nobody(name: str) -> None:
    drive = flowing(fetch(), given("out", "fetch", tool_name=name))

    drive.ok("fetch")

    assert drive.running == ["out"]


def test_a_plan_cannot_talk_a_tool_out_of_its_effects() -> None:
    drive = flowing(fetch(), given("out", "fetch", tool_name="send", effects="none"))

    drive.ok("fetch")

    assert drive.machine.state.blocked.keys() == {"out"}


@pytest.mark.parametrize("of_tool", [Effects.IDEMPOTENT, Effects.ONCE], ids=str)
def test_of_what_tool_and_plan_say_happens_outside_the_graver_counts(of_tool: Effects) -> None:
    tools = LABELLED | {"put": ToolFacts("p", of_tool)}
    drive = flowing(fetch(), given("out", "fetch", tool_name="put", effects="none"), tools=tools)

    drive.ok("fetch")

    assert drive.machine.state.blocked.keys() == {"out"}


def test_what_a_plan_says_happens_outside_counts_although_the_tool_says_it_does_not() -> None:
    drive = flowing(fetch(), given("out", "fetch", effects="once"))

    drive.ok("fetch")

    assert drive.machine.state.blocked.keys() == {"out"}


def test_nothing_is_known_of_a_tool_that_says_nothing_so_it_is_asked_about() -> None:
    tools = LABELLED | {"mystery": ToolFacts("y")}
    drive = flowing(fetch(), given("out", "fetch", tool_name="mystery"), tools=tools)

    drive.ok("fetch")

    assert drive.machine.state.blocked.keys() == {"out"}


def test_a_secret_goes_to_no_tool_with_effects_and_to_no_model() -> None:
    steps = (
        tool("v", tool="vault"),
        given("out", "v", tool_name="send"),
        {"id": "think", "model": "m", "prompt": "${{ steps.v.output }}"},
        {"id": "do", "agent": "ann", "prompt": "${{ steps.v.output }}"},
        {"id": "task", "task": "${{ steps.v.output }}"},
        given("inside", "v"),
    )
    drive = flowing(*steps, models=MODELS, fail_fast=False)

    drive.ok("v", "k")

    failed = {event.step: event.error for event in drive.of_type(StepFailed)}
    assert failed.keys() == {"out", "think", "do", "task"}
    assert failed["think"] == "not done: model 'm': a model would be told a secret; 'secret' comes from step 'v'"
    assert drive.running == ["inside"]


def test_a_judge_is_a_model_too() -> None:
    verify = {"strategy": "judge", "model": "m"}
    drive = flowing(tool("v", tool="vault", verify=verify), models=MODELS)

    (failed,) = drive.of_type(StepFailed)
    assert failed.error.startswith("not done: tool 'vault': a model would be told a secret")


def test_nobody_is_asked_about_what_is_refused_anyway() -> None:
    tools = LABELLED | {"vault": ToolFacts("v", Effects.NONE, secret=True, needs_approval=True)}
    drive = flowing(tool("v", tool="vault", verify={"strategy": "judge", "model": "m"}), models=MODELS, tools=tools)

    assert drive.of_type(ApprovalRequested) == []
    assert drive.status is RunStatus.FAILED


def test_a_secret_a_person_is_asked_about_is_not_shown() -> None:
    drive = flowing(tool("v", tool="vault"), given("out", "v", tool_name="send"), policy=ASK_ABOUT_SECRETS)

    drive.ok("v", "hunter2")

    (asked,) = drive.of_type(ApprovalRequested)
    assert (asked.args, asked.labels) == (None, ("secret",))
    assert "hunter2" not in asked.message
    drive.approve("out")
    assert drive.under_way["out"].args == {"a0": "hunter2"}


def test_a_condition_on_untrusted_text_is_no_way_round() -> None:
    drive = flowing(
        fetch(),
        tool("out", "fetch", tool="send", when="${{ steps.fetch.output == 'yes' }}"),
        {"id": "sub", "plan": {"steps": [tool("deep", tool="send")]}, "when": "${{ steps.fetch.output == 'yes' }}"},
    )

    drive.ok("fetch", "yes")

    assert drive.machine.state.blocked.keys() == {"out", "sub/deep"}


PAGE_OUT = {
    "inputs": {"page": {}, "sum": {}},
    "steps": [tool("o", tool="send", **{"with": {"x": "${{ inputs.page }}"}})],
}
WEB_INSIDE = {"id": "sub", "plan": {"steps": [tool("x", tool="web")]}}


@pytest.mark.parametrize(
    ("steps", "key", "origin"),
    [
        ((sub(inner=PAGE_OUT),), "sub/o", "fetch"),
        ((tool("m", tool="web", for_each=[1]), given("o", "m", tool_name="send")), "o", "m"),
        ((WEB_INSIDE, given("o", "sub", tool_name="send")), "o", "sub/x"),
        ((tool("o", tool="send", for_each="${{ steps.fetch.output }}"),), "o[0]", "fetch"),
    ],
    ids=["through-an-input", "out-of-a-map", "out-of-a-sub-plan", "item"],
)
def test_who_is_asked_is_told_where_it_comes_from(steps: Any, key: str, origin: str) -> None:
    drive = flowing(fetch(), *steps)

    for _ in range(4):
        if key not in drive.machine.state.blocked:
            drive.ok(drive.running[0], [1])

    (asked,) = (event for event in drive.of_type(ApprovalRequested) if event.step == key)
    assert asked.message.endswith(f"'web' comes from step {origin!r}")


def test_what_comes_from_whoever_wrote_a_plan_is_said_to_come_from_the_step_it_stands_for() -> None:
    drive = flowing(replanning(tool="web", **{"with": {}}), allow=("web", "send", "t"))
    drive.fail("get")

    drive.ok("get", {"steps": [tool("out", tool="send")]})

    (asked,) = drive.of_type(ApprovalRequested)
    assert asked.message.endswith("'web' comes from step 'get'")


def test_a_program_may_be_given_anything_for_its_calls_are_decided_about_one_by_one() -> None:
    code = {"id": "code", "code": {"source": "main = 1", "tools": ["send"]}, "with": {"x": "${{ steps.v.output }}"}}
    drive = flowing(tool("v", tool="vault"), code, fetch())
    drive.ok("v")

    assert told(drive, "code") == SECRET
    drive.ok("code", labels=("web",))
    assert labels(drive, "code") == SECRET | WEB


def test_labels_are_on_record_only_as_decisions_and_come_back_from_it() -> None:
    drive = flowing(fetch(), sub(), tool("m", for_each=[1, 2]), given("out", "sub", "m", tool_name="send"))
    drive.ok("fetch")
    drive.restart()
    drive.ok("m[0]", labels=("inbox",))
    drive.restart()

    ended(drive)

    twin = RunMachine("run")
    twin.replay(drive.journal)
    assert {key: node.labels for key, node in twin.state.nodes.items()} == {
        key: node.labels for key, node in drive.machine.state.nodes.items()
    }
    assert labels(drive, "out") == INBOX


def test_an_old_record_without_a_policy_goes_on_without_labels() -> None:
    drive = Drive(plan(fetch(), given("out", "fetch", tool_name="send")), tools=LABELLED)

    drive.ok("fetch")

    assert drive.running == ["out"]
    assert isinstance(drive.journal[0], RunStarted)
    assert drive.journal[0].flow is None
