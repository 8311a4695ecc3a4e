"""From what a user names to a journal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from planloom.errors import ConfigError
from planloom.journal.address import is_address, spelled_out
from planloom.journal.memory import MemoryJournal
from planloom.journal.sqlite import SqliteJournal

if TYPE_CHECKING:
    from collections.abc import Callable

    from planloom.journal.postgres.journal import PostgresJournal
    from planloom.ports import Journal


def open_journal(
    target: str | os.PathLike[str] | Journal | None = None, *, key: Callable[[], bytes | None] | None = None
) -> Journal:
    """Return the journal itself, the one in that file or database, or a new one in memory.

    Args:
        target: None: in memory. A path: a SQLite file, made when it is not there. `postgresql://…`: a PostgreSQL
            database, see `open_database`. A journal: itself.
        key: Returns the key of the record, see `SqliteJournal`; one in memory needs none, and does not ask.

    Raises:
        ConfigError: The key is not where it should be, too short or too long; or as `open_database`.
        JournalFormatError: The file is something else, damaged, or of a newer planloom.
        JournalWriteError: The file or the database cannot be made or opened.
    """
    if target is None:
        return MemoryJournal()
    if isinstance(target, str | os.PathLike):
        known = None if key is None else key()
        return open_database(target, key=known) if is_address(target) else SqliteJournal(target, key=known)
    return target


def open_database(address: str, *, key: bytes | None = None, make: bool = True) -> PostgresJournal:
    """Return the journal in the PostgreSQL database of that address.

    Args:
        address: `postgresql://user@host/database`; `${NAME}` in it stands for that environment variable. A password
            must not be written into it: an address stands in files, in histories of shells and in lists of processes.
        make: False: a database that is no journal is not made one.

    Raises:
        ConfigError: What it needs is not installed, a variable is not set, or there is a password in it.
        JournalError: As `PostgresJournal`.
    """
    dsn = spelled_out(address)
    try:
        from planloom.journal.postgres.journal import PostgresJournal
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "psycopg":
            raise
        raise ConfigError(
            "a journal in PostgreSQL needs the package psycopg, which is not installed",
            remedy="pip install 'planloom[postgres]'",
        ) from error
    return PostgresJournal(dsn, key=key, make=make)
