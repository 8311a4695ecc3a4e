"""How much each caller may ask: a bucket of requests for each, refilled as time goes by.

Rule 1: what is kept does not grow with the number of callers: those not heard of for longest are forgotten.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

KNOWN_CALLERS = 10_000
BURST = 0.1
"""The share of a minute's requests that may come at once."""


class RequestRate:
    """Requests by caller.

    Args:
        per_minute: Requests that a caller may make in a minute.
        now: Seconds since some moment; never goes back.
    """

    def __init__(self, per_minute: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_minute / 60
        self._room = max(1.0, per_minute * BURST)
        self._now = now
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """What each caller has left, and when that was so."""

    def take(self, caller: str) -> float:
        """Take one request of a caller; return 0.0, or the seconds after which there is one again."""
        now = self._now()
        left, at = self._left.get(caller, (self._room, now))
        left = min(self._room, left + (now - at) * self._per_s)
        if left < 1:
            return (1 - left) / self._per_s
        self._left[caller] = (left - 1, now)
        self._left.move_to_end(caller)
        if len(self._left) > KNOWN_CALLERS:
            self._left.popitem(last=False)
        return 0.0
