"""Messages that a stream still has, and that its consumer takes for done with: nobody is given them any more.

A server that is killed (`kill -9`) writes a stream and the state of its consumers at different moments. What it gave
out last may then be done with, as far as the consumer knows, though nobody acknowledged it; the stream has it for ever.

Rule 1: a consumer's floor only rises, and is never above what is under way: what is below it and still there, when the
floor was read first, is stranded.
Rule 2: a message that is stranded is taken out only once what it says was seen to.
Rule 3: whether something is there is asked of a stream's leader: a replica may answer with what was.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from planloom.errors import JetStreamError

if TYPE_CHECKING:
    from planloom.transport.nats.link import BrokerLink

_NO_MESSAGE, _NO_CONSUMER, _NO_STREAM = 10037, 10014, 10059
_GONE = (_NO_MESSAGE, _NO_STREAM, 10043)
"""The broker's numbers for: no such message, no such stream, it could not be deleted since it is not there."""


class Stranded:
    """A stranded message, to be seen to as a `Delivery` is.

    Attributes:
        deliveries: At least two: somebody was given it.
    """

    __slots__ = ("_link", "_stream", "body", "deliveries", "sequence", "subject")

    def __init__(self, link: BrokerLink, stream: str, told: dict[str, Any]) -> None:
        self._link = link
        self._stream = stream
        self.sequence = int(told["seq"])
        self.subject = str(told["subject"])
        self.body = base64.b64decode(told.get("data", ""))
        self.deliveries = 2

    async def ack(self) -> None:
        """Take it out: what it says was seen to."""
        await taken_out(self._link, self._stream, self.sequence)

    async def drop(self) -> None:
        await self.ack()

    async def renew(self) -> None:
        """Do nothing: nobody else is given it."""

    async def give_back(self, *, delay_s: float = 0.0) -> None:
        """Leave it where it is: it is found again."""


async def done_up_to(link: BrokerLink, stream: str, consumer: str) -> int:
    """Return up to which number a consumer takes everything for done with; 0 where there is no such consumer.

    Raises:
        BrokerError: No answer.
    """
    try:
        return int((await link.api(f"CONSUMER.INFO.{stream}.{consumer}"))["ack_floor"]["stream_seq"])
    except JetStreamError as error:
        if error.facts["number"] in (_NO_CONSUMER, _NO_STREAM):
            return 0
        raise


async def number_of(link: BrokerLink, stream: str, subject: str) -> int | None:
    """Return the number of the last message of a subject; None where there is none.

    Raises:
        BrokerError: No answer.
    """
    found = await _message(link, stream, {"last_by_subj": subject})
    return None if found is None else int(found["seq"])


async def stranded(link: BrokerLink, stream: str, consumer: str, *, most: int = 100) -> list[Stranded]:
    """Return messages that a stream's only consumer takes for done with, the oldest first.

    Raises:
        BrokerError: No answer.
    """
    floor, found, number = await done_up_to(link, stream, consumer), list[Stranded](), 1
    while number <= floor and len(found) < most:
        told = await _message(link, stream, {"seq": number, "next_by_subj": ">"})
        if told is None or int(told["seq"]) > floor:
            break
        found.append(Stranded(link, stream, told))
        number = found[-1].sequence + 1
    return found


async def taken_out(link: BrokerLink, stream: str, number: int) -> None:
    """Delete a message that may be gone already."""
    try:
        await link.api(f"STREAM.MSG.DELETE.{stream}", {"seq": number, "no_erase": True})
    except JetStreamError as error:
        if error.facts["number"] not in _GONE:
            raise


async def _message(link: BrokerLink, stream: str, which: dict[str, Any]) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = (await link.api(f"STREAM.MSG.GET.{stream}", which))["message"]
    except JetStreamError as error:
        if error.facts["number"] in (_NO_MESSAGE, _NO_STREAM):
            return None
        raise
    return found
