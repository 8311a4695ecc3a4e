"""Readings of runs that were looked at: whoever looks again has only read what came since.

Rule 1: a reading is never shown without asking the record for what came after it.
Rule 2: a reading is shared by all who look at the run, and nobody changes it.
Rule 3: what is kept is bounded by its text on record; what is not worth it is not kept.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from planloom.journal.codec import encode
from planloom.runtime.reading import RunOnRecord, read_run
from planloom.server.locks import NamedLocks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planloom.ports import Journal, Recorded

KEPT_CHARS = 16_000_000
"""Characters of all events of the runs that are kept, as they stand on record."""
LEAST_EVENTS = 30
"""A run with fewer events is read from the record as quickly."""


class Readings:
    """The runs of a journal as they were last read; those looked at longest ago are forgotten first."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._kept: OrderedDict[str, tuple[RunOnRecord, int]] = OrderedDict()
        self._chars = 0
        self._locks = NamedLocks()

    async def read(self, run_id: str) -> RunOnRecord:
        """Return a run from its record; raises as `read_run`."""
        async with self._locks.alone(run_id):  # many look at a run that moves: one of them reads
            known, chars = self._kept.get(run_id, (None, 0))
            try:
                run = await read_run(self._journal, run_id, known=known)
            except BaseException:
                self._forget(run_id)
                raise
            if len(run.records) >= LEAST_EVENTS:
                fresh = run.records[len(known.records) if known is not None else 0 :]
                self._keep(run_id, run, chars + _chars_of(fresh))
            return run

    def _keep(self, run_id: str, run: RunOnRecord, chars: int) -> None:
        self._forget(run_id)
        if chars > KEPT_CHARS:
            return
        self._kept[run_id] = run, chars
        self._chars += chars
        while self._chars > KEPT_CHARS:
            self._forget(next(iter(self._kept)))

    def _forget(self, run_id: str) -> None:
        _, chars = self._kept.pop(run_id, (None, 0))
        self._chars -= chars


def _chars_of(records: Iterable[Recorded]) -> int:
    """Return how long these events are as text."""
    found = 0
    for recorded in records:
        _, _, body, blobs = encode(recorded.event)
        found += len(body) + sum(len(blob.text) for blob in blobs)
    return found
