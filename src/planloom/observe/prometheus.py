"""Measurements as Prometheus' text exposition, version 0.0.4.

Rule 1: what was never measured is told as its name alone, so that a dashboard knows that it is there.

Source: prometheus.io/docs/instrumenting/exposition_formats, read 2026-11.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from planloom.observe.instruments import Form

if TYPE_CHECKING:
    from planloom.observe.instruments import Instrument
    from planloom.observe.series import Distribution

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Values = Mapping[tuple[str, ...], "float | Distribution"]
"""By the values of an instrument's labels, in their order."""


def exposition(measured: Iterable[tuple[Instrument, Values]]) -> str:
    """Return all that was measured as text."""
    return "".join(line for instrument, values in measured for line in _family(instrument, values))


def _family(instrument: Instrument, values: Values) -> Iterator[str]:
    name = instrument.prometheus_name
    yield f"# HELP {name} {_about(instrument.about)}\n"
    yield f"# TYPE {name} {instrument.form.value}\n"
    for labels, value in sorted(values.items(), key=lambda entry: entry[0]):
        pairs = list(zip(instrument.labels, labels, strict=True))
        if instrument.form is Form.HISTOGRAM:
            assert not isinstance(value, float | int), "a histogram is made of distributions"
            yield from _histogram(name, instrument.buckets, pairs, value)
        else:
            assert isinstance(value, float | int), "what is no histogram is a number"
            yield f"{name}{_labels(pairs)} {_number(value)}\n"


def _histogram(
    name: str, buckets: tuple[float, ...], pairs: list[tuple[str, str]], found: Distribution
) -> Iterator[str]:
    below = 0
    for bound, count in zip((*buckets, float("inf")), found.counts, strict=True):
        below += count
        yield f"{name}_bucket{_labels([*pairs, ('le', _number(bound))])} {below}\n"
    yield f"{name}_sum{_labels(pairs)} {_number(found.total)}\n"
    yield f"{name}_count{_labels(pairs)} {below}\n"


def _labels(pairs: list[tuple[str, str]]) -> str:
    if not pairs:
        return ""
    return "{" + ",".join(f'{name.replace(".", "_")}="{_escaped(value)}"' for name, value in pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _about(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))
