"""Plans and steps as values: what they take, what they keep, and that they come back from their JSON as they were."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from planloom.errors import FieldError, UnknownStepError
from planloom.plan.model import Plan, Step, unique_ids
from planloom.plan.policy import CachePolicy
from tests.core.random_plans import plans


def step(**fields: Any) -> Step:
    return Plan.from_dict({"steps": [{"id": "a"} | fields]}).steps[0]


@pytest.mark.slow
@given(plans())
def test_a8_a_plan_comes_back_from_its_json_as_it_was(document: dict[str, Any]) -> None:
    plan = Plan.from_dict(document)

    again = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))

    assert again == plan
    assert again.hash == plan.hash
    assert again.to_dict() == plan.to_dict()


def test_defaults_are_left_out_of_the_json() -> None:
    plan = Plan.from_dict({"planloom": 1, "steps": [{"id": "a", "tool": "t", "on_error": "fail", "needs": []}]})

    assert plan.to_dict() == {"planloom": 1, "steps": [{"id": "a", "tool": "t"}]}


def test_the_hash_is_of_what_the_plan_says_and_not_how_it_is_written() -> None:
    one = Plan.from_dict({"name": "x", "steps": [{"id": "a", "tool": "t", "with": {"b": 1, "a": 2}}]})
    other = Plan.from_dict({"steps": [{"tool": "t", "with": {"a": 2, "b": 1}, "id": "a"}], "name": "x"})

    assert one.hash == other.hash
    assert len(one.hash) == 64
    assert one.canonical_json is one.canonical_json
    assert one.hash != Plan.from_dict({"name": "y", "steps": []}).hash


@pytest.mark.parametrize(
    ("field", "given_", "kept"),
    [
        ("id", 7, "7"),
        ("needs", "b", ("b",)),
        ("needs", [1, "b"], ("1", "b")),
        ("tools", "t", ("t",)),
        ("tools", None, None),
        ("cache", True, CachePolicy()),
        ("cache", False, None),
    ],
)
def test_short_forms(field: str, given_: Any, kept: Any) -> None:
    assert getattr(step(**{field: given_}), field) == kept


def test_short_forms_of_what_a_step_does() -> None:
    assert step(agent="ann").agent == step(agent={"name": "ann"}).agent
    assert step(code="1").code == step(code={"source": "1"}).code
    assert step(approve="Go?").approve == step(approve={"message": "Go?"}).approve
    assert step(wait=5).wait == step(wait={"seconds": 5}).wait
    assert step(wait="${{ inputs.n }}").wait == step(wait={"seconds": "${{ inputs.n }}"}).wait


@pytest.mark.parametrize(
    ("fields", "kind", "doer"),
    [
        ({"tool": "t"}, "tool", "t"),
        ({"model": "m://x"}, "model", "m://x"),
        ({"agent": "ann"}, "agent", "ann"),
        ({"code": "1"}, "code", "code"),
        ({"plan": {"steps": []}}, "plan", "plan"),
        ({"approve": "Go?"}, "approve", "approve"),
        ({"wait": 1}, "wait", "wait"),
        ({"task": "Do it"}, "task", "task"),
        ({}, "task", "task"),
        ({"tool": "t", "model": "m"}, "tool", "t"),
    ],
    ids=str,
)
def test_a_step_has_one_kind_and_somebody_who_does_it(fields: dict[str, Any], kind: str, doer: str) -> None:
    assert (step(**fields).kind, step(**fields).doer) == (kind, doer)


@pytest.mark.parametrize(
    "fields",
    [
        {"id": ""},
        {"id": "x" * 201},
        {"id": None},
        {"id": True},
        {"zzz": 1},
        {"temperature": 3},
        {"temperature": -0.1},
        {"max_tokens": 0},
        {"max_parallel": 0},
        {"timeout_seconds": 0},
        {"attempt_timeout": float("inf")},
        {"join": "some"},
        {"mode": "both"},
        {"on_error": "retry"},
        {"on_item_error": "skip"},
        {"effects": "twice"},
        {"needs": [{"step": "a"}]},
        {"retry": {"max_attempts": 0}},
        {"labels": {"a": 1}},
    ],
    ids=str,
)
def test_what_a_step_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(FieldError, match="not a plan"):
        step(**fields)


@pytest.mark.parametrize(
    "document", [{"planloom": 2}, {"planloom": 0}, {"zzz": 1}, {"steps": 1}, {"concurrency": {"db": 0}}, []], ids=str
)
def test_what_a_plan_cannot_be_is_refused(document: Any) -> None:
    with pytest.raises(FieldError):
        Plan.from_dict(document)


def test_a_plan_is_frozen() -> None:
    plan = Plan.from_dict({"steps": [{"id": "a", "tool": "t"}]})

    with pytest.raises((FrozenInstanceError, ValidationError)):
        plan.name = "x"  # type: ignore[misc]  # that is what is tried
    with pytest.raises((FrozenInstanceError, ValidationError)):
        plan.steps[0].tool = "x"  # type: ignore[misc]  # that is what is tried


def test_args_can_be_given_by_either_name() -> None:
    assert Step(id="a", tool="t", args={"x": 1}) == step(tool="t", **{"with": {"x": 1}})


def test_a_step_is_found_by_its_id() -> None:
    plan = Plan.from_dict({"steps": [{"id": "fetch", "tool": "t"}]})

    assert plan.step("fetch") is plan.steps[0]
    with pytest.raises(UnknownStepError, match="the plan has no step 'fetsh'") as caught:
        plan.step("fetsh")
    assert caught.value.remedy == "did you mean 'fetch'?"


def test_allow_may_be_one_name_and_none_means_everything() -> None:
    assert Plan.from_dict({"allow": "t"}).allow == ("t",)
    assert Plan.from_dict({"allow": []}).allow == ()
    assert Plan.from_dict({}).allow is None


def test_each_id_used_again_is_told_once_each_time() -> None:
    steps = tuple(Step(id=name, tool="t") for name in ("a", "b", "a", "a"))

    told = [(error.path, error.message) for error in unique_ids(steps)]

    assert told == [
        (("steps", 2, "id"), "step id 'a' is used again (first by step 1 of the plan)"),
        (("steps", 3, "id"), "step id 'a' is used again (first by step 1 of the plan)"),
    ]
