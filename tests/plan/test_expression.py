"""The language of references and conditions: what it has, what it refuses, and that it always answers."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from planloom.errors import EvaluationError, ExpressionError, MissingValueError, PlanloomError
from planloom.plan import terms
from planloom.plan.expression import MAX_DEPTH, MAX_EXPRESSION, parse_expression
from planloom.plan.terms import FUNCTIONS, as_text, fresh, truthy

INPUTS: dict[str, Any] = {
    "n": 5,
    "f": 2.5,
    "s": "Text",
    "yes": True,
    "no": False,
    "none": None,
    "list": [1, "a", None, [2], True],
    "numbers": [3, 1.5, 2],
    "empty": [],
    "obj": {"a": 1, "b": {"c": [10]}},
    "a-b": "dash",
    "true": "word",
    "7": "seven",
}


class Given:
    """Inputs, and one step `s` with an output."""

    def root(self, name: str) -> Any:
        if name == "inputs":
            return INPUTS
        raise MissingValueError(f"no {name} here")

    def step(self, step_id: str, field: str) -> Any:
        if step_id != "s":
            raise MissingValueError(f"step {step_id!r} has no {field}")
        return {"output": {"x": [1]}, "status": "completed", "error": None, "errors": [], "attempts": 2}[field]


def value_of(text: str) -> Any:
    return parse_expression(text).evaluate(Given())


# --- what it has ---


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-3", -3),
        ("1.5e3", 1500.0),
        ("'a'", "a"),
        ('"a"', "a"),
        (r"'it\'s'", "it's"),
        ("'say \"hi\"'", 'say "hi"'),
        (r'"tab\tnew\nline é"', "tab\tnew\nline é"),
        ("'line\nbreak'", "line\nbreak"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("None", None),
        ("[]", []),
        ("[1, 'a', [inputs.n],]", [1, "a", [5]]),
        ("inputs.n", 5),
        ("  inputs . obj .b. c [0] ", 10),
        ("inputs['obj']['b'].c[-1]", 10),
        ("inputs.a-b", "dash"),
        ("inputs.true", "word"),
        ("inputs[7]", "seven"),
        ("context.n", 5),
        ("steps.s", {"x": [1]}),
        ("steps.s.output.x[0]", 1),
        ("steps['s'].status", "completed"),
        ("${{ inputs.n }}", 5),
        (" ${{inputs.n > 4}} ", True),
        ("(inputs.n)", 5),
    ],
)
def test_values_and_paths(text: str, value: Any) -> None:
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("inputs.n > 4", True),
        ("inputs.n >= 5", True),
        ("inputs.n < 5", False),
        ("inputs.n <= 5", True),
        ("inputs.n == 5.0", True),
        ("inputs.n != 5", False),
        ("'a' < 'b'", True),
        ("'b' >= 'b'", True),
        ("true == 1", False),
        ("0 == false", False),
        ("true == true", True),
        ("null == null", True),
        ("inputs.none == false", False),
        ("'1' == 1", False),
        ("[1] == [1]", True),
        ("[true] == [1]", False),
        ("[[0]] != [[false]]", True),
        ("[1] in [[true]]", False),
        ("[[1], 2] in [[[1], 2]]", True),
        ("[1, 2] == [1, 3]", False),
        ("[1, 2] == [1]", False),
        ("inputs.obj == inputs.obj", True),
        ("inputs.obj == [1]", False),
        ("1 in inputs.list", True),
        ("false in [0]", False),
        ("1 in [true]", False),
        ("null in inputs.list", True),
        ("'ex' in inputs.s", True),
        ("1 in inputs.s", False),
        ("'a' in inputs.obj", True),
        ("1 in inputs.obj", False),
        ("'z' not in inputs.obj", True),
        ("'a' not in 'abc'", False),
        ("true and 1 and 'x'", True),
        ("1 and 0", False),
        ("0 or '' or []", False),
        ("0 or 2", True),
        ("not 0", True),
        ("not not 2", True),
        ("not 1 == 2", True),
        ("false or true and false", False),
        ("(false or true) and true", True),
        ("true or inputs.zzz", True),
        ("false and inputs.zzz", False),
        ("not ('a' in 'b')", True),
    ],
)
def test_comparisons_and_logic(text: str, value: bool) -> None:
    assert value_of(text) is value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("default(inputs.zzz, 'x')", "x"),
        ("default(inputs.n, 'x')", 5),
        ("default(inputs.none, 'x')", None),
        ("default(steps.zzz.output, default(inputs.zzz, 3))", 3),
        ("exists(inputs.n)", True),
        ("exists(inputs.none)", True),
        ("exists(inputs.zzz.y)", False),
        ("len('abc')", 3),
        ("len(inputs.obj)", 2),
        ("len(inputs.empty)", 0),
        ("lower('ÄB')", "äb"),
        ("upper('äb')", "ÄB"),
        ("trim('  a ')", "a"),
        ("contains(inputs.list, 'a')", True),
        ("contains('abc', 'z')", False),
        ("starts_with('abc', 'ab')", True),
        ("ends_with('abc', 'ab')", False),
        ("number('12')", 12),
        ("number(' -1.5 ')", -1.5),
        ("number(3)", 3),
        ("text(5)", "5"),
        ("text('a')", "a"),
        ("json('a')", '"a"'),
        ("json(inputs.obj)", '{"a": 1, "b": {"c": [10]}}'),
        ("round(2.567, 2)", 2.57),
        ("round(2.5)", 2),
        ("abs(-3)", 3),
        ("min(inputs.numbers)", 1.5),
        ("max(inputs.numbers)", 3),
        ("sum(inputs.numbers)", 6.5),
        ("sum([])", 0),
        ("all([1, 'a'])", True),
        ("all([])", True),
        ("any([0, ''])", False),
        ("any([0, 1])", True),
        ("keys(inputs.obj)", ["a", "b"]),
        ("values(inputs.obj)", [1, {"c": [10]}]),
        ("first(inputs.list)", 1),
        ("first([])", None),
        ("last(inputs.numbers)", 2),
        ("last(inputs.empty)", None),
        ("join(['a', 1, null])", "a1null"),
        ("join(['a', 'b'], ', ')", "a, b"),
        ("split('a,b', ',')", ["a", "b"]),
    ],
)
def test_functions(text: str, value: Any) -> None:
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


def test_every_function_is_tried_above() -> None:
    (mark,) = test_functions.pytestmark  # type: ignore[attr-defined]  # pytest keeps its marks there
    texts = " ".join(text for text, _ in mark.args[1])

    assert [name for name in FUNCTIONS if f"{name}(" not in texts] == []


@pytest.mark.parametrize(
    "value", [None, False, 0, 0.0, "", [], {}, True, 1, -1, "0", "false", [0], {"a": None}], ids=repr
)
def test_what_counts_as_true(value: Any) -> None:
    assert truthy(value) is (value not in (None, False, 0, "", [], {}))


# --- what goes wrong when it runs ---


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 < 'a'", "cannot compare number < text"),
        ("null > 1", "cannot compare null > number"),
        ("true < false", "cannot compare true/false < true/false"),
        ("[1] <= [2]", "cannot compare list <= list"),
        ("inputs.obj >= 1", "cannot compare object >= number"),
        ("1 in 5", "cannot look inside number"),
        ("1 in null", "cannot look inside null"),
        ("contains(1, 2)", "cannot look inside number"),
        ("len(5)", r"len\(number\) cannot be worked out: has no length"),
        ("len(null)", r"len\(null\) cannot be worked out"),
        ("lower(5)", r"lower\(number\) cannot be worked out"),
        ("starts_with('a', 1)", r"starts_with\(text, number\) cannot be worked out"),
        ("number('abc')", r"number\(text\) cannot be worked out"),
        ("number('inf')", "not a finite number"),
        ("number(true)", "not a number"),
        ("number([])", "not a number"),
        ("min([])", r"min\(list\) cannot be worked out"),
        ("max(['a'])", r"max\(list\) cannot be worked out"),
        ("sum(5)", r"sum\(number\) cannot be worked out"),
        ("keys([])", r"keys\(list\) cannot be worked out"),
        ("values('a')", r"values\(text\) cannot be worked out"),
        ("first(5)", r"first\(number\) cannot be worked out"),
        ("join(5)", r"join\(number\) cannot be worked out"),
        ("join(['a'], 5)", r"join\(list, number\) cannot be worked out"),
        ("split('a', '')", r"split\(text, text\) cannot be worked out"),
        ("round('a')", r"round\(text\) cannot be worked out"),
        ("round(1.5, 'a')", r"round\(number, text\) cannot be worked out"),
        ("all(5)", r"all\(number\) cannot be worked out"),
        ("default(len(5), 1)", r"len\(number\) cannot be worked out"),
    ],
)
def test_what_cannot_be_worked_out_is_an_error_with_a_remedy(text: str, says: str) -> None:
    made = parse_expression(text)

    with pytest.raises(EvaluationError, match=says) as caught:
        made.evaluate(Given())

    assert caught.value.remedy


@pytest.mark.parametrize("text", ["item", "index", "run.id", "steps.zzz.output", "inputs.zzz", "not inputs.zzz"])
def test_what_is_not_there_is_an_error(text: str) -> None:
    with pytest.raises(MissingValueError):
        value_of(text)


def test_numbers_and_texts_cannot_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "MAX_TEXT", 5)

    assert value_of("join(['abc', 'de'])") == "abcde"
    with pytest.raises(EvaluationError, match="text over 5 characters"):
        value_of("join(['abc', 'def'])")
    with pytest.raises(EvaluationError, match="too long for a number"):
        value_of(f"number('{'9' * 401}')")
    with pytest.raises(EvaluationError):
        value_of("sum([1e308, 1e308])")


# --- what it refuses ---


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty"),
        ("   ", "it is empty"),
        ("${{ }}", "it is empty"),
        ("1 +", "'\\+' is not part of the language"),
        ("inputs.n + 1", "'\\+ 1' is not part of the language"),
        ("inputs.n == ", "it ends too early"),
        ("== 1", "a value is missing before '=='"),
        ("1 == 2 == 3", "unexpected '=='"),
        ("1 2", "unexpected '2'"),
        ("(1", "'\\)' is missing"),
        ("[1", "'\\]' is missing"),
        ("[1 2]", "'\\]' is missing"),
        ("inputs[n]", "only a whole number or a text"),
        ("inputs[1.5]", "only a whole number or a text"),
        ("inputs[0", "'\\]' is missing"),
        ("inputs.", "'\\.' is not part of the language"),
        ("steps", "a step's id is missing"),
        ("steps.a.total", "a step has no 'total'"),
        ("steps.a[0]", "a step has no 0"),
        ("total", "'total' is not known here"),
        ("os.system('x')", "'os' is not known here"),
        ("open('x')", "there is no function 'open'"),
        ("lenn('x')", "there is no function 'lenn'"),
        ("__import__('os')", "there is no function '__import__'"),
        ("''.__class__", "unexpected '.__class__'"),
        ("len()", "len takes 1 arguments"),
        ("round(1, 2, 3)", "round takes 1 to 2 arguments"),
        ("'abc", "is not part of the language"),
        (r"'\q'", "is not a text"),
        ("1e999", "a number too large"),
        ("9" * 401, "a number of over 400 characters"),
        ("x if y else z", "'x' is not known here"),
        ("lambda: 1", "is not part of the language"),
        ("inputs.a; inputs.b", "is not part of the language"),
        ("{'a': 1}", "is not part of the language"),
        ("inputs.n is 5", "unexpected 'is'"),
        ("not", "it ends too early"),
        ("a and", "'a' is not known here"),
        ("1 not 2", "unexpected 'not'"),
    ],
)
def test_a7_what_the_language_does_not_have_is_refused(text: str, says: str) -> None:
    with pytest.raises(ExpressionError, match=says) as caught:
        parse_expression(text)

    assert caught.value.remedy or "function" in caught.value.message


def test_a_near_miss_gets_the_right_name() -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_expression("lenn('x')")
    assert caught.value.remedy == "did you mean 'len'?"
    with pytest.raises(ExpressionError) as caught:
        parse_expression("steps.a.total.x")
    assert caught.value.remedy.startswith("write steps.a.output.total.x")
    with pytest.raises(ExpressionError) as caught:
        parse_expression("total")
    assert caught.value.remedy.startswith("begin with one of inputs, steps, item, index, run")


def test_length_and_depth_are_bounded() -> None:
    assert parse_expression("'" + "x" * (MAX_EXPRESSION - 2) + "'")
    with pytest.raises(ExpressionError, match="an expression of 4001 characters"):
        parse_expression("'" + "x" * (MAX_EXPRESSION - 1) + "'")
    assert parse_expression("(" * (MAX_DEPTH - 1) + "1" + ")" * (MAX_DEPTH - 1))
    with pytest.raises(ExpressionError, match="nested more than 40 deep"):
        parse_expression("(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH)
    assert parse_expression("not " * 900 + "1").evaluate(Given()) is True


def test_references_are_found() -> None:
    made = parse_expression("default(steps.a.output.x[0], inputs['k']) in [item, index]")

    assert [str(ref) for ref in made.refs] == ["steps.a.output.x[0]", "inputs.k", "item", "index"]


# --- laws ---


@given(st.text(max_size=80))
@example("${{ ${{ }} }}")
@example("-")
@example("inputs[-9999999999999999]")
@example("١")
def test_any_text_is_read_or_refused_and_what_is_read_answers_or_says_why(text: str) -> None:
    try:
        made = parse_expression(text)
    except ExpressionError:
        return
    with suppress(PlanloomError):
        json.dumps(made.evaluate(Given()))


WORDS = st.sampled_from(
    [
        *(
            [
                "inputs.n",
                "inputs.s",
                "inputs.list",
                "inputs.obj",
                "inputs.none",
                "inputs.zzz",
                "inputs.numbers",
                "steps.s",
                "steps.s.errors",
            ]
        ),
        *(
            [
                "1",
                "-1",
                "2.5",
                "'a'",
                "''",
                "'12'",
                "true",
                "false",
                "null",
                "[]",
                "[1,2]",
                "(",
                ")",
                "[",
                "]",
                ",",
                "==",
                "!=",
                "<",
                ">",
                "<=",
                ">=",
                "in",
                "not",
                "and",
                "or",
                ".",
                ".a",
                "[0]",
                "[-1]",
            ]
        ),
        *(f"{name}(" for name in FUNCTIONS),
    ]
)


@given(st.lists(WORDS, max_size=14).map(" ".join))
def test_any_heap_of_words_is_read_or_refused_and_answers_or_says_why(text: str) -> None:
    try:
        made = parse_expression(text)
    except ExpressionError:
        return
    with suppress(PlanloomError):
        json.dumps(made.evaluate(Given()))


ARGUMENTS = st.sampled_from(
    [
        *(f"inputs.{name}" for name in ("n", "f", "s", "yes", "none", "list", "numbers", "obj", "empty", "zzz")),
        *("''", "'1'", "'nan'", "-1", "1e308", "[[1], '']", "99999999999"),
    ]
)


@given(st.sampled_from(sorted(FUNCTIONS)), st.lists(ARGUMENTS, min_size=1, max_size=2))
def test_every_function_answers_or_says_why_whatever_it_is_given(name: str, arguments: list[str]) -> None:
    try:
        answer = value_of(f"{name}({', '.join(arguments)})")
    except PlanloomError:
        return
    json.dumps(answer, allow_nan=False)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    )
)
def test_fresh_is_equal_and_shares_nothing_and_text_is_json(value: Any) -> None:
    copy = fresh(value)

    assert copy == value
    assert copy is not value or not isinstance(value, list | dict)
    assert as_text(value) == value if isinstance(value, str) else json.loads(as_text(value)) == value


@given(st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_read_as_json_reads_them(number: float) -> None:
    text = json.dumps(number)

    assert parse_expression(text).evaluate(Given()) == number


@given(st.text(max_size=30))
def test_a_text_in_json_quotes_is_read_as_it_is(text: str) -> None:
    assert parse_expression(json.dumps(text)).evaluate(Given()) == text


def test_what_an_expression_gives_is_fresh() -> None:
    made = parse_expression("inputs.obj")

    made.evaluate(Given())["b"]["c"].append(1)

    assert INPUTS["obj"] == {"a": 1, "b": {"c": [10]}}
