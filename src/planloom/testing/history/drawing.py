"""What each event adds to the picture of a run, and what ends by itself because of it.

Rule 1: as in `picture.py`: nothing here asks the heart, and no event is too wrong to be taken in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from planloom.core.events import (
    FACT_TYPES,
    AnswerRefused,
    ApprovalAnswered,
    ApprovalRequested,
    AttemptFailed,
    AttemptSucceeded,
    CallEnded,
    CallStarted,
    OutcomeUnknown,
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
)
from planloom.core.result import RunStatus, SkipReason, StepStatus
from planloom.errors import EvaluationError, MissingValueError
from planloom.plan.graph import compile_plan
from planloom.plan.policy import FailureKind, JoinRule
from planloom.plan.terms import truthy
from planloom.ports import Recorded
from planloom.testing.history.picture import InnerCall, Instance, Lane, Part, Picture, UndecidableError, View

BEGIN_TURNS = (*FACT_TYPES, ResultRefused, AnswerRefused)
"""Events that no decision leads to."""
ENOUGH_ITEMS = 5
"""Items of a map that have to have ended before `max_failure_rate` is looked at."""


_ASKING = (
    StepDispatched, StepExpanded, SubPlanStarted, WaitStarted, ApprovalRequested,
    RetryScheduled, OutcomeUnknown, ReplanRequested, StepReplanned,
)  # fmt: skip


def draw(picture: Picture, entry: Recorded) -> None:
    """Take the next event in."""
    event = entry.event
    picture.seq = entry.seq
    if not isinstance(event, ResultRefused):  # its time is that of an answer which may be late
        picture.last_at = event.at
    if isinstance(event, BEGIN_TURNS):
        picture.turn_seq, picture.turn_events = entry.seq, 0
    picture.turn_events += 1
    part = picture.parts.get(getattr(event, "step", ""))
    if part is not None and isinstance(event, _ASKING):
        part.asked = entry.seq
        part.begun_at = part.begun_at if part.begun else event.at
    taken = _TAKEN.get(type(event))
    if taken is not None:
        taken(picture, event)


# --- of the run --------------------------------------------------------------------------------


def _run_started(picture: Picture, event: RunStarted) -> None:
    if picture.started is None:
        picture.started = event
        picture.root = Instance(compile_plan(event.plan), event.inputs, run_id=picture.run_id)
        _open(picture, picture.root)


def _run_resumed(picture: Picture, event: RunResumed) -> None:
    picture.epoch = event.epoch
    picture.paused = False
    picture.lanes.clear()
    for part in picture.open.values():
        part.open = None
    picture.open.clear()


def _pause_requested(picture: Picture, event: PauseRequested) -> None:
    picture.paused = True


def _run_stopping(picture: Picture, event: RunStopping) -> None:
    picture.stops.append(event)
    if picture.root is not None:
        _stop(picture, picture.root, keep=event.status is RunStatus.FAILED)


def _run_finished(picture: Picture, event: RunFinished) -> None:
    picture.finished = event


def _open(picture: Picture, instance: Instance) -> None:
    for entry in instance.graph.steps:
        part = Part(instance.prefix + entry.step.id, instance, entry)
        instance.parts.append(part)
        picture.parts.setdefault(part.key, part)
    instance.left = len(instance.parts)


# --- of attempts -------------------------------------------------------------------------------


def _dispatched(picture: Picture, part: Part, event: StepDispatched) -> None:
    part.begun = True
    part.open = (event, picture.seq)
    part.attempts = event.attempt
    part.waits, part.until, part.cleared, part.woken = "", None, False, False
    picture.open[part.key] = part


def _attempt_succeeded(picture: Picture, part: Part, event: AttemptSucceeded) -> None:
    _attempt_over(picture, part, event)
    if part.replan != "asked" and part.status is None:
        part.output = event.output
        _end(picture, part, StepStatus.COMPLETED)


def _attempt_failed(picture: Picture, part: Part, event: AttemptFailed) -> None:
    _attempt_over(picture, part, event)
    if part.replan != "asked":
        part.error = event.error
    part.cleared = event.kind is FailureKind.NOT_DONE
    part.clearances += part.cleared


def _attempt_over(picture: Picture, part: Part, event: AttemptSucceeded | AttemptFailed) -> None:
    part.open = None
    picture.open.pop(part.key, None)
    part.outcomes.setdefault(event.attempt, event)


def _call_started(picture: Picture, part: Part, event: CallStarted) -> None:
    call = part.calls.setdefault(event.key, InnerCall())
    call.open, call.effects = True, event.effects
    call.begun += 1
    part.called.add(event.name)


def _call_ended(picture: Picture, part: Part, event: CallEnded) -> None:
    call = part.calls.setdefault(event.key, InnerCall())
    call.open, call.ended = False, event
    part.clearances += "NotDoneError" in event.error_types


def _speculated(picture: Picture, part: Part, event: StepSpeculated) -> None:
    picture.lanes[part.key, event.role] = Lane(event, picture.seq)


def _speculation_answered(picture: Picture, part: Part, event: SpeculationAnswered) -> None:
    lane = picture.lanes.get((part.key, event.role))
    if lane is not None:
        lane.answered = True
        if lane.settled:
            del picture.lanes[part.key, event.role]


def _speculation_settled(picture: Picture, part: Part, event: SpeculationSettled) -> None:
    lane = picture.lanes.get((part.key, event.role))
    if lane is not None:
        lane.settled = event.outcome
        if lane.answered or event.outcome == "confirmed":
            del picture.lanes[part.key, event.role]


# --- of waits and containers -------------------------------------------------------------------


def _retry_scheduled(picture: Picture, part: Part, event: RetryScheduled) -> None:
    part.waits, part.until = "retry", event.due_at


def _wait_started(picture: Picture, part: Part, event: WaitStarted) -> None:
    part.begun, part.waits, part.until = True, "timer", event.until


def _approval_requested(picture: Picture, part: Part, event: ApprovalRequested) -> None:
    part.begun = part.begun or event.attempt == 0
    part.question = event
    part.waits, part.until = "approval", event.expires_at


def _outcome_unknown(picture: Picture, part: Part, event: OutcomeUnknown) -> None:
    part.waits, part.until = "unknown", None


def _approval_answered(picture: Picture, part: Part, event: ApprovalAnswered) -> None:
    part.waits, part.until = "", None
    if event.approved and part.step.approve is None:
        part.woken = True
        part.permitted = part.attempts + 1
    elif event.approved:
        form = part.step.approve is not None and part.step.approve.form is not None
        part.granted = (event.output if form else {"approved_by": event.by},)


def _resolved(picture: Picture, part: Part, event: StepResolved) -> None:
    part.waits, part.until = "", None
    if event.how == "output":
        part.granted = (event.output,)
    elif event.how == "retry":
        part.cleared = True
        part.clearances += 1
        for call in part.calls.values():
            if call.open:
                call.open, call.begun = False, 0


def _timer_fired(picture: Picture, event: TimerFired) -> None:
    if event.step == "":
        picture.time_up = True
        return
    part = picture.parts.get(event.step)
    if part is None:
        return
    if part.waits == "timer":
        part.granted = (None,)
    part.woken = part.waits == "retry"
    part.waits, part.until = "", None
    if part.inner is not None and part.status is None:
        _stop_parts(picture, part, keep=True)


def _expanded(picture: Picture, part: Part, event: StepExpanded) -> None:
    part.begun = True
    part.items = [
        Part(f"{part.key}[{index}]", part.instance, part.entry, part, index, item)
        for index, item in enumerate(event.items)
    ]
    part.left = len(part.items)
    for item in part.items:
        picture.parts.setdefault(item.key, item)


def _sub_plan_started(picture: Picture, part: Part, event: SubPlanStarted) -> None:
    part.begun = True
    if part.entry.sub is not None:
        part.inner = Instance(part.entry.sub, event.inputs, f"{part.key}/", part, picture.run_id)
        _open(picture, part.inner)


def _replan_requested(picture: Picture, part: Part, event: ReplanRequested) -> None:
    part.replan = "asked"


def _replanned(picture: Picture, part: Part, event: StepReplanned) -> None:
    part.replan = "done"
    part.inner = Instance(compile_plan(event.plan), event.inputs, f"{part.key}/", part, picture.run_id)
    _open(picture, part.inner)


# --- how steps end -----------------------------------------------------------------------------


def _succeeded(picture: Picture, part: Part, event: StepSucceeded) -> None:
    if part.status is not None:
        return
    part.output, part.errors, part.reused = event.output, event.errors, event.reused
    picture.imperfect += bool(event.errors)
    _end(picture, part, StepStatus.COMPLETED)


def _failed(picture: Picture, part: Part, event: StepFailed) -> None:
    if part.status is not None:
        return
    part.error = event.error
    part.status = event.status
    instance = part.instance
    if part.parent is not None:
        part.parent.bad_items += 1
        if part.step.on_item_error == "fail_fast":
            _stop_parts(picture, part.parent, keep=False)
    elif part.tolerated:
        picture.imperfect += 1
    elif (
        instance.owner is not None
        and instance.graph.plan.fail_fast
        and not (event.status is StepStatus.CANCELLED and instance.stopping)
    ):
        _stop(picture, instance, keep=True)
    _tell(picture, part)


def _skipped(picture: Picture, part: Part, event: StepSkipped) -> None:
    if part.status is not None:
        return
    part.reason = event.reason
    picture.imperfect += 1
    _end(picture, part, StepStatus.SKIPPED)


def _end(picture: Picture, part: Part, status: StepStatus, *, by_itself: bool = False) -> None:
    if part.status is None:
        part.status, part.by_itself = status, by_itself
        _tell(picture, part)


def _tell(picture: Picture, part: Part) -> None:
    """Let what it is in, and what waits for it, know that a step has ended."""
    ended = [part]
    while ended:
        one = ended.pop()
        one.seq = picture.seq
        one.waits, one.until = "", None
        if one.parent is not None:
            one.parent.left -= 1
            if one.parent.left and _fails_too_often(one.parent):
                _stop_parts(picture, one.parent, keep=False)
            continue
        one.instance.left -= 1
        for place in one.entry.downstream:
            below = one.instance.parts[place]
            _count(one, below)
            if below.status is not None or not below.instance.stopping or below.cleans_up:
                continue
            first = below.entry.join is JoinRule.ONE_SUCCESS and below.ok == 1
            if not below.begun and (below.met == len(below.entry.upstream) or first):
                _not_started(picture, below)
                ended.append(below)


def _count(part: Part, below: Part) -> None:
    """Count an ended step for one that waits for it: well, badly, or left out."""
    below.met += 1
    if part.status is StepStatus.SKIPPED:
        if part.reason is SkipReason.UPSTREAM_FAILED:
            below.failed += 1
        else:
            below.skipped += 1
        return
    if part.status is not StepStatus.COMPLETED and not part.tolerated:
        below.failed += 1
        return
    condition = below.entry.conditions.get(part.entry.place)
    holds = True
    if condition is not None:
        try:
            holds = truthy(condition.evaluate(View(part.instance)))
        except UndecidableError:
            below.unsure = True
        except (MissingValueError, EvaluationError):
            below.broken, holds = True, False
    if holds:
        below.ok += 1
    else:
        below.skipped += 1


def _fails_too_often(part: Part) -> bool:
    rate = part.step.max_failure_rate
    done = len(part.items or ()) - part.left
    return rate is not None and not part.halted_parts and done >= ENOUGH_ITEMS and part.bad_items > rate * done


def _stop(picture: Picture, instance: Instance, *, keep: bool) -> None:
    """Stop a plan: what waits ends now, what is under way when it answers, the rest with what it waits for."""
    instance.cleans_up = keep and (instance.cleans_up or not instance.stopping)
    instance.stopping = True
    for part in instance.parts:
        _halt(picture, part)


def _stop_parts(picture: Picture, part: Part, *, keep: bool) -> None:
    part.halted_parts = True
    if part.inner is not None:
        _stop(picture, part.inner, keep=keep)
    for item in part.items or ():
        _halt(picture, item)


def _halt(picture: Picture, part: Part) -> None:
    if part.status is not None or (part.parent is None and part.cleans_up and not part.halted_parts):
        return
    if part.open is not None:
        return
    if part.items is not None or part.inner is not None:
        _stop_parts(picture, part, keep=part.instance.cleans_up and not part.halted_parts)
    elif part.begun:
        _end(picture, part, StepStatus.CANCELLED, by_itself=True)
    elif part.parent is not None or part.met == len(part.entry.upstream) or part.question is not None:
        _not_started(picture, part)
        _tell(picture, part)


def _not_started(picture: Picture, part: Part) -> None:
    part.status, part.reason, part.by_itself = StepStatus.SKIPPED, SkipReason.NOT_STARTED, True
    picture.imperfect += 1


def _of_part(take: Callable[[Picture, Part, Any], None]) -> Callable[[Picture, Any], None]:
    def taken(picture: Picture, event: Any) -> None:
        part = picture.parts.get(event.step)
        if part is not None:
            take(picture, part, event)

    return taken


_TAKEN: dict[type[Any], Callable[[Picture, Any], None]] = {
    RunStarted: _run_started,
    RunResumed: _run_resumed,
    PauseRequested: _pause_requested,
    RunStopping: _run_stopping,
    RunFinished: _run_finished,
    TimerFired: _timer_fired,
    StepDispatched: _of_part(_dispatched),
    AttemptSucceeded: _of_part(_attempt_succeeded),
    AttemptFailed: _of_part(_attempt_failed),
    CallStarted: _of_part(_call_started),
    CallEnded: _of_part(_call_ended),
    StepSpeculated: _of_part(_speculated),
    SpeculationAnswered: _of_part(_speculation_answered),
    SpeculationSettled: _of_part(_speculation_settled),
    RetryScheduled: _of_part(_retry_scheduled),
    WaitStarted: _of_part(_wait_started),
    ApprovalRequested: _of_part(_approval_requested),
    OutcomeUnknown: _of_part(_outcome_unknown),
    ApprovalAnswered: _of_part(_approval_answered),
    StepResolved: _of_part(_resolved),
    StepExpanded: _of_part(_expanded),
    SubPlanStarted: _of_part(_sub_plan_started),
    ReplanRequested: _of_part(_replan_requested),
    StepReplanned: _of_part(_replanned),
    StepSucceeded: _of_part(_succeeded),
    StepFailed: _of_part(_failed),
    StepSkipped: _of_part(_skipped),
}
