"""What waiting does to the state of a run: for a time, for a person, for a turn; and what ends it.

Rule 1: as in `fold.py`, of which this is a part: nothing here decides.
"""

from __future__ import annotations

from planloom.core.approvals import remember, waits_until
from planloom.core.budget import FREE, NO_CLAIM, Claim
from planloom.core.ended import stop_container, wait_over
from planloom.core.events import (
    AnswerRefused,
    ApprovalAnswered,
    ApprovalRequested,
    OutcomeUnknown,
    RetryScheduled,
    StepResolved,
    TimerFired,
    WaitStarted,
)
from planloom.core.result import FOR_A_PERSON, StepStatus
from planloom.core.run_state import RunState
from planloom.core.state import Node
from planloom.core.turns import is_stopping

TIME_OVER = "its time was over"


def retry_scheduled(state: RunState, event: RetryScheduled) -> None:
    node = state.nodes[event.step]
    node.move(StepStatus.READY)
    _wait(state, node, "retry", event.due_at)


def wait_started(state: RunState, event: WaitStarted) -> None:
    begin(state, event.step, event.at)
    _wait(state, state.nodes[event.step], "timer", event.until)


def approval_requested(state: RunState, event: ApprovalRequested) -> None:
    node = state.nodes[event.step]
    remember(node, event)
    if not event.attempt:
        begin(state, event.step, event.at)
    else:
        node.queued = False
        if node.claim is None:
            node.claim = state.claims.of(node)  # in a replay, nobody has queued it yet
        if node.status is StepStatus.PENDING:
            node.move(StepStatus.READY)
    _wait(state, node, "approval", waits_until(event, node.deadline_at))


def outcome_unknown(state: RunState, event: OutcomeUnknown) -> None:
    _wait(state, state.nodes[event.step], "unknown", None)


def _wait(state: RunState, node: Node, what: str, due_at: float | None) -> None:
    node.waiting = what
    node.due_at = due_at
    node.seq = state.seq
    if due_at is not None:
        state.timers[node.key] = due_at
    if what in FOR_A_PERSON:
        state.blocked[node.key] = node


def timer_fired(state: RunState, event: TimerFired) -> None:
    if event.step == "":
        state.timers.pop("", None)
        return
    node = state.nodes[event.step]
    retry = node.waiting == "retry"
    wait_over(state, node)
    if node.inner is not None:
        if not node.stopping:
            node.because = TIME_OVER
        stop_container(state, node, keep_always=True)
    elif retry:
        ready_again(state, node, node.claim or NO_CLAIM)


def approval_answered(state: RunState, event: ApprovalAnswered) -> None:
    node = state.nodes[event.step]
    wait_over(state, node)
    if event.approved and node.status is StepStatus.READY and node.asked is not None:
        node.asked.by = event.by
        ready_again(state, node, node.claim or NO_CLAIM)


def answer_refused(state: RunState, event: AnswerRefused) -> None:
    state.refused += 1


def step_resolved(state: RunState, event: StepResolved) -> None:
    node = state.nodes[event.step]
    wait_over(state, node)
    if event.how == "retry":
        if node.calls is not None:
            node.calls.open.clear()
        node.move(StepStatus.READY)
        ready_again(state, node, node.claim or NO_CLAIM)


def ready_again(state: RunState, node: Node, claim: Claim) -> None:
    node.ready_at = state.last_at
    # One that is to stop is not tried again, only ended: that must not wait for room.
    state.ready.push(node, FREE if is_stopping(node) else claim)


def begin(state: RunState, key: str, at: float) -> Node:
    node = state.nodes[key]
    node.move(StepStatus.RUNNING)
    node.queued = False
    node.seq = state.seq
    node.started_at = at
    if node.claim is None:
        node.claim = state.claims.of(node)
    if node.claim.names:
        state.budget.hold(node.claim)
    return node
