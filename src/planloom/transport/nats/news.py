"""What agents of a cluster tell of its runs, heard as it happens.

Rule 1: it is heard by whoever listens at that moment: what was said before, or while the connection was down, is on
record, and told here as missed once the next event of its run is heard.
Rule 2: whoever may say something at these subjects is believed; what is no event is counted, and left out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from planloom.errors import ProtocolError
from planloom.transport.event import read_event
from planloom.transport.in_order import PATIENCE_S, InOrder
from planloom.transport.nats import subjects
from planloom.transport.nats.link import BrokerLink

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg

    from planloom.transport.event import Event
    from planloom.transport.in_order import Unheard
    from planloom.transport.nats.link import Broker

MOST_WAITING = 50_000
"""Events that wait for whoever listens; more are not kept, and show as missed."""


class NewsFeed:
    """Hears the events of all runs, each run's in order. An async context manager, and an iterator without an end.

    Args:
        on_trouble: Hears what goes wrong with the connection; it comes back by itself.
        patience_s: How long an event that one agent has not told yet is waited for, while others tell later ones.

    Attributes:
        unreadable: Messages that were no events.
    """

    def __init__(
        self, broker: Broker, *, on_trouble: Callable[[str], None] = lambda _: None, patience_s: float = PATIENCE_S
    ) -> None:
        self._link = BrokerLink(broker, on_trouble=on_trouble)
        self._order = InOrder(patience_s=patience_s)
        self._heard: asyncio.Queue[Event] = asyncio.Queue(MOST_WAITING)
        self._ready: deque[Event | Unheard] = deque()
        self.unreadable = 0

    async def __aenter__(self) -> NewsFeed:
        await self._link.open(wait_s=10.0)
        await self._link.subscribe(subjects.ALL_NEWS, self._hear)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._link.close()

    def __aiter__(self) -> NewsFeed:
        return self

    async def __anext__(self) -> Event | Unheard:
        loop = asyncio.get_running_loop()
        while not self._ready:
            try:
                async with asyncio.timeout_at(self._order.due_at):
                    event = await self._heard.get()
            except TimeoutError:
                self._ready += self._order.overdue(loop.time())
            else:
                self._ready += self._order.heard(event, loop.time())
        return self._ready.popleft()

    async def _hear(self, message: Msg) -> None:
        try:
            event = read_event(message.data)
        except ProtocolError:
            self.unreadable += 1
            return
        if message.subject != subjects.news(event.correlation_id or "", event.type):
            self.unreadable += 1  # it speaks of another run, or of something else, than its subject
            return
        if not self._heard.full():
            self._heard.put_nowait(event)
