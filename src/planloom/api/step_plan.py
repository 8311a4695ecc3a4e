"""Steps of agents and of tools as one plan, all side by side.

Rule 1: what callers say goes in as inputs and is referred to: no text of theirs is ever read as a reference.
Rule 2: no step stops another: each fails by itself.
Rule 3: plans of one shape are one object: what an engine has looked at once it need not look at again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from planloom.errors import ValidationError
from planloom.plan.model import Plan, Step
from planloom.plan.policy import NO_RETRY, AgentPolicy, CachePolicy, Effects, OnError, ResourceLimits, RetryPolicy

ANYTHING: dict[str, Any] = {}
KEPT_PLANS = 128
"""Plans that an executor remembers."""
KEPT_STEPS = 32
"""Steps of a plan that is remembered, at most: larger ones rarely come twice, and would take up room for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTerms:
    """How an agent may be asked.

    Attributes:
        timeout_s: Seconds for one attempt.
        effects: Of asking it again; None: decided call by call, by what it has called so far.
        is_repeatable: Whether an earlier answer may stand for a new one.
    """

    timeout_s: float
    effects: Effects | None = Effects.ONCE
    is_repeatable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """All of a step but what it is given.

    Attributes:
        args: By name, where each is referred to.
    """

    id: str
    args: tuple[tuple[str, str], ...]
    retry: RetryPolicy
    attempt_timeout: float
    priority: int
    agent: str | None = None
    tool: str | None = None
    effects: Effects | None = None
    cache: CachePolicy | None = None
    stream: bool = False

    def step(self) -> Step:
        return Step(
            id=self.id,
            agent=None if self.agent is None else AgentPolicy(name=self.agent),
            tool=self.tool,
            args=dict(self.args),  # type: ignore[call-arg]  # its other name is a keyword of Python
            retry=self.retry,
            attempt_timeout=self.attempt_timeout,
            priority=self.priority,
            effects=self.effects,
            cache=self.cache,
            stream=self.stream,
            on_error=OnError.CONTINUE,
        )


class KnownPlans:
    """The plans that were made last, by their shape."""

    def __init__(self) -> None:
        self._plans: OrderedDict[tuple[_Shape, ...], Plan] = OrderedDict()

    def of(self, shapes: tuple[_Shape, ...]) -> Plan:
        known = self._plans.get(shapes)
        if known is not None:
            self._plans.move_to_end(shapes)
            return known
        made = Plan(
            name="steps",
            inputs={shape.id: ANYTHING for shape in shapes},
            steps=tuple(shape.step() for shape in shapes),
        )
        if len(shapes) <= KEPT_STEPS:
            self._plans[shapes] = made
        if len(self._plans) > KEPT_PLANS:
            self._plans.popitem(last=False)
        return made


@dataclass(slots=True, kw_only=True)
class StepPlan:
    """A plan in the making.

    Attributes:
        known: Plans that were made before.
        retry: Of agents, and of tools that are called again; what may run only once is if nothing has happened.
        cache: Of agents whose answers may stand for new ones; None: none is reused.
        is_streamed: Whether what agents say is put on record piece by piece.
    """

    known: KnownPlans
    retry: RetryPolicy
    cache: CachePolicy | None = None
    is_streamed: bool = False
    inputs: dict[str, Any] = field(default_factory=dict)
    _shapes: list[_Shape] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self._shapes)

    def add_agent(self, name: str, given: dict[str, Any], how: AgentTerms, *, priority: int = 0) -> str:
        """Add a step that asks an agent; return the step's id."""
        step = self._next("agent", given)
        shape = _Shape(
            id=step,
            args=tuple((key, f"${{{{ inputs.{step}.{key} }}}}") for key in given),
            retry=self.retry,
            attempt_timeout=how.timeout_s,
            priority=priority,
            agent=name,
            effects=how.effects,
            cache=self.cache if how.is_repeatable else None,
            stream=self.is_streamed,
        )
        self._shapes.append(shape)
        return step

    def add_tool(self, name: str, args: dict[str, Any], *, timeout_s: float, priority: int, again: bool) -> str:
        """Add a step that calls a tool, and does so again if it fails and `again`; return the step's id."""
        step = self._next("tool", list(args.values()))
        shape = _Shape(
            id=step,
            # By place, not by name: a parameter may be called anything.
            args=tuple((key, f"${{{{ inputs.{step}[{place}] }}}}") for place, key in enumerate(args)),
            retry=self.retry if again else NO_RETRY,
            attempt_timeout=timeout_s,
            priority=priority,
            tool=name,
        )
        self._shapes.append(shape)
        return step

    def _next(self, kind: str, given: Any) -> str:
        step = f"{kind}_{len(self._shapes) + 1}"
        self.inputs[step] = given
        return step

    def plan(self) -> Plan:
        return self.known.of(tuple(self._shapes))


def at_once(max_concurrent: int | None) -> ResourceLimits | None:
    """Return limits that bound nothing but how many steps are under way at once; None: nothing at all.

    Raises:
        ValidationError: It lets nothing begin, or is no whole number.
    """
    if max_concurrent is None:
        return None
    if isinstance(max_concurrent, bool) or not isinstance(max_concurrent, int) or max_concurrent < 1:
        raise ValidationError(f"max_concurrent={max_concurrent!r:.80} lets nothing begin", remedy="give 1 or more")
    return ResourceLimits(
        timeout_seconds=None,
        max_tool_calls=None,
        max_concurrent=max_concurrent,
        max_total_cost_usd=None,
        max_memory_mb=None,
        max_cpu_percent=None,
    )
