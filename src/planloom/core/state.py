"""Where every step of a run stands, and which moves are legal.

Rule 1: statuses move along TRANSITIONS only; the manual's diagram is drawn from that table.
Rule 2: nothing here is changed but by `fold.py`, and by nobody outside `core`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from planloom.core.commands import NO_LIMIT, Grant
from planloom.core.result import ENDED, SkipReason, StepStatus, Usage
from planloom.errors import MissingValueError
from planloom.plan.flow import NO_LABELS
from planloom.plan.policy import FailureKind, OnError

if TYPE_CHECKING:
    from planloom.core.budget import Claim
    from planloom.core.events import ApprovalRequested
    from planloom.core.inner import InnerCalls
    from planloom.plan.graph import GraphStep, PlanGraph
    from planloom.plan.model import Step

_S = StepStatus
TRANSITIONS: dict[StepStatus, frozenset[StepStatus]] = {
    _S.PENDING: frozenset({_S.READY, _S.RUNNING, _S.COMPLETED, _S.FAILED, _S.SKIPPED, _S.CANCELLED}),
    _S.READY: frozenset({_S.RUNNING, _S.COMPLETED, _S.FAILED, _S.SKIPPED, _S.CANCELLED, _S.TIMED_OUT}),
    _S.RUNNING: frozenset({_S.READY, _S.COMPLETED, _S.FAILED, _S.SKIPPED, _S.CANCELLED, _S.TIMED_OUT}),
    _S.COMPLETED: frozenset(),
    _S.FAILED: frozenset(),
    _S.SKIPPED: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.TIMED_OUT: frozenset(),
}
"""Status → where it may go. `pending → completed` is a reused step, `pending → ready` one whose first attempt needs a
person's word; `running → ready` a retry or a resume."""

WAITS = ("retry", "timer", "rate", "approval", "unknown")
"""What a step may wait for besides its attempt, or, "rate", in the middle of it: `Node.waiting`."""


class Replan(StrEnum):
    """How far a failed step has come with having its job done another way."""

    NO = ""
    ASKED = "asked"
    """Its next attempt asks for a plan; `error` stays what the step itself failed with."""
    DONE = "done"
    """The plan is its inner plan now."""


@dataclass(slots=True)
class Consent:
    """What a person was asked about a step.

    Attributes:
        request: The question that counts now.
        by: Who allowed the attempt it is about; None: nobody yet.
        earlier: Questions about the step that count no longer.
    """

    request: ApprovalRequested
    by: str | None = None
    earlier: tuple[ApprovalRequested, ...] = ()


class Node:
    """One step of one plan instance, or one item of a `for_each` step.

    Attributes:
        key: Its name in the journal, see events.py rule 3.
        turn: Where it stands among ready steps; smaller goes first, unique in the run.
        parent: The `for_each` node this is an item of.
        met, ok, failed, skipped: How many upstream steps have ended, and how.
        broken: What went wrong with a condition on an incoming edge.
        clean: True when everything upstream was reused from an earlier run, so that this may be too.
        children, inner, left: Items or sub-plan of a container, and how many of them have not ended; `bad_items`: how
            many items failed.
        attempt: Number of the last attempt; `failures`: how many of them failed; `lost`: how many went with their
            worker.
        calls: What calls inside its attempts came to; None where there were none.
        labels: What its output carries, or its error; `told`: what its attempt was given carries. See `flow.py`.
        asked: What a person was asked about its next attempt, and perhaps allowed.
        ready_at: When it could have started, had there been room for it.
        path_s: Seconds of the longest chain of steps that leads to this one, and from its end on with its own.
    """

    # What most steps never need stands here once, not in every node.
    parent: Node | None = None
    item: Any = None
    index: int | None = None
    broken: str | None = None
    stopping = False
    claim: Claim | None = None
    grant: Grant = NO_LIMIT
    failures = 0
    lost = 0
    calls: InnerCalls | None = None
    error: str | None = None
    error_kind: FailureKind | None = None
    errors: tuple[dict[str, Any], ...] = ()
    reason: SkipReason | None = None
    because = ""
    waiting: str | None = None
    due_at: float | None = None
    deadline_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    cost_usd: float | None = None
    usage: Usage | None = None
    metadata: dict[str, Any] | None = None
    children: list[Node] | None = None
    bad_items = 0
    inner: ScopeState | None = None
    replan = Replan.NO
    left = 0
    output: Any = None
    labels = NO_LABELS
    told = NO_LABELS
    asked: Consent | None = None
    met = 0
    ok = 0
    failed = 0
    skipped = 0
    attempt = 0
    epoch = 0
    seq = 0
    busy_s = 0.0
    ready_at = 0.0
    path_s = 0.0
    clean = True
    queued = False
    status = StepStatus.PENDING

    def __init__(self, key: str, scope: ScopeState, entry: GraphStep, turn: tuple[int, ...]) -> None:
        self.key = key
        self.scope = scope
        self.entry = entry
        self.turn = turn

    @classmethod
    def of_item(cls, parent: Node, index: int, item: Any) -> Node:
        """Return the node of one item of a `for_each` step."""
        node = cls(f"{parent.key}[{index}]", parent.scope, parent.entry, (*parent.turn, index))
        node.parent = parent
        node.index = index
        node.item = item
        node.clean = parent.clean
        return node

    @property
    def step(self) -> Step:
        return self.entry.step

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def tolerated(self) -> bool:
        """Return True for a failed step that its dependants need not mind."""
        return self.parent is None and self.entry.step.on_error is OnError.CONTINUE

    @property
    def view(self) -> ScopeState | ItemView:
        """Return what this step's references see."""
        return self.scope if self.index is None else ItemView(self)

    def move(self, status: StepStatus) -> None:
        assert status in TRANSITIONS[self.status], f"{self.key}: {self.status} -> {status}"
        self.status = status


class ScopeState:
    """One plan instance: the run's own, or one of a sub-plan. What references inside it see.

    Attributes:
        owner: The step that runs this sub-plan; None for the run's own plan.
        prefix: What its steps' keys begin with: "" or "sub/".
        left: Steps that have not ended.
        failures: Steps that failed and were not tolerated.
        stopping: Nothing new starts, but for `join: always` steps if it `cleans_up`.
        allow: Tools its steps may use, one set per plan above and including this one.
        given: Labels of its inputs by name, those without any left out; `control`: of what decided that it runs.
    """

    __slots__ = (
        "allow",
        "cleans_up",
        "control",
        "failures",
        "given",
        "graph",
        "inputs",
        "left",
        "nodes",
        "owner",
        "prefix",
        "run_id",
        "stopping",
    )

    def __init__(
        self,
        run_id: str,
        graph: PlanGraph,
        inputs: dict[str, Any],
        *,
        prefix: str = "",
        owner: Node | None = None,
        allow: tuple[frozenset[str], ...] = (),
    ) -> None:
        self.run_id = run_id
        self.graph = graph
        self.inputs = inputs
        self.prefix = prefix
        self.owner = owner
        own = graph.plan.allow
        self.allow = allow if own is None else (*allow, frozenset(own))
        self.nodes: list[Node] = []
        self.left = len(graph.steps)
        self.failures = 0
        self.stopping = False
        self.cleans_up = False
        self.given: dict[str, frozenset[str]] = {}
        self.control = NO_LABELS

    def root(self, name: str) -> Any:
        if name == "inputs":
            return self.inputs
        if name == "run":
            return {"id": self.run_id, "plan": self.graph.plan.name}
        raise MissingValueError(
            f"{name!r} exists only inside a `for_each` step", remedy="give the step a for_each, or refer to a step"
        )

    def step(self, step_id: str, field: str) -> Any:
        node = self.nodes[self.graph.index[step_id]]
        if field == "output":
            if node.status is StepStatus.COMPLETED:
                return node.output
            if node.ended and node.tolerated and node.status is not StepStatus.SKIPPED:
                return None
            why = f" ({node.reason})" if node.reason else ""
            raise MissingValueError(
                f"step {step_id!r} has no output: it is {node.status}{why}",
                remedy=f"give a fallback: default(steps.{step_id}.output, …)",
                reference=f"steps.{step_id}.output",
            )
        if field == "status":
            return node.status.value
        if field == "errors":
            return list(node.errors)
        if field == "error":
            return None if node.status is StepStatus.COMPLETED else node.error
        return node.attempt


class ItemView:
    """What references inside one item of a `for_each` step see."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node

    def root(self, name: str) -> Any:
        if name == "item":
            return self.node.item
        if name == "index":
            return self.node.index
        return self.node.scope.root(name)

    def step(self, step_id: str, field: str) -> Any:
        return self.node.scope.step(step_id, field)
