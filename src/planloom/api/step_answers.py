"""What an agent returns, as a dict; and what is told where it returns nothing: the four kinds of error.

Rule 1: a result is turned into JSON where it is made, so that the record holds what the caller gets.
Rule 2: an error dict says of what kind it is, and no more of a bug than its caller asked for.
"""

from __future__ import annotations

import inspect
import resource
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, is_dataclass
from dataclasses import fields as fields_of
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from planloom.agents.roster import definition_of, streams, way_of
from planloom.core.chat import Message
from planloom.errors import ConfigError
from planloom.plan.policy import Effects, FailureKind
from planloom.plan.values import as_json

MB = 1_000_000
_NO_ANSWERS = (BaseException, Awaitable, Generator, AsyncGenerator)
"""What has text, as everything has, and is no answer for all that."""
_RESOURCES = frozenset({"MemoryError", "ResourceLimitError"})


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """What one step came to.

    Attributes:
        value: The dict, or for a step of tools the list, that the caller gets.
        is_error: Whether it is an error dict.
        retries: Attempts after the first.
        latency_s: Seconds from its start to its end, waits between attempts included.
    """

    value: Any
    is_error: bool = False
    retries: int = 0
    latency_s: float = 0.0


# --- results ----------------------------------------------------------------------------------


def answer_of(result: Any) -> dict[str, Any]:
    """Return whatever an agent returned as a dict.

    A dict is itself. A `Message` gives its content, role and metadata. Pydantic models, dataclasses and whatever has a
    method `dict` give their fields. Everything else is text, ``{"content": str(result)}``, and None is no text.

    Raises:
        OutputError: It is an error that should have been raised, or what nobody awaited or went through.
    """
    if isinstance(result, dict):
        return result
    if isinstance(result, _NO_ANSWERS):
        as_json(result)
    if isinstance(result, Message):
        return {"content": result.content, "role": result.role, "metadata": dict(result.metadata)}
    fields = _fields_of(result)
    if fields is not None:
        return fields
    return {"content": "" if result is None else str(result)}


def _fields_of(result: Any) -> dict[str, Any] | None:
    if isinstance(result, type):
        return None
    fields: Any = None
    if isinstance(result, BaseModel):
        fields = result.model_dump(mode="json")
    elif callable(getattr(result, "dict", None)):
        fields = result.dict()
    elif is_dataclass(result):
        fields = {one.name: getattr(result, one.name) for one in fields_of(result)}
    return fields if isinstance(fields, dict) else None


def effects_of(agent: Any, otherwise: Effects) -> Effects:
    """Return what asking an agent again would do: what it says itself; one that reasons has no effects of its own.

    Raises:
        ConfigError: What it says is none of the effects there are.
    """
    if definition_of(agent) is not None:
        return Effects.NONE
    told = getattr(agent, "effects", None)
    try:
        return otherwise if told is None else Effects(told)
    except ValueError:
        known = ", ".join(map(repr, map(str, Effects)))
        raise ConfigError(f"an agent's effects={told!r} are not known", remedy=f"use one of: {known}") from None


def is_repeatable(agent: Any, effects: Effects) -> bool:
    """Return whether an earlier answer of an agent may stand for a new one: neither it nor its tools change a thing."""
    definition = definition_of(agent)
    if definition is None:
        return effects is Effects.NONE
    return definition.tools is None or all(tool.effects is Effects.NONE for tool in definition.tools)


class AnsweringAgent:
    """An agent as the engine asks it: the same one, in the same way, but what it returns is a dict.

    Attributes:
        effects: What asking it again would do: its own word, or else the executor's.
    """

    def __init__(self, agent: Any, effects: Effects) -> None:
        self.__wrapped__ = agent
        self.effects = effects_of(agent, effects)
        if streams(agent):
            self.stream_step = _in_pieces(agent.stream_step)
        way = way_of(agent)
        if way is not None or callable(agent):
            call = agent if way is None else getattr(agent, way)
            is_async = way in ("run_step", "arun") or _is_async(call)
            setattr(self, way or ("arun" if is_async else "run"), _awaited(call) if is_async else _called(call))

    @classmethod
    def of(cls, agent: Any, effects: Effects) -> Any:
        """Return an agent as the engine is to ask it: one that reasons is known there, and stays as it is."""
        return agent if definition_of(agent) is not None else cls(agent, effects)


def _is_async(call: Any) -> bool:
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(type(call).__call__)


def _awaited(call: Callable[..., Any]) -> Callable[..., Any]:
    async def ask(*given: Any) -> dict[str, Any]:
        result = call(*given)
        return answer_of(await result if inspect.isawaitable(result) else result)

    return ask


def _called(call: Callable[..., Any]) -> Callable[..., Any]:
    def ask(*given: Any) -> Any:
        result = call(*given)
        # A function that only hands on what an async one gives is not async itself.
        return _answered(result) if inspect.isawaitable(result) else answer_of(result)

    return ask


async def _answered(result: Awaitable[Any]) -> dict[str, Any]:
    return answer_of(await result)


def _in_pieces(stream: Callable[..., Any]) -> Callable[..., AsyncGenerator[Any]]:
    async def ask(*given: Any) -> AsyncGenerator[Any]:
        async with aclosing(stream(*given)) as streaming:
            async for piece in streaming:
                yield piece if isinstance(piece, str) else answer_of(piece)

    return ask


# --- errors -----------------------------------------------------------------------------------


def agent_not_found(agent_name: str, known: Sequence[str]) -> dict[str, Any]:
    return {
        "error": f"Agent '{agent_name}' not found",
        "error_type": "agent_not_found",
        "suggestions": get_close_matches(agent_name, known, n=3, cutoff=0.5),
    }


def timed_out(agent_name: str, timeout_s: float) -> dict[str, Any]:
    return {"error": f"Agent '{agent_name}' timed out", "error_type": "timeout", "timeout_seconds": timeout_s}


def out_of_resources() -> dict[str, Any]:
    return {"error": "Memory limit exceeded", "error_type": "resource_limit", "memory_usage": memory_usage()}


def internal_error(details: str | None) -> dict[str, Any]:
    return {"error": "Internal execution error", "error_type": "internal_error", "details": details}


def is_out_of_resources(kind: str | None, types: Sequence[str]) -> bool:
    """Return whether an attempt failed for want of memory, or of what was granted to it."""
    return kind == FailureKind.LIMIT.value or not _RESOURCES.isdisjoint(types)


def memory_usage() -> dict[str, float]:
    """Return how much memory this process has now, and had at most, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_mb = peak * (1 if sys.platform == "darwin" else 1024) / MB
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        current_mb = pages * resource.getpagesize() / MB
    except (OSError, ValueError, IndexError):
        current_mb = peak_mb
    return {"current_mb": round(current_mb, 1), "peak_mb": round(peak_mb, 1)}
