"""Measurements as OpenTelemetry instruments.

Rule 1: this file is imported only where telemetry is switched on.
Rule 2: a value is added when it is measured; who collects them, and when, is the meter's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from planloom.observe.instruments import ALL, Form
from planloom.observe.metrics import Metrics
from planloom.observe.otel import metrics as otel

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram, Meter

    from planloom.observe.instruments import Instrument


_told: WeakKeyDictionary[Any, Metrics] = WeakKeyDictionary()
"""By meter, or by the process's provider of meters."""


class OtelMetrics:
    """Tells measurements to a meter.

    Args:
        meter: None: that of the provider that this process has set up.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        from planloom import __version__

        self._meter = meter or otel.get_meter("planloom", __version__)
        self._counters: dict[Instrument, Counter] = {}
        self._histograms: dict[Instrument, Histogram] = {}
        for one in ALL:
            if one.form is Form.COUNTER:
                self._counters[one] = self._meter.create_counter(one.name, one.unit, one.about)
            elif one.form is Form.HISTOGRAM:
                self._histograms[one] = self._meter.create_histogram(
                    one.name, one.unit, one.about, explicit_bucket_boundaries_advisory=one.buckets
                )

    def add(self, instrument: Instrument, value: float, labels: tuple[str, ...]) -> None:
        attributes = dict(zip(instrument.labels, labels, strict=True))
        if instrument.form is Form.COUNTER:
            self._counters[instrument].add(value, attributes)
        else:
            self._histograms[instrument].record(value, attributes)

    def gauges(self, read: Mapping[Instrument, Callable[[], float]]) -> None:
        for gauge, value in read.items():
            self._meter.create_observable_gauge(gauge.name, [_reading(value)], gauge.unit, gauge.about)


def metrics_of(meter: Meter | None = None) -> Metrics:
    """Return the metrics that are told to a meter, the same for everybody who names it: instruments are made once."""
    key: Any = otel.get_meter_provider() if meter is None else meter
    found = _told.get(key)
    if found is None:
        found = _told[key] = Metrics()
        found.tell_also(OtelMetrics(meter))
    return found


def _reading(value: Callable[[], float]) -> Callable[[Any], Iterable[otel.Observation]]:
    return lambda options: [otel.Observation(value())]
