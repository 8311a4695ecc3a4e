"""A model and the tools of its step: it asks for calls, they are made, it goes on, until it answers.

Rule 1: a tool the step does not name, or may not use, fails the step; the model is not told what else there is.
Rule 2: what the model got wrong (a name nobody has, arguments that do not fit, a tool that must not be given what the
model knows) it is told, and the tool is not called.
Rule 3: a tool that raises fails the step, as it would fail a tool step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from planloom.core.asking import MAX_CALLS, MAX_ROUNDS, text_of
from planloom.core.chat import LLMResponse, Message, ModelCall, ToolCall, ToolSpec
from planloom.errors import ArgumentsError, FlowError, ModelError, suggestion
from planloom.executors.calls import CallCost, check_grant, context_for, not_allowed, spec_of
from planloom.executors.labels import refuse_flow
from planloom.together import together

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.executors.calls import ToolCalls
    from planloom.executors.meter import Meter
    from planloom.ports import AttemptContext
    from planloom.tools.tool import Tool


@dataclass(frozen=True, slots=True)
class _Ready:
    """A call that the model asked for and that can be made."""

    tool: Tool
    kwargs: dict[str, Any]
    cost: CallCost


class Conversation:
    """What is said to one model in one attempt.

    Attributes:
        specs: The step's tools, as the model is told of them.
        called: Names of the tools called so far, in order.
        refused: Those that were not called because of what they would have been given, and why.
    """

    def __init__(self, ref: str, meter: Meter, calls: ToolCalls, request: RunStep, context: AttemptContext) -> None:
        """Look up the step's tools.

        Raises:
            UnknownToolError, NotAllowedError: One that is not here, or that the step may not use.
        """
        self._ref = ref
        self._meter = meter
        self._calls = calls
        self._request = request
        self._context = context
        tools = [calls.find(name, request) for name in request.step.tools or ()]
        self._tools = {tool.name: tool for tool in tools}
        self.specs: tuple[ToolSpec, ...] = tuple(map(spec_of, self._tools.values()))
        self.called: list[str] = []
        self.refused: list[dict[str, Any]] = []
        self._rounds = 0
        self._begun_at = 0
        self._said: list[Message] = []

    async def answer(self, call: ModelCall) -> LLMResponse:
        """Return the model's answer once it asks for no more tools.

        A later call that begins with the messages of the first finds what was said about tools in between.

        Raises:
            NotAllowedError: The model asked for a tool that the step may not use.
            GrantError: The next call of the model or of a tool might pass what the attempt was granted.
            ModelError: It asks for tools where it has to answer.
        """
        if not self._said:
            self._begun_at = len(call.messages)
        while True:
            has_to_answer = self._rounds >= MAX_ROUNDS or len(self.called) >= MAX_CALLS
            messages = (*call.messages[: self._begun_at], *self._said, *call.messages[self._begun_at :])
            asked = replace(call, messages=messages)
            if has_to_answer and self.specs:
                asked = replace(asked, tool_choice="none")
            response = await self._meter.ask(self._ref, asked)
            if not response.tool_calls:
                return response
            if has_to_answer or not self.specs:
                raise ModelError(
                    f"the model of step {self._request.key!r} asks for tools where it has to answer",
                    remedy="say in the prompt when to stop calling tools" if self.specs else "give the step its tools",
                )
            self._rounds += 1
            results = await self._made(response.tool_calls)
            self._said.append(Message("assistant", response.text, tool_calls=response.tool_calls))
            for wish, result in zip(response.tool_calls, results, strict=True):
                self._said.append(Message("tool", text_of(result), tool_call_id=wish.id, name=wish.name))

    async def _made(self, wishes: tuple[ToolCall, ...]) -> list[Any]:
        """Return what each call came to, in order; they are made at the same time."""
        prepared = [self._prepared(wish) for wish in wishes]
        ready = [one for one in prepared if isinstance(one, _Ready)]
        check_grant([one.tool for one in ready], self._request, self._context)
        for _ in ready:
            self._context.report_call()
        request, context = self._request, self._context
        makes = [partial(self._calls.call_inside, one.tool, one.kwargs, one.cost, request, context) for one in ready]
        found = iter(await together(makes))
        return [next(found) if isinstance(one, _Ready) else one for one in prepared]

    def _prepared(self, wish: ToolCall) -> _Ready | dict[str, str]:
        """Return the call, ready to be made, or what the model is told instead."""
        registry = self._calls.registry
        canonical = registry.resolve(wish.name)
        if canonical is None:
            known = [spec.name for spec in self.specs]
            return {"error": f"there is no tool {wish.name!r:.200}", "try": suggestion(wish.name, known)}
        tool = self._tools.get(canonical)
        if tool is None:
            raise not_allowed(self._calls.find(canonical, self._request), self._request)
        if not isinstance(wish.arguments, dict):
            return {"error": "the arguments are not a JSON object", "try": "give one that fits the tool's parameters"}
        if len(self.called) >= MAX_CALLS:
            return {"error": f"no more than {MAX_CALLS} calls can be made", "try": "answer with what is known"}
        request, context = self._request, self._context
        key = f"{request.idempotency_key}/{len(self.called) + 1}"
        cost = CallCost(context, tool.cost_per_call)
        told = context_for(tool, request, context, key=key, on_cost=cost.report)
        try:
            kwargs = tool.bind(wish.arguments, told)
            refuse_flow(tool, request, context, tells_model=True)
        except ArgumentsError as error:
            return {"error": error.message, "try": error.remedy}
        except FlowError as error:
            self.refused.append({"tool": tool.name, "labels": error.facts["labels"], "why": error.message})
            return {"error": error.message, "try": error.remedy}
        self.called.append(tool.name)
        return _Ready(tool, kwargs, cost)
