"""Tool: a function with a name, a schema and declared effects; `@tool` makes one of a function where it is written.

Rule 1: a decorated function stays the function it was; its tool is made beside it.
Rule 2: a tool that says nothing about its effects is a `once` tool; `effects=None` keeps that it said nothing.
Rule 3: arguments are checked before the function is called, all problems at once.
"""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from planloom.core.events import ToolFacts
from planloom.errors import ArgumentsError, ConfigError, OutputError, UnknownFieldError, suggestion
from planloom.plan.policy import Effects
from planloom.tools.context import ToolContext
from planloom.tools.definition import TOOL_TYPES, ToolExample, ToolType
from planloom.tools.docstring import read_docstring
from planloom.tools.json_schema import JsonSchema
from planloom.tools.labels import FLOW_OPTIONS, checked_flow
from planloom.tools.names import check_name
from planloom.tools.signature import Check, Function, name_of, read_signature
from planloom.tools.sparing import breaker_of, check_rate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planloom.tools.sparing import BreakerPolicy

DECLARED = "__planloom_tool__"
"""Attribute of a decorated function: what its decorator declared, a dict for `Tool.from_function`."""


class ToolBacking(Protocol):
    """What stands behind tools: a connection, a process."""

    async def let_go(self) -> None:
        """End it if nobody else uses it; the next call of one of its tools begins it anew."""
        ...


class _InvalidArguments(Exception):  # noqa: N818 - never leaves this file
    """What a foreign schema does not accept."""

    def __init__(self, problems: list[dict[str, Any]]) -> None:
        super().__init__()
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tool:
    """Something a step can call.

    Attributes:
        name: Its one canonical name.
        function: What is called, with keyword arguments only.
        schema: JSON Schema (2020-12) of the parameters.
        description: For people and for models that choose tools.
        effects: What running it again would do; None: it does not say, which counts as `once`.
        version: Part of the digest; change it when the tool does something else with the same parameters.
        aliases: Other names for it. They are no way around an allowlist.
        cost_per_call: US dollars a call is expected to cost, or None.
        expected_latency_ms: Milliseconds a call is expected to take, or None.
        memory_mb: MB (10^6 bytes) a call needs, or None.
        cpu_percent: Percent of one core a call needs, or None.
        timeout_seconds: Seconds after which a call is given up unless the step says otherwise, or None.
        rate_per_second: Most calls that may begin in a second, of all runs of an engine together, or None.
        breaker: When it is left alone because it keeps failing, or None.
        output_schema: JSON Schema of the result, or None.
        type: What is behind it, for those who choose tools: "function", "mcp", "code_exec", "agent" or "tool".
        domain: What it is about; "" for what its name says.
        examples: Calls of it, for those who choose tools.
        success_rate: Share of calls that is expected to succeed, 0 to 1, or None.
        is_async: True when calling `function` gives an awaitable; else it belongs in a thread.
        context_parameter: Name of the parameter that takes the `ToolContext`, or None.
        backing: What stands behind it and is let go of when nobody uses it any more, e.g. an MCP server; or None.
        source: Labels of its result: who may have written it, e.g. ("web",); see `plan/flow.py`, also for the next.
        secret: Whether its result must not leave this process.
        sink: Whether labelled arguments are decided about; None: if it has effects.
        accepts: Labels that its arguments may carry without anybody being asked.
        cleans: Labels that its result does not carry although its arguments do: it checks or reduces what it is given.
        needs_approval: Whether every call is asked about.
        check: Checks arguments; use `validate`, which says what is wrong.
        digest: SHA-256 over name, version and schema, 64 hex digits.
    """

    name: str
    function: Function
    schema: dict[str, Any]
    check: Check
    description: str = ""
    effects: Effects | None = None
    version: str = "1"
    aliases: tuple[str, ...] = ()
    cost_per_call: float | None = None
    expected_latency_ms: float | None = None
    memory_mb: float | None = None
    cpu_percent: float | None = None
    timeout_seconds: float | None = None
    rate_per_second: float | None = None
    breaker: BreakerPolicy | None = None
    output_schema: dict[str, Any] | None = None
    type: ToolType = "function"
    domain: str = ""
    examples: tuple[ToolExample, ...] = ()
    success_rate: float | None = None
    is_async: bool = False
    context_parameter: str | None = None
    backing: ToolBacking | None = None
    source: tuple[str, ...] = ()
    secret: bool = False
    sink: bool | None = None
    accepts: tuple[str, ...] = ()
    cleans: tuple[str, ...] = ()
    needs_approval: bool = False
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        for name in (self.name, *self.aliases):
            check_name(name)
        _check_numbers(self)
        check_rate(self.rate_per_second, self.name)
        _check_described(self)
        said = {name: value for name in FLOW_OPTIONS if (value := getattr(self, name)) is not None}
        for name, value in checked_flow(said, where=f"tool {self.name!r}").items():
            object.__setattr__(self, name, value)
        if self.output_schema is not None:
            JsonSchema(self.output_schema, where=f"the output schema of tool {self.name!r}")
        pinned = json.dumps([self.name, self.version, self.schema], sort_keys=True, separators=(",", ":"))
        object.__setattr__(self, "digest", sha256(pinned.encode()).hexdigest())

    @classmethod
    def from_function(cls, function: Function, **declared: Any) -> Tool:
        """Return the tool of a function, bound method, callable object or `functools.partial`.

        Args:
            function: Its signature becomes the schema, its docstring the description.
            declared: Any of name, effects, version, aliases, cost_per_call, expected_latency_ms, memory_mb,
                cpu_percent, timeout_seconds, rate_per_second, breaker, description, output_schema, type, domain,
                examples (each a dict with `input`, `output`, `description`), success_rate, source, secret, sink,
                accepts, cleans, needs_approval; what `@tool` declared holds for the others.

        Raises:
            ConfigError: A signature that a plan cannot call, or a keyword that does not exist.
        """
        declared = _declared(function) | _checked_options(declared)
        docstring = read_docstring(_docstring(function))
        signature = read_signature(function, described=docstring.parameters)
        return cls(
            function=function,
            schema=signature.schema,
            check=signature.check,
            context_parameter=signature.context_parameter,
            is_async=_is_async(function),
            **{"name": name_of(function), "description": docstring.description} | declared,
        )

    @classmethod
    def from_schema(cls, name: str, function: Function, schema: dict[str, Any], **declared: Any) -> Tool:
        """Return a tool whose parameters a foreign JSON Schema (2020-12) describes, e.g. one of an MCP server.

        Raises:
            ConfigError: Not a JSON Schema of an object, or one that refers to something outside itself.
        """
        compiled = JsonSchema(schema, where=f"the parameter schema of tool {name!r}")
        if schema.get("type", "object") != "object":
            raise ConfigError(f"the parameters of tool {name!r} are not an object", remedy='give "type": "object"')
        declared = _checked_options(declared)
        return cls(
            name=name,
            function=function,
            schema=schema,
            check=_foreign(compiled),
            is_async=_is_async(function),
            **declared,
        )

    @property
    def facts(self) -> ToolFacts:
        """Return what a run is told about this tool when it starts."""
        return ToolFacts(
            digest=self.digest,
            effects=self.effects,
            cost_per_call_usd=self.cost_per_call,
            expected_latency_ms=self.expected_latency_ms,
            memory_mb=self.memory_mb,
            cpu_percent=self.cpu_percent,
            source=self.source,
            secret=self.secret,
            sink=self.sink,
            accepts=self.accepts,
            cleans=self.cleans,
            needs_approval=self.needs_approval,
        )

    def validate(self, args: Any) -> dict[str, Any]:
        """Return the arguments, checked and converted to what the function's annotations say.

        Raises:
            ArgumentsError: They do not fit; `.facts["problems"]` lists everything that does not.
        """
        try:
            return self.check(args)
        except ValidationError as error:
            problems = [_pydantic_problem(problem) for problem in error.errors(include_url=False)]
        except _InvalidArguments as error:
            problems = error.problems
        except OutputError as error:
            problems = [{"parameter": "", "problem": error.message, "given": ""}]
        raise _arguments_error(self, problems) from None

    def bind(self, args: Any, context: ToolContext) -> dict[str, Any]:
        """Return the keyword arguments for `function`: `validate(args)`, and the context where it takes one."""
        try:
            checked = self.check(args)
        except (ValidationError, _InvalidArguments, OutputError):
            checked = self.validate(args)  # says what is wrong
        if self.context_parameter is not None:
            checked[self.context_parameter] = context
        return checked

    def call(self, args: Any, context: ToolContext | None = None) -> Any:
        """Call the function; return its result, or an awaitable of it when `is_async`."""
        return self.function(**self.bind(args, context or ToolContext()))


_OPTIONS = (
    "name",
    "effects",
    "version",
    "aliases",
    "cost_per_call",
    "expected_latency_ms",
    "memory_mb",
    "cpu_percent",
    "timeout_seconds",
    "rate_per_second",
    "breaker",
    "description",
    "output_schema",
    "type",
    "domain",
    "examples",
    "success_rate",
    *FLOW_OPTIONS,
)


def _check_numbers(tool: Tool) -> None:
    for name in ("cost_per_call", "expected_latency_ms", "memory_mb", "cpu_percent", "timeout_seconds"):
        value = getattr(tool, name)
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
            raise ConfigError(
                f"{name}={value!r} of tool {tool.name!r} is not a number", remedy="give a finite number >= 0"
            )
    if tool.timeout_seconds == 0:
        raise ConfigError(f"timeout_seconds=0 of tool {tool.name!r} leaves no time", remedy="give more, or None")


def _check_described(tool: Tool) -> None:
    if tool.type not in TOOL_TYPES:
        raise ConfigError(
            f"tool {tool.name!r} cannot be of type {tool.type!r}", remedy=f"use one of: {', '.join(TOOL_TYPES)}"
        )
    rate = tool.success_rate
    if rate is not None and not (isinstance(rate, int | float) and 0 <= rate <= 1):
        raise ConfigError(f"success_rate={rate!r} of tool {tool.name!r} is no share", remedy="give a number 0 to 1")
    for example in tool.examples:
        try:
            tool.validate(example.input)
        except ArgumentsError as error:
            raise ConfigError(
                f"an example of tool {tool.name!r} does not fit its parameters: {error.message}",
                remedy="a model does what the example shows: mend or remove it",
            ) from error


def _checked_options(declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was declared with None left out, names checked and values in their types."""
    for name in declared:
        if name not in _OPTIONS:
            raise UnknownFieldError(f"a tool has no {name!r}", remedy=suggestion(name, _OPTIONS))
    options = {name: value for name, value in declared.items() if value is not None}
    if "effects" in options:
        try:
            options["effects"] = Effects(options["effects"])
        except ValueError:
            known = ", ".join(map(repr, map(str, Effects)))
            raise ConfigError(f"effects={options['effects']!r} is not known", remedy=f"use one of: {known}") from None
    if "breaker" in options:
        options["breaker"] = breaker_of(options["breaker"])
    if "aliases" in options:
        aliases = options["aliases"]
        options["aliases"] = (aliases,) if isinstance(aliases, str) else tuple(aliases)
    if "examples" in options:
        options["examples"] = _examples(options["examples"])
    return options | checked_flow(options, where=f"tool {options['name']!r}" if "name" in options else "a tool")


def _examples(given: Any) -> tuple[ToolExample, ...]:
    try:
        return tuple(ToolExample.model_validate(one) for one in given)
    except (TypeError, ValidationError) as error:
        raise ConfigError(
            f"examples={given!r} are no examples", remedy='give a list of {"input": {…}, "output": …}'
        ) from error


def _declared(function: Function) -> dict[str, Any]:
    """Return what the decorator of this function, or of the function behind it, declared."""
    while isinstance(function, partial):
        function = function.func
    return dict(getattr(function, DECLARED, {}))


def declare(function: Function, declared: Mapping[str, Any]) -> None:
    """Remember on the function itself what its decorator declared; a bound method of it finds it too.

    Raises:
        UnknownFieldError: A keyword that does not exist.
    """
    setattr(getattr(function, "__func__", function), DECLARED, _checked_options(declared))


def _docstring(function: Function) -> str | None:
    """Return the docstring a person wrote: not that of `partial`, nor that of the type of a callable object's call."""
    while isinstance(function, partial):
        function = function.func
    if inspect.isroutine(function) or inspect.isclass(function):
        return inspect.getdoc(function)
    return inspect.getdoc(type(function).__call__) or inspect.getdoc(type(function))


def _is_async(function: Function) -> bool:
    while isinstance(function, partial):
        function = function.func
    call = function if inspect.isroutine(function) else type(function).__call__
    for candidate in (function, call):
        if inspect.isgeneratorfunction(candidate) or inspect.isasyncgenfunction(candidate):
            raise ConfigError(
                f"tool {name_of(function)!r} yields, and a step has one result",
                remedy="collect what it yields and return a list",
            )
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _foreign(compiled: JsonSchema) -> Check:
    def check(args: Any) -> dict[str, Any]:
        if not isinstance(args, dict):
            raise _InvalidArguments([{"parameter": "", "problem": "are not an object", "given": _shown(args)}])
        found = compiled.problems(args)
        if found:
            raise _InvalidArguments(
                [
                    {
                        "parameter": _path(one.path),
                        "problem": one.problem,
                        "given": _shown(one.given) if one.path else "",
                    }
                    for one in found
                ]
            )
        return dict(args)

    return check


def _pydantic_problem(problem: Any) -> dict[str, Any]:
    kind, path = problem["type"], _path(problem["loc"])
    if kind == "missing":
        return {"parameter": path, "problem": "is missing", "given": ""}
    if kind in {"extra_forbidden", "invalid_key"}:
        return {"parameter": path, "problem": "is not a parameter", "given": _shown(problem["input"])}
    text = problem["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return {"parameter": path, "problem": text, "given": _shown(problem["input"])}


def _path(parts: tuple[Any, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
    return text if len(text) <= 200 else f"{text[:199]}…"


def _shown(value: object) -> str:
    """Return a short form of a value for a message; a whole document would bury what is wrong."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:79]}…"


def _arguments_error(tool: Tool, problems: list[dict[str, Any]]) -> ArgumentsError:
    told = []
    for one in problems:
        given = f" (given {one['given']})" if one["given"] else ""
        told.append(f"{one['parameter'] or 'its arguments'}: {one['problem']}{given}")
    known = sorted(tool.schema.get("properties", ()))
    unknown = next((one["parameter"] for one in problems if one["problem"] == "is not a parameter"), None)
    if unknown is not None:
        remedy = suggestion(unknown, known, otherwise="leave it out: the tool takes no parameters")
    elif known:
        required = set(tool.schema.get("required", ()))
        remedy = f"give {', '.join(name if name in required else f'{name} (optional)' for name in known)}"
    else:
        remedy = "give an object without entries: the tool takes no parameters"
    return ArgumentsError(
        f"wrong arguments for tool {tool.name!r}: {'; '.join(told)}", remedy=remedy, tool=tool.name, problems=problems
    )
