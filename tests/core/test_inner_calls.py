"""Calls inside attempts: what an earlier attempt paid for is handed on; what may happen once is not done again."""

from __future__ import annotations

from typing import Any

import pytest

from planloom.core.answers import MAX_LOST
from planloom.core.events import (
    AgentFacts,
    CallEnded,
    CallStarted,
    OutcomeUnknown,
    RetryScheduled,
    StepFailed,
)
from planloom.core.prices import ModelFacts, ModelPrice
from planloom.core.result import StepStatus, Usage
from planloom.plan.policy import Effects, FailureKind, ResourceLimits
from tests.core.driving import Drive, plan

PRICE = ModelPrice(1.0, 1.0)
MODELS = {"agent:ann": ModelFacts("openai://m", price=PRICE, max_tokens=100)}
AGENTS = {"ann": AgentFacts("1", Effects.NONE, "agent:ann")}
NO_LIMITS = ResourceLimits(
    timeout_seconds=None,
    max_tool_calls=None,
    max_concurrent=None,
    max_total_cost_usd=None,
    max_memory_mb=None,
    max_cpu_percent=None,
)


def limits(**fields: Any) -> ResourceLimits:
    return NO_LIMITS.model_copy(update=fields)


def agent(step_id: str = "a", **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "agent": "ann", "prompt": "Do it."} | fields


def driven(*steps: dict[str, Any], **told: Any) -> Drive:
    return Drive(plan(*(steps or (agent(),))), agents=AGENTS, models=MODELS, **told)


def called(
    drive: Drive, call: str = "1", *, key: str = "a", effects: Effects = Effects.NONE, ends: bool = True, **used: Any
) -> None:
    request = drive.under_way[key]
    place = (key, request.attempt, request.epoch, call, "send")
    if effects is not Effects.NONE:
        drive.hand(CallStarted(*place, drive.now, effects))
    if ends:
        drive.hand(CallEnded(*place, "tool", f"answer {call}", drive.now, drive.now, **used))


def test_an_attempt_after_a_crash_is_given_what_earlier_calls_came_to() -> None:
    drive = driven()
    called(drive, "1")
    called(drive, "2", effects=Effects.ONCE)

    drive.restart()

    again = drive.under_way["a"]
    assert again.attempt == 2
    assert {key: call.output for key, call in again.recorded.items()} == {"1": "answer 1", "2": "answer 2"}


def test_a_retry_is_given_them_too_and_the_next_step_is_not() -> None:
    drive = driven(agent(retry={"max_attempts": 2, "initial_delay": 0}), agent("b", needs=["a"]))
    called(drive)
    drive.fail("a")
    drive.fire("a")

    assert list(drive.under_way["a"].recorded) == ["1"]

    drive.ok("a")
    assert drive.under_way["b"].recorded == {}


def test_a_once_call_that_began_and_did_not_end_stops_for_a_person_when_the_engine_dies() -> None:
    drive = driven()
    called(drive, effects=Effects.ONCE, ends=False)

    drive.restart()

    assert drive.under_way == {}
    assert [event.step for event in drive.of_type(OutcomeUnknown)] == ["a"]

    drive.resolve("a", "retry")
    assert drive.under_way["a"].attempt == 2


@pytest.mark.parametrize("says", [{}, {"effects": "none"}, {"effects": "idempotent"}], ids=["nothing", "none", "idem"])
def test_neither_is_it_tried_again_when_its_attempt_fails_whatever_its_step_says(says: dict[str, str]) -> None:
    drive = driven(agent(retry={"max_attempts": 3, "initial_delay": 0}, **says))
    called(drive, effects=Effects.ONCE, ends=False)

    drive.fail("a", FailureKind.TIMEOUT)

    assert drive.of_type(RetryScheduled) == []
    assert drive.statuses() == {"a": "timed_out"}


@pytest.mark.parametrize("effects", [Effects.NONE, Effects.IDEMPOTENT])
def test_any_other_call_under_way_is_simply_made_again(effects: Effects) -> None:
    drive = driven()
    called(drive, effects=effects, ends=False)

    drive.restart()

    assert drive.under_way["a"].attempt == 2


def test_a_call_of_an_attempt_that_is_not_under_way_any_more_is_not_taken_down() -> None:
    drive = driven()
    late = CallStarted("a", 1, 1, "1", "send", drive.now)
    drive.restart()

    turn = drive.hand(late)

    assert turn.events == ()


def test_what_calls_used_counts_though_their_attempt_was_lost_and_not_all_that_was_set_aside() -> None:
    drive = driven(limits=limits(max_total_cost_usd=100.0, max_total_tokens=10_000_000))
    granted = drive.under_way["a"].grant
    assert granted.usd is not None
    assert granted.usd > 1.0
    called(drive, usage=Usage(1_000, 100), cost_usd=0.5, tool_calls=1)

    drive.restart()

    step = drive.machine.state.nodes["a"]
    need = step.claim.cost_usd
    assert step.cost_usd == pytest.approx(0.5 + need)
    assert need < 0.1
    assert drive.machine.state.budget.calls == 1
    drive.ok("a", "done", usage=Usage(10, 1), cost_usd=0.25)
    assert drive.result.cost_usd == pytest.approx(0.75 + need)


def test_an_agent_that_was_lost_before_a_call_ended_used_no_more_than_its_first_call() -> None:
    drive = driven(limits=limits(max_total_cost_usd=100.0, max_tool_calls=9, max_total_tokens=10_000_000))
    assert drive.under_way["a"].grant.calls == 9

    drive.restart()

    state = drive.machine.state
    assert state.nodes["a"].cost_usd == state.nodes["a"].claim.cost_usd
    assert drive.under_way["a"].grant.calls == 9


@pytest.mark.parametrize("effects", [Effects.IDEMPOTENT, Effects.ONCE])
def test_a_call_with_effects_that_was_lost_counts_as_made(effects: Effects) -> None:
    drive = driven(limits=limits(max_tool_calls=9))
    called(drive, "1", effects=effects, tool_calls=1)
    called(drive, "2", effects=effects, ends=False)

    drive.restart()

    assert drive.machine.state.budget.calls == 2


def test_of_what_puts_no_calls_on_record_all_that_was_set_aside_counts() -> None:
    ask = {"id": "a", "model": "agent:ann", "prompt": "Do it.", "tools": ["t"]}
    drive = driven(ask, limits=limits(max_tool_calls=9, max_total_cost_usd=100.0))
    granted = drive.under_way["a"].grant

    drive.restart()

    assert granted.calls
    assert drive.machine.state.budget.calls == granted.calls
    assert drive.machine.state.nodes["a"].cost_usd == pytest.approx(granted.usd)


def test_agents_that_are_ready_together_each_get_a_share_of_what_is_left() -> None:
    drive = driven(agent("a"), agent("b"), agent("c"), limits=limits(max_total_cost_usd=0.4))

    grants = [drive.under_way[key].grant.usd for key in "abc"]

    assert grants[0] == pytest.approx(0.2, rel=0.2)
    assert grants[1] == pytest.approx(0.1, rel=0.25)
    assert all(grants)
    assert sum(grants) <= 0.4 + 1e-9


def test_code_is_told_how_much_memory_and_processor_it_may_take() -> None:
    drive = Drive(
        plan({"id": "a", "code": "return 1"}), limits=limits(max_memory_mb=64.0, max_cpu_percent=25.0, max_tool_calls=3)
    )

    grant = drive.under_way["a"].grant

    assert (grant.memory_mb, grant.cpu_percent, grant.calls) == (64.0, 25.0, 0)
    assert drive.under_way["a"].effects is Effects.NONE


def test_an_agent_nothing_is_known_of_is_done_once() -> None:
    drive = Drive(plan(agent()), agents={"ann": AgentFacts("1")})
    assert drive.under_way["a"].effects is Effects.ONCE
    assert drive.under_way["a"].after_durable

    drive.restart()

    assert drive.of_type(OutcomeUnknown)


# --- workers that die ---


def test_a_step_whose_worker_died_is_given_to_another_at_once_without_using_up_its_attempts() -> None:
    drive = driven(agent(retry={"max_attempts": 1}))

    drive.fail("a", FailureKind.LOST)
    drive.fire("a")

    assert drive.under_way["a"].attempt == 2
    assert drive.machine.state.nodes["a"].failures == 0
    drive.fail("a")
    assert drive.statuses() == {"a": "failed"}


def test_a_once_step_whose_worker_died_waits_for_a_person() -> None:
    drive = Drive(plan({"id": "a", "tool": "once"}), tools={})

    drive.fail("a", FailureKind.LOST)

    assert drive.of_type(OutcomeUnknown)
    assert drive.machine.waits_for_person
    drive.resolve("a", "output", 7)
    assert drive.output == 7


def test_a_step_that_kills_its_workers_fails() -> None:
    drive = driven()

    for _ in range(MAX_LOST - 1):
        drive.fail("a", FailureKind.LOST, "its worker died")
        drive.fire("a")
    drive.fail("a", FailureKind.LOST, "its worker died")

    failed = drive.of_type(StepFailed)
    assert [(event.status, event.kind) for event in failed] == [(StepStatus.FAILED, FailureKind.LOST)]
