"""How a run stands, drawn from its record by a reader of its own.

Rule 1: nothing here asks the heart: what an event means is said once more, so that a mistake there is no excuse here.
Rule 2: the picture takes in any record, however wrong; whether it is lawful, others say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from planloom.core.result import SkipReason, StepStatus
from planloom.errors import MissingValueError
from planloom.plan.policy import Effects, JoinRule, OnError

if TYPE_CHECKING:
    from planloom.core.events import ApprovalRequested, CallEnded, RunStarted, StepDispatched, StepSpeculated
    from planloom.plan.graph import GraphStep, PlanGraph
    from planloom.plan.model import Step

_BAD = frozenset({StepStatus.FAILED, StepStatus.TIMED_OUT, StepStatus.CANCELLED})


class UndecidableError(Exception):
    """The record does not hold what would be needed to tell."""


@dataclass(slots=True)
class InnerCall:
    """One call inside a step's attempts: how often it was begun, and what it came to last."""

    effects: Effects = Effects.NONE
    open: bool = False
    begun: int = 0
    ended: CallEnded | None = None


@dataclass(slots=True, eq=False)
class AheadLane:
    """An attempt ahead of its time."""

    event: StepSpeculated
    seq: int
    answered: bool = False
    settled: str = ""


@dataclass(slots=True, eq=False)
class RunPart:
    """One step of a plan instance, or one item of a map.

    Attributes:
        status: None until it has ended.
        by_itself: It ended because what it is in stopped; no event says so.
        open: The attempt under way, with the number of its event.
        begun: It was started in any way.
        waits: "retry", "timer", "approval" or "unknown"; `until`: when that is over by itself.
        replan: "", "asked" or "done".
        items, inner: The parts of a container that has begun.
        met, ok, failed, skipped: How many steps before it have ended, and how they count.
        broken: A condition on an edge to it cannot be worked out; `unsure`: or the record does not tell.
        asked: Number of the event that whatever comes next for it answers; `begun_at`: when it was first started.
        granted: What allows it to succeed without an attempt, with the output that this gives.
    """

    key: str
    instance: Instance
    entry: GraphStep
    parent: RunPart | None = None
    index: int | None = None
    item: Any = None
    status: StepStatus | None = None
    reason: SkipReason | None = None
    output: Any = None
    error: str | None = None
    errors: tuple[dict[str, Any], ...] = ()
    reused: bool = False
    by_itself: bool = False
    seq: int = 0
    attempts: int = 0
    open: tuple[StepDispatched, int] | None = None
    begun: bool = False
    waits: str = ""
    until: float | None = None
    replan: str = ""
    items: list[RunPart] | None = None
    inner: Instance | None = None
    bad_items: int = 0
    left: int = 0
    met: int = 0
    ok: int = 0
    failed: int = 0
    skipped: int = 0
    broken: bool = False
    unsure: bool = False
    asked: int = 0
    begun_at: float = 0.0
    outcomes: dict[int, Any] = field(default_factory=dict)
    granted: tuple[Any] | None = None
    cleared: bool = False
    """A person, or its tool, said that another attempt does nothing twice."""
    question: ApprovalRequested | None = None
    """What a person was asked last."""
    permitted: int = 0
    """Number of the attempt that a person let start."""
    clearances: int = 0
    """How often that was said."""
    called: set[str] = field(default_factory=set)
    """Tools that calls with effects inside its attempts were begun of."""
    halted_parts: bool = False
    """Of a container: its items or its plan were told to stop."""
    woken: bool = False
    """The wait before its next attempt is over."""
    calls: dict[str, InnerCall] = field(default_factory=dict)

    @property
    def step(self) -> Step:
        return self.entry.step

    @property
    def is_map(self) -> bool:
        return self.entry.for_each is not None and self.parent is None

    @property
    def tolerated(self) -> bool:
        return self.parent is None and self.step.on_error is OnError.CONTINUE

    @property
    def broke(self) -> bool:
        """Whether its failure fails what it is in."""
        return self.status in (StepStatus.FAILED, StepStatus.TIMED_OUT) and not self.tolerated

    @property
    def cleans_up(self) -> bool:
        """Whether it runs although its plan stops."""
        return self.instance.cleans_up and self.entry.join is JoinRule.ALWAYS

    @property
    def stopping(self) -> bool:
        """Whether nothing new may be tried for it."""
        if self.parent is not None and self.parent.halted_parts:
            return True
        return self.instance.stopping and not self.cleans_up

    @property
    def holds(self) -> bool:
        """Whether it has a place that others may want: an attempt, or a container or wait that has begun."""
        if self.open is not None:
            return True
        return self.status is None and (self.items is not None or self.inner is not None or self._rests)

    @property
    def _rests(self) -> bool:
        return self.begun and not self.entry.is_leaf and not self.is_map

    @property
    def view(self) -> View:
        """Return what its references see."""
        return View(self.instance, self)


@dataclass(slots=True, eq=False)
class Instance:
    """A plan as it is run: the run's own, or one in place of a step.

    Attributes:
        prefix: What the keys of its steps begin with.
        stopping: Nothing new starts in it, but for steps with `join: always` where it `cleans_up`.
    """

    graph: PlanGraph
    inputs: dict[str, Any]
    prefix: str = ""
    owner: RunPart | None = None
    run_id: str | None = None
    parts: list[RunPart] = field(default_factory=list)
    left: int = 0
    stopping: bool = False
    cleans_up: bool = False


class View:
    """What references see: outputs on record, and nothing else."""

    __slots__ = ("instance", "part")

    def __init__(self, instance: Instance, part: RunPart | None = None) -> None:
        self.instance = instance
        self.part = part

    def root(self, name: str) -> Any:
        if name == "inputs":
            return self.instance.inputs
        if name == "run":
            if self.instance.run_id is None:
                raise UndecidableError
            return {"id": self.instance.run_id, "plan": self.instance.graph.plan.name}
        if self.part is not None and self.part.index is not None and name in ("item", "index"):
            return self.part.item if name == "item" else self.part.index
        raise MissingValueError(f"{name!r} exists only inside an item", remedy="refer to a step")

    def step(self, step_id: str, field: str) -> Any:
        part = self.instance.parts[self.instance.graph.index[step_id]]
        if field == "output":
            if part.status is StepStatus.COMPLETED:
                return part.output
            if part.status in _BAD and part.tolerated:
                return None
            raise MissingValueError(f"step {step_id!r} has no output", remedy="give a fallback")
        if field == "errors":
            return list(part.errors)
        if field == "attempts":
            return part.attempts
        if part.status is None or (part.by_itself and field == "error"):
            raise UndecidableError
        if field == "status":
            return part.status.value
        return None if part.status is StepStatus.COMPLETED else part.error


class RunPicture:
    """Everything that a record told so far.

    Attributes:
        parts: Every step and item by key.
        open: Attempts under way, by key.
        lanes: Attempts ahead of their time that were not heard of to the end, by key and role.
        stops, finished, paused, epoch: Of the run.
        turn_seq: Number of the event that the present turn began with; `turn_events`: how many it has.
    """

    def __init__(self, run_id: str | None = None) -> None:
        self.run_id = run_id
        self.started: RunStarted | None = None
        self.root: Instance | None = None
        self.parts: dict[str, RunPart] = {}
        self.open: dict[str, RunPart] = {}
        self.lanes: dict[tuple[str, str], AheadLane] = {}
        self.stops: list[Any] = []
        self.finished: Any = None
        self.paused = False
        self.epoch = 1
        self.seq = 0
        self.last_at = 0.0
        self.turn_seq = 0
        self.turn_events = 0
        self.time_up = False
        self.imperfect = 0

    def effects(self, part: RunPart) -> Effects:
        """Return what doing this step again would do, by what the plan and its tools said when the run began."""
        if part.replan == "asked":
            return Effects.NONE
        if any(call.open and call.effects is Effects.ONCE for call in part.calls.values()):
            return Effects.ONCE
        return self.declared(part.step)

    def declared(self, step: Step) -> Effects:
        if step.effects is not None:
            return step.effects
        if step.tool is not None:
            return self.effects_of(step.tool)
        if step.model is not None:
            found = {self.effects_of(name) for name in step.tools or ()}
            strict = (one for one in (Effects.ONCE, Effects.IDEMPOTENT) if one in found)
            return next(strict, Effects.NONE)
        if step.code is not None:
            return Effects.NONE
        facts = self.started.agents.get(step.agent_name or "") if self.started is not None else None
        return facts.effects or Effects.ONCE if facts is not None else Effects.ONCE

    def effects_of(self, tool: str) -> Effects:
        facts = self.started.tools.get(tool) if self.started is not None else None
        return facts.effects or Effects.ONCE if facts is not None else Effects.ONCE
