"""Tools that do what a test tells them, and remember every call.

Rule 1: a fake is a real tool: it goes through the same schema, allowlist and effects as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from planloom.plan.policy import Effects
from planloom.plan.terms import fresh
from planloom.tools.context import ToolContext
from planloom.tools.tool import Tool

ANYTHING: dict[str, Any] = {"type": "object", "additionalProperties": True}
"""The schema of a tool that takes whatever it is given."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a fake tool."""

    tool: str
    args: dict[str, Any]


class CallLog:
    """The calls of any number of fake tools, in order."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __len__(self) -> int:
        return len(self.calls)

    def of(self, tool: str) -> list[dict[str, Any]]:
        """Return the arguments of each call of one tool."""
        return [call.args for call in self.calls if call.tool == tool]


def fake_tool(
    name: str,
    answers: Callable[..., Any] | Iterable[Any] | None = None,
    *,
    log: CallLog | None = None,
    effects: Effects | str | None = Effects.NONE,
    **declared: Any,
) -> Tool:
    """Return an async tool that takes any arguments.

    Args:
        answers: A function of the arguments, may be async; or the answers in order, an exception among them is
            raised, the last one is given again and again; None: the arguments themselves.
        log: Where its calls are noted, before it answers.
        declared: As for `@tool`: cost_per_call, timeout_seconds, version, …
    """
    listed = None if answers is None or callable(answers) else list(answers)
    given = 0

    async def call(**args: Any) -> Any:
        nonlocal given
        if log is not None:
            log.calls.append(Call(name, fresh(args)))
        if listed is not None:
            answer = listed[min(given, len(listed) - 1)]
            given += 1
        elif callable(answers):
            answer = answers(**args)
            if hasattr(answer, "__await__"):
                answer = await answer
        else:
            answer = args
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return Tool.from_schema(name, call, ANYTHING, effects=effects, **declared)


__all__ = ["ANYTHING", "Call", "CallLog", "ToolContext", "fake_tool"]
