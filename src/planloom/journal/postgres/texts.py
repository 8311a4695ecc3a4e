"""Which texts PostgreSQL takes: no NUL, no half of a surrogate pair, and in an index no more than a page's third."""

from __future__ import annotations

MAX_NAME_BYTES = 2_000
"""Of a run's name in UTF-8: it stands in indexes."""
_REPLACED = "\ufffd"


def storable(text: str) -> str:
    """Return the text with what PostgreSQL does not take replaced."""
    return text.replace("\0", _REPLACED).encode("utf-8", "replace").decode()


def is_name(run_id: str) -> bool:
    """Return whether a run may have this name here."""
    return storable(run_id) == run_id and len(run_id.encode()) <= MAX_NAME_BYTES
