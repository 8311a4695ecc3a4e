"""From what a user names to a journal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from planloom.journal.memory import MemoryJournal
from planloom.journal.sqlite import SqliteJournal

if TYPE_CHECKING:
    from collections.abc import Callable

    from planloom.ports import Journal


def open_journal(
    target: str | os.PathLike[str] | Journal | None = None, *, key: Callable[[], bytes | None] | None = None
) -> Journal:
    """Return the journal itself, the one in that file, or a new one in memory.

    Args:
        target: None: in memory. A path: a SQLite file, made when it is not there. A journal: itself.
        key: Returns the key of a file, see `SqliteJournal`; the other two need none, and do not ask.

    Raises:
        ConfigError: The key is not where it should be, too short or too long.
        JournalFormatError: The file is something else, damaged, or of a newer planloom.
        JournalWriteError: The file cannot be made or opened.
    """
    if target is None:
        return MemoryJournal()
    if isinstance(target, str | os.PathLike):
        return SqliteJournal(target, key=None if key is None else key())
    return target
