"""What a client may leave half done on a real connection: nothing, for long."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from planloom.server import wire
from planloom.server.settings import ServerSettings
from tests.server.common import ASK
from tests.server.wired import Line, wired

HOST = "Host: 127.0.0.1\r\n"
ASKED = f"GET /healthz HTTP/1.1\r\n{HOST}\r\n"


async def trickled(line: Line, text: str) -> str:
    """Return what is answered to somebody who sends a byte now and then."""

    async def send() -> None:
        for byte in text:
            await line.send(byte)
            await asyncio.sleep(0.01)

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(5):
            return await line.rest()
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await line.close()


def problem_in(answer: str) -> tuple[str, Any]:
    """Return the line of the status, and the problem."""
    head, body = answer.split("\r\n\r\n", 1)
    assert "content-type: application/problem+json" in head.lower()
    return head.splitlines()[0], json.loads(body)


@pytest.mark.slow
def test_a_head_that_comes_byte_by_byte_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HEAD_S", 0.2)

    async def main() -> tuple[str, str]:
        async with wired() as server:
            first = await trickled(await server.connect(), ASKED * 20)
            line = await server.connect()
            await line.send(ASKED)
            await line.reader.readuntil(b'"ok"}')
            return first, await trickled(line, f"GET /healthz HTTP/1.1\r\n{HOST}X-Slow: {'x' * 500}")

    for answer in asyncio.run(main()):
        status, problem = problem_in(answer)
        assert status == "HTTP/1.1 408 Request Timeout"
        assert problem["code"] == "request.slow"


@pytest.mark.slow
def test_whoever_says_nothing_is_not_kept_and_whoever_is_served_in_time_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HEAD_S", 0.2)

    async def main() -> None:
        async with wired() as server:
            silent = await server.connect()
            assert await asyncio.wait_for(silent.rest(), 5) == ""
            await silent.close()
            run_id = await server.served.begun(ASK)
            await server.served.settled(run_id)
            follower = await server.connect()
            await follower.send(f"GET /v1/runs/{run_id}/events HTTP/1.1\r\n{HOST}Accept: text/event-stream\r\n\r\n")
            await asyncio.sleep(0.5)
            await server.served.post(f"/runs/{run_id}/cancel")
            assert "run_finished" in (await follower.reader.readuntil(b"event: run_finished")).decode()
            await follower.close()

    asyncio.run(main())


@pytest.mark.slow
def test_a_body_that_nobody_waits_for_does_not_hold_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HEAD_S", 0.2)

    async def main() -> str:
        async with wired() as server:
            line = await server.connect()
            await line.send(f"GET /healthz HTTP/1.1\r\n{HOST}Content-Length: 10000\r\n\r\n")
            return await trickled(line, "x" * 500)

    assert asyncio.run(main()).startswith("HTTP/1.1 200 OK")


@pytest.mark.slow
def test_a_body_that_comes_byte_by_byte_is_not_waited_for() -> None:
    async def main() -> str:
        async with wired(settings=ServerSettings(body_timeout_s=0.2)) as server:
            line = await server.connect()
            await line.send(f"POST /v1/runs HTTP/1.1\r\n{HOST}Content-Length: 10000\r\nConnection: close\r\n\r\n")
            return await trickled(line, "x" * 500)

    status, problem = problem_in(asyncio.run(main()))
    assert (status, problem["code"]) == ("HTTP/1.1 408 Request Timeout", "request.slow")


@pytest.mark.parametrize(
    "sent",
    [f"GET /healthz HTTP/1.1\r\n{HOST}X-Much: {'x' * (wire.HEAD_BYTES + 1)}", "what is this\r\n\r\n"],
    ids=["large", "other"],
)
def test_a_head_that_is_too_large_or_none_is_told_as_a_problem(sent: str) -> None:
    async def main() -> str:
        async with wired() as server:
            line = await server.connect()
            await line.send(sent)
            answer = await line.rest()
            await line.close()
            return answer

    status, problem = problem_in(asyncio.run(main()))
    assert (status, problem["code"]) == ("HTTP/1.1 400 Bad Request", "request.invalid")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="there is no such option here")
def test_a_follower_that_takes_nothing_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "UNTAKEN_S", 0.5)
    many = {"steps": [{"id": "each", "tool": "same", "for_each": "${{ inputs.many }}", "with": {"n": "${{ item }}"}}]}

    async def main() -> None:
        async with wired() as server:
            run_id = await server.served.begun(many, inputs={"many": ["x" * 30_000] * 30})
            await server.served.settled(run_id)
            deaf = socket.socket()
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", server.port))
            deaf.sendall(f"GET /v1/runs/{run_id}/events HTTP/1.1\r\n{HOST}Accept: text/event-stream\r\n\r\n".encode())
            async with asyncio.timeout(10):
                while not server.served.service.followers:
                    await asyncio.sleep(0.01)
                while server.served.service.followers:
                    await asyncio.sleep(0.01)
            deaf.close()

    asyncio.run(main())
