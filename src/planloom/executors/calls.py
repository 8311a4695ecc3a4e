"""The one way a tool is called: from a tool step, from a model's answer, from code.

Rule 1: the allowlist is checked here again, where the call is made: whatever asked for it.
Rule 2: async tools run on the event loop, sync tools in the thread pool, both with the attempt's context variables.
Rule 3: what comes back is JSON or an error; a result that is neither awaited nor JSON never passes.
Rule 4: what stands around a tool, its breaker and its rate, stands around every call of it, whoever makes it.
Rule 5: `find` and `output_of` are what every tool step pays for: neither awaits, nor looks at more than it must.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Protocol

from planloom.core.asking import PER_MESSAGE, prompt_ceiling
from planloom.core.chat import ModelCall, ToolSpec
from planloom.errors import GrantError, NotAllowedError, NotDoneError, OutputError, StepError
from planloom.executors.in_time import in_time
from planloom.executors.labels import picked_up
from planloom.plan.policy import Effects
from planloom.plan.values import as_json
from planloom.tools.context import ToolContext
from planloom.tools.json_schema import JsonSchema
from planloom.tools.registry import llm_name

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.executors.threads import Caller, ThreadPool
    from planloom.executors.wrap.guarded import Guards
    from planloom.ports import AttemptContext
    from planloom.tools.registry import ToolRegistry
    from planloom.tools.tool import Tool

NO_CONTEXT = ToolContext()


@dataclass(frozen=True, slots=True)
class ToolCalls:
    """Calls the tools of one registry.

    Attributes:
        guards: What stands around the calls of some tools; None: nothing.
    """

    registry: ToolRegistry
    threads: ThreadPool
    guards: Guards | None = None

    def find(self, name: str, request: RunStep) -> Tool:
        """Return the tool of any of its names.

        Raises:
            UnknownToolError: No such tool.
            NotAllowedError: The step, its plan or its caller may not use it.
        """
        tool = self.registry.get(name)
        for allow in request.allow:
            if not self.registry.allows(name, allow):
                raise not_allowed(tool, request)
        return tool

    def is_guarded(self, tool: Tool) -> bool:
        """Return whether anything stands around the calls of one of the registry's tools."""
        return self.guards is not None and tool.name in self.guards.by_name

    def begin(self, tool: Tool, kwargs: dict[str, Any], request: RunStep, context: AttemptContext) -> Awaitable[Any]:
        """Return what the call of a tool step comes to; `kwargs` as `Tool.bind` gives them."""
        guard = self.guards.of(tool) if self.guards is not None else None
        if guard is None:
            return self._in_time(tool, kwargs, context, context)
        doing = partial(self._in_time, tool, kwargs, context, context)
        return guard.call(doing, request, context, is_whole=True)

    async def call_inside(
        self, tool: Tool, kwargs: dict[str, Any], cost: CallCost, request: RunStep, context: AttemptContext
    ) -> Any:
        """Call a tool as one of several of an attempt; return its output.

        Whatever it came to, what it cost is booked, and what it brought in is remembered. Whether it may be given what
        the attempt knows by now, `labels.refuse_flow` has said before.
        """
        guard = self.guards.of(tool) if self.guards is not None else None
        doing = partial(self._in_time, tool, kwargs, _Inside(context), None)
        try:
            if guard is None:
                result = await doing()
            else:
                result = await guard.call(doing, request, context, is_whole=False)
            return output_of(tool, result)
        except NotDoneError as error:
            if request.effects is Effects.ONCE and context.reported_calls > 1:
                # It speaks for itself; taken for the whole attempt, the others would be made again.
                raise StepError(
                    f"tool {tool.name!r} was not done, and other calls of step {request.key!r} were: {error.message}",
                    remedy=error.remedy,
                    tool=tool.name,
                ) from error
            raise
        finally:
            cost.settle()
            picked_up(tool, request, context)

    def _in_time(
        self, tool: Tool, kwargs: dict[str, Any], caller: Caller, whole: AttemptContext | None
    ) -> Awaitable[Any]:
        doing = self._called(tool, kwargs, caller)
        if tool.timeout_seconds is None:
            return doing
        return in_time(doing, allowed_s=tool.timeout_seconds, who=_who(tool), context=whole)

    def _called(self, tool: Tool, kwargs: dict[str, Any], caller: Caller) -> Awaitable[Any]:
        called: Awaitable[Any]
        called = tool.function(**kwargs) if tool.is_async else self.threads.call(tool.function, kwargs, caller)
        return called


def _who(tool: Tool) -> str:
    return f"tool {tool.name!r}"


@dataclass(slots=True)
class CallCost:
    """What one call inside an attempt costs: what the tool says, else what it declares."""

    context: AttemptContext
    declared_usd: float | None
    is_reported: bool = False

    def report(self, usd: float) -> None:
        self.is_reported = True
        self.context.report_usd(usd)

    def settle(self) -> None:
        if not self.is_reported and self.declared_usd is not None:
            self.context.report_usd(self.declared_usd)


@dataclass(frozen=True, slots=True)
class _Inside:
    """A call inside an attempt, as the thread pool sees it: its wait for a thread is no late start of the attempt."""

    context: AttemptContext

    def abandon(self) -> None:
        self.context.abandon()

    def wait(self, seconds: float) -> None:
        pass


def not_allowed(tool: Tool, request: RunStep) -> NotAllowedError:
    return NotAllowedError(
        f"step {request.key!r} may not use tool {tool.name!r}",
        remedy=f"add {tool.name!r} to the allowlist of the plan or of its caller",
        step=request.key,
        tool=tool.name,
    )


class Used(Protocol):
    """What an attempt used so far."""

    @property
    def reported_usd(self) -> float | None: ...

    @property
    def reported_calls(self) -> int: ...


def check_grant(tools: list[Tool], request: RunStep, context: Used) -> None:
    """Refuse calls inside an attempt that pass what it was granted: all of them, before the first is made.

    Raises:
        GrantError: Too many calls, or what they declare to cost is too much.
    """
    grant = request.grant
    limits: list[str] = []
    if grant.calls is not None and context.reported_calls + len(tools) > grant.calls:
        limits.append("max_tool_calls")
    declared_usd = sum(tool.cost_per_call or 0.0 for tool in tools)
    if grant.usd is not None and declared_usd and (context.reported_usd or 0.0) + declared_usd > grant.usd + 1e-9:
        limits.append("max_total_cost_usd")
    if limits:
        names = ", ".join(tool.name for tool in tools)
        raise GrantError(
            f"step {request.key!r} was to call {names}, and what it was granted of {' and '.join(limits)} is used up",
            limits=tuple(limits),
            remedy="raise the limit",
            step=request.key,
        )


def context_for(
    tool: Tool,
    request: RunStep,
    context: AttemptContext,
    *,
    key: str | None = None,
    on_cost: Callable[[float], None] | None = None,
) -> ToolContext:
    """Return what the tool may know of the attempt; an empty one where it asks for none.

    Args:
        key: Idempotency key of this call, where it is one of several.
        on_cost: What hears of the call's cost instead of the attempt.
    """
    if tool.context_parameter is None:
        return NO_CONTEXT
    return ToolContext(
        run_id=request.run_id,
        step=request.key,
        attempt=request.attempt,
        idempotency_key=request.idempotency_key if key is None else key,
        deadline_at=request.deadline_at,
        is_cancelled=lambda: context.stopping or context.abandoned,
        on_cost=context.report_usd if on_cost is None else on_cost,
    )


def output_of(tool: Tool, result: Any) -> Any:
    """Return the result as JSON.

    Raises:
        OutputError: It is none, or does not fit what the tool declares.
    """
    output = as_json(result)
    if tool.output_schema is not None:
        fits(output, tool.output_schema, tool.name)
    return output


def fits(output: Any, schema: dict[str, Any], who: str) -> None:
    """Check a result.

    Raises:
        OutputError: It does not fit the schema; says where and why.
    """
    problems = _compiled(json.dumps(schema, sort_keys=True), f"the result schema of {who!r}").problems(output)
    if problems:
        told = "; ".join(f"{'.'.join(map(str, one.path)) or 'it'}: {one.problem}" for one in problems[:5])
        raise OutputError(
            f"the result of {who!r} does not fit its schema: {told}", remedy="mend the tool or the schema"
        )


@lru_cache(maxsize=256)
def _compiled(text: str, where: str) -> JsonSchema:
    return JsonSchema(json.loads(text), where=where)


def spec_of(tool: Tool) -> ToolSpec:
    """Return the tool as a model is told of it."""
    return ToolSpec(llm_name(tool.name), tool.description, tool.schema)


def spec_bytes(tool: Tool) -> int:
    """Return the size of what a model is told of the tool, as `core.asking` counts it."""
    return prompt_ceiling(ModelCall(messages=(), tools=(spec_of(tool),))) - 2 * PER_MESSAGE
