"""Fields that would mean nothing where they stand are refused, not ignored."""

from __future__ import annotations

from typing import Any

import pytest

from planloom.errors import FieldError
from planloom.plan.check import check_plan
from planloom.plan.model import Plan

INNER = {"steps": [{"id": "x", "tool": "t"}]}


@pytest.mark.parametrize(
    "fields",
    [
        {"retry": {"max_attempts": 3}},
        {"attempt_timeout": 3},
        {"effects": "none"},
        {"idempotency_key": "k"},
        {"cache": True},
        {"output": {"type": "object"}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_only_an_attempt_has_is_refused_on_a_sub_plan(fields: dict[str, Any]) -> None:
    plan = Plan.from_dict({"steps": [{"id": "sub", "plan": INNER, **fields}]})

    (problem,) = check_plan(plan)

    assert isinstance(problem, FieldError)
    assert problem.path == ("steps", 0, next(iter(fields)))
    assert problem.remedy


@pytest.mark.parametrize("kind", [{"approve": "Go on?"}, {"wait": 3}], ids=["approve", "wait"])
def test_a_time_for_attempts_is_refused_where_nothing_is_attempted(kind: dict[str, Any]) -> None:
    plan = Plan.from_dict({"steps": [{"id": "a", **kind, "timeout_seconds": 3}]})

    assert [problem.path for problem in check_plan(plan)] == [("steps", 0, "timeout_seconds")]


def test_a_sub_plan_may_have_a_time_and_no_budget_of_its_own() -> None:
    timed = Plan.from_dict({"steps": [{"id": "sub", "plan": INNER, "timeout_seconds": 3}]})
    limited = Plan.from_dict({"steps": [{"id": "sub", "plan": {**INNER, "limits": {"max_tool_calls": 3}}}]})

    assert check_plan(timed) == []
    assert [problem.path for problem in check_plan(limited)] == [("steps", 0, "plan", "limits")]
