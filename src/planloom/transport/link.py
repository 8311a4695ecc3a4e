"""One end of a conversation in which every message arrives once and in order, or the connection ends.

Rule 1: a message is kept and sent again until the other end says that it has it, whatever the channel loses.
Rule 2: what comes twice or out of turn is put right here: whoever listens never sees it.
Rule 3: nothing is promised beyond the end of the connection: what that means for an attempt, `leases.py` decides.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from planloom.errors import ProtocolError
from planloom.transport.frames import MAX_STRANGER_BYTES, FrameChannel, json_text

if TYPE_CHECKING:
    from collections.abc import Callable

    Message = dict[str, Any]

ACK_S = 0.02
"""Seconds an acknowledgement waits for a message that it can go along with."""
RESEND_S = 0.5
"""Seconds until a message is sent again; doubles while nothing is acknowledged."""
MAX_RESEND_S = 4.0
MAX_AHEAD = 10_000
"""Messages that may come before one that is missing."""
RESEND_AT_ONCE = 100
"""Messages sent again in one go: the oldest, which hold up the rest."""


class Link:
    """Numbers what it sends, acknowledges what it gets.

    A frame is ``[number, acknowledged, message]``, or ``[0, acknowledged]``, which is also a sign of life.

    Attributes:
        channel: What the frames go through.
        heard_at: When the last frame came, by the event loop's clock.
    """

    def __init__(
        self,
        on_message: Callable[[Message], None],
        on_closed: Callable[[str], None],
        *,
        on_open: Callable[[], None] | None = None,
        max_bytes: int = MAX_STRANGER_BYTES,
        resend_s: float = RESEND_S,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.channel = FrameChannel(self._frame_came, self._channel_closed, on_open=on_open, max_bytes=max_bytes)
        self.heard_at = self._loop.time()
        self.on_message = on_message
        self.on_closed = on_closed
        self._sent = 0
        self._got = 0
        self._unheard: OrderedDict[int, tuple[str, float]] = OrderedDict()
        """Text and time of what is not acknowledged yet, by number."""
        self._early: dict[int, Message] = {}
        self._first_wait_s = self._wait_s = resend_s
        self._resend: asyncio.TimerHandle | None = None
        self._ack: asyncio.TimerHandle | None = None
        self._closed = False

    def send(self, message: Message) -> None:
        """Have a message delivered.

        Raises:
            ProtocolError: It is no JSON, or too long; nothing was sent.
        """
        self.send_text(json_text(message))

    def send_text(self, text: str) -> None:
        """Have a message delivered that is written as JSON already."""
        if self._closed:
            return
        self.channel.write(f"[{self._sent + 1},{self._got},{text}]")
        self._sent += 1
        self._unheard[self._sent] = text, self._loop.time()
        self._acknowledged()
        if self._resend is None:
            self._resend = self._loop.call_later(self._wait_s, self._send_again)

    def beat(self) -> None:
        """Show that this end is alive."""
        if not self._closed:
            self.channel.write(f"[0,{self._got}]")
            self._acknowledged()

    def close(self) -> None:
        """Send what is left and close; nothing more comes in."""
        self._forget()
        self.channel.close()

    def abort(self, why: str) -> None:
        self._forget()
        self.channel.abort(why)

    # --- what comes in ---

    def _frame_came(self, frame: Any) -> None:
        self.heard_at = self._loop.time()
        number, acknowledged, message = _checked(frame)
        if acknowledged > self._sent:
            raise ProtocolError("what was never sent was acknowledged")
        self._heard_up_to(acknowledged)
        if number == 0 or self._closed:
            return
        if number > self._got + MAX_AHEAD:
            raise ProtocolError(f"message {number} came, and {self._got + 1} is missing")
        if number > self._got:
            self._early[number] = message
        if self._ack is None:
            self._ack = self._loop.call_later(ACK_S, self.beat)
        while self._got + 1 in self._early and not self._closed:
            self._got += 1
            self.on_message(self._early.pop(self._got))

    def _heard_up_to(self, number: int) -> None:
        while self._unheard and next(iter(self._unheard)) <= number:
            self._unheard.popitem(last=False)
            self._wait_s = self._first_wait_s

    def _acknowledged(self) -> None:
        if self._ack is not None:
            self._ack.cancel()
            self._ack = None

    # --- again ---

    def _send_again(self) -> None:
        self._resend = None
        if not self._unheard:
            return
        now = self._loop.time()
        overdue = [n for n, (_, sent_at) in self._unheard.items() if now - sent_at >= self._wait_s * 0.99]
        for number in overdue[:RESEND_AT_ONCE]:
            text = self._unheard[number][0]
            self._unheard[number] = text, now
            self.channel.write(f"[{number},{self._got},{text}]")
        if overdue:
            self._wait_s = min(self._wait_s * 2, MAX_RESEND_S)
        self._resend = self._loop.call_later(self._wait_s, self._send_again)

    def _channel_closed(self, why: str) -> None:
        self._forget()
        self.on_closed(why)

    def _forget(self) -> None:
        self._closed = True
        self._acknowledged()
        if self._resend is not None:
            self._resend.cancel()
            self._resend = None
        self._unheard.clear()
        self._early.clear()


def _checked(frame: Any) -> tuple[int, int, Message]:
    if isinstance(frame, list) and len(frame) in (2, 3):
        number, acknowledged, message = (*frame, {})[:3]
        numbered = type(number) is int and type(acknowledged) is int and number >= 0 and acknowledged >= 0
        if numbered and (number > 0) == (len(frame) == 3) and isinstance(message, dict):
            return number, acknowledged, message
    raise ProtocolError("a frame came that is no message")
