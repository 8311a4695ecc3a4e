"""What the heart asks the shell to do. Imperative, frozen, complete: nothing is fetched back.

Rule 1: a command with `after_durable` waits until everything recorded before it is durable (output commit).
Rule 2: carrying out the same command twice is harmless for the run; the heart refuses the second answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from planloom.core.result import RunStatus
from planloom.plan.flow import NO_LABELS
from planloom.plan.frozen import frozen
from planloom.plan.policy import Effects

if TYPE_CHECKING:
    from planloom.core.events import CallEnded, ToolFacts
    from planloom.core.prices import ModelFacts
    from planloom.plan.flow import FlowPolicy
    from planloom.plan.model import Step


@frozen
class Grant:
    """What was set aside of the run's limits for one attempt: it may use so much and no more. None: no limit."""

    usd: float | None = None
    tokens: int | None = None
    calls: int | None = None
    """Tool calls inside the attempt."""
    memory_mb: float | None = None
    """MB (10^6 bytes) that a program it runs may use."""
    cpu_percent: float | None = None
    """Percent of one core that a program it runs may use."""


NO_LIMIT = Grant()
NOTHING_RECORDED: Mapping[str, CallEnded] = MappingProxyType({})


@frozen
class RunStep:
    """Make one attempt.

    Attributes:
        key: The step's key in the run, see events.py rule 3.
        step: The step as the plan has it.
        args: Its arguments with every reference resolved; a fresh copy, the executor may change it.
            For model and agent steps `prompt` and `system` are in it.
        deadline_at: Seconds since the epoch at which the attempt must have ended, or None.
        idempotency_key: The same for every attempt of this step in this run.
        allow: Tools this step may use: a tool must be in every one of these sets; no set, no restriction.
        grant: What it may use of the run's limits.
        models: The run's pinned facts by the name or URI a plan uses; a price is None where no cost is to be kept.
        recorded: What calls inside earlier attempts of this step came to, by their keys.
        role: "" for the step itself; "draft" for a cheaper model's guess at it; "replan" for a plan in place of it.
        tools: The run's pinned facts about tools: whoever makes the attempt elsewhere must have the same ones.
        answer: Which of the answers that one attempt gives this is, from 1: each makes calls of its own.
        labels: Of what it is given and of what decided that it is done; flow: what is done about them in calls inside
            it. None: the run keeps no labels.
    """

    run_id: str
    key: str
    step: Step
    attempt: int
    epoch: int
    args: dict[str, Any]
    effects: Effects
    after_durable: bool
    idempotency_key: str
    deadline_at: float | None = None
    allow: tuple[frozenset[str], ...] = ()
    grant: Grant = NO_LIMIT
    models: Mapping[str, ModelFacts] = field(default_factory=dict)
    recorded: Mapping[str, CallEnded] = field(default_factory=lambda: NOTHING_RECORDED)
    role: str = ""
    tools: Mapping[str, ToolFacts] = field(default_factory=dict, compare=False)  # the same in every command of a run
    answer: int = 1
    labels: frozenset[str] = NO_LABELS
    flow: FlowPolicy | None = None


@frozen
class SetTimer:
    """Send `TimerFired(key)` at `due_at`; replaces an earlier timer of the same key."""

    key: str
    due_at: float


@frozen
class StopStep:
    """Stop the attempt of this step that is under way: it must answer, at the latest with a cancelled failure."""

    key: str


@frozen
class GoOn:
    """There is more to decide: hand in `WentOn` after others have had their turn."""


@frozen
class EndRun:
    """Nothing is left to do."""

    status: RunStatus


Command = RunStep | SetTimer | StopStep | GoOn | EndRun
