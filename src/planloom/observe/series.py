"""Numbers by instrument and labels: added up here, in memory, within bounds.

Rule 1: a label takes MAX_VALUES different values at most; whatever comes after them is `other`.
Rule 2: adding is for the thread of the event loop; `all` may be called from any.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.observe.instruments import ALL, GAUGES, Form

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planloom.observe.instruments import Instrument

MAX_VALUES = 100
"""Different values of one label, e.g. names of plans."""
MAX_VALUE = 120
"""Characters of a value."""
OTHER = "other"

Labels = tuple[str, ...]


@dataclass(slots=True)
class Distribution:
    """How often values fell into each bucket of a histogram, the last one without a bound; and their sum."""

    counts: list[int]
    total: float = 0.0

    def add(self, value: float, buckets: tuple[float, ...]) -> None:
        self.counts[bisect_left(buckets, value)] += 1
        self.total += value


class Series:
    """All that was measured.

    Args:
        max_values: Different values that one label may have.
    """

    def __init__(self, *, max_values: int = MAX_VALUES) -> None:
        self._max_values = max_values
        self._seen: dict[str, dict[str, str]] = {}
        self._known: dict[tuple[Instrument, Labels], Labels] = {}
        self._numbers: dict[Instrument, dict[Labels, float]] = {one: {} for one in ALL}
        self._distributions: dict[Instrument, dict[Labels, Distribution]] = {one: {} for one in ALL}

    def add(self, instrument: Instrument, value: float, labels: Labels) -> Labels:
        """Add a measurement; return its labels as they count."""
        bounded = self._known.get((instrument, labels))
        if bounded is None:
            bounded = tuple(map(self._bounded, instrument.labels, labels))
            if OTHER not in bounded:  # else whoever makes up names would fill this, too
                self._known[instrument, labels] = bounded
        if instrument.form is Form.HISTOGRAM:
            of_it = self._distributions[instrument]
            found = of_it.get(bounded)
            if found is None:
                found = of_it[bounded] = Distribution([0] * (len(instrument.buckets) + 1))
            found.add(value, instrument.buckets)
        else:
            numbers = self._numbers[instrument]
            numbers[bounded] = numbers.get(bounded, 0.0) + value
        return bounded

    def all(self) -> Iterator[tuple[Instrument, dict[Labels, float | Distribution]]]:
        """Yield every instrument that is added up, with what was measured."""
        for instrument in ALL:
            if instrument not in GAUGES:
                found = self._distributions if instrument.form is Form.HISTOGRAM else self._numbers
                yield instrument, dict(found[instrument])

    def _bounded(self, label: str, value: str) -> str:
        seen = self._seen.setdefault(label, {})
        kept = seen.get(value)
        if kept is None:
            if len(seen) >= self._max_values:
                return OTHER
            kept = seen[value] = (
                value[:MAX_VALUE].encode(errors="replace").decode()
            )  # half a surrogate pair is no UTF-8
        return kept
