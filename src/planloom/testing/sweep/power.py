"""The power of one process, cut at one point: its ports, each of which asks first whether it still has any.

Rule 1: with the power goes what was written and not acknowledged, unless the point is after a write.
Rule 2: a process without power does nothing: it calls nobody, hears nobody and answers nobody.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from planloom.testing.crash import CrashingJournal, Spoil
from planloom.testing.sweep.loop import PatientLoop, for_ever
from planloom.testing.sweep.point import Point
from planloom.transport.local import LocalTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from planloom.core.commands import RunStep
    from planloom.core.events import Fact
    from planloom.ports import AttemptContext, Clock, Journal, MakeAttempt
    from planloom.testing.sweep.calls import CallBook
    from planloom.testing.sweep.point import PointKind


class Power:
    """Whether a process has power, and when it is cut.

    Attributes:
        reached: How often each port was used so far.
        journal: What it writes to.
    """

    def __init__(self, point: Point | None, disk: Journal, clock: Clock, *, lag: int) -> None:
        self.point = point
        self.reached: Counter[PointKind] = Counter()
        self._clock = clock
        cuts_write = point is not None and point.kind == "write"
        self.journal = _PoweredJournal(
            disk,
            self,
            at=point.number if point is not None and cuts_write else None,
            how=Spoil.AFTER if point is not None and point.moment == "after" else Spoil.BEFORE,
            lag=lag,
        )

    @property
    def off(self) -> bool:
        return self.journal.dead

    def comes_to(self, kind: PointKind) -> tuple[int, bool]:
        """Count the use of a port; return its number, and whether that is as far as the process comes."""
        if self.off:
            return 0, True
        self.reached[kind] += 1
        number = self.reached[kind]
        return number, self._cuts(kind, number, "before")

    def is_past(self, kind: PointKind, number: int) -> bool:
        """Return False if the process comes no further than having done this."""
        return not (self.off or self._cuts(kind, number, "after"))

    def _cuts(self, kind: PointKind, number: int, moment: str) -> bool:
        point = self.point
        if point is None or (point.kind, point.number, point.moment) != (kind, number, moment):
            return False
        self.journal.cut()
        return True

    async def about_to(self, kind: PointKind) -> int:
        """Do not return if the process has no power to go on; else return the number of the point."""
        number, is_last = self.comes_to(kind)
        if is_last:
            await for_ever()
        return number

    async def done(self, kind: PointKind, number: int) -> None:
        if not self.is_past(kind, number):
            await for_ever()

    def transport(self, book: CallBook) -> Callable[[MakeAttempt, Clock], LocalTransport]:
        """Return what makes a transport that makes attempts as long as there is power."""
        return lambda make, clock: LocalTransport(_powered(make, self, book), clock)

    def clock(self) -> Clock:
        return _PoweredClock(self._clock, self)


def _powered(make: MakeAttempt, power: Power, book: CallBook) -> MakeAttempt:
    async def attempt(request: RunStep, context: AttemptContext) -> Fact:
        if not request.role:
            book.attempts[(request.key, request.attempt)] = request
        if request.step.tool is not None and not request.role:
            return await make(request, context)  # its call is the point
        number = await power.about_to("attempt")
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PatientLoop)
        elsewhere = request.step.code is not None  # in a sandbox: a thread or a process
        loop.outside += elsewhere
        try:
            fact = await make(request, context)
        finally:
            loop.outside -= elsewhere
        await power.done("attempt", number)
        return fact

    return attempt


class _PoweredClock:
    def __init__(self, inner: Clock, power: Power) -> None:
        self._inner = inner
        self._power = power

    def now(self) -> float:
        return self._inner.now()

    def call_at(self, when: float, callback: Callable[[], None]) -> Callable[[], None]:
        number, is_last = self._power.comes_to("timer")
        if is_last:
            return _nothing

        def fired() -> None:
            if self._power.is_past("timer", number):
                callback()

        return self._inner.call_at(when, fired)


def _nothing() -> None:
    """Cancel a timer that was never set."""


class _PoweredJournal(CrashingJournal):
    """The journal of a process: what people say is heard at once, and is a point, too."""

    def __init__(self, disk: Journal, power: Power, **options: Any) -> None:
        super().__init__(disk, **options)
        self._power = power
        self._post = 0
        self._posted = asyncio.Event()

    async def post(self, run_id: str, fact: Fact) -> None:
        await super().post(run_id, fact)
        self._posted.set()

    async def posted_runs(self) -> set[str]:
        """Wait until something was left: a process that asks again and again would have time pass for nothing."""
        await self._posted.wait()
        self._posted.clear()
        return await super().posted_runs()

    async def posted(self, run_id: str) -> list[tuple[int, Fact]]:
        found = await super().posted(run_id)
        if found:
            self._post = await self._power.about_to("post")
        return found

    async def taken(self, run_id: str, number: int) -> None:
        await self._power.done("post", self._post)
        await super().taken(run_id, number)
