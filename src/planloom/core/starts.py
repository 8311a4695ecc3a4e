"""How steps begin: joined when their upstream steps have ended, started when it is their turn."""

from __future__ import annotations

from datetime import datetime

from planloom.core.commands import NOTHING_RECORDED, RunStep, SetTimer
from planloom.core.endings import fail, no_other_plan
from planloom.core.events import (
    StepDispatched,
    StepExpanded,
    StepSkipped,
    StepSucceeded,
    SubPlanStarted,
    WaitStarted,
)
from planloom.core.joins import first_not_completed, skip_reason
from planloom.core.outputs import CANNOT_RESOLVE
from planloom.core.permission import ask_person, may_start, why_not_told
from planloom.core.replanning import asked_with
from planloom.core.result import SkipReason, StepStatus
from planloom.core.state import Node, Replan
from planloom.core.turns import Turns, is_stopping
from planloom.errors import EvaluationError, PlanError
from planloom.plan.flow import NO_LABELS
from planloom.plan.inputs import check_inputs
from planloom.plan.policy import Effects, FailureKind
from planloom.plan.terms import truthy


def join(machine: Turns, node: Node) -> None:
    """Look at a step whose upstream steps have ended: run it, skip it, or fail it."""
    if node.status is not StepStatus.PENDING or node.queued:
        return
    if node.scope.stopping and is_stopping(node):
        return  # one success was enough for it, and came before the stop; it ends with its last upstream step
    entry = node.entry
    if node.parent is None:
        if node.ok != len(entry.upstream) or node.broken is not None:
            if node.broken is not None:
                fail(machine, node, StepStatus.FAILED, FailureKind.INPUT, node.broken)
                return
            reason = skip_reason(node)
            if reason is not None:
                machine.record(StepSkipped(node.key, reason, machine.now, first_not_completed(node)))
                return
        when = entry.when
        if when is not None:
            try:
                wanted = truthy(when.evaluate(node.scope))
            except CANNOT_RESOLVE as error:
                fail(
                    machine, node, StepStatus.FAILED, FailureKind.INPUT, f"`when` cannot be worked out: {error.message}"
                )
                return
            if not wanted:
                machine.record(StepSkipped(node.key, SkipReason.CONDITION_FALSE, machine.now, str(node.step.when)))
                return
    state = machine.state
    state.ready.push(node, node.claim or state.claims.of(node))


def start(machine: Turns, node: Node) -> None:
    if node.attempt and is_stopping(node):
        # It was under way, was to stop, and its engine died before it answered.
        error = "the engine ended while this step was being stopped"
        stop = machine.state.stopping
        is_late = stop is not None and "timeout_seconds" in stop.limits
        status = StepStatus.TIMED_OUT if is_late else StepStatus.CANCELLED  # as if it had answered
        fail(machine, node, status, FailureKind.CANCELLED, error)
        return
    if node.deadline_at is not None and machine.now >= node.deadline_at:
        error = "its time was over before it could be tried again"
        fail(machine, node, StepStatus.TIMED_OUT, FailureKind.TIMEOUT, error)
        return
    reused = machine.state.reused
    if reused and node.key in reused and (node.clean or node.key == machine.state.edited):
        machine.record(StepSucceeded(node.key, reused[node.key], machine.now, reused=True))
        return
    entry = node.entry
    try:
        if entry.for_each is not None and node.parent is None:
            _expand(machine, node)
        elif entry.is_leaf:
            _dispatch(machine, node)
        elif entry.sub is not None:
            _open_sub_plan(machine, node)
        elif entry.step.approve is not None:
            ask_person(machine, node)
        else:
            until = _until(machine, node)
            machine.record(WaitStarted(node.key, until, machine.now))
            machine.command(SetTimer(node.key, until))
    except CANNOT_RESOLVE as error:
        fail(machine, node, StepStatus.FAILED, FailureKind.INPUT, error.message)
    except PlanError as error:
        fail(machine, node, StepStatus.FAILED, FailureKind.INPUT, error.message)


def _dispatch(machine: Turns, node: Node) -> None:
    if node.replan is Replan.ASKED:
        _ask_for_plan(machine, node)
        return
    state, entry = machine.state, node.entry
    view = node.view
    args = entry.args.resolve(view)
    key = f"{machine.run_id}/{node.key}" if entry.key is None else str(entry.key.resolve(view))
    effects = state.effects(node)
    attempt = node.attempt + 1
    labels, policy = NO_LABELS, None
    if state.flow is not None:
        told, policy = may_start(machine, node, args, key), state.flow.policy
        if told is None:
            return
        labels = told
    adopted = machine.speculation.adopts(node, args, labels) if machine.speculation is not None else None
    machine.record(StepDispatched(node.key, attempt, state.epoch, machine.now))
    if adopted is not None and machine.speculation is not None:
        machine.speculation.goes_on(node, adopted)
        return
    step = entry.step
    deadline_at = node.deadline_at
    if step.attempt_timeout is not None:
        end = machine.now + step.attempt_timeout
        deadline_at = end if deadline_at is None else min(end, deadline_at)
    machine.command(
        RunStep(
            machine.run_id,
            node.key,
            step,
            attempt,
            state.epoch,
            args,
            effects,
            effects is not Effects.NONE,
            key,
            deadline_at,
            node.scope.allow,
            node.grant,
            state.models,
            node.calls.ended if node.calls is not None else NOTHING_RECORDED,
            tools=state.tools,
            labels=labels,
            flow=policy,
        )
    )


def _ask_for_plan(machine: Turns, node: Node) -> None:
    state = machine.state
    assert state.started is not None
    args = asked_with(node, state.started)
    labels, policy = NO_LABELS, None
    if state.flow is not None:
        labels, policy = state.flow.flowed_in(node), state.flow.policy
        why = why_not_told(state, labels)
        if why is not None:
            no_other_plan(machine, node, why)
            return
    attempt = node.attempt + 1
    machine.record(StepDispatched(node.key, attempt, state.epoch, machine.now))
    machine.command(
        RunStep(
            machine.run_id,
            node.key,
            node.step,
            attempt,
            state.epoch,
            args,
            Effects.NONE,
            after_durable=False,
            idempotency_key=f"{machine.run_id}/{node.key}/replan",
            deadline_at=node.deadline_at,
            allow=node.scope.allow,
            grant=node.grant,
            models=state.models,
            role="replan",
            tools=state.tools,
            labels=labels,
            flow=policy,
        )
    )


def _expand(machine: Turns, node: Node) -> None:
    assert node.entry.for_each is not None
    items = node.entry.for_each.resolve(node.scope)
    if not isinstance(items, list):
        raise EvaluationError(
            f"`for_each` needs a list and got {type(items).__name__}: {node.step.for_each!r}",
            remedy="use keys(…) or values(…) of an object",
        )
    machine.record(StepExpanded(node.key, items, machine.now))


def _open_sub_plan(machine: Turns, node: Node) -> None:
    assert node.entry.sub is not None
    inputs = check_inputs(node.entry.sub.plan, node.entry.args.resolve(node.view))
    machine.record(SubPlanStarted(node.key, inputs, machine.now))
    if node.deadline_at is not None:
        machine.command(SetTimer(node.key, node.deadline_at))


def _until(machine: Turns, node: Node) -> float:
    given = node.entry.args.resolve(node.view)
    if given["until"] is not None:
        try:
            moment = datetime.fromisoformat(str(given["until"]))
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise EvaluationError(
                f"`until` needs a moment with an offset and got {given['until']!r}",
                remedy="write e.g. 2026-12-01T09:00:00+01:00",
            )
        return max(machine.now, moment.timestamp())
    seconds = given["seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 10**10:
        raise EvaluationError(f"`wait` needs seconds, 0 or more, and got {seconds!r}", remedy="give a number")
    return machine.now + seconds
