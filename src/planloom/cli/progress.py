"""How a run goes, told while it goes: a line for each thing worth saying.

Rule 1: only what is on record is told, so nothing is said that a crash could take back.
Rule 2: the moments printed are those on record.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from planloom.core.events import (
    ApprovalRequested,
    AttemptFailed,
    AttemptSucceeded,
    AttemptWaiting,
    CancelRequested,
    CircuitChanged,
    OutcomeUnknown,
    PauseRequested,
    ReplanRequested,
    RetryScheduled,
    RunStopping,
    StepDispatched,
    StepExpanded,
    StepFailed,
    StepReplanned,
    StepSkipped,
    StepSucceeded,
    SubPlanStarted,
    WaitStarted,
)
from planloom.core.result import RunStatus
from planloom.observe.looks import counted, duration_text, money_text, printable, shortened, wait_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from planloom.core.events import Event

ERROR_COLUMNS = 300
ITEMS_EVERY_S = 5.0
"""Seconds between two lines that say how far a map is."""


class Progress(Protocol):
    """Hears every event of a run in order."""

    def begin(self) -> None: ...

    def take(self, event: Event) -> None: ...

    def end(self) -> None: ...


class Silent:
    """Tells nothing."""

    def begin(self) -> None:
        pass

    def take(self, event: Event) -> None:
        pass

    def end(self) -> None:
        pass


class Lines:
    """Tells a line for each step that ends, is tried again or waits: `12:03:04 extract completed 32 ms`."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._began: dict[str, float] = {}
        self._errors: dict[str, str] = {}
        self._asking: set[str] = set()
        self._widths: dict[str, int] = {}
        self._items: dict[str, int] = {}
        self._told_at: dict[str, float] = {}

    def begin(self) -> None:
        pass

    def end(self) -> None:
        pass

    def take(self, event: Event) -> None:
        words = self._words(event)
        if words:
            moment = datetime.fromtimestamp(event.at).astimezone().strftime("%H:%M:%S")
            self._tell(f"{moment} {words}")

    def _words(self, event: Event) -> str:
        match event:
            case AttemptSucceeded():
                return "" if event.step in self._asking else self._succeeded(event)
            case AttemptFailed():
                self._errors[event.step] = event.error
            case StepDispatched() | SubPlanStarted() | WaitStarted():
                self._began.setdefault(event.step, event.at)
            case StepExpanded():
                self._began.setdefault(event.step, event.at)
                self._widths[event.step] = len(event.items)
                return f"{printable(event.step)} {counted(len(event.items), 'item')}"
            case StepSucceeded():
                return self._closed(event)
            case _:
                return self._trouble(event)
        return ""

    def _succeeded(self, event: AttemptSucceeded) -> str:
        if event.step.endswith("]"):
            return self._item(event)
        facts = [duration_text(event.at - event.started_at), money_text(event.cost_usd) if event.cost_usd else ""]
        facts += ["cached" if event.cached else "", f"attempt {event.attempt}" if event.attempt > 1 else ""]
        return f"{printable(event.step)} completed {', '.join(fact for fact in facts if fact)}"

    def _item(self, event: AttemptSucceeded) -> str:
        owner = event.step.rpartition("[")[0]
        self._items[owner] = self._items.get(owner, 0) + 1
        if event.at - self._told_at.setdefault(owner, self._began.get(owner, event.at)) < ITEMS_EVERY_S:
            return ""
        self._told_at[owner] = event.at
        return f"{printable(owner)} {self._items[owner]:,} of {counted(self._widths.get(owner, 0), 'item')} done"

    def _closed(self, event: StepSucceeded) -> str:
        took = duration_text(event.at - self._began[event.step]) if event.step in self._began else ""
        facts = [took] if not event.reused else ["reused"]
        if event.step in self._widths:
            facts.append(counted(self._widths[event.step], "item"))
        facts += [f"{len(event.errors):,} failed"] if event.errors else []
        return f"{printable(event.step)} completed {', '.join(fact for fact in facts if fact)}".rstrip()

    def _trouble(self, event: Event) -> str:
        match event:
            case ReplanRequested():
                self._asking.add(event.step)
                error = _error(self._errors.get(event.step, ""))
                return f"{printable(event.step)} attempt {event.attempt - 1} failed: {error}; asks for another plan"
            case StepReplanned():
                return f"{printable(event.step)} is done by another plan of {counted(len(event.plan.steps), 'step')}"
            case RetryScheduled():
                wait = duration_text(max(0.0, event.due_at - event.at))
                error = _error(self._errors.get(event.step, ""))
                return f"{printable(event.step)} attempt {event.attempt - 1} failed: {error}; again in {wait}"
            case StepFailed():
                return f"{printable(event.step)} {event.status.value.replace('_', ' ')}: {_error(event.error)}"
            case StepSkipped():
                because = f" ({printable(event.because)})" if event.because else ""
                return f"{printable(event.step)} skipped: {event.reason.value.replace('_', ' ')}{because}"
            case AttemptWaiting(reason=str(reason)):
                return f"{printable(event.step)} {wait_text(reason, event.until)}"
            case ApprovalRequested():
                return f"{printable(event.step)} waits for approval: {_error(event.message)}"
            case OutcomeUnknown():
                return f"{printable(event.step)} outcome unknown: attempt {event.attempt} was under way when it ended"
            case CircuitChanged():
                return f"circuit breaker of {printable(event.tool)}: {event.state.replace('_', ' ')}"
            case _:
                return _stops(event)


def _stops(event: Event) -> str:
    """Return what is told of whatever keeps a whole run from going on."""
    match event:
        case PauseRequested():
            return f"paused by {printable(event.by)}"
        case CancelRequested():
            return f"cancelled by {printable(event.by)}" + (f": {printable(event.reason)}" if event.reason else "")
        case RunStopping():
            failed = event.status is RunStatus.FAILED and event.because
            because = f"step {event.because} failed" if failed else event.because
            return f"stopping: {printable(because)}" if because else ""
        case _:
            return ""


def _error(text: str) -> str:
    return shortened(printable(text), ERROR_COLUMNS)
