"""How a run goes, as a table that changes in place; needs a terminal and the extra `rich`."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from planloom.core.events import (
    ApprovalRequested,
    AttemptFailed,
    AttemptSucceeded,
    AttemptWaiting,
    OutcomeUnknown,
    RetryScheduled,
    RunStarted,
    StepDispatched,
    StepExpanded,
    StepFailed,
    StepReplanned,
    StepSkipped,
    StepSucceeded,
    SubPlanStarted,
    WaitStarted,
)
from planloom.core.result import StepStatus
from planloom.observe.looks import BLOCKED, LOOKS, counted, duration_text, printable, shortened, wait_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from planloom.core.events import Event

_STYLES = {
    StepStatus.PENDING.value: "dim",
    StepStatus.READY.value: "dim",
    StepStatus.RUNNING.value: "blue",
    StepStatus.COMPLETED.value: "green",
    StepStatus.FAILED.value: "bold red",
    StepStatus.SKIPPED.value: "dim",
    StepStatus.CANCELLED.value: "yellow",
    StepStatus.TIMED_OUT.value: "bold red",
    BLOCKED: "bold yellow",
}
_FIRST = (BLOCKED, "running", "failed", "timed_out", "ready", "cancelled", "pending", "completed", "skipped")
"""What is worth a line first when there are more steps than lines."""
_ROOM = 6
"""Lines of the terminal left for what is not a step."""


class _Line:
    """One step of the table."""

    __slots__ = ("began", "done", "note", "status", "took", "width")

    def __init__(self) -> None:
        self.status: str = StepStatus.PENDING.value
        self.began: float | None = None
        self.took: float | None = None
        self.note = ""
        self.width: int | None = None
        self.done = 0


class LiveTable:
    """Draws all steps, or those that matter most where they do not fit."""

    def __init__(self, stream: TextIO, *, ascii_only: bool) -> None:
        self._lines: dict[str, _Line] = {}
        self._ascii_only = ascii_only
        self._console = Console(file=stream)
        self._spinner = Spinner("line" if ascii_only else "dots")
        self._live = Live(
            console=self._console, get_renderable=self._drawn, refresh_per_second=10, vertical_overflow="crop"
        )

    def begin(self) -> None:
        self._live.start()

    def end(self) -> None:
        self._live.stop()

    def take(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            for step in event.plan.steps:
                self._lines.setdefault(step.id, _Line())
            return
        key = getattr(event, "step", "")
        if key.endswith("]"):
            self._item(event, key.rpartition("[")[0])
        elif key:
            self._step(event, self._lines.setdefault(key, _Line()))

    def _item(self, event: Event, owner: str) -> None:
        line = self._lines.get(owner)
        if line is not None and isinstance(event, AttemptSucceeded | StepFailed | StepSkipped | StepSucceeded):
            line.done += 1

    def _step(self, event: Event, line: _Line) -> None:
        match event:
            case StepDispatched() | SubPlanStarted() | StepReplanned() | WaitStarted():
                line.status, line.began = StepStatus.RUNNING.value, event.at
                line.note = (
                    f"attempt {event.attempt}" if isinstance(event, StepDispatched) and event.attempt > 1 else ""
                )
            case StepExpanded():
                line.status, line.began, line.width = StepStatus.RUNNING.value, event.at, len(event.items)
            case AttemptSucceeded():
                line.status, line.took = StepStatus.COMPLETED.value, event.at - event.started_at
            case StepSucceeded():
                line.status = StepStatus.COMPLETED.value
                line.took = event.at - line.began if line.began is not None else None
                line.note = "reused" if event.reused else ""
            case AttemptWaiting():
                again = f"attempt {event.attempt}" if event.attempt > 1 else ""
                line.note = again if event.reason is None else wait_text(event.reason, event.until)
            case AttemptFailed():
                line.note = event.error
            case RetryScheduled():
                line.status = StepStatus.READY.value
                line.note = f"attempt {event.attempt - 1} failed: {line.note}"
            case StepFailed():
                line.status, line.note = event.status.value, event.error
                line.took = event.at - line.began if line.began is not None else None
            case StepSkipped():
                line.status, line.note = StepStatus.SKIPPED.value, event.reason.value.replace("_", " ")
            case ApprovalRequested():
                line.status, line.note = BLOCKED, event.message
            case OutcomeUnknown():
                line.status, line.note = BLOCKED, "nobody knows whether it was done"
            case _:
                pass

    def _drawn(self) -> RenderableType:
        lines = list(self._lines.items())
        room = max(3, self._console.height - _ROOM)
        shown = lines
        if len(lines) > room:
            keep = sorted(lines, key=lambda entry: _FIRST.index(entry[1].status))[:room]
            names = {name for name, _ in keep}
            shown = [entry for entry in lines if entry[0] in names]
        table = Table.grid(padding=(0, 2))
        for name, line in shown:
            table.add_row(*self._row(name, line))
        counts = Counter(line.status for _, line in lines)
        words = ", ".join(f"{counts[status]} {LOOKS[status].word}" for status in LOOKS if counts[status])
        return Group(table, Text(f"{counted(len(lines), 'step')}: {words}", style="dim"))

    def _row(self, name: str, line: _Line) -> tuple[RenderableType, ...]:
        look, style = LOOKS[line.status], _STYLES[line.status]
        running = line.status == StepStatus.RUNNING.value
        sign: RenderableType = (
            self._spinner if running else Text(look.ascii if self._ascii_only else look.symbol, style=style)
        )
        took = line.took
        if running and line.began is not None:
            took = time.time() - line.began
        items = f"{line.done} of {line.width}" if line.width is not None else ""
        note = Text(shortened(printable(line.note), 80), style="dim")
        words = Text(look.word, style=style)
        return sign, Text(shortened(printable(name), 40)), words, Text(duration_text(took)), Text(items), note
