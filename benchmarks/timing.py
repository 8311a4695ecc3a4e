"""How time is taken: in turns, in a quiet process, and the first turn does not count.

Rule 1: everything that exists before a measurement is frozen out of the garbage collector, which stays on: each side
pays for its own garbage and for nobody else's.
Rule 2: what keeps one core busy is timed in CPU seconds of the process (other programs do not count); what sleeps,
writes to a disk or has threads is timed by the wall.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, process_time

cpu_s = process_time
wall_s = perf_counter

Arm = Callable[[], Awaitable[float]]
"""Does the work once, from scratch, and returns the seconds of what is measured."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything: `tiny` only shows that a suite works."""

    tiny: bool = False

    def of(self, count: int, least: int = 2) -> int:
        """Return how many steps, runs, layers or bytes to take instead of `count`."""
        return max(least, count // 50) if self.tiny else count

    def rounds(self, count: int) -> int:
        return 1 if self.tiny else count


class Took:
    seconds = 0.0


@contextmanager
def timed(clock: Callable[[], float]) -> Iterator[Took]:
    """Time the block, with everything older than it out of the collector's sight."""
    took = Took()
    gc.collect()
    gc.freeze()
    started = clock()
    try:
        yield took
    finally:
        took.seconds = clock() - started
        gc.unfreeze()


async def in_turns(*arms: Arm, rounds: int) -> list[list[float]]:
    """Run the arms one after the other, `rounds` times and once before that counts for nothing.

    Every other round goes backwards, so that none of them always follows the same other.

    Returns:
        The seconds of each arm.
    """
    found: list[list[float]] = [[] for _ in arms]
    for number in range(rounds + 1):
        order = list(zip(arms, found, strict=True))
        for arm, seconds in reversed(order) if number % 2 else order:
            took = await arm()
            if number:
                seconds.append(took)
    return found
