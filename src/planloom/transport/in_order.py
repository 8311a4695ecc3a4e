"""Events of runs as they are heard, put in order: what comes early waits a moment, what never comes is told as missed.

Rule 1: of one run, events go on in the order of its record; none twice, none before one that was heard late.
Rule 2: a number that was not heard within `patience_s` is told as missed, once; what comes of it later is left out.
Rule 3: a run may be joined in the middle: what was before is missed, too, since whoever follows did not hear it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from planloom.plan.frozen import frozen

if TYPE_CHECKING:
    from planloom.transport.event import Event

PATIENCE_S = 1.0
"""Seconds that one agent may be behind another with telling."""
KEPT_RUNS = 20_000
MOST_HELD = 10_000
"""Events that wait for earlier ones; with more, it is not waited any longer."""


@frozen
class Unheard:
    """Entries of a run's record that were not heard; they are on record.

    Attributes:
        first: Number of the first.
        last: Number of the last.
    """

    run_id: str
    first: int
    last: int


@dataclass(slots=True)
class _Run:
    """How far one run was told."""

    seq: int = 0
    ids: set[str] = field(default_factory=set)
    """Of the events that were told of entry `seq`."""
    held: dict[int, list[Event]] = field(default_factory=dict)
    """Early ones, by number."""
    since: float = 0.0
    """When the first of them came."""


class InOrder:
    """Puts the events of many runs in order, each run by itself.

    Args:
        patience_s: How long an earlier event is waited for.
    """

    def __init__(self, *, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._waiting: OrderedDict[str, None] = OrderedDict()
        """Runs that have early events, by when they came."""
        self._held = 0

    @property
    def due_at(self) -> float | None:
        """Return when `overdue` is to be asked; None: nothing waits."""
        first = next(iter(self._waiting), None)
        return None if first is None else self._runs[first].since + self._patience_s

    def heard(self, event: Event, now: float) -> list[Event | Unheard]:
        """Take an event in; return what goes on because of it."""
        if event.seq is None or event.correlation_id is None:
            return [event]  # of no record, and so in no order
        run = self._run(event.correlation_id)
        if event.seq < run.seq or event.id in run.ids:
            return []
        if event.seq <= run.seq + 1:
            return [self._told(run, event), *self._let_go(event.correlation_id, run)]
        early = run.held.setdefault(event.seq, [])
        if any(one.id == event.id for one in early):
            return []
        if event.correlation_id not in self._waiting:
            run.since = now
            self._waiting[event.correlation_id] = None
        early.append(event)
        self._held += 1
        return self._first_given_up() if self._held > MOST_HELD else []

    def overdue(self, now: float) -> list[Event | Unheard]:
        """Return what goes on because it was waited for long enough."""
        found: list[Event | Unheard] = []
        while (due_at := self.due_at) is not None and due_at <= now:
            found += self._first_given_up()
        return found

    def _run(self, run_id: str) -> _Run:
        run = self._runs.setdefault(run_id, _Run())
        self._runs.move_to_end(run_id)
        while len(self._runs) > KEPT_RUNS:
            oldest = next(iter(self._runs))
            if oldest in self._waiting:
                self._runs.move_to_end(oldest)  # it is given up in its own time
                break
            del self._runs[oldest]
        return run

    @staticmethod
    def _told(run: _Run, event: Event) -> Event:
        assert event.seq is not None
        if event.seq > run.seq:
            run.seq = event.seq
            run.ids.clear()
        run.ids.add(event.id)
        return event

    def _first_given_up(self) -> list[Event | Unheard]:
        """Wait no longer for what the first run that waits has not heard."""
        run_id = next(iter(self._waiting))
        run = self._runs[run_id]
        missed = Unheard(run_id, run.seq + 1, min(run.held) - 1)
        run.seq = missed.last
        run.ids.clear()
        found = [missed, *self._let_go(run_id, run)]
        if run.held:  # there is another hole behind
            self._waiting.move_to_end(run_id)
            run.since += self._patience_s
        return found

    def _let_go(self, run_id: str, run: _Run) -> list[Event | Unheard]:
        """Return the early events that are not early any more."""
        found: list[Event | Unheard] = []
        while run.held and min(run.held) <= run.seq + 1:
            for event in run.held.pop(min(run.held)):
                self._held -= 1
                found.append(self._told(run, event))
        if not run.held:
            self._waiting.pop(run_id, None)
        return found
