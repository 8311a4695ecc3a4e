"""Tool steps: one call, made as `calls.py` makes them all. What most tools need is written out: it is the hot path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.core.result import StepOutcome
from planloom.executors.calls import NO_CONTEXT, context_for, fits, output_of

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.executors.calls import ToolCalls
    from planloom.ports import AttemptContext


@dataclass(frozen=True, slots=True)
class ToolExecutor:
    """Does a step by calling its tool."""

    calls: ToolCalls

    async def execute(self, request: RunStep, context: AttemptContext) -> StepOutcome:
        tool = self.calls.find(request.step.tool or "", request)
        told = NO_CONTEXT if tool.context_parameter is None else context_for(tool, request, context)
        kwargs = tool.bind(request.args, told)
        if tool.is_async and tool.timeout_seconds is None and not self.calls.is_guarded(tool):
            result = await tool.function(**kwargs)
        else:
            result = await self.calls.begin(tool, kwargs, request, context)
        output = output_of(tool, result)
        if request.step.output is not None:
            fits(output, request.step.output, request.key)
        reported = context.reported_usd
        return StepOutcome(output, None, reported if reported is not None else tool.cost_per_call)
