"""How many worker processes there are to be, for what waits in their queues.

Rule 1: it is the rule of a pool (`transport/staff.py`): one is started for each that waits and for whom none is
coming, up to `max`; one beyond `min` that nobody needed for a while goes, and finds that out by itself.
Rule 2: one that cannot be started is not tried at once again.
"""

from __future__ import annotations

from dataclasses import dataclass

from planloom.transport.staff import FIRST_BACKOFF_S, MAX_BACKOFF_S


@dataclass(slots=True)
class CrewRule:
    """Says how many to start.

    Attributes:
        min: Processes that are kept even when there is nothing to do.
        max: Most of them at a time.
        capacity: Attempts that each makes at a time.
    """

    min: int
    max: int
    capacity: int
    failures: int = 0
    start_at: float = 0.0

    def to_start(self, *, here: int, coming: int, waiting: int, now: float) -> int:
        """Return how many to start now.

        Args:
            here: How many there are, with those that are coming.
            coming: How many of them do not take anything yet.
            waiting: Commands that nobody was given.
        """
        if now < self.start_at:
            return 0
        lacking = -(-(waiting - coming * self.capacity) // self.capacity)
        return max(self.min - here, min(lacking, self.max - here), 0)

    def started(self) -> None:
        """Note that one came to work."""
        self.failures = 0

    def failed(self, now: float) -> float:
        """Note that one ended before it came to work; return how many seconds none is started."""
        self.failures += 1
        wait_s = min(FIRST_BACKOFF_S * 2 ** min(self.failures - 1, 30), MAX_BACKOFF_S)
        self.start_at = now + wait_s
        return float(wait_s)
