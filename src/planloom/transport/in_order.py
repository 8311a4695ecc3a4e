"""Events of runs as they are heard, put in order: what comes early waits a moment, what never comes is told as missed.

Rule 1: of one run, events go on in the order of its record; none twice, none before one that was heard late.
Rule 2: an entry of which not all was heard within `patience_s` is told as missed, once; what comes of it later is left
out.
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
    """Entries of a run's record that were not heard, the first perhaps in part; they are on record.

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
    of_entry: int = 0
    """How many events entry `seq` has."""
    held: dict[int, list[Event]] = field(default_factory=dict)
    """Early ones, by number."""
    since: float = 0.0
    """Since when something is waited for."""

    @property
    def is_whole(self) -> bool:
        """Return whether all of entry `seq` was told."""
        return len(self.ids) >= self.of_entry

    def is_next(self, seq: int) -> bool:
        return seq == self.seq or (seq == self.seq + 1 and self.is_whole)

    def is_over(self, seq: int) -> bool:
        """Return whether an entry is told of no more: a later one was, or it was given up."""
        return seq < self.seq or (seq == self.seq and not self.of_entry)

    def skip_to(self, seq: int) -> None:
        """Count everything up to an entry as told."""
        self.seq, self.of_entry = seq, 0
        self.ids.clear()


class InOrder:
    """Puts the events of many runs in order, each run by itself.

    Args:
        patience_s: How long an earlier event is waited for.
    """

    def __init__(self, *, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._waiting: OrderedDict[str, None] = OrderedDict()
        """Runs of which something is waited for, by since when."""
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
        if run.is_over(event.seq) or event.id in run.ids:
            return []
        if run.is_next(event.seq):
            found = [self._told(run, event), *self._let_go(run)]
            self._wait(event.correlation_id, run, now)
            return found
        early = run.held.setdefault(event.seq, [])
        if any(one.id == event.id for one in early):
            return []
        early.append(event)
        self._held += 1
        self._wait(event.correlation_id, run, now)
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
            run.skip_to(event.seq)
        run.ids.add(event.id)
        run.of_entry = event.of_entry
        return event

    def _wait(self, run_id: str, run: _Run, now: float) -> None:
        """Note whether something of a run is waited for."""
        if run.is_whole and not run.held:
            self._waiting.pop(run_id, None)
        elif run_id not in self._waiting:
            run.since = now
            self._waiting[run_id] = None

    def _first_given_up(self) -> list[Event | Unheard]:
        """Wait no longer for what was not heard of the run that waits longest."""
        run_id = next(iter(self._waiting))
        run = self._runs[run_id]
        last = min(run.held) - 1 if run.held else run.seq
        unheard = Unheard(run_id, run.seq + 1 if run.is_whole else run.seq, last)
        run.skip_to(last)
        found = [unheard, *self._let_go(run)]
        del self._waiting[run_id]
        self._wait(run_id, run, run.since + self._patience_s)  # there may be another hole behind
        return found

    def _let_go(self, run: _Run) -> list[Event | Unheard]:
        """Return the early events that are not early any more."""
        found: list[Event | Unheard] = []
        while run.held and run.is_next(min(run.held)):
            for event in run.held.pop(min(run.held)):
                self._held -= 1
                found.append(self._told(run, event))
        return found
