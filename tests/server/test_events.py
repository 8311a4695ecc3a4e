"""Events as they come: numbers, reconnecting, slow followers, the end of the server; and answers in pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from planloom.core.chat import LLMResponse, ModelCall
from planloom.core.result import Usage
from planloom.ports import ModelMetadata
from planloom.server import follow
from planloom.server.settings import ServerSettings
from tests.server.common import ASK, Gate, Served, serving

GATED = {"steps": [{"id": "a", "tool": "gate"}, {"id": "b", "tool": "same", "with": {"n": 2}, "needs": ["a"]}]}
MANY = {"steps": [{"id": "each", "tool": "same", "for_each": "${{ inputs.many }}", "with": {"n": "${{ item }}"}}]}
ACCEPT = {"accept": "text/event-stream"}


def told(text: str) -> list[dict[str, Any]]:
    """Return the events of a stream, each with its id."""
    found = []
    for frame in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in frame.splitlines() if ": " in line and not line.startswith(":"))
        if "data" in fields:
            event = json.loads(fields["data"])
            assert str(event["seq"]) == fields["id"]
            assert event["event"] == fields["event"]
            found.append(event)
    return found


async def followed(server: Served, run_id: str, *, after: int = 0, pause: bool = False) -> list[int]:
    """Return the numbers of the events that one follower is told of."""
    seqs = []
    async for text in follow.stream(server.service, run_id, after):
        seqs += [event["seq"] for event in told(text.decode())]
        if pause:
            await asyncio.sleep(0.001)
    return seqs


def test_a_stream_tells_every_event_once_and_ends_with_the_run() -> None:
    async def main() -> None:
        async with serving() as server:
            run_id = await server.begun({"steps": MANY["steps"]}, inputs={"many": [1, 2, 3]})
            answer = await server.client.get(f"/v1/runs/{run_id}/events", headers=ACCEPT)
            last = told(answer.text)[4]["seq"]
            rest = await server.client.get(f"/v1/runs/{run_id}/events", headers=ACCEPT | {"last-event-id": str(last)})
            none = await server.client.get("/v1/runs/none/events", headers=ACCEPT)

        seqs = [event["seq"] for event in told(answer.text)]
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert seqs == list(range(1, len(seqs) + 1))
        assert told(answer.text)[-1]["event"] == "run_finished"
        assert told(rest.text) == told(answer.text)[last:]
        assert none.status_code == 404

    asyncio.run(main())


def test_a_follower_that_lost_its_server_misses_nothing_with_the_next(tmp_path: Any) -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gate.tool, journal=tmp_path / "runs.db") as server:
            run_id = await server.begun(GATED)
            following = asyncio.create_task(followed(server, run_id))
            await gate.entered.wait()
            server.service.end_streams()
            before = await following
        gate.opened.set()
        async with serving(gate.tool, journal=tmp_path / "runs.db") as server:
            after = await followed(server, run_id, after=before[-1] if before else 0)

        assert before + after == list(range(1, len(before + after) + 1))

    asyncio.run(main())


def test_a_stream_says_now_and_then_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "HEARTBEAT_S", 0.01)

    async def main() -> None:
        async with serving() as server:
            run_id = await server.begun(ASK)
            await server.settled(run_id)
            async with aclosing(follow.stream(server.service, run_id, 1_000)) as frames:  # type: ignore[type-var]
                first, second = await anext(frames), await anext(frames)

            assert first.startswith(b"retry:")
            assert second.startswith(b":")
        assert server.service.followers == 0

    asyncio.run(main())


def test_no_more_follow_than_there_may_be() -> None:
    async def main() -> None:
        async with serving(settings=ServerSettings(max_followers=1)) as server:
            run_id = await server.begun(ASK)
            await server.settled(run_id)
            async with aclosing(follow.stream(server.service, run_id, 0)) as frames:  # type: ignore[type-var]
                await anext(frames)
                refused = await server.client.get(f"/v1/runs/{run_id}/events", headers=ACCEPT)

        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "2"

    asyncio.run(main())


@pytest.mark.slow
def test_a37_one_follower_that_fails_and_one_that_is_slow_hold_up_nobody() -> None:
    async def main() -> None:
        async with serving() as server:
            run_id = await server.begun(MANY, inputs={"many": list(range(100))})

            async def failing() -> None:
                async for _ in follow.stream(server.service, run_id, 0):
                    raise RuntimeError("gone")

            slow = asyncio.create_task(followed(server, run_id, pause=True))
            others = [followed(server, run_id) for _ in range(3)]
            *seen, broken = await asyncio.gather(*others, failing(), return_exceptions=True)
            ended = await server.get(f"/runs/{run_id}")
            late = await slow

        assert ended["status"] == "success"
        assert isinstance(broken, RuntimeError)
        assert all(one == list(range(1, ended["last_seq"] + 1)) for one in [*seen, late])

    asyncio.run(main())


class Slow:
    """A model that streams one piece, and the rest when it is let."""

    metadata = ModelMetadata("slow", "test", capabilities=frozenset({"streaming"}))

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.closed = False

    async def respond(self, call: ModelCall) -> LLMResponse:
        raise AssertionError("it is to stream")

    async def stream(self, call: ModelCall) -> AsyncIterator[str | LLMResponse]:
        try:
            yield "the first piece of the answer "
            await self.let.wait()
            yield "and the rest of it"
            text = "the first piece of the answer and the rest of it"
            yield LLMResponse(text, "test", "slow", Usage(1, 1, 1))
        finally:
            self.closed = True

    async def close(self) -> None:
        return None


SAY = {"steps": [{"id": "say", "model": "slow", "prompt": "Speak", "stream": True}]}


async def first_piece(server: Served, run_id: str) -> str:
    """Return the first piece of an answer that a follower is told of."""
    async with aclosing(follow.stream(server.service, run_id, 0)) as frames:  # type: ignore[type-var]
        async for text in frames:
            for event in told(text.decode()):
                if event["event"] == "output_streamed":
                    return str(event["text"])
    raise AssertionError("nothing was streamed")


def test_a58_the_first_piece_of_an_answer_is_told_while_the_rest_is_still_made() -> None:
    async def main() -> None:
        model = Slow()
        async with serving(models={"slow": model}) as server:
            run_id = await server.begun(SAY)
            piece = await first_piece(server, run_id)
            step = await server.get(f"/runs/{run_id}/steps/say")
            model.let.set()
            found = await server.settled(run_id)

        assert piece.startswith("the first piece")
        assert step["streamed"].startswith("the first piece")
        assert step["status"] == "running"
        assert found["result"] == "the first piece of the answer and the rest of it"

    asyncio.run(main())


def test_a58_who_cancels_the_run_in_the_middle_of_an_answer_closes_its_stream() -> None:
    async def main() -> None:
        model = Slow()
        async with serving(models={"slow": model}) as server:
            run_id = await server.begun(SAY)
            await first_piece(server, run_id)
            await server.post(f"/runs/{run_id}/cancel")
            found = await server.settled(run_id, at={"cancelled"})

        assert found["status"] == "cancelled"
        assert model.closed

    asyncio.run(main())
