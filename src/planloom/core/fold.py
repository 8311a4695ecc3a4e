"""Each event's consequences for the state of its run: `apply(state, event)`.

Rule 1: state changes only here, in `attempts.py` and `waits.py` (and in `ended.py`, for those who waited), and only
because of an event; the same events give the same state, live or replayed.
Rule 2: nothing here decides: what follows without choice from an event (counters, queues) is derived, the rest is an
event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from planloom.core import ahead, attempts, waits
from planloom.core.approvals import waits_until
from planloom.core.budget import NO_CLAIM, Budget
from planloom.core.claims import Claims
from planloom.core.ended import ended, skip, stop_container, stop_scope, wait_over
from planloom.core.events import (
    AnswerRefused,
    ApprovalAnswered,
    ApprovalRequested,
    AttemptFailed,
    AttemptSucceeded,
    AttemptWaiting,
    CallEnded,
    CallStarted,
    CancelRequested,
    CircuitChanged,
    Event,
    OutcomeUnknown,
    OutputStreamed,
    PauseRequested,
    ReplanRequested,
    ResultRefused,
    RetryScheduled,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopping,
    SpeculationAnswered,
    SpeculationSettled,
    StepDispatched,
    StepExpanded,
    StepFailed,
    StepReplanned,
    StepResolved,
    StepSkipped,
    StepSpeculated,
    StepSucceeded,
    SubPlanStarted,
    TimerFired,
    WaitStarted,
    WentOn,
)
from planloom.core.flow import Flow
from planloom.core.inner import lost_use
from planloom.core.result import RunStatus, StepStatus
from planloom.core.run_state import RunState
from planloom.core.state import Node, Replan, ScopeState
from planloom.plan.graph import compile_plan
from planloom.plan.policy import Effects, OnError


def apply(state: RunState, event: Event) -> None:
    """Take the next event in."""
    state.seq += 1
    state.last_at = event.at
    APPLY[type(event)](state, event)


def _run_started(state: RunState, event: RunStarted) -> None:
    state.started = event
    state.models = event.models
    state.tools = event.tools
    state.reused = event.reused
    state.edited = event.edited
    state.flow = None if event.flow is None else Flow(event)
    state.segment_at = event.at
    plan = event.plan
    state.budget = Budget(event.limits, parallel=event.parallel)
    state.claims = Claims(event, state.budget)
    allow = () if event.allow is None else (frozenset(event.allow),)
    if any(step.priority for step in plan.steps):
        state.ready.age_from(event.at)
    state.root = ScopeState(state.run_id, compile_plan(plan), event.inputs, allow=allow)
    _open(state, state.root, ())
    if event.limits is not None and event.limits.timeout_seconds is not None:
        state.timers[""] = event.at + event.limits.timeout_seconds


def _run_resumed(state: RunState, event: RunResumed) -> None:
    state.epoch = event.epoch
    state.paused = False
    limits = state.started.limits if state.started else None
    if limits is not None and limits.timeout_seconds is not None and state.time_runs():
        state.timers[""] = event.at + max(0.0, limits.timeout_seconds - state.active_s)
    down_s = event.at - state.paused_at
    for node in state.nodes.values():
        if node.deadline_at is not None and not node.ended:
            node.deadline_at += down_s
            if node.inner is not None and node.key in state.timers:
                state.timers[node.key] = node.deadline_at
            elif node.waiting == "approval" and node.asked is not None:
                node.due_at = waits_until(node.asked.request, node.deadline_at)
                state.timers[node.key] = node.due_at or node.deadline_at
    state.segment_at = event.at
    ahead.lose_all(state)
    for node in list(state.running.values()):
        attempts.slot_back(state, node, *lost_use(state.calls_known(node), node.grant, node.claim))
        node.waiting = node.due_at = None
        if state.effects(node) is not Effects.ONCE:
            node.move(StepStatus.READY)
            waits.ready_again(state, node, node.claim or NO_CLAIM)
        else:
            node.waiting = "lost"


def _cancel_requested(state: RunState, event: CancelRequested) -> None:
    pass  # the decision that follows it, RunStopping, changes the state


def _went_on(state: RunState, event: WentOn) -> None:
    pass  # a turn of the heart begins; nothing has changed


def _run_stopping(state: RunState, event: RunStopping) -> None:
    state.stopping = event
    if not state.time_runs():
        state.timers.pop("", None)
    stop_scope(state, state.root, keep_always=event.status is RunStatus.FAILED)


def _run_finished(state: RunState, event: RunFinished) -> None:
    state.finished = event
    state.status = event.status
    state.active_s += event.at - state.segment_at
    state.timers.clear()


def _open(state: RunState, scope: ScopeState, turn: tuple[int, ...]) -> None:
    """Create the nodes of a plan instance; those without upstream steps are joined at once."""
    state.claims.open(scope)
    turns = state.turns(scope.graph)
    clean = scope.owner is None or scope.owner.clean
    for entry in scope.graph.steps:
        node = Node(scope.prefix + entry.step.id, scope, entry, (*turn, turns[entry.place]))
        if not clean:
            node.clean = False
        scope.nodes.append(node)
        state.nodes[node.key] = node
    for node in scope.nodes:
        if not node.entry.upstream:
            node.ready_at = state.last_at
            state.joined.append(node)


def _step_speculated(state: RunState, event: StepSpeculated) -> None:
    ahead.begin(state, event)


def _speculation_answered(state: RunState, event: SpeculationAnswered) -> None:
    ahead.answer(state, event)


def _speculation_settled(state: RunState, event: SpeculationSettled) -> None:
    ahead.settle(state, event)


def _output_streamed(state: RunState, event: OutputStreamed) -> None:
    pass  # for whoever follows the run; the whole comes with the attempt's end


def _circuit_changed(state: RunState, event: CircuitChanged) -> None:
    pass  # for people: why calls were refused; whose breaker it is, decides by itself


def _pause_requested(state: RunState, event: PauseRequested) -> None:
    state.paused = True


def _result_refused(state: RunState, event: ResultRefused) -> None:
    state.refused += 1


def _step_expanded(state: RunState, event: StepExpanded) -> None:
    node = waits.begin(state, event.step, event.at)
    node.left = len(event.items)
    node.children = []
    for index, item in enumerate(event.items):
        child = Node.of_item(node, index, item)
        node.children.append(child)
        state.nodes[child.key] = child
        child.ready_at = event.at
        state.joined.append(child)
    if not event.items:
        state.closing.append(node)


def _sub_plan_started(state: RunState, event: SubPlanStarted) -> None:
    node = waits.begin(state, event.step, event.at)
    graph = node.entry.sub
    assert graph is not None, f"{node.key} has no sub-plan"
    node.inner = ScopeState(
        state.run_id, graph, event.inputs, prefix=f"{node.key}/", owner=node, allow=node.scope.allow
    )
    if state.flow is not None:
        state.flow.open(node)
    _open(state, node.inner, node.turn)
    if node.step.timeout_seconds is not None:
        node.deadline_at = state.timers[node.key] = event.at + node.step.timeout_seconds
    if not graph.steps:
        state.closing.append(node)


def _replan_requested(state: RunState, event: ReplanRequested) -> None:
    node = state.nodes[event.step]
    node.move(StepStatus.READY)
    node.seq = state.seq
    node.replan = Replan.ASKED
    waits.ready_again(state, node, state.claims.of_replanning(node))


def _step_replanned(state: RunState, event: StepReplanned) -> None:
    node = state.nodes[event.step]
    node.seq = state.seq
    node.replan = Replan.DONE
    node.claim = state.claims.of_container(node)
    if node.claim.names:
        state.budget.hold(node.claim)
    node.clean = False  # what an earlier run's plan in its place came to means nothing for this one
    graph, allow = compile_plan(event.plan), node.scope.allow
    node.inner = ScopeState(state.run_id, graph, event.inputs, prefix=f"{node.key}/", owner=node, allow=allow)
    if state.flow is not None:
        state.flow.open(node)
    _open(state, node.inner, node.turn)
    if node.deadline_at is not None:
        state.timers[node.key] = node.deadline_at


def _step_succeeded(state: RunState, event: StepSucceeded) -> None:
    node = state.nodes[event.step]
    wait_over(state, node)
    node.output = event.output
    node.errors = event.errors
    node.ended_at = event.at
    node.clean = event.reused
    if event.errors:
        state.imperfect += 1
    if state.flow is not None:
        state.flow.closed(node, event)
    node.move(StepStatus.COMPLETED)
    ended(state, node)


def _step_failed(state: RunState, event: StepFailed) -> None:
    node = state.nodes[event.step]
    wait_over(state, node)
    node.error = event.error
    node.error_kind = event.kind
    node.ended_at = event.at
    if state.flow is not None:
        state.flow.failed(node)
    node.move(event.status)
    if node.parent is not None:
        node.parent.bad_items += 1
        if node.step.on_item_error == "fail_fast":
            stop_container(state, node.parent, keep_always=False)
    elif node.tolerated:
        state.imperfect += 1
    elif event.status is not StepStatus.CANCELLED or not node.scope.stopping:
        node.scope.failures += 1
        if node.scope.owner is not None and node.scope.graph.plan.fail_fast:
            stop_scope(state, node.scope, keep_always=True)
    ended(state, node)


def _step_skipped(state: RunState, event: StepSkipped) -> None:
    node = state.nodes[event.step]
    node.ended_at = event.at
    if state.flow is not None:
        state.flow.failed(node)
    skip(state, node, event.reason, event.because)


def failure_of(node: Node) -> OnError:
    """Return what the failure of this node means: items always fail, their `for_each` step decides further."""
    return OnError.FAIL if node.parent is not None else node.step.on_error


APPLY: dict[type[Any], Callable[[RunState, Any], None]] = {
    RunStarted: _run_started,
    RunResumed: _run_resumed,
    CancelRequested: _cancel_requested,
    RunStopping: _run_stopping,
    RunFinished: _run_finished,
    StepDispatched: attempts.step_dispatched,
    AttemptSucceeded: attempts.attempt_succeeded,
    AttemptFailed: attempts.attempt_failed,
    OutputStreamed: _output_streamed,
    AttemptWaiting: attempts.attempt_waiting,
    CallStarted: attempts.call_started,
    CallEnded: attempts.call_ended,
    CircuitChanged: _circuit_changed,
    PauseRequested: _pause_requested,
    StepSpeculated: _step_speculated,
    SpeculationAnswered: _speculation_answered,
    SpeculationSettled: _speculation_settled,
    RetryScheduled: waits.retry_scheduled,
    WaitStarted: waits.wait_started,
    WentOn: _went_on,
    ApprovalRequested: waits.approval_requested,
    ApprovalAnswered: waits.approval_answered,
    AnswerRefused: waits.answer_refused,
    OutcomeUnknown: waits.outcome_unknown,
    StepResolved: waits.step_resolved,
    ResultRefused: _result_refused,
    TimerFired: waits.timer_fired,
    StepExpanded: _step_expanded,
    SubPlanStarted: _sub_plan_started,
    ReplanRequested: _replan_requested,
    StepReplanned: _step_replanned,
    StepSucceeded: _step_succeeded,
    StepFailed: _step_failed,
    StepSkipped: _step_skipped,
}
