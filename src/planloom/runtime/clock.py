"""The clock of a real engine: wall time that never goes back, and timers of the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class LoopClock:
    """Wall time as it was when the clock was made, plus monotonic time since: a clock set back changes nothing."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return self._offset + time.monotonic()

    def not_before(self, at: float) -> None:
        self._offset += max(0.0, at - self.now())

    def call_at(self, when: float, callback: Callable[[], None]) -> Callable[[], None]:
        return asyncio.get_running_loop().call_later(max(0.0, when - self.now()), callback).cancel
