from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from planloom.errors import PlanError
from planloom.plan.load import load_plan
from planloom.plan.schema import plan_schema
from planloom.plan.yaml_text import read_yaml

VALIDATOR = Draft202012Validator(plan_schema())
TOOL = {"id": "a", "tool": "t"}

GOOD: list[dict[str, Any]] = [
    read_yaml((Path(__file__).parent / "receipts.yaml").read_text()),
    {"planloom": 1},
    {"steps": []},
    {
        "steps": [
            TOOL,
            {"id": 2, "approve": "ok?"},
            {"id": "c", "wait": 3},
            {"id": "d", "wait": {"until": "${{ inputs.t }}"}},
        ]
    },
    {
        "steps": [
            {"id": "a", "agent": "x", "prompt": "p"},
            {"id": "b", "code": "1"},
            {"id": "c", "task": "x", "tools": "t"},
        ]
    },
    {"steps": [TOOL, {"id": "b", "tool": "t", "depends_on": "a"}, {"id": "c", "tool": "t", "requires": ["a", "b"]}]},
    {"steps": [TOOL, {"id": "b", "tool": "t", "needs": [{"step": "a", "when": "true"}], "join": "all_done"}]},
    {"steps": [{"id": "a", "plan": {"steps": [TOOL]}}], "limits": {"max_duration": 3}, "allow": "t"},
    {
        "steps": [
            TOOL | {"retry": {"max_attempts": 3}, "when": True, "for_each": [1], "max_parallel": 2, "cache": False}
        ]
    },
    {"steps": [TOOL | {"model": None, "retry": None, "effects": "none", "labels": {"gpu": "yes"}}]},
]
BAD: list[dict[str, Any]] = [
    {},
    {"planloom": 2, "steps": []},
    {"steps": {}},
    {"steps": [{"tool": "t"}]},
    {"steps": [{"id": "a"}]},
    {"steps": [TOOL | {"model": "m"}]},
    {"steps": [TOOL | {"timeout_secs": 3}]},
    {"steps": [TOOL | {"timeout_seconds": 0}]},
    {"steps": [TOOL | {"retry": {"attempts": 3}}]},
    {"steps": [TOOL | {"retry": {"max_attempts": 0}}]},
    {"steps": [TOOL | {"on_error": "ignore"}]},
    {"steps": [TOOL | {"mode": "serial"}]},
    {"steps": [TOOL | {"needs": [], "depends_on": []}]},
    {"steps": [TOOL | {"needs": [{"step": "a"}]}]},
    {"steps": [TOOL], "limits": {"max_cost": 3}},
    {"steps": [TOOL], "inputs": {"x": "string"}},
    {"steps": [{"id": "a", "plan": {"steps": [{"id": "b"}]}}]},
]


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(plan_schema())


@pytest.mark.parametrize("document", GOOD)
def test_what_load_plan_takes_the_schema_takes(document: dict[str, Any]) -> None:
    load_plan(document)

    assert list(VALIDATOR.iter_errors(document)) == []


@pytest.mark.parametrize("document", BAD)
def test_what_the_schema_refuses_load_plan_refuses(document: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        load_plan(document)

    assert not VALIDATOR.is_valid(document)


def test_the_caller_may_change_what_it_gets() -> None:
    plan_schema()["$defs"].clear()

    assert plan_schema()["$defs"]
