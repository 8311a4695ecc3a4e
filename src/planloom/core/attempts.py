"""What the events of an attempt do to the state of its run: it takes its place, makes calls, and gives all back.

Rule 1: as in `fold.py`, of which this is a part: nothing here decides.
"""

from __future__ import annotations

from planloom.core.budget import NO_CLAIM, ONE_CALL
from planloom.core.ended import ended
from planloom.core.events import AttemptFailed, AttemptSucceeded, AttemptWaiting, CallEnded, CallStarted, StepDispatched
from planloom.core.inner import InnerCalls, lost_use
from planloom.core.result import StepStatus, Usage
from planloom.core.run_state import RunState
from planloom.core.state import Node, Replan
from planloom.plan.policy import FailureKind


def step_dispatched(state: RunState, event: StepDispatched) -> None:
    node = state.nodes[event.step]
    node.move(StepStatus.RUNNING)
    node.queued = False
    node.attempt = event.attempt
    node.epoch = event.epoch
    node.seq = state.seq
    if node.claim is None:
        node.claim = state.claims.of(node)
    if node.started_at is None:
        node.started_at = event.at
    step = node.entry.step
    if step.timeout_seconds is not None and node.deadline_at is None:
        node.deadline_at = event.at + step.timeout_seconds
    node.grant = state.budget.take(node.claim)
    state.running[event.step] = node
    if state.flow is not None:
        state.flow.begin(node)


def attempt_succeeded(state: RunState, event: AttemptSucceeded) -> None:
    node = _attempt_ended(state, event)
    if state.flow is not None:
        state.flow.succeeded(node, event.labels)
    if node.replan is Replan.ASKED:
        node.metadata = {"replan": event.metadata}
        return  # what follows from the plan is decided: `StepReplanned` or `StepFailed`
    node.output = event.output
    if event.metadata is not None:
        node.metadata = event.metadata
    node.calls = None
    node.ended_at = event.at
    node.move(StepStatus.COMPLETED)
    ended(state, node)


def attempt_failed(state: RunState, event: AttemptFailed) -> None:
    node = _attempt_ended(state, event)
    if node.replan is Replan.ASKED:
        return  # what the step itself failed with stays
    if event.kind is FailureKind.LOST:
        node.lost += 1
    else:
        node.failures += 1
    node.error = event.error
    node.error_kind = event.kind
    if state.flow is not None:
        state.flow.failed(node, event.labels)


def _attempt_ended(state: RunState, event: AttemptSucceeded | AttemptFailed) -> Node:
    node = state.nodes[event.step]
    if isinstance(event, AttemptFailed) and event.kind is FailureKind.LOST:
        slot_back(state, node, *lost_use(state.calls_known(node), node.grant, node.claim))
    else:
        slot_back(state, node, event.cost_usd, event.usage, event.tool_calls)
    if node.waiting is not None:
        node.waiting = node.due_at = None
    busy_s = event.at - event.started_at
    node.busy_s += busy_s
    state.busy_s += busy_s
    return node


def attempt_waiting(state: RunState, event: AttemptWaiting) -> None:
    node = state.nodes[event.step]
    node.waiting, node.due_at = event.reason, event.until


def call_started(state: RunState, event: CallStarted) -> None:
    _calls_of(state, event.step).begin(event)


def call_ended(state: RunState, event: CallEnded) -> None:
    _calls_of(state, event.step).end(event)


def _calls_of(state: RunState, key: str) -> InnerCalls:
    node = state.nodes[key]
    if node.calls is None:
        node.calls = InnerCalls()
    return node.calls


def slot_back(state: RunState, node: Node, cost_usd: float | None, usage: Usage | None, tool_calls: int) -> None:
    del state.running[node.key]
    if node.calls is not None:
        node.calls.forget_use()
    claim = node.claim or NO_CLAIM
    state.budget.settle(claim, cost_usd=cost_usd, usage=usage, grant=node.grant, tool_calls=tool_calls)
    if claim is ONE_CALL and cost_usd is None and usage is None:
        return
    if cost_usd is not None or claim.estimate_usd:
        node.cost_usd = (node.cost_usd or 0.0) + (cost_usd if cost_usd is not None else claim.estimate_usd)
    if usage is not None:
        node.usage = usage if node.usage is None else node.usage + usage
