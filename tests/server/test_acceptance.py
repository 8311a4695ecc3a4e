"""A36-A38, A48, A58 over HTTP: the record, followers, many at once, spans, answers in pieces, whose turn it is."""

from __future__ import annotations

import asyncio
import contextvars
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from planloom import Effects, masking, tool
from planloom.core.chat import LLMResponse, ModelCall
from planloom.core.report import run_result
from planloom.core.result import Usage
from planloom.journal.codec import decode
from planloom.observe.trace import Tracing
from planloom.ports import ModelMetadata, Recorded
from planloom.runtime.explain import explained
from planloom.runtime.replay import replayed
from planloom.testing.clock import ManualClock
from planloom.testing.fakes import fake_tool
from tests.acceptance.test_execution_agent import MANY
from tests.observe.test_trace import Backend, about, context
from tests.runtime.canary import new_secret
from tests.server.common import HERE, bearing, serving, token_settings
from tests.server.wired import followed, wired

# --- A36 ----------------------------------------------------------------------------------------


STANDS = ("status", "output", "error", "attempts", "started_at", "ended_at", "latency_ms")


def everything(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for step in steps:
        yield step
        yield from everything(step.get("parts", []))


def test_a36_the_record_that_is_downloaded_tells_the_whole_run_and_why_each_step_stands_so() -> None:
    tools = [
        fake_tool("flaky", [ConnectionError("503"), [1, 2, 3]]),
        fake_tool("double", lambda n: n * 2),
        fake_tool("sum", lambda all: sum(all)),
        fake_tool("broken", [ValueError("no")]),
    ]

    async def main() -> None:
        async with serving(*tools) as server:
            run_id = await server.begun(MANY)
            found = await server.settled(run_id)
            answer = await server.client.get(f"/v1/runs/{run_id}/record")
            rows = [json.loads(line) for line in answer.text.splitlines()]
            record = [
                Recorded(
                    row["seq"], row["cause"], decode(row["kind"], row["version"], json.dumps(row["body"]), lambda _: "")
                )
                for row in rows
            ]
            machine = replayed(run_id, record)
            steps = {key: await server.get(f"/runs/{run_id}/steps/{key}") for key in machine.state.nodes}

        told = json.loads(json.dumps(run_result(machine.state).to_dict()))
        assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
        told.pop("blocked")  # `questions` has it
        assert {name: found[name] for name in told} == told
        assert {step["status"] for step in steps.values()} == {"completed", "failed", "skipped", "cancelled"}
        rows_of_steps = {row["id"]: row for row in everything(told["steps"])}
        for key, step in steps.items():
            assert {name: step[name] for name in STANDS} == {name: rows_of_steps[key][name] for name in STANDS}, key
            links = [link.to_dict() for link in explained(run_id, record, key).chain]
            assert step["chain"] == json.loads(json.dumps(links)), key
            assert (links[-1]["event"], links[-1]["seq"]) == ("run_started", 1), key

    asyncio.run(main())


# --- A37 ----------------------------------------------------------------------------------------

LARGE = {
    "steps": [
        {"id": "each", "tool": "large", "for_each": "${{ inputs.many }}", "with": {"n": "${{ item }}"}},
    ]
}


@pytest.mark.slow
def test_a37_of_five_followers_one_that_breaks_off_and_one_that_takes_nothing_hold_up_nobody() -> None:
    async def main() -> None:
        go_on = asyncio.Event()

        async def large(n: int) -> str:
            await go_on.wait()
            return f"{n}" * 40_000

        async with wired(fake_tool("large", large)) as server:
            run_id = await server.served.begun(LARGE, inputs={"many": list(range(100))})

            async def all_of_it() -> list[int]:
                async with aclosing(followed(server, run_id)) as events:  # type: ignore[type-var]
                    return [event["seq"] async for event in events]

            async def breaks_off() -> None:
                line = await server.connect()
                await line.send(asked)
                await line.reader.readuntil(b"run_started")
                line.writer.transport.abort()

            asked = f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
            deaf = socket.socket()
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", server.port))
            deaf.sendall(asked.encode())
            others = [asyncio.create_task(all_of_it()) for _ in range(3)]
            while server.served.service.followers < 4:
                await asyncio.sleep(0.001)
            await breaks_off()
            go_on.set()
            seen = await asyncio.gather(*others)
            ended = await server.served.get(f"/runs/{run_id}")
            while server.served.service.followers > 1:
                await asyncio.sleep(0.001)
            reader, writer = await asyncio.open_connection(sock=deaf, limit=1 << 30)
            late = (await reader.readuntil(b"event: run_finished")).count(b"\nevent: ")
            writer.close()

        assert ended["status"] == "success"
        assert all(one == list(range(1, ended["last_seq"] + 1)) for one in seen)
        assert late == ended["last_seq"]

    asyncio.run(main())


# --- A38 ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timing
def test_a38_twenty_requests_whose_tools_block_take_as_long_as_one_and_keep_nobody_waiting() -> None:
    seen: list[str] = []
    word: contextvars.ContextVar[str] = contextvars.ContextVar("word", default="unset")

    @tool(name="blocks", effects=Effects.NONE)
    def blocks() -> str:
        """Block a thread."""
        time.sleep(0.5)
        seen.append(word.get())
        return "done"

    async def main() -> tuple[float, float, list[float]]:
        word.set("of the server")
        gaps: list[float] = []

        async def tick() -> None:
            last = time.monotonic()
            while True:
                await asyncio.sleep(0.01)
                gaps.append(time.monotonic() - last)
                last = time.monotonic()

        async with serving(blocks) as server:
            plan = {"steps": [{"id": "a", "tool": "blocks"}]}

            async def one() -> str:
                return str((await server.settled(await server.begun(plan)))["status"])

            await one()
            ticking = asyncio.create_task(tick())
            began = time.monotonic()
            await one()
            alone = time.monotonic() - began
            ticking.cancel()
            began = time.monotonic()
            statuses = await asyncio.gather(*(one() for _ in range(20)))
            took = time.monotonic() - began
            assert set(statuses) == {"success"}
        return alone, took, gaps

    alone, took, gaps = asyncio.run(main())
    assert took < 1.5 * alone
    assert max(gaps) < 0.05
    assert set(seen) == {"of the server"}


# --- A48 ----------------------------------------------------------------------------------------

TOP = "invoke_workflow p"
BOTH = {
    "name": "p",
    "steps": [
        {"id": "a", "tool": "meet", "with": {"who": "${{ inputs.who }}"}},
        {"id": "b", "tool": "meet", "with": {"who": "${{ inputs.who }}"}},
        {"id": "each", "tool": "same", "for_each": [1, 2], "with": {"n": "${{ item }}"}, "needs": ["a"]},
    ],
}
BRANCHES = [
    f"{TOP} > step {step}{more}"
    for step in ("a", "b", "each > step each[0]", "each > step each[1]")
    for more in ("", " > attempt 1", f" > attempt 1 > execute_tool {'same' if 'each' in step else 'meet'}")
]
TREE = sorted([TOP, f"{TOP} > step each", *BRANCHES])


def meeting(count: int) -> Any:
    """Return a tool whose calls go on once that many are under way."""
    under_way: list[str] = []
    all_there = asyncio.Event()

    async def meet(who: str) -> str:
        under_way.append(who)
        if len(under_way) == count:
            all_there.set()
        await all_there.wait()
        return who

    return fake_tool("meet", meet)


def test_a48_plans_submitted_side_by_side_are_trees_of_their_own_whatever_trace_a_caller_names() -> None:
    backend = Backend()

    async def main() -> None:
        async with serving(meeting(6), telemetry=Tracing(backend.tracer)) as server:
            headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
            runs = [server.begun(BOTH, inputs={"who": who}) for who in "xyz"]
            for run_id in await asyncio.gather(*runs):
                await server.settled(run_id)
            await server.post("/plans/check", {"plan": BOTH}, headers=headers)
            named = await server.post("/runs", {"plan": BOTH, "inputs": {"who": "w"}}, status=201, headers=headers)
            await server.settled(named["run_id"])

    asyncio.run(main())
    by_run: dict[int, list[str]] = {}
    for span, way in zip(backend.spans, backend.ways(), strict=True):
        by_run.setdefault(context(span).trace_id, []).append(way)
    assert [sorted(ways) for ways in by_run.values()] == [TREE] * 4
    assert all(span.parent is None for span in backend.spans if span.name == TOP)
    assert 0x0AF7651916CD43DD8448EB211C80319C not in by_run
    backend.provider.shutdown()


def test_a48_where_the_program_around_it_traces_requests_a_run_belongs_to_the_one_that_began_it() -> None:
    backend = Backend()

    async def main() -> None:
        async with serving(meeting(4), telemetry=Tracing(backend.tracer)) as server:

            async def traced(scope: Any, receive: Any, send: Any) -> None:
                with backend.tracer.start_as_current_span(f"{scope['method']} {scope['path']}"):
                    await server.app(scope, receive, send)

            async with httpx.AsyncClient(transport=httpx.ASGITransport(traced), base_url=HERE) as client:
                bodies = [{"plan": BOTH, "inputs": {"who": who}} for who in "xy"]
                answers = await asyncio.gather(*(client.post("/v1/runs", json=body) for body in bodies))
            for answer in answers:
                await server.settled(answer.json()["run_id"])

    asyncio.run(main())
    begun = [f"POST /v1/runs > {way}" for way in TREE]
    assert backend.tree() == sorted([*begun, *begun, "POST /v1/runs", "POST /v1/runs"])
    assert len({context(span).trace_id for span in backend.spans}) == 2
    backend.provider.shutdown()


def test_a48_no_span_of_a_run_over_http_holds_a_secret() -> None:
    backend, secret = Backend(), new_secret()

    def spill(text: str) -> dict[str, str]:
        return {"told": f"{secret} of {text}"}

    async def main() -> None:
        tracing = Tracing(backend.tracer, content=True)
        tools = [fake_tool("spill", spill), fake_tool("fail", [ValueError(f"not {secret}")])]
        steps = [{"id": "a", "tool": "spill", "with": {"text": "${{ inputs.text }}"}}, {"id": "b", "tool": "fail"}]
        settings = token_settings()
        async with serving(*tools, telemetry=tracing, settings=settings, headers=bearing("read")) as server:
            body = {"plan": {"steps": steps}, "inputs": {"text": "ann"}}
            begun = await server.post("/runs", body, status=201, headers=bearing("submit"))
            await server.settled(begun["run_id"])

    with masking.forgetting():
        masking.declare({"SOME": secret})
        asyncio.run(main())
    told = "\n".join(span.to_json() for span in backend.spans)
    assert "*** of ann" in str([about(span) for span in backend.spans])
    assert secret not in told
    assert bearing("submit")["authorization"].removeprefix("Bearer ") not in told
    backend.provider.shutdown()


# --- A58 ----------------------------------------------------------------------------------------


class Second:
    """A model that, once it is let, takes a second for its answer, a piece every tenth of it."""

    metadata = ModelMetadata("second", "test", capabilities=frozenset({"streaming"}))

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.began_at = 0.0

    async def respond(self, call: ModelCall) -> LLMResponse:
        raise AssertionError("it is to stream")

    async def stream(self, call: ModelCall) -> AsyncIterator[str | LLMResponse]:
        await self.let.wait()
        self.let.clear()
        self.began_at = time.perf_counter()
        for number in range(10):
            yield f"piece {number} "
            await asyncio.sleep(0.1)
        yield LLMResponse("".join(f"piece {number} " for number in range(10)), "test", "second", Usage(1, 1, 1))

    async def close(self) -> None:
        return None


@pytest.mark.slow
@pytest.mark.timing
def test_a58_the_first_piece_is_with_a_follower_in_fifty_milliseconds_while_a_second_is_streamed() -> None:
    say = {"steps": [{"id": "say", "model": "second", "prompt": "Speak", "stream": True}]}

    async def main() -> list[tuple[float, float]]:
        model, firsts = Second(), []
        async with wired(models={"second": model}) as server:
            for _ in range(3):
                run_id = await server.served.begun(say)
                told: list[tuple[float, str]] = []
                async with aclosing(followed(server, run_id)) as events:  # type: ignore[type-var]
                    async for event in events:
                        told.append((time.perf_counter() - model.began_at, event["event"]))
                        if event["event"] == "step_dispatched":
                            model.let.set()
                firsts.append((next(at for at, event in told if event == "output_streamed"), told[-1][0]))
        return firsts

    first_s, all_s = min(asyncio.run(main()))  # the machine may have had something else to do once
    assert first_s < 0.05
    assert all_s > 0.9


def test_a58_with_one_slot_the_higher_priority_overtakes_ten_that_wait() -> None:
    order: list[str] = []
    lows = [{"id": f"low{n}", "tool": "work", "with": {"name": "low"}} for n in range(11)]
    high = {"id": "high", "tool": "work", "with": {"name": "high"}, "priority": 5, "needs": ["first"]}
    first = {"id": "first", "tool": "work", "with": {"name": "first"}, "priority": 9}

    async def main() -> None:
        async with serving(fake_tool("work", lambda name: order.append(name))) as server:
            run_id = await server.begun({"steps": [*lows, first, high]}, limits={"max_concurrent": 1})
            assert (await server.settled(run_id))["status"] == "success"

    asyncio.run(main())
    assert order == ["first", "high", *["low"] * 11]


def test_a58_who_has_waited_long_enough_goes_before_a_higher_priority() -> None:
    clock = ManualClock()
    order: list[str] = []

    def work(name: str) -> None:
        order.append(name)
        clock.advance(30)

    highs = [
        {"id": f"h{n}", "tool": "work", "with": {"name": "high"}, "priority": 2, "needs": [f"h{n - 1}"] if n else []}
        for n in range(20)
    ]
    low = {"id": "low", "tool": "work", "with": {"name": "low"}}

    async def main() -> None:
        async with serving(fake_tool("work", work), clock=clock) as server:
            run_id = await server.begun({"steps": [*highs, low]}, limits={"max_concurrent": 1})
            assert (await server.settled(run_id))["status"] == "success"

    asyncio.run(main())
    assert order[0] == "high"
    assert 0 < order.index("low") <= 7  # two points of priority are worth two minutes of waiting
