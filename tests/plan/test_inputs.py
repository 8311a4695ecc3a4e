from __future__ import annotations

import socket
from typing import Any

import pytest

from planloom.errors import InputsError, InvalidPlanError
from planloom.plan.check import check_inputs
from planloom.plan.model import Plan

PLAN = Plan(
    inputs={
        "name": {"type": "string"},
        "count": {"type": "integer", "default": 3},
        "tags": {"type": "array", "items": {"type": "string"}, "default": ["a"]},
    }
)


def test_defaults_are_filled_in() -> None:
    assert check_inputs(PLAN, {"name": "x"}) == {"name": "x", "count": 3, "tags": ["a"]}


def test_a_plan_without_declared_inputs_takes_anything() -> None:
    assert check_inputs(Plan(), {"x": (1, 2)}) == {"x": [1, 2]}
    assert check_inputs(Plan(), None) == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "'name' is missing"),
        (None, "'name' is missing"),
        ({"name": 3}, "not of type 'string'"),
        ({"name": "x", "tags": ["a", 2]}, r"tags.*\[1\]: 2 is not"),
        ({"name": "x", "coutn": 1}, "no input 'coutn'"),
        ({"name": object()}, r"inputs\.name"),
        ({"name": float("nan")}, r"inputs\.name"),
        ([1], "inputs are a list"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(given: Any, said: str) -> None:
    with pytest.raises(InputsError, match=said) as caught:
        check_inputs(PLAN, given)

    assert caught.value.remedy


def test_all_problems_with_inputs_come_at_once() -> None:
    with pytest.raises(InvalidPlanError) as caught:
        check_inputs(PLAN, {"count": "x", "more": 1})

    assert [problem.path for problem in caught.value.problems] == [
        ("inputs", "count"),
        ("inputs", "more"),
        ("inputs", "name"),
    ]


def test_nothing_is_shared_with_the_caller_or_the_plan() -> None:
    given = {"name": "x", "tags": ["b"]}

    first = check_inputs(PLAN, given)
    first["tags"].append("c")
    check_inputs(PLAN, {"name": "x"})["tags"].append("d")

    assert given["tags"] == ["b"]
    assert check_inputs(PLAN, {"name": "x"})["tags"] == ["a"]


def test_a_schema_elsewhere_is_never_fetched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        schema = {"$ref": f"http://127.0.0.1:{server.getsockname()[1]}/x"}

        with pytest.raises(InputsError, match="the schema refers to"):
            check_inputs(Plan(inputs={"x": schema}), {"x": 1})

        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("schema", [{"$ref": "#/$defs/gone"}, {"$ref": "#"}, {"allOf": [{"$ref": "#"}]}])
def test_a_schema_that_leads_nowhere_is_an_error(schema: dict[str, Any]) -> None:
    with pytest.raises(InputsError, match="the schema refers to"):
        check_inputs(Plan(inputs={"x": schema}), {"x": 1})
