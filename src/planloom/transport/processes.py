"""A transport whose attempts are made by the worker processes of a pool.

Rule 1: it uses the pool and does not own it: several engines may share one.
Rule 2: when it closes, everything is asked to stop, and what does not is killed; nothing more is delivered.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from planloom.transport.fitting import PREFER, REQUIRE, tools_of
from planloom.transport.lanes import GRACE_S, LendingTerms, ProcessLane

if TYPE_CHECKING:
    from planloom.plan.model import Step
    from planloom.ports import Clock, Transport
    from planloom.transport.pool import WorkerPool
    from planloom.transport.wire import WireFormat


class ProcessTransport:
    """Has attempts made by the workers of a pool, which it uses and does not own.

    Args:
        here: Makes the attempts of `kinds_here`.
        kinds_here: Kinds of step that are done in this process.
        max_per_run: Workers that one run may have at a time; None: as many as there are.
        linger_s: Seconds a run keeps a worker for which it has nothing to do; infinity: until its end, so that a
            worker serves one program from start to end.
        patience_s: Seconds that an attempt waits for a worker with the labels its step asks for, or, where the pool
            starts none, for one to join.
    """

    def __init__(
        self,
        pool: WorkerPool,
        wire: WireFormat,
        clock: Clock,
        here: Transport,
        *,
        kinds_here: frozenset[str] = frozenset(),
        max_per_run: int | None = None,
        linger_s: float = 0.0,
        patience_s: float = 5.0,
    ) -> None:
        self._terms = LendingTerms(pool, wire, clock, here, kinds_here, max_per_run, linger_s, patience_s)
        self._lanes: list[ProcessLane] = []
        self._emptied: asyncio.Future[None] | None = None
        """Is done when the last lane has nothing under way, while this closes."""

    def lane(self) -> ProcessLane:
        lane = ProcessLane(self._terms, self._forget)
        self._lanes.append(lane)
        return lane

    def is_elsewhere(self, kind: str) -> bool:
        return kind not in self._terms.kinds_here

    def lacks(self, step: Step) -> str:
        if step.kind in self._terms.kinds_here or any(name.startswith((REQUIRE, PREFER)) for name in step.labels):
            return ""  # one with these labels may still come
        return self._terms.pool.lacks(tools_of(step))

    def _forget(self, lane: ProcessLane) -> None:
        """Take leave of a lane that was closed and has nothing under way."""
        if lane in self._lanes:
            self._lanes.remove(lane)
        if not self._lanes and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    async def close(self) -> None:
        for lane in list(self._lanes):
            lane.end_all()
        self._emptied = asyncio.get_running_loop().create_future()
        if self._lanes:
            await asyncio.wait([self._emptied], timeout=GRACE_S)
        for lane in list(self._lanes):
            await lane.cut_short()
        self._lanes.clear()
        await self._terms.here.close()
