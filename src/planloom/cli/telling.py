"""How a run is told while it goes, and what is said of it at its end: by `run`, `resume` and `watch` alike."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from planloom.cli.progress import Lines, Silent
from planloom.core.result import RunStatus
from planloom.observe.text import summary_lines

if TYPE_CHECKING:
    from planloom.cli.output import Screen
    from planloom.cli.progress import Progress
    from planloom.cli.project import Workplace
    from planloom.core.result import RunResult


def progress_on(screen: Screen, *, quiet: bool = False) -> Progress:
    """Return what tells the events: a table that changes in place where notes go to a terminal, else lines."""
    if quiet:
        return Silent()
    if screen.notes_are_seen and os.environ.get("TERM", "dumb") != "dumb" and find_spec("rich") is not None:
        from planloom.cli.live import LiveTable

        return LiveTable(screen.notes, ascii_only=screen.notes_ascii_only)
    return Lines(screen.note)


def say_result(result: RunResult, screen: Screen, place: Workplace) -> None:
    """Print a run's output, how it ended or what it waits for, and the commands with which it goes on."""
    if screen.as_json:
        screen.answer(result.to_dict(), "")
    elif result.output is not None:
        screen.answer(None, screen.value_text(result.output))
    say_how_it_stands(result, screen, place)


def say_how_it_stands(result: RunResult, screen: Screen, place: Workplace) -> None:
    """Say all of that but the output."""
    for line in summary_lines(result):
        screen.note(line)
    hints, name = place.hints(), result.run_id
    if result.status is RunStatus.WAITING:
        for blocker in result.blockers():
            screen.note(f"to go on: {blocker['command']}{hints}")
        screen.note(f"then:     planloom resume {name}{place.hints(tools=True)}")
    elif result.status in (RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.LIMIT_EXCEEDED):
        screen.note(f"to run the rest: planloom resume --failed {name}{place.hints(tools=True)}")
