"""A function's signature, read once: its parameter schema, its fast check, and the parameter that takes the context.

Rule 1: arguments are JSON. `1` is a float, `"3"` is not an int, `"2026-01-01"` is a date: as pydantic reads JSON text
    in strict mode. Signatures of plain types (see `_is_plain`) are checked as Python values: faster, and the same.
Rule 2: what is read here is never read again: a call costs one pass of a prepared validator.
"""

from __future__ import annotations

import inspect
import json
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict

from planloom.errors import ConfigError, OutputError
from planloom.plan.values import as_json
from planloom.tools.context import ToolContext

if TYPE_CHECKING:
    from pydantic_core import InitErrorDetails

Function = Callable[..., Any]
Check = Callable[[Any], dict[str, Any]]
"""Arguments in, checked arguments out; raises pydantic's ValidationError or `OutputError`."""

_EMPTY = inspect.Parameter.empty
_TYPED_DICT: Any = TypedDict
"""As a plain callable: type checkers know the class form only."""
_CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)
_SCALARS = (str, int, float, bool, type(None), Any, object)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a tool takes.

    Attributes:
        schema: JSON Schema of the parameters.
        check: Checks arguments and returns them, converted where the annotation asks for it.
        context_parameter: Name of the parameter that takes the `ToolContext`, or None.
    """

    schema: dict[str, Any]
    check: Check
    context_parameter: str | None


class _PlainTitles(GenerateJsonSchema):
    """JSON Schema without a title per field: it repeats the name, and a planner pays for every token of it."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def read_signature(function: Function, *, described: Mapping[str, str]) -> Signature:
    """Return what `function` takes; `described` has a description for some of its parameters.

    Raises:
        ConfigError: `*args`, a positional-only parameter, an annotation that cannot be read or has no JSON Schema.
    """
    name = name_of(function)
    parameters = _parameters(function, name)
    hints = _hints(function, parameters, name)
    context_parameter: str | None = None
    more: Any = None
    taken: dict[str, Any] = {}
    for parameter in parameters:
        hint = hints.get(parameter.name, Any)
        if parameter.kind is parameter.VAR_KEYWORD:
            more = hint
        elif _takes_context(hint):
            context_parameter = parameter.name
        else:
            taken[parameter.name] = _field(parameter, hint, described.get(parameter.name), name)
    allows_more = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    adapter, schema = _prepared(name, taken, more if allows_more else None)
    plain = all(_is_plain(hints.get(parameter.name, Any)) for parameter in parameters if parameter.name in taken)
    check = _checker(adapter, plain=plain and (not allows_more or _is_plain(more)))
    if allows_more and context_parameter is not None:
        check = _without(check, context_parameter)
    return Signature(schema, check, context_parameter)


def name_of(function: Function) -> str:
    """Return the name of a function, of the function in a partial, or of the class of a callable object."""
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def _parameters(function: Function, name: str) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"tool {name!r} has no signature that can be read",
            remedy="wrap it in a function with named, annotated parameters, or use Tool.from_schema",
        ) from error
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            raise ConfigError(
                f"tool {name!r} takes *{parameter.name}, and a plan gives arguments by name",
                remedy=f"take one parameter {parameter.name}: list instead",
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ConfigError(
                f"parameter {parameter.name!r} of tool {name!r} is positional-only, and a plan gives arguments by name",
                remedy="wrap it in a function with named, annotated parameters",
            )
    return parameters


def _hints(function: Function, parameters: list[inspect.Parameter], name: str) -> dict[str, Any]:
    """Return the parameters' annotations, those written as text resolved where the function was written."""
    annotations = {one.name: one.annotation for one in parameters if one.annotation is not _EMPTY}
    source = _source(function)
    names = types.SimpleNamespace(__annotations__=annotations)
    scope = getattr(source, "__globals__", None) or vars(sys.modules.get(source.__module__, types))
    try:
        return get_type_hints(names, globalns=scope, localns=_local_names(source), include_extras=True)
    except NameError as error:
        raise ConfigError(
            f"an annotation of tool {name!r} names {error.name!r}, which is not there when planloom reads it",
            remedy="import it outside `if TYPE_CHECKING:`, or define it before the tool",
        ) from error
    except (TypeError, SyntaxError) as error:
        raise ConfigError(
            f"an annotation of tool {name!r} is not a type: {error}", remedy="annotate with types"
        ) from error


def _source(function: Function) -> Any:
    """Return the plain function behind a partial, a method, a decorated function or a callable object."""
    found: Any = function
    while True:
        if isinstance(found, partial):
            found = found.func
        elif hasattr(found, "__wrapped__"):
            found = found.__wrapped__
        elif hasattr(found, "__func__"):
            found = found.__func__
        elif not hasattr(found, "__globals__") and callable(found) and not inspect.isbuiltin(found):
            call = type(found).__call__
            return call if hasattr(call, "__globals__") else found
        else:
            return found


def _local_names(source: Any) -> dict[str, Any]:
    """Return names of the function's own surroundings: what it closes over, and its caller's locals.

    A tool defined inside a function may be annotated with a class defined there, which the module does not know.
    """
    found: dict[str, Any] = {}
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("planloom.tools"):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is not None and frame.f_code.co_name != "<module>":
        found.update(frame.f_locals)
    code, cells = getattr(source, "__code__", None), getattr(source, "__closure__", None)
    for name, cell in zip(code.co_freevars if code else (), cells or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue  # not assigned yet: the function refers to itself or to something defined later
    return found


def _takes_context(hint: Any) -> bool:
    return hint is ToolContext or (get_origin(hint) in {Union, types.UnionType} and ToolContext in get_args(hint))


def _field(parameter: inspect.Parameter, hint: Any, description: str | None, name: str) -> Any:
    default = parameter.default
    if isinstance(default, FieldInfo):
        raise ConfigError(
            f"parameter {parameter.name!r} of tool {name!r} has Field(...) as its default",
            remedy=f"write {parameter.name}: Annotated[<type>, Field(...)] = <default>",
        )
    extra: dict[str, Any] = {}
    if default is not _EMPTY:
        try:
            extra["default"] = as_json(default)
        except OutputError:
            extra = {}  # a default without a JSON form works, it is only not shown
    annotations = getattr(hint, "__metadata__", ())
    told = any(isinstance(one, FieldInfo) and one.description for one in annotations)
    shown = Field(description=None if told else description, json_schema_extra=extra or None)
    annotated = Annotated[hint, shown]
    return annotated if default is _EMPTY else NotRequired[annotated]


def _prepared(name: str, taken: dict[str, Any], more: Any) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    try:
        return _adapter(name, taken, more)
    except (PydanticSchemaGenerationError, PydanticUserError, PydanticUndefinedAnnotation, TypeError) as error:
        guilty = next((one for one, hint in taken.items() if not _has_schema(one, hint)), "")
        which = f"parameter {guilty!r} of tool {name!r}" if guilty else f"tool {name!r}"
        raise ConfigError(
            f"{which} has an annotation without a JSON Schema: {str(error).splitlines()[0]}",
            remedy="annotate with JSON types, dataclasses, pydantic models or TypedDicts",
        ) from error


def _adapter(name: str, taken: dict[str, Any], more: Any) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    extra = {} if more is None else {"extra_items": more}
    fields = _TYPED_DICT(name, taken, **extra)
    fields.__pydantic_config__ = ConfigDict(allow_inf_nan=False) if extra else _CLOSED
    adapter: TypeAdapter[Any] = TypeAdapter(fields)
    schema = adapter.json_schema(schema_generator=_PlainTitles)
    schema.pop("title", None)
    return adapter, schema


def _has_schema(name: str, hint: Any) -> bool:
    try:
        _adapter("one", {name: hint}, None)
    except (PydanticSchemaGenerationError, PydanticUserError, PydanticUndefinedAnnotation, TypeError):
        return False
    return True


def _is_plain(hint: Any) -> bool:
    """Return whether strict validation of Python values and of JSON text agree on this type."""
    if hint in _SCALARS:
        return True
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _is_plain(inner[0])
    if origin is Literal:
        return all(type(one) in {str, int, bool, type(None)} for one in inner)
    if origin in {Union, types.UnionType}:
        return all(map(_is_plain, inner))
    if hint is list or hint is dict:
        return True
    return (origin is list and _is_plain(inner[0])) or (origin is dict and inner[0] is str and _is_plain(inner[1]))


def _checker(adapter: TypeAdapter[Any], *, plain: bool) -> Check:
    validator = adapter.validator
    if plain:
        return partial(validator.validate_python, strict=True)
    validate_json = validator.validate_json

    def check(args: Any) -> dict[str, Any]:
        try:
            text = json.dumps(args, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            text = json.dumps(as_json(args, where="args"))  # a Python caller's values; or an error that says where
        checked: dict[str, Any] = validate_json(text, strict=True)
        return checked

    return check


def _without(check: Check, name: str) -> Check:
    """Refuse an argument of this name, which `**kwargs` would let through: the engine gives it."""

    def refuse(args: Any) -> dict[str, Any]:
        if isinstance(args, dict) and name in args:
            problem: InitErrorDetails = {"type": "extra_forbidden", "loc": (name,), "input": args[name]}
            raise ValidationError.from_exception_data("tool", [problem])
        return check(args)

    return refuse
