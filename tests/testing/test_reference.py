"""The engine and the heart come to what the reference model says, for any plan whose result is no matter of timing."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from planloom import Engine, MemoryJournal
from planloom.core.result import RunStatus, StepStatus
from planloom.errors import NotDoneError
from planloom.observe.looks import every_step
from planloom.plan.model import Plan
from planloom.plan.policy import Effects, FailureKind
from planloom.testing import check_history
from planloom.testing.clock import ManualClock
from planloom.testing.reference import UNKNOWN, Answers, AttemptAnswer, RunEnd, TimingError, expected
from planloom.tools.context import ToolContext
from planloom.tools.tool import Tool
from tests.core.driving import Drive, plan, tool
from tests.core.random_plans import TOOLS, plans
from tests.crash.shapes import World
from tests.crash.shapes import driven as driven_by_a_person

EFFECTS = {name: facts.effects or Effects.ONCE for name, facts in TOOLS.items()}
OUTPUTS: tuple[Any, ...] = (0, 1, 2, 2, 1, [1, 2], None, {"x": 1})
FAILURES = (FailureKind.ERROR, FailureKind.NOT_DONE, FailureKind.NOT_DONE, FailureKind.REFUSED, FailureKind.TIMEOUT)
RAISED: dict[FailureKind, type[Exception]] = {
    FailureKind.ERROR: RuntimeError,
    FailureKind.NOT_DONE: NotDoneError,
    FailureKind.REFUSED: TypeError,
    FailureKind.TIMEOUT: TimeoutError,
}
"""What a tool raises so that its failure is of this kind."""


def walked(examples: int) -> Any:
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


def answers_of(seed: int, *, share: float = 0.3) -> Answers:
    """Return answers that follow from seed, step and attempt; a share of them are failures."""

    def answer(key: str, attempt: int, args: dict[str, Any]) -> AttemptAnswer:
        draw = Random(crc32(f"{seed}/{key}/{attempt}".encode()))
        if draw.random() < share:
            kind = draw.choice(FAILURES)
            types = tuple(one.__name__ for one in RAISED[kind].__mro__[:-2])
            return AttemptAnswer(failure=kind, error=f"{kind} of {key}", error_types=types)
        return AttemptAnswer(draw.choice(OUTPUTS))

    return answer


def with_people(answers: Answers) -> Answers:
    """Return the same, where people are asked: they approve, or deny."""

    def answer(key: str, attempt: int, args: dict[str, Any]) -> AttemptAnswer:
        said = answers(key, attempt, args)
        if args.keys() != {"message"}:
            return said
        if said.failure is not None:
            return AttemptAnswer(failure=FailureKind.REFUSED, error="denied by Ann")
        return AttemptAnswer({"approved_by": "Ann"})

    return answer


def untimed(document: dict[str, Any]) -> dict[str, Any]:
    """Take the time limits out of a plan."""
    for step in document["steps"]:
        step.pop("timeout_seconds", None)
        if "approve" in step:
            step["approve"].pop("expires_seconds", None)
        if "plan" in step:
            untimed(step["plan"])
    return document


def patient(document: dict[str, Any]) -> dict[str, Any]:
    """Let no failure stop anything, so that all of a plan has one meaning."""
    document["fail_fast"] = False
    for step in document["steps"]:
        if "for_each" in step:
            step["on_item_error"] = "collect"
        if "plan" in step:
            patient(step["plan"])
    return document


def driven(document: dict[str, Any], answers: Answers, draw: Random) -> Drive:
    """Drive the heart alone: attempts answer in any order."""
    drive = Drive(Plan.from_dict(document), tools=TOOLS, at=1_000.0)
    for _ in range(2_000):
        state = drive.machine.state
        if drive.machine.ended:
            break
        if drive.under_way and (not state.blocked or draw.random() < 0.7):
            key = draw.choice(drive.running)
            request = drive.under_way[key]
            said = answers(key, request.attempt, request.args)
            if key in drive.stopped:
                drive.halt(key)
            elif said.failure is None:
                drive.ok(key, said.output)
            else:
                drive.fail(key, said.failure, said.error, types=said.error_types)
        elif state.blocked:
            key = draw.choice(list(state.blocked))
            said = answers(key, 1, {"message": ""})
            drive.approve(key) if said.failure is None else drive.deny(key)
        else:
            drive.fire(min(state.timers, key=lambda key: state.timers[key]))
    return drive


def compare(wanted: RunEnd, status: RunStatus, output: Any, ends: dict[str, tuple[Any, ...]]) -> None:
    assert status == wanted.status
    assert wanted.output is UNKNOWN or output == wanted.output
    told = {key: (end.status, end.output, end.reason) for key, end in wanted.steps.items()}
    assert {key: ends.get(key) for key in told} == told


def meaning(document: dict[str, Any], answers: Answers) -> RunEnd:
    try:
        return expected(Plan.from_dict(document), answers=answers, effects=EFFECTS)
    except TimingError:
        event("a matter of timing")
        assume(False)
        raise


def of_heart(document: dict[str, Any], seed: int) -> None:
    answers = with_people(answers_of(seed))
    wanted = meaning(document, answers)

    drive = driven(document, answers, Random(seed))

    nodes = drive.machine.state.nodes
    event(f"{drive.status}")
    compare(wanted, drive.status, drive.output, {key: (n.status, n.output, n.reason) for key, n in nodes.items()})
    assert check_history(drive.record, run_id="run") == []


# --- what plans mean, by hand ----------------------------------------------------------------------


def said(**failing: int) -> Answers:
    """Return answers that succeed with the step's key, but for these steps, whose first so many attempts fail."""

    def answer(key: str, attempt: int, args: dict[str, Any]) -> AttemptAnswer:
        return (
            AttemptAnswer(failure=FailureKind.ERROR, error="no")
            if attempt <= failing.get(key, 0)
            else AttemptAnswer(key)
        )

    return answer


def statuses(end: RunEnd) -> dict[str, str]:
    return {key: f"{one.status}{f': {one.reason}' if one.reason else ''}" for key, one in end.steps.items()}


@pytest.mark.parametrize(
    ("on_error", "a", "b", "status"),
    [
        ("fail", "failed", "skipped: upstream_failed", RunStatus.FAILED),
        ("skip", "skipped: on_error_skip", "skipped: upstream_skipped", RunStatus.PARTIAL),
        ("continue", "failed", "completed", RunStatus.PARTIAL),
    ],
)
def test_a42_a_failed_step_means_for_others_what_it_says(on_error: str, a: str, b: str, status: RunStatus) -> None:
    document = plan(tool("a", on_error=on_error), tool("b", "a"), fail_fast=False)

    end = expected(document, answers=said(a=1), effects=EFFECTS)

    assert (end.status, statuses(end)) == (status, {"a": a, "b": b})


@pytest.mark.parametrize(
    ("rule", "status"),
    [
        ("all_success", "skipped: upstream_failed"),
        ("none_failed", "skipped: upstream_failed"),
        ("none_failed_min_one_success", "skipped: upstream_failed"),
        ("one_success", "completed"),
        ("all_done", "completed"),
        ("always", "completed"),
    ],
)
def test_a_join_rule_lets_a_step_start_after_one_success_and_one_failure_or_does_not(rule: str, status: str) -> None:
    document = plan(tool("a"), tool("b"), tool("c", "a", "b", join=rule), fail_fast=False)

    end = expected(document, answers=said(a=1), effects=EFFECTS)

    assert statuses(end)["c"] == status


def test_a_step_is_tried_as_often_as_it_says_and_a_once_step_is_not() -> None:
    again = {"max_attempts": 3}
    document = plan(tool("a", retry=again), tool("b", retry=again, tool="once"), fail_fast=False)

    end = expected(document, answers=said(a=2, b=1), effects=EFFECTS)

    assert (end.steps["a"].attempts, end.steps["a"].status) == (3, StepStatus.COMPLETED)
    assert (end.steps["b"].attempts, end.steps["b"].status) == (1, StepStatus.FAILED)


def test_a_map_that_collects_keeps_the_places_of_its_items() -> None:
    document = plan(tool("m", for_each=[1, 2, 3], on_item_error="collect"), fail_fast=False)

    end = expected(document, answers=said(**{"m[1]": 1}), effects=EFFECTS)

    assert (end.status, end.output) == (RunStatus.PARTIAL, ["m[0]", None, "m[2]"])
    assert end.steps["m"].errors == [{"index": 1, "error": "no", "kind": "error"}]


def test_what_depends_on_who_is_faster_has_no_meaning_here() -> None:
    looks = {"with": {"x": "${{ default(steps.a.output, 0) }}"}}
    document = plan(tool("a"), tool("b"), tool("c", "a", "b", join="one_success", **looks))

    with pytest.raises(TimingError, match="starts at its first success"):
        expected(document, answers=said())


# --- what any plan means ---------------------------------------------------------------------------


@pytest.mark.slow
@walked(60)
@given(document=plans(), seed=st.integers(0, 2**20))
def test_the_heart_comes_to_what_any_plan_means(document: dict[str, Any], seed: int) -> None:
    of_heart(untimed(document), seed)


@pytest.mark.slow
@walked(60)
@given(document=plans(), seed=st.integers(0, 2**20))
def test_the_heart_comes_to_what_any_plan_means_step_by_step(document: dict[str, Any], seed: int) -> None:
    of_heart(patient(untimed(document)), seed)


def tools_of(answers: Answers) -> list[Tool]:
    """Return tools that do as these answers say."""

    def made(name: str, effects: Effects) -> Tool:
        async def call(context: ToolContext) -> Any:
            said = answers(context.step, context.attempt, {})
            if said.failure is not None:
                raise RAISED[said.failure](said.error)
            return said.output

        return Tool.from_function(call, name=name, effects=effects)

    return [made(name, effects) for name, effects in EFFECTS.items()]


async def of_engine(document: dict[str, Any], seed: int) -> None:
    answers, clock, journal = answers_of(seed), ManualClock(), MemoryJournal()

    def as_asked(key: str, attempt: int, args: dict[str, Any]) -> AttemptAnswer:
        return AttemptAnswer({"approved_by": "a person"}) if args.keys() == {"message"} else answers(key, attempt, args)

    wanted = meaning(document, as_asked)

    async with Engine(journal, tools=tools_of(answers), clock=clock) as engine:
        result = await driven_by_a_person(engine.start(Plan.from_dict(document), run_id="run"), clock, World())

    assert result is not None
    event(f"{result.status}")
    ends = {step.id: (step.status, step.output, step.skip_reason) for step in every_step(result.steps)}
    compare(wanted, result.status, result.output, ends)
    assert check_history(await journal.read("run"), run_id="run") == []


@pytest.mark.slow
@walked(30)
@given(document=plans(), seed=st.integers(0, 2**20))
def test_the_engine_comes_to_what_any_plan_means(document: dict[str, Any], seed: int) -> None:
    asyncio.run(of_engine(untimed(document), seed))


@pytest.mark.slow
@walked(30)
@given(document=plans(), seed=st.integers(0, 2**20))
def test_the_engine_comes_to_what_any_plan_means_step_by_step(document: dict[str, Any], seed: int) -> None:
    asyncio.run(of_engine(patient(untimed(document)), seed))
