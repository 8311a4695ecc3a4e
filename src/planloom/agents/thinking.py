"""The loop of a reasoning agent: it plans, does tasks with its tools, looks whether that is enough, and goes round.

Rule 1: nothing here knows how a model is asked or a tool is called: both are given, and count what they cost.
Rule 2: what the model writes is untrusted: it picks among the tools it has, and their arguments must fit. What it got
wrong goes into the history, where it is told of it.
Rule 3: tasks are done one after the other, in the order they were planned, so that the same answers give the same
history, to the last byte: whoever makes them again finds what is on record. Where the model says that none needs
another's result, and none of their tools changes or costs a thing, the tools are called at once; all else stays so.
Rule 4: a call that may be made only once, and of which nobody knows what it came to, is not made again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from planloom.agents import reasoning_prompts as say
from planloom.agents.metrics import AgentMetrics
from planloom.core.asking import ROUND_TASKS
from planloom.core.chat import LLMResponse, Message, ModelCall
from planloom.errors import ArgumentsError, FlowError, InnerCallError, OutputError, suggestion
from planloom.models.structured import ask_for_value, problems_of
from planloom.plan.policy import Effects
from planloom.together import together
from planloom.tools.registry import ToolRegistry

if TYPE_CHECKING:
    from planloom.agents.reasoning import Reasoner
    from planloom.tools.tool import Tool

Ask = Callable[[ModelCall], Awaitable[LLMResponse]]
CallTool = Callable[[str, dict[str, Any]], Awaitable[Any]]
"""A tool's name and arguments in, its output as JSON out.

Raises:
    ArgumentsError: They do not fit; the tool was not called.
    FlowError: It would be given what it must not have; it was not called.
    InnerCallError: It was called, and failed.
"""
_Call = Callable[[], Coroutine[Any, Any, dict[str, Any]]]
"""Calls a tool; returns what that adds to the entry of its task."""
COMPLETED, FAILED = "completed", "failed"
_NO_TOOL = frozenset({"", "none", "null", "no tool", "n/a"})
"""What models write for no tool at all."""
NOT_AGAIN = (
    "it was called with these arguments before, and whether that had its effect is unknown: "
    "it may be called only once, and is not called again"
)


@dataclass(frozen=True, slots=True)
class Thought:
    """What came of a task.

    Attributes:
        result: Text, or a value that fits the agent's `output_schema`; of a task that is not completed, what there is.
        execution_history: What was done, in order: `iteration`, `task`, `tool`, `arguments`, `status` ("completed" or
            "failed"), `result`, `error`.
        completion_status: `is_complete`, `reasoning`, `missing_steps`, `next_action`.
    """

    result: Any
    metrics: AgentMetrics
    execution_history: list[dict[str, Any]]
    completion_status: dict[str, Any]


async def think(
    agent: Reasoner,
    task: str,
    *,
    ask: Ask,
    call_tool: CallTool,
    tell: Ask | None = None,
    tools: ToolRegistry | None = None,
    memory: Sequence[Message] = (),
    now: Callable[[], float] = time.monotonic,
    refused: Callable[[str], None] = lambda _: None,
) -> Thought:
    """Have an agent complete a task.

    Args:
        ask: Asks its model once.
        call_tool: Calls one of its tools.
        tell: Asks its model for what is sure to be the result, and may show it while it comes; None: as any other.
        tools: What it may call; None: all it has.
        memory: What was said before.
        now: Seconds, by whatever clock.
        refused: Hears of each tool that its model asks for and that it does not have.

    Raises:
        OutputError: Its model does not answer with what it is asked for, asked twice.
        ModelError: Its model gives no answer.
    """
    began_at = now()
    if tools is None:
        tools = agent.tools if agent.tools is not None else ToolRegistry()
    thinking = _Thinking(
        agent, say.begin(agent.system, memory, task), task, ask, tell or ask, call_tool, tools, refused
    )
    result, status = await thinking.complete()
    metrics = thinking.metrics
    metrics.execution_time_seconds = now() - began_at
    return Thought(result, metrics, thinking.history, status)


@dataclass(slots=True, eq=False)
class _Thinking:
    """One task under way."""

    agent: Reasoner
    beginning: tuple[Message, ...]
    task: str
    ask: Ask
    tell: Ask
    call_tool: CallTool
    tools: ToolRegistry
    refused: Callable[[str], None]
    metrics: AgentMetrics = field(default_factory=AgentMetrics)
    history: list[dict[str, Any]] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)
    """Calls of which nobody knows what they came to."""

    async def complete(self) -> tuple[Any, dict[str, Any]]:
        """Go round until the task is completed, or may be worked on no longer; return result and status."""
        metrics, status = self.metrics, None
        for iteration in range(1, self.agent.max_iterations + 1):
            metrics.total_iterations = iteration
            plan = await self._plan(status)
            if not plan["has_sufficient_info"]:
                return self._not_enough(plan)
            tasks = plan.get("tasks") or [{"description": self.task, "tool_name": None}]
            await self._do(iteration, tasks[:ROUND_TASKS], in_any_order=plan.get("independent") is True)
            answer, status = await self._check()
            if status["is_complete"]:
                metrics.task_completed = True
                metrics.iterations_to_completion = iteration
                return await self._result(answer), status
        assert status is not None, "there is at least one iteration"
        return self._last_result(), status

    # --- the phases -----------------------------------------------------------------------------

    async def _plan(self, feedback: dict[str, Any] | None) -> dict[str, Any]:
        self.metrics.reasoning_calls += 1
        plan: dict[str, Any] = await self._value(say.to_plan(self.tools, self.history, feedback), say.PLAN)
        return plan

    def _not_enough(self, plan: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return what the model says is missing, and that nothing was completed."""
        why = plan.get("reasoning") or "there is not enough information for the task"
        missing = [planned["description"] for planned in plan.get("tasks") or ()]
        return why, {"is_complete": False, "reasoning": why, "missing_steps": missing, "next_action": None}

    async def _do(self, iteration: int, tasks: Sequence[dict[str, Any]], *, in_any_order: bool) -> None:
        """Do tasks, and put into the history what they came to, in their order."""
        if in_any_order and len(tasks) > 1 and all(map(self._is_harmless, tasks)):
            begun = [await self._begin(iteration, planned) for planned in tasks]
            ended = await together([call for _, call in begun if call is not None])
            for entry, call in begun:
                self._enter(entry if call is None else entry | ended.pop(0))
            return
        for planned in tasks:
            entry, call = await self._begin(iteration, planned)
            self._enter(entry if call is None else entry | await call())

    def _is_harmless(self, planned: dict[str, Any]) -> bool:
        wished = _tool_of(planned)
        if wished not in self.tools:
            return False
        tool = self.tools.get(wished)
        return tool.effects is Effects.NONE and not tool.cost_per_call

    def _enter(self, entry: dict[str, Any]) -> None:
        if entry["tool"] is not None:
            if entry["status"] == COMPLETED:
                self.metrics.successful_tool_calls += 1
            else:
                self.metrics.failed_tool_calls += 1
        self.history.append(entry)

    async def _begin(self, iteration: int, planned: dict[str, Any]) -> tuple[dict[str, Any], _Call | None]:
        """Return a task's entry so far, and the call of a tool that brings the rest of it, if there is one."""
        description = planned["description"]
        wished = _tool_of(planned)
        entry: dict[str, Any] = {
            "iteration": iteration,
            "task": description,
            "tool": None,
            "arguments": None,
            "status": COMPLETED,
            "result": None,
            "error": None,
        }
        if wished not in self.tools and wished.lower() in _NO_TOOL:
            entry["result"] = (await self._asked(say.to_answer(description, self.history))).text
            return entry, None
        told, call = await self._with_tool(wished, description)
        return entry | told, call

    async def _with_tool(self, wished: str, description: str) -> tuple[dict[str, Any], _Call | None]:
        """Return what there is of a task that a tool does, and its call."""
        if wished not in self.tools:
            self.refused(wished)
            known = suggestion(wished, self.tools.names(), otherwise="there are none")
            error = f"there is no tool {wished!r:.200}; {known}"
            return {"tool": wished[:200], "status": FAILED, "error": error}, None
        tool = self.tools.get(wished)
        told: dict[str, Any] = {"tool": tool.name}
        try:
            arguments = await self._value(say.to_call(tool, description, self.history), tool.schema)
        except OutputError as unfit:
            return told | {"status": FAILED, "error": unfit.message}, None
        told["arguments"] = arguments
        call = json.dumps([tool.name, arguments], sort_keys=True)
        if call in self.unknown:
            return told | {"status": FAILED, "error": NOT_AGAIN}, None
        return told, partial(self._called, tool, arguments, call)

    async def _called(self, tool: Tool, arguments: dict[str, Any], call: str) -> dict[str, Any]:
        try:
            result = await self.call_tool(tool.name, arguments)
        except (ArgumentsError, FlowError) as error:
            return {"status": FAILED, "error": error.message}
        except InnerCallError as error:
            self.metrics.tool_executions += 1
            if not error.is_unknown:
                return {"status": FAILED, "error": error.message}
            self.unknown.add(call)
            return {
                "status": FAILED,
                "error": f"{error.message} (whether it had its effect is unknown; it is not called so again)",
            }
        self.metrics.tool_executions += 1
        return {"result": result}

    async def _check(self) -> tuple[str | None, dict[str, Any]]:
        """Return the answer, if the model gives it at once, and whether the task is completed."""
        self.metrics.completion_checks += 1
        answers = self.agent.output_schema is None
        found = await self._value(
            say.to_check(self.history, answers=answers), say.CHECK_WITH_ANSWER if answers else say.CHECK
        )
        status = {
            "is_complete": found["is_complete"],
            "reasoning": found.get("reasoning") or "",
            "missing_steps": found.get("missing_steps") or [],
            "next_action": found.get("next_action"),
        }
        return (found.get("answer") or None) if answers else None, status

    async def _result(self, answer: str | None) -> Any:
        """Return the result: the answer, what the only task gave, or what the model makes of all of them."""
        schema = self.agent.output_schema
        done = [entry for entry in self.history if entry["status"] == COMPLETED]
        if schema is None:
            if answer is not None:
                return answer
            if len(done) == 1:
                return done[0]["result"]
            return (await self._counted(self._call(say.to_end(self.history)), self.tell)).text
        if len(done) == 1 and done[0]["tool"] is not None and not problems_of(done[0]["result"], schema):
            return done[0]["result"]
        return await self._value(say.to_end(self.history), schema)

    def _last_result(self) -> Any:
        return next((entry["result"] for entry in reversed(self.history) if entry["status"] == COMPLETED), None)

    # --- asking ---------------------------------------------------------------------------------

    def _call(self, message: Message, output: dict[str, Any] | None = None) -> ModelCall:
        agent = self.agent
        return ModelCall(
            messages=(*self.beginning, message),
            max_tokens=agent.max_tokens,
            temperature=agent.temperature,
            output=output,
            options=dict(agent.options),
        )

    async def _asked(self, message: Message) -> LLMResponse:
        return await self._counted(self._call(message))

    async def _value(self, message: Message, schema: dict[str, Any]) -> Any:
        value, _ = await ask_for_value(self._counted, self._call(message, schema))
        return value

    async def _counted(self, call: ModelCall, ask: Ask | None = None) -> LLMResponse:
        answer = await (ask or self.ask)(call)
        self.metrics.answered(answer.usage)
        return answer


def _tool_of(planned: dict[str, Any]) -> str:
    return (planned.get("tool_name") or "").strip()
