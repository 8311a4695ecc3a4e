"""The last event of each unended run as the table of events has it: what a damaged index would hide.

Rule: a journal walks over no row of its table twice, however many runs are taken from it.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planloom.journal.reader import Rows

_FOREVER = 2**63 - 1
_ROWID = "SELECT rowid FROM events WHERE run_id = ? AND seq = ?"
_WALK = (
    "SELECT run_id, max(seq) FROM events NOT INDEXED WHERE rowid > ? AND rowid <= ?"
    " AND run_id IN (SELECT run_id FROM runs WHERE status = 'running') GROUP BY run_id"
)


class Tails:
    """What was found on the walks so far. May be asked from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._walked_from = _FOREVER
        """Rows after this one have been walked over, up to the last there was then."""
        self._last: dict[str, int] = {}

    def is_last(self, connection: Rows, run_id: str, seq: int) -> bool:
        """Return whether the run has no event after this one in any row after its own, or had none at the last walk."""
        found = connection.execute(_ROWID, (run_id, seq)).fetchone()
        if found is None:  # the index led to this event in order, and does not find it by its number
            return False
        [row] = found
        with self._lock:
            if row < self._walked_from:
                for name, last in connection.execute(_WALK, (row, self._walked_from)):
                    self._last[name] = max(last, self._last.get(name, 0))
                self._walked_from = row
            return self._last.get(run_id, 0) <= seq
