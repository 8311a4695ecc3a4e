"""A server on a real port of this machine, in this process, and what a client does there byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from planloom.cli.mcp_serving import listening_on
from planloom.server.wire import server_of
from tests.server.common import Served, serving


@dataclass(frozen=True, slots=True)
class Wired:
    """A server, and where it listens."""

    served: Served
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def connect(self) -> Line:
        return Line(*await asyncio.open_connection("127.0.0.1", self.port))


@dataclass(frozen=True, slots=True)
class Line:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, text: str) -> None:
        self.writer.write(text.encode())
        await self.writer.drain()

    async def rest(self) -> str:
        """Return all that comes until the server ends the connection."""
        return (await self.reader.read()).decode()

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


@asynccontextmanager
async def wired(*tools: Any, **options: Any) -> AsyncIterator[Wired]:
    """Serve as `serving` does, and on a port."""
    async with serving(*tools, **options) as served:
        server = server_of(served.app, end_s=1)
        listening = listening_on("127.0.0.1", 0)
        port = listening.getsockname()[1]
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
                while not server.started:
                    await asyncio.sleep(0.001)
                yield Wired(Served(served.app, served.service, client), port)
        finally:
            served.service.end_streams()
            server.should_exit = True
            await task


async def followed(wired: Wired, run_id: str, *, after: int = 0) -> AsyncIterator[dict[str, Any]]:
    """Yield the events that a follower is sent, each at the moment it comes."""
    headers = {"accept": "text/event-stream"}
    async with (
        httpx.AsyncClient(base_url=wired.url, timeout=30) as client,
        client.stream("GET", f"/v1/runs/{run_id}/events", params={"after": after}, headers=headers) as answer,
    ):
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))
