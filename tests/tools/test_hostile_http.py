"""MCP servers over HTTP that mean ill, written by hand, byte for byte."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from planloom.errors import ConfigError, McpToolError, NoAnswerError
from planloom.tools.mcp import McpServer

pytestmark = pytest.mark.slow
TOKEN = "tok-0123456789abcdef"
MB = 2**20
Answering = Callable[[asyncio.StreamWriter, dict[str, Any]], Awaitable[None]]


class Hostile:
    """A server that is as it should be but for how it answers calls.

    Attributes:
        asked: Method and headers of each request.
    """

    def __init__(self, answer: Answering, *, reopened: bytes = b"") -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self._answer = answer
        self._reopened = reopened
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                self.asked.append((first.split()[0], headers))
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self._one(writer, first.split()[0], json.loads(body or b"{}"))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _one(self, writer: asyncio.StreamWriter, method: str, message: dict[str, Any]) -> None:
        asked = message.get("method")
        if method == "GET":
            writer.write(self._reopened or b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
            if self._reopened:
                writer.close()
        elif asked == "initialize":
            about = {"protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}}}
            reply(writer, message, about | {"serverInfo": {"name": "h", "version": "1"}}, "Mcp-Session-Id: one\r\n")
        elif asked == "tools/list":
            reply(writer, message, {"tools": [{"name": "do", "inputSchema": {"type": "object"}}]})
        elif asked == "tools/call":
            await self._answer(writer, message)
        elif "id" in message:
            reply(writer, message, None)
        else:
            writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")


def reply(writer: asyncio.StreamWriter, message: dict[str, Any], result: Any, headers: str = "") -> None:
    told = {"result": result} if result is not None else {"error": {"code": -32601, "message": "no such method"}}
    body = json.dumps({"jsonrpc": "2.0", "id": message["id"], **told}).encode()
    send(writer, body, f"Content-Type: application/json\r\n{headers}")


def send(writer: asyncio.StreamWriter, body: bytes, headers: str) -> None:
    writer.write(f"HTTP/1.1 200 OK\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body)


@asynccontextmanager
async def served(hostile: Hostile) -> AsyncIterator[Hostile]:
    async with await asyncio.start_server(hostile.serve, "127.0.0.1", 0) as server:
        hostile.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
        yield hostile


def asked(folder: Path, answer: Answering, *, reopened: bytes = b"", seconds: float = 20) -> tuple[Any, Hostile]:
    """Return what its tool answers, or the error."""
    hostile = Hostile(answer, reopened=reopened)

    async def main() -> Any:
        async with (
            served(hostile),
            McpServer(
                "calc",
                folder=folder,
                url=hostile.url,
                token_env="TOKEN_OF_OURS",
                headers_env={"X-Key": "TOKEN_OF_OURS"},
            ) as server,
        ):
            tools = await server.load(trust_first=True)
            try:
                async with asyncio.timeout(seconds):
                    return await tools[0].call({})
            except (McpToolError, NoAnswerError, TimeoutError) as error:
                return error

    return asyncio.run(main()), hostile


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_OURS", TOKEN)


def large(writer: asyncio.StreamWriter, message: dict[str, Any]) -> bytes:
    content = [{"type": "text", "text": "x" * (64 * MB)}]
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"content": content}}).encode()


async def as_json(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    send(writer, large(writer, message), "Content-Type: application/json\r\n")


async def packed(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    body = gzip.compress(large(writer, message))
    send(writer, body, "Content-Type: application/json\r\nContent-Encoding: gzip\r\n")


async def as_event(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    send(writer, b"data: " + large(writer, message) + b"\n\n", "Content-Type: text/event-stream\r\n")


async def in_parts(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    body = f'{{"jsonrpc":"2.0","id":{message["id"]},"result":{{"content":[{"[]," * 4 * MB}0]}}}}'.encode()
    send(writer, body, "Content-Type: application/json\r\n")


async def events_in_parts(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    body = f'data: {{"jsonrpc":"2.0","id":{message["id"]},"result":{{"content":[{"[]," * 4 * MB}0]}}}}\n\n'.encode()
    send(writer, body, "Content-Type: text/event-stream\r\n")


@pytest.mark.parametrize("answer", [as_json, packed, as_event, in_parts, events_in_parts])
def test_what_is_too_much_is_not_read(tmp_path: Path, answer: Answering) -> None:
    found, _ = asked(tmp_path, as_plain)
    assert found == "done"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    found, _ = asked(tmp_path, answer)

    assert isinstance(found, McpToolError | NoAnswerError)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KB; the server is in here, too


async def as_plain(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    reply(writer, message, {"content": [{"type": "text", "text": "done"}]})


async def many_events(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    told = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "," * 10_000}}
    content = {"content": [{"type": "text", "text": "x" * (2 * MB)}]}
    events = [json.dumps(told)] * 300 + [json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": content})]
    send(writer, "".join(f"data: {one}\r\n\r\n" for one in events).encode(), "Content-Type: text/event-stream\r\n")


def test_a_long_stream_of_small_messages_and_an_answer_of_megabytes_are_fine(tmp_path: Path) -> None:
    found, _ = asked(tmp_path, many_events)

    assert found == "x" * (2 * MB)


def test_no_header_goes_to_where_a_server_sends_us(tmp_path: Path) -> None:
    async def main() -> None:
        elsewhere = Hostile(as_plain)

        async def moved(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
            head = f"HTTP/1.1 307 Gone\r\nLocation: {elsewhere.url}\r\nContent-Length: 0\r\n\r\n"
            writer.write(head.encode())

        async with served(elsewhere), served(Hostile(moved)) as hostile:
            server = McpServer("calc", folder=tmp_path, url=hostile.url, headers_env={"X-Key": "TOKEN_OF_OURS"})
            async with server:
                tools = await server.load(trust_first=True)
                with pytest.raises((McpToolError, NoAnswerError)):
                    await tools[0].call({})
        assert elsewhere.asked == []

    asyncio.run(main())


async def broken_off(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    writer.write(f"{head}retry: 0\nid: 1\ndata:\n\n".encode())
    writer.close()


def test_a_server_that_breaks_off_again_and_again_is_not_asked_as_fast_as_it_breaks_off(tmp_path: Path) -> None:
    again = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\nretry: 0\nid: 1\ndata:\n\n"

    found, hostile = asked(tmp_path, broken_off, reopened=again, seconds=2)

    assert isinstance(found, TimeoutError | NoAnswerError)
    assert len([method for method, _ in hostile.asked if method == "GET"]) < 20


async def misshapen(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "wrong": TOKEN}).encode()
    send(writer, body, "Content-Type: application/json\r\n")


def test_what_cannot_be_read_is_an_error_without_secrets_in_it_or_in_any_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="mcp"):
        found, _ = asked(tmp_path, misshapen)

    assert isinstance(found, McpToolError)
    assert TOKEN not in str(found)
    assert TOKEN not in caplog.text


async def slow(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


def test_a_slow_trickle_ends_with_the_time_of_the_call(tmp_path: Path) -> None:
    found, _ = asked(tmp_path, slow, seconds=0.5)

    assert isinstance(found, TimeoutError)


def test_nobody_there_is_an_error_that_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with McpServer("calc", folder=tmp_path, url="http://127.0.0.1:9/mcp") as server:
            with pytest.raises(ConfigError, match="cannot be used"):
                await server.load()

    asyncio.run(main())
