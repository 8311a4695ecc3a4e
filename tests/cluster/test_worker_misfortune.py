"""What goes wrong: workers die and fall silent, brokers are killed and lose everything, credentials are wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from planloom.plan.policy import Effects, FailureKind
from planloom.transport.nats import subjects
from planloom.transport.nats.streams import CMD, StreamTerms, backlog, ensure_streams, ensure_workers
from tests.cluster.servers import Nats, comes
from tests.cluster.small_agent import failure, small_agent, value, worker
from tests.transport.workplace import calls

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def run(main: Any) -> Any:
    return asyncio.run(main())


def put(folder: Path, seconds: float, n: int = 3) -> dict[str, Any]:
    return {"folder": str(folder), "n": n, "seconds": seconds}


def test_a_step_whose_worker_is_killed_is_told_as_lost_by_another_one_a_lease_later(nats: Nats, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        async with small_agent(nats, lease_s=1.5) as agent, worker(nats) as one, worker(nats) as other:
            at = await agent.ask_for("w.put", put(tmp_path, 60.0), effects=Effects.IDEMPOTENT)
            await comes(lambda: calls(tmp_path))
            at_it = {one.pid: one, other.pid: other}[int(calls(tmp_path)[0][3])]
            began = time.monotonic()
            at_it.kill()
            told = await agent.outcomes(at)
            return [told.fact, told.heard_at - began, len(calls(tmp_path))]

    fact, after_s, made = run(main)

    assert failure(fact).kind is FailureKind.LOST
    assert after_s < 1.5 + 1.0
    assert made == 1


def test_what_was_claimed_by_one_who_died_is_not_granted_to_the_next(nats: Nats, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        async with small_agent(nats, lease_s=1.0) as agent, worker(nats) as one, worker(nats) as other:
            await agent.ask_for("w.pay", {"folder": str(tmp_path), "seconds": 60.0}, needs_claim=True)
            await comes(lambda: calls(tmp_path))
            {one.pid: one, other.pid: other}[int(calls(tmp_path)[0][3])].kill()
            await comes(lambda: len(agent.asked) == 2)
            await comes(lambda: emptied(agent.link))
            return [[told["redelivered"] for told in agent.asked], len(calls(tmp_path)), agent.told]

    assert run(main) == [[False, True], 1, []]


async def emptied(link: Any) -> bool:
    left = await backlog(link, CMD, subjects.consumer("main"))
    return not left.waiting and not left.in_flight


def test_what_was_given_to_one_who_died_before_it_claimed_is_made_by_the_next(nats: Nats, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        async with small_agent(nats, lease_s=1.0) as agent, worker(nats, "--name", "one") as first:
            agent.listening = False
            at = await agent.ask_for("w.pay", {"folder": str(tmp_path)}, needs_claim=True)
            await comes(lambda: taken(agent.link))
            first.kill()
            await first.wait()
            agent.listening = True
            async with worker(nats, "--name", "two"):
                fact = await agent.outcome(at)
            return [value(fact), [told["redelivered"] for told in agent.asked], len(calls(tmp_path))]

    assert run(main) == ["paid", [True], 1]


async def taken(link: Any) -> bool:
    return (await backlog(link, CMD, subjects.consumer("main"))).in_flight == 1


def test_a_worker_that_was_stopped_past_its_lease_is_too_late_and_works_on(nats: Nats, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        async with small_agent(nats, lease_s=0.8) as agent, worker(nats) as one, worker(nats) as other:
            at = await agent.ask_for("w.put", put(tmp_path, 1.0))
            await comes(lambda: calls(tmp_path))
            at_it = {one.pid: one, other.pid: other}[int(calls(tmp_path)[0][3])]
            os.kill(at_it.pid, signal.SIGSTOP)
            fact = await agent.outcome(at)
            os.kill(at_it.pid, signal.SIGCONT)
            await comes(lambda: agent.stale)
            mine = at_it.pid
            pids = {
                value(await agent.outcome(await agent.ask_for("w.pid", {"seconds": 0.1}, run=f"r{n}")))
                for n in range(6)
            }
            return [fact, agent.stale[0].fact, len(calls(tmp_path)), mine in pids]

    first, late, made, works_on = run(main)

    assert failure(first).kind is FailureKind.LOST
    assert value(late) == 9
    assert made == 1
    assert works_on


def test_an_outcome_is_told_once_the_broker_that_was_down_is_back(nats: Nats, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        async with small_agent(nats, lease_s=2.0) as agent, worker(nats):
            at = await agent.ask_for("w.put", put(tmp_path, 0.7))
            await comes(lambda: calls(tmp_path))
            await asyncio.to_thread(nats.kill)
            await asyncio.sleep(1.0)  # it ends meanwhile, and nobody can be told
            await asyncio.to_thread(nats.start)
            told = await agent.outcomes(at)
            await comes(lambda: emptied(agent.link))
            return [value(told.fact), len(calls(tmp_path)), len(agent.told) + len(agent.stale)]

    assert run(main) == [9, 1, 1]


def test_a_worker_goes_on_with_a_broker_that_lost_everything(nats: Nats, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        async with small_agent(nats) as agent, worker(nats):
            at = await agent.ask_for("w.put", put(tmp_path, 0.7))
            await comes(lambda: calls(tmp_path))
            losses = agent.link.losses
            await asyncio.to_thread(nats.restart, empty=True)
            await comes(lambda: agent.link.is_up and agent.link.losses > losses)
            await ensure_streams(agent.link, StreamTerms(lease_s=5.0))
            await ensure_workers(agent.link, "main", lease_s=1.0)
            first = await agent.outcome(at)
            second = await agent.outcome(await agent.ask_for("w.pid", run="second"))
            return [value(first), value(second) > 0, len(calls(tmp_path))]

    assert run(main) == [9, True, 1]


def test_a_step_that_kills_its_worker_is_made_once_for_each_attempt(nats: Nats, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        async with small_agent(nats, lease_s=1.0) as agent, worker(nats) as a, worker(nats) as b, worker(nats) as c:
            kinds = []
            for attempt in (1, 2):
                at = await agent.ask_for("w.die", {"folder": str(tmp_path)}, attempt=attempt)
                kinds.append(failure(await agent.outcome(at)).kind)
            return [kinds, len(calls(tmp_path)), sum(one.returncode is None for one in (a, b, c))]

    assert run(main) == [[FailureKind.LOST] * 2, 2, 1]


WRONG_USERS = """
max_payload: 8MB
accounts { A { jetstream: enabled, users: [
  { user: agent, password: known-well }
  { user: mail, password: known-well, permissions: {
      publish: ["$JS.API.CONSUMER.MSG.NEXT.CMD.w-mail-any", "$JS.ACK.CMD.w-mail-any.>", "pl.in.mail.>", "pl.ask.mail.>"]
      subscribe: ["_INBOX.mail.>", "pl.ctl.mail.stop", "pl.ctl.mail.*.drain"] } }
] } }
"""


@pytest.fixture
def guarded(tmp_path: Path) -> Any:
    server = Nats(tmp_path / "guarded", WRONG_USERS).start()
    try:
        yield server
    finally:
        server.kill()


def as_user(server: Nats, user: str, password: str = "known-well") -> str:
    return server.url.replace("//", f"//{user}:{password}@")


@pytest.mark.parametrize(
    ("user", "password", "capability"),
    [("mail", "wrong", "mail"), ("mail", "known-well", "users")],
    ids=["who", "what"],
)
def test_a_worker_the_broker_does_not_let_in_or_does_not_let_work_ends_and_says_so(
    guarded: Nats, user: str, password: str, capability: str
) -> None:
    async def main() -> tuple[int | None, str]:
        async with worker(as_user(guarded, user, password), "--capability", capability) as process:
            _, said = await asyncio.wait_for(process.communicate(), 20)
            return process.returncode, said.decode()

    code, said = run(main)

    assert code not in (0, None)
    assert "does not let" in said
    assert password not in said


def test_a_worker_with_no_more_than_it_needs_does_its_work(guarded: Nats) -> None:
    from planloom.transport.nats.link import Broker

    async def main() -> Any:
        broker = Broker((as_user(guarded, "agent"),), name="agent")
        async with (
            small_agent(guarded, capability="mail", broker=broker) as agent,
            worker(as_user(guarded, "mail"), "--capability", "mail"),
        ):
            at = await agent.ask_for("w.pid", capability="mail", needs_claim=True)
            return value(await agent.outcome(at))

    assert run(main) > 0
