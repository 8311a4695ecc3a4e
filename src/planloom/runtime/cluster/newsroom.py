"""What happens in the cluster's runs, told as it happens to whoever follows.

Rule 1: only what is on record is told, and only once it is. Who missed something reads it from the record.
Rule 2: news hold up nothing: what cannot be told in time is not told.
Rule 3: an event is the same whichever agent tells it: who has heard its id before, has heard it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from planloom.errors import BrokerError, JournalError
from planloom.runtime.cluster import bodies
from planloom.transport.event import MEDIA_TYPE
from planloom.transport.events_out import RunEvents, source_of
from planloom.transport.nats import subjects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planloom.ports import Journal, Recorded
    from planloom.transport.event import Event
    from planloom.transport.nats.link import BrokerLink

_log = logging.getLogger("planloom.cluster")

_HEADERS = {"Content-Type": MEDIA_TYPE}
"""Says that the whole event is in the body."""
KEPT_RUNS = 500
MOST_WAITING = 10_000
"""Batches of news that wait; more are dropped."""


class Newsroom:
    """Publishes the events of runs.

    Attributes:
        dropped: Batches that were not told.
    """

    def __init__(self, link: BrokerLink, journal: Journal) -> None:
        self._link = link
        self._journal = journal
        self._runs: OrderedDict[str, tuple[int, RunEvents]] = OrderedDict()
        self._waiting: asyncio.Queue[tuple[str, Sequence[Recorded], Sequence[Recorded]]] = asyncio.Queue(MOST_WAITING)
        self._telling: asyncio.Task[None] | None = None
        self.dropped = 0

    def start(self) -> None:
        self._telling = asyncio.get_running_loop().create_task(self._tell_on())

    def tell(self, run_id: str, news: Sequence[Recorded], *, missed: Sequence[Recorded] = ()) -> None:
        """Have it told what is new of a run.

        Args:
            missed: What others recorded before, and tell: as far as it is at hand. The rest is read.
        """
        try:
            self._waiting.put_nowait((run_id, news, missed))
        except asyncio.QueueFull:
            self.dropped += 1

    async def tell_now(self, event: Event) -> None:
        """Tell something that is on no record."""
        subject = subjects.news(event.correlation_id or "", event.type)
        try:
            await self._link.publish(subject, bodies.news_body(event), headers=_HEADERS)
        except BrokerError as error:
            self.dropped += 1
            _log.debug("news are not told: %s", error.message)

    async def close(self) -> None:
        """Tell what waits, for a moment, and go."""
        if self._telling is None:
            return
        try:
            async with asyncio.timeout(1.0):
                await self._waiting.join()
        except TimeoutError:
            self.dropped += self._waiting.qsize()
        self._telling.cancel()
        await asyncio.gather(self._telling, return_exceptions=True)

    async def _tell_on(self) -> None:
        while True:
            run_id, news, missed = await self._waiting.get()
            try:
                self._catch_up(run_id, missed)
                for recorded in news:
                    for event in await self._events(run_id, recorded):
                        await self.tell_now(event)
            except JournalError as error:
                self.dropped += 1
                _log.warning("news of run %s are not told: %s", run_id, error.message)
            finally:
                self._waiting.task_done()

    def _catch_up(self, run_id: str, missed: Sequence[Recorded]) -> None:
        """Take note of what others tell; where something before it is not known, nothing of it is."""
        seq, told = self._runs.get(run_id, (0, None))
        for recorded in missed:
            if recorded.seq == seq + 1:
                told = told or RunEvents(run_id, source=source_of(run_id))
                told.of(recorded)
                seq = recorded.seq
        if told is not None:
            self._runs[run_id] = seq, told

    async def _events(self, run_id: str, recorded: Recorded) -> list[Event]:
        """Return what an entry is to those who listen, having read what others recorded before it."""
        seq, told = self._runs.pop(run_id, (0, RunEvents(run_id, source=source_of(run_id))))
        if recorded.seq <= seq:
            self._runs[run_id] = seq, told
            return []
        if seq < recorded.seq - 1:
            for missed in await self._journal.read(run_id, after=seq, limit=recorded.seq - 1 - seq):
                told.of(missed)
        events = told.of(recorded)
        self._runs[run_id] = recorded.seq, told
        while len(self._runs) > KEPT_RUNS:
            self._runs.popitem(last=False)
        return events
