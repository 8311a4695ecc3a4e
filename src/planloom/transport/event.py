"""Event: what happened, in an envelope in CloudEvents terms."""

from __future__ import annotations

import json
import uuid
from dataclasses import field, replace
from datetime import UTC, datetime
from time import time
from typing import Any

from planloom.errors import ProtocolError
from planloom.plan.frozen import frozen
from planloom.plan.terms import fresh

SOURCE = "/planloom"
"""Who says so, where nothing else is said."""
MEDIA_TYPE = "application/cloudevents+json"
"""Of an event as `Event.to_dict` writes it."""
SEQUENCE_DIGITS = 10
"""Of `sequence` in CloudEvents: it is compared as text, so it is padded with zeros."""


def new_event_id() -> str:
    """Return an id that does not come twice."""
    return uuid.uuid4().hex


@frozen
class Event:
    """Something that happened.

    Attributes:
        id: Unique with its source; "RUN/SEQ", or "RUN/SEQ/…", for what is on record.
        type: Its topic, e.g. "planloom.step.completed".
        source: Who says so, a URI reference.
        time: Seconds since the epoch at which it happened.
        subject: What it is about: a step's key, or a worker.
        correlation_id: What belongs together: the run's id.
        causation_id: Id of the event that led to it; None for what came from outside.
        seq: Its number in the run's journal; None for what is not on record.
        of_entry: How many events follow from that entry of the journal, this one among them.
    """

    id: str
    type: str
    source: str
    time: float
    subject: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    seq: int | None = None
    of_entry: int = 1

    @classmethod
    def new(
        cls,
        type: str,
        data: dict[str, Any] | None = None,
        *,
        subject: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        source: str = SOURCE,
        at: float | None = None,
    ) -> Event:
        """Return an event with an id of its own, now."""
        moment = time() if at is None else at
        return cls(new_event_id(), type, source, moment, subject, correlation_id, causation_id, data or {})

    def copy(self) -> Event:
        """Return the same event with data of its own: who changes that changes it for nobody else."""
        return replace(self, data=fresh(self.data))

    def to_dict(self) -> dict[str, Any]:
        """Return the event in CloudEvents' JSON form; what is not set is left out."""
        told: dict[str, Any] = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
            "time": datetime.fromtimestamp(self.time, UTC).isoformat().replace("+00:00", "Z"),
            "correlationid": self.correlation_id,
            "causationid": self.causation_id,
            "sequence": None if self.seq is None else f"{self.seq:0{SEQUENCE_DIGITS}d}",
            "entryevents": None if self.of_entry == 1 else self.of_entry,
            "datacontenttype": "application/json",
            "data": self.data,
        }
        return {name: value for name, value in told.items() if value is not None}


def read_event(body: bytes) -> Event:
    """Return the event that CloudEvents' JSON form tells of, as `Event.to_dict` writes it.

    Raises:
        ProtocolError: It is none.
    """
    try:
        told = json.loads(body.decode("utf-8", "surrogatepass"))
        if told["specversion"] != "1.0" or not isinstance(told.get("data", {}), dict):
            raise ValueError("of another version, or data that is no object")
        texts = [told[name] for name in ("id", "type", "source")]
        texts += [told.get(name) for name in ("subject", "correlationid", "causationid", "sequence")]
        if not all(isinstance(text, str) and text for text in texts if text is not None) or None in texts[:3]:
            raise ValueError("an attribute is no text")
        at = datetime.fromisoformat(told["time"]).timestamp()
        *texts, sequence = texts
        seq = None if sequence is None else int(sequence)
        of_entry = told.get("entryevents", 1)
        if type(of_entry) is not int or of_entry < 1:
            raise ValueError("an attribute is no number")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"this is no event: {type(error).__name__}: {error}") from error
    name, kind, source, subject, correlation, cause = texts
    return Event(name, kind, source, at, subject, correlation, cause, told.get("data", {}), seq, of_entry)
