"""How fast a provider may be asked: calls beyond that wait, in order, and a 429 makes all of them wait.

Rule 1: first come, first served: a small call never overtakes a large one.
Rule 2: a waiter that is cancelled has taken nothing, and whoever stood behind it looks again at once.
Rule 3: bound to no event loop: each waiter wakes on its own, whatever thread or `asyncio.run` it lives in.

A limit is a bucket that fills steadily. It holds one second's worth of requests (at least one) and a quarter of a
minute's worth of tokens: enough that a few calls can begin together, little enough that no minute sees much more than
the limit. A call larger than the bucket goes when the bucket is full, and what it took too much is waited for by the
next.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from planloom.errors import ConfigError

if TYPE_CHECKING:
    from planloom.ports import Clock

OnWait = Callable[[str | None, float | None], None]
"""Called with ``("rate", seconds since the epoch)`` when a wait begins, and with ``(None, None)`` when it is over."""

REQUESTS_BURST_S = 1.0
TOKENS_BURST_S = 15.0
"""Seconds in which an empty bucket fills up."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What a provider takes in a minute; None: it does not say."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(
                    f"{name} of a rate limit is {value!r}", remedy="give a number above 0, or leave it out"
                )


class RateLimits:
    """The buckets of a process or an engine, by key: one for all calls that a provider counts together.

    Args:
        clock: None: the real time, on whatever event loop is running.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or _RunningLoop()
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.RLock()  # engines live in several threads; the collector may close a waiter in here

    async def admit(self, key: str, tokens: float, limit: RateLimit | None, on_wait: OnWait | None = None) -> None:
        """Return as soon as a call of about so many tokens may be made; it counts as made then.

        Args:
            key: Whose limit it is, e.g. the provider and the model's name.
            tokens: Of prompt and answer, as well as one can tell; `settle` puts it right.
            limit: What holds from now on for this key; None: only what the provider says itself (`pause`).
            on_wait: Told once if there is a wait, with about when it will be over.
        """
        waiter = _Waiter(tokens)
        with self._lock:
            now = self._clock.now()
            bucket = self._buckets.setdefault(key, _Bucket(now))
            bucket.limit_to(limit, now)
            bucket.join(waiter)
            expected = bucket.expected(tokens, now)
        is_told = False
        try:
            while not self._take_if_due(bucket, waiter):
                if on_wait is not None and not is_told:
                    is_told = True
                    on_wait("rate", expected)
                await self._look_again(bucket, waiter)
        finally:
            with self._lock:
                bucket.leave(waiter)
                bucket.wake_first()
            if on_wait is not None and is_told:
                on_wait(None, None)

    def settle(self, key: str, reserved: float, used: float) -> None:
        """Give back what a call did not use of what was reserved for it, or take what it used on top."""
        with self._lock:
            bucket = self._buckets.get(key)
            if bucket is None:
                return
            bucket.give_tokens(reserved - used, self._clock.now())
            bucket.wake_first()

    def pause(self, key: str, seconds: float) -> None:
        """Let nobody through for so many seconds: the provider said so."""
        if not 0 < seconds < float("inf"):
            return
        now = self._clock.now()
        with self._lock:
            bucket = self._buckets.setdefault(key, _Bucket(now))
            bucket.paused_until = max(bucket.paused_until, now + seconds)

    def _take_if_due(self, bucket: _Bucket, waiter: _Waiter) -> bool:
        """Take what the first in the row asks for if it may go; else set when and by what it will look again."""
        with self._lock:
            waiter.due = None
            bucket.drop_the_dead()
            if bucket.waiting[0] is waiter:
                now = self._clock.now()
                waiter.due = bucket.due(waiter.tokens, now)
                if waiter.due <= now:
                    bucket.take(waiter.tokens)
                    return True
            waiter.wake_up = waiter.loop.create_future()
            return False

    async def _look_again(self, bucket: _Bucket, waiter: _Waiter) -> None:
        """Wait until woken, or until it is due."""

        def wake() -> None:
            with self._lock:
                bucket.wake_first()

        assert waiter.wake_up is not None
        stop_timer = None if waiter.due is None else self._clock.call_at(waiter.due, wake)
        try:
            await waiter.wake_up
        finally:
            if stop_timer is not None:
                stop_timer()


@dataclass(slots=True, eq=False)
class _Waiter:
    """A call that waits in the row.

    Attributes:
        due: When it may go, as far as it knows; None for all but the first.
    """

    tokens: float
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    wake_up: asyncio.Future[None] | None = None
    due: float | None = None

    def wake(self) -> bool:
        """Have it look again; callable from any thread. Returns False if its event loop was closed over it."""
        try:
            self.loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            return False
        return True

    def _wake(self) -> None:
        if self.wake_up is not None and not self.wake_up.done():
            self.wake_up.set_result(None)


@dataclass(slots=True)
class _Bucket:
    """What one key may take now, and who waits for it.

    Attributes:
        at: When the two levels were right.
        requests, tokens: The levels; below 0 after a call that was larger than the bucket, or than it said.
        queued_tokens: Of all who wait.
    """

    at: float
    requests: float = 0.0
    tokens: float = 0.0
    limit: RateLimit | None = None
    paused_until: float = 0.0
    waiting: deque[_Waiter] = field(default_factory=deque)
    queued_tokens: float = 0.0

    def limit_to(self, limit: RateLimit | None, now: float) -> None:
        """Take a limit as the one that holds; a bucket that had none is full."""
        if limit == self.limit:
            return
        self._fill(now)
        had, self.limit = self.limit or RateLimit(), limit
        self.requests = min(self.requests, self._room_requests) if had.requests_per_minute else self._room_requests
        self.tokens = min(self.tokens, self._room_tokens) if had.tokens_per_minute else self._room_tokens

    @property
    def _requests_per_s(self) -> float:
        return (self.limit.requests_per_minute or 0.0) / 60 if self.limit else 0.0

    @property
    def _tokens_per_s(self) -> float:
        return (self.limit.tokens_per_minute or 0.0) / 60 if self.limit else 0.0

    @property
    def _room_requests(self) -> float:
        return max(1.0, self._requests_per_s * REQUESTS_BURST_S)

    @property
    def _room_tokens(self) -> float:
        return self._tokens_per_s * TOKENS_BURST_S

    def _fill(self, now: float) -> None:
        passed = max(0.0, now - self.at)
        self.requests = min(self._room_requests, self.requests + passed * self._requests_per_s)
        self.tokens = min(self._room_tokens, self.tokens + passed * self._tokens_per_s)
        self.at = max(self.at, now)

    def due(self, tokens: float, now: float) -> float:
        """Return when a call of so many tokens may go, were it the first in the row."""
        self._fill(now)
        due = max(now, self.paused_until)
        if self._requests_per_s:
            due = max(due, now + (1.0 - self.requests) / self._requests_per_s)
        if self._tokens_per_s:
            due = max(due, now + (min(tokens, self._room_tokens) - self.tokens) / self._tokens_per_s)
        return due

    def expected(self, tokens: float, now: float) -> float:
        """Return about when the last in the row, a call of so many tokens, may go."""
        expected = self.due(tokens, now)
        if self._requests_per_s:
            expected = max(expected, now + (len(self.waiting) - self.requests) / self._requests_per_s)
        if self._tokens_per_s:
            needed = self.queued_tokens - tokens + min(tokens, self._room_tokens)
            expected = max(expected, now + (needed - self.tokens) / self._tokens_per_s)
        return expected

    def join(self, waiter: _Waiter) -> None:
        self.waiting.append(waiter)
        self.queued_tokens += waiter.tokens

    def leave(self, waiter: _Waiter) -> None:
        if waiter in self.waiting:  # else it was taken for dead: its loop was closed over it
            self.waiting.remove(waiter)
            self.queued_tokens -= waiter.tokens

    def take(self, tokens: float) -> None:
        if self._requests_per_s:
            self.requests -= 1.0
        if self._tokens_per_s:
            self.tokens -= tokens

    def give_tokens(self, tokens: float, now: float) -> None:
        self._fill(now)
        if self._tokens_per_s:
            self.tokens += tokens  # more than there is room for overflows when it is looked at next

    def drop_the_dead(self) -> None:
        """Forget waiters whose event loop was closed over them: they will never go."""
        while self.waiting and self.waiting[0].loop.is_closed():
            self.leave(self.waiting[0])

    def wake_first(self) -> None:
        while self.waiting:
            if self.waiting[0].wake():
                break
            self.leave(self.waiting[0])


class _RunningLoop:
    """Real time that never goes back, and the timers of whatever event loop is running."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return self._offset + time.monotonic()

    def call_at(self, when: float, callback: Callable[[], None]) -> Callable[[], None]:
        return asyncio.get_running_loop().call_later(max(0.0, when - self.now()), callback).cancel
