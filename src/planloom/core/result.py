"""What a step and a run came to: the only result types.

Rule 1: an error is never an output; a step has one or the other.
Rule 2: money is US dollars, times are seconds unless a name says otherwise; `None` means unknown, never zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, overload

from planloom.plan.frozen import frozen
from planloom.plan.shown import Shown

if TYPE_CHECKING:
    from planloom.plan.model import Plan


class StepStatus(StrEnum):
    __hash__ = str.__hash__  # Enum's own is a Python function, called for every look-up

    PENDING = "pending"
    """Waits for upstream steps."""
    READY = "ready"
    """May start; waits for a free slot, for the wait before a retry to end, or for a person to allow the attempt."""
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


class RunStatus(StrEnum):
    __hash__ = str.__hash__

    RUNNING = "running"
    WAITING = "waiting"
    """Nothing can go on until a person approves or resolves something."""
    SUCCESS = "success"
    PARTIAL = "partial"
    """It ended well, but some steps were skipped or failed and were tolerated."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    LIMIT_EXCEEDED = "limit_exceeded"


class SkipReason(StrEnum):
    CONDITION_FALSE = "condition_false"
    UPSTREAM_FAILED = "upstream_failed"
    UPSTREAM_SKIPPED = "upstream_skipped"
    ON_ERROR_SKIP = "on_error_skip"
    NOT_STARTED = "not_started"


ENDED = frozenset(
    {StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.CANCELLED, StepStatus.TIMED_OUT}
)
"""Statuses a step never leaves."""
RUN_ENDED = frozenset(
    {RunStatus.SUCCESS, RunStatus.PARTIAL, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.LIMIT_EXCEEDED}
)
"""Statuses a run never leaves."""
FOR_A_PERSON = frozenset({"approval", "unknown"})
"""What a step may wait for that only a person can give."""
BINDING_SHOWN = 16
"""Hex digits of a binding that people are shown, and may answer with."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them.

    Attributes:
        input_tokens: All of the prompt, what was read from or written to the provider's cache included.
        estimated_tokens: How many of all these tokens are our own estimate, because a call was cut short.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    requests: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    estimated_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def prompt_tokens(self) -> int:
        return self.input_tokens

    @property
    def completion_tokens(self) -> int:
        return self.output_tokens

    def __getitem__(self, name: str) -> int:
        """Return a count by its name, as providers' own usage objects do, e.g. ``usage["prompt_tokens"]``."""
        if name not in _COUNTS:
            raise KeyError(name)
        count: int = getattr(self, name)
        return count

    def to_dict(self) -> dict[str, int]:
        told = {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": self.total_tokens,
            "requests": self.requests,
        }
        for name in ("cache_read_tokens", "cache_write_tokens", "estimated_tokens"):
            if getattr(self, name):
                told[name] = getattr(self, name)
        return told

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.requests + other.requests,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.estimated_tokens + other.estimated_tokens,
        )


_COUNTS = frozenset({*Usage.__slots__, "total_tokens", "prompt_tokens", "completion_tokens"})


@frozen
class StepOutcome:
    """What an executor hands back for one attempt that went well.

    Attributes:
        output: The value, JSON only.
        usage: Tokens used, or None where no model was asked.
        cost_usd: What it cost, or None when unknown.
        cached: True when an earlier result was reused and nothing ran.
        metadata: How it was done, JSON: model, verdict, speculation; for people, nothing decides on it.
        labels: Of a result that is kept for reuse: what its calls brought in.
    """

    output: Any
    usage: Usage | None = None
    cost_usd: float | None = None
    cached: bool = False
    metadata: dict[str, Any] | None = None
    labels: tuple[str, ...] = ()


@frozen
class StepResult(Shown):
    """How one step stands: of the plan itself, of a sub-plan (`sub/extract`) or one item of a map (`check[3]`)."""

    id: str
    kind: str
    doer: str
    status: StepStatus
    output: Any = None
    error: str | None = None
    error_kind: str | None = None
    skip_reason: SkipReason | None = None
    attempts: int = 0
    cost_usd: float | None = None
    usage: Usage | None = None
    started_at: float | None = None
    """Seconds since the epoch of the first attempt's start."""
    ended_at: float | None = None
    busy_s: float = 0.0
    """Seconds its attempts took, waits not counted."""
    width: int | None = None
    """Items of a `for_each` step, once known."""
    errors: tuple[dict[str, Any], ...] = ()
    """Of a `for_each` step that collects: index and error of each failed item."""
    waiting: str | None = None
    """What else it waits for: "retry", "timer", "rate", or a person: "approval", "unknown"; or None."""
    approval: dict[str, Any] | None = None
    """What a person is asked, where it waits for one: message, binding, and of a call its tool, arguments, labels."""
    metadata: dict[str, Any] | None = None
    """How the attempt that counts was done: model, verdict, speculation."""
    parts: tuple[StepResult, ...] = ()
    """The items of a `for_each` step, or the steps of a sub-plan."""

    @property
    def latency_ms(self) -> float | None:
        if self.started_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.started_at) * 1000

    def to_dict(self, *, track_cost: bool = True) -> dict[str, Any]:
        """Return the step as JSON. `cost` is 0.0 where nothing was paid for, None when not tracked or not known."""
        free = 0.0 if self.usage is None else None  # a model was asked, and nobody knows its price
        told: dict[str, Any] = {
            "id": self.id,
            "kind": self.kind,
            "tool": self.doer,
            "status": self.status.value,
            "output": self.output,
            "error": self.error,
            "attempts": self.attempts,
            "cost": (free if self.cost_usd is None else self.cost_usd) if track_cost else None,
            "latency_ms": self.latency_ms,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
        }
        if self.error_kind is not None:
            told["error_kind"] = self.error_kind
        if self.skip_reason is not None:
            told["skip_reason"] = self.skip_reason.value
        if self.usage is not None:
            told["usage"] = self.usage.to_dict()
        if self.waiting is not None:
            told["waiting"] = self.waiting
        if self.approval is not None:
            told["approval"] = self.approval
        if self.metadata:
            told["metadata"] = self.metadata
        if self.width is not None:
            told["width"] = self.width
        if self.errors:
            told["errors"] = list(self.errors)
        if self.parts:
            told["parts"] = [part.to_dict(track_cost=track_cost) for part in self.parts]
        return told


class Steps(Sequence[StepResult]):
    """Step results, worked out when first looked at: a run of 100,000 steps need not pay for what nobody reads."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], Iterable[StepResult]]) -> None:
        self._make: Callable[[], Iterable[StepResult]] | None = make
        self._made: tuple[StepResult, ...] = ()

    def now(self) -> Steps:
        """Work them out at once; return itself."""
        if self._make is not None:
            self._made = tuple(self._make())
            self._make = None
        return self

    def __len__(self) -> int:
        return len(self.now()._made)

    @overload
    def __getitem__(self, place: int) -> StepResult: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[StepResult, ...]: ...

    def __getitem__(self, place: int | slice) -> StepResult | tuple[StepResult, ...]:
        return self.now()._made[place]

    def __iter__(self) -> Iterator[StepResult]:
        return iter(self.now()._made)

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Steps | tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.now()._made)

    def __repr__(self) -> str:
        return repr(self.now()._made)


@frozen
class RunResult(Shown):
    """How a run stands, or ended.

    Attributes:
        speedup: Sum of the seconds steps were busy, by the run's wall seconds.
        parallel_efficiency: `speedup` by the most steps under way at once; in (0, 1], 1.0 for a serial plan.
        critical_path_ms: The longest chain of dependent steps, by their measured times.
        scheduler_overhead_ms: Wall time beyond that chain: waiting for slots, and the engine's own cost.
    """

    run_id: str
    plan: str
    status: RunStatus
    output: Any
    steps: Sequence[StepResult]
    error: str | None = None
    failed_step: str | None = None
    exceeded_limits: tuple[str, ...] = ()
    limits_not_enforced: tuple[str, ...] = ()
    """Limits the user set that nothing here can enforce."""
    cost_usd: float | None = None
    """None: not tracked, or nothing of it is known. With `cost_unknown` it is what is known, the least that it was."""
    cost_unknown: tuple[str, ...] = ()
    """Steps that used a model whose price nobody knows, `sub/extract` in a sub-plan; the step itself for its items."""
    usage: Usage = field(default_factory=Usage)
    tool_calls: int = 0
    speculation: dict[str, Any] | None = None
    """Where steps ran ahead on drafts: `hits`, `misses`, `rolled_back`, `wasted_s`, `wasted_tokens`,
    `wasted_cost_usd`, and `efficiency`, 1 - the run's seconds by those of its longest chain of steps."""
    started_at: float | None = None
    ended_at: float | None = None
    active_s: float = 0.0
    """Wall-clock seconds an engine worked on it; the time between a crash and a resume does not count."""
    speedup: float = 1.0
    parallel_efficiency: float = 1.0
    critical_path_ms: float = 0.0
    scheduler_overhead_ms: float = 0.0
    full_plan: Plan | None = field(default=None, repr=False, compare=False)
    """The plan that was run, for whoever draws it; `plan` is its name."""

    @property
    def latency_ms(self) -> float:
        return self.active_s * 1000

    @property
    def blocked(self) -> tuple[StepResult, ...]:
        """Return the steps, items and sub-plan steps included, that wait for a person."""
        found: list[StepResult] = []
        stack = list(reversed(self.steps))
        while stack:
            step = stack.pop()
            if step.waiting in FOR_A_PERSON:
                found.append(step)
            stack.extend(reversed(step.parts))
        return tuple(found)

    @property
    def steps_completed(self) -> int:
        return sum(step.status is StepStatus.COMPLETED for step in self.steps)

    def step(self, step_id: str) -> StepResult:
        """Return the result of the step with this id; KeyError if there is none."""
        for step in self.steps:
            if step.id == step_id:
                return step
        raise KeyError(step_id)

    def to_dict(self) -> dict[str, Any]:
        """Return the run as JSON; `result` is its output, `cost` None when costs are not tracked or not known.

        `cost_unknown` is there only if some step's cost is not known; `cost` is then without it.
        """
        tracked = self.cost_usd is not None or bool(self.cost_unknown)
        unknown = {"cost_unknown": list(self.cost_unknown)} if self.cost_unknown else {}
        return {
            "run_id": self.run_id,
            "plan": self.plan,
            "status": self.status.value,
            "result": self.output,
            "error": self.error,
            "failed_step": self.failed_step,
            "steps": [step.to_dict(track_cost=tracked) for step in self.steps],
            "steps_completed": self.steps_completed,
            "cost": self.cost_usd,
            **unknown,
            "usage": self.usage.to_dict(),
            "tool_calls": self.tool_calls,
            "latency_ms": self.latency_ms,
            "speedup": self.speedup,
            "parallel_efficiency": self.parallel_efficiency,
            "critical_path_ms": self.critical_path_ms,
            "scheduler_overhead_ms": self.scheduler_overhead_ms,
            "exceeded_limits": list(self.exceeded_limits),
            "limits_not_enforced": list(self.limits_not_enforced),
            **({} if self.speculation is None else {"speculation": self.speculation}),
            "blocked": self.blockers(),
            "started_at": self.started_at,
            "ended_at": self.ended_at,
        }

    def blockers(self) -> list[dict[str, str]]:
        """Return for each step that waits for a person: the step, why, and the command that makes it go on."""
        found = []
        for step in self.blocked:
            if step.waiting == "approval":
                why, command = "waits for approval", f"planloom approve {self.run_id} {step.id}"
                if step.approval is not None and step.approval["attempt"]:
                    why += f": {step.approval['message']}"
                    command += f" --binding {step.approval['binding'][:BINDING_SHOWN]}"
            else:
                why = "it may run only once, and whether it did is unknown"
                command = f"planloom resolve {self.run_id} {step.id} --output JSON | --retry | --fail"
            found.append({"step": step.id, "why": why, "command": command})
        return found
