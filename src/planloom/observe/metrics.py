"""Metrics of runs, made from their recorded events: for Prometheus as text, for OpenTelemetry as instruments.

Rule 1: what is counted is durable. What was on record before a run was taken up again is read and not counted; replays
and readings of a record are nobody's business here.
Rule 2: nothing here decides anything, and nothing that goes wrong here touches a run.
Rule 3: labels are bounded, see `series.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from planloom.observe import instruments as of
from planloom.observe.prometheus import Values, exposition
from planloom.observe.run_meter import RunMeter
from planloom.observe.series import MAX_VALUES, Series

if TYPE_CHECKING:
    from planloom.core.events import Event
    from planloom.observe.instruments import Instrument
    from planloom.ports import Recorded

MAX_RESTING = 10_000
"""Runs let go of before they ended that are remembered, for the questions that wait in them."""


class Sink(Protocol):
    """Whoever else is told each measurement."""

    def add(self, instrument: Instrument, value: float, labels: tuple[str, ...]) -> None: ...

    def gauges(self, read: Mapping[Instrument, Callable[[], float]]) -> None:
        """Be told what to read gauges with, from any thread."""
        ...


class Metrics:
    """Counts what runs do. Several engines of one event loop may share it.

    Args:
        max_values: Different values that one label may have, names of plans for one; what is beyond is "other".
    """

    def __init__(self, *, max_values: int = MAX_VALUES) -> None:
        self._series = Series(max_values=max_values)
        self._runs: dict[str, RunMeter] = {}
        self._resting: dict[str, int] = {}
        self._backlogs: dict[str, Callable[[], int]] = {}
        self._sinks: list[Sink] = []
        self._gauges: dict[Instrument, Callable[[], float]] = {
            of.RUNS_ACTIVE: lambda: len(self._runs),
            of.ATTEMPTS_ACTIVE: lambda: sum(run.attempts for run in list(self._runs.values())),
            of.APPROVALS_WAITING: lambda: (
                sum(len(run.asked) for run in list(self._runs.values())) + sum(list(self._resting.values()))
            ),
            of.JOURNAL_BACKLOG: lambda: sum(backlog() for backlog in list(self._backlogs.values())),
        }

    def tell_also(self, sink: Sink) -> None:
        """Tell somebody else each measurement from here on."""
        self._sinks.append(sink)
        sink.gauges(self._gauges)

    def begin(self, run_id: str, record: Iterable[Recorded] = (), *, backlog: Callable[[], int] = int) -> None:
        """Take note of a run that is driven here from now on.

        Args:
            record: What is on record of it already, which is not counted.
            backlog: Returns how many of its events are appended and not yet durable.
        """
        meter = self._runs[run_id] = RunMeter()
        self._resting.pop(run_id, None)
        self._backlogs[run_id] = backlog
        for recorded in record:
            for _ in meter.read(recorded.event):
                pass

    def observe(self, run_id: str, event: Event) -> None:
        """Count one event of a run, which is durable; events come in order, each once."""
        meter = self._runs.get(run_id)
        if meter is None:
            meter = self._runs[run_id] = RunMeter()
        for instrument, value, labels in meter.read(event):
            self._add(instrument, value, labels)
        if meter.ended:
            del self._runs[run_id]

    def flushed(self, seconds: float) -> None:
        """Count how long it took until something appended was durable."""
        self._add(of.FLUSH, seconds, ())

    def let_go(self, run_id: str) -> None:
        """Take note that a run is not driven here any more; one that has not ended may be taken up by anybody."""
        self._backlogs.pop(run_id, None)
        meter = self._runs.pop(run_id, None)
        if meter is not None and meter.asked:
            self._resting[run_id] = len(meter.asked)
            if len(self._resting) > MAX_RESTING:
                del self._resting[next(iter(self._resting))]

    def text(self) -> str:
        """Return all of it as Prometheus reads it; may be called from any thread."""
        gauges: list[tuple[Instrument, Values]] = [(gauge, {(): read()}) for gauge, read in self._gauges.items()]
        return exposition([*self._series.all(), *gauges])

    def _add(self, instrument: Instrument, value: float, labels: tuple[str, ...]) -> None:
        bounded = self._series.add(instrument, value, labels)
        for sink in self._sinks:
            sink.add(instrument, value, bounded)
