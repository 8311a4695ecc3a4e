"""EventBus: tells whoever listens, in this process, what happened. `Event` is its envelope, in CloudEvents terms.

Rule 1: nothing depends on an event being delivered. The truth is the journal; an event says where to look, and wakes.
Rule 2: `publish` never waits for a listener, and never fails because of one. In a thread it hands over to the loop.
Rule 3: a subscription hears everything from the moment it was made, before anybody has read from it: subscribe, then
publish, and no reply is lost.
Rule 4: every buffer is bounded; what does not fit is counted, and its owner is told what is missing and where it is.
Rule 5: an event of an id that was published before, as far as the history goes back, is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from inspect import iscoroutinefunction
from time import time
from typing import TYPE_CHECKING, Any

from planloom.errors import ConfigError, EventGapError, NoReplyError
from planloom.plan.frozen import frozen

if TYPE_CHECKING:
    from types import TracebackType

_log = logging.getLogger("planloom.bus")

SOURCE = "/planloom"
"""Who says so, where nothing else is said."""
GAP = "planloom.bus.gap"
"""Type of the event that tells a listener that it missed some."""
HISTORY = 10_000
"""Events a bus remembers."""
BUFFER = 1_000
"""Events that may wait for one subscriber or listener."""
CLOSE_S = 1.0
"""Seconds that listeners have to take in what they were sent when the bus closes."""
_MAX_TOPIC = 200


def new_event_id() -> str:
    """Return an id that does not come twice."""
    return uuid.uuid4().hex


@frozen
class Event:
    """Something that happened.

    Attributes:
        id: Unique with its source; "RUN/SEQ", or "RUN/SEQ/…", for what is on record.
        type: Its topic, e.g. "planloom.step.completed".
        source: Who says so, a URI reference.
        time: Seconds since the epoch at which it happened.
        subject: What it is about: a step's key, or a worker.
        correlation_id: What belongs together: the run's id.
        causation_id: Id of the event that led to it; None for what came from outside.
        seq: Its number in the run's journal; None for what is not on record.
    """

    id: str
    type: str
    source: str
    time: float
    subject: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    seq: int | None = None

    @classmethod
    def new(
        cls,
        type: str,
        data: dict[str, Any] | None = None,
        *,
        subject: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        source: str = SOURCE,
        at: float | None = None,
    ) -> Event:
        """Return an event with an id of its own, now."""
        moment = time() if at is None else at
        return cls(new_event_id(), type, source, moment, subject, correlation_id, causation_id, data or {})

    def to_dict(self) -> dict[str, Any]:
        """Return the event in CloudEvents' JSON form; what is not set is left out."""
        told: dict[str, Any] = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
            "time": datetime.fromtimestamp(self.time, UTC).isoformat().replace("+00:00", "Z"),
            "correlationid": self.correlation_id,
            "causationid": self.causation_id,
            "sequence": None if self.seq is None else str(self.seq),
            "datacontenttype": "application/json",
            "data": self.data,
        }
        return {name: value for name, value in told.items() if value is not None}


Callback = Callable[[Event], "Awaitable[Any] | Any"]
"""Hears events: a coroutine function on the event loop, any other function in a thread; one event after the other."""


@dataclass(slots=True)
class _Missed:
    """A place in a buffer where events are missing."""

    count: int = 0
    after: dict[str, int] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        self.count += 1
        if event.seq is not None and event.correlation_id is not None:
            # What is derived from an entry has its number too, so the entry itself is read again.
            self.after.setdefault(event.correlation_id, event.seq - 1)

    def error(self) -> EventGapError:
        return EventGapError(self.count, self.after)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which events somebody wants to hear."""

    topic: str
    correlation_id: str | None = None

    def fits(self, event: Event) -> bool:
        if self.correlation_id is not None and event.correlation_id != self.correlation_id:
            return False
        return self.topic in ("*", event.type) or fnmatchcase(event.type, self.topic)


class _Buffer:
    """Events that wait for one reader, and marks where some are missing."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ConfigError(f"a buffer of {size} events holds none", remedy="give at least 1")
        self.missed = 0
        self.waiting: deque[Event | _Missed] = deque()
        self._size = size

    def put(self, event: Event) -> None:
        waiting = self.waiting
        if len(waiting) < self._size:
            waiting.append(event)
            return
        self.missed += 1
        last = waiting[-1]
        if not isinstance(last, _Missed):
            last = _Missed()
            waiting.append(last)
        last.add(event)


def checked_topic(topic: str) -> str:
    """Return the topic.

    Raises:
        ConfigError: It is no text, empty, or too long to be one.
    """
    if not isinstance(topic, str) or not topic or len(topic) > _MAX_TOPIC:
        raise ConfigError(f"{topic!r:.80} is no topic", remedy='give an event\'s type, or a pattern: "planloom.step.*"')
    return topic


class Subscription:
    """Events of a topic from the moment it was made: an async iterator, and an async context manager.

    Attributes:
        missed: How many events its buffer had no room for.
    """

    def __init__(self, wanted: _Wanted, buffer: _Buffer, on_close: Callable[[Subscription], None]) -> None:
        self.wanted = wanted
        self._buffer = buffer
        self._on_close = on_close
        self._news: asyncio.Event = asyncio.Event()
        self._closed = False

    @property
    def missed(self) -> int:
        return self._buffer.missed

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        """Return the next event.

        Raises:
            EventGapError: Some are missing here; the next call goes on after them.
        """
        while not self._buffer.waiting:
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        found = self._buffer.waiting.popleft()
        if isinstance(found, _Missed):
            raise found.error()
        return found

    def offer(self, event: Event) -> None:
        self._buffer.put(event)
        self._news.set()

    def close(self) -> None:
        """Hear no more; what has come can still be read. A second call is harmless."""
        if not self._closed:
            self._closed = True
            self._news.set()
            self._on_close(self)

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Listener:
    """A function that hears events, one after the other, in a task of its own.

    Attributes:
        heard: Events it was called with. `failed`: calls that raised. `missed`: events its buffer had no room for.
    """

    def __init__(
        self, callback: Callback, wanted: _Wanted, buffer: _Buffer, on_close: Callable[[Listener], None]
    ) -> None:
        self.wanted = wanted
        self.heard = 0
        self.failed = 0
        self._callback = callback
        # An object with an async __call__ is as good as a coroutine function.
        self._is_async = iscoroutinefunction(callback) or iscoroutinefunction(getattr(callback, "__call__", None))  # noqa: B004
        self._buffer = buffer
        self._on_close = on_close
        self._task: asyncio.Task[None] | None = None

    @property
    def missed(self) -> int:
        return self._buffer.missed

    def offer(self, event: Event) -> None:
        self._buffer.put(event)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._hear_all())

    def close(self) -> None:
        """Hear no more, not even what has come. A second call is harmless."""
        self._buffer.waiting.clear()
        self._on_close(self)

    async def drained(self) -> None:
        """Wait until it was called with everything that has come."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def stop(self) -> None:
        """Hear no more, and wait for the call that is under way, unless it runs in a thread."""
        self.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _hear_all(self) -> None:
        try:
            while self._buffer.waiting:
                found = self._buffer.waiting.popleft()
                event = found if isinstance(found, Event) else _gap_event(found)
                await self._hear(event)
        finally:
            self._task = None

    async def _hear(self, event: Event) -> None:
        self.heard += 1
        try:
            if self._is_async:
                await self._callback(event)
            else:
                await asyncio.to_thread(self._callback, event)
        except Exception as error:  # noqa: BLE001 - a listener's bug is its own, and must not keep others from hearing
            self.failed += 1
            _log.warning("a listener of %r failed at %s: %r", self.wanted.topic, event.id, error)


def _gap_event(missed: _Missed) -> Event:
    return Event.new(GAP, {"missed": missed.count, "after": missed.after})


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
        self._hearing: list[Subscription | Listener] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def publish(self, event: Event) -> bool:
        """Tell everybody who wants to know; return at once, whatever they do.

        Returns:
            False if an event of this source and id was published before, or the bus is closed.

        Raises:
            ConfigError: This thread has no event loop, and nobody published here from one before.
        """
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:  # a thread: that of a listener, say
            if self._loop is None or self._loop.is_closed():
                raise ConfigError("there is no event loop here", remedy="publish from a coroutine") from None
            self._loop.call_soon_threadsafe(self.publish, event)
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
        for one in tuple(self._hearing):
            if one.wanted.fits(event):
                one.offer(event)
        return True

    def subscribe(
        self, topic: str = "*", correlation_id: str | None = None, *, buffer: int | None = None
    ) -> Subscription:
        """Return the events of a topic from now on, whether or not anybody reads them yet.

        Args:
            topic: An event's type, or a pattern, e.g. "planloom.step.*".
            correlation_id: Only events of this run, or request.
            buffer: Events that may wait to be read.
        """
        kept = _Buffer(self._buffer if buffer is None else buffer)
        made = Subscription(_Wanted(checked_topic(topic), correlation_id), kept, self._leave)
        if self._closed:
            made.close()
        else:
            self._hearing.append(made)
        return made

    def listen(
        self, callback: Callback, topic: str = "*", correlation_id: str | None = None, *, buffer: int | None = None
    ) -> Listener:
        """Have a function called with each event of a topic, in order; what it raises is logged.

        A function that is not async is called in a thread. Where its buffer had no room, it is called with an event of
        type "planloom.bus.gap".
        """
        kept = _Buffer(self._buffer if buffer is None else buffer)
        made = Listener(callback, _Wanted(checked_topic(topic), correlation_id), kept, self._leave)
        self._hearing.append(made)
        return made

    def _leave(self, one: Subscription | Listener) -> None:
        if one in self._hearing:
            self._hearing.remove(one)

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
        wanted = _Wanted(checked_topic(topic), correlation_id)
        return [event for event in self._recent if wanted.fits(event)]

    async def close(self) -> None:
        """End every subscription, and give listeners CLOSE_S to take in what has come. A second call is harmless."""
        self._closed = True
        hearing, self._hearing = self._hearing, []
        listeners = [one for one in hearing if isinstance(one, Listener)]
        for one in hearing:
            if isinstance(one, Subscription):
                one.close()
        if listeners:
            draining = [asyncio.create_task(one.drained()) for one in listeners]
            await asyncio.wait(draining, timeout=CLOSE_S)
            await asyncio.gather(*(one.stop() for one in listeners), *draining)

    async def __aenter__(self) -> EventBus:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
