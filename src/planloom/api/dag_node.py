"""AgentNode and Edge: what an agent graph is made of.

Rule 1: what a node is to do is set when it is made; what came of it is shown on it, and kept in the run's result.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from typing import Any, Literal, TypeAlias, TypeVar

from planloom.core.result import StepStatus
from planloom.errors import FieldError, suggestion
from planloom.plan.policy import Effects, JoinRule, OnError

NodeStatus = StepStatus
"""How a node stands: pending, running, completed, failed, skipped, cancelled or timed_out."""

Condition: TypeAlias = str | Callable[[dict[str, Any]], bool | Awaitable[bool]]
"""When an edge counts: an expression of plans, or a function of the state."""

_ANY = TypeVar("_ANY", bound=StrEnum)


@dataclass(slots=True, eq=False)
class AgentNode:
    """An agent with a place in a graph.

    Attributes:
        name: Names the node in its graph, and its step in the record.
        agent: A `ReasoningAgent`, an object with `run_step`, `arun` or `run`, or a function of one value.
        input_mapping: Parameter → key of the state. What the agent is given is an object of these; None: all of the
            state that the node sees. An object whose only key is "input" is given as that value itself.
        output_key: Key of the state under which its result is kept; None: the node's name.
        retry_count: How often it is tried again after it failed.
        timeout_seconds: Seconds for all attempts and the waits between them.
        on_error: What its failure means: "fail", "skip" or "continue".
        join: When it may run; None: once all nodes before it are done, or, behind a conditional edge, once none
            failed and at least one is done.
        effects: What running it again would do; None: what the agent declares, else "once", or with `retry_count`
            "idempotent".
        status, result, error, start_time, end_time, execution_count: How it stands in the run that was started last;
            times are seconds since the epoch.

    Raises:
        FieldError: A value that cannot be meant.
    """

    name: str
    agent: Any
    description: str = ""
    input_mapping: Mapping[str, str] | None = None
    output_key: str | None = None
    retry_count: int = 0
    timeout_seconds: float | None = None
    on_error: OnError | Literal["fail", "skip", "continue"] = OnError.FAIL
    join: JoinRule | str | None = field(default=None, kw_only=True)
    effects: Effects | Literal["none", "idempotent", "once"] | None = field(default=None, kw_only=True)
    status: StepStatus = field(default=StepStatus.PENDING, init=False)
    result: Any = field(default=None, init=False, repr=False)
    error: str | None = field(default=None, init=False)
    start_time: float | None = field(default=None, init=False)
    end_time: float | None = field(default=None, init=False)
    execution_count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or "${{" in self.name or len(self.name) > 200:
            raise FieldError(f"{self.name!r} is no name of a node", remedy="give a text of at most 200 characters")
        for name in ("name", "description", "output_key"):
            value = getattr(self, name)
            if isinstance(value, str) and not _is_written(value):
                raise self._wrong(name, "give text that UTF-8 can write")
        if self.agent is None:
            raise self._wrong("agent", "give an agent, or a function of one value")
        if self.output_key is not None and (not isinstance(self.output_key, str) or not self.output_key):
            raise self._wrong("output_key", "give a key of the state, or None for the node's name")
        count = self.retry_count
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise self._wrong("retry_count", "give a whole number, 0 or more")
        seconds = self.timeout_seconds
        if seconds is not None and (
            isinstance(seconds, bool) or not isinstance(seconds, int | float) or not isfinite(seconds) or seconds <= 0
        ):
            raise self._wrong("timeout_seconds", "give seconds above 0, or None")
        self.on_error = self._one_of(OnError, "on_error")
        self.join = None if self.join is None else self._one_of(JoinRule, "join")
        self.effects = None if self.effects is None else self._one_of(Effects, "effects")
        if self.join is JoinRule.ONE_SUCCESS:
            raise self._wrong("join", "what it is given would depend on which node was first: use another rule")
        self._check_mapping()

    def _check_mapping(self) -> None:
        given = self.input_mapping
        if given is None:
            return
        if not isinstance(given, Mapping) or not all(
            isinstance(part, str) and _is_written(part) for pair in given.items() for part in pair
        ):
            raise self._wrong("input_mapping", "give a dict: parameter → key of the state")

    def _one_of(self, kind: type[_ANY], name: str) -> _ANY:
        value = getattr(self, name)
        try:
            return kind(value)
        except ValueError:
            raise self._wrong(name, suggestion(str(value), [str(one) for one in kind])) from None

    def _wrong(self, name: str, remedy: str) -> FieldError:
        return FieldError(f"{name}={getattr(self, name)!r} of node {self.name!r}", remedy=remedy, step=self.name)

    @property
    def state_key(self) -> str:
        """Return the key of the state under which its result is kept."""
        return self.name if self.output_key is None else self.output_key

    def reset(self) -> None:
        """Forget what came of it."""
        self.status = StepStatus.PENDING
        self.result = self.error = self.start_time = self.end_time = None
        self.execution_count = 0


def _is_written(text: str) -> bool:
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


@dataclass(frozen=True, slots=True)
class Edge:
    """Node `target` comes after node `source`, and counts it only if the condition, where there is one, holds."""

    source: str
    target: str
    condition: Condition | None = None

    @property
    def told(self) -> str | None:
        """Return the condition as people read it, None where there is none."""
        if self.condition is None or isinstance(self.condition, str):
            return self.condition
        name = getattr(self.condition, "__name__", None) or type(self.condition).__name__
        return f"{name}(state)"
