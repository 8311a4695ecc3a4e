"""A worker that does what a test says, and whatever else a test needs to run a cluster in its own process."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from secrets import token_hex
from typing import Any

from planloom import Engine, MemoryJournal
from planloom.core.commands import RunStep
from planloom.core.events import AttemptFailed, AttemptSucceeded, Fact
from planloom.core.result import RunResult
from planloom.errors import BrokerError
from planloom.journal.postgres.journal import PostgresJournal
from planloom.journal.postgres.shared import SharedRuns
from planloom.plan.policy import FailureKind
from planloom.runtime.cluster.orchestrator import Orchestrator
from planloom.runtime.cluster.settings import ClusterSettings
from planloom.runtime.reading import read_run
from planloom.runtime.wire import JsonWire
from planloom.transport.nats import subjects
from planloom.transport.nats.link import Broker, BrokerLink
from planloom.transport.nats.puller import Delivery, Puller
from planloom.transport.nats.streams import CMD
from tests.cluster.servers import comes

ENDS_S = 30.0


class Hand:
    """A worker of one capability, in the test's own process.

    Attributes:
        made: How often each step was made, by run and step.
        answers: Returns what a step comes to: a value, or a fact; None: nothing is ever said.
    """

    def __init__(
        self, url: str, answers: Callable[[RunStep], Any], *, capability: str = "main", place: str = ""
    ) -> None:
        self.made: Counter[tuple[str, str]] = Counter()
        self.answers = answers
        self.refused: list[str] = []
        self._capability = capability
        self._link = BrokerLink(Broker((url,)), on_back=lambda: self._puller.forget())
        self._puller = Puller(self._link, CMD, subjects.consumer(capability, place), self._came, room=lambda: 64)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Hand:
        await self._link.open(wait_s=10)
        self._puller.start(f"_INBOX.hand.{id(self)}")
        return self

    async def __aexit__(self, *exception: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._puller.withdraw()
        await self._link.close()

    def _came(self, delivery: Delivery) -> None:
        task = asyncio.get_running_loop().create_task(self._make(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _make(self, delivery: Delivery) -> None:
        told = json.loads(delivery.body)
        run_id, step, attempt, epoch = told["at"]
        if told["needs_claim"]:
            claim = {"what": "claim", "worker": f"hand/{token_hex(8)}", "redelivered": delivery.deliveries > 1}
            if not (await self.ask(told, claim))["wanted"]:
                self.refused.append(step)
                await delivery.ack()
                return
        elif delivery.deliveries > 1:
            await self.say(told, AttemptFailed(step, attempt, epoch, FailureKind.LOST, "lost", 0.0, 0.0))
            await delivery.ack()
            return
        self.made[run_id, step] += 1
        answer = self.answers(JsonWire().request_in(told["step"], 0.0))
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer is None:
            return
        fact = answer if isinstance(answer, AttemptFailed) else AttemptSucceeded(step, attempt, epoch, answer, 0.0, 0.0)
        await self.say(told, fact)
        await delivery.ack()

    async def say(self, told: dict[str, Any], fact: Fact, *, token: str = "") -> None:
        """Publish what an attempt came to."""
        body = {"v": 1, "at": told["at"], "token": token or told["token"], "fact": JsonWire().fact_out(fact)}
        subject, text = subjects.outcome(self._capability, *told["at"]), json.dumps(body).encode()

        async def stored() -> bool:
            with suppress(BrokerError):  # it is down, or there is no room: a worker goes on trying
                await self._link.store(subject, text)
                return True
            return False

        await comes(stored, within_s=ENDS_S)

    async def ask(self, told: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        body = {"v": 1, "at": told["at"], "token": told["token"]} | asked
        answer = await self._link.request(subjects.ask(self._capability, *told["at"]), json.dumps(body).encode())
        found: dict[str, Any] = json.loads(answer)
        return found


@asynccontextmanager
async def agent(
    dsn: str, url: str, *, tools: Any, settings: ClusterSettings | None = None
) -> AsyncIterator[Orchestrator]:
    """Run an agent in this process."""
    shared, journal = SharedRuns(dsn), PostgresJournal(dsn)
    settings = settings or ClusterSettings(check_s=2.0, lease_s=2.0, patience_s=1.0)
    try:
        async with (
            Engine(MemoryJournal(), tools=tools) as engine,
            Orchestrator(Broker((url,)), shared, journal, engine, settings) as one,
        ):
            yield one
    finally:
        await shared.close()
        await journal.close()


async def ended(journal: PostgresJournal, run_id: str, *, within_s: float = ENDS_S) -> RunResult:
    """Return the result of a run, once it has ended."""

    async def reached() -> bool:
        rows = await journal.runs(limit=10_000)
        return any(row.run_id == run_id and row.status not in ("running", "waiting") for row in rows)

    await comes(reached, within_s=within_s)
    return (await read_run(journal, run_id)).result
