"""Large values by hash: what is too big for an event's own row.

Rule 1: a blob's name is the SHA-256 of its UTF-8 text, so equal values are stored once and a damaged one is noticed.
Rule 2: a blob is written in the same transaction as the first event that names it, or before.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from planloom.errors import JournalDamagedError

INLINE_LIMIT_BYTES = 32 * 1024
"""JSON of a payload up to this size stays in its event's row."""


@dataclass(frozen=True, slots=True)
class Blob:
    """One large JSON text under its name."""

    sha256: str
    text: str
    size_bytes: int


def blob_of(text: str) -> Blob:
    """Return the text under its name."""
    encoded = text.encode()
    return Blob(sha256(encoded).hexdigest(), text, len(encoded))


def is_large(text: str) -> bool:
    """Return whether this JSON text is too big for its event's row."""
    if len(text) > INLINE_LIMIT_BYTES:
        return True
    return not text.isascii() and len(text.encode()) > INLINE_LIMIT_BYTES


def intact(name: str, text: str | None) -> str:
    """Return the text stored under this name.

    Raises:
        JournalDamagedError: It is missing, or it is not what was written.
    """
    if text is None:
        raise JournalDamagedError(
            f"the value {name[:12]}… is missing from the journal", remedy="restore the journal from a backup"
        )
    if type(text) is not str or sha256(text.encode()).hexdigest() != name:
        raise JournalDamagedError(
            f"the value {name[:12]}… is damaged: its text does not have that SHA-256",
            remedy="restore the journal from a backup, and check the disk",
        )
    return text
