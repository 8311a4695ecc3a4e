"""A worker's connection to its cluster, in a thread of its own: a tool that blocks the event loop does not silence it.

Rule 1: signs of life come from the process, not from what its tools do: how long a tool may take, its step says.
Rule 2: as much is asked for as there are free slots, at every place where the worker is.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from planloom.errors import BrokerError, BrokerRefusedError
from planloom.transport.frames import json_text, too_long
from planloom.transport.nats import subjects
from planloom.transport.nats.desk import Assignment, Desk
from planloom.transport.nats.link import Broker, BrokerLink
from planloom.transport.nats.puller import Puller
from planloom.transport.nats.streams import CMD
from planloom.transport.nats.taken import Said
from planloom.transport.nats.telling import ROOM_BYTES, Telling

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg

    from planloom.transport.wire import WireFormat

_log = logging.getLogger("planloom.cluster")

LEAVE_S = 5.0
"""Seconds in which what was said last still goes out."""


class ClusterPost:
    """Takes commands for a bench, and tells what it says of them.

    Args:
        wire: Writes what is said of an attempt that never came to the bench.
        heard: Takes each message for the bench, in the thread of the post; beside those "ready" when it is at work, and
            "bye" when there is nothing more to do.
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
        self._desk: Desk | None = None
        self._pullers: list[Puller] = []
        self._withdrawing: asyncio.Task[None] | None = None
        self._is_out = self._quitting = False
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: asyncio.Future[None] | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._talk()), name="planloom-post", daemon=True)

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
        telling = Telling(self._link, self._wire, capability, worker)
        desk = self._desk = Desk(self._assignment, telling, self._wire, heard=self._heard, changed=self._changed)
        await self._link.subscribe(subjects.stop(capability), self._told_to_stop)
        await self._link.subscribe(subjects.drain(capability, worker), self._told_to_drain)
        self._start_pullers(desk)
        self._heard({"m": "ready"})
        others = [self._loop.create_task(desk.keep_alive())]
        if self._assignment.idle_s is not None:
            others.append(self._loop.create_task(self._leave_when_idle(desk, self._assignment.idle_s)))
        await self._done
        for puller in self._pullers:
            await puller.withdraw()
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S - 1):
                await desk.give_up()
        for task in others:
            task.cancel()
        desk.close()
        await self._link.close()

    def _start_pullers(self, desk: Desk) -> None:
        for number, place in enumerate(subjects.places_of(self._assignment.labels)):
            consumer = subjects.consumer(self._assignment.capability, place)
            puller = Puller(self._link, CMD, consumer, desk.take, room=self._room_at(desk, place))
            self._pullers.append(puller)
            # Not of its name alone: another worker may have the same one.
            puller.start(f"{self._link.inbox}.{secrets.token_hex(8)}.{number}")

    def _room_at(self, desk: Desk, place: str) -> Callable[[], int]:
        """Return how much room there is for a place: each is asked for one more than there may come to be."""
        return lambda: 0 if self._withdrawing else min(desk.room, 1) if place else desk.room

    def _changed(self) -> None:
        """Have asked for as much as there is room for; where several ask and one came first, take back the others.

        Several servers do not forget what was asked: there it stays asked for, and what comes of it waits at the desk.
        """
        is_full = self._desk is not None and not self._desk.room
        for puller in self._pullers:
            if is_full and puller.asked and len(self._pullers) > 1 and not self._link.is_clustered:
                puller.forget()
            else:
                puller.more()
        self._rest()

    # --- what it hears ---

    def _said(self, token: str, said: Said) -> None:
        if self._desk is not None:
            self._desk.said(token, said, is_quitting=self._quitting)

    async def _told_to_stop(self, message: Msg) -> None:
        if self._desk is not None:
            self._desk.stop(message.data)

    async def _told_to_drain(self, _: Msg) -> None:
        self._drain()

    def _drain(self) -> None:
        if self._withdrawing is None:
            self._withdrawing = asyncio.get_running_loop().create_task(self._withdraw())

    async def _withdraw(self) -> None:
        for puller in self._pullers:
            await puller.withdraw()
        self._is_out = True
        self._rest()

    def _rest(self) -> None:
        if self._is_out and (self._desk is None or self._desk.is_empty):
            self._heard({"m": "bye", "why": "it has nothing more to do"})

    async def _leave_when_idle(self, desk: Desk, idle_s: float) -> None:
        loop = asyncio.get_running_loop()
        while (left_s := desk.idle_since + idle_s - loop.time()) > 0 or not desk.is_empty:  # noqa: ASYNC110 - for time
            await asyncio.sleep(max(0.05, left_s))
        self._drain()

    def _trouble(self, why: str) -> None:
        _log.warning("worker.broker because=%s", why)
        said = why.lower()
        if "permissions violation" in said and ("subscription" in said or "consumer.msg.next" in said):
            self._ended(f"the broker does not let it work: {why}", True)

    def _back(self) -> None:
        for puller in self._pullers:
            puller.forget()

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)
