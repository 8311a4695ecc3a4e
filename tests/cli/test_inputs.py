from __future__ import annotations

from typing import Any

import click
import pytest

from planloom.cli.inputs import read_inputs, read_limits
from planloom.plan.model import Plan
from planloom.plan.policy import ResourceLimits


def read(text: str, schema: dict[str, Any] | None) -> Any:
    plan = Plan(inputs={} if schema is None else {"x": schema})
    return read_inputs(plan, pairs=[f"x={text}"], files=[], document=None)["x"]


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("12", {"type": "string"}, "12"),
        ("12", {"type": "integer"}, 12),
        ("12", {"type": ["string", "integer"]}, "12"),
        ("true", {"type": "boolean"}, True),
        ('["a", 1]', {"type": "array"}, ["a", 1]),
        ("a=b", {"type": "string"}, "a=b"),
        ("", {"type": "string"}, ""),
        ("not json", {"type": "integer"}, "not json"),
        ("2", {"enum": [1, 2]}, 2),
        ("red", {"enum": ["red", "blue"]}, "red"),
        ("NaN", {"type": "number"}, "NaN"),
        ('{"a": 1}', None, {"a": 1}),
        ("plain text", None, "plain text"),
    ],
)
def test_a_value_is_text_where_text_fits_and_json_elsewhere(
    text: str, schema: dict[str, Any] | None, value: Any
) -> None:
    assert read(text, schema) == value


def test_the_limits_named_are_the_only_ones_that_change() -> None:
    named = read_limits(Plan(), ["max_tool_calls=5"], max_concurrent=2)

    assert named is not None
    assert {name: value for name, value in named.model_dump().items() if value is not None} == {
        "max_tool_calls": 5,
        "max_concurrent": 2,
    }


def test_the_limits_of_the_plan_stand_where_none_is_named_over_them() -> None:
    plan = Plan(limits=ResourceLimits(timeout_seconds=7, max_tool_calls=3))

    assert read_limits(plan, [], max_concurrent=None) is plan.limits
    changed = read_limits(plan, ["max_tool_calls=none"], max_concurrent=None)
    assert changed is not None
    assert (changed.timeout_seconds, changed.max_tool_calls) == (7, None)


def test_no_limits_anywhere_are_no_limits() -> None:
    assert read_limits(Plan(), [], max_concurrent=None) is None


def test_a_limit_that_is_no_number_names_the_field() -> None:
    with pytest.raises(click.UsageError, match="max_tool_calls"):
        read_limits(Plan(), ["max_tool_calls=many"], max_concurrent=None)
