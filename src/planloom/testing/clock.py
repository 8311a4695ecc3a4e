"""A clock that only its owner moves.

Rule 1: time passes in `advance` and nowhere else; what is due on the way is called in order of its time, at its time.
Rule 2: like the real one it never goes back, and never calls anybody before `call_at` has returned.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

NOON = 1_760_000_000.0
"""Seconds since the epoch at which a clock begins unless told otherwise."""


class ManualClock:
    """A `ports.Clock` for tests.

    Args:
        now: Seconds since the epoch.
    """

    def __init__(self, now: float = NOON) -> None:
        self._now = now
        self._numbers = count()
        self._due: list[tuple[float, int]] = []
        self._callbacks: dict[int, Callable[[], None]] = {}

    def now(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> Callable[[], None]:
        number = next(self._numbers)
        self._callbacks[number] = callback
        heappush(self._due, (when, number))
        return lambda: self._forget(number)

    @property
    def next_due(self) -> float | None:
        """Return when the next callback is due, which may be in the past; None when nobody waits."""
        while self._due and self._due[0][1] not in self._callbacks:
            heappop(self._due)
        return self._due[0][0] if self._due else None

    def advance(self, seconds: float) -> None:
        """Let time pass, and call whatever is due up to then, also what is only set on the way.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"time does not go back: advance({seconds!r})")
        end = self._now + seconds
        while (due := self.next_due) is not None and due <= end:
            _, number = heappop(self._due)
            self._now = max(self._now, due)
            self._callbacks.pop(number)()
        self._now = end

    def advance_to_next(self) -> bool:
        """Let time pass until the next callback is due and call what is due then; return False if nobody waits."""
        due = self.next_due
        if due is None:
            return False
        self.advance(max(0.0, due - self._now))
        return True

    def _forget(self, number: int) -> None:
        self._callbacks.pop(number, None)
