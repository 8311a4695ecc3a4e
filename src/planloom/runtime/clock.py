"""Time as a real engine has it: wall time that never goes back, timers of the event loop, and the time of each run.

Rule 1: between two looks at the wall clock time passes as the machine's own counter says; it is never set back.
Rule 2: where the wall clock is ahead, the machine slept or its clock was set: then it is that late, for moments. What
counts seconds (the limit of an attempt, a run or a sub-plan) counts those in which the machine was awake.
Rule 3: a run's own time never goes back either, whatever clock its record was written by; no other run notices.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planloom.core.events import Fact
    from planloom.ports import Clock

JUMP_S = 1.0
"""Seconds that the wall clock has to be ahead before that counts: less than that, clocks differ for many reasons."""
_TIMES = ("at", "started_at", "until")


class LoopClock:
    """Wall time as it was at the last look, plus what the machine's own counter says has passed since.

    Args:
        wall: Returns seconds since the epoch, which somebody may set.
        monotonic: Returns seconds since some moment, which nobody can set; it may stand still while the machine sleeps.
    """

    def __init__(
        self, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._offset = wall() - monotonic()

    def now(self) -> float:
        return self._offset + self._monotonic()

    def call_at(self, when: float, callback: Callable[[], None]) -> Callable[[], None]:
        return asyncio.get_running_loop().call_later(max(0.0, when - self.now()), callback).cancel

    def catch_up(self) -> float:
        """Look at the wall clock, and go to where it is if that is ahead; return how many seconds that was."""
        ahead_s = self._wall() - self.now()
        if ahead_s < JUMP_S:
            return 0.0
        self._offset += ahead_s
        return ahead_s


class RunClock:
    """The time of one run: its engine's, or later, where its record says that it was later already.

    Attributes:
        ahead_s: By how many seconds.
    """

    __slots__ = ("_clock", "ahead_s")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ahead_s = 0.0

    def now(self) -> float:
        return self._clock.now() + self.ahead_s

    def call_at(self, when: float, callback: Callable[[], None]) -> Callable[[], None]:
        return self._clock.call_at(when - self.ahead_s, callback)

    def not_before(self, at: float) -> None:
        """From here on tell `at` or later."""
        self.ahead_s += max(0.0, at - self.now())

    def caught_up(self, by_s: float) -> None:
        """Hear that the engine's own time went so many seconds ahead: what this one was ahead already, it stays."""
        self.ahead_s = max(0.0, self.ahead_s - by_s)


def moved(fact: Fact, by_s: float) -> Fact:
    """Return a fact as it reads by a clock that is so many seconds ahead."""
    times = {name: getattr(fact, name, None) for name in _TIMES}
    there = {name: at + by_s for name, at in times.items() if isinstance(at, int | float)}
    return replace(fact, **there)  # type: ignore[arg-type]  # each of these fields is a number in every fact
