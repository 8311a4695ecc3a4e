"""Several worker processes of a cluster on one machine, as many as there is work for.

Rule 1: those beyond the least number go by themselves when nothing came to them for a while; none is taken from work.
Rule 2: they end with whoever keeps them, however that ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from planloom.errors import BrokerError, BrokerRefusedError, WorkerStartError
from planloom.guardian import Guardian
from planloom.runtime.nats_worker import AT_WORK, Posting
from planloom.runtime.worker import REFUSED, on_signals
from planloom.transport.child import ChildProcess, ended_how
from planloom.transport.nats import subjects
from planloom.transport.nats.crew import CrewRule
from planloom.transport.nats.link import BrokerLink
from planloom.transport.nats.streams import CMD, backlog
from planloom.transport.pool import IDLE_S
from planloom.transport.staff import PATIENT_STARTS

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("planloom.cluster")

LOOK_S = 0.5
"""Seconds between looks how much waits."""


class Crew:
    """Between `min` and `max` worker processes.

    Attributes:
        peak: Most there were at a time.
    """

    def __init__(
        self, posting: Posting, rule: CrewRule, *, idle_s: float = IDLE_S, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self._posting = posting
        self._rule = rule
        self._idle_s = idle_s
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._guardian = Guardian()
        self._children: dict[int, tuple[ChildProcess, bool]] = {}
        """By number, with whether it stays."""
        self._numbers = 0
        self._leaving = False
        self._told = 0
        self._wake = asyncio.Event()
        self._wrong: BrokerRefusedError | WorkerStartError | None = None
        self.peak = 0

    @property
    def size(self) -> int:
        return len(self._children)

    async def keep(self) -> None:
        """Keep them until told to go.

        Raises:
            BrokerError: The broker cannot be reached at the start, or does not let them in.
            WorkerStartError: None can be started.
        """
        link = BrokerLink(self._posting.broker, on_trouble=lambda why: _log.warning("crew.broker because=%s", why))
        await link.open(wait_s=self._posting.wait_s)
        try:
            while not (self._leaving and not self._children):
                self._wake.clear()
                if not self._leaving:
                    self._grow(await self._waiting(link))
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._wake.wait()
        finally:
            for child, _ in self._children.values():
                child.kill()
            await link.close()
            self._guardian.close()
        if self._wrong is not None:
            raise self._wrong

    def leave(self) -> None:
        """Have them all end what they began, and go; the second time, at once."""
        self._told += 1
        self._leaving = True
        for child, _ in self._children.values():
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGTERM)
        self._wake.set()

    async def _waiting(self, link: BrokerLink) -> int:
        """Return how many commands wait that they could take; 0 where nobody says."""
        capability = self._posting.capability
        waiting = 0
        for place in subjects.places_of(self._posting.labels):
            try:
                waiting += (await backlog(link, CMD, subjects.consumer(capability, place))).waiting
            except BrokerError as error:
                _log.debug("crew.backlog_unknown because=%s", error.message)
        return waiting

    def _grow(self, waiting: int) -> None:
        coming = sum(AT_WORK not in child.last_words for child, _ in self._children.values())
        count = self._rule.to_start(here=self.size, coming=coming, waiting=waiting, now=self._loop.time())
        for _ in range(count):
            self._start()

    def _start(self) -> None:
        self._numbers += 1
        number = self._numbers
        stays = sum(keeps for _, keeps in self._children.values()) < self._rule.min
        own_name = {} if self._posting.credentials else {"worker": f"{self._posting.worker}-{number}"}
        told = self._posting.model_copy(update={"idle_s": None if stays else self._idle_s, **own_name})
        command = [sys.executable, "-m", "planloom.runtime.nats_worker"]
        try:
            child = ChildProcess(
                command, told.model_dump_json(), on_exit=lambda code: self._ended(number, code), guardian=self._guardian
            )
        except OSError as error:
            self._failed(f"no process can be started: {error}", 1)
            return
        self._children[number] = child, stays
        self.peak = max(self.peak, self.size)
        self._tell(f"worker process {child.pid} started; there are {self.size}")

    def _ended(self, number: int, code: int) -> None:
        child, _ = self._children.pop(number)
        self._tell(f"worker process {child.pid} ended ({ended_how(code)}); there are {self.size}")
        if AT_WORK in child.last_words:
            self._rule.started()
        elif not self._leaving:
            self._failed(child.last_words or ended_how(code), code)
        self._wake.set()

    def _failed(self, why: str, code: int) -> None:
        wait_s = self._rule.failed(self._loop.time())
        _log.warning("crew.start_failed again_in_s=%.1f because=%s", wait_s, why)
        if code == REFUSED:
            self._wrong = BrokerRefusedError(why)
        elif self._rule.failures >= PATIENT_STARTS and not self._children:
            self._wrong = WorkerStartError(f"no worker process can be started; its last words: {why}")
        if self._wrong is not None:
            self.leave()


async def keep_crew(
    posting: Posting, low: int, high: int, *, idle_s: float = IDLE_S, tell: Callable[[str], None] = lambda _: None
) -> None:
    """Keep between `low` and `high` worker processes until this one is told to go.

    Raises:
        BrokerError: The broker cannot be reached, or does not let them in.
        WorkerStartError: None can be started.
    """
    crew = Crew(posting, CrewRule(low, high, posting.capacity), idle_s=idle_s, tell=tell)
    on_signals(crew.leave)
    await crew.keep()
