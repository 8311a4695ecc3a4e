"""From the outbox to the broker: commands, stops, and what is taken back.

Rule 1: only what is committed is published; what cannot be published now stays in the outbox, and is not forgotten.
Rule 2: a rate is taken before anything is published, so that no crash gives more than it allows.
Rule 3: a token that is void is not published any more, however late its turn comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from itertools import groupby, islice
from typing import TYPE_CHECKING

from planloom.errors import BrokerError, JetStreamError, JournalError
from planloom.runtime.cluster import bodies
from planloom.runtime.cluster.inputs import Unsendable
from planloom.runtime.cluster.outbox import as_sent
from planloom.transport.nats import commands, subjects
from planloom.transport.nats.commands import Sent
from planloom.transport.nats.streams import ensure_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from planloom.journal.postgres.shared import SharedRuns
    from planloom.journal.postgres.work import Work, WorkKey
    from planloom.ports import Clock
    from planloom.runtime.cluster.inputs import Input
    from planloom.runtime.cluster.settings import ClusterSettings
    from planloom.transport.nats.link import BrokerLink

_log = logging.getLogger("planloom.cluster")

AGAIN_S = 1.0
"""Seconds before what the broker has no room for is tried again."""
CROWD_S = 20.0
"""Seconds for which what the broker has no room for is nobody else's to send."""
MARK_S = 0.1
"""Seconds after which it is noted what was sent."""
AT_ONCE = 256
"""Commands whose acknowledgement is waited for at the same time."""
VOID = 10_000
"""Tokens that are remembered as void."""
MOST_PLACES = 256
"""Places that work may be sent to: each is a consumer of the broker's."""


class Sender:
    """Publishes work.

    Args:
        tell: Takes what is to be taken in about work that cannot be sent.

    Attributes:
        counts: How much became of what.
    """

    def __init__(
        self,
        link: BrokerLink,
        shared: SharedRuns,
        settings: ClusterSettings,
        clock: Clock,
        tell: Callable[[Input], None],
    ) -> None:
        self._link = link
        self._shared = shared
        self._settings = settings
        self._clock = clock
        self._tell = tell
        self._places: set[tuple[str, str]] = set()
        self._void: OrderedDict[str, None] = OrderedDict()
        self._later: dict[tuple[str, WorkKey], asyncio.TimerHandle] = {}
        """What waits for its moment, by run and attempt; `_crowd`: what waits for room at the broker."""
        self._crowd: dict[tuple[str, WorkKey], Work] = {}
        self._crowding: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._unmarked: list[Work] = []
        """What was sent, and is not noted as sent yet: should that never be, it is looked for, and found."""
        self.counts: Counter[str] = Counter()

    def forget_places(self) -> None:
        """Have consumers made anew: the broker may have lost them."""
        self._places.clear()

    async def close(self) -> None:
        for handle in self._later.values():
            handle.cancel()
        tasks = [*self._tasks, *([] if self._crowding is None else [self._crowding])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._mark()
        if self._crowd:  # others may send it at once
            await self._put_off(list(self._crowd.values()), [self._clock.now()] * len(self._crowd))

    @property
    def is_idle(self) -> bool:
        return not self._tasks

    # --- commands -----------------------------------------------------------------------------

    async def send(self, works: Sequence[Work]) -> None:
        """Publish work, as far as rates allow it now; the rest later."""
        for work in works:
            self._forget(work)  # what it was sent as before, and could not be
        due: list[Work] = []
        for capability, group in groupby(sorted(works, key=lambda one: one.capability), lambda one: one.capability):
            ready = await self._within_rate(capability, list(group))
            due += ready
        await self._send_now(due)

    async def _within_rate(self, capability: str, works: list[Work]) -> list[Work]:
        """Return the work that may be sent now, and see to the rest."""
        module = self._settings.modules.get(capability)
        if module is None or module.rate_per_minute is None:
            return works
        now = self._clock.now()
        try:
            moments = await self._shared.take_slots(capability, len(works), per_minute=module.rate_per_minute, now=now)
        except JournalError as error:  # it stays in the outbox: `unsent` finds it
            _log.warning("no rate can be taken for %s: %s", capability, error.message)
            return []
        ready = [work for work, at in zip(works, moments, strict=True) if at <= now]
        later = [(work, at) for work, at in zip(works, moments, strict=True) if at > now]
        if later:
            self.counts["rated"] += len(later)
            await self._put_off([work for work, _ in later], [at for _, at in later])
        for work, at in later:
            self._send_later(work, at - now)
        return ready

    def _send_later(self, work: Work, seconds: float) -> None:
        def send() -> None:
            self._later.pop(_name(work), None)
            self._start(self._send_now([work]))

        self._later[_name(work)] = asyncio.get_running_loop().call_later(seconds, send)

    def _forget(self, work: Work) -> None:
        """Send what is not sent yet of an attempt no more."""
        self._crowd.pop(_name(work), None)
        handle = self._later.pop(_name(work), None)
        if handle is not None:
            handle.cancel()

    def _start(self, doing: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_now(self, works: Sequence[Work]) -> None:
        became = await asyncio.gather(*map(self._send_one, works))
        sent = [work for work, is_sent in zip(works, became, strict=True) if is_sent]
        if sent and not self._unmarked:
            self._start(self._mark_soon())
        self._unmarked += sent

    def _wait(self, work: Work) -> None:
        """Have a command sent once there is room for it."""
        self._crowd[_name(work)] = work
        if self._crowding is None or self._crowding.done():
            self._crowding = asyncio.get_running_loop().create_task(self._send_crowd())

    async def _send_crowd(self) -> None:
        """Try again and again what the broker had no room for, or did not hear; meanwhile nobody else sends it."""
        put_off_until = 0.0
        while self._crowd:
            now = self._clock.now()
            if now > put_off_until - CROWD_S / 2:
                put_off_until = now + CROWD_S
                await self._put_off(list(self._crowd.values()), [put_off_until] * len(self._crowd))
            await asyncio.sleep(AGAIN_S)
            some = list(islice(self._crowd.values(), AT_ONCE))
            for work in some:
                del self._crowd[_name(work)]
            await self._send_now(some)

    async def _put_off(self, works: list[Work], moments: list[float]) -> None:
        try:
            await self._shared.postpone(works, moments)
        except JournalError as error:  # somebody finds it unsent, and sends it anew
            _log.warning("work cannot be put off: %s", error.message)

    async def _mark_soon(self) -> None:
        """Note what was sent, in a moment and all together: who waits for an acknowledgement need not wait for that."""
        await asyncio.sleep(MARK_S)
        await self._mark()

    async def _mark(self) -> None:
        sent, self._unmarked = self._unmarked, []
        try:
            await self._shared.mark_sent(sent, self._clock.now(), check_after_s=self._settings.check_s)
        except JournalError as error:  # it is looked for where it was put, and found
            _log.warning("what was sent cannot be marked: %s", error.message)

    async def _send_one(self, work: Work) -> bool:
        """Publish one command; return whether the broker has it."""
        if work.token in self._void:
            return False
        body = as_sent(work, self._clock.now()).encode("utf-8", "surrogatepass")
        async with self._room:
            try:
                await self.workers_at(work.capability, work.place)
                sent = await commands.send(self._link, bodies.command_subject(work), body, msg_id=work.token)
            except (BrokerError, JetStreamError) as error:
                self.counts["unsent"] += 1
                _log.warning("a command waits: %s", error.message)
                self._wait(work)
                return False
        self.counts[sent.value] += 1
        if sent is Sent.FULL:
            self._wait(work)
            return False
        if sent is Sent.TOO_LARGE:
            why = f"what it is given takes {len(body)} bytes, and the broker takes {self._link.max_payload} at most"
            self._tell(Unsendable(work.run_id, work.key, work.token, why))
            return False
        return True

    @property
    def places(self) -> list[tuple[str, str]]:
        """Return capability and place of every queue that is known to be there."""
        return sorted(self._places)

    async def workers_at(self, capability: str, place: str) -> None:
        """Have the consumer there that the workers of a place share.

        Raises:
            BrokerError: It is not known whether it is there.
        """
        at = capability, place
        if at in self._places or len(self._places) >= MOST_PLACES:
            return
        module = self._settings.modules.get(capability)
        most = None if module is None else module.max_in_flight
        await ensure_workers(self._link, capability, place, lease_s=self._settings.lease_s, max_in_flight=most)
        self._places.add(at)

    # --- what is taken back -------------------------------------------------------------------

    async def void(self, works: Sequence[Work]) -> None:
        """Take work back from where it was put; a worker that has it already is not told."""
        for work in works:
            self._void[work.token] = None
            self._forget(work)
        while len(self._void) > VOID:
            self._void.popitem(last=False)
        for work in works:
            try:
                await commands.purge(self._link, bodies.command_subject(work))
            except (BrokerError, JetStreamError) as error:  # whoever gets it is refused the claim, or the outcome
                _log.warning("a command cannot be taken back: %s", error.message)

    async def stop(self, works: Sequence[Work]) -> None:
        """Tell workers which attempts are to stop."""
        for capability, group in groupby(sorted(works, key=lambda one: one.capability), lambda one: one.capability):
            try:
                await self._link.publish(subjects.stop(capability), bodies.stop_body(list(group)))
            except BrokerError as error:  # they are given up after a moment
                _log.warning("workers cannot be told to stop: %s", error.message)


def _name(work: Work) -> tuple[str, WorkKey]:
    return work.run_id, work.key
