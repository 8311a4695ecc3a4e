"""What follows at once from a fact: an answer, a timer, a failed attempt, a person's word.

Rule 1: what follows from a step's end for others is derived in `fold.py` and decided by `machine.py`, not here.
"""

from __future__ import annotations

from typing import Any, assert_never

from planloom.core.commands import SetTimer
from planloom.core.endings import fail, no_other_plan
from planloom.core.events import (
    ApprovalAnswered,
    AttemptFailed,
    CancelRequested,
    OutcomeUnknown,
    PauseRequested,
    ReplanRequested,
    RetryScheduled,
    RunResumed,
    RunStarted,
    RunStopping,
    StepReplanned,
    StepResolved,
    StepSucceeded,
    TimerFired,
    WentOn,
)
from planloom.core.outputs import CANNOT_RESOLVE
from planloom.core.replanning import may_replan, plan_in_place
from planloom.core.result import RunStatus, StepStatus
from planloom.core.retry import delay_s, worth_retrying
from planloom.core.state import Node, Replan
from planloom.core.turns import Turns, is_stopping
from planloom.errors import PlanError
from planloom.plan.policy import NO_RETRY, Effects, FailureKind

MAX_LOST = 3
"""Workers that may die with one step before it is taken to be the step that kills them."""
OtherFact = (
    RunStarted | RunResumed | TimerFired | ApprovalAnswered | StepResolved | CancelRequested | PauseRequested | WentOn
)
"""Facts that end no attempt, and say nothing of one."""


def react(machine: Turns, fact: OtherFact) -> None:
    match fact:
        case RunStarted():
            pass
        case RunResumed():
            _resumed(machine)
        case WentOn() | PauseRequested():
            pass
        case TimerFired():
            _timer_fired(machine, fact)
        case ApprovalAnswered():
            _approval_answered(machine, machine.state.nodes[fact.step], fact)
        case StepResolved():
            _resolved(machine, machine.state.nodes[fact.step], fact)
        case CancelRequested():
            because = f"{fact.by}: {fact.reason}" if fact.reason else fact.by
            machine.record(RunStopping(RunStatus.CANCELLED, machine.now, because))
        case _:
            assert_never(fact)


def _resumed(machine: Turns) -> None:
    """Ask again for what was under way; what must not run twice waits for a person."""
    if machine.speculation is not None:
        machine.speculation.forget()
    for node in machine.state.nodes.values():
        if node.waiting == "lost":
            machine.record(OutcomeUnknown(node.key, node.attempt, machine.now))


def _timer_fired(machine: Turns, fact: TimerFired) -> None:
    if fact.step == "":
        because = "the run's time is over"
        machine.record(RunStopping(RunStatus.LIMIT_EXCEEDED, machine.now, because, ("timeout_seconds",)))
        return
    node = machine.state.nodes[fact.step]
    if node.status is StepStatus.READY and not node.queued:
        fail(machine, node, StepStatus.TIMED_OUT, FailureKind.TIMEOUT, "nobody approved it in time")
        return
    if node.status is not StepStatus.RUNNING or node.inner is not None:
        return  # a wait before a retry, or a sub-plan's time: waits.py queued the step, or stops the sub-plan
    if node.step.approve is not None:
        fail(machine, node, StepStatus.TIMED_OUT, FailureKind.TIMEOUT, "nobody answered in time")
    else:
        machine.record(StepSucceeded(node.key, None, machine.now))


def _approval_answered(machine: Turns, node: Node, fact: ApprovalAnswered) -> None:
    if not fact.approved:
        fail(machine, node, StepStatus.FAILED, FailureKind.REFUSED, f"denied by {fact.by}")
        return
    if node.step.approve is None:
        return  # waits.py queued the step
    output = fact.output if node.step.approve.form is not None else {"approved_by": fact.by}
    machine.record(StepSucceeded(node.key, output, machine.now))


def _resolved(machine: Turns, node: Node, fact: StepResolved) -> None:
    if fact.how == "output":
        machine.record(StepSucceeded(node.key, fact.output, machine.now))
    elif fact.how == "fail":
        fail(machine, node, StepStatus.FAILED, FailureKind.ERROR, fact.error or f"marked as failed by {fact.by}")


def attempt_failed(machine: Turns, node: Node, fact: AttemptFailed) -> None:
    if node.replan is Replan.ASKED:
        no_other_plan(machine, node, fact.error)
        return
    policy = node.step.retry or NO_RETRY
    effects = machine.state.effects(node)
    if fact.kind is FailureKind.LOST and not is_stopping(node) and _lost(machine, node, effects):
        return
    if not is_stopping(node) and worth_retrying(policy, fact, failures=node.failures, effects=effects):
        seed = f"{machine.run_id}/{node.key}/{node.failures}"
        due_at = machine.now + delay_s(policy, node.failures, seed, retry_after_s=fact.retry_after_s)
        if node.deadline_at is None or due_at < node.deadline_at:
            machine.record(RetryScheduled(node.key, node.attempt + 1, due_at, machine.now))
            machine.command(SetTimer(node.key, due_at))
            return
    if not is_stopping(node) and may_replan(node, fact, effects):
        machine.record(ReplanRequested(node.key, node.attempt + 1, machine.now))
        return
    status = StepStatus.FAILED
    stop = machine.state.stopping
    if fact.kind is FailureKind.TIMEOUT or (stop is not None and "timeout_seconds" in stop.limits):
        status = StepStatus.TIMED_OUT
    elif fact.kind is FailureKind.CANCELLED and is_stopping(node):
        status = StepStatus.CANCELLED
    fail(machine, node, status, fact.kind, fact.error, limits=fact.limits)


def _lost(machine: Turns, node: Node, effects: Effects) -> bool:
    """Have a step done elsewhere whose worker died; return False if nobody should try it again."""
    if effects is Effects.ONCE:
        machine.record(OutcomeUnknown(node.key, node.attempt, machine.now))
        return True
    if node.lost >= MAX_LOST or (node.deadline_at is not None and machine.now >= node.deadline_at):
        return False
    machine.record(RetryScheduled(node.key, node.attempt + 1, machine.now, machine.now))
    machine.command(SetTimer(node.key, machine.now))
    return True


def plan_answered(machine: Turns, node: Node, document: Any) -> None:
    """Put the plan that a model wrote in the place of a step, if it is sound and within what the step might do."""
    state = machine.state
    assert state.started is not None
    if is_stopping(node):
        no_other_plan(machine, node, "the run is stopping")
        return
    try:
        plan, inputs = plan_in_place(document, node, state.started, state.nodes)
    except (PlanError, *CANNOT_RESOLVE) as error:
        no_other_plan(machine, node, error.message)
        return
    machine.record(StepReplanned(node.key, plan, inputs, machine.now))
    if node.deadline_at is not None:
        machine.command(SetTimer(node.key, node.deadline_at))
