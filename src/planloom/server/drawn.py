"""Views of runs as they were last drawn: many who look at one run are shown one drawing.

Rule 1: a view is drawn anew as soon as the run's record has another event, or whether it is driven has changed.
Rule 2: what is kept is the text that is sent, and bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from planloom.blocking import in_thread
from planloom.server.locks import NamedLocks
from planloom.server.problems import json_bytes
from planloom.server.view import view_of

if TYPE_CHECKING:
    from planloom.runtime.reading import RunOnRecord
    from planloom.server.readings import Readings

KEPT_BYTES = 16_000_000


@dataclass(frozen=True, slots=True)
class Drawn:
    """One view as JSON.

    Attributes:
        stamp: What it was drawn of: the number of the last event, and whether anybody drives the run.
        hash: Of the picture.
        whole, rest: With the picture, and without it.
    """

    stamp: tuple[int, bool | None]
    hash: str
    whole: bytes
    rest: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.whole) + len(self.rest)


class DrawnViews:
    """The last view of each run; those looked at longest ago are forgotten first."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings
        self._kept: OrderedDict[str, Drawn] = OrderedDict()
        self._size_bytes = 0
        self._locks = NamedLocks()

    async def view(self, run_id: str, *, known: str = "") -> bytes:
        """Return what the page draws of a run, as JSON; raises as `read_run`.

        Args:
            known: Hash of the picture that the page has; it is not sent again.
        """
        async with self._locks.alone(run_id):
            run = await self._readings.read(run_id)
            drawn = self._kept.get(run_id)
            if drawn is None or drawn.stamp != _stamp(run):
                drawn = await in_thread(partial(_drawn, run))
            self._keep(run_id, drawn)
        return drawn.rest if known == drawn.hash else drawn.whole

    def _keep(self, run_id: str, drawn: Drawn) -> None:
        old = self._kept.pop(run_id, None)
        self._size_bytes += drawn.size_bytes - (old.size_bytes if old is not None else 0)
        self._kept[run_id] = drawn
        while self._size_bytes > KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._size_bytes -= oldest.size_bytes


def _stamp(run: RunOnRecord) -> tuple[int, bool | None]:
    return run.records[-1].seq, run.driven


def _drawn(run: RunOnRecord) -> Drawn:
    view = view_of(run)
    whole = json_bytes(view)
    graph = view["graph"]
    return Drawn(_stamp(run), graph["hash"], whole, json_bytes(view | {"graph": graph | {"svg": None}}))
