"""I1 and order: numbers, causes, attempts, engines and waits follow one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from planloom.core.events import (
    AnswerRefused,
    ApprovalAnswered,
    AttemptFailed,
    AttemptSucceeded,
    AttemptWaiting,
    CallEnded,
    CallStarted,
    CircuitChanged,
    OutcomeUnknown,
    OutputStreamed,
    ReplanRequested,
    ResultRefused,
    RetryScheduled,
    RunResumed,
    RunStarted,
    SpeculationAnswered,
    StepDispatched,
    StepReplanned,
    StepResolved,
    TimerFired,
)
from planloom.testing.history.drawing import BEGIN_TURNS

if TYPE_CHECKING:
    from planloom.ports import Recorded
    from planloom.testing.history.picture import RunPart, RunPicture
    from planloom.testing.history.violation import Findings

_NOTES = (OutputStreamed, AttemptWaiting, CallStarted, CallEnded, CircuitChanged)
_OF_ATTEMPTS = (AttemptSucceeded, AttemptFailed, *_NOTES)
_ANSWERS = (TimerFired, ApprovalAnswered, AnswerRefused, StepResolved)
_AWAITED = {ApprovalAnswered: "approval", StepResolved: "unknown"}
SLACK_S = 1e-6


class Numbers:
    """Judges how events are numbered, caused and ordered."""

    def __init__(self, picture: RunPicture, findings: Findings) -> None:
        self.picture = picture
        self.findings = findings

    def look(self, entry: Recorded) -> bool:
        """Judge an event before it is drawn; return whether it may be believed."""
        event, seq, picture = entry.event, entry.seq, self.picture
        self.findings.count("I1", "events")
        if seq != picture.seq + 1:
            self._accuse("I1", seq, event, f"follows event {picture.seq}")
        if isinstance(event, RunStarted) is not (picture.started is None):
            what = "the run starts again" if picture.started is not None else "the record does not begin with the start"
            self.findings.accuse("I1", seq, "", what)
            return False
        key: str = getattr(event, "step", "")
        part = picture.parts.get(key)
        if part is None and key:
            if self._is_item(key):
                return True
            self._accuse("order", seq, event, "nothing on record made this step")
            return False
        self._cause(entry, part)
        self._order(entry, part)
        return True

    def _is_item(self, key: str) -> bool:
        """Return whether a key that is not known looks like an item of a map: another law is broken then."""
        above = self.picture.parts.get(key.rpartition("[")[0])
        return above is not None and above.is_map

    def _accuse(self, law: str, seq: int, event: Any, what: str) -> None:
        self.findings.accuse(law, seq, getattr(event, "step", ""), f"{type(event).__name__} {what}")

    def _cause(self, entry: Recorded, part: RunPart | None) -> None:
        event, cause = entry.event, entry.cause
        wanted = self.picture.turn_seq
        if isinstance(event, BEGIN_TURNS):
            wanted = 0
            if isinstance(event, _OF_ATTEMPTS) and part is not None:
                if part.open is None:
                    return  # judged as a result
                wanted = part.open[1]
            elif isinstance(event, SpeculationAnswered) and part is not None:
                lane = self.picture.lanes.get((part.key, event.role))
                wanted = lane.seq if lane is not None else 0
            elif isinstance(event, _ANSWERS) and part is not None:
                wanted = part.asked
        if cause != wanted:
            self._accuse("I1", entry.seq, event, f"says it came of event {cause}, and it came of {wanted or 'outside'}")

    def _order(self, entry: Recorded, part: RunPart | None) -> None:
        event, seq, picture = entry.event, entry.seq, self.picture
        if event.at < picture.last_at - SLACK_S and not isinstance(event, ResultRefused):
            self._accuse("order", seq, event, f"was {picture.last_at - event.at:.6f} s before what stands above it")
        if isinstance(event, RunResumed) and event.epoch <= picture.epoch:
            self._accuse("order", seq, event, f"is of engine {event.epoch} after engine {picture.epoch}")
        if isinstance(event, StepDispatched) and part is not None:
            self._dispatch(entry, part, event)
        elif isinstance(event, TimerFired) and part is not None:
            self._timer(entry, part)
        elif part is not None:
            self._follows(entry, part)

    def _dispatch(self, entry: Recorded, part: RunPart, event: StepDispatched) -> None:
        seq, picture = entry.seq, self.picture
        if event.attempt != part.attempts + 1:
            self._accuse("order", seq, event, f"is attempt {event.attempt} after attempt {part.attempts}")
        if event.epoch != picture.epoch:
            self._accuse("order", seq, event, f"is by engine {event.epoch} while engine {picture.epoch} drives")
        if part.waits in ("retry", "timer"):
            self._accuse("order", seq, event, "came before the wait was over")

    def _follows(self, entry: Recorded, part: RunPart) -> None:
        event, seq = entry.event, entry.seq
        if isinstance(event, RetryScheduled | ReplanRequested):
            if event.attempt != part.attempts + 1:
                self._accuse("order", seq, event, f"is for attempt {event.attempt} after attempt {part.attempts}")
            elif part.open is not None or part.replan:
                self._accuse("order", seq, event, "came of no attempt that failed")
        elif isinstance(event, StepReplanned) and (part.replan != "asked" or part.attempts not in part.outcomes):
            self._accuse("order", seq, event, "puts a plan in its place that nobody was asked for")
        elif isinstance(event, OutcomeUnknown) and (part.open is not None or event.attempt != part.attempts):
            self._accuse("order", seq, event, f"is about attempt {event.attempt}")
        elif isinstance(event, ApprovalAnswered | StepResolved) and part.waits != _AWAITED[type(event)]:
            self._accuse("order", seq, event, "answers what nobody asked")
        elif isinstance(event, _NOTES) and not is_of(part, event):
            self._accuse("order", seq, event, "is of an attempt that is not under way")

    def _timer(self, entry: Recorded, part: RunPart) -> None:
        timeout_s = part.step.timeout_seconds if part.begun else None
        over_at = None if timeout_s is None else part.begun_at + timeout_s
        due_at = part.until
        if part.inner is not None and over_at is not None:
            due_at = over_at
        elif part.waits == "approval" and part.entry.is_leaf and over_at is not None:
            due_at = over_at if due_at is None else min(due_at, over_at)
        if due_at is None:
            self._accuse("order", entry.seq, entry.event, "ends a wait that nobody began")
        elif entry.event.at < due_at - SLACK_S:
            self._accuse("order", entry.seq, entry.event, f"came {due_at - entry.event.at:.6f} s early")


def is_of(part: RunPart, event: Any) -> bool:
    """Return whether an event is of the attempt of this step that is under way."""
    return part.open is not None and (part.open[0].attempt, part.open[0].epoch) == (event.attempt, event.epoch)


def check_prefix(before: Sequence[Recorded], records: Sequence[Recorded], findings: Findings) -> None:
    """Judge whether what was durable at an earlier moment still stands there."""
    findings.count("I1", "events known before", len(before))
    for place, entry in enumerate(before):
        if place >= len(records):
            what = f"{len(before) - place} events are gone that were on record from {entry.seq} on"
            findings.accuse("I1", entry.seq, "", what)
            return
        if records[place] != entry:
            step = getattr(entry.event, "step", "")
            findings.accuse("I1", entry.seq, step, f"{type(entry.event).__name__} is not any more what it was")
            return
