"""A tool is called no faster than it may be: calls beyond its rate wait for their turn, in order.

Rule 1: the bucket is that of `models/rates.py`: a second's worth of calls may begin together, then one after the other.
Rule 2: a wait is on record, with until when; it counts to the time of the step, not to the tool's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planloom.models.rates import RateLimit, RateLimits

if TYPE_CHECKING:
    from planloom.ports import AttemptContext


class CallRate:
    """The rate of one tool.

    Args:
        per_second: Calls, of all runs of the engine together.
        rates: The buckets of the engine's tools.
    """

    def __init__(self, tool: str, per_second: float, rates: RateLimits) -> None:
        self._tool = tool
        self._limit = RateLimit(requests_per_minute=per_second * 60)
        self._rates = rates

    async def turn(self, context: AttemptContext) -> None:
        """Return as soon as one more call may be made; it counts as made."""
        await self._rates.admit(self._tool, 0.0, self._limit, on_wait=context.waiting)
