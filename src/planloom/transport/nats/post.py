"""A worker's connection to its cluster, in a thread of its own: a tool that blocks the event loop does not silence it.

Rule 1: signs of life come from the process, not from what its tools do: how long a tool may take, its step says.
Rule 2: as much is taken as there are free slots. What crosses that on its way waits here, alive, and is never returned:
whatever comes to a second worker counts as begun by the first.
Rule 3: what was given to somebody before is not made here: it is answered as lost, unless it had to be claimed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planloom.errors import BrokerError, BrokerRefusedError, ProtocolError
from planloom.plan.policy import FailureKind
from planloom.transport.frames import json_text, too_long
from planloom.transport.nats import subjects
from planloom.transport.nats.link import Broker, BrokerLink
from planloom.transport.nats.puller import Delivery, Puller
from planloom.transport.nats.streams import CMD
from planloom.transport.nats.taken import Said, Taken, read_order, read_stops
from planloom.transport.nats.telling import ROOM_BYTES, Telling

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from nats.aio.msg import Msg

    from planloom.transport.wire import WireFormat

_log = logging.getLogger("planloom.cluster")

KEPT = 1024
"""Tokens of ended attempts that are remembered, in case their acknowledgement was not heard."""
LEAVE_S = 5.0
"""Seconds in which what was said last still goes out."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker of a cluster does, and where.

    Attributes:
        capability: Whose commands it takes.
        worker: Its name.
        labels: It takes commands of the places that these cover, and of any place.
        capacity: Attempts at a time.
    """

    capability: str
    worker: str
    labels: Mapping[str, str]
    capacity: int


class ClusterPost:
    """Takes commands for a bench, and tells what it says of them.

    Args:
        wire: Writes what this file itself says of an attempt.
        heard: Takes each message for the bench, in the thread of the post; "bye" when there is nothing more to do.
        ended: Is told, there, why it cannot work (any more), and whether the broker refused it.
        wait_s: Seconds to go on trying to reach a broker that does not listen.
    """

    def __init__(
        self,
        broker: Broker,
        assignment: Assignment,
        wire: WireFormat,
        *,
        heard: Callable[[dict[str, Any]], None],
        ended: Callable[[str, bool], None],
        wait_s: float = 0.0,
    ) -> None:
        self._assignment = assignment
        self._wire = wire
        self._heard = heard
        self._ended = ended
        self._wait_s = wait_s
        self._link = BrokerLink(broker, on_trouble=self._trouble, on_back=self._back)
        self._telling = Telling(self._link, wire, assignment.capability, assignment.worker)
        self._taken: dict[str, Taken] = {}
        """By token, until acknowledged."""
        self._waiting: deque[Taken] = deque()
        self._busy: set[Taken] = set()
        """Those that have a slot."""
        self._over: OrderedDict[str, None] = OrderedDict()
        """Tokens of those that are over."""
        self._pullers: list[Puller] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._renewing, self._all_told = asyncio.Event(), asyncio.Event()
        self._draining = self._quitting = False
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: asyncio.Future[None] | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._talk()), name="planloom-post", daemon=True)
        self.noise = 0
        """Messages that said nothing."""

    # --- from other threads ---

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def send(self, message: dict[str, Any]) -> None:
        """Have told what the bench says of an attempt, whose lease is its token.

        Raises:
            ProtocolError: It is no JSON, or too long.
        """
        what = message["m"]
        if what == "begun":
            return
        fact = json_text(message["fact"]) if "fact" in message else ""
        size_bytes, most_bytes = len(fact) + ROOM_BYTES, self._link.max_payload
        if size_bytes > most_bytes:
            if what == "note":  # the attempt goes on without it
                _log.warning("worker.note_too_large bytes=%d most=%d", size_bytes, most_bytes)
                return
            raise too_long(size_bytes, most_bytes)
        self._call(self._said, str(message["lease"]), Said(what, fact, int(message.get("id", 0))))

    def drain(self) -> None:
        """Take nothing more; say "bye" when all that was taken has been told."""
        self._call(self._drain)

    def quit(self) -> None:
        """Hear no more of attempts that are cut short now: `stop` tells that they are lost."""
        self._quitting = True

    def stop(self, timeout_s: float = LEAVE_S) -> None:
        """Send what is left, close, and wait for that."""
        self._call(self._finish)
        self._thread.join(timeout_s)

    def _call(self, what: Callable[..., None], *args: Any) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the thread has ended, and everything with it
                self._loop.call_soon_threadsafe(what, *args)

    # --- in the thread ---

    async def _talk(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._done = self._loop.create_future()
        self._ready.set()
        try:
            await self._link.open(wait_s=self._wait_s)
        except BrokerError as error:
            self._ended(str(error), isinstance(error, BrokerRefusedError))
            return
        capability, worker = self._assignment.capability, self._assignment.worker
        await self._link.subscribe(subjects.stop(capability), self._told_to_stop)
        await self._link.subscribe(subjects.drain(capability, worker), self._told_to_drain)
        self._start_pullers()
        renewing = self._loop.create_task(self._renew())
        await self._done
        for puller in self._pullers:
            await puller.withdraw()
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S - 1):
                await self._give_up()
        renewing.cancel()
        for task in self._tasks:
            task.cancel()
        await self._link.close()

    def _start_pullers(self) -> None:
        for number, place in enumerate(subjects.places_of(self._assignment.labels)):
            consumer = subjects.consumer(self._assignment.capability, place)
            puller = Puller(self._link, CMD, consumer, self._take, room=self._room_at(place))
            self._pullers.append(puller)
            # Not of its name alone: another worker may have the same one.
            puller.start(f"{self._link.inbox}.{secrets.token_hex(8)}.{number}")

    def _room_at(self, place: str) -> Callable[[], int]:
        def room() -> int:
            free = 0 if self._draining else max(0, self._assignment.capacity - len(self._busy) - len(self._waiting))
            return min(free, 1) if place else free

        return room

    def _look_for_more(self) -> None:
        """Have asked for as much as there is room for; where several ask and one came first, take back the others."""
        is_full = len(self._busy) + len(self._waiting) >= self._assignment.capacity
        for puller in self._pullers:
            if is_full and puller.asked and len(self._pullers) > 1:
                puller.forget()
            else:
                puller.more()

    def _take(self, delivery: Delivery) -> None:
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
        while len(self._busy) < self._assignment.capacity:
            here = {taken.place for taken in self._busy}
            fitting = next((taken for taken in self._waiting if taken.place not in here), None)
            if fitting is None:
                break
            self._waiting.remove(fitting)
            self._busy.add(fitting)
            self._run(self._see_to(fitting))
        self._look_for_more()

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
        self._over[taken.order.token] = None
        while len(self._over) > KEPT:
            self._over.popitem(last=False)
        self._rest()

    # --- what it hears ---

    def _said(self, token: str, said: Said) -> None:
        taken = self._taken.get(token)
        if taken is None or (self._quitting and not said.fact.startswith('["attempt_succeeded"')):
            return
        if said.what in ("outcome", "returned"):
            self._free(taken)  # its slot is free, whenever the broker hears of its end
        taken.said.put_nowait(said)

    async def _told_to_stop(self, message: Msg) -> None:
        try:
            stops = set(read_stops(message.data))
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

    async def _told_to_drain(self, _: Msg) -> None:
        self._drain()

    def _drain(self) -> None:
        if not self._draining:
            self._draining = True
            self._run(self._withdraw())

    async def _withdraw(self) -> None:
        for puller in self._pullers:
            await puller.withdraw()
        self._pullers.clear()
        self._rest()

    def _rest(self) -> None:
        if self._draining and not self._pullers and not self._taken:
            self._heard({"m": "bye", "why": "it has nothing more to do"})

    def _trouble(self, why: str) -> None:
        _log.warning("worker.broker because=%s", why)
        said = why.lower()
        if "permissions violation" in said and ("subscription" in said or "consumer.msg.next" in said):
            self._ended(f"the broker does not let it work: {why}", True)

    def _back(self) -> None:
        for puller in self._pullers:
            puller.forget()

    # --- its end ---

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    async def _give_up(self) -> None:
        """Tell of everything that was not told yet that it is lost: others need not wait for the lease's end."""
        why = "its worker was told to go at once"
        self._draining = True
        for taken in self._taken.values():
            if not taken.ending:
                self._run(self._end(taken, self._failed(taken, FailureKind.LOST, why)))
        if self._taken:
            self._all_told.clear()
            await self._all_told.wait()

    # --- signs of life ---

    async def _renew(self) -> None:
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
