"""What fuzzing once found stays mended: each input that did harm, as small as it can be, and what it comes to now."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from fuzz.gauge import Gauge
from fuzz.targets import TARGETS
from planloom.errors import EvaluationError, ExpressionError, PlanError
from planloom.plan.against import check_against
from planloom.plan.expression import parse_expression
from planloom.plan.load import load_plan, parse_plan
from planloom.plan.model import Plan
from planloom.plan.refs import compile_template
from planloom.plan.schemas import schema_problem, value_problems
from planloom.tools.registry import ToolRegistry
from planloom.tools.tool import Tool

NAMES = [f"a{place}" for place in range(2_000)]
SPACE = " " * 3_900
SLOW: dict[str, tuple[str, str]] = {
    "json in json doubles its text": ("expression", "json(" * 38 + '"\\""' + ")" * 38),
    "many texts that were doubled": ("references", " ".join(['${{ ' + "json(" * 22 + '"\\""' + ")" * 22 + " }}"] * 50)),
    "text split and joined": ("expression", "join(split(" * 12 + "inputs.long" + ", 'x'), inputs.long)" * 12),
    "rounding to a million places": ("expression", "round(5, -99999999)"),
    "space behind a clause": ("lettered", f"a. x after a{SPACE}x\n" * 8),
    "space behind brackets": ("lettered", f"a. x (requires a){SPACE}x\n" * 8),
    "aliases of aliases that are few enough": (
        "plan",
        "steps: [{id: a, tool: t}]\noutputs: [&b [" + ",".join("a" * 40) + "], &c [" + ",".join(["*b"] * 40) + "], &d ["
        + ",".join(["*c"] * 40) + "], " + ",".join(["*d"] * 5) + "]",
    ),
    "every step in a text as often as it likes": (
        "plan",
        json.dumps({"steps": [{"id": name, "tool": "t"} for name in NAMES[:250]],
                    "final_synthesis": {"prompt_template": "{{steps}}" * 600}}),
    ),
    "a required name missing in every item": (
        "plan", json.dumps({"steps": [], "inputs": {"n": {"items": {"required": NAMES[:500]}, "default": [{}] * 900}}})
    ),
    "many choices for many items": (
        "plan",
        json.dumps({"steps": [], "inputs": {"n": {"items": {"enum": [{"a": name} for name in NAMES[:500]]},
                                                  "default": [{}] * 3_000}}}),
    ),
    "objects that must all differ": (
        "plan", json.dumps({"inputs": {"n": {"uniqueItems": True, "default": [{"a": n} for n in NAMES]}}, "steps": []})
    ),
    "classes of characters repeated": (
        "plan", json.dumps({"steps": [], "inputs": {name: {"pattern": rf"\w{{90}}{name}"} for name in NAMES[:50]}})
    ),
    "a fence of nothing but tabs": ("answer", "```\n" + "\t" * 30_000),
}  # fmt: skip


@pytest.mark.timing
@pytest.mark.parametrize("name", SLOW)
def test_what_took_seconds_or_gigabytes_takes_under_a_tenth_of_one(name: str) -> None:
    target, text = SLOW[name]
    gauge = Gauge(TARGETS[target])

    finding = gauge.take(text.encode())

    assert finding is None
    assert gauge.inputs == 1


def test_a_long_path_of_many_parts_is_looked_up_once_for_each_id() -> None:
    text = json.dumps({"steps": [{"step_id": "a", "tool_name": "t", "parameters": {"x": "step:" + "a." * 300_000}}]})
    began = time.thread_time()

    with pytest.raises(PlanError):
        parse_plan(text)

    assert time.thread_time() - began < 2


def test_half_a_character_is_no_text_of_an_expression() -> None:
    with pytest.raises(ExpressionError, match="half of a surrogate pair") as caught:
        parse_expression('"\\ud800" == "x"')

    str(caught.value).encode()


def test_a_plan_whose_sub_plan_has_no_steps_goes_through_its_own_dict() -> None:
    plan = parse_plan("steps:\n- id: a\n  plan: {steps: []}\n")

    assert load_plan(plan.to_dict()) == plan
    assert plan.steps[0].plan == Plan()


def test_an_expression_without_references_is_worked_out_inside_a_list_too() -> None:
    scope: Any = None  # nothing is looked up in it

    alone = compile_template('${{ len("abc") }}').resolve(scope)
    inside = compile_template({"x": ['${{ len("abc") }}', "n: ${{ 1 }}"]}).resolve(scope)

    assert alone == 3
    assert inside == {"x": [3, "n: 1"]}


def test_what_an_expression_without_references_comes_to_is_not_held_against_a_schema_before_it_is_known() -> None:
    def count(n: int) -> int:
        return n

    plan = parse_plan("steps:\n- {id: a, tool: count, with: {n: '${{ len(\"abc\") }}'}}\n")

    assert check_against(plan, ToolRegistry([Tool.from_function(count)])) == []


def test_a_number_too_large_to_compare_does_not_fit_its_schema() -> None:
    problems = value_problems(10**400, {"type": "integer", "multipleOf": 0.01})

    assert [sentence for _, sentence in problems] == [
        "it cannot be held against its schema: int too large to convert to float"
    ]


@pytest.mark.parametrize("frames", [0, 300, 600, 800])
def test_a_schema_that_refers_to_itself_ends_as_a_problem_however_deep_the_stack_is(frames: int) -> None:
    schema = {"oneOf": [{"if": {"$ref": "#"}}, {"if": {"pattern": "a{1000}"}}]}

    def below(levels: int) -> list[Any]:
        return below(levels - 1) if levels else value_problems("x", schema)

    assert [sentence for _, sentence in below(frames)] == ["the schema refers to itself without end"]


def test_a_tree_of_a_recursive_schema_may_be_as_deep_as_a_plan() -> None:
    tree: dict[str, Any] = {}
    for _ in range(64):
        tree = {"kid": tree}
    schema = {"type": "object", "properties": {"kid": {"$ref": "#"}}}

    assert value_problems(tree, schema) == []
    assert value_problems({"kid": 5}, schema) == [(("kid",), "kid: 5 is not of type 'object'")]


@pytest.mark.parametrize(
    ("values", "differ"),
    [([1, True], True), ([0, False], True), ([1, 1.0], False), ([[True], [1]], True), ([{"a": 1}, {"a": 1.0}], False),
     ([[], {}], True), ([None, "null"], True), ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], False)],
)  # fmt: skip
def test_equal_is_what_json_calls_equal(values: list[Any], differ: bool) -> None:
    assert bool(value_problems(values, {"uniqueItems": True})) is not differ
    assert bool(value_problems(values[1], {"enum": [values[0]]})) is differ


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        (r"^\w{1,64}@\w+\.[a-z]{2,6}$", True),
        (r"^(?:\d{4}-\d{2}-\d{2}T?){2}$", True),
        (r"[^a]{1000}", True),
        (r"(a{30}){30}", True),
        (r"(\w{10}){11}", False),
        (r"([\w\s]x{3}){51}", False),
        (r"(\w|b){90}\w", True),
        (r"\w" * 101, False),
        (r"[^a]{4000}", False),
        ("a)]}{(", False),
    ],
)
def test_a_pattern_may_be_of_some_size(pattern: str, fits: bool) -> None:
    assert (schema_problem({"pattern": pattern}) is None) is fits


def test_texts_that_are_no_larger_than_they_may_be_are_made() -> None:
    text = "x" * 4_000_000

    class Given:
        def root(self, name: str) -> Any:
            return {"x": text}

        def step(self, step_id: str, field: str) -> Any:
            raise AssertionError

    assert parse_expression("len(join([lower(inputs.x), upper(inputs.x)]))").evaluate(Given()) == 8_000_000
    with pytest.raises(EvaluationError, match="functions make over 16000000 characters"):
        parse_expression("len(join([lower(inputs.x), upper(inputs.x), lower(inputs.x)]))").evaluate(Given())
