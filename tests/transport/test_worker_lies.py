"""Workers that know the token and lie, and strangers that do not: the engine goes on, and uses nothing they said."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from planloom import RunStatus
from planloom.core.commands import RunStep
from planloom.core.events import AttemptSucceeded, CallStarted
from planloom.plan.policy import FailureKind
from planloom.ports import AttemptContext
from planloom.runtime.wire import JsonWire
from planloom.tools.load import load_tools
from planloom.tools.registry import ToolRegistry
from planloom.transport.frames import MAX_STRANGER_BYTES, STRANGER_QUOTA_BYTES
from planloom.transport.handshake import Address
from planloom.transport.pool import WorkerPool
from planloom.transport.post import Post
from planloom.transport.reception import MAX_STRANGERS
from tests.transport.faulty import WorkerHere
from tests.transport.workplace import SETUP, TOOLS, engine_on, plan, pool_of, step, until

slow = pytest.mark.slow
Lie = Callable[[dict[str, Any]], list[str]]


class Puppet:
    """Joins a pool as any worker does, and answers what it is to do with the frames that a test says."""

    def __init__(self, pool: WorkerPool, lie: Lie, *, name: str = "puppet", capacity: int = 1) -> None:
        self.asked: list[dict[str, Any]] = []
        self.ended: list[str] = []
        self._lie = lie
        tools = {one.name: one.digest for one in ToolRegistry.of(load_tools(TOOLS))}
        self.post = Post(
            pool.address,
            pool.token,
            {"worker": name, "pid": 1, "capacity": capacity, "kinds": ["tool"], "tools": tools},
            heard=self._heard,
            ended=lambda why, _: self.ended.append(why),
        )
        self.post.start()

    def _heard(self, message: dict[str, Any]) -> None:
        self.asked.append(message)
        if message["m"] == "do":
            for text in self._lie(message):
                self.say(text)

    def say(self, text: str) -> None:
        link = self.post._link
        assert link is not None
        link._sent += 1
        with suppress(UnicodeEncodeError):
            link.channel.write(f"[{link._sent},{link._got},{text}]")


def outcome(message: dict[str, Any], **over: Any) -> str:
    """Return the frame of an attempt that came to 3, with other contents."""
    _, key, attempt, epoch = message["at"]
    kind, version, body, blobs = JsonWire().fact_out(AttemptSucceeded(key, attempt, epoch, 3, 100.0, 101.0))
    lease = over.pop("lease", message["lease"])
    fact = [over.pop("kind", kind), version, json.dumps(json.loads(body) | over), blobs]
    return json.dumps({"m": "outcome", "lease": lease, "fact": fact})


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


HUGE = 10**400
LIES: dict[str, Lie] = {
    "another step": lambda m: [outcome(m, step="b")],
    "another attempt": lambda m: [outcome(m, attempt=m["at"][2] + 1)],
    "another epoch": lambda m: [outcome(m, epoch=m["at"][3] + 1)],
    "another kind": lambda m: [outcome(m, kind="run_finished")],
    "a kind there is not": lambda m: [outcome(m, kind="os.system")],
    "a cost below nothing": lambda m: [outcome(m, cost_usd=-1.0)],
    "a cost beyond measure": lambda m: [outcome(m, cost_usd=HUGE)],
    "a cost that is no number": lambda m: [outcome(m, cost_usd=float("nan"))],
    "calls below nothing": lambda m: [outcome(m, tool_calls=-5)],
    "usage below nothing": lambda m: [outcome(m, usage={"input_tokens": -100})],
    "usage of words": lambda m: [outcome(m, usage={"input_tokens": "many"})],
    "labels that are none": lambda m: [outcome(m, labels=["no label"])],
    "no time there is": lambda m: [outcome(m, at=HUGE)],
    "a start at no time there is": lambda m: [outcome(m, started_at=HUGE)],
    "text that cannot be written": lambda m: [outcome(m, output="\ud800")],
    "a deep result": lambda m: [outcome(m).replace('\\"output\\": 3', f'\\"output\\": {deep(800)}')],
    "a deeper result": lambda m: [outcome(m).replace('\\"output\\": 3', f'\\"output\\": {deep(100_000)}')],
    "a deep frame": lambda m: [f'{{"m":{deep(100_000)}}}'],
    "a frame with NaN": lambda m: ['{"m":"note","lease":NaN}'],
    "no fact": lambda m: [json.dumps({"m": "outcome", "lease": m["lease"], "fact": None})],
    "a lease of no kind": lambda m: ['{"m":"outcome","lease":[],"fact":[]}'],
    "no message": lambda m: ["{}"],
    "a word nobody knows": lambda m: [json.dumps({"m": "pay", "lease": m["lease"]})],
    "nothing but returns": lambda m: [json.dumps({"m": "returned", "lease": m["lease"]})],
}


@slow
@pytest.mark.parametrize("name", LIES)
def test_a_worker_that_lies_is_thrown_out_and_the_step_done_by_another(name: str) -> None:
    troubles: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
        async with pool_of(0, 1) as pool, engine_on(pool) as engine:
            puppet = Puppet(pool, LIES[name])
            await until(lambda: pool.idle)
            async with asyncio.timeout(20):
                result = await engine.run(plan(step("a", "w.add", {"a": 40, "b": 2})))

            assert result.status is RunStatus.SUCCESS
            assert result.output == 42
            assert puppet.asked
            assert pool.counts.provisioned == pool.counts.released
            puppet.post.stop()

    asyncio.run(main())
    assert troubles == []


@slow
def test_a_lease_of_another_worker_or_one_that_has_ended_opens_nothing() -> None:
    async def main() -> None:
        async with pool_of(0, 0) as pool, engine_on(pool) as engine:
            leases: list[dict[str, Any]] = []
            first = Puppet(pool, lambda m: (leases.append(m), [])[1], name="first")
            await until(lambda: pool.idle == 1)
            run = await engine.start(plan(step("a", "w.add", {"a": 1, "b": 2})))
            await until(lambda: leases)
            second = Puppet(pool, lambda m: [outcome(m, output="second's own")], name="second")
            await until(lambda: pool.idle == 1)

            second.say(outcome(leases[0], output="forged"))
            other = await engine.run(plan(step("a", "w.add", {"a": 1, "b": 2})))
            second.say(outcome(leases[0], output="forged again"))
            first.say(outcome(leases[0], output="first's own"))
            first.say(outcome(leases[0], output="said twice"))
            result = await run.result()

            assert other.output == "second's own"
            assert result.output == "first's own"
            first.post.stop()
            second.post.stop()

    asyncio.run(main())


@slow
def test_a_record_for_a_lease_that_has_ended_is_not_wanted() -> None:
    def recorded_after_its_end(message: dict[str, Any]) -> list[str]:
        _, key, attempt, epoch = message["at"]
        fact = JsonWire().fact_out(CallStarted(key, attempt, epoch, "k", "n", 1.0))
        asks = {"m": "record", "lease": message["lease"], "id": 7, "fact": fact}
        return [outcome(message), json.dumps(asks)]

    async def main() -> None:
        async with pool_of(0, 0) as pool, engine_on(pool) as engine:
            puppet = Puppet(pool, recorded_after_its_end)
            await until(lambda: pool.idle)

            run = await engine.start(plan(step("a", "w.add", {"a": 1, "b": 2})))
            result = await run.result()

            events = [recorded.event for recorded in await engine.journal.read(run.run_id)]
            assert result.output == 3
            assert not any(isinstance(event, CallStarted) for event in events)
            puppet.post.stop()

    asyncio.run(main())


@slow
def test_a_second_connection_under_a_workers_name_is_refused_and_it_can_come_back_when_it_has_left() -> None:
    async def main() -> None:
        async with pool_of(0, 0) as pool, engine_on(pool) as engine:
            first = Puppet(pool, lambda m: [outcome(m, output=1)], name="one")
            await until(lambda: pool.idle)
            impostor = Puppet(pool, lambda m: [outcome(m, output=2)], name="one")
            await until(lambda: impostor.ended)
            assert (pool.size, pool.counts.refused) == (1, 1)
            assert (await engine.run(plan(step("a", "w.add", {"a": 1, "b": 2})))).output == 1

            first.post.stop()
            await until(lambda: pool.size == 0)
            again = Puppet(pool, lambda m: [outcome(m, output=3)], name="one")
            await until(lambda: pool.idle)

            assert (await engine.run(plan(step("a", "w.add", {"a": 1, "b": 2})))).output == 3
            again.post.stop()
            impostor.post.stop()

    asyncio.run(main())


@slow
def test_a_worker_that_goes_as_it_is_sent_something_does_not_keep_the_run_waiting() -> None:
    async def main() -> None:
        async with pool_of(0, 0) as pool, engine_on(pool, patience_s=20.0) as engine:
            bye = [json.dumps({"m": "bye"})]
            going = Puppet(pool, lambda m: [*bye, json.dumps({"m": "returned", "lease": m["lease"]})], name="going")
            await until(lambda: pool.idle)
            run = await engine.start(plan(step("a", "w.add", {"a": 1, "b": 2})))
            await until(lambda: not pool.busy)

            coming = Puppet(pool, lambda m: [outcome(m)], name="coming")
            async with asyncio.timeout(5):
                result = await run.result()

            assert result.output == 3
            for puppet in (going, coming):
                puppet.post.stop()

    asyncio.run(main())


# --- strangers ---


async def closed(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with suppress(ConnectionError):
        while await loop.sock_recv(connection, 65_536):
            pass


@slow
def test_those_who_show_no_token_keep_nobody_out_who_has_one() -> None:
    async def main() -> None:
        async with pool_of(0, 1, setup=SETUP) as pool, engine_on(pool) as engine:
            await pool.start()
            idlers = []
            for _ in range(3 * MAX_STRANGERS):
                idler = socket.socket(socket.AF_UNIX)
                idler.setblocking(False)
                await asyncio.get_running_loop().sock_connect(idler, Address.of(pool.address).path)
                idlers.append(idler)

            result = await engine.run(plan(step("a", "w.add", {"a": 1, "b": 2})))

            assert result.output == 3
            async with asyncio.timeout(5):
                await closed(idlers[0])
            assert len(pool._staff.reception.strangers) <= MAX_STRANGERS  # type: ignore[union-attr]
            for idler in idlers:
                idler.close()

    asyncio.run(main())


def test_a_stranger_is_not_listened_to_for_long() -> None:
    ahead = json.dumps([9, 0, {"m": "x" * (MAX_STRANGER_BYTES // 2)}]).encode()

    async def main() -> None:
        async with WorkerPool(0, 0) as pool:
            reader, writer = await asyncio.open_unix_connection(Address.of(pool.address).path)
            sent = 0
            with suppress(ConnectionError):
                while sent < 20 * STRANGER_QUOTA_BYTES:
                    writer.write(len(ahead).to_bytes(4) + ahead)
                    sent += len(ahead)
                    await writer.drain()

            with suppress(ConnectionError):
                async with asyncio.timeout(5):
                    await reader.read()
            assert sent < 20 * STRANGER_QUOTA_BYTES
            assert pool.size == 0
            writer.close()

    asyncio.run(main())


def test_whoever_says_hello_by_the_letter_is_shown_out_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planloom.transport.reception.WELCOME_S", 0.15)

    async def main() -> None:
        async with WorkerPool(0, 0) as pool:
            reader, writer = await asyncio.open_unix_connection(Address.of(pool.address).path)
            reading = asyncio.ensure_future(reader.read())
            writer.write(b"\x00\x00\x10\x00")
            with suppress(ConnectionError):
                while not reading.done():
                    writer.write(b"\x00")
                    await writer.drain()
                    await asyncio.sleep(0.02)

            assert b"it showed no token" in await reading
            assert pool.counts.refused == 1
            writer.close()

    asyncio.run(main())


@slow
@pytest.mark.parametrize(("size", "kind"), [(10, None), (300_000, FailureKind.LOST)])
def test_what_was_made_is_not_made_again_when_it_is_asked_for_again(size: int, kind: FailureKind | None) -> None:
    made: list[str] = []
    asked: list[dict[str, Any]] = []

    async def work(request: RunStep, context: AttemptContext) -> str:
        made.append(request.key)
        return "x" * size

    async def main() -> None:
        tools = ToolRegistry.of(load_tools(TOOLS))
        async with (
            pool_of(0, 0) as pool,
            engine_on(pool) as engine,
            WorkerHere(pool.address, pool.token, tools, work) as here,
        ):
            hear = here.bench.hear
            here.bench.hear = lambda message: (asked.append(message), hear(message))[1]  # type: ignore[method-assign]
            await until(lambda: pool.idle)
            result = await engine.run(plan(step("a", "w.add", {"a": 1, "b": 2})))

            here.bench.hear(asked[0] | {"lease": "another"})

            again = JsonWire().fact_in(here.sent[-1]["fact"], 0.0)
            assert result.output == "x" * size
            assert made == ["a"]
            assert here.sent[-1]["lease"] == "another"
            assert getattr(again, "kind", None) == kind

    asyncio.run(main())
