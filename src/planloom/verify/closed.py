"""Failing closed: whatever goes wrong while an answer is judged is a reason against it.

Rule 1: this is the only place in this room that catches everything: a validator or a judge may raise what it likes.
Rule 2: two things are not the judge's failure and go on up: a cancellation, and a limit of whoever asks (`GrantError`).
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from planloom.errors import GrantError

T = TypeVar("T")

MAX_TEXT = 1_000
"""Characters of an error that a verdict tells."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, in one text."""

    error: str


async def closed(doing: Awaitable[T]) -> T | Failure:
    """Return what it comes to, or the failure that it raised.

    Raises:
        GrantError: The caller's limit is used up; nobody has judged anything.
    """
    try:
        return await doing
    except GrantError:
        raise
    except Exception as error:  # noqa: BLE001 - rule 1
        return Failure(_told(error))


def _told(error: Exception) -> str:
    name = type(error).__name__
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - even its text may raise
        message = ""
    text = f"{name}: {message}" if message else name
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
