"""Messages between engine and worker: once and in order, whatever the connection does; and what is made of them."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from planloom import Engine, RunStatus, Step, tool
from planloom.core.commands import RunStep
from planloom.core.events import AttemptSucceeded, AttemptWaiting, CallEnded, CallStarted, OutputStreamed
from planloom.errors import ProtocolError
from planloom.plan.policy import Effects, FailureKind
from planloom.ports import AttemptContext
from planloom.runtime.wire import JsonWire
from planloom.runtime.workers import on_workers
from planloom.tools.registry import ToolRegistry
from planloom.transport.link import Link
from planloom.transport.pool import WorkerPool
from tests.transport.faulty import FaultyRelay, WorkerHere
from tests.transport.workplace import plan, step, until


class Pair:
    """Two ends and what lies between them, which the test tears at."""

    def __init__(self, *, seed: int, lost: float) -> None:
        self._dice = random.Random(seed)
        self._lost = lost
        self.got: tuple[list[Any], list[Any]] = ([], [])
        self.closed: list[str] = []
        self.ends = [
            Link(lambda message, got=got: got.append(message["n"]), self.closed.append, resend_s=0.03)
            for got in self.got
        ]
        for end, other in zip(self.ends, reversed(self.ends), strict=True):
            end.channel.write = lambda text, other=other: self._carry(text, other)  # type: ignore[method-assign]

    def _carry(self, text: str, other: Link) -> None:
        frame = json.loads(text)
        for _ in range(2):
            if self._dice.random() >= self._lost:
                asyncio.get_running_loop().call_later(self._dice.uniform(0, 0.01), other._frame_came, frame)


@pytest.mark.parametrize("seed", range(5))
def test_every_message_comes_once_and_in_order_over_a_connection_that_loses_a_third(seed: int) -> None:
    async def main() -> None:
        pair = Pair(seed=seed, lost=0.33)
        for n in range(50):
            pair.ends[0].send({"n": n})
            pair.ends[1].send({"n": -n})

        await until(lambda: len(pair.got[0]) == len(pair.got[1]) == 50, within_s=20)
        await until(lambda: not pair.ends[0]._unheard and not pair.ends[1]._unheard, within_s=20)

        assert pair.got[1] == list(range(50))
        assert pair.got[0] == [-n for n in range(50)]
        for end in pair.ends:
            end.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "frame", [[1, 5, {}], [-1, 0], [0, 0, {}], [1, 0], "x", [1, 0, []], [True, 0, {}], [20_000, 0, {}]]
)
def test_what_is_no_message_is_refused(frame: Any) -> None:
    async def main() -> None:
        link = Link(lambda message: None, lambda why: None)

        with pytest.raises(ProtocolError):
            link._frame_came(frame)

    asyncio.run(main())


@tool(name="t0", effects="idempotent")
def t0(n: int) -> int:
    """Is done by workers."""
    raise AssertionError("it is done by workers")


TOOLS = ToolRegistry.of([t0])


@pytest.mark.slow
def test_a30_two_hundred_runs_over_a_faulty_link_do_each_step_once_and_come_to_the_same(tmp_path: Path) -> None:
    done: Counter[tuple[str, str]] = Counter()

    async def work(request: RunStep, context: AttemptContext) -> int:
        done[request.run_id, request.key] += 1
        await asyncio.sleep(0)
        return int(request.args["n"]) + 1

    diamond = plan(
        step("a", "t0", {"n": 1}),
        step("b", "t0", {"n": "${{ steps.a.output }}"}),
        step("c", "t0", {"n": "${{ steps.a.output }}"}),
        step("d", "t0", {"n": "${{ steps.c.output }}"}, needs=["b"]),
    )

    async def main() -> None:
        async with (
            WorkerPool(0, 0, lease_s=5) as pool,
            FaultyRelay(pool.address, str(tmp_path / "relay"), seed=30) as relay,
            AsyncExitStack() as workers,
            Engine(tools=TOOLS, transport=on_workers(pool, patience_s=30)) as engine,
        ):
            for n in range(16):
                await workers.enter_async_context(WorkerHere(relay.address, pool.token, TOOLS, work, name=f"n{n}"))
            await until(lambda: pool.idle == 16)

            results = await engine.batch(diamond, [{}] * 200, max_concurrent=200)

            assert [result.status for result in results] == [RunStatus.SUCCESS] * 200
            assert {result.output for result in results} == {4}
            assert len(done) == 800
            assert set(done.values()) == {1}
            assert relay.dropped > 10
            assert (pool.counts.lost, pool.counts.late) == (0, 0)

    asyncio.run(main())


def request(key: str = "s", *, attempt: int = 1) -> dict[str, Any]:
    asked = RunStep("r", key, Step(id="s", tool="t0"), attempt, 1, {"n": 1}, Effects.NONE, False, key)
    return JsonWire().request_out(asked, 0.0)


def test_an_attempt_asked_for_twice_is_made_once_and_answered_to_whoever_asked_last() -> None:
    made: list[str] = []
    go_on = asyncio.Event()

    async def work(request: RunStep, context: AttemptContext) -> int:
        made.append(request.key)
        await go_on.wait()
        return 1

    async def main() -> None:
        async with WorkerPool(0, 0) as pool, WorkerHere(pool.address, pool.token, TOOLS, work) as worker:
            ask = {"m": "do", "lane": "l", "at": ["r", "s", 1, 1], "step": request()}
            for lease in ("first", "first", "second"):
                worker.bench.hear(ask | {"lease": lease})
            await until(lambda: made)
            go_on.set()
            await until(lambda: any(message["m"] == "outcome" for message in worker.sent))
            worker.bench.hear(ask | {"lease": "third"})

            outcomes = [message["lease"] for message in worker.sent if message["m"] == "outcome"]
            assert made == ["s"]
            assert outcomes == ["second", "third"]
            assert [message["lease"] for message in worker.sent if message["m"] == "begun"] == ["first"]

    asyncio.run(main())


def test_what_a_worker_has_no_room_for_is_given_back_and_never_begun() -> None:
    made: list[str] = []

    async def work(request: RunStep, context: AttemptContext) -> None:
        made.append(request.key)
        await asyncio.Event().wait()

    async def main() -> None:
        async with WorkerPool(0, 0) as pool, WorkerHere(pool.address, pool.token, TOOLS, work, capacity=1) as worker:
            for key in ("a", "b"):
                worker.bench.hear({"m": "do", "lease": key, "lane": "l", "at": ["r", key, 1, 1], "step": request(key)})
            await until(lambda: made)

            assert made == ["a"]
            assert [message for message in worker.sent if message["m"] == "returned"] == [
                {"m": "returned", "lease": "b"}
            ]

    asyncio.run(main())


@pytest.mark.slow
def test_what_an_attempt_states_on_its_way_is_on_record_before_it_goes_on() -> None:
    seen: list[bool] = []

    async def work(request: RunStep, context: AttemptContext) -> int:
        at = context.clock.now()
        seen.append(
            await context.record(
                CallStarted(request.key, request.attempt, request.epoch, "1/x", "t1", at, Effects.ONCE)
            )
        )
        context.note(
            CallEnded(request.key, request.attempt, request.epoch, "1/x", "t1", "tool", 5, at, context.clock.now())
        )
        context.waiting("rate", at + 3)
        context.waiting(None)
        return 7

    async def main() -> None:
        async with (
            WorkerPool(0, 0) as pool,
            WorkerHere(pool.address, pool.token, TOOLS, work),
            Engine(tools=TOOLS, transport=on_workers(pool)) as engine,
        ):
            run = await engine.start(plan(step("a", "t0", {"n": 1})))
            result = await run.result()

            events = [recorded.event for recorded in await engine.journal.read(run.run_id)]
            kinds = [type(event) for event in events]
            assert result.output == 7
            assert seen == [True]
            assert kinds.index(CallStarted) < kinds.index(CallEnded) < kinds.index(AttemptSucceeded)
            waits = [event for event in events if isinstance(event, AttemptWaiting)]
            assert [event.reason for event in waits] == ["rate", None]
            assert waits[0].until == pytest.approx(waits[0].at + 3, abs=0.1)
            assert not any(isinstance(event, OutputStreamed) for event in events)

    asyncio.run(main())


@pytest.mark.slow
def test_a_worker_that_speaks_for_steps_it_was_not_given_is_thrown_out() -> None:
    async def work(request: RunStep, context: AttemptContext) -> int:
        context.note(OutputStreamed("another", request.attempt, request.epoch, "forged", context.clock.now()))
        await asyncio.Event().wait()
        return 1

    async def main() -> None:
        async with (
            WorkerPool(0, 0) as pool,
            WorkerHere(pool.address, pool.token, TOOLS, work),
            Engine(tools=TOOLS, transport=on_workers(pool, patience_s=0)) as engine,
        ):
            await until(lambda: pool.idle == 1)
            run = await engine.start(plan(step("a", "t0", {"n": 1})))
            result = await run.result()

            events = [recorded.event for recorded in await engine.journal.read(run.run_id)]
            assert result.status is RunStatus.FAILED
            assert result.steps[0].error_kind == FailureKind.REFUSED  # nobody else can do it
            assert pool.counts.lost == 1
            assert not any(isinstance(event, OutputStreamed) for event in events)

    asyncio.run(main())
