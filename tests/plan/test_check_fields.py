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


# --- doing it again ---------------------------------------------------------------------------


def problems_with(**fields: Any) -> list[tuple[tuple[str | int, ...], str]]:
    asked = {"id": "a", **({} if "tool" in fields or "task" in fields else {"model": "m", "prompt": "p"}), **fields}
    found = check_plan(Plan.from_dict({"steps": [asked]}))
    assert all(isinstance(problem, FieldError) and problem.remedy and problem.step == "a" for problem in found)
    return [(problem.path[2:], problem.message) for problem in found]


@pytest.mark.parametrize(
    ("verify", "fields", "why"),
    [
        ({"strategy": "self_consistency", "refinement": "retry"}, {}, "means nothing"),
        ({"strategy": "self_consistency"}, {"effects": "once"}, "its effects are 'once'"),
        ({"strategy": "model", "refinement": "retry"}, {"effects": "idempotent"}, "its effects are 'idempotent'"),
        ({"strategy": "model", "refinement": "retry"}, {"tool": "t", "effects": "once"}, "its effects are 'once'"),
        ({"strategy": "model", "refinement": "feedback"}, {"tool": "t"}, "and this is a tool step"),
        ({"strategy": "model", "refinement": "iterative"}, {"tool": "t", "effects": "none"}, "and this is a tool step"),
    ],
)
def test_verification_that_would_do_again_what_must_not_be_is_refused(
    verify: dict[str, Any], fields: dict[str, Any], why: str
) -> None:
    ((path, message),) = problems_with(verify=verify, **fields)

    assert path == ("verify",)
    assert why in message


@pytest.mark.parametrize(
    "fields",
    [
        {"verify": {"strategy": "self_consistency"}},
        {"verify": {"strategy": "model", "refinement": "iterative"}},
        {"verify": {"strategy": "model"}, "effects": "once"},
        {"verify": {"strategy": "model", "refinement": "retry"}, "tool": "t", "effects": "none"},
        {"verify": {"strategy": "model", "refinement": "retry"}, "tool": "t"},  # its tool decides
        {"stream": True, "speculate": {"draft": "d"}},
        {"stream": True, "speculate": {"draft": "d", "policy": "predicted"}},
        {"replan": True},
        {"replan": True, "tool": "t"},
        {"replan": True, "tool": "t", "effects": "idempotent"},
    ],
    ids=str,
)
def test_what_may_be_done_again_and_shown_as_it_comes_is_sound(fields: dict[str, Any]) -> None:
    assert problems_with(**fields) == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"verify": {"strategy": "basic"}}, "'verify'"),
        ({"output": {"type": "object"}}, "'output'"),
        ({"tools": ["t"]}, "'tools'"),
        ({"speculate": {"draft": "d", "policy": "hedged"}}, "'speculate.policy: hedged'"),
        ({"speculate": {"draft": "d", "policy": "cascade"}}, "'speculate.policy: cascade'"),
        ({"speculate": {"draft": "d", "policy": "auto"}}, "'speculate.policy: auto'"),
        ({"verify": {"strategy": "basic"}, "tools": ["t"]}, "'verify' and 'tools'"),
    ],
)
def test_what_may_still_be_thrown_away_is_not_to_be_streamed(fields: dict[str, Any], named: str) -> None:
    ((path, message),) = problems_with(stream=True, **fields)

    assert path == ("stream",)
    assert f"together with {named}:" in message


@pytest.mark.parametrize(
    "fields", [{"effects": "once"}, {"tool": "t", "effects": "once"}, {"task": "do it", "effects": "once"}], ids=str
)
def test_what_may_have_had_its_effect_is_not_done_another_way(fields: dict[str, Any]) -> None:
    ((path, message),) = problems_with(replan=True, **fields)

    assert path == ("replan",)
    assert "its effects are 'once'" in message
