"""Tool steps: the call itself, behind its allowlist, its schema and its limits.

Rule 1: the allowlist is checked here again, where the call is made: whatever asked for it.
Rule 2: async tools run on the event loop, sync tools in the thread pool, both with the attempt's context variables.
Rule 3: what comes back is JSON or an error; a result that is neither awaited nor JSON never passes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from planloom.core.result import StepOutcome
from planloom.errors import NotAllowedError, OutputError
from planloom.executors.in_time import in_time
from planloom.plan.values import as_json
from planloom.tools.context import ToolContext
from planloom.tools.json_schema import JsonSchema

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.executors.threads import ThreadPool
    from planloom.ports import AttemptContext
    from planloom.tools.registry import ToolRegistry
    from planloom.tools.tool import Tool

_NO_CONTEXT = ToolContext()


@dataclass(frozen=True, slots=True)
class ToolExecutor:
    """Calls the tools of one registry."""

    registry: ToolRegistry
    threads: ThreadPool

    async def execute(self, request: RunStep, context: AttemptContext) -> StepOutcome:
        name = request.step.tool or ""
        tool = self.registry.get(name)
        for allow in request.allow:
            if not self.registry.allows(name, allow):
                raise NotAllowedError(
                    f"step {request.key!r} may not use tool {tool.name!r}",
                    remedy=f"add {tool.name!r} to the allowlist of the plan or of its caller",
                    step=request.key,
                    tool=tool.name,
                )
        told = _NO_CONTEXT if tool.context_parameter is None else _context(request, context)
        kwargs = tool.bind(request.args, told)
        if tool.is_async and tool.timeout_seconds is None:
            result = await tool.function(**kwargs)
        else:
            result = await self._call(tool, kwargs, context)
        output = as_json(result)
        if tool.output_schema is not None:
            _fits(output, tool.output_schema, tool.name)
        if request.step.output is not None:
            _fits(output, request.step.output, request.key)
        reported = context.reported_usd
        return StepOutcome(output, None, reported if reported is not None else tool.cost_per_call)

    async def _call(self, tool: Tool, kwargs: dict[str, Any], context: AttemptContext) -> Any:
        doing = self._begin(tool, kwargs, context)
        if tool.timeout_seconds is None:
            return await doing
        return await in_time(doing, allowed_s=tool.timeout_seconds, who=f"tool {tool.name!r}", context=context)

    async def _begin(self, tool: Tool, kwargs: dict[str, Any], context: AttemptContext) -> Any:
        if tool.is_async:
            return await tool.function(**kwargs)
        return await self.threads.call(tool.function, kwargs, context)


@lru_cache(maxsize=256)
def _compiled(text: str, where: str) -> JsonSchema:
    return JsonSchema(json.loads(text), where=where)


def _fits(output: Any, schema: dict[str, Any], who: str) -> None:
    problems = _compiled(json.dumps(schema, sort_keys=True), f"the result schema of {who!r}").problems(output)
    if problems:
        told = "; ".join(f"{'.'.join(map(str, one.path)) or 'it'}: {one.problem}" for one in problems[:5])
        raise OutputError(
            f"the result of {who!r} does not fit its schema: {told}", remedy="mend the tool or the schema"
        )


def _context(request: RunStep, context: AttemptContext) -> ToolContext:
    return ToolContext(
        run_id=request.run_id,
        step=request.key,
        attempt=request.attempt,
        idempotency_key=request.idempotency_key,
        deadline_at=request.deadline_at,
        is_cancelled=lambda: context.stopping or context.abandoned,
        on_cost=context.report_usd,
    )
