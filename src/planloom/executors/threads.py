"""A bounded pool of threads for sync tools.

Rule 1: a thread that cannot be stopped is abandoned: its result is ignored, its place is given to a new thread.
Rule 2: threads are daemons: a tool that never returns must not keep the process alive (the standard pool and anyio's
join theirs at exit).
Rule 3: a tool sees the context variables of the attempt that calls it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Protocol

IDLE_S = 10.0
"""Seconds an idle thread stays for the next call."""


class Caller(Protocol):
    """What the pool tells whoever calls: an attempt's context, or what stands for one of its calls."""

    def abandon(self) -> None:
        """Say that something is left running that cannot be stopped."""
        ...

    def wait(self, seconds: float) -> None:
        """Say that so many seconds more were spent waiting for a thread."""
        ...


class _Call:
    __slots__ = ("abandoned", "begun_at", "context", "ended", "function", "future", "kwargs", "loop")

    def __init__(
        self, function: Callable[..., Any], kwargs: dict[str, Any], loop: asyncio.AbstractEventLoop, context: Context
    ) -> None:
        self.function = function
        self.kwargs = kwargs
        self.loop = loop
        self.context = context
        self.future: asyncio.Future[Any] = loop.create_future()
        self.begun_at: float | None = None
        self.ended = False
        self.abandoned = False

    def make(self) -> None:
        """Run in the thread; hand the result or whatever was raised to the event loop."""
        error: BaseException | None = None
        result: Any = None
        try:
            result = self.context.run(self.function, **self.kwargs)
        except BaseException as raised:  # noqa: BLE001 - carried to attempt.py, which classifies it
            error = raised
            if isinstance(raised, StopIteration | GeneratorExit):
                # Neither gets through an await as itself.
                error = RuntimeError(f"{type(raised).__name__}: {raised}")
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self.loop.call_soon_threadsafe(self._answer, result, error)

    def _answer(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class ThreadPool:
    """At most `size` calls at a time, abandoned ones not counted.

    Attributes:
        size: Threads at most.
        abandoned: Calls that were given up while their thread still ran, so far.
    """

    def __init__(self, size: int = 32) -> None:
        self.size = size
        self.abandoned = 0
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        self._waiting = 0
        self._closed = False

    async def call(self, function: Callable[..., Any], kwargs: dict[str, Any], caller: Caller) -> Any:
        """Call the function in a thread and return its result, or raise what it raised.

        Args:
            caller: Is told how long the call waited for a thread, and when a thread that had begun is left running.
        """
        asked_at = monotonic()
        call = _Call(function, kwargs, asyncio.get_running_loop(), copy_context())
        with self._lock:
            self._calls.put(call)
            self._waiting += 1
            if self._waiting > self._idle and self._threads < self.size:
                self._threads += 1
                threading.Thread(target=self._work, name="planloom-tool", daemon=True).start()
        try:
            return await call.future
        except asyncio.CancelledError:
            if self._give_up(call):
                caller.abandon()
            raise
        finally:
            caller.wait((call.begun_at or monotonic()) - asked_at)

    def _give_up(self, call: _Call) -> bool:
        """Ignore what the call comes to; return whether a thread is still at it."""
        with self._lock:
            call.abandoned = True
            if call.begun_at is not None and not call.ended:
                self.abandoned += 1
                self._threads -= 1  # its thread leaves the pool when it comes back, if it ever does
                return True
            return False

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            try:
                call = self._calls.get(timeout=IDLE_S)
            except Empty:
                call = None
            with self._lock:
                self._idle -= 1
                if call is not None:
                    self._waiting -= 1
                else:
                    if self._closed or self._calls.empty():
                        self._threads -= 1
                        return
                    continue
                if call.abandoned:
                    continue
                call.begun_at = monotonic()
            call.make()
            with self._lock:
                call.ended = True
                if call.abandoned:
                    return
            del call

    def close(self) -> None:
        """Let idle threads go; busy ones end with their call."""
        self._closed = True
        for _ in range(self.size):
            self._calls.put(None)
