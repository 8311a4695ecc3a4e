"""Entries of a record as JSON, for whoever reads it outside: large values back in their place.

Rule 1: fields equal to their defaults are left out, as in the journal.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from planloom.journal.codec import encode

if TYPE_CHECKING:
    from planloom.core.events import Event
    from planloom.ports import Recorded

_APART = "@blob"


def entry_value(recorded: Recorded) -> dict[str, Any]:
    """Return an entry as people and programs read it: its number, what led to it, its kind, and its fields."""
    kind, _, fields = _fields(recorded.event)
    at = recorded.event.at
    return {"seq": recorded.seq, "cause": recorded.cause, "event": kind, "at": at, **fields}


def entry_row(recorded: Recorded) -> dict[str, Any]:
    """Return an entry in the form of the journal: what `codec.decode` takes, its fields whole in `body`."""
    kind, version, fields = _fields(recorded.event)
    return {"seq": recorded.seq, "cause": recorded.cause, "kind": kind, "version": version, "body": fields}


def _fields(event: Event) -> tuple[str, int, dict[str, Any]]:
    kind, version, body, blobs = encode(event)
    fields: dict[str, Any] = json.loads(body)
    apart = {blob.sha256: blob for blob in blobs}
    for name in [name for name in fields if name.endswith(_APART)]:
        fields[name.removesuffix(_APART)] = json.loads(apart[fields.pop(name)].text)
    return kind, version, fields
