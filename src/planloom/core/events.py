"""The words a journal is written in: facts from outside, and the heart's decisions about them.

Rule 1: an event is past tense, frozen, and holds JSON values only (codec.py writes them; `RunStarted.plan` as its
text).
Rule 2: `at` is seconds since the epoch as the driver's clock said when the fact came in; the heart never asks a clock.
Rule 3: `step` is a step's key: its id, `map[3]` for an item, `sub/extract` inside a sub-plan.
Rule 4: never change or reuse a field's meaning; add a field with a default, or a new event.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

from planloom.core.prices import ModelFacts
from planloom.core.result import RunStatus, SkipReason, StepStatus, Usage
from planloom.plan.frozen import frozen
from planloom.plan.policy import Effects, FailureKind

if TYPE_CHECKING:
    from planloom.plan.flow import FlowPolicy
    from planloom.plan.model import Plan
    from planloom.plan.policy import ResourceLimits


@frozen
class ToolFacts:
    """What a run was told about a tool when it started; pinned, so that a deploy changes nothing for it."""

    digest: str
    """SHA-256 of name, version and parameter schema."""
    effects: Effects | None = None
    """None: the tool declares nothing."""
    cost_per_call_usd: float | None = None
    expected_latency_ms: float | None = None
    memory_mb: float | None = None
    cpu_percent: float | None = None
    spec_bytes: int | None = None
    """Size of what a model is told of it."""
    source: tuple[str, ...] = ()
    """Labels that its result carries: see plan/flow.py, also for the others."""
    secret: bool = False
    sink: bool | None = None
    accepts: tuple[str, ...] = ()
    cleans: tuple[str, ...] = ()
    needs_approval: bool = False


@frozen
class AgentFacts:
    """What a run was told about an agent when it started."""

    digest: str
    """SHA-256 of what decides how it works; of an agent that is plain code, of its name."""
    effects: Effects | None = None
    """None: it declares nothing."""
    model: str | None = None
    """Name of its model among the run's models; None: it asks none that planloom knows of."""
    cost_per_call_usd: float | None = None
    """The most that one of its own tools declares to cost; None: none declares anything."""


# --- facts: what the outside says --------------------------------------------------------------


@frozen
class RunStarted:
    """A plan, its inputs and everything the run is pinned to."""

    plan: Plan
    inputs: dict[str, Any]
    at: float
    limits: ResourceLimits | None = None
    tools: dict[str, ToolFacts] = field(default_factory=dict)
    allow: tuple[str, ...] | None = None
    """Tools the caller allows; None: every tool there is. The plan's own `allow` narrows it further."""
    parallel: bool = True
    track_cost: bool = True
    engine: str = ""
    """Version of planloom that started the run."""
    from_run: str | None = None
    reused: dict[str, Any] = field(default_factory=dict)
    """Outputs of `from_run` by step key, taken over where nothing upstream of the step runs anew."""
    models: dict[str, ModelFacts] = field(default_factory=dict)
    """By the name or URI the plan uses; with the prices that the run's costs are worked out with."""
    guesses: dict[str, Any] = field(default_factory=dict)
    """Of steps that speculate: how often earlier runs' drafts led to the right inputs, ``{step: [hits, misses]}``."""
    agents: dict[str, AgentFacts] = field(default_factory=dict)
    """By the name the plan uses."""
    module: str = ""
    """Whose program it is, where programs of several modules run side by side; `allow` is what that module may use."""
    flow: FlowPolicy | None = None
    """What is done about labelled values; None: no tool of the run says anything of any, and none are kept."""
    reused_labels: dict[str, Any] = field(default_factory=dict)
    """Labels of the outputs in `reused` by step key, as lists; empty if the earlier run kept none."""
    binds: bool = False
    """Whether an answer counts only for exactly what was asked; False: the run is older than that."""
    request: str = ""
    """SHA-256 of what a caller asked for, where asking once more must not start a second run; else ""."""
    edited: str | None = None
    """Step whose output in `reused` is not what it came to in `from_run`, but what somebody put in its place."""
    run_ahead: bool = True
    """Whether steps may run ahead of those they need; False: whoever decides about the run keeps nothing in memory."""


@frozen
class RunResumed:
    """An engine took the run up again; results of earlier epochs are refused from here on."""

    epoch: int
    at: float


@frozen
class AttemptSucceeded:
    step: str
    attempt: int
    epoch: int
    output: Any
    started_at: float
    at: float
    usage: Usage | None = None
    cost_usd: float | None = None
    cached: bool = False
    tool_calls: int = 0
    """Tool calls made inside the attempt, by a model or by code."""
    metadata: dict[str, Any] | None = None
    """How it was done, for people."""
    labels: tuple[str, ...] = ()
    """Labels that came in inside the attempt, by its calls; the output carries them besides those of what it was
    given."""


@frozen
class AttemptFailed:
    step: str
    attempt: int
    epoch: int
    kind: FailureKind
    error: str
    started_at: float
    at: float
    error_types: tuple[str, ...] = ()
    """Class names of the exception, most derived first."""
    usage: Usage | None = None
    cost_usd: float | None = None
    retry_after_s: float | None = None
    abandoned: bool = False
    """True when a thread that cannot be stopped still runs; its result will be ignored."""
    tool_calls: int = 0
    limits: tuple[str, ...] = ()
    """Limits that kept the attempt from going on."""
    labels: tuple[str, ...] = ()
    """Labels that came in inside the attempt; its error may say what it was told."""


@frozen
class OutputStreamed:
    """The next piece of what an attempt under way answers; the whole comes with `AttemptSucceeded`.

    A later attempt begins anew: what an earlier one streamed is void.
    """

    step: str
    attempt: int
    epoch: int
    text: str
    at: float


@frozen
class AttemptWaiting:
    """An attempt under way waits for something that is no work of its own ("rate"), or, reason None, goes on."""

    step: str
    attempt: int
    epoch: int
    at: float
    reason: str | None = None
    until: float | None = None


@frozen
class CallStarted:
    """An attempt is about to make a call that has an effect; durable before the call is made."""

    step: str
    attempt: int
    epoch: int
    key: str
    """Names the call within its step, the same in every attempt."""
    name: str
    at: float
    effects: Effects = Effects.ONCE


@frozen
class CallEnded:
    """What a call inside an attempt came to. A later attempt of the step is given that instead of calling again."""

    step: str
    attempt: int
    epoch: int
    key: str
    name: str
    """The tool or model that was called."""
    kind: str
    """"model", "tool" or "other"."""
    output: Any
    started_at: float
    at: float
    usage: Usage | None = None
    cost_usd: float | None = None
    tool_calls: int = 0
    error: str | None = None
    """What it failed with; then there is no output."""
    error_types: tuple[str, ...] = ()
    """Class names of the exception, most derived first."""
    labels: tuple[str, ...] = ()
    """Labels of what came back."""


@frozen
class CircuitChanged:
    """A tool's circuit breaker moved, because of this attempt."""

    step: str
    attempt: int
    epoch: int
    tool: str
    state: str
    """"open": calls are refused until `until`; "half_open": one call is let through; "closed"."""
    at: float
    failures: int = 0
    """Failures in a row that opened it."""
    until: float | None = None


@frozen
class SpeculationAnswered:
    """A draft, or an attempt that ran ahead, has ended; what it used counts whatever comes of it."""

    step: str
    role: str
    attempt: int
    epoch: int
    ok: bool
    started_at: float
    at: float
    usage: Usage | None = None
    cost_usd: float | None = None
    tool_calls: int = 0
    error: str | None = None


@frozen
class TimerFired:
    """The wait of a step (before a retry, of a wait step, for an approval) is over, or, for step "", the run's time."""

    step: str
    at: float


@frozen
class ApprovalAnswered:
    step: str
    approved: bool
    by: str
    at: float
    output: Any = None
    """What the person filled in."""
    binding: str | None = None
    """`ApprovalRequested.binding` of what it answers; None: of a run that binds nothing."""


@frozen
class StepResolved:
    """A person says what came of a step whose outcome was unknown: `output`, `retry` or `fail`."""

    step: str
    how: str
    by: str
    at: float
    output: Any = None
    error: str | None = None
    attempt: int = 0
    """Number of the attempt it is about: what was said of one says nothing of a later one. 0: whichever is asked about;
    an answer older than this field."""


@frozen
class WentOn:
    """The driver let others have their turn; the run goes on with what it had yet to decide."""

    at: float


@frozen
class CancelRequested:
    by: str
    at: float
    reason: str = ""


@frozen
class PauseRequested:
    """Somebody asks that nothing new start; what is under way ends, and then the run rests until it is resumed."""

    by: str
    at: float


# --- decisions: what the heart made of them ----------------------------------------------------


@frozen
class StepDispatched:
    """An attempt may start; its slot and its share of the limits are taken."""

    step: str
    attempt: int
    epoch: int
    at: float


@frozen
class StepSpeculated:
    """A step runs ahead on values nobody has confirmed, or (role "draft") a cheaper model guesses its answer.

    No value of either goes on record before it is confirmed, and then as the step's own.
    """

    step: str
    role: str
    """"ahead" or "draft"."""
    attempt: int
    epoch: int
    inputs: str
    """SHA-256 of its arguments."""
    at: float
    on: tuple[str, ...] = ()
    """Steps whose own answer is still out."""
    drafts: tuple[str, ...] = ()
    """Those of them whose draft is in its arguments."""
    cost_usd: float = 0.0
    """Set aside for it; so are the other two."""
    tokens: int = 0
    calls: int = 0


@frozen
class SpeculationSettled:
    """What came of it: `confirmed` (it is the step's attempt now), `rolled_back`, or, of a draft, `spent`."""

    step: str
    role: str
    outcome: str
    at: float
    began_at: float | None = None
    """Of a confirmed one: from when the step's time counts, so that it has as much as it would have had."""


@frozen
class StepExpanded:
    """A `for_each` step is now this many items; on record before any of them starts."""

    step: str
    items: list[Any]
    at: float


@frozen
class SubPlanStarted:
    step: str
    inputs: dict[str, Any]
    at: float


@frozen
class ReplanRequested:
    """A failed step asks for a plan that does its job another way: its attempt number `attempt` does."""

    step: str
    attempt: int
    at: float


@frozen
class StepReplanned:
    """The step is now this plan, which was checked; on record before any of its steps starts."""

    step: str
    plan: Plan
    inputs: dict[str, Any]
    at: float


@frozen
class RetryScheduled:
    """The next attempt, number `attempt`, starts at `due_at`, also when the engine restarts in between."""

    step: str
    attempt: int
    due_at: float
    at: float


@frozen
class WaitStarted:
    step: str
    until: float
    at: float


@frozen
class ApprovalRequested:
    """A step that asks a person asks, or (`attempt` not 0) an attempt needs a person's word before it may start."""

    step: str
    message: str
    at: float
    form: dict[str, Any] | None = None
    expires_at: float | None = None
    attempt: int = 0
    """Number of the attempt that is to be approved; 0: the step itself is the question."""
    binding: str | None = None
    """SHA-256 of all that an answer is about, see `approvals.py`; None: of a run that binds nothing."""
    tool: str = ""
    """Name of the tool that would be called, or of the model or agent that would be told."""
    args: dict[str, Any] | None = None
    """What it would be given; None where that is secret, or nothing is called."""
    labels: tuple[str, ...] = ()
    """Labels of that."""


@frozen
class OutcomeUnknown:
    """A `once` attempt was under way when its engine died: nobody knows whether its effect happened."""

    step: str
    attempt: int
    at: float


@frozen
class ResultRefused:
    """A result came for an attempt that is not under way (any more); it changed nothing."""

    step: str
    attempt: int
    epoch: int
    at: float


@frozen
class AnswerRefused:
    """An answer came too late, or for something else than what waits (another attempt, run, …); it changed nothing."""

    step: str
    by: str
    why: str
    at: float


@frozen
class StepSucceeded:
    """A step that no single attempt completes: a map, a sub-plan, a wait, an approval, a resolved or reused step."""

    step: str
    output: Any
    at: float
    errors: tuple[dict[str, Any], ...] = ()
    reused: bool = False


@frozen
class StepFailed:
    """No attempt is left. `status` is failed, timed_out or cancelled."""

    step: str
    status: StepStatus
    kind: FailureKind
    error: str
    at: float


@frozen
class StepSkipped:
    step: str
    reason: SkipReason
    at: float
    because: str = ""
    """The step or condition behind the reason."""


@frozen
class RunStopping:
    """From here nothing new starts; the run will end with `status`."""

    status: RunStatus
    at: float
    because: str = ""
    limits: tuple[str, ...] = ()


@frozen
class RunFinished:
    status: RunStatus
    output: Any
    at: float
    error: str | None = None
    failed_step: str | None = None


Note = OutputStreamed | AttemptWaiting | CallStarted | CallEnded | CircuitChanged
"""What an attempt under way says of itself; nothing is decided because of it."""
Fact = (
    RunStarted
    | RunResumed
    | AttemptSucceeded
    | AttemptFailed
    | OutputStreamed
    | AttemptWaiting
    | CallStarted
    | CallEnded
    | CircuitChanged
    | SpeculationAnswered
    | TimerFired
    | ApprovalAnswered
    | StepResolved
    | CancelRequested
    | PauseRequested
    | WentOn
)
Decision = (
    StepDispatched
    | StepSpeculated
    | SpeculationSettled
    | StepExpanded
    | SubPlanStarted
    | ReplanRequested
    | StepReplanned
    | RetryScheduled
    | WaitStarted
    | ApprovalRequested
    | OutcomeUnknown
    | ResultRefused
    | AnswerRefused
    | StepSucceeded
    | StepFailed
    | StepSkipped
    | RunStopping
    | RunFinished
)
Event = Fact | Decision
FACT_TYPES: tuple[type[Any], ...] = Fact.__args__
EVENT_TYPES: tuple[type[Any], ...] = (*Fact.__args__, *Decision.__args__)
