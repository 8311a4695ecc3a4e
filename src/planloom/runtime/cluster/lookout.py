"""What does not come in by itself: time, people, what was not sent, and what got lost.

Rule 1: all of it is looked for again and again; a look that fails is only made later.
Rule 2: work is lost only if it is neither with the workers, nor among the inputs, nor answered on record, looked at in
that order: a worker publishes its outcome before it acknowledges, so it is always in one of them.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from planloom.errors import PlanloomError
from planloom.runtime.cluster import bodies
from planloom.runtime.cluster.inputs import Due, Lost
from planloom.transport.nats import subjects
from planloom.transport.nats.stranded import done_up_to, number_of, stranded, taken_out
from planloom.transport.nats.streams import CMD, IN, ORCH

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from planloom.journal.postgres.shared import SharedRuns
    from planloom.journal.postgres.work import Work
    from planloom.ports import Clock, Journal
    from planloom.runtime.cluster.inputs import Input
    from planloom.runtime.cluster.settings import ClusterSettings
    from planloom.transport.nats.link import BrokerLink
    from planloom.transport.nats.stranded import Stranded

_log = logging.getLogger("planloom.cluster")

LOOK_S = 1.0
"""Seconds between looks at the time of runs that others looked after."""
POSTED_S = 0.5
"""Seconds between looks for what people left in the journal."""
MOST_S = 30.0
"""The same for a run that nothing changes about."""
UNSENT_S = 5.0
"""Seconds after which work that is not sent was forgotten by whoever was to send it."""
UNSENT_AGAIN_S = 30.0
"""Seconds after which it is looked for again, at most."""
FAR_S = 3_600.0
MOST_ALARMS = 50_000
"""Moments that are waited for here; others are looked for."""
MANY = 500
AT_ONCE = 64
"""Looks at the broker under way at a time."""
NOWHERE = "it was neither with a worker nor among the outcomes"


class _Patience:
    """Has runs looked at, and those less and less often that stay as they are: an engine's, or broken ones."""

    def __init__(self, tell: Callable[[Input], None], wait_s: float) -> None:
        self._tell = tell
        self._wait_s = wait_s
        self._told: dict[str, tuple[float, float]] = {}
        """When to tell of a run again, and how long to wait then."""

    def tell(self, found: Collection[str], now: float) -> None:
        self._told = {run_id: told for run_id, told in self._told.items() if run_id in found}
        for run_id in found:
            again_at, wait_s = self._told.get(run_id, (now, self._wait_s))
            if now >= again_at:
                self._told[run_id] = now + wait_s, min(2 * wait_s, MOST_S)
                self._tell(Due(run_id))


class Lookout:
    """Looks for what has to be taken in.

    Args:
        tell: Takes in what was found.
        take: Takes an input that the broker has, and gives to nobody any more.
    """

    def __init__(
        self,
        link: BrokerLink,
        shared: SharedRuns,
        journal: Journal,
        settings: ClusterSettings,
        clock: Clock,
        tell: Callable[[Input], None],
        take: Callable[[Stranded], None],
    ) -> None:
        self._take = take
        self._link = link
        self._shared = shared
        self._journal = journal
        self._settings = settings
        self._clock = clock
        self._tell = tell
        self._alarms: dict[str, tuple[float, asyncio.TimerHandle]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._all = False
        self._late, self._left = _Patience(tell, LOOK_S), _Patience(tell, POSTED_S)

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        check_s = min(self._settings.check_s / 4, UNSENT_S)
        looks = [(self._look_at_time, LOOK_S), (self._look_for_people, POSTED_S), (self._look_for_work, check_s)]
        self._tasks = [loop.create_task(self._again_and_again(look, every)) for look, every in looks]

    async def close(self) -> None:
        for _, handle in self._alarms.values():
            handle.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check_all(self) -> None:
        """Look for everything that was sent: the broker may have lost what it had."""
        self._all = True

    async def _again_and_again(self, look: Callable[[], Awaitable[None]], every_s: float) -> None:
        while True:
            try:
                await look()
            except PlanloomError as error:
                _log.warning("a look failed: %s", error.message)
            await asyncio.sleep(every_s)

    # --- time ---------------------------------------------------------------------------------

    def wake(self, run_id: str, at: float) -> None:
        """Have a run looked at when its moment comes, if that is not far; others are looked for."""
        before = self._alarms.pop(run_id, None)
        if before is not None:
            before[1].cancel()
        seconds = at - self._clock.now()
        if seconds > FAR_S or len(self._alarms) >= MOST_ALARMS:
            return

        def ring() -> None:
            self._alarms.pop(run_id, None)
            self._tell(Due(run_id))

        # A little late rather than early: the heart compares with the due time on record.
        self._alarms[run_id] = at, asyncio.get_running_loop().call_later(max(0.0, seconds) + 0.001, ring)

    async def _look_at_time(self) -> None:
        self._late.tell(await self._shared.due(self._clock.now() - LOOK_S, MANY), self._clock.now())

    # --- people -------------------------------------------------------------------------------

    async def _look_for_people(self) -> None:
        self._left.tell(await self._journal.posted_runs(), self._clock.now())

    # --- work ---------------------------------------------------------------------------------

    async def _look_for_work(self) -> None:
        if not self._link.is_up:
            return  # what is taken to be looked for is nobody else's for a while: not for nothing
        for one in await stranded(self._link, IN, ORCH):
            _log.warning("an input was stranded at the broker: %s", one.subject[:200])
            self._take(one)
        now, check_s = self._clock.now(), self._settings.check_s
        await self._look_for(await self._shared.unsent(now - UNSENT_S, MANY, again_s=min(check_s, UNSENT_AGAIN_S)))
        is_all = self._all
        ahead_s = check_s + UNSENT_S if is_all else 0.0
        while found := await self._shared.quiet(now + ahead_s, MANY, again_s=check_s + ahead_s):
            await self._look_for(found)
            if len(found) < MANY:
                break
        if is_all:
            self._all = False  # not before: a look that fails is made again

    async def _look_for(self, works: Sequence[Work]) -> None:
        queues = {subjects.consumer(work.capability, work.place) for work in works}
        done = {queue: await done_up_to(self._link, CMD, queue) for queue in queues}
        for some in (works[at : at + AT_ONCE] for at in range(0, len(works), AT_ONCE)):
            there = await asyncio.gather(*(self._is_somewhere(work, done) for work in some))
            for work in (work for work, is_there in zip(some, there, strict=True) if not is_there):
                # Whether it was answered meanwhile is seen on record, with its row locked.
                self._tell(Lost(work.run_id, work.key, work.token, NOWHERE, is_nowhere=True))

    async def _is_somewhere(self, work: Work, done: Mapping[str, int]) -> bool:
        """Return whether work is with the workers, or among the inputs.

        Args:
            done: Up to which number each queue takes its commands for done with.
        """
        number = await number_of(self._link, CMD, bodies.command_subject(work))
        if number is not None and number > done[subjects.consumer(work.capability, work.place)]:
            return True
        if await number_of(self._link, IN, bodies.outcome_subject(work)) is not None:
            return True
        if number is not None:
            _log.warning("a command of run %s was stranded at the broker", work.run_id)
            await taken_out(self._link, CMD, number)
        return False
