"""Agents of another kind: whatever has `run_step(request, context)`, `arun(value)` or `run(value)`, or can be called.

One that has an async generator `stream_step(request, context)` can be heard piece by piece; pieces that are no text are
not heard, and the last of them is its answer in place of the text.

Rule 1: what it does inside is its own business: it is one call, on record as its step, with the effects it declares.
Rule 2: what is sync runs in the thread pool, what it returns is JSON or an error.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from planloom.agents.memory import AgentMemory
from planloom.agents.roster import streams, way_of
from planloom.core.result import StepOutcome
from planloom.errors import ConfigError
from planloom.executors.calls import fits
from planloom.plan.values import as_json

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.executors.threads import ThreadPool
    from planloom.plan.model import Step
    from planloom.ports import AttemptContext


async def ask_foreign(
    agent: Any, name: str, request: RunStep, context: AttemptContext, threads: ThreadPool
) -> StepOutcome:
    """Have an agent do a step.

    Raises:
        ConfigError: The step narrows its tools, which nobody but the agent itself can do.
        OutputError: What it returns is not JSON, or does not fit the step's schema.
    """
    step = request.step
    if named_tools(step) is not None:
        raise ConfigError(
            f"agent {name!r} is not of planloom's making, so its tools cannot be narrowed",
            remedy="leave `tools` out of the step, or register a Reasoner with these tools",
        )
    value = value_of(request)
    way = way_of(agent)
    if streams(agent) and (step.stream or (way is None and not callable(agent))):
        result = await _streamed(agent.stream_step(value, context_of(request)), context if step.stream else None)
    elif way == "run_step":
        result = await _called(partial(agent.run_step, value, context_of(request)), agent.run_step, threads, context)
    else:
        asked: Callable[..., Any] = agent if way is None else getattr(agent, way)
        result = await _called(partial(asked, value), asked, threads, context)
    output = as_json(result)
    if step.output is not None:
        fits(output, step.output, request.key)
    return StepOutcome(output, context.reported_usage, context.reported_usd)


def named_tools(step: Step) -> tuple[str, ...] | None:
    """Return the tools that a step names for its agent: of two lists, those on both; None: it says nothing."""
    narrowed = None if step.agent is None else step.agent.tools
    if narrowed is None or step.tools is None:
        return step.tools if narrowed is None else narrowed
    return tuple(name for name in narrowed if name in step.tools)


def value_of(request: RunStep) -> Any:
    """Return what the agent is given: the argument `input` if there is one, else the prompt."""
    if "input" in request.args:
        return request.args["input"]
    return request.args.get("prompt", request.step.task or "")


def context_of(request: RunStep) -> dict[str, Any]:
    """Return what the agent is told besides: `memory`, `metadata`, and whose attempt this is."""
    return {
        "memory": memory_of(request),
        "metadata": dict(request.args.get("metadata") or {}),
        "run_id": request.run_id,
        "step": request.key,
        "attempt": request.attempt,
        "idempotency_key": request.idempotency_key,
    }


def memory_of(request: RunStep) -> AgentMemory:
    """Return what was said before: the argument `memory`, as `AgentMemory.to_dict` gives it, or a list of messages."""
    told = request.args.get("memory")
    return AgentMemory.from_dict(told) if isinstance(told, Mapping) else AgentMemory(told or ())


async def _called(
    bound: Callable[[], Any], function: Callable[..., Any], threads: ThreadPool, context: AttemptContext
) -> Any:
    """Return what it returns, whether it is async or not."""
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
    result = bound() if is_async else await threads.call(bound, {}, context)
    return await result if inspect.isawaitable(result) else result


async def _streamed(streaming: AsyncGenerator[Any], heard_by: AttemptContext | None) -> Any:
    """Return what it comes to; it is closed whatever becomes of the attempt."""
    pieces: list[str] = []
    whole: Any = None
    async with aclosing(streaming):
        async for piece in streaming:
            if not isinstance(piece, str):
                whole = piece
                continue
            pieces.append(piece)
            if heard_by is not None:
                heard_by.stream(piece)
    return "".join(pieces) if whole is None else whole
