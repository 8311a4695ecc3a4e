"""A journal's database: how it is made, recognised and migrated.

Rule 1: a migration is `migrations/NNNN_name.sql`, applied once, in order, all in one transaction; one that has been
released is never edited. The table `format` says which were applied.
Rule 2: everything is in a schema of its own: other tables of the same database are neither seen nor touched.
Rule 3: whoever migrates holds an advisory lock, so that two processes that start at once do it once.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from psycopg import Error

from planloom.errors import JournalFormatError, RunNotFoundError
from planloom.journal.postgres.connect import SCHEMA
from planloom.journal.postgres.faults import journal_error

if TYPE_CHECKING:
    from planloom.journal.postgres.connect import Connection, Server

_LOCK = 0x706C6F6D
"""The letters "plom"."""
_IS_THERE = (  # not `to_regclass`: inside a transaction it does not see what another process has just made
    "SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
    " WHERE nspname = %s AND relname = 'format'"
)


def prepare(server: Server, *, make: bool = True) -> None:
    """Make the database a journal of today's shape, or find that it is one. Blocks.

    Args:
        make: False: one that is none is left as it is.

    Raises:
        RunNotFoundError: It is none, and none is to be made of it.
        JournalFormatError: Of a newer planloom; or of an older one, and this user may not change it.
        JournalWriteError: The server cannot be reached, or this user may not make a journal there.
    """
    try:
        with server.connect() as connection:
            found = _format(connection, server.place)
            if found == newest_format():
                return
            if found == 0 and not make:
                raise RunNotFoundError(
                    f"there is no journal in {server.place}",
                    remedy="name the database where the runs were started, with --journal",
                )
            _migrate(connection, server.place)
    except Error as error:
        raise journal_error(error, server.place) from error


def newest_format() -> int:
    """Return the number of the format that this planloom writes."""
    return len(_migrations())


def _format(connection: Connection, place: str) -> int:
    """Return the number of the last migration applied; 0 where there is no journal."""
    if not connection.execute(_IS_THERE, (SCHEMA,)).fetchall():
        return 0
    row = connection.execute("SELECT max(number) FROM planloom.format").fetchone()
    found = 0 if row is None or row[0] is None else int(row[0])
    if found > newest_format():
        raise JournalFormatError(
            f"journal {place} has format {found}; this planloom reads up to {newest_format()}",
            remedy="upgrade planloom, or name another journal",
        )
    return found


def _migrate(connection: Connection, place: str) -> None:
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        done = _format(connection, place)  # read again: another process may have been first
        if done == 0:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            connection.execute("CREATE TABLE format (number integer PRIMARY KEY, at timestamptz DEFAULT now())")
        for number, script in enumerate(_migrations()[done:], done + 1):
            connection.execute(script.encode())
            connection.execute("INSERT INTO format (number) VALUES (%s)", (number,))


@cache
def _migrations() -> tuple[str, ...]:
    """Return the text of each migration, in order of their numbers."""
    folder = files("planloom.journal.postgres") / "migrations"
    found = sorted((entry.name, entry) for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return tuple(entry.read_text("utf-8") for _, entry in found)
