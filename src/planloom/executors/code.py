"""Code steps: a program, its variables and its tools go into a sandbox; what it returns comes out.

Rule 1: a tool is called here, in the host, as any tool is: allowed, granted, counted, and on record by itself, so that
an attempt after a crash is given what is already known.
Rule 2: a tool that raises fails the step, as it would fail a tool step; the program is told only what it got wrong
about a tool's arguments.
Rule 3: which sandbox it was and how each limit was held is part of the outcome, whatever that is.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from planloom.core.code import ErrorType, Program, SandboxLimits, SandboxResult, ToolFunction
from planloom.core.result import StepOutcome
from planloom.errors import (
    ArgumentsError,
    CodeError,
    CodeRefusedError,
    ConfigError,
    GrantError,
    NoAnswerError,
    NotAllowedError,
    OutputError,
    suggestion,
)
from planloom.executors.calls import CallCost, check_grant, context_for, fits
from planloom.executors.inner import TOOL, Inner
from planloom.plan.policy import Effects
from planloom.sandbox.program import is_variable
from planloom.sandbox.sandbox import BACKENDS, backend_of

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.executors.calls import ToolCalls
    from planloom.ports import AttemptContext, SandboxBackend
    from planloom.tools.registry import ToolRegistry
    from planloom.tools.tool import Tool

STEP_LIMITS = SandboxLimits(memory_mb=512, wall_s=300, cpu_percent=None)
"""What a program of a step may use where neither its plan nor its run says anything."""
MAX_OUTPUT_ON_RECORD = 10_000
"""Characters of what a program printed that go on record with its outcome."""
_HOPELESS = frozenset(
    {ErrorType.SYNTAX, ErrorType.DENIED, ErrorType.OUTPUT, ErrorType.RESULT, ErrorType.DISK, ErrorType.MEMORY}
)
_NOT_OF_A_NAME = re.compile(r"\W")


def _backends() -> dict[str, SandboxBackend]:
    return {name: backend_of(name) for name in BACKENDS}


@dataclass(frozen=True, slots=True)
class CodeExecutor:
    """Does code steps.

    Attributes:
        backends: By the `runtime` that a step names.
        limits: Of programs whose step and run say nothing.
    """

    calls: ToolCalls
    backends: Mapping[str, SandboxBackend] = field(default_factory=_backends)
    limits: SandboxLimits = STEP_LIMITS

    async def execute(self, request: RunStep, context: AttemptContext) -> StepOutcome:
        policy = request.step.code
        if policy is None:
            raise ConfigError(f"step {request.key!r} has no code", remedy="give it `code`")
        backend = self.backends.get(policy.runtime)
        if backend is None:
            remedy = suggestion(policy.runtime, self.backends)
            raise ConfigError(f"there is no runtime {policy.runtime!r:.100} here", remedy=remedy)
        tools = [self.calls.find(name, request) for name in policy.tools]
        working = _Working(self.calls, request, context, Inner(request, context))
        named = names_of(tools)
        program = Program(
            policy.source,
            request.args,
            {name: working.function(tool) for name, tool in named.items()},
            limits_of(self.limits, request, context),
            forbidden_in(self.calls.registry, named),
            waits=partial(_told_of_waiting, context),
        )
        result = await backend.run(program)
        if not result.success:
            if result.error_type is ErrorType.CRASHED and working.cut_off:
                raise NoAnswerError(
                    f"{failure_of(result, request)}; {working.cut_off} was under way: what it did nobody knows",
                    remedy="look whether it happened, and say so: planloom resolve",
                )
            raise failure_of(result, request)
        if request.step.output is not None:
            fits(result.result, request.step.output, request.key)
        return StepOutcome(result.result, None, context.reported_usd, metadata={"sandbox": told_of(result)})


def _told_of_waiting(context: AttemptContext, seconds: float | None) -> None:
    context.waiting("a place in the sandbox" if seconds is None else None)
    context.wait(seconds or 0.0)


@dataclass(slots=True)
class _Working:
    """The calls of one program.

    Attributes:
        under_way: Tools of calls that have not ended.
        counted: How many of those the attempt has counted already.
        cut_off: Name of a tool with an effect that may happen once, the call of which was cut off; else "".
    """

    calls: ToolCalls
    request: RunStep
    context: AttemptContext
    inner: Inner
    under_way: list[Tool] = field(default_factory=list)
    counted: int = 0
    cut_off: str = ""

    def function(self, tool: Tool) -> ToolFunction:
        async def called(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return await self.call(tool, by_name(tool, args, kwargs))

        return called

    async def call(self, tool: Tool, arguments: dict[str, Any]) -> Any:
        """Return what a tool came to, in this attempt or an earlier one.

        Raises:
            ArgumentsError: The arguments do not fit; it was not called.
            GrantError: The step has no call left.
            FlowError: It would be given what it must not have; it was not called.
            InnerCallError: It failed in an earlier attempt, and may not be made again.
            Exception: What the tool raises.
        """
        tool.validate(arguments)
        key = self.inner.key(TOOL, tool.name, arguments)
        if key not in self.request.recorded:
            self.inner.check_flow(tool, arguments, tells_model=False)
            check_grant([*self.under_way, tool], self.request, self._settled())
        one, effects = _Call(self, tool, arguments, key), tool.effects or Effects.ONCE
        self.under_way.append(tool)
        try:
            return await self.inner.once(key, one.made, name=tool.name, kind=TOOL, effects=effects)
        except asyncio.CancelledError:
            self.cut_off = self.cut_off if effects is not Effects.ONCE else tool.name
            raise
        finally:
            self.under_way.remove(tool)
            self.counted -= one.is_counted

    def _settled(self) -> _Settled:
        """Return what calls used that have ended: those under way are counted with the next one."""
        return _Settled(self.context.reported_usd, self.context.reported_calls - self.counted)


@dataclass(frozen=True, slots=True)
class _Settled:
    reported_usd: float | None
    reported_calls: int


@dataclass(slots=True)
class _Call:
    working: _Working
    tool: Tool
    arguments: dict[str, Any]
    key: str
    is_counted: bool = False

    async def made(self, counted: AttemptContext) -> Any:
        working, tool = self.working, self.tool
        counted.report_call()
        self.is_counted = True
        working.counted += 1
        cost = CallCost(counted, tool.cost_per_call)
        request = working.request
        told = context_for(tool, request, counted, key=f"{request.idempotency_key}/{self.key}", on_cost=cost.report)
        return await working.calls.call_inside(tool, tool.bind(self.arguments, told), cost, request, counted)


# --- names ------------------------------------------------------------------------------------


def name_in_code(name: str) -> str:
    """Return what a program calls a tool: its name, with `_` for what no Python name has."""
    bare = _NOT_OF_A_NAME.sub("_", name)
    return bare if is_variable(bare) else f"_{bare}"


def names_of(tools: list[Tool]) -> dict[str, Tool]:
    """Return tools by what a program calls them.

    Raises:
        ConfigError: Two would be called the same.
    """
    named: dict[str, Tool] = {}
    for tool in tools:
        other = named.setdefault(name_in_code(tool.name), tool)
        if other.name != tool.name:
            raise ConfigError(
                f"tools {other.name!r} and {tool.name!r} have the same name in code, {name_in_code(tool.name)!r}",
                remedy="give a code step only one of them",
            )
    return named


def forbidden_in(registry: ToolRegistry, named: Mapping[str, Tool]) -> Callable[[str], bool]:
    """Return what says whether a name means a tool that is there and that the program has not got."""

    def forbids(name: str) -> bool:
        return name not in named and (
            registry.resolve(name) is not None or any(name_in_code(other) == name for other in registry.names())
        )

    return forbids


def by_name(tool: Tool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name, as tools take them.

    Raises:
        ArgumentsError: More than it has parameters, or one twice.
    """
    names = list(tool.schema.get("properties", {}))
    if len(args) > len(names):
        raise ArgumentsError(f"{tool.name} takes {len(names)} arguments, and {len(args)} are given")
    given = dict(zip(names, args, strict=False))
    twice = given.keys() & kwargs.keys()
    if twice:
        raise ArgumentsError(f"{tool.name} is given {min(twice)!r} twice")
    return given | kwargs


# --- limits and what it came to ---------------------------------------------------------------


def limits_of(most: SandboxLimits, request: RunStep, context: AttemptContext) -> SandboxLimits:
    """Return what the program of a step may use: what its attempt was granted, and no more time than that has left."""
    grant = request.grant
    limits = most
    if grant.memory_mb is not None:
        limits = replace(limits, memory_mb=grant.memory_mb)
    if grant.cpu_percent is not None:
        limits = replace(limits, cpu_percent=grant.cpu_percent)
    if request.deadline_at is not None:
        left_s = request.deadline_at - context.clock.now()
        if left_s <= 0:
            raise TimeoutError(f"step {request.key!r} had no time left to start")
        limits = replace(limits, wall_s=left_s)
    return limits


def failure_of(result: SandboxResult, request: RunStep) -> Exception:
    """Return what a step raises whose program did not end well."""
    kind, text = result.error_type, result.error or "it failed"
    who = f"the code of step {request.key!r}"
    facts = {"step": request.key, "sandbox": told_of(result)}
    if result.denied_tool is not None:
        return NotAllowedError(
            f"{who} may not call tool {result.denied_tool!r}",
            remedy="name it in the step's `tools`, and in the allowlist of the plan or of its caller",
            step=request.key,
            tool=result.denied_tool,
        )
    if kind is ErrorType.TIMEOUT:
        return TimeoutError(f"{who}: {text}")
    if kind is ErrorType.MEMORY and request.grant.memory_mb is not None:
        return GrantError(f"{who}: {text}", limits=("max_memory_mb",), remedy="raise the limit", **facts)
    if kind is ErrorType.RESULT:
        return OutputError(f"{who}: {text}", remedy="return text, numbers, lists and dicts, and not too much", **facts)
    error = CodeRefusedError if kind in _HOPELESS else CodeError
    return error(f"{who}: {text}", error_type=str(kind), remedy=_REMEDIES.get(kind, ""), **facts)


_REMEDIES: Mapping[ErrorType | None, str] = {
    ErrorType.MEMORY: "give it more memory with `limits: {max_memory_mb: …}`, or have it keep less at a time",
    ErrorType.DENIED: "give it what it needs as a variable or a tool, or run it with `runtime: cpython`",
    ErrorType.OUTPUT: "return a value instead of printing it",
}


def told_of(result: SandboxResult) -> dict[str, Any]:
    """Return what goes on record of how a program ran."""
    told: dict[str, Any] = {
        "backend": result.backend,
        "enforced": dict(result.enforced),
        "unenforced": dict(result.unenforced),
        "execution_time": result.execution_time,
        "tool_calls": [call.name for call in result.tool_calls],
    }
    if result.output:
        told["output"] = result.output[:MAX_OUTPUT_ON_RECORD]
    return told
