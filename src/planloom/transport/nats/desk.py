"""What a worker was given, from its arrival to its acknowledgement; belongs to the event loop of its connection.

Rule 1: as many are begun as there are slots. What is more than that waits here, alive, and is never returned: whatever
comes to a second worker counts as begun by the first.
Rule 2: what was given to somebody before is not made here: it is answered as lost, unless it had to be claimed.
Rule 3: a sign of life goes out for everything that is here until its end was heard.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planloom.errors import BrokerError, ProtocolError
from planloom.plan.policy import FailureKind
from planloom.transport.frames import json_text
from planloom.transport.nats.taken import Said, Taken, read_order, read_stops

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from planloom.transport.nats.puller import Delivery
    from planloom.transport.nats.telling import Telling
    from planloom.transport.wire import WireFormat

_log = logging.getLogger("planloom.cluster")

KEPT = 1024
"""Tokens of ended attempts that are remembered, in case their acknowledgement was not heard."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker of a cluster does, and where.

    Attributes:
        capability: Whose commands it takes.
        worker: Its name.
        labels: It takes commands of the places that these cover, and of any place.
        capacity: Attempts at a time.
        idle_s: Seconds without any after which it goes; None: it stays.
    """

    capability: str
    worker: str
    labels: Mapping[str, str]
    capacity: int
    idle_s: float | None = None


class Desk:
    """Sees to what was given to one worker.

    Args:
        heard: Takes each message for the bench.
        changed: Is called when there is more room, or less, or nothing left.
    """

    def __init__(
        self,
        assignment: Assignment,
        telling: Telling,
        wire: WireFormat,
        *,
        heard: Callable[[dict[str, Any]], None],
        changed: Callable[[], None],
    ) -> None:
        self._capacity = assignment.capacity
        self._telling = telling
        self._wire = wire
        self._heard = heard
        self._changed = changed
        self._taken: dict[str, Taken] = {}
        """By token, until acknowledged."""
        self._waiting: deque[Taken] = deque()
        self._busy: set[Taken] = set()
        """Those that have a slot."""
        self._over: OrderedDict[str, None] = OrderedDict()
        """Tokens of those that are over."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._renewing, self._all_told = asyncio.Event(), asyncio.Event()
        self.idle_since = asyncio.get_running_loop().time()
        self.noise = 0
        """Messages that said nothing."""

    @property
    def room(self) -> int:
        """Return how many more could be begun at once."""
        return max(0, self._capacity - len(self._busy) - len(self._waiting))

    @property
    def is_empty(self) -> bool:
        return not self._taken

    def take(self, delivery: Delivery) -> None:
        """Take a command, whatever it is."""
        try:
            order = read_order(delivery.body)
        except ProtocolError as error:
            self.noise += 1
            _log.warning("worker.noise because=%s", error.message)
            self._run(_quietly(delivery.drop()))
            return
        known = self._taken.get(order.token)
        if known is not None:  # it was silent for too long, and has it again
            known.delivery = delivery
            return
        if order.token in self._over:
            self._run(_quietly(delivery.ack()))
            return
        taken = self._taken[order.token] = Taken(order, delivery)
        taken.renew_at = asyncio.get_running_loop().time() + order.lease_s / 3
        self._renewing.set()
        if delivery.deliveries > 1 and not order.needs_claim:
            why = f"it was given out {delivery.deliveries} times: whoever had it before fell silent"
            self._run(self._end(taken, self._failed(taken, FailureKind.LOST, why)))
            return
        self._waiting.append(taken)
        self._begin_next()

    def _begin_next(self) -> None:
        while len(self._busy) < self._capacity:
            here = {taken.place for taken in self._busy}
            fitting = next((taken for taken in self._waiting if taken.place not in here), None)
            if fitting is None:
                break
            self._waiting.remove(fitting)
            self._busy.add(fitting)
            self._run(self._see_to(fitting))
        self._changed()

    async def _see_to(self, taken: Taken) -> None:
        """See to a command from its slot to its end."""
        order = taken.order
        if order.needs_claim and not taken.stopped and not await self._telling.claim(taken):
            self._free(taken)
            await self._telling.done(taken)
            self._forget(taken)
            return
        if taken.stopped:
            self._free(taken)
            await self._end(taken, self._failed(taken, FailureKind.CANCELLED, "stopped before it began"))
            return
        taken.begun = True
        request = dict(order.request)
        if isinstance(request.get("left_s"), int | float):  # as of its sending
            request["left_s"] -= max(0.0, time.time() - taken.delivery.stored_at)
        self._heard({"m": "do", "lease": order.token, "lane": order.lane, "at": order.at, "step": request})
        while True:
            said = await taken.said.get()
            match said.what:
                case "outcome":
                    await self._end(taken, said.fact)
                    return
                case "returned":
                    await self._end(taken, self._failed(taken, FailureKind.NOT_DONE, "the worker had no room for it"))
                    return
                case _:
                    await self._say(taken, said)

    async def _say(self, taken: Taken, said: Said) -> None:
        if taken.unwanted and said.what == "note":
            return
        answer = await self._telling.say(taken, said.what, said.fact)
        if said.what == "record":
            told = {"wanted": answer.wanted, "problem": answer.problem}
            self._heard({"m": "recorded", "id": said.number, **told})
        if not answer.wanted and not taken.unwanted:
            taken.unwanted = True
            self._heard({"m": "stop", "lease": taken.order.token})

    def _failed(self, taken: Taken, kind: FailureKind, why: str) -> str:
        return json_text(self._wire.fact_out(taken.order.failed(kind, why, time.time())))

    async def _end(self, taken: Taken, fact: str) -> None:
        taken.ending = True
        self._free(taken)
        await self._telling.end(taken, fact)
        self._forget(taken)

    def _free(self, taken: Taken) -> None:
        if taken in self._busy:
            self._busy.discard(taken)
            self._begin_next()

    def _forget(self, taken: Taken) -> None:
        self._taken.pop(taken.order.token, None)
        if not self._taken:
            self._all_told.set()
            self.idle_since = asyncio.get_running_loop().time()
        self._over[taken.order.token] = None
        while len(self._over) > KEPT:
            self._over.popitem(last=False)
        self._changed()

    # --- what it hears ---

    def said(self, token: str, said: Said, *, is_quitting: bool) -> None:
        """Hear what the bench says of an attempt."""
        taken = self._taken.get(token)
        if taken is None or (is_quitting and not said.fact.startswith('["attempt_succeeded"')):
            return
        if said.what in ("outcome", "returned"):
            self._free(taken)  # its slot is free, whenever the broker hears of its end
        taken.said.put_nowait(said)

    def stop(self, told: bytes) -> None:
        """Have attempts stopped; those that were not begun never begin."""
        try:
            stops = set(read_stops(told))
        except ProtocolError:
            self.noise += 1
            return
        for taken in list(self._taken.values()):
            order = taken.order
            if (order.run_id, order.step, order.attempt, order.epoch) in stops and not taken.stopped:
                taken.stopped = True
                if taken.begun:
                    self._heard({"m": "stop", "lease": order.token})
                elif taken in self._waiting:
                    self._waiting.remove(taken)
                    self._run(self._end(taken, self._failed(taken, FailureKind.CANCELLED, "stopped before it began")))

    async def give_up(self) -> None:
        """Tell of everything that was not told yet that it is lost: others need not wait for the lease's end."""
        why = "its worker was told to go at once"
        for taken in list(self._taken.values()):
            if not taken.ending:
                self._run(self._end(taken, self._failed(taken, FailureKind.LOST, why)))
        if self._taken:
            self._all_told.clear()
            await self._all_told.wait()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    # --- signs of life ---

    async def keep_alive(self) -> None:
        """Give signs of life, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            self._renewing.clear()
            now = loop.time()
            for taken in list(self._taken.values()):
                if taken.renew_at <= now:
                    taken.renew_at = now + taken.order.lease_s / 3
                    await _quietly(taken.delivery.renew())
            soonest = min((taken.renew_at for taken in self._taken.values()), default=now + 60.0)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.01, soonest - loop.time())):
                    await self._renewing.wait()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _quietly(saying: Coroutine[Any, Any, None]) -> None:
    with suppress(BrokerError):  # there is no connection: what was given out is given out again
        await saying
