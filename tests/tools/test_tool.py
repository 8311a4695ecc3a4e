"""A signature becomes a schema and a check; a decorated function stays a function."""

from __future__ import annotations

import datetime
import enum
import functools
import json
import math
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from planloom.errors import ArgumentsError, ConfigError, StepError, UnknownFieldError
from planloom.plan.policy import Effects
from planloom.tools import Tool, ToolContext, ToolRegistry, default_registry, tool

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


class Colour(enum.Enum):
    RED = "red"


class Point(BaseModel):
    x: int
    y: float = 0.0


@dataclass
class Box:
    corner: Point
    name: str


def plain(text: str, count: int = 3, ratio: float = 1.0, flag: bool = False, tags: list[str] | None = None) -> str:
    """Do something plain.

    More about it.

    Args:
        text (str): What to work on,
            at length.
        count: How often.

    Returns:
        Something.
    """
    return f"{text}{count}{ratio}{flag}{tags}"


def rich(
    when: datetime.date,
    where: Path,
    colour: Colour,
    price: Decimal,
    points: tuple[Point, ...],
    box: Optional[Box] = None,  # noqa: UP045
    unique: set[int] = frozenset(),  # type: ignore[assignment]
) -> None: ...


PLAIN, RICH = Tool.from_function(plain), Tool.from_function(rich)
FOREIGN = Tool.from_schema(
    "foreign",
    lambda **args: args,
    {
        "type": "object",
        "properties": {"tree": {"$ref": "#/$defs/tree"}, "n": {"type": "number", "multipleOf": 0.01}},
        "required": ["n"],
        "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
    },
)


def test_a_signature_and_its_docstring_become_a_schema() -> None:
    assert PLAIN.schema == {
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "What to work on, at length."},
            "count": {"type": "integer", "default": 3, "description": "How often."},
            "ratio": {"type": "number", "default": 1.0},
            "flag": {"type": "boolean", "default": False},
            "tags": {"anyOf": [{"items": {"type": "string"}, "type": "array"}, {"type": "null"}], "default": None},
        },
        "required": ["text"],
        "additionalProperties": False,
    }
    assert (PLAIN.name, PLAIN.description) == ("plain", "Do something plain.\n\nMore about it.")
    assert PLAIN.effects is None
    assert not PLAIN.is_async
    jsonschema.Draft202012Validator.check_schema(RICH.schema)


def test_arguments_of_rich_types_are_converted_as_from_json_text() -> None:
    args = RICH.validate(
        {"when": "2026-01-02", "where": "/x", "colour": "red", "price": "1.50", "points": [{"x": 1}], "unique": [1, 1]}
    )

    assert args == {
        "when": datetime.date(2026, 1, 2),
        "where": Path("/x"),
        "colour": Colour.RED,
        "price": Decimal("1.50"),
        "points": (Point(x=1),),
        "unique": {1},
    }


def test_a_python_caller_may_give_the_values_themselves() -> None:
    args = RICH.validate(
        {"when": datetime.date(2026, 1, 2), "where": Path("/x"), "colour": Colour.RED, "price": 2, "points": ()}
    )

    assert (args["when"], args["colour"], args["price"]) == (datetime.date(2026, 1, 2), Colour.RED, 2)


@pytest.mark.parametrize(
    "args",
    [
        {"text": 3},
        {"text": "x", "count": "3"},
        {"text": "x", "count": True},
        {"text": "x", "count": 3.5},
        {"text": None},
        {"text": "x", "ratio": "1"},
        {"text": "x", "ratio": math.nan},
        {"text": "x", "flag": 1},
        {"text": "x", "tags": ("a",)},
    ],
)
def test_nothing_is_coerced_silently(args: dict[str, Any]) -> None:
    with pytest.raises(ArgumentsError):
        PLAIN.validate(args)


def test_an_int_is_a_float_and_becomes_one() -> None:
    ratio = PLAIN.validate({"text": "x", "ratio": 2})["ratio"]

    assert (ratio, type(ratio)) == (2.0, float)


def test_all_problems_are_told_at_once_with_tool_parameter_and_value() -> None:
    with pytest.raises(ArgumentsError) as caught:
        PLAIN.validate({"count": "3", "txt": 1, "tags": ["a", 2]})

    text = str(caught.value)
    assert "tool 'plain'" in text
    assert "count: should be a valid integer (given '3')" in text
    assert "text: is missing" in text
    assert "tags[1]: should be a valid string (given 2)" in text
    assert "txt: is not a parameter" in text
    assert "did you mean 'text'?" in text
    assert [one["parameter"] for one in caught.value.facts["problems"]] == ["text", "count", "tags[1]", "txt"]


def _refusal(one: Tool, args: Any) -> ArgumentsError | None:
    try:
        one.validate(args)
    except ArgumentsError as error:
        return error
    return None


@pytest.mark.slow
@given(JSON)
def test_whatever_json_comes_in_only_an_arguments_error_goes_out(args: Any) -> None:
    for one in (PLAIN, RICH, FOREIGN):
        error = _refusal(one, args)

        assert error is None or one.name in error.message


@pytest.mark.slow
@given(st.fixed_dictionaries({"n": JSON, "tree": JSON, "text": JSON, "points": JSON, "when": JSON}))
def test_wrong_values_of_known_parameters_end_in_an_arguments_error_too(args: Any) -> None:
    for one in (PLAIN, RICH, FOREIGN):
        error = _refusal(one, args)

        assert error is None or json.dumps(error.to_dict())


def test_values_nested_beyond_reason_are_an_arguments_error() -> None:
    deep: Any = []
    for _ in range(5_000):
        deep = [deep]

    for one, args in ((RICH, {"points": deep}), (FOREIGN, {"n": 1, "tree": deep}), (FOREIGN, {"n": 10**400})):
        with pytest.raises(ArgumentsError):
            one.validate(args)


def test_context_is_given_and_no_part_of_the_schema() -> None:
    def act(text: str, context: ToolContext, **more: Any) -> list[Any]:
        return [text, context.step, more]

    acting = Tool.from_function(act)

    assert list(acting.schema["properties"]) == ["text"]
    assert acting.call({"text": "x", "extra": 1}, ToolContext(step="s")) == ["x", "s", {"extra": 1}]
    with pytest.raises(ArgumentsError, match="context: is not a parameter"):
        acting.validate({"text": "x", "context": {"step": "forged"}})


def test_keyword_arguments_of_a_type_are_checked_against_it() -> None:
    def act(**numbers: int) -> int:
        return sum(numbers.values())

    acting = Tool.from_function(act)

    assert acting.schema["additionalProperties"] == {"type": "integer"}
    assert acting.call({"a": 1, "b": 2}) == 3
    with pytest.raises(ArgumentsError, match="a: should be a valid integer"):
        acting.validate({"a": "1"})


def _star(*parts: str) -> None: ...
def _positional(x: int, /) -> None: ...
def _generator(x: int) -> Any:
    yield x


def _opaque(x: threading.Lock) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def _field_default(x: int = Field(default=3, ge=1)) -> None: ...
def _no_schema(good: int, bad: math.sin) -> None: ...  # type: ignore[valid-type]


class _Plain:
    """A class that is no pydantic model."""


def _arbitrary(good: int, bad: _Plain) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_star, r"takes \*parts.*list"),
        (_positional, "'x' of tool '_positional' is positional-only"),
        (_generator, "yields"),
        (_opaque, "names 'threading'.*TYPE_CHECKING"),
        (_field_default, r"Annotated\[<type>, Field"),
        (_arbitrary, "parameter 'bad' of tool '_arbitrary'"),
        (_no_schema, "bad|not a type"),
    ],
)
def test_a_function_that_a_plan_cannot_call_is_refused_with_a_remedy(function: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        Tool.from_function(function)


def test_methods_partials_objects_and_async_functions_are_tools_too() -> None:
    class Greeter:
        greeting = "hello"

        def greet(self, name: str) -> str:
            """Greet someone."""
            return f"{self.greeting} {name}"

        async def __call__(self, name: str) -> str:
            """Greet from an object."""
            return name

    method = Tool.from_function(Greeter().greet)
    bound = Tool.from_function(functools.partial(plain, text="a"))
    called = Tool.from_function(Greeter())

    assert (method.name, method.description, method.call({"name": "you"})) == ("greet", "Greet someone.", "hello you")
    assert (bound.name, bound.call({"count": 1}), "required" in bound.schema) == ("plain", "a11.0FalseNone", False)
    assert (called.name, called.is_async, called.description) == ("Greeter", True, "Greet from an object.")


def test_annotations_may_name_a_class_of_the_surrounding_function() -> None:
    class Inner(BaseModel):
        a: int

    def act(inner: Inner, choice: Literal["x", "y"], big: Annotated[int, Field(ge=10)]) -> int:
        return inner.a

    acting = Tool.from_function(act)

    assert acting.call({"inner": {"a": 4}, "choice": "x", "big": 10}) == 4
    with pytest.raises(ArgumentsError, match=r"choice: .*big: .*greater than or equal to 10"):
        acting.validate({"inner": {"a": 4}, "choice": "z", "big": 1})


def test_a_decorated_function_stays_callable_and_is_in_the_default_registry() -> None:
    @tool("test_tool.double", effects="none", cost_per_call=0.5, aliases=["twice"], timeout_seconds=3)
    def double(number: int) -> int:
        """Double a number."""
        return 2 * number

    made = default_registry().get("test_tool.double")

    assert double(4) == 8
    assert (made.effects, made.cost_per_call, made.aliases, made.timeout_seconds) == (Effects.NONE, 0.5, ("twice",), 3)
    assert made.facts.digest == made.digest
    assert made.facts.cost_per_call_usd == 0.5
    assert ToolRegistry.of([double]).get("twice").name == "test_tool.double"


def test_a_decorated_method_is_declared_once_and_registered_with_its_object() -> None:
    class Mailer:
        @tool("test_tool.send", effects="idempotent")
        def send(self, to: str) -> str:
            return to

    registry = ToolRegistry.of([Mailer().send])

    assert registry.get("test_tool.send").effects is Effects.IDEMPOTENT
    assert registry.get("test_tool.send").call({"to": "you"}) == "you"
    assert "test_tool.send" not in default_registry()


def test_loading_a_module_again_replaces_its_tools_and_another_function_is_refused() -> None:
    source = "from planloom.tools import tool\n@tool('test_tool.reloaded')\ndef act(x: {kind}) -> None: ...\n"
    for kind in ("int", "str"):
        exec(source.format(kind=kind), {"__name__": "reloaded_module"})

    assert default_registry().get("test_tool.reloaded").schema["properties"]["x"]["type"] == "string"
    with pytest.raises(ConfigError, match=r"'test_tool.reloaded' belongs to.*reloaded_module.act.*other_module.act"):
        exec(source.format(kind="int"), {"__name__": "other_module"})


@pytest.mark.parametrize(
    ("declared", "error"),
    [
        ({"efects": "none"}, UnknownFieldError),
        ({"effects": "never"}, ConfigError),
        ({"name": "tools.x"}, ConfigError),
        ({"name": "has space"}, ConfigError),
        ({"cost_per_call": -1}, ConfigError),
        ({"cost_per_call": math.nan}, ConfigError),
        ({"timeout_seconds": 0}, ConfigError),
        ({"output_schema": {"type": "nonsense"}}, ConfigError),
    ],
)
def test_a_wrong_declaration_is_refused(declared: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Tool.from_function(plain, **declared)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "nonsense"}, "is not a JSON Schema"),
        ({"type": "array"}, "not an object"),
        ({"properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}}, "lies outside"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "which is not in it"),
        ([], "it is a list"),
    ],
)
def test_a_foreign_schema_must_be_sound_and_complete(schema: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Tool.from_schema("foreign", plain, schema)


def test_a_foreign_schema_checks_arguments_and_lists_all_problems() -> None:
    with pytest.raises(ArgumentsError, match=r"tree\[0\]: 3 is not of type 'array'.*'n' is a required property"):
        FOREIGN.validate({"tree": [3]})

    assert FOREIGN.call({"n": 0.5, "tree": [[]]}) == {"n": 0.5, "tree": [[]]}


def test_the_digest_changes_with_name_version_and_schema_only() -> None:
    same = Tool.from_function(plain, description="other words", cost_per_call=3)

    digests = {Tool.from_function(plain, version="2").digest, Tool.from_function(plain, name="b").digest, RICH.digest}

    assert same.digest == PLAIN.digest
    assert len(digests - {PLAIN.digest}) == 3


def test_a_context_reports_costs_and_logs_with_its_step(caplog: pytest.LogCaptureFixture) -> None:
    costs: list[float] = []
    context = ToolContext(run_id="r", step="s", is_cancelled=lambda: True, on_cost=costs.append)

    context.report_cost(0.25)
    context.logger.warning("seen")

    assert (costs, context.cancelled(), ToolContext().cancelled()) == ([0.25], True, False)
    assert caplog.records[0].__dict__["step"] == "s"
    with pytest.raises(StepError):
        context.report_cost(math.nan)
