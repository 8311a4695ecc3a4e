"""The one way from sync to async, and a way back: every sync door is `run`; `in_thread` waits for what blocks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar

from planloom.errors import ConfigError

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine to its end in an event loop of its own and return its result.

    Raises:
        ConfigError: An event loop runs in this thread already; waiting here would block it for ever.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    name = getattr(coroutine, "__qualname__", "it")
    coroutine.close()
    raise ConfigError(
        "a blocking call inside a running event loop would stop the loop", remedy=f"await the async form: {name}"
    )


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Call a function in a thread of its own, with the caller's context variables, and return its result.

    The thread is a daemon: one that never comes back keeps neither the event loop nor the process from ending.
    """
    loop, context = asyncio.get_running_loop(), copy_context()
    future: asyncio.Future[T] = loop.create_future()

    def work() -> None:
        try:
            answer = context.run(function, *args)
        except BaseException as error:  # noqa: BLE001 - raised where the call is waited for
            # Neither of these gets through a future as itself.
            is_odd = isinstance(error, StopIteration | GeneratorExit)
            told = RuntimeError(f"{type(error).__name__}: {error}") if is_odd else error
            settle(lambda: future.set_exception(told))
        else:
            settle(lambda: future.set_result(answer))

    def settle(how: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(lambda: None if future.done() else how())

    threading.Thread(target=work, name="planloom-blocking", daemon=True).start()
    return await future
