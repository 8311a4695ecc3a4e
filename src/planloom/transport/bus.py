"""EventBus: tells whoever listens, in this process, what happened.

Rule 1: nothing depends on an event being delivered. The truth is the journal; an event says where to look, and wakes.
Rule 2: `publish` never waits for a listener, and never fails because of one. In a thread it hands over to the loop.
Rule 3: a subscription hears everything from the moment it was made, before anybody has read from it: subscribe, then
publish, and no reply is lost.
Rule 4: every buffer is bounded; what does not fit is counted, and its owner is told what is missing and where it is.
Rule 5: an event of an id that was published before, as far as the history goes back, is dropped.
Rule 6: a bus lives on one event loop, the first that it was used from; a subscription that nobody holds is forgotten.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from planloom.errors import ConfigError, NoReplyError
from planloom.transport.event import SOURCE, Event, new_event_id
from planloom.transport.hearing import Buffer, Callback, Listener, Subscription, Wanted, checked_topic

HISTORY = 10_000
"""Events a bus remembers."""
BUFFER = 1_000
"""Events that may wait for one subscriber or listener."""
CLOSE_S = 1.0
"""Seconds that listeners have to take in what they were sent when the bus closes."""


class EventBus:
    """Publishes events to whoever subscribed to their topic. An async context manager.

    Args:
        history: Events that are remembered, for `recent` and to drop those that come twice.
        buffer: Events that may wait for one subscriber or listener, unless it says otherwise.
    """

    def __init__(self, *, history: int = HISTORY, buffer: int = BUFFER) -> None:
        self._buffer = buffer
        self._recent: deque[Event] = deque()
        self._history = history
        self._ids: set[tuple[str, str]] = set()
        self._subscriptions: WeakSet[Subscription] = WeakSet()
        self._listeners: list[Listener] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def publish(self, event: Event) -> bool:
        """Tell everybody who wants to know; return at once, whatever they do.

        Returns:
            False if an event of this source and id was published before, or the bus is closed.

        Raises:
            ConfigError: This thread has no event loop, and nobody published here from one before.
        """
        if not self._is_home():
            self._hand_over(event)
            return True
        place = (event.source, event.id)
        if self._closed or place in self._ids:
            return False
        if self._history > 0:
            if len(self._recent) >= self._history:
                oldest = self._recent.popleft()
                self._ids.discard((oldest.source, oldest.id))
            self._recent.append(event)
            self._ids.add(place)
        hearing: list[Subscription | Listener] = [*self._subscriptions, *self._listeners]
        for one in hearing:
            if one.wanted.fits(event):
                one.offer(event)
        return True

    def _is_home(self) -> bool:
        """Return whether this is the event loop that the bus lives on; the first that it sees is."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if self._loop is not here and (self._loop is None or not self._loop.is_running()):
            self._loop = here
        return self._loop is here

    def _hand_over(self, event: Event) -> None:
        """Have an event published on the loop of the bus; this is a thread: that of a listener, say."""
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self.publish, event)
                return
        except RuntimeError:  # it has closed
            pass
        raise ConfigError("there is no event loop here", remedy="publish from a coroutine")

    def subscribe(
        self, topic: str = "*", correlation_id: str | None = None, *, buffer: int | None = None
    ) -> Subscription:
        """Return the events of a topic from now on, whether or not anybody reads them yet.

        Args:
            topic: An event's type, or a pattern, e.g. "planloom.step.*".
            correlation_id: Only events of this run, or request.
            buffer: Events that may wait to be read.
        """
        kept = Buffer(self._buffer if buffer is None else buffer)
        made = Subscription(Wanted(checked_topic(topic), correlation_id), kept, self._subscriptions.discard)
        self._is_home()
        if self._closed:
            made.close()
        else:
            self._subscriptions.add(made)
        return made

    def listen(
        self, callback: Callback, topic: str = "*", correlation_id: str | None = None, *, buffer: int | None = None
    ) -> Listener:
        """Have a function called with each event of a topic, in order; what it raises is logged.

        A function that is not async is called in a thread. Where its buffer had no room, it is called with an event of
        type "planloom.bus.gap".
        """
        kept = Buffer(self._buffer if buffer is None else buffer)
        made = Listener(callback, Wanted(checked_topic(topic), correlation_id), kept, self._leave)
        self._is_home()
        if not self._closed:
            self._listeners.append(made)
        return made

    def _leave(self, listener: Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)

    async def request(self, topic: str, payload: dict[str, Any], timeout: float, *, source: str = SOURCE) -> Event:
        """Publish an event and return the first that was caused by it (see `reply`).

        Args:
            timeout: Seconds to wait.

        Raises:
            NoReplyError: Nobody answered in time.
        """
        asked = Event.new(checked_topic(topic), payload, correlation_id=new_event_id(), source=source)
        async with self.subscribe(correlation_id=asked.correlation_id) as replies:
            self.publish(asked)
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    async for event in replies:
                        if event.causation_id == asked.id:
                            return event
        raise NoReplyError(f"nobody answered {topic!r} within {timeout:g} s", remedy="is anybody listening?")

    def reply(self, request: Event, payload: dict[str, Any], *, source: str = SOURCE) -> Event:
        """Publish the answer to a request, and return it."""
        answer = Event.new(
            f"{request.type}.reply",
            payload,
            correlation_id=request.correlation_id,
            causation_id=request.id,
            source=source,
        )
        self.publish(answer)
        return answer

    def recent(self, topic: str = "*", correlation_id: str | None = None) -> list[Event]:
        """Return the events that are remembered, oldest first."""
        wanted = Wanted(checked_topic(topic), correlation_id)
        return [event.copy() for event in self._recent if wanted.fits(event)]

    async def close(self) -> None:
        """End every subscription, and give listeners CLOSE_S to take in what has come. A second call is harmless."""
        self._closed = True
        for subscription in tuple(self._subscriptions):
            subscription.close()
        others = [one for one in self._listeners if not one.is_here]
        for one in set(self._listeners) - set(others):
            one.close()
        self._listeners = []
        if others:
            draining = [asyncio.create_task(one.drained()) for one in others]
            await asyncio.wait(draining, timeout=CLOSE_S)
            await asyncio.gather(*(one.stop() for one in others))
            for task in draining:
                task.cancel()
            await asyncio.gather(*draining, return_exceptions=True)

    async def __aenter__(self) -> EventBus:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
