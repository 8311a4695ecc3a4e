"""Messages of a consumer as somebody has room for them.

Rule 1: as many are asked for as there is room, in requests that stay open; what they ask for is counted in one sum,
since a message does not say which of them it answers.
Rule 2: where the sum may be wrong, because nothing was heard or a connection broke, it begins anew at another inbox.
One server drops what was asked for with an inbox nobody listens to. Several do not, where the inbox is of another
account and server: what they give to it is nobody's until its lease ends. So there an inbox is heard until every
request made with it is over.
Rule 3: whoever ends hears out what is on its way: no message is given to one who has gone.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING

from planloom.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg

    from planloom.transport.nats.link import BrokerLink, Hearing

HEARTBEAT_S = 1.0
"""Seconds between signs of life of an open request; two that are missing end it."""
EXPIRES_S = 5.0
"""Seconds a request stays open: what a worker that vanished had asked for is given to nobody for so long."""
LATE_S = 1.0
"""Seconds after its end in which what a request was given may still come."""
AGAIN_S = 0.25
"""Seconds before it is asked again where nobody answers: there is no consumer, or no connection."""
MAX_BATCH = 256
PART = 4
"""What part of the room has to be free before more is asked for: each open request costs signs of life."""
_NS = 1_000_000_000
_ACK, _NAK, _PROGRESS, _TERM = b"+ACK", b"-NAK", b"+WPI", b"+TERM"


class Delivery:
    """A message that a consumer gave out, to be acknowledged within its lease.

    Attributes:
        deliveries: How often it was given out, with this time.
        sequence: Its number in the stream.
        stored_at: When the broker took it, in seconds since the epoch, by the broker's clock.
        waiting: How many more messages the consumer had at that moment.
    """

    __slots__ = ("_link", "_reply", "body", "deliveries", "sequence", "stored_at", "subject", "waiting")

    def __init__(self, link: BrokerLink, message: Msg) -> None:
        about = message.metadata
        self._link = link
        self._reply = message.reply
        self.subject = message.subject
        self.body = message.data
        self.deliveries = about.num_delivered
        self.sequence = about.sequence.stream
        self.stored_at = about.timestamp.timestamp()
        self.waiting = about.num_pending

    async def ack(self) -> None:
        """Say that it is done with; BrokerError where there is no connection: then it comes again."""
        await self._link.publish(self._reply, _ACK)

    async def ack_surely(self, *, timeout_s: float = 5.0) -> None:
        """Say that it is done with, and wait until the broker has heard it."""
        await self._link.request(self._reply, _ACK, timeout_s=timeout_s)

    async def renew(self) -> None:
        """Have the lease begin anew."""
        await self._link.publish(self._reply, _PROGRESS)

    async def give_back(self, *, delay_s: float = 0.0) -> None:
        """Have it given out again, after so many seconds."""
        wait = b" " + json.dumps({"delay": int(delay_s * _NS)}).encode() if delay_s else b""
        await self._link.publish(self._reply, _NAK + wait)

    async def drop(self) -> None:
        """Have it never given out again."""
        await self._link.publish(self._reply, _TERM)


class Puller:
    """Asks one consumer for messages.

    Args:
        take: Is given each one, on the event loop; it must not raise.
        room: Returns how many more could be taken now, those that were asked for among them.
        expires_s: Seconds a request stays open.

    Attributes:
        consumer: Its name.
        asked: How many messages are asked for and have not come.
    """

    def __init__(
        self,
        link: BrokerLink,
        stream: str,
        consumer: str,
        take: Callable[[Delivery], None],
        *,
        room: Callable[[], int],
        heartbeat_s: float = HEARTBEAT_S,
        expires_s: float = EXPIRES_S,
    ) -> None:
        self._link = link
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._take = take
        self._room = room
        self._heartbeat_s = heartbeat_s
        self._expires_s = expires_s
        self._inbox = self._current = ""
        self._tries = 0
        self._hearing: Hearing | None = None
        self._heard_at = 0.0
        self._pause_until = 0.0
        self._stale = True
        self._leaving: set[asyncio.Task[None]] = set()
        """Ends of inboxes before this one."""
        self._wake = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None
        self.consumer = consumer
        self.asked = 0

    def start(self, inbox: str) -> None:
        """Begin to ask.

        Args:
            inbox: What the subjects begin with at which messages come; this puller's alone.
        """
        self._inbox = inbox
        self._asking = asyncio.get_running_loop().create_task(self._ask_on())

    def more(self) -> None:
        """Look again how much room there is."""
        self._wake.set()

    def forget(self) -> None:
        """Count what was asked for as forgotten, and ask again if there is room: there is another connection."""
        self._stale = True
        self._pause_until = 0.0
        self._wake.set()

    async def withdraw(self) -> None:
        """Ask for nothing more; what was on its way when this was called has been taken when it returns.

        But for what the server gives out in the very moment in which it hears of that: it comes again after its lease.
        """
        if self._asking is not None:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking
        if self._hearing is not None:
            await self._leave(self._hearing, is_over=lambda: not self.asked)
        if self._leaving:
            await asyncio.wait(self._leaving)
        self.asked = 0

    async def _leave(self, hearing: Hearing, *, is_over: Callable[[], bool]) -> None:
        """Hear no more at an inbox, once nothing can come there any more."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._expires_s + LATE_S
        clustered = self._link.is_clustered
        while clustered and self._link.is_up and not is_over() and loop.time() < end:  # noqa: ASYNC110 - for time
            await asyncio.sleep(0.05)
        await hearing.end()

    # --- asking ---

    async def _ask_on(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            now = loop.time()
            if self.asked and now - self._heard_at > 2.5 * self._heartbeat_s:
                self._stale = True
            if self._link.is_up and now >= self._pause_until:
                if self._stale:
                    await self._begin_anew()
                room = self._room()
                wanted = min(room - self.asked, MAX_BATCH)
                if wanted > 0 and wanted >= min(room // PART, MAX_BATCH):
                    await self._ask(wanted)
            wait_s = self._pause_until - now if self._pause_until > now else self._heartbeat_s
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):  # wait_for() may swallow the cancellation that ends this
                    await self._wake.wait()

    async def _begin_anew(self) -> None:
        """Listen at another inbox, and hear out the one before it."""
        before, self._tries = self._hearing, self._tries + 1
        inbox = f"{self._inbox}.{self._tries}"

        async def heard(message: Msg) -> None:
            self._heard(message, is_current=self._current == inbox)

        self._current = inbox
        self.asked = 0
        self._stale = False
        self._hearing = await self._link.subscribe(inbox, heard)
        if before is not None:
            task = asyncio.get_running_loop().create_task(self._leave(before, is_over=lambda: False))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _ask(self, wanted: int) -> None:
        told = {"batch": wanted, "expires": int(self._expires_s * _NS), "idle_heartbeat": int(self._heartbeat_s * _NS)}
        if not self.asked:
            self._heard_at = asyncio.get_running_loop().time()
        self.asked += wanted
        try:
            await self._link.publish(self._subject, json.dumps(told).encode(), reply=self._current)
        except BrokerError:
            self._fail()

    def _fail(self) -> None:
        self._stale = True
        self._pause_until = asyncio.get_running_loop().time() + AGAIN_S
        self._wake.set()

    def _heard(self, message: Msg, *, is_current: bool) -> None:
        headers = message.headers or {}
        is_status = "Status" in headers and not message.reply
        if is_current:
            self._heard_at = asyncio.get_running_loop().time()
            if is_status:
                self._status(headers)
            else:
                self.asked = max(0, self.asked - 1)
        if not is_status:
            self._take(Delivery(self._link, message))
        self._wake.set()

    def _status(self, headers: dict[str, str]) -> None:
        """Hear that the broker is alive (100), that a request's time is over (408), or that something is wrong."""
        status, left = headers["Status"], headers.get("Nats-Pending-Messages", "")
        if status == "408" and left.isdigit():
            self.asked = max(0, self.asked - int(left))
        elif status != "100":  # no consumer, nobody there, or the broker is about to go
            self._fail()
