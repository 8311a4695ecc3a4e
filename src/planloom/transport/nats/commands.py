"""Commands on their way to the workers: sent, taken back, buried.

Rule 1: an attempt has one subject, and a subject one outstanding command: a second one is refused, and that is well.
Rule 2: "outstanding" and "full" come under one number of the broker's: its words tell them apart.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from planloom.errors import JetStreamError
from planloom.transport.nats.stranded import taken_out
from planloom.transport.nats.streams import CMD

if TYPE_CHECKING:
    from planloom.transport.nats.link import BrokerLink

_NO_MESSAGE = 10037
_NO_STREAM = 10059


class Sent(StrEnum):
    """What became of a command that was published."""

    SENT = "sent"
    OUTSTANDING = "outstanding"
    """It is there already, or was a moment ago."""
    FULL = "full"
    """There is no room: it is still to be sent."""
    TOO_LARGE = "too_large"
    """It is larger than the broker takes: it never can be sent."""


async def send(link: BrokerLink, subject: str, body: bytes, *, msg_id: str) -> Sent:
    """Publish a command.

    Args:
        msg_id: Of this sending of this attempt: a second one within two minutes is not taken, whatever became of it.

    Raises:
        JetStreamError: There is no stream, or it refuses for another reason.
        BrokerError: It is not known whether it was taken: send it again, with the same `msg_id`.
    """
    if len(body) + _ROOM_BYTES > link.max_payload:
        return Sent.TOO_LARGE
    try:
        answer = await link.store(subject, body, msg_id=msg_id)
    except JetStreamError as error:
        words = str(error.facts["words"]) if "words" in error.facts else ""
        if "per subject" in words:
            return Sent.OUTSTANDING
        if "maximum messages" in words or "maximum bytes" in words or "insufficient" in words:
            return Sent.FULL
        if error.facts["number"] == _IN_FLIGHT:
            return Sent.OUTSTANDING
        raise
    return Sent.OUTSTANDING if answer.get("duplicate") else Sent.SENT


_ROOM_BYTES = 1024
"""For a message's headers."""
_IN_FLIGHT = 10158
"""A replicated stream's number for: the very same message is being stored at this moment."""


async def purge(link: BrokerLink, subject: str) -> int:
    """Take back every command of a subject, or of a filter; return how many there were.

    Those that a worker has are not given to anybody else; the worker itself is not told.
    """
    answer = await link.api(f"STREAM.PURGE.{CMD}", {"filter": subject})
    return int(answer.get("purged", 0))


@dataclass(frozen=True, slots=True)
class DeadCommand:
    """A command that was given out as often as it may be, and never acknowledged.

    Attributes:
        sequence: Its number in the stream; see `bury`.
        subject: Where it was asked for.
        body: What it says.
        deliveries: How often it was given out.
    """

    sequence: int
    subject: str
    body: bytes
    deliveries: int


async def dead_command(link: BrokerLink, advisory: bytes) -> DeadCommand | None:
    """Return the command that a dead-letter notice is about; None if it is gone or the notice cannot be read."""
    told = _object(advisory)
    sequence, deliveries = told.get("stream_seq"), told.get("deliveries", 0)
    if not isinstance(sequence, int) or told.get("stream") != CMD:
        return None
    try:
        found = (await link.api(f"STREAM.MSG.GET.{CMD}", {"seq": sequence}))["message"]
    except JetStreamError as error:
        if error.facts["number"] in (_NO_MESSAGE, _NO_STREAM):
            return None
        raise
    return DeadCommand(sequence, str(found["subject"]), base64.b64decode(found.get("data", "")), int(deliveries))


async def bury(link: BrokerLink, sequence: int) -> None:
    """Delete a dead command; it would be kept for ever."""
    await taken_out(link, CMD, sequence)


def _object(text: bytes) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
