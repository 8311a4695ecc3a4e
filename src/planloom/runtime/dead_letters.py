"""What nothing more will be tried for: the dead letters of runs on record.

A dead letter says that a step was tried and is given up: by whom it was asked for, what it was to do, how often it was
tried, and what came of each attempt. `ExecutionAgent` publishes them as they come.

Rule 1: they follow from the record alone, so no agent that dies takes one with it; the same one has the same id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planloom.core.result import RunStatus
from planloom.transport.event import SOURCE, Event
from planloom.transport.events_out import DEAD_LETTER, RunEvents

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planloom.ports import Journal, Recorded

_WITH_FAILURES = frozenset(RunStatus) - {RunStatus.SUCCESS, RunStatus.CANCELLED}
"""Statuses of runs that steps may have failed in; one that a plan tolerates makes its run partial."""


def letters_of(run_id: str, entries: Iterable[Recorded], *, source: str = SOURCE) -> list[Event]:
    """Return the dead letters of one run, in the order they came."""
    run = RunEvents(run_id, source=source)
    return [event for one in entries for event in run.of(one) if event.type == DEAD_LETTER]


async def dead_letters(
    journal: Journal, run_id: str | None = None, *, limit: int = 100, source: str = SOURCE
) -> list[Event]:
    """Return the dead letters on record, those of the newest run first.

    Args:
        run_id: Only of this run.
        limit: Runs to look at, the newest first.

    Raises:
        RunNotFoundError: No such run.
    """
    if run_id is not None:
        names = [run_id]
    else:
        names = [row.run_id for row in await journal.runs(limit=limit) if RunStatus(row.status) in _WITH_FAILURES]
    found: list[Event] = []
    for name in names:
        found += letters_of(name, await journal.read(name), source=source)
    return found
