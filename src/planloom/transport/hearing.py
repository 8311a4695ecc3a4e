"""Who hears events: a `Subscription` reads them, a `Listener` is a function that is called with them.

Rule 1: a listener's bug is its own: whatever it raises, exits with or never comes back from, nobody else notices.
Rule 2: a listener that is not async is called in threads of its own, daemons: one that never returns keeps no other
from hearing, nor the process from ending.
Rule 3: whoever hears an event has a copy of its data.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from inspect import isawaitable, iscoroutinefunction
from typing import TYPE_CHECKING, Any

from planloom.blocking import in_thread
from planloom.errors import ConfigError, EventGapError
from planloom.transport.event import Event

if TYPE_CHECKING:
    from types import TracebackType

_log = logging.getLogger("planloom.bus")

GAP = "planloom.bus.gap"
"""Type of the event that tells a listener that it missed some."""
MAX_TOPIC = 200
STOP_S = 1.0
"""Seconds that a call has to end once its listener is stopped; one that takes longer is left to itself."""

Callback = Callable[[Event], "Awaitable[Any] | Any"]
"""Hears events: a coroutine function on the event loop, any other function in a thread; one event after the other."""


@dataclass(slots=True)
class Missed:
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
class Wanted:
    """Which events somebody wants to hear."""

    topic: str
    correlation_id: str | None = None

    def fits(self, event: Event) -> bool:
        if self.correlation_id is not None and event.correlation_id != self.correlation_id:
            return False
        return self.topic in ("*", event.type) or fnmatchcase(event.type, self.topic)


class Buffer:
    """Events that wait for one reader, and marks where some are missing."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ConfigError(f"a buffer of {size} events holds none", remedy="give at least 1")
        self.missed = 0
        self.waiting: deque[Event | Missed] = deque()
        self._size = size

    def put(self, event: Event) -> None:
        waiting = self.waiting
        if len(waiting) < self._size:
            waiting.append(event)
            return
        self.missed += 1
        last = waiting[-1]
        if not isinstance(last, Missed):
            last = Missed()
            waiting.append(last)
        last.add(event)


def checked_topic(topic: str) -> str:
    """Return the topic.

    Raises:
        ConfigError: It is no text, empty, or too long to be one.
    """
    if not isinstance(topic, str) or not topic or len(topic) > MAX_TOPIC:
        raise ConfigError(f"{topic!r:.80} is no topic", remedy='give an event\'s type, or a pattern: "planloom.step.*"')
    return topic


class Subscription:
    """Events of a topic from the moment it was made: an async iterator, and an async context manager.

    Attributes:
        missed: How many events its buffer had no room for.
    """

    def __init__(self, wanted: Wanted, buffer: Buffer, on_close: Callable[[Subscription], None]) -> None:
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
        if isinstance(found, Missed):
            raise found.error()
        return found.copy()

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
        self, callback: Callback, wanted: Wanted, buffer: Buffer, on_close: Callable[[Listener], None]
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
        self._closed = False

    @property
    def missed(self) -> int:
        return self._buffer.missed

    @property
    def is_here(self) -> bool:
        """Return whether this is asked from within a call of it."""
        return self._task is not None and asyncio.current_task() is self._task

    def offer(self, event: Event) -> None:
        if self._closed:
            return
        self._buffer.put(event)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._hear_all())

    def close(self) -> None:
        """Hear no more, not even what has come. A second call is harmless."""
        self._closed = True
        self._buffer.waiting.clear()
        self._on_close(self)

    async def drained(self) -> None:
        """Wait until it was called with everything that has come."""
        while self._task is not None and not self.is_here:
            await asyncio.wait([self._task])

    async def stop(self) -> None:
        """Hear no more, and wait for the call that is under way, but STOP_S at most, and for none in a thread."""
        self.close()
        task = self._task
        if task is None or self.is_here:
            return
        task.cancel()
        _, left = await asyncio.wait([task], timeout=STOP_S)
        if left:
            _log.warning("a listener of %r does not end, and is left to itself", self.wanted.topic)

    async def _hear_all(self) -> None:
        try:
            while self._buffer.waiting:
                found = self._buffer.waiting.popleft()
                await self._hear(found.copy() if isinstance(found, Event) else _gap_event(found))
        finally:
            self._task = None

    async def _hear(self, event: Event) -> None:
        self.heard += 1
        try:
            told = self._callback(event) if self._is_async else await in_thread(self._callback, event)
            if isawaitable(told):
                await told
        except BaseException as error:  # a listener's bug is its own, and must not keep others from hearing
            if self._is_meant_for_us(error):
                raise
            self.failed += 1
            _log.warning("a listener of %r failed at %s: %s", self.wanted.topic, event.id, _shown(error))

    def _is_meant_for_us(self, error: BaseException) -> bool:
        """Return whether something from outside ends this: it was stopped, or somebody presses Ctrl-C."""
        if isinstance(error, asyncio.CancelledError):
            return self._task is not None and self._task.cancelling() > 0
        return isinstance(error, KeyboardInterrupt) and self._is_async


def _shown(error: BaseException) -> str:
    try:
        return f"{error!r:.500}"
    except Exception:  # noqa: BLE001 - its repr is the listener's own code, too
        return type(error).__name__


def _gap_event(missed: Missed) -> Event:
    return Event.new(GAP, {"missed": missed.count, "after": missed.after})
