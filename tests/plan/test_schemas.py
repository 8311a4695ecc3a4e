from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from planloom.plan.schemas import schema_problem, value_problems

KEYWORDS = [
    *(
        "type",
        "properties",
        "required",
        "items",
        "enum",
        "allOf",
        "prefixItems",
        "not",
        "minLength",
        "minimum",
        "title",
    ),
    *("multipleOf", "uniqueItems", "additionalProperties", "dependentRequired", "$defs", "format", "default", "x-own"),
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["string", "object", "integer", "x", 0.5, 2.0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYWORDS), VALUES, max_size=3))
def test_the_metaschema_agrees_on_what_is_a_schema(schema: dict[str, Any]) -> None:
    metaschema = Draft202012Validator(Draft202012Validator.META_SCHEMA)

    assert (schema_problem(schema) is None) is metaschema.is_valid(schema)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("string", "a schema is an object"),
        ({"type": "strin"}, "type: must be one of"),
        ({"type": ["string", "string"]}, "type: must be"),
        ({"properties": {"a": {"items": 3}}}, "properties.a.items: a schema is"),
        ({"allOf": []}, "allOf: must be"),
        ({"anyOf": [True, 1]}, "anyOf[1]: a schema is"),
        ({"pattern": "("}, "pattern: must be"),
        ({"pattern": "(?=a)"}, "look-around"),
        ({"patternProperties": {"a": {}}}, "plans do not have it"),
        ({"$ref": "other.json"}, "stays inside"),
        ({"maxItems": -1}, "maxItems: must be a whole number"),
        ({"multipleOf": 0}, "multipleOf"),
    ],
)
def test_what_is_no_schema_is_said_with_its_path(schema: Any, said: str) -> None:
    problem = schema_problem(schema)

    assert problem is not None
    assert said in problem


def test_a_property_may_have_the_name_of_a_keyword() -> None:
    assert schema_problem({"properties": {"type": {"type": "string"}, "pattern": {}, "$ref": {}}}) is None


def test_a_reference_is_followed_and_a_part_sees_the_whole() -> None:
    schema = {"properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}

    assert value_problems({"a": "x"}, schema) == [(("a",), "a: 'x' is not of type 'integer'")]
    assert value_problems("x", schema, part=schema["properties"]["a"]) == [((), "'x' is not of type 'integer'")]


@pytest.mark.parametrize(("text", "fits"), [("xaab", True), ("b", True), ("xc", False)])
def test_a_pattern_is_searched_for_anywhere(text: str, fits: bool) -> None:
    assert (value_problems(text, {"pattern": "a*b"}) == []) is fits


def test_a_tool_may_use_patterns_that_a_plan_may_not() -> None:
    assert value_problems("b", {"pattern": "^(?!a)"}) == []
    assert value_problems("a", {"pattern": "^(?!a)"}) != []


@pytest.mark.timing
def test_a_pattern_that_runs_away_elsewhere_does_not_here() -> None:
    begun = time.perf_counter()

    assert value_problems("a" * 5_000 + "!", {"pattern": "^(a+)+$"}) != []
    assert time.perf_counter() - begun < 1


def test_a_schema_that_doubles_its_work_at_every_level_is_stopped() -> None:
    levels = {f"d{at}": {"allOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 2} for at in range(40)}
    schema = {"$ref": "#/$defs/d0", "$defs": levels | {"d40": True}}

    problems = value_problems(1, schema, max_checks=1_000)

    assert problems == [((), "the schema asks for over 1,000 checks")]


@pytest.mark.timing
def test_a_large_schema_is_checked_in_proportion_to_its_size() -> None:
    schema = {"allOf": [{"properties": {"a": {"type": "string"}}} for _ in range(15_000)]}
    begun = time.perf_counter()

    assert schema_problem(schema) is None
    assert time.perf_counter() - begun < 1
