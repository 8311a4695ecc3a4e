"""How much may be asked: size, rate, time."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from planloom.server.auth import Doorkeeper
from planloom.server.gate import HttpGate
from planloom.server.limits import KNOWN_CALLERS, RequestRate
from planloom.server.settings import ServerSettings
from planloom.testing.fakes import fake_tool
from tests.server.common import ONE, bearing, serving, token_settings


class Now:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def test_a_tenth_of_a_minutes_requests_may_come_at_once_and_then_as_time_goes_by() -> None:
    now = Now()
    rate = RequestRate(60, now=now)

    first = [rate.take("a") for _ in range(7)]
    now.at = 1.0

    assert first == [0.0] * 6 + [1.0]
    assert [rate.take("a"), rate.take("a")] == [0.0, 1.0]
    assert rate.take("b") == 0.0


def test_callers_that_are_not_heard_of_any_more_are_forgotten() -> None:
    rate = RequestRate(60, now=Now())

    for number in range(KNOWN_CALLERS + 10):
        rate.take(str(number))

    assert len(rate._left) == KNOWN_CALLERS


def test_too_many_requests_are_refused_with_retry_after_and_other_callers_are_served() -> None:
    async def main() -> None:
        async with serving(settings=token_settings(), rate=RequestRate(10, now=Now())) as server:
            answers = [await server.client.get("/v1/runs", headers=bearing("read")) for _ in range(2)]
            other = await server.client.get("/v1/runs", headers=bearing("submit"))
            guesses = [await server.client.get("/v1/runs", headers={"authorization": "Bearer x"}) for _ in range(2)]

        assert [answer.status_code for answer in answers] == [200, 429]
        assert answers[1].headers["retry-after"] == "6"
        assert answers[1].json()["code"] == "request.rate"
        assert other.status_code == 403
        assert [guess.status_code for guess in guesses] == [401, 429]

    asyncio.run(main())


@pytest.mark.parametrize("told", [True, False], ids=["length-told", "in-pieces"])
def test_a_request_that_is_too_large_is_not_read(told: bool) -> None:
    sent = 0

    async def pieces() -> Any:
        nonlocal sent
        for _ in range(1_000):
            sent += 1
            yield b"x" * 1_000

    async def main() -> None:
        async with serving(settings=ServerSettings(max_body_bytes=10_000)) as server:
            headers = {"content-length": "1000000"} if told else {}
            answer = await server.client.post("/v1/runs", content=pieces(), headers=headers)

            assert answer.status_code == 413
            assert answer.json()["code"] == "request.too_large"
            assert await server.service.journal.runs() == []

    asyncio.run(main())
    assert sent < 20


def test_a_request_that_does_not_come_is_not_waited_for() -> None:
    async def never() -> Any:
        await asyncio.Event().wait()

    async def main() -> None:
        answers: list[Any] = []

        async def sent(message: Any) -> None:
            answers.append(message)

        settings = ServerSettings(body_timeout_s=0.01)
        gate = HttpGate(lambda *_: None, settings=settings, doorkeeper=Doorkeeper(settings))  # type: ignore[arg-type, return-value]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/runs",
            "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 1),
        }
        await gate(scope, never, sent)

        assert answers[0]["status"] == 408

    asyncio.run(main())


def test_a_websocket_is_refused() -> None:
    async def main() -> None:
        answers: list[Any] = []

        async def sent(message: Any) -> None:
            answers.append(message)

        async def received() -> Any:
            return {"type": "websocket.connect"}

        async with serving() as server:
            await server.app({"type": "websocket", "path": "/v1/runs", "headers": []}, received, sent)

        assert answers == [{"type": "websocket.close", "code": 1008}]

    asyncio.run(main())


def test_a_large_plan_keeps_nobody_waiting_long() -> None:
    plan = {"steps": [{"id": f"s{number}", "tool": "same", "with": {"n": number}} for number in range(400)]}

    async def main() -> None:
        async with serving() as server:
            answer = await server.client.post("/v1/plans/check", json={"plan": plan})

            assert answer.json()["steps"] == 400

    asyncio.run(main())


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"plan": NaN}', b"\xff\xfe", b'{"plan": {}, "plan": {}, "x": 1}']
)
def test_a_body_that_is_no_request_is_told_so(content: bytes) -> None:
    async def main() -> None:
        async with serving() as server:
            answer = await server.client.post("/v1/runs", content=content, headers={"content-type": "application/json"})

            assert answer.status_code in (400, 422)
            assert answer.headers["content-type"] == "application/problem+json"

    asyncio.run(main())


def test_deeply_nested_json_is_no_bug() -> None:
    async def main() -> None:
        async with serving() as server:
            for content in (
                b'{"plan": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
                b'{"plan":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001,
            ):
                answer = await server.client.post(
                    "/v1/runs", content=content, headers={"content-type": "application/json"}
                )
                assert answer.status_code in (400, 413, 422), answer.text[:200]

    asyncio.run(main())


def test_half_a_sign_in_an_answer_of_a_tool_is_shown_all_the_same() -> None:
    async def main() -> None:
        async with serving(fake_tool("half", ["\ud800"])) as server:
            found = await server.settled(await server.begun({"steps": [{"id": "a", "tool": "half"}]}))
            for path in ("", "/events", "/record", "/steps/a", "/graph.svg"):
                shown = await server.client.get(f"/v1/runs/{found['run_id']}{path}")
                assert shown.status_code == 200, path

    asyncio.run(main())


def test_a_client_of_another_kind_is_unhurt() -> None:
    async def main() -> None:
        async with serving() as server:
            answer = await server.client.post("/v1/runs", data={"plan": str(ONE)})
            assert answer.status_code == 422
            assert isinstance(answer, httpx.Response)

    asyncio.run(main())
