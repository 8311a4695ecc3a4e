"""An agent as small as can be, made of the link layer alone: it asks workers for attempts and hears what they say."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nats.aio.msg import Msg

from planloom.core.commands import RunStep
from planloom.core.events import AttemptFailed, AttemptSucceeded, Fact
from planloom.plan.model import Step
from planloom.plan.policy import Effects
from planloom.runtime.wire import JsonWire
from planloom.transport.nats import subjects
from planloom.transport.nats.commands import Sent, send
from planloom.transport.nats.link import Broker, BrokerLink
from planloom.transport.nats.puller import Delivery, Puller
from planloom.transport.nats.streams import IN, ORCH, StreamTerms, ensure_streams, ensure_workers
from tests.cluster.servers import Nats, comes

TOOLS = str(Path(__file__).parent.parent / "transport" / "worker_tools.py")
WIRE = JsonWire()
At = tuple[str, str, int, int]


@dataclass
class Told:
    """An outcome as it came in."""

    at: At
    token: str
    fact: Fact
    heard_at: float
    deliveries: int


@dataclass
class SmallAgent:
    """Asks for attempts, and remembers everything it hears.

    Attributes:
        asked: Questions, as they came; wanted: what it answers, by what is asked.
        tokens: Which token counts, by attempt.
    """

    link: BrokerLink
    lease_s: float
    told: list[Told] = field(default_factory=list)
    stale: list[Told] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    wanted: Callable[[dict[str, Any]], bool] = lambda _: True
    tokens: dict[At, str] = field(default_factory=dict)
    claims: dict[str, str] = field(default_factory=dict)
    listening: bool = True

    async def ask_for(
        self,
        tool: str,
        args: dict[str, Any] | None = None,
        *,
        run: str = "r",
        attempt: int = 1,
        capability: str = "main",
        place: str = "",
        needs_claim: bool | None = None,
        effects: Effects = Effects.NONE,
        left_s: float | None = None,
    ) -> At:
        """Publish a command; return which attempt it is for."""
        at = (run, "s", attempt, 0)
        token = self.tokens[at] = secrets.token_hex(8)
        step = Step(id="s", tool=tool)
        now = time.time()
        request = RunStep(
            run,
            "s",
            step,
            attempt,
            0,
            args or {},
            effects,
            False,
            f"{run}:s",
            deadline_at=None if left_s is None else now + left_s,
        )
        body = {
            "v": 1,
            "lane": run,
            "lease_s": self.lease_s,
            "at": list(at),
            "token": token,
            "needs_claim": bool(place) if needs_claim is None else needs_claim,
            "step": WIRE.request_out(request, now),
        }
        subject = subjects.command(capability, place, *at)
        sent = await send(self.link, subject, json.dumps(body).encode(), msg_id=token)
        assert sent is Sent.SENT, sent
        return at

    async def outcome(self, at: At, *, within_s: float = 15.0) -> Fact:
        """Return what an attempt came to."""
        return (await self.outcomes(at, within_s=within_s)).fact

    async def outcomes(self, at: At, *, within_s: float = 15.0) -> Told:
        found: Told = await comes(
            lambda: next((one for one in self.told if one.at == at), None), within_s=within_s, what=f"the end of {at}"
        )
        return found

    async def stop(self, *stopped: At, capability: str = "main") -> None:
        body = json.dumps({"v": 1, "at": [list(at) for at in stopped]}).encode()
        await self.link.publish(subjects.stop(capability), body)

    def hear(self, delivery: Delivery) -> None:
        told = json.loads(delivery.body)
        at: At = tuple(told["at"])
        one = Told(at, told["token"], WIRE.fact_in(told["fact"], time.time()), time.monotonic(), delivery.deliveries)
        known = any(other.at == at for other in self.told)
        (self.stale if known or told["token"] != self.tokens.get(at) else self.told).append(one)
        task = asyncio.get_running_loop().create_task(delivery.ack())
        _KEPT.add(task)
        task.add_done_callback(_KEPT.discard)

    async def answer(self, message: Msg) -> None:
        told = json.loads(message.data)
        if not self.listening:
            return
        self.asked.append(told)
        is_wanted = self.wanted(told)
        if told["what"] == "claim" and is_wanted:
            is_wanted = self.claims.setdefault(told["token"], told["worker"]) == told["worker"]
        await self.link.publish(message.reply, json.dumps({"wanted": is_wanted, "problem": ""}).encode())


_KEPT: set[asyncio.Task[None]] = set()


@asynccontextmanager
async def small_agent(
    server: Nats,
    *,
    lease_s: float = 1.0,
    capability: str = "main",
    places: tuple[str, ...] = ("",),
    broker: Broker | None = None,
    max_in_flight: int | None = None,
    terms: StreamTerms | None = None,
) -> AsyncIterator[SmallAgent]:
    pullers: list[Puller] = []
    link = BrokerLink(broker or Broker((server.url,), name="agent"), on_back=lambda: [one.forget() for one in pullers])
    await link.open(wait_s=5)
    agent = SmallAgent(link, lease_s)
    async with AsyncExitStack() as ending:
        ending.push_async_callback(link.close)
        await ensure_streams(link, terms or StreamTerms(lease_s=5.0))
        for place in places:
            await ensure_workers(link, capability, place, lease_s=lease_s, max_in_flight=max_in_flight)
        await link.subscribe(subjects.ALL_ASKED, agent.answer, queue=subjects.ORCHESTRATORS)
        puller = Puller(link, IN, ORCH, agent.hear, room=lambda: 100, heartbeat_s=0.3)
        pullers.append(puller)
        puller.start("_INBOX.agent")
        ending.push_async_callback(puller.withdraw)
        yield agent


@asynccontextmanager
async def worker(server: Nats | str, *options: str, tools: str = TOOLS) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start `planloom worker` and kill it at the end, with what it started."""
    url = server if isinstance(server, str) else server.url
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "planloom",
            "worker",
            *(part for one in url.split() for part in ("--nats", one)),
            "--tools",
            tools,
            "--wait",
            "5",
        ),
        *options,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


def value(fact: Fact) -> Any:
    assert isinstance(fact, AttemptSucceeded), fact
    return fact.output


def failure(fact: Fact) -> AttemptFailed:
    assert isinstance(fact, AttemptFailed), fact
    return fact
