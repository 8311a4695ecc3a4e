"""An agent of a cluster: takes inputs, decides about runs, publishes what is to be done. Any number of them may work.

Rule 1: it keeps nothing that another one needs: all that lasts is in the database, and whoever dies is not missed.
Rule 2: first it commits, then it publishes, then it acknowledges.
Rule 3: the broker may lose all it has: streams are made anew, and what was in them is looked for and put there again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from planloom.errors import BrokerError, ConfigError, JetStreamError
from planloom.runtime.clock import LoopClock
from planloom.runtime.cluster.capabilities import Capabilities
from planloom.runtime.cluster.hearts import Hearts
from planloom.runtime.cluster.inputs import Fate, Lost
from planloom.runtime.cluster.intake import Intake
from planloom.runtime.cluster.lookout import Lookout
from planloom.runtime.cluster.newsroom import Newsroom
from planloom.runtime.cluster.outbox import Placing
from planloom.runtime.cluster.queues import queues_text
from planloom.runtime.cluster.sender import Sender
from planloom.runtime.cluster.turnstile import Turnstile, Waiting
from planloom.runtime.wire import JsonWire
from planloom.transport.nats import subjects
from planloom.transport.nats.link import BrokerLink
from planloom.transport.nats.streams import StreamTerms, ensure_streams

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from planloom.journal.postgres.shared import SharedRuns
    from planloom.ports import Clock, Journal
    from planloom.runtime.cluster.hearts import Done
    from planloom.runtime.cluster.inputs import Input, Received
    from planloom.runtime.cluster.settings import ClusterSettings
    from planloom.runtime.engine import Engine
    from planloom.transport.nats.link import Broker

_log = logging.getLogger("planloom.cluster")

WAIT_S = 30.0
"""Seconds that a broker is waited for which does not listen yet."""
AGAIN_S = 0.5
"""Seconds before it is asked again for what it cannot do yet."""
DRAIN_S = 10.0
"""Seconds in which what came in before is seen to, once an agent is told to go."""
STREAMS_S = 15.0
"""Seconds between looks whether the broker still has its streams."""


class Orchestrator:
    """One agent.

    Args:
        shared: The runs; closed by whoever made it.
        journal: The same database, for what is only read.
        engine: Checks what is submitted; it runs nothing.
    """

    def __init__(
        self,
        broker: Broker,
        shared: SharedRuns,
        journal: Journal,
        engine: Engine,
        settings: ClusterSettings,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock or LoopClock()
        self._link = BrokerLink(broker, on_trouble=self._trouble, on_back=self._back)
        self._capabilities = capabilities = Capabilities(settings.modules, engine.tools)
        wire = JsonWire()
        placing = Placing(
            wire, capabilities.of, subjects.place_of_labels, lease_s=settings.lease_s, patience_s=settings.patience_s
        )
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._newsroom = Newsroom(self._link, journal) if settings.news else None
        self._turnstile = Turnstile(Hearts(shared, placing, self._clock), self._after)
        self._sender = Sender(self._link, shared, settings, self._clock, self._put)
        self._lookout = Lookout(
            self._link, shared, journal, settings, self._clock, self._put, lambda one: self._intake.take(one)
        )
        self._intake = Intake(
            self._link,
            self._turnstile,
            shared,
            journal,
            engine,
            capabilities,
            self._newsroom,
            wire,
            self._clock,
            lease_s=settings.lease_s,
        )
        self._not_found = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._seeing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Orchestrator:
        await self.open()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def open(self, *, wait_s: float = WAIT_S) -> None:
        """Connect, make what is missing at the broker, and begin to work.

        Raises:
            BrokerError: It cannot be reached.
            ConfigError: It has streams of that name which are not ours.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        await self._link.open(wait_s=wait_s)
        while True:
            try:
                await self._prepare()
            except (BrokerError, JetStreamError):  # its servers may not have found a leader yet
                if loop.time() >= end:
                    await self._link.close()
                    raise
                await asyncio.sleep(AGAIN_S)
            else:
                break
        self._turnstile.start()
        if self._newsroom is not None:
            self._newsroom.start()
        self._lookout.start()
        await self._intake.start(f"_INBOX.agent.{secrets.token_hex(8)}")
        self._seeing = asyncio.get_running_loop().create_task(self._see_to_streams())

    async def close(self) -> None:
        """Take nothing more, see to what came in before, and go."""
        async with AsyncExitStack() as ending:
            ending.push_async_callback(self._link.close)
            if self._newsroom is not None:
                ending.push_async_callback(self._newsroom.close)
            ending.push_async_callback(self._sender.close)
            ending.push_async_callback(self._turnstile.close)
            ending.callback(self._intake.close)
            if self._seeing is not None:
                self._seeing.cancel()
                await asyncio.gather(self._seeing, return_exceptions=True)
            await self._lookout.close()
            await self._intake.drain()
            try:
                async with asyncio.timeout(DRAIN_S):
                    # Each of them becomes idle by itself, and may give the others work once more on the way.
                    while not (self._turnstile.is_idle and self._intake.is_idle and self._sender.is_idle):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            except TimeoutError:
                _log.warning("it goes before all was seen to; another agent does the rest")

    def counts(self) -> dict[str, int]:
        """Return what was counted since it began."""
        told = {f"inputs_{name}": number for name, number in self._intake.counts.items()}
        told |= {f"commands_{name}": number for name, number in self._sender.counts.items()}
        dropped = 0 if self._newsroom is None else self._newsroom.dropped
        more = {
            "turns_failed": self._turnstile.failures,
            "work_not_found": self._not_found,
            "news_dropped": dropped,
        }
        return told | more | {"broker_losses": self._link.losses, "broker_refused": self._link.refused}

    async def queues_text(self) -> str:
        """Return how much waits for the workers of each module, as Prometheus reads it."""
        return await queues_text(self._link, self._sender.places)

    @property
    def is_ready(self) -> bool:
        """Return whether it reaches the broker now, and takes inputs."""
        return self._link.is_up

    # --- one input after another --------------------------------------------------------------

    def _put(self, one: Input) -> None:
        self._turnstile.put(Waiting(one, self._missed if isinstance(one, Lost) else lambda _: None))

    def _missed(self, answer: Received | None) -> None:
        """Count work that was nowhere and is asked for again; most of what is missed was answered at that moment."""
        self._not_found += answer is not None and answer.fate is Fate.TAKEN

    async def _after(self, done: Done) -> None:
        """See to what followed from a batch of inputs."""
        for run_id, at in done.wake_at.items():
            self._lookout.wake(run_id, at)
        if done.stopped:
            await self._sender.stop(done.stopped)
        if done.void:
            await self._sender.void(done.void)
        if done.opened:
            await self._sender.send(done.opened)
        if self._newsroom is not None:
            for run_id, news in done.news.items():
                self._newsroom.tell(run_id, news, missed=done.missed.get(run_id, ()))

    # --- the broker ---------------------------------------------------------------------------

    async def _prepare(self) -> None:
        """Make streams and consumers where they are missing, and look for what was in those that were lost."""
        settings = self._settings
        terms = StreamTerms(
            max_queued=settings.max_queued,
            max_submissions=settings.max_submissions,
            replicas=settings.replicas,
            lease_s=settings.lease_s,
            news_s=settings.news_s,
        )
        made = await ensure_streams(self._link, terms)
        self._sender.forget_places()
        for name in self._capabilities.names:
            module = settings.modules.get(name)
            for place in ("", *(module.places if module is not None else ())):
                await self._sender.workers_at(name, place)
        if made:
            _log.warning("the broker had no stream %s: what was outstanding is looked for", ", ".join(made))
            self._lookout.check_all()

    async def _see_to_streams(self) -> None:
        """Look again and again whether the broker still has what it needs."""
        while True:
            await asyncio.sleep(STREAMS_S)
            await self._prepared()

    async def _prepared(self) -> None:
        try:
            await self._prepare()
        except (BrokerError, JetStreamError, ConfigError) as error:
            _log.warning("the broker's streams cannot be seen to: %s", error.message)

    def _trouble(self, words: str) -> None:
        _log.warning("broker: %s", words)

    def _back(self) -> None:
        self._intake.forget()
        self._start(self._prepared())

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
