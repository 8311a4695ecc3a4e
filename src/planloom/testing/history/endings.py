"""I7: a run that has ended has ended whole, as its steps did; one that has not goes on, or names what it waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planloom.core.events import CancelRequested, RunFinished, RunStopping, TimerFired
from planloom.core.result import RunStatus
from planloom.testing.history.drawing import BEGIN_TURNS
from planloom.testing.history.starts import rule_met

if TYPE_CHECKING:
    from planloom.ports import Recorded
    from planloom.testing.history.picture import RunPart, RunPicture
    from planloom.testing.history.violation import Findings

A_TURN = 1_000
"""Events after which an engine may stop deciding and go on later."""


def _must_stop(event: Any) -> RunStatus | None:
    """Return as what the run has to be stopped because of this."""
    if isinstance(event, CancelRequested):
        return RunStatus.CANCELLED
    return RunStatus.LIMIT_EXCEEDED if isinstance(event, TimerFired) and event.step == "" else None


class Endings:
    """Judges how a run ends, or rests."""

    def __init__(self, picture: RunPicture, findings: Findings) -> None:
        self.picture = picture
        self.findings = findings
        self.owed: RunStatus | None = None
        """As what the run has to be stopped in this turn."""

    def look(self, entry: Recorded) -> bool:
        event = entry.event
        if isinstance(event, BEGIN_TURNS):
            self._owed(entry.seq)
            self.owed = _must_stop(event)
        elif isinstance(event, RunStopping):
            if event.status is RunStatus.CANCELLED and self.owed is not RunStatus.CANCELLED:
                self._accuse(entry.seq, "the run is cancelled, and nobody asked for that")
            self.owed = None
        elif isinstance(event, RunFinished):
            self._finished(entry, event)
        return True

    def _owed(self, seq: int) -> None:
        if self.owed is not None:
            self._accuse(seq, f"the run was to stop as {self.owed}, and it goes on")
        self.owed = None

    def _accuse(self, seq: int, what: str, step: str = "") -> None:
        self.findings.accuse("I7", seq, step, what)

    # --- a run that ends ---

    def _finished(self, entry: Recorded, event: RunFinished) -> None:
        picture = self.picture
        self.findings.count("I7", "steps", len(picture.parts))
        for part in picture.parts.values():
            if part.status is None:
                how = "under way" if part.open is not None else "not done"
                self._accuse(entry.seq, f"the run ended while it was {how}", part.key)
                return
        for key, role in picture.lanes:
            self._accuse(entry.seq, f"the run ended and nobody knows what came of its {role} attempt", key)
        wanted = self._status()
        if event.status is not wanted and not (wanted is RunStatus.SUCCESS and event.status is RunStatus.FAILED):
            self._accuse(entry.seq, f"the run ended as {event.status}, and its steps make it {wanted}")
        elif event.status is wanted is RunStatus.FAILED:
            self._culprit(entry, event)
        elif event.failed_step is not None and event.status in (RunStatus.SUCCESS, RunStatus.PARTIAL):
            self._accuse(entry.seq, f"the run ended as {event.status} and names a step that failed it")

    def _status(self) -> RunStatus:
        picture = self.picture
        if picture.stops:
            status: RunStatus = picture.stops[-1].status
            return status
        parts = picture.root.parts if picture.root is not None else []
        if any(part.broke for part in parts):
            return RunStatus.FAILED
        return RunStatus.PARTIAL if picture.imperfect else RunStatus.SUCCESS

    def _culprit(self, entry: Recorded, event: RunFinished) -> None:
        part = self.picture.parts.get(event.failed_step or "")
        if part is None or not part.broke:
            self._accuse(entry.seq, f"the run failed and names {event.failed_step!r}, which did not fail it")
        elif event.error != part.error:
            self._accuse(entry.seq, "the run failed, and its error is not that of the step it names", part.key)

    # --- a run that has not ended ---

    def end(self) -> None:
        """Judge how the record leaves the run."""
        picture = self.picture
        self._owed(picture.seq)
        if picture.finished is not None or picture.started is None or picture.turn_events >= A_TURN:
            return
        self.findings.count("I7", "runs that have not ended")
        parts = list(picture.parts.values())
        waiting = [part for part in parts if part.waits]
        under_way = bool(picture.open) or any(not lane.answered for lane in picture.lanes.values())
        if not (under_way or waiting or picture.paused):
            self._accuse(picture.seq, "the run has not ended, nothing is under way, and it waits for nothing")
            return
        self._forgotten(parts)

    def _forgotten(self, parts: list[RunPart]) -> None:
        """Judge whether a step is left that could start and whose turn never comes."""
        picture = self.picture
        if picture.paused or picture.stops or picture.started is None:
            return
        for part in parts:
            if part.status is None and self._is_failed_and_left(part):
                self._accuse(picture.seq, "its attempt failed, and nothing followed", part.key)
            elif self._could_start(part):
                self._accuse(picture.seq, "it could start, and nobody started it", part.key)

    def _is_failed_and_left(self, part: RunPart) -> bool:
        over = part.attempts and part.open is None and not part.waits and part.inner is None
        last: Any = part.outcomes.get(part.attempts)
        return bool(over and last is not None and part.replan == "" and not part.cleared and not part.woken)

    def _could_start(self, part: RunPart) -> bool:
        """Return whether nothing at all keeps a step that never began from starting."""
        started, step = self.picture.started, part.step
        if part.begun or part.status is not None or part.parent is not None or started is None:
            return False
        if part.unsure or part.waits:
            return False
        unbound = step.mode == "parallel" and step.concurrency is None
        free = started.limits is None and started.parallel and unbound and not part.instance.stopping
        return free and part.met == len(part.entry.upstream) and (part.broken or rule_met(part))
