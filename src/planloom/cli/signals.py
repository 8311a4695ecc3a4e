"""Signals that a command answers itself while it is at work."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def answering(signals: tuple[signal.Signals, ...], call: Callable[[], object]) -> Iterator[None]:
    """Call something on each of these signals while this is open; where the event loop cannot, they do as they do."""
    loop = asyncio.get_running_loop()
    try:
        for one in signals:
            loop.add_signal_handler(one, call)
    except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
        yield
        return
    try:
        yield
    finally:
        for one in signals:
            loop.remove_signal_handler(one)
