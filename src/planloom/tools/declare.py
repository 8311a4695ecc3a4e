"""`@tool`: declare a function a tool where it is written, and put it in the default registry.

Rule 1: the function comes back as it was, and is called like any other.
Rule 2: a module that is loaded again replaces its own tools; any other claim on a name that is taken is refused.
Rule 3: a method is declared here and registered by whoever has an object of its class: `registry.add(obj.method)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from planloom.tools.registry import default_registry
from planloom.tools.tool import Tool, declare

if TYPE_CHECKING:
    from planloom.plan.policy import Effects
    from planloom.tools.definition import ToolType
    from planloom.tools.sparing import BreakerPolicy

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


@overload
def tool(name: AnyFunction, /) -> AnyFunction: ...


@overload
def tool(
    name: str | None = None,
    *,
    effects: Effects | str | None = None,
    version: str | None = None,
    aliases: tuple[str, ...] | list[str] | str = (),
    description: str | None = None,
    cost_per_call: float | None = None,
    expected_latency_ms: float | None = None,
    memory_mb: float | None = None,
    cpu_percent: float | None = None,
    timeout_seconds: float | None = None,
    rate_per_second: float | None = None,
    breaker: BreakerPolicy | Mapping[str, float] | bool | None = None,
    output_schema: dict[str, Any] | None = None,
    type: ToolType | None = None,
    domain: str | None = None,
    examples: Iterable[Mapping[str, Any]] | None = None,
    success_rate: float | None = None,
    source: tuple[str, ...] | list[str] | str | None = None,
    secret: bool | None = None,
    sink: bool | None = None,
    accepts: tuple[str, ...] | list[str] | str | None = None,
    cleans: tuple[str, ...] | list[str] | str | None = None,
    needs_approval: bool | None = None,
    register: bool = True,
) -> Callable[[AnyFunction], AnyFunction]: ...


def tool(name: Any = None, *, register: bool = True, **declared: Any) -> Any:
    """Declare a function a tool; its signature becomes the schema, its docstring the description.

    Args:
        name: The tool's name; by default the function's.
        effects: ``"none"`` (may run again), ``"idempotent"`` (may run again with the same key) or ``"once"``. A tool
            that says nothing is treated as ``"once"``.
        version: Change it when the tool does something else with the same parameters.
        aliases: Other names for it.
        description: Instead of the docstring's.
        cost_per_call: US dollars a call is expected to cost.
        expected_latency_ms: Milliseconds a call is expected to take.
        memory_mb: MB (10^6 bytes) a call needs.
        cpu_percent: Percent of one core a call needs.
        timeout_seconds: Seconds after which a call is given up, unless the step says otherwise.
        rate_per_second: Most calls that may begin in a second, of all runs of an engine together; more wait.
        breaker: True: after 3 failures in a row it is not called for 30 seconds, then tried once; or a
            `BreakerPolicy`, or a dict with `failures` and `open_seconds`.
        output_schema: JSON Schema of the result.
        type: What is behind it, for those who choose tools: "function", "mcp", "code_exec", "agent" or "tool".
        domain: What it is about; by default all of its name before the last dot.
        examples: Calls of it, each a dict with `input`, `output`, `description`.
        success_rate: Share of calls that is expected to succeed, 0 to 1.
        source: Labels of its result, e.g. ``"web"``: others wrote it. What carries a label is asked about before a tool
            with effects is given it.
        secret: True: its result is a secret: no model is told it, and no tool with effects is given it.
        sink: True: labelled arguments are asked about although it has no effects; False: although it has, they are not.
        accepts: Labels that its arguments may carry without asking.
        cleans: Labels of its arguments that its result does not carry: it checks or reduces what it is given.
        needs_approval: True: every call is asked about, whatever its arguments carry.
        register: False keeps it out of the default registry: for a tool that is passed on by hand.

    Raises:
        ConfigError: A signature that a plan cannot call, or a name that another function has.
    """
    if callable(name):
        return _declared(name, {}, register=True)
    options = {"name": name, **declared}
    return lambda function: _declared(function, options, register=register)


@overload
def mcp_tool(name: AnyFunction, /) -> AnyFunction: ...


@overload
def mcp_tool(name: str | None = None, **declared: Any) -> Callable[[AnyFunction], AnyFunction]: ...


def mcp_tool(name: Any = None, **declared: Any) -> Any:
    """Declare a function a tool that calls a server by the Model Context Protocol; all else as `tool`."""
    return _of_type("mcp", name, declared)


@overload
def a2a_agent(name: AnyFunction, /) -> AnyFunction: ...


@overload
def a2a_agent(name: str | None = None, **declared: Any) -> Callable[[AnyFunction], AnyFunction]: ...


def a2a_agent(name: Any = None, **declared: Any) -> Any:
    """Declare a function a tool that asks another agent; all else as `tool`."""
    return _of_type("agent", name, declared)


def _of_type(kind: ToolType, name: Any, declared: dict[str, Any]) -> Any:
    if callable(name):
        return tool(type=kind)(name)
    return tool(name, **declared | {"type": kind})


def _declared(function: AnyFunction, options: dict[str, Any], *, register: bool) -> AnyFunction:
    declare(function, options)
    if not _is_method(function):
        made = Tool.from_function(function)  # also when it is not registered: a wrong signature shows here
        if register:
            _register(made)
    return function


def _register(made: Tool) -> None:
    """Add a tool to the default registry; it replaces an earlier version of itself.

    Functions defined inside functions come and go with their surroundings, so the latest of a name counts.
    """
    registry = default_registry()
    earlier = registry.by_name().get(made.name)
    registry.add(made, replace=earlier is not None and _takes_over(earlier, made))


def _takes_over(earlier: Tool, made: Tool) -> bool:
    old, new = _place(earlier), _place(made)
    return old == new or ("<locals>" in old[1] and "<locals>" in new[1])


def _place(made: Tool) -> tuple[str, str]:
    return getattr(made.function, "__module__", ""), getattr(made.function, "__qualname__", "")


def _is_method(function: Callable[..., Any]) -> bool:
    """Return whether a function stands in a class body, and so still lacks its object."""
    around = getattr(function, "__qualname__", "").rpartition(".")[0]
    code = getattr(function, "__code__", None)
    first = code.co_varnames[:1] if code else ()
    return bool(around) and not around.endswith("<locals>") and first in {("self",), ("cls",)}
