"""References inside values: what they become, what is fresh, what cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planloom.errors import ExpressionError, MissingValueError, PlanloomError
from planloom.plan import refs, terms
from planloom.plan.refs import compile_template

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


class Given:
    """A scope with inputs and the outputs of steps, by hand."""

    def __init__(self, inputs: Any = None, **outputs: Any) -> None:
        self.inputs = inputs
        self.outputs = outputs

    def root(self, name: str) -> Any:
        if name != "inputs":
            raise MissingValueError(f"no {name}")
        return self.inputs

    def step(self, step_id: str, field: str) -> Any:
        return self.outputs[step_id] if field == "output" else field


def resolved(value: Any, scope: Given) -> Any:
    return compile_template(value).resolve(scope)


# --- A5 ---

A = Given(a={"v": [1, {"k": 2}]})


def test_a5_a_lone_reference_keeps_its_type() -> None:
    assert resolved("${{ steps.a.output.v[1].k }}", A) == 2
    assert resolved("${{steps.a.output.v}}", A) == [1, {"k": 2}]


def test_a5_inside_a_text_it_becomes_text() -> None:
    assert resolved("x${{ steps.a.output.v[1].k }}", A) == "x2"


@pytest.mark.parametrize(
    ("reference", "message", "remedy"),
    [
        ("steps.a.output.v[1].z", "no 'z'; the keys there are k", "use one of: k"),
        ("steps.a.output.w", "steps.a.output.w leads nowhere: no 'w'; the keys there are v", "use one of: v"),
        ("steps.a.output.v[7]", "there is a list of 2", "use an index from 0 to 1"),
        ("steps.a.output.v[0].k", "there is 1, which has no parts", "refer to the value itself"),
        ("steps.a.output.v.k", "there is a list of 2", "use an index from 0 to 1"),
    ],
)
def test_a5_a_path_that_leads_nowhere_names_step_path_and_what_is_there(
    reference: str, message: str, remedy: str
) -> None:
    with pytest.raises(MissingValueError) as caught:
        resolved(f"${{{{ {reference} }}}}", A)

    told = caught.value
    assert message in told.message
    assert told.message.startswith(f"{reference} leads nowhere")
    assert remedy in told.remedy
    assert f"default({reference}, …)" in told.remedy
    assert told.facts["reference"] == reference


def test_an_empty_list_and_an_empty_object_say_that_they_are() -> None:
    with pytest.raises(MissingValueError, match="there is a list of 0") as caught:
        resolved("${{ inputs[0] }}", Given([]))
    assert "check for an empty list with `len`" in caught.value.remedy
    with pytest.raises(MissingValueError, match="it is an empty object"):
        resolved("${{ inputs.x }}", Given({}))


def test_an_index_may_count_from_the_end_and_a_number_may_be_a_key() -> None:
    assert resolved("${{ inputs[-1] }}", Given([1, 2, 3])) == 3
    assert resolved("${{ inputs[0] }}", Given({"0": "zero"})) == "zero"
    assert resolved("${{ inputs['a b'].c-d }}", Given({"a b": {"c-d": 1}})) == 1
    with pytest.raises(MissingValueError):
        resolved("${{ inputs[-4] }}", Given([1, 2, 3]))


# --- text ---


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (1.5, "1.5"), (True, "true"), (None, "null"), ([1, {"a": "ü"}], '[1,{"a":"ü"}]'), ("x", "x")],
)
def test_inside_a_text_everything_but_text_becomes_json(value: Any, text: str) -> None:
    assert resolved("<${{ inputs }}>", Given(value)) == f"<{text}>"


def test_several_references_in_one_text() -> None:
    assert resolved("${{ inputs.a }}${{ inputs.b }} and ${{ inputs.a }}!", Given({"a": 1, "b": "x"})) == "1x and 1!"


def test_space_around_a_lone_reference_makes_it_text() -> None:
    assert resolved(" ${{ inputs }}", Given(1)) == " 1"


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("$${{ inputs }}", "${{ inputs }}"),
        ("a $${{ b }} ${{ inputs }}", "a ${{ b }} 1"),
        ("$$", "$$"),
        ("${ x }", "${ x }"),
        ("{{ x }}", "{{ x }}"),
        ("}}", "}}"),
    ],
)
def test_what_is_no_reference_is_text(text: str, becomes: str) -> None:
    assert resolved(text, Given(1)) == becomes


def test_an_escape_inside_a_structure_is_resolved_too() -> None:
    assert resolved({"x": ["$${{ a }}"], "y": 1}, Given()) == {"x": ["${{ a }}"], "y": 1}


def test_closing_braces_in_a_quoted_text_do_not_end_a_reference() -> None:
    assert resolved("${{ default(inputs.zzz, '}}') }}", Given({})) == "}}"
    assert resolved("${{ default(inputs.zzz, 'it\\'s }}') }}", Given({})) == "it's }}"


@pytest.mark.parametrize("text", ["${{ inputs", "a ${{", "${{ 'x }}", "${{ inputs }} ${{ inputs"])
def test_a_reference_that_is_not_closed_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError, match="'}}' is missing") as caught:
        compile_template({"deep": [text]})

    assert caught.value.path == ("deep", 0)
    assert "$${{" in caught.value.remedy


def test_a_reference_that_cannot_be_read_is_told_with_its_place() -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_template({"a": 1, "b": [0, {"c": "x ${{ nope.y }}"}]})

    assert caught.value.path == ("b", 1, "c")


def test_a_text_cannot_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refs, "MAX_TEXT", 10)

    assert resolved("${{ inputs }}12345", Given("12345")) == "1234512345"
    with pytest.raises(PlanloomError, match="a text of over 10 characters"):
        resolved("${{ inputs }}12345", Given("123456"))


# --- templates ---


def test_references_are_found_and_constants_have_none() -> None:
    made = compile_template({"x": "${{ steps.a.output }}", "y": ["b ${{ inputs.n }}"]})

    assert [str(ref) for ref in made.refs] == ["steps.a.output", "inputs.n"]
    assert not made.constant
    assert compile_template({"x": [1, "text"]}).constant


def test_the_parts_of_an_object_are_templates_and_others_have_none() -> None:
    parts = compile_template({"x": "${{ inputs }}", "y": 1}).parts()

    assert parts is not None
    assert {name: part.resolve(Given(5)) for name, part in parts.items()} == {"x": 5, "y": 1}
    assert compile_template(["${{ inputs }}"]).parts() is None


@given(VALUES)
def test_a_value_without_references_stays_as_it_is_and_is_fresh_each_time(value: Any) -> None:
    if "${{" in json.dumps(value):
        return
    made = compile_template(value)

    one, other = made.resolve(Given()), made.resolve(Given())

    assert one == other == value
    assert json.dumps(one) == json.dumps(value)
    assert_shares_nothing(one, other)
    assert_shares_nothing(one, value)


@given(VALUES, VALUES)
def test_what_is_handed_out_is_fresh(output: Any, beside: Any) -> None:
    if "${{" in json.dumps(beside):
        return
    made = compile_template({"x": "${{ inputs }}", "y": ["${{ steps.a.output }}", beside]})
    scope = Given(output, a=output)

    one, other = made.resolve(scope), made.resolve(scope)

    assert one == other == {"x": output, "y": [output, beside]}
    assert_shares_nothing(one, other)
    assert_shares_nothing(one["x"], output)
    assert_shares_nothing(one["x"], one["y"])


@given(VALUES)
def test_a_lone_reference_gives_exactly_what_is_there(value: Any) -> None:
    assert json.dumps(resolved("${{ inputs }}", Given(value))) == json.dumps(value)


@given(st.text(alphabet="${}'\"\\ ab.[]0,()", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        made = compile_template(text)
    except ExpressionError:
        return
    if made.constant and "${{" not in text:
        assert made.resolve(Given()) == text
    else:
        try:
            json.dumps(made.resolve(Given({"a": [0]}, a=1, b=2)))
        except PlanloomError:
            pass
        except KeyError:
            pass  # a step that is not there; `compile_plan` refuses those


@given(st.text(max_size=60), st.text(max_size=20))
def test_any_text_survives_its_escape(text: str, around: str) -> None:
    written = (around + text).replace("${{", "")

    assert resolved(written, Given()) == written
    assert resolved(written.rstrip("$") + "$${{" + text.replace("${{", ""), Given()) == (
        written.rstrip("$") + "${{" + text.replace("${{", "")
    )


def assert_shares_nothing(one: Any, other: Any) -> None:
    mine, theirs = set(containers(one)), set(containers(other))
    assert mine.isdisjoint(theirs)


def containers(value: Any) -> list[int]:
    if isinstance(value, dict):
        return [id(value), *(found for entry in value.values() for found in containers(entry))]
    if isinstance(value, list):
        return [id(value), *(found for entry in value for found in containers(entry))]
    return []


def test_there_is_one_bound_on_text() -> None:
    assert refs.MAX_TEXT == terms.MAX_TEXT
