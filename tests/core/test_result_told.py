"""What a run and its steps came to, told as JSON, field by field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from planloom.core.result import RunResult, RunStatus, SkipReason, StepResult, Steps, StepStatus, Usage

PLAIN = StepResult("a", "tool", "t", StepStatus.COMPLETED)
FULL = StepResult(
    "m",
    "model",
    "openai://x",
    StepStatus.SKIPPED,
    output=[1],
    error="no",
    error_kind="timeout",
    skip_reason=SkipReason.CONDITION_FALSE,
    attempts=3,
    cost_usd=0.5,
    usage=Usage(1, 2, 3),
    started_at=10.0,
    ended_at=12.5,
    width=2,
    errors=({"index": 0, "error": "no"},),
    waiting="retry",
    approval={"message": "Go?", "attempt": 0, "binding": "ab" * 32},
    metadata={"model": "x"},
    parts=(PLAIN,),
)
ASKED = replace(PLAIN, id="ask", waiting="approval", approval={"message": "Pay?", "attempt": 1, "binding": "cd" * 32})


def bare(step_id: str, **fields: Any) -> dict[str, Any]:
    told = {"id": step_id, "kind": "tool", "tool": "t", "status": "completed", "output": None, "error": None}
    return told | {"attempts": 0, "cost": 0.0, "latency_ms": None, "started_at": None, "ended_at": None} | fields


def test_tokens_are_told_with_their_sum_and_what_is_not_nought() -> None:
    told = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "requests": 4}

    assert Usage(1, 2, 4).to_dict() == told
    assert Usage(1, 2, 4, 5, 6, 7).to_dict() == told | {
        "cache_read_tokens": 5,
        "cache_write_tokens": 6,
        "estimated_tokens": 7,
    }


def test_a_step_is_told_with_what_there_is_of_it() -> None:
    assert PLAIN.to_dict() == bare("a")
    assert PLAIN.to_dict(track_cost=False) == bare("a", cost=None)
    assert FULL.to_dict() == {
        "id": "m",
        "kind": "model",
        "tool": "openai://x",
        "status": "skipped",
        "output": [1],
        "error": "no",
        "attempts": 3,
        "cost": 0.5,
        "latency_ms": 2_500.0,
        "started_at": 10.0,
        "ended_at": 12.5,
        "error_kind": "timeout",
        "skip_reason": "condition_false",
        "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "requests": 3},
        "waiting": "retry",
        "approval": {"message": "Go?", "attempt": 0, "binding": "ab" * 32},
        "metadata": {"model": "x"},
        "width": 2,
        "errors": [{"index": 0, "error": "no"}],
        "parts": [bare("a")],
    }
    assert FULL.to_dict(track_cost=False)["parts"] == [bare("a", cost=None)]


def test_a_model_whose_price_nobody_knows_cost_nobody_knows_what() -> None:
    assert replace(PLAIN, usage=Usage(1)).to_dict()["cost"] is None


def test_a_step_that_has_not_begun_or_not_ended_took_no_time() -> None:
    assert replace(PLAIN, started_at=1.0).latency_ms is None
    assert replace(PLAIN, ended_at=1.0).latency_ms is None


RUN = RunResult(
    "r",
    "p",
    RunStatus.WAITING,
    {"x": 1},
    (PLAIN, replace(FULL, parts=(replace(PLAIN, id="m/u", waiting="unknown"),)), ASKED),
    error="no",
    failed_step="m",
    exceeded_limits=("a",),
    limits_not_enforced=("b",),
    cost_usd=0.5,
    cost_unknown=("m",),
    usage=Usage(1, 2, 3),
    tool_calls=4,
    speculation={"hits": 1},
    started_at=1.0,
    ended_at=2.0,
    active_s=3.0,
    speedup=4.0,
    parallel_efficiency=0.5,
    critical_path_ms=6.0,
    scheduler_overhead_ms=7.0,
)


def test_a_run_is_told_whole() -> None:
    assert RUN.to_dict() == {
        "run_id": "r",
        "plan": "p",
        "status": "waiting",
        "result": {"x": 1},
        "error": "no",
        "failed_step": "m",
        "steps": [step.to_dict() for step in RUN.steps],
        "steps_completed": 2,
        "cost": 0.5,
        "cost_unknown": ["m"],
        "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "requests": 3},
        "tool_calls": 4,
        "latency_ms": 3_000.0,
        "speedup": 4.0,
        "parallel_efficiency": 0.5,
        "critical_path_ms": 6.0,
        "scheduler_overhead_ms": 7.0,
        "exceeded_limits": ["a"],
        "limits_not_enforced": ["b"],
        "speculation": {"hits": 1},
        "blocked": RUN.blockers(),
        "started_at": 1.0,
        "ended_at": 2.0,
    }


def test_what_there_is_not_of_a_run_is_not_told() -> None:
    told = replace(RUN, cost_usd=None, cost_unknown=(), speculation=None).to_dict()

    assert told.keys() == RUN.to_dict().keys() - {"cost_unknown", "speculation"}
    assert (told["cost"], told["steps"][0]["cost"]) == (None, None)
    assert replace(RUN, cost_usd=None).to_dict()["steps"][0]["cost"] == 0.0


def test_each_step_that_waits_for_a_person_has_the_command_that_answers_it() -> None:
    plain = replace(ASKED, id="plain", approval={"message": "Go?", "attempt": 0, "binding": "ef" * 32})
    nothing = replace(ASKED, id="old", approval=None)

    assert replace(RUN, steps=(*RUN.steps, plain, nothing)).blockers() == [
        {
            "step": "m/u",
            "why": "it may run only once, and whether it did is unknown",
            "command": "planloom resolve r m/u --output JSON | --retry | --fail",
        },
        {
            "step": "ask",
            "why": "waits for approval: Pay?",
            "command": f"planloom approve r ask --binding {'cd' * 8}",
        },
        {"step": "plain", "why": "waits for approval", "command": "planloom approve r plain"},
        {"step": "old", "why": "waits for approval", "command": "planloom approve r old"},
    ]


def test_a_step_is_found_by_its_id() -> None:
    assert RUN.step("m").kind == "model"
    with pytest.raises(KeyError, match="gone"):
        RUN.step("gone")


def test_steps_are_worked_out_once_when_first_looked_at() -> None:
    made: list[int] = []

    def make() -> list[StepResult]:
        made.append(1)
        return [PLAIN, FULL]

    steps = Steps(make)

    assert made == []
    assert (len(steps), steps[1], steps[:1], list(steps)) == (2, FULL, (PLAIN,), [PLAIN, FULL])
    assert steps == (PLAIN, FULL)
    assert steps == Steps(lambda: [PLAIN, FULL])
    assert steps != [PLAIN, FULL]
    assert repr(steps) == repr((PLAIN, FULL))
    assert made == [1]
    assert hash(Steps(lambda: [PLAIN])) == hash((PLAIN,))
