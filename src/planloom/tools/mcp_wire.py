"""What holds for the messages of an MCP server, whatever they come over: how much one may be, and that none is logged.

Rule 1: measured before it is read as JSON: what is read takes up to a hundred times the room.
Rule 2: the SDK logs what servers say, with traces; of our sessions it logs nothing. Whoever called is told.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

MAX_MESSAGE_BYTES = 16 * 2**20
"""16 MiB."""
MAX_MARKS = 2_000_000
"""Of what structure is made of: each list, object and entry takes room of its own when it is read."""
TOO_LONG = f"it sent a message of over {MAX_MESSAGE_BYTES // 2**20} MiB"
TOO_MANY_PARTS = f"it sent a message of over {MAX_MARKS:,} parts"


def too_much(message: bytes) -> str | None:
    """Return what is too much of a message, or None."""
    if len(message) > MAX_MESSAGE_BYTES:
        return TOO_LONG
    return TOO_MANY_PARTS if len(message) > MAX_MARKS and parts_of(message) > MAX_MARKS else None


def parts_of(message: bytes) -> int:
    """Return how many parts a message, or a piece of one, has at most."""
    return sum(message.count(mark) for mark in (b",", b"[", b"{"))


_is_ours: ContextVar[bool] = ContextVar("planloom_mcp", default=False)


@contextmanager
def unlogged() -> Iterator[None]:
    """Have the SDK log nothing of what is done in here; others in this process may use it, too."""
    for name in ("mcp.client.stdio", "mcp.client.streamable_http", "mcp.shared.jsonrpc_dispatcher", "client"):
        logging.getLogger(name).addFilter(_is_others)  # not added twice
    before = _is_ours.set(True)
    try:
        yield
    finally:
        _is_ours.reset(before)


def _is_others(record: logging.LogRecord) -> bool:
    return not _is_ours.get()
