"""What a record says, one line an event, for whoever looks at a seed."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from planloom.ports import Recorded
from planloom.testing.clock import NOON

SHORT = 25
"""Lines of a trace that is short."""
_LEFT_OUT = ("at", "step", "attempt", "epoch", "error_types", "usage", "metadata", "started_at", "tools", "models")
_MOST = 60
"""Characters of a value."""


def lines(records: list[Recorded]) -> list[str]:
    return [_line(entry) for entry in records]


def _line(entry: Recorded) -> str:
    event: Any = entry.event
    about = getattr(event, "step", "") or "-"
    attempt = getattr(event, "attempt", None)
    if attempt is not None:
        about += f"#{attempt}"
    told = [
        f"{one.name}={_short(getattr(event, one.name))}"
        for one in fields(event)
        if one.name not in _LEFT_OUT and getattr(event, one.name) != one.default and one.name != "plan"
    ]
    at = event.at - NOON
    return f"{entry.seq:4} {at:9.3f} <-{entry.cause:<4} {type(event).__name__:20} {about:14} {' '.join(told)}".rstrip()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MOST else f"{text[:_MOST]}…"


def short(records: list[Recorded]) -> list[str]:
    """Return the beginning and the end of a trace."""
    found = lines(records)
    if len(found) <= SHORT:
        return found
    return [*found[:5], f"     … {len(found) - SHORT} events …", *found[5 - SHORT :]]
