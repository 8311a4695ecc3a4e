"""A result held against an expected format."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from planloom.errors import ConfigError
from planloom.verify.expected import FormatValidator
from planloom.verify.verdict import Verdict


def judged(result: Any, expected_format: Any) -> Verdict:
    return asyncio.run(FormatValidator().validate(result, expected_format=expected_format))


def test_a57_a_result_of_the_expected_form_passes() -> None:
    verdict = judged({"next_action": "x", "plan": []}, {"next_action": str, "plan": list})

    assert verdict.is_valid


def test_a57_a_wrong_type_is_told_with_its_path() -> None:
    verdict = judged({"next_action": "x", "plan": {}}, {"next_action": str, "plan": list})

    assert not verdict.is_valid
    assert [check.name for check in verdict.checks] == ["plan"]
    assert verdict.feedback == "plan: should be a valid list (given {})"


def test_a_missing_key_and_a_wrong_one_deep_inside_are_both_told() -> None:
    verdict = judged({"plan": [{"tool": "a"}, {"tool": 7}]}, {"plan": [{"tool": str}], "next_action": str})

    assert [check.name for check in verdict.checks] == ["plan[1].tool", "next_action"]


@pytest.mark.parametrize(
    ("value", "form", "fits"),
    [
        (True, int, False),
        (1, bool, False),
        ("1", int, False),
        (1, float, True),
        (None, str, False),
        (None, None, True),
        ("a", str | None, True),
        (1, (int, str), True),
        (1.5, (int, str), False),
        ([1, 2], list[int], True),
        ([1, "2"], list[int], False),
        (7, Any, True),
        ("text", {"a": int}, False),
        ({"a": 1}, [int], False),
    ],
)
def test_types_are_strict(value: Any, form: Any, fits: bool) -> None:
    assert judged(value, form).is_valid is fits


class Action(BaseModel):
    name: str


def test_a_pydantic_model_is_a_format_too() -> None:
    verdict = judged({"action": {"name": 3}}, {"action": Action})

    assert [check.name for check in verdict.checks] == ["action.name"]


def test_what_a_format_does_not_name_may_be_there() -> None:
    assert judged({"a": 1, "b": 2}, {"a": int}).is_valid


@pytest.mark.parametrize("form", [5, {"a": "str"}, [int, str]])
def test_what_is_no_format_is_refused(form: Any) -> None:
    with pytest.raises(ConfigError):
        judged({"a": [1]} if isinstance(form, dict) else [1], form)
