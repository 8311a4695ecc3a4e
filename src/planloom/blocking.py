"""The one way from sync to async: every sync door is `run`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
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
