"""`time.*`: moments as ISO 8601 text with an offset.

Rule 1: a moment without an offset is taken in the time zone that is given, UTC by default, and never in the machine's.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from planloom.errors import ArgumentsError
from planloom.tools.signature import Function
from planloom.tools.tool import Tool

MAX_FORMAT = 200
_DIRECTIVES = re.compile(r"(?:[^%]|%[aAbBdHIjmMpSfyYzZGuVwc%xX])*")


def now(timezone: str = "UTC") -> str:
    """Return the present moment as ISO 8601, e.g. "2026-12-01T09:00:00+00:00".

    Args:
        timezone: Name of a time zone, e.g. "Europe/Berlin".
    """
    return datetime.now(_zone(timezone)).isoformat(timespec="milliseconds")


def parse(text: str, pattern: str | None = None, timezone: str = "UTC") -> str:
    """Read a moment and return it as ISO 8601 with its offset.

    Args:
        text: ISO 8601, or what the pattern says.
        pattern: As for Python's strptime, e.g. "%d.%m.%Y %H:%M".
        timezone: Time zone of a text that does not say.
    """
    if pattern is None:
        return _moment(text, timezone).isoformat()
    checked = _pattern(pattern)
    try:
        found = datetime.strptime(text[:MAX_FORMAT], checked)  # noqa: DTZ007 - the last line gives the zone
    except (ValueError, re.error, OverflowError) as error:
        raise ArgumentsError(f"{text[:80]!r} is no time: {error}", remedy="change the text or the pattern") from error
    return (found if found.tzinfo else found.replace(tzinfo=_zone(timezone))).isoformat()


def format_time(time: str, pattern: str, timezone: str | None = None) -> str:
    """Write a moment as text.

    Args:
        time: ISO 8601.
        pattern: As for Python's strftime, e.g. "%d.%m.%Y %H:%M".
        timezone: Time zone to show it in; by default its own.
    """
    moment, checked = _moment(time, "UTC"), _pattern(pattern)
    zone = moment.tzinfo if timezone is None else _zone(timezone)
    try:
        return moment.astimezone(zone).strftime(checked)
    except (ValueError, OverflowError) as error:
        raise ArgumentsError(f"{time[:80]!r} cannot be written so: {error}", remedy="change the pattern") from error


def add(time: str, weeks: float = 0, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> str:
    """Move a moment by a span of time and return it as ISO 8601; negative numbers go back.

    Args:
        time: ISO 8601.
        weeks: Weeks to add.
        days: Days of 24 hours to add.
        hours: Hours to add.
        minutes: Minutes to add.
        seconds: Seconds to add.
    """
    moment = _moment(time, "UTC")
    try:
        return (moment + timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)).isoformat()
    except (OverflowError, ValueError) as error:
        raise ArgumentsError("the result lies outside the years 1 to 9999", remedy="add less") from error


def _moment(text: str, timezone: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ArgumentsError(f"{text[:80]!r} is no ISO 8601 time", remedy="e.g. 2026-12-01T09:00:00+01:00") from error
    return found if found.tzinfo else found.replace(tzinfo=_zone(timezone))


def _zone(name: str) -> tzinfo:
    if name.upper() in {"UTC", "Z"}:
        return UTC
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise ArgumentsError(f"{name[:80]!r} is no time zone known here", remedy="e.g. UTC or Europe/Berlin") from error


def _pattern(pattern: str) -> str:
    if len(pattern) > MAX_FORMAT or "\0" in pattern or not _DIRECTIVES.fullmatch(pattern):
        raise ArgumentsError(
            f"{pattern[:80]!r} is no time pattern", remedy="use directives of strftime, such as %Y-%m-%d %H:%M"
        )
    return pattern


def time_tools() -> list[Tool]:
    """Return `time.now`, `time.parse`, `time.format` and `time.add`."""
    functions: tuple[Function, ...] = (now, parse, format_time, add)
    names = ("now", "parse", "format", "add")
    return [
        Tool.from_function(one, name=f"time.{name}", effects="none") for one, name in zip(functions, names, strict=True)
    ]
