"""An MCP server that is reached over HTTP: what it sends is measured, and how often it has us come back is limited.

Rule 1: a body is never longer than a message may be, packed or not: nothing packed is taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from planloom.tools.mcp_wire import MAX_MARKS, MAX_MESSAGE_BYTES, TOO_LONG, TOO_MANY_PARTS, parts_of

STREAMS_AT_ONCE = 10
STREAM_S = 1.0
"""Event streams that may be opened without a wait, and seconds between the others: each broken one is opened again."""
MAX_RESUMED = 50
"""Times in a session that an answer that broke off is asked for further."""


class TooMuchError(httpx2.StreamError):
    """A body is too long, or packed."""


@asynccontextmanager
async def over_http(url: str, headers: dict[str, str]) -> AsyncIterator[tuple[Any, Any]]:
    """Give the streams of messages from a server and to it."""
    client = create_mcp_http_client(headers={**headers, "Accept-Encoding": "identity"})
    client.event_hooks = {"request": [_Pace().take], "response": [_measure]}
    async with client, streamable_http_client(url, http_client=client, max_sse_event_size=MAX_MESSAGE_BYTES) as both:
        yield both


class _Pace:
    """How fast event streams are opened in one session."""

    def __init__(self) -> None:
        self._streams = 0
        self._resumed = 0
        self._next_at = 0.0

    async def take(self, request: httpx2.Request) -> None:
        """Wait for the time at which a request may go.

        Raises:
            TooMuchError: The server breaks off again and again.
        """
        if request.method != "GET":
            return
        if "last-event-id" in request.headers:
            self._resumed += 1
            if self._resumed > MAX_RESUMED:
                raise TooMuchError(f"it broke off over {MAX_RESUMED} times")
        self._streams += 1
        if self._streams > STREAMS_AT_ONCE:
            now = asyncio.get_running_loop().time()
            self._next_at = max(self._next_at, now) + STREAM_S
            await asyncio.sleep(self._next_at - now)


async def _measure(response: httpx2.Response) -> None:
    """Have an answer measured while it is read.

    Raises:
        TooMuchError: It is packed.
    """
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        await response.aclose()
        raise TooMuchError("it sent a packed answer, which nobody asked for")
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    is_stream = response.headers.get("content-type", "").lower().startswith("text/event-stream")
    response.stream = _Events(response.stream) if is_stream else _Whole(response.stream)


class _Whole(httpx2.AsyncByteStream):
    """A body that is one message."""

    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        length = parts = 0
        async for chunk in self._inner:
            length, parts = length + len(chunk), parts + parts_of(chunk)
            if length > MAX_MESSAGE_BYTES:
                raise TooMuchError(TOO_LONG)
            if parts > MAX_MARKS:
                raise TooMuchError(TOO_MANY_PARTS)
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Events(httpx2.AsyncByteStream):
    """A body with one message after the other; how long each is the SDK looks at."""

    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts, last = 0, b""
        async for chunk in self._inner:
            lines = (last + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            last = chunk[-1:]
            parts = parts_of(lines.rpartition(b"\n\n")[2]) if b"\n\n" in lines else parts + parts_of(chunk)
            if parts > MAX_MARKS:
                raise TooMuchError(TOO_MANY_PARTS)
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()
