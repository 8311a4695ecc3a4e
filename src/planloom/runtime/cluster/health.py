"""How an agent does, for whoever looks after it: over HTTP, where it is told to say so.

Rule 1: it tells numbers and yes or no, and nothing of any run.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from planloom.runtime.cluster.orchestrator import Orchestrator

MOST_BYTES = 8_192
"""Of a request."""
LOOK_S = 5.0
"""Seconds a request may take."""


@asynccontextmanager
async def telling(agent: Orchestrator, host: str, port: int) -> AsyncIterator[int]:
    """Serve `/metrics`, for Prometheus, and `/healthz`; yield the port.

    Raises:
        OSError: The port is taken.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(LOOK_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await _answer(agent, head.split(b" ", 2)[1:2]))
                await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, host, port, limit=MOST_BYTES)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _answer(agent: Orchestrator, path: list[bytes]) -> bytes:
    if path == [b"/healthz"]:
        return _http("200 OK", "ready\n") if agent.is_ready else _http("503 Service Unavailable", "no broker\n")
    if path == [b"/metrics"]:
        return _http("200 OK", metrics_text(agent) + await agent.queues_text())
    return _http("404 Not Found", "there is /metrics, and /healthz\n")


def metrics_text(agent: Orchestrator) -> str:
    """Return what an agent counted, as Prometheus reads it."""
    lines = []
    for name, number in sorted(agent.counts().items()):
        lines += [f"# TYPE planloom_cluster_{name}_total counter", f"planloom_cluster_{name}_total {number}"]
    return "\n".join(lines) + "\n"


def _http(status: str, text: str) -> bytes:
    body = text.encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {len(body)}\r\n"
    return f"{head}connection: close\r\n\r\n".encode() + body
