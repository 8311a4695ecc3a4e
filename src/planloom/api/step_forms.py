"""What a `StepExecutor` is asked to do, and how it is told to try again: values only.

Rule 1: what cannot be read is refused here, before anything runs; nothing is dropped and nothing is guessed at.
Rule 2: there is one retry policy, `RetryPolicy`; `RetryConfig` is the name, and the defaults, that older programs know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from planloom.agents.memory import AgentMemory
from planloom.core.chat import ToolCall
from planloom.errors import ValidationError, suggestion
from planloom.models.prompts import arguments_of
from planloom.plan.policy import RetryPolicy

RETRYABLE = (TimeoutError, ConnectionError, "HTTPError", "HttpStatusError", "ModelError")
"""What is tried again unless told otherwise: client libraries call theirs `HTTPError`, the last two are planloom's own.
Of HTTP statuses only 408, 425, 429 and 5xx ever are."""
_MOST_SECONDS = 1e9
"""A time limit of thirty years and more is a mistake, or one that clocks cannot count to."""
_NAMES = ("name", "tool_name", "tool")
_ARGUMENTS = ("arguments", "args", "parameters", "params", "input")


def RetryConfig(  # noqa: N802 - the name of a class that older programs make
    max_attempts: int = 3,
    initial_delay: float = 1.0,
    max_delay: float = 60.0,
    exponential_base: float = 2.0,
    jitter: bool = True,
    retryable_exceptions: Iterable[type[BaseException] | str] = RETRYABLE,
) -> RetryPolicy:
    """Return the retry policy of these numbers; see `RetryPolicy` for what they mean.

    Args:
        max_attempts: Attempts in all, the first included.
        initial_delay, max_delay: Seconds.
        retryable_exceptions: Classes or their names; a class counts for those below it, too.

    Raises:
        ValueError: A number is out of bounds, e.g. `max_attempts` below 1.
    """
    return RetryPolicy(
        max_attempts=max_attempts,
        initial_delay=initial_delay,
        max_delay=max_delay,
        exponential_base=exponential_base,
        jitter=jitter,
        retryable_exceptions=tuple(one if isinstance(one, str) else one.__name__ for one in retryable_exceptions),
    )


class StepType(StrEnum):
    AGENT = "agent"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class ExecutionStep:
    """One thing to do beside others.

    Attributes:
        step_type: A `StepType`; anything else is refused before any of the steps runs.
        agent_name, request, metadata: Of an agent, as for `StepExecutor.execute_agent_step`.
        tool_calls: Of a step of tools, as for `StepExecutor.execute_tool_calls`.
        memory: What this agent knows; None: the memory that all steps are given.
        priority: Where not all can go at once, the higher goes first; waiting counts too: nobody waits for ever.
    """

    step_type: StepType | str
    agent_name: str = ""
    request: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tool_calls: Sequence[Any] = ()
    memory: AgentMemory | None = None
    priority: int = 0

    @classmethod
    def read(cls, given: ExecutionStep | Mapping[str, Any], place: int) -> ExecutionStep:
        """Return a step of any form in which it may be given, checked.

        Args:
            place: Which of the steps it is, for errors.

        Raises:
            ValidationError: It is no step, or of a type that does not exist.
        """
        step = given if isinstance(given, ExecutionStep) else cls._of_dict(given, place)
        known = [one.value for one in StepType]
        if step.step_type not in known:
            raise ValidationError(
                f"steps[{place}] is of type {step.step_type!r}, and there is none", remedy=suggestion("", known)
            )
        return step

    @classmethod
    def _of_dict(cls, given: Any, place: int) -> ExecutionStep:
        names = [one.name for one in fields(cls)]
        if not isinstance(given, Mapping) or given.keys() - set(names):
            raise ValidationError(f"steps[{place}] is no step", remedy=f"give a dict of {', '.join(names)}")
        told = {"step_type": StepType.TOOL if "tool_calls" in given else StepType.AGENT} | dict(given)
        return cls(**told)

    def check(self) -> None:
        """Check what has a type of its own.

        Raises:
            ValidationError: A name that is no text, or a priority that is no whole number.
        """
        if not isinstance(self.agent_name, str):
            raise ValidationError(f"{self.agent_name!r:.80} is no name of an agent", remedy="give text")
        if isinstance(self.priority, bool) or not isinstance(self.priority, int):
            raise ValidationError(f"{self.priority!r:.80} is no priority", remedy="give a whole number")


def seconds(told: Any) -> float:
    """Return a time limit.

    Raises:
        ValidationError: It is none.
    """
    if isinstance(told, bool) or not isinstance(told, int | float) or not 0 < told < _MOST_SECONDS:
        raise ValidationError(f"{told!r:.80} is no time limit", remedy="give a number of seconds above 0")
    return float(told)


def context_of_tools(context: Any) -> Mapping[str, Any]:
    """Return what a caller says of tool calls, None as nothing.

    Raises:
        ValidationError: It is no dict.
    """
    if context is None:
        return {}
    if not isinstance(context, Mapping):
        raise ValidationError(f"context is a {type(context).__name__}", remedy="give a dict, e.g. {'timeout': 5}")
    return context


@dataclass(frozen=True, slots=True)
class WantedCall:
    """One tool call as it was asked for.

    Attributes:
        args: The arguments; None where `problem` says why there are none.
        id: The caller's own name for the call, or None.
    """

    name: str
    args: dict[str, Any] | None
    problem: str | None = None
    id: str | None = None

    @classmethod
    def read(cls, given: Any) -> WantedCall:
        """Return a call in any of its forms: ours, a model's, or a provider's ``{"function": {"arguments": "…"}}``.

        What is wrong with it is in `problem`: one bad call must not keep the others from being made.
        """
        if isinstance(given, ToolCall):
            given = {"id": given.id, "name": given.name, "arguments": given.arguments}
        if not isinstance(given, Mapping):
            return cls("", None, f"a {type(given).__name__} is no tool call")
        told = given["function"] if isinstance(given.get("function"), Mapping) else given
        name = next((told[key] for key in _NAMES if isinstance(told.get(key), str)), "")
        found = given.get("id", given.get("tool_call_id"))
        call_id = found if isinstance(found, str) else None
        if not name:
            return cls("", None, "the call names no tool", call_id)
        said = next((told[key] for key in _ARGUMENTS if key in told), None)
        if isinstance(said, str) and not said.strip():
            said = None
        args = arguments_of(said) if said is None or isinstance(said, str | Mapping) else said
        if not isinstance(args, dict):
            return cls(name, None, f"the arguments of {name!r} are no JSON object: {_short(args)}", call_id)
        return cls(name, args, None, call_id)


def _short(value: Any) -> str:
    told = repr(value)
    return told if len(told) <= 80 else f"{told[:79]}…"
