"""Enough of HTTP/1.1 for a client library: requests with a length, answers with a length or in chunks, kept alive.

Rule 1: when the client goes away, whatever is under way for it is cancelled at once: that is how tests see it go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

MAX_BODY = 64 * 2**20
"""Bytes."""


class Broken(Exception):  # noqa: N818 - it tells a connection to end, and no user ever sees it
    """The connection is to be ended without another word."""


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request as it came in; header names in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class ClientConnection(asyncio.StreamReaderProtocol):
    """One connection, and the task that talks on it.

    Args:
        talk: Takes a connection through its requests, to the end.
        over: Called with the task when it has ended, perhaps with an error.
    """

    def __init__(
        self,
        talk: Callable[[ClientConnection], Awaitable[None]],
        over: Callable[[asyncio.Future[None]], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._talk = talk
        self._over = over
        self._reader = asyncio.StreamReader(loop=loop)
        self.task: asyncio.Future[None] | None = None
        super().__init__(self._reader, self._begin, loop)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.task = asyncio.ensure_future(self._until_over())
        self.task.add_done_callback(self._over)

    async def _until_over(self) -> None:
        try:
            await self._talk(self)
        except (asyncio.CancelledError, Broken, ConnectionError, asyncio.IncompleteReadError):
            pass  # however it ended: it is over
        finally:
            self._writer.close()

    def eof_received(self) -> bool | None:
        self._gone()
        return super().eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._gone()
        super().connection_lost(error)

    def _gone(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def abort(self) -> None:
        """End it now, with a reset where the client still waits."""
        self._writer.transport.abort()

    async def read(self) -> RawRequest | None:
        """Return the next request; None when the client has none left."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        line, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ", 2)
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (entry.partition(":") for entry in lines if entry)
        }
        size = int(headers.get("content-length", "0"))
        if size > MAX_BODY or "transfer-encoding" in headers:
            raise Broken
        parts = urlsplit(target)
        return RawRequest(
            method, parts.path, dict(parse_qsl(parts.query)), headers, await self._reader.readexactly(size)
        )

    async def write(self, content: bytes) -> None:
        self._writer.write(content)
        await self._writer.drain()

    async def head(self, status: int, headers: dict[str, str]) -> None:
        """Write the first lines of an answer."""
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        await self.write("\r\n".join(lines).encode("latin-1"))

    async def chunk(self, content: bytes) -> None:
        """Write a part of an answer in chunks; an empty one is its end."""
        await self.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
