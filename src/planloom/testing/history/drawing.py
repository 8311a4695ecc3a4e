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
from planloom.core.result import RunStatus, StepStatus
from planloom.plan.graph import compile_plan
from planloom.plan.policy import FailureKind
from planloom.ports import Recorded
from planloom.testing.history.picture import AheadLane, InnerCall, Instance, RunPart, RunPicture
from planloom.testing.history.stops import end, stop, stop_parts, tell

BEGIN_TURNS = (*FACT_TYPES, ResultRefused, AnswerRefused)
"""Events that no decision leads to."""


_ASKING = (
    StepDispatched, StepExpanded, SubPlanStarted, WaitStarted, ApprovalRequested,
    RetryScheduled, OutcomeUnknown, ReplanRequested, StepReplanned,
)  # fmt: skip


def draw(picture: RunPicture, entry: Recorded) -> None:
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


def _run_started(picture: RunPicture, event: RunStarted) -> None:
    if picture.started is None:
        picture.started = event
        picture.root = Instance(compile_plan(event.plan), event.inputs, run_id=picture.run_id)
        _open(picture, picture.root)


def _run_resumed(picture: RunPicture, event: RunResumed) -> None:
    picture.epoch = event.epoch
    picture.paused = False
    picture.lanes.clear()
    for part in picture.open.values():
        part.open = None
    picture.open.clear()


def _pause_requested(picture: RunPicture, event: PauseRequested) -> None:
    picture.paused = True


def _run_stopping(picture: RunPicture, event: RunStopping) -> None:
    picture.stops.append(event)
    if picture.root is not None:
        stop(picture, picture.root, keep=event.status is RunStatus.FAILED)


def _run_finished(picture: RunPicture, event: RunFinished) -> None:
    picture.finished = event


def _open(picture: RunPicture, instance: Instance) -> None:
    for entry in instance.graph.steps:
        part = RunPart(instance.prefix + entry.step.id, instance, entry)
        instance.parts.append(part)
        picture.parts.setdefault(part.key, part)
    instance.left = len(instance.parts)


# --- of attempts -------------------------------------------------------------------------------


def _dispatched(picture: RunPicture, part: RunPart, event: StepDispatched) -> None:
    part.begun = True
    part.open = (event, picture.seq)
    part.attempts = event.attempt
    part.waits, part.until, part.cleared, part.woken = "", None, False, False
    picture.open[part.key] = part


def _attempt_succeeded(picture: RunPicture, part: RunPart, event: AttemptSucceeded) -> None:
    _attempt_over(picture, part, event)
    if part.replan != "asked" and part.status is None:
        part.output = event.output
        end(picture, part, StepStatus.COMPLETED)


def _attempt_failed(picture: RunPicture, part: RunPart, event: AttemptFailed) -> None:
    _attempt_over(picture, part, event)
    if part.replan != "asked":
        part.error = event.error
    part.cleared = event.kind is FailureKind.NOT_DONE
    part.clearances += part.cleared


def _attempt_over(picture: RunPicture, part: RunPart, event: AttemptSucceeded | AttemptFailed) -> None:
    part.open = None
    picture.open.pop(part.key, None)
    part.outcomes.setdefault(event.attempt, event)


def _call_started(picture: RunPicture, part: RunPart, event: CallStarted) -> None:
    call = part.calls.setdefault(event.key, InnerCall())
    call.open, call.effects = True, event.effects
    call.begun += 1
    part.called.add(event.name)


def _call_ended(picture: RunPicture, part: RunPart, event: CallEnded) -> None:
    call = part.calls.setdefault(event.key, InnerCall())
    call.open, call.ended = False, event
    part.clearances += "NotDoneError" in event.error_types


def _speculated(picture: RunPicture, part: RunPart, event: StepSpeculated) -> None:
    picture.lanes[part.key, event.role] = AheadLane(event, picture.seq)


def _speculation_answered(picture: RunPicture, part: RunPart, event: SpeculationAnswered) -> None:
    lane = picture.lanes.get((part.key, event.role))
    if lane is not None:
        lane.answered = True
        if lane.settled:
            del picture.lanes[part.key, event.role]


def _speculation_settled(picture: RunPicture, part: RunPart, event: SpeculationSettled) -> None:
    lane = picture.lanes.get((part.key, event.role))
    if lane is not None:
        lane.settled = event.outcome
        if lane.answered or event.outcome == "confirmed":
            del picture.lanes[part.key, event.role]


# --- of waits and containers -------------------------------------------------------------------


def _retry_scheduled(picture: RunPicture, part: RunPart, event: RetryScheduled) -> None:
    part.waits, part.until = "retry", event.due_at


def _wait_started(picture: RunPicture, part: RunPart, event: WaitStarted) -> None:
    part.begun, part.waits, part.until = True, "timer", event.until


def _approval_requested(picture: RunPicture, part: RunPart, event: ApprovalRequested) -> None:
    part.begun = part.begun or event.attempt == 0
    part.question = event
    part.waits, part.until = "approval", event.expires_at


def _outcome_unknown(picture: RunPicture, part: RunPart, event: OutcomeUnknown) -> None:
    part.waits, part.until = "unknown", None


def _approval_answered(picture: RunPicture, part: RunPart, event: ApprovalAnswered) -> None:
    part.waits, part.until = "", None
    if event.approved and part.step.approve is None:
        part.woken = True
        part.permitted = part.attempts + 1
    elif event.approved:
        form = part.step.approve is not None and part.step.approve.form is not None
        part.granted = (event.output if form else {"approved_by": event.by},)


def _resolved(picture: RunPicture, part: RunPart, event: StepResolved) -> None:
    part.waits, part.until = "", None
    if event.how == "output":
        part.granted = (event.output,)
    elif event.how == "retry":
        part.cleared = True
        part.clearances += 1
        for call in part.calls.values():
            if call.open:
                call.open, call.begun = False, 0


def _timer_fired(picture: RunPicture, event: TimerFired) -> None:
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
        stop_parts(picture, part, keep=True)


def _expanded(picture: RunPicture, part: RunPart, event: StepExpanded) -> None:
    part.begun = True
    part.items = [
        RunPart(f"{part.key}[{index}]", part.instance, part.entry, part, index, item)
        for index, item in enumerate(event.items)
    ]
    part.left = len(part.items)
    for item in part.items:
        picture.parts.setdefault(item.key, item)


def _sub_plan_started(picture: RunPicture, part: RunPart, event: SubPlanStarted) -> None:
    part.begun = True
    if part.entry.sub is not None:
        part.inner = Instance(part.entry.sub, event.inputs, f"{part.key}/", part, picture.run_id)
        _open(picture, part.inner)


def _replan_requested(picture: RunPicture, part: RunPart, event: ReplanRequested) -> None:
    part.replan = "asked"


def _replanned(picture: RunPicture, part: RunPart, event: StepReplanned) -> None:
    part.replan = "done"
    part.inner = Instance(compile_plan(event.plan), event.inputs, f"{part.key}/", part, picture.run_id)
    _open(picture, part.inner)


# --- how steps end -----------------------------------------------------------------------------


def _succeeded(picture: RunPicture, part: RunPart, event: StepSucceeded) -> None:
    if part.status is not None:
        return
    part.output, part.errors, part.reused = event.output, event.errors, event.reused
    picture.imperfect += bool(event.errors)
    end(picture, part, StepStatus.COMPLETED)


def _failed(picture: RunPicture, part: RunPart, event: StepFailed) -> None:
    if part.status is not None:
        return
    part.error = event.error
    part.status = event.status
    instance = part.instance
    if part.parent is not None:
        part.parent.bad_items += 1
        if part.step.on_item_error == "fail_fast":
            stop_parts(picture, part.parent, keep=False)
    elif part.tolerated:
        picture.imperfect += 1
    elif (
        instance.owner is not None
        and instance.graph.plan.fail_fast
        and not (event.status is StepStatus.CANCELLED and instance.stopping)
    ):
        stop(picture, instance, keep=True)
    tell(picture, part)


def _skipped(picture: RunPicture, part: RunPart, event: StepSkipped) -> None:
    if part.status is not None:
        return
    part.reason = event.reason
    picture.imperfect += 1
    end(picture, part, StepStatus.SKIPPED)


def _of_part(take: Callable[[RunPicture, RunPart, Any], None]) -> Callable[[RunPicture, Any], None]:
    def taken(picture: RunPicture, event: Any) -> None:
        part = picture.parts.get(event.step)
        if part is not None:
            take(picture, part, event)

    return taken


_TAKEN: dict[type[Any], Callable[[RunPicture, Any], None]] = {
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
