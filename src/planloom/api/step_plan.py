"""Steps of agents and of tools as one plan, all side by side.

Rule 1: what callers say goes in as inputs and is referred to: no text of theirs is ever read as a reference.
Rule 2: no step stops another: each fails by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from planloom.plan.model import Plan, Step
from planloom.plan.policy import NO_RETRY, AgentPolicy, CachePolicy, Effects, OnError, ResourceLimits, RetryPolicy

ANYTHING: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTerms:
    """How an agent may be asked.

    Attributes:
        timeout_s: Seconds for one attempt.
        is_repeatable: Whether an earlier answer may stand for a new one.
    """

    timeout_s: float
    effects: Effects = Effects.ONCE
    is_repeatable: bool = False


@dataclass(slots=True, kw_only=True)
class StepPlan:
    """A plan in the making.

    Attributes:
        retry: Of agents, and of tools that are called again; what may run only once is if nothing has happened.
        cache: Of agents whose answers may stand for new ones; None: none is reused.
        is_streamed: Whether what agents say is put on record piece by piece.
    """

    retry: RetryPolicy
    cache: CachePolicy | None = None
    is_streamed: bool = False
    inputs: dict[str, Any] = field(default_factory=dict)
    _steps: list[Step] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self._steps)

    def add_agent(self, name: str, given: dict[str, Any], how: AgentTerms, *, priority: int = 0) -> str:
        """Add a step that asks an agent; return the step's id."""
        step = self._next("agent")
        self._add(
            step,
            given,
            {key: f"${{{{ inputs.{step}.{key} }}}}" for key in given},
            agent=AgentPolicy(name=name),
            priority=priority,
            attempt_timeout=how.timeout_s,
            effects=how.effects,
            cache=self.cache if how.is_repeatable else None,
            stream=self.is_streamed,
        )
        return step

    def add_tool(self, name: str, args: dict[str, Any], *, timeout_s: float, priority: int, again: bool) -> str:
        """Add a step that calls a tool, and does so again if it fails and `again`; return the step's id."""
        step = self._next("tool")
        # By place, not by name: a parameter may be called anything.
        referred = {key: f"${{{{ inputs.{step}[{place}] }}}}" for place, key in enumerate(args)}
        retry = self.retry if again else NO_RETRY
        self._add(
            step, list(args.values()), referred, tool=name, priority=priority, attempt_timeout=timeout_s, retry=retry
        )
        return step

    def _next(self, kind: str) -> str:
        return f"{kind}_{len(self._steps) + 1}"

    def _add(self, step: str, given: Any, args: dict[str, Any], **fields: Any) -> None:
        self.inputs[step] = given
        told: dict[str, Any] = {"id": step, "args": args, "retry": self.retry, "on_error": OnError.CONTINUE}
        self._steps.append(Step(**told | fields))

    def plan(self) -> Plan:
        return Plan(
            name="steps",
            inputs=dict.fromkeys(self.inputs, ANYTHING),
            steps=tuple(self._steps),
        )


def at_once(max_concurrent: int | None) -> ResourceLimits | None:
    """Return limits that bound nothing but how many steps are under way at once; None: nothing at all."""
    if max_concurrent is None:
        return None
    return ResourceLimits(
        timeout_seconds=None,
        max_tool_calls=None,
        max_concurrent=max_concurrent,
        max_total_cost_usd=None,
        max_memory_mb=None,
        max_cpu_percent=None,
    )
