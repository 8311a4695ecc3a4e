"""Every law is broken in every way there is, in a record that was lawful, and just that law is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from planloom.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    CallEnded,
    CancelRequested,
    OutputStreamed,
    PauseRequested,
    ResultRefused,
    RetryScheduled,
    RunStarted,
    RunStopping,
    StepDispatched,
    StepExpanded,
    StepFailed,
    StepSkipped,
    StepSpeculated,
    StepSucceeded,
    TimerFired,
    ToolFacts,
)
from planloom.core.result import RunStatus, SkipReason, StepStatus, Usage
from planloom.plan.model import Plan
from planloom.plan.policy import FailureKind, JoinRule, ResourceLimits
from planloom.ports import Recorded
from planloom.testing import check_history
from planloom.testing.history.violation import LAWS
from tests.core.driving import Drive, plan, tool
from tests.testing.histories import altered, recorded

AT = 1_760_000_000.0
Records = list[Recorded]
CHAIN, MAP, SUB, AGENT = (recorded(name) for name in ("chain", "map", "sub-plan", "agent"))
RETRIES, ONCE, JOINS, ASKED = (recorded(name) for name in ("retries", "once-cut", "conditions-and-joins", "approvals"))
FAILING, DRAFTS, LIMITS, COLLECT = (
    recorded(name) for name in ("failing-with-clean-up", "drafts-confirmed", "limits", "collect")
)
LABELLED = recorded("labelled-again")
NO_LIMITS = dict.fromkeys(ResourceLimits.model_fields)


def ok(step: str, attempt: int = 1, output: Any = 9, *, at: float = AT, **told: Any) -> AttemptSucceeded:
    return AttemptSucceeded(step, attempt, 1, output, at, at, **told)


def no(step: str, attempt: int = 1) -> AttemptFailed:
    return AttemptFailed(step, attempt, 1, FailureKind.ERROR, "no", AT, AT)


def start(step: str, attempt: int = 1, *, at: float = AT) -> StepDispatched:
    return StepDispatched(step, attempt, 1, at)


def ended(record: Records, *, without: int, **more: Any) -> Records:
    """Return a record without its last events, so that what is altered in it is all that is wrong."""
    return altered(record[:-without], **more)


def limited(record: Records, **limits: Any) -> Records:
    """Return it as if its run had had these limits and no others, and each tool had its price and its size."""
    begun = record[0].event
    assert isinstance(begun, RunStarted)
    tools = {
        name: ToolFacts(facts.digest, facts.effects, 1.0, memory_mb=10.0, cpu_percent=20.0)
        for name, facts in begun.tools.items()
    }
    return altered(record, other={1: {"limits": ResourceLimits(**NO_LIMITS | limits), "tools": tools}})


def two(**fields: Any) -> Records:
    """Return a run of two steps that have nothing to do with each other."""
    drive = Drive(plan(tool("a", **fields), tool("b", **fields), concurrency={"db": 1}), at=AT)
    while drive.under_way:
        drive.ok(drive.running[0], 1)
    return drive.record


def joined(rule: JoinRule) -> Records:
    """Return a run in which a step with this join rule starts after two others."""
    drive = Drive(plan(tool("a"), tool("b"), tool("c", "a", "b", join=rule.value), fail_fast=False), at=AT)
    for key in ("a", "b", "c"):
        drive.ok(key, 1)
    return drive.record


def too_early(rule: JoinRule) -> Records:
    """Return the same, the step being started as soon as the first two are."""
    record = joined(rule)
    begun = next(entry.seq for entry in record if entry.event == StepDispatched("c", 1, 1, AT))
    return altered(record, moved={begun: 3})


def of_tokens(most: int) -> Records:
    """Return a run of two model steps that took 100 tokens each, as if it could have taken no more than `most`."""
    steps = [{"id": "a", "model": "m", "prompt": "?"}, {"id": "b", "model": "m", "prompt": "?", "needs": ["a"]}]
    drive = Drive(plan(*steps), at=AT)
    for key in ("a", "b"):
        drive.ok(key, "text", usage=Usage(90, 10, 1))
    return altered(drive.record, other={1: {"limits": ResourceLimits(**NO_LIMITS | {"max_total_tokens": most})}})


def changed(record: Records, step_id: str, **fields: Any) -> Plan:
    """Return the plan of a run with other fields in one of its steps."""
    begun = record[0].event
    assert isinstance(begun, RunStarted)
    steps = tuple(replace(step, **fields) if step.id == step_id else step for step in begun.plan.steps)
    return replace(begun.plan, steps=steps)


I1: dict[str, Callable[[], Records]] = {
    "a number is left out": lambda: [*CHAIN[:-1], replace(CHAIN[-1], seq=11)],
    "a number comes twice": lambda: [*CHAIN[:-1], replace(CHAIN[-1], seq=9)],
    "two events have changed places": lambda: [*MAP[:2], MAP[3], MAP[2]],
    "the first event is gone": lambda: CHAIN[1:],
    "nothing is there": list,
    "the run starts twice": lambda: altered(CHAIN, after={1: [CHAIN[0].event]}),
    "an event is its own cause": lambda: [*CHAIN[:3], replace(CHAIN[3], cause=4), *CHAIN[4:]],
    "a decision came of an old fact": lambda: [*CHAIN[:5], replace(CHAIN[5], cause=3), *CHAIN[6:]],
    "an answer came of another start": lambda: [*CHAIN[:6], replace(CHAIN[6], cause=4), *CHAIN[7:]],
    "an answer came of nothing": lambda: [*CHAIN[:6], replace(CHAIN[6], cause=0), *CHAIN[7:]],
    "a person's answer came of another question": lambda: [*ASKED[:6], replace(ASKED[6], cause=2), *ASKED[7:]],
    "a result that is waited for is refused": lambda: altered(CHAIN, after={6: [ResultRefused("c", 1, 1, AT)]}),
}
I2: dict[str, Callable[[], Records]] = {
    "a result comes twice": lambda: altered(CHAIN, after={5: [ok("b", output=3)]}),
    "a success is followed by a failure": lambda: altered(CHAIN, after={5: [no("b")]}),
    "a failure is followed by a success": lambda: altered(RETRIES[:5], after={5: [ok("a")]}),
    "a result of another engine counts": lambda: altered(CHAIN, other={5: {"epoch": 7}}),
    "a result of an attempt that never was counts": lambda: altered(CHAIN, other={5: {"attempt": 2}}),
    "a step that succeeded succeeds again": lambda: altered(CHAIN, after={5: [StepSucceeded("b", 99, AT)]}),
    "a step under way is reported done": lambda: ended(CHAIN, without=6, after={4: [StepSucceeded("b", 3, AT)]}),
    "a step fails before its attempt answered": lambda: altered(FAILING, out=[11]),
    "a step is skipped before its attempt answered": lambda: altered(recorded("tolerated-failures"), out=[7]),
    "a map returns what its items did not": lambda: altered(MAP, other={11: {"output": [2, 3, 4, 6]}}),
    "a map returns its items in another order": lambda: altered(MAP, other={11: {"output": [3, 2, 4, 5]}}),
    "a sub-plan returns what its steps did not": lambda: altered(SUB, other={13: {"output": {"y": 13}}}),
    "an approval returns what nobody said": lambda: altered(ASKED, other={8: {"output": {"approved_by": "another"}}}),
    "an approval that nobody gave is reported": lambda: altered(ASKED, out=[7]),
    "an approval that was denied is reported": lambda: altered(ASKED, other={7: {"approved": False}}),
    "a wait that was not waited for is over": lambda: altered(recorded("waits"), out=[5]),
    "a person's answer is changed": lambda: altered(ONCE, other={18: {"output": 5}}),
    "the run returns what its steps did not": lambda: altered(CHAIN, other={10: {"output": 6}}),
    "a call is answered otherwise": lambda: altered(AGENT, after={7: [replace(AGENT[5].event, output=3)]}),
    "a call that was answered fails": lambda: altered(AGENT, after={7: [replace(AGENT[5].event, error="no")]}),
    "a model answers otherwise": lambda: altered(AGENT, after={6: [replace(AGENT[2].event, output={})]}),
    "what is reused is not what there was": lambda: altered(
        CHAIN,
        out=[2, 3],
        other={1: {"reused": {"a": 3}}},
        after={1: [StepSucceeded("a", 2, AT, reused=True)]},
    ),
}
I3: dict[str, Callable[[], Records]] = {
    "a once step is tried again after an error": lambda: altered(RETRIES, other={6: {"kind": FailureKind.ERROR}}),
    "a once step is made again, and nobody was asked": lambda: altered(ONCE, out=[14, 20]),
    "a once step is made again, and nobody has answered": lambda: altered(ONCE, out=[22]),
    "a once step is made again, and it was to fail": lambda: altered(ONCE, other={22: {"how": "fail"}}),
    "a once call is made again": lambda: altered(AGENT, after={6: [AGENT[4].event]}),
    "a once call is begun twice": lambda: altered(AGENT, after={5: [AGENT[4].event]}),
    "a call with an effect ends that never began": lambda: altered(
        CHAIN, after={2: [CallEnded("a", 1, 1, "tool/pay/1", "pay", "tool", 1, AT, AT)]}
    ),
    "an attempt whose once call was lost is made again": lambda: altered(recorded("agent-cut"), out=[7, 8])[:8],
}
I4: dict[str, Callable[[], Records]] = {
    "a step starts before its input is there": lambda: altered(CHAIN, moved={4: 2}),
    "a step starts whose condition does not hold": lambda: altered(
        JOINS, out=[4, 5], after={3: [start("no")], 6: [ok("no", output=2)]}
    )[:6],
    "a step is skipped whose condition holds": lambda: ended(
        JOINS, without=6, after={5: [StepSkipped("yes", SkipReason.CONDITION_FALSE, AT)]}, out=[6]
    ),
    "a step is skipped for a failure that was none": lambda: altered(
        JOINS, other={5: {"reason": SkipReason.UPSTREAM_FAILED}}
    ),
    "a step is skipped whose rule is met": lambda: altered(
        CHAIN, out=[8, 9, 10], after={7: [StepSkipped("d", SkipReason.UPSTREAM_SKIPPED, AT), PauseRequested("Ann", AT)]}
    ),
    "a step fails before its time": lambda: ended(
        CHAIN,
        without=7,
        after={2: [StepFailed("b", StepStatus.FAILED, FailureKind.INPUT, "no", AT), RunStopping(RunStatus.FAILED, AT)]},
    ),
    "a person is asked something else": lambda: altered(ASKED, other={5: {"message": "Send 3?"}}),
    "a step waits for less than it says": lambda: altered(recorded("waits"), other={4: {"until": AT + 300}}),
    "a sub-plan is given something else": lambda: altered(
        recorded("map-of-sub-plans"), other={3: {"inputs": {"n": 7}}}
    ),
    "a sub-plan fails before its steps have ended": lambda: altered(
        SUB[:10], after={10: [StepFailed("sub", StepStatus.FAILED, FailureKind.ERROR, "no", AT)]}
    ),
    "a step starts whose condition cannot be worked out": lambda: altered(
        CHAIN, other={1: {"plan": changed(CHAIN, "b", when="inputs.nothing")}}
    ),
    "a failure is skipped that is not to be": lambda: altered(
        FAILING[:6], after={6: [StepSkipped("bad", SkipReason.ON_ERROR_SKIP, AT)]}
    ),
    "a step is skipped after it began": lambda: altered(
        RETRIES[:4], after={4: [StepSkipped("a", SkipReason.CONDITION_FALSE, AT)]}
    ),
    "a person is asked about other arguments": lambda: altered(LABELLED, other={7: {"args": {"n": 77}}}),
    "an answer counts that was given to another question": lambda: altered(LABELLED, other={8: {"binding": "0" * 64}}),
    "an attempt starts that nobody has let start": lambda: altered(LABELLED, out=[8]),
    "an attempt starts that a person did not let start": lambda: altered(LABELLED, other={8: {"approved": False}}),
    "a sub-plan ends before its steps": lambda: ended(
        SUB, without=6, after={10: [StepSucceeded("sub", {"y": 12}, AT)]}
    ),
    "two attempts of a step are under way": lambda: altered(RETRIES[:3], after={3: [start("a", 2)]}),
    "two sequential steps are under way": lambda: altered(recorded("one-at-a-time"), moved={4: 2}),
    "more items are under way than may be": lambda: altered(MAP, moved={6: 4}),
    "more are under way than their name allows": lambda: altered(two(concurrency="db"), moved={4: 2}),
    "a step with an effect runs ahead": lambda: altered(
        DRAFTS, after={6: [StepSpeculated("end", "ahead", 1, 1, "0", AT, on=("next",))]}
    )[:7],
    "what ran ahead is not settled": lambda: altered(DRAFTS, out=[8])[:10],
    "what ran ahead is confirmed, with other values": lambda: altered(DRAFTS, other={5: {"inputs": "0" * 64}}),
    "a step runs ahead whose time has come": lambda: altered(
        DRAFTS, after={7: [StepSpeculated("next", "ahead", 1, 1, "0", AT + 5)]}, out=[5, 6, 8]
    )[:6],
    "an earlier result is reused behind one made anew": lambda: altered(
        CHAIN, other={1: {"reused": {"b": 3}}}, out=[4, 5], after={3: [StepSucceeded("b", 3, AT, reused=True)]}
    ),
} | {f"a step with `join: {rule}` starts at once": (lambda rule=rule: too_early(rule)) for rule in JoinRule}
I5: dict[str, Callable[[], Records]] = {
    "a step that succeeded fails": lambda: altered(
        CHAIN, after={5: [StepFailed("b", StepStatus.FAILED, FailureKind.ERROR, "no", AT)]}
    ),
    "a step that succeeded is skipped": lambda: altered(
        CHAIN, after={5: [StepSkipped("b", SkipReason.UPSTREAM_FAILED, AT)]}
    ),
    "a step that succeeded starts again": lambda: altered(CHAIN, after={5: [start("b", 2)]}),
    "a step that failed is tried again": lambda: altered(FAILING, after={7: [start("bad", 2)]}),
    "something comes after the run's end": lambda: altered(CHAIN, after={10: [PauseRequested("Ann", AT)]}),
    "a run that was cancelled fails": lambda: altered(
        recorded("cancelled"), after={4: [RunStopping(RunStatus.FAILED, AT)]}
    )[:5],
    "a run that failed fails again": lambda: altered(FAILING, after={8: [FAILING[7].event]}),
    "a step starts in a run that was cancelled": lambda: altered(
        two(), after={2: [CancelRequested("Ann", AT), RunStopping(RunStatus.CANCELLED, AT)]}
    )[:5],
    "a step of a failed run starts that cleans up nothing": lambda: altered(FAILING, after={9: [start("never")]}),
    "a step starts in a run that rests": lambda: altered(CHAIN, after={5: [PauseRequested("Ann", AT)]})[:7],
    "a step runs ahead in a run that rests": lambda: altered(DRAFTS, after={4: [PauseRequested("Ann", AT)]})[:6],
    "a step is to be tried again in a run that stops": lambda: altered(
        FAILING, out=[12, 13], after={11: [RetryScheduled("slow", 2, AT + 1, AT)]}
    ),
}
I6: dict[str, Callable[[], Records]] = {
    "more attempts are under way than may be": lambda: altered(LIMITS, moved={5: 3}),
    "two attempts are under way one at a time": lambda: altered(two(), other={1: {"parallel": False}}),
    "more tools are called than may be": lambda: limited(LIMITS, max_tool_calls=5),
    "more is spent than may be": lambda: limited(LIMITS, max_total_cost_usd=5.5),
    "more is set aside than may be": lambda: limited(LIMITS[:3], max_total_cost_usd=1.5),
    "more memory is taken than may be": lambda: limited(LIMITS, max_memory_mb=19.0),
    "more of the processor is taken than may be": lambda: limited(LIMITS, max_cpu_percent=39.0),
    "more tokens are used than may be": lambda: of_tokens(100),
    "more tools are called inside than may be": lambda: altered(
        AGENT, other={1: {"limits": ResourceLimits(**NO_LIMITS | {"max_tool_calls": 0})}}
    ),
    "its time is over before it is": lambda: altered(
        limited(CHAIN, timeout_seconds=10.0),
        after={8: [TimerFired("", AT + 9), RunStopping(RunStatus.LIMIT_EXCEEDED, AT + 9, "", ("timeout_seconds",))]},
    )[:10],
    "it stops at a limit that it does not have": lambda: altered(
        CHAIN, after={6: [RunStopping(RunStatus.LIMIT_EXCEEDED, AT, "c", ("max_tool_calls",))]}
    )[:7],
}
I7: dict[str, Callable[[], Records]] = {
    "the run ends with a step that was not done": lambda: altered(CHAIN, out=[8, 9], other={10: {"output": None}}),
    "the run ends with a step under way": lambda: altered(CHAIN, out=[9], other={10: {"output": None}}),
    "the run succeeds with a step left out": lambda: altered(JOINS, other={12: {"status": RunStatus.SUCCESS}}),
    "the run is partial with all steps done": lambda: altered(CHAIN, other={10: {"status": RunStatus.PARTIAL}}),
    "the run succeeds with a step that failed": lambda: altered(FAILING, other={13: {"status": RunStatus.SUCCESS}}),
    "the run fails at another step": lambda: altered(FAILING, other={13: {"failed_step": "slow"}}),
    "the run fails with another error": lambda: altered(FAILING, other={13: {"error": "something else"}}),
    "a cancelled run fails": lambda: altered(recorded("cancelled"), other={7: {"status": RunStatus.FAILED}}),
    "nothing is under way, and nothing is waited for": lambda: CHAIN[:5],
    "a failed attempt is forgotten": lambda: RETRIES[:4],
    "a step is forgotten while others go on": lambda: altered(recorded("diamond"), out=[5])[:4],
    "the run is partial and names who failed it": lambda: altered(JOINS, other={12: {"failed_step": "no"}}),
    "the end is forgotten": lambda: CHAIN[:9],
    "a run is cancelled, and nobody asked": lambda: altered(recorded("cancelled"), out=[3]),
    "a run is to be cancelled and goes on": lambda: altered(recorded("cancelled"), out=[4])[:4],
    "nobody knows what came of a draft": lambda: altered(DRAFTS, out=[10]),
}
I8: dict[str, Callable[[], Records]] = {
    "a map gets its items twice": lambda: altered(MAP, after={5: [StepExpanded("each", [1, 2, 3, 4], AT)]}),
    "a map has more items than it was to have": lambda: altered(MAP, other={2: {"items": [1, 2, 3, 4, 5]}})[:4],
    "a map has other items than it was to have": lambda: altered(MAP, other={2: {"items": [1, 2, 3, 5]}}),
    "an item starts that there is not": lambda: altered(MAP[:3], after={3: [start("each[4]")]}),
    "an item starts before there are any": lambda: altered(MAP[:3], moved={2: 3}),
    "an item is left out": lambda: altered(MAP, out=[10])[:10],
    "a map fails with items under way": lambda: altered(
        COLLECT[:8], after={8: [StepFailed("each", StepStatus.FAILED, FailureKind.ERROR, "no", AT)]}
    ),
    "a map returns too few": lambda: altered(MAP, other={11: {"output": [2, 3, 4]}}),
    "a map names another item as failed": lambda: altered(
        COLLECT, other={10: {"errors": ({"index": 0, "error": "no", "kind": "error"},)}}
    ),
    "a map names no item as failed": lambda: altered(
        COLLECT, other={10: {"errors": ()}, 13: {"status": RunStatus.SUCCESS}}
    ),
    "a map succeeds with a failed item": lambda: altered(
        COLLECT,
        other={1: {"plan": changed(COLLECT, "each", on_item_error="fail_fast")}, 13: {"status": RunStatus.PARTIAL}},
    ),
    "a step that is no map gets items": lambda: altered(CHAIN[:3], after={3: [StepExpanded("b", [1], AT)]}),
}
ORDER: dict[str, Callable[[], Records]] = {
    "an attempt is left out": lambda: altered(CHAIN, other={4: {"attempt": 2}, 5: {"attempt": 2}}),
    "an attempt is by an engine that is gone": lambda: altered(ONCE, other={19: {"epoch": 1}, 26: {"epoch": 1}}),
    "an engine comes back": lambda: altered(ONCE, other={12: {"epoch": 1}})[:16],
    "a retry comes before its time": lambda: altered(RETRIES, out=[8]),
    "a timer rings too early": lambda: altered(RETRIES, other={8: {"at": AT + 3}}),
    "a timer rings that nobody set": lambda: altered(CHAIN, after={2: [TimerFired("b", AT)]}),
    "time goes back": lambda: altered(CHAIN, other={5: {"at": AT - 1}}),
    "a step comes that there is not": lambda: altered(CHAIN, after={5: [start("e")]}),
    "an attempt says something after its end": lambda: altered(
        CHAIN, after={3: [OutputStreamed("b", 1, 1, "text", AT)]}
    ),
    "a retry comes of no failure": lambda: altered(RETRIES, out=[4])[:4],
    "a plan is asked for twice": lambda: altered(recorded("replanned"), after={4: [recorded("replanned")[3].event]}),
    "a person answers what nobody asked": lambda: altered(
        ASKED, after={3: [replace(ASKED[6].event, step="ok")]}, out=[7, 8, 9, 10, 11]
    ),
    "a wait step is done by an attempt": lambda: altered(recorded("waits"), out=[4], after={3: [start("w")]})[:4],
    "what ran ahead is settled twice": lambda: altered(DRAFTS, after={8: [DRAFTS[7].event]}),
    "a person is asked about an attempt that is not next": lambda: altered(LABELLED, other={7: {"attempt": 2}})[:7],
    "a plan comes that nobody asked for": lambda: altered(recorded("replanned"), out=[4, 5, 6])[:4],
}
UNREADABLE: dict[str, Callable[[], Records]] = {
    "a plan is none": lambda: altered(CHAIN, other={1: {"plan": changed(CHAIN, "b", when="1 +")}})[:1],
}
ALL = {
    "I1": I1,
    "I2": I2,
    "I3": I3,
    "I4": I4,
    "I5": I5,
    "I6": I6,
    "I7": I7,
    "I8": I8,
    "order": ORDER,
    "record": UNREADABLE,
}


@pytest.mark.parametrize(("law", "name"), [(law, name) for law, cases in ALL.items() for name in cases])
def test_a_record_that_breaks_a_law_is_accused_of_just_that(law: str, name: str) -> None:
    record = ALL[law][name]()

    found = check_history(record, run_id="r")

    assert {one.law for one in found} == {law}, [str(one) for one in found]


def test_there_is_a_case_for_every_law() -> None:
    assert ALL.keys() == LAWS.keys()
