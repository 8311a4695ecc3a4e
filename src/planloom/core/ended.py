"""How the end of a step reaches others: who waits for it, what contains it, and what a stop ends with it.

Rule 1: nothing here decides: what is ready is queued to be looked at, what is stopped is listed to be told so.
"""

from __future__ import annotations

from planloom.core.result import SkipReason, StepStatus
from planloom.core.run_state import RunState
from planloom.core.state import Node, ScopeState
from planloom.errors import EvaluationError, MissingValueError
from planloom.plan.policy import FailureKind, JoinRule
from planloom.plan.terms import truthy

ENOUGH_ITEMS = 5
"""Items that must have ended before their failure rate says anything."""
_AS_BEFORE = (SkipReason.CONDITION_FALSE, SkipReason.UPSTREAM_SKIPPED)
"""Reasons that a run which reuses results comes to again by itself."""


def ended(state: RunState, node: Node) -> None:  # noqa: PLR0912 - made for every step; the calls would cost more than the work
    """Tell the container, or every step that waits for this one; in a stopping plan those end with it."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        claim = one.claim
        if claim is not None and not claim.slot and claim.names and one.started_at is not None:
            state.budget.let_go(claim)
        ran = one.parent is None and one.children is None and one.inner is None and one.attempt
        if ran or not (one.status is StepStatus.COMPLETED or one.reason in _AS_BEFORE):
            one.clean = False
        if one.parent is not None:
            one.parent.left -= 1
            if one.parent.left == 0:
                state.closing.append(one.parent)
            elif one.parent.bad_items and _fails_too_often(one.parent):
                stop_container(state, one.parent, keep_always=False)
            continue
        one.path_s += _own_s(one)
        scope = one.scope
        scope.left -= 1
        if scope.owner is None:
            if one.path_s > state.path_s:
                state.path_s = one.path_s
        elif scope.left == 0:
            state.closing.append(scope.owner)
        completed = one.status is StepStatus.COMPLETED
        for place in one.entry.downstream:
            below = scope.nodes[place]
            if completed and not below.entry.conditions:
                below.ok += 1
            else:
                _count(state, one, below)
            if not one.clean:
                below.clean = False
            if one.path_s > below.path_s:
                below.path_s = one.path_s
            below.met += 1
            if below.met == len(below.entry.upstream) or below.entry.join is JoinRule.ONE_SUCCESS:
                _may_join(state, below, waiting)


def _may_join(state: RunState, below: Node, waiting: list[Node]) -> None:
    """Queue a step whose upstream steps have ended to be looked at; in a stopping plan, end it instead."""
    if below.status is not StepStatus.PENDING or (below.met < len(below.entry.upstream) and below.ok != 1):
        return
    below.ready_at = state.last_at
    state.joined.append(below)
    if below.scope.stopping and not _cleans_up(below):
        _mark_skipped(state, below, SkipReason.NOT_STARTED, "")
        waiting.append(below)


def _count(state: RunState, node: Node, below: Node) -> None:
    """Count an ended upstream step as ok, failed or skipped, as the edge's condition has it."""
    if node.status is StepStatus.COMPLETED:
        good = True
    elif node.status is StepStatus.SKIPPED:
        if node.reason is SkipReason.UPSTREAM_FAILED:
            below.failed += 1
        else:
            below.skipped += 1
        return
    else:
        good = node.tolerated
    condition = below.entry.conditions.get(node.entry.place) if below.entry.conditions else None
    if good and condition is not None:
        try:
            good = truthy(condition.evaluate(node.scope))
        except (MissingValueError, EvaluationError) as error:
            below.broken = f"the condition on the edge from {node.step.id!r} cannot be worked out: {error.message}"
        if not good:
            below.skipped += 1
            return
    if good:
        below.ok += 1
    else:
        below.failed += 1


def skip(state: RunState, node: Node, reason: SkipReason, because: str) -> None:
    _mark_skipped(state, node, reason, because)
    ended(state, node)


def _mark_skipped(state: RunState, node: Node, reason: SkipReason, because: str) -> None:
    wait_over(state, node)
    node.reason = reason
    node.because = because
    state.imperfect += 1
    node.move(StepStatus.SKIPPED)


def wait_over(state: RunState, node: Node) -> None:
    node.waiting = node.due_at = None
    state.timers.pop(node.key, None)
    state.blocked.pop(node.key, None)


def stop_scope(state: RunState, scope: ScopeState, *, keep_always: bool) -> None:
    scope.cleans_up = keep_always and (scope.cleans_up or not scope.stopping)  # a stop only ever tightens
    scope.stopping = True
    for node in scope.nodes:
        _halt(state, node)


def stop_container(state: RunState, node: Node, *, keep_always: bool) -> None:
    node.stopping = True
    if node.inner is not None:
        stop_scope(state, node.inner, keep_always=keep_always)
    for child in node.children or ():
        _halt(state, child)


def _halt(state: RunState, node: Node) -> None:
    """Ask what is under way to stop; end what waits, unless it waits for a step that has yet to stop."""
    if node.ended or (node.parent is None and _cleans_up(node) and not node.stopping):
        return
    if node.key in state.running:
        state.to_stop.append(node.key)
    elif node.children is not None or node.inner is not None:
        stop_container(state, node, keep_always=node.scope.cleans_up and not node.stopping)
    elif node.started_at is not None:
        wait_over(state, node)
        node.ended_at = state.last_at
        node.error = node.error or "the run stopped before this step was done"
        node.error_kind = node.error_kind or FailureKind.CANCELLED
        node.move(StepStatus.CANCELLED)
        ended(state, node)
    elif node.parent is not None or node.met == len(node.entry.upstream) or node.status is StepStatus.READY:
        skip(state, node, SkipReason.NOT_STARTED, "")
    else:
        node.queued = False  # one success was enough for it; it ends with its last upstream step


def _fails_too_often(node: Node) -> bool:
    """Return whether too large a share of the items that ended failed."""
    rate = node.step.max_failure_rate
    if rate is None or node.stopping:
        return False
    done = len(node.children or ()) - node.left
    return done >= ENOUGH_ITEMS and node.bad_items > rate * done


def _cleans_up(node: Node) -> bool:
    """Return True for a step that runs although its plan is stopping."""
    return node.scope.cleans_up and node.entry.join is JoinRule.ALWAYS


def _own_s(node: Node) -> float:
    """Return the seconds a step took by itself: its attempts, or from begin to end for a container or a wait."""
    if (node.attempt and node.inner is None) or node.started_at is None or node.ended_at is None:
        return node.busy_s
    return node.ended_at - node.started_at
