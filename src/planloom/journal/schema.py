"""A journal file: how it is made, recognised, migrated and connected to.

Rule 1: a migration is `migrations/NNNN_name.sql`, applied once, in order, all in one transaction; one that has been
released is never edited. `user_version` is the number of the last one applied.
Rule 2: nothing is changed in a file before it is known to be a journal, or empty: `application_id` says which.
Rule 3: a commit is on disk when it returns (WAL, synchronous=FULL), and no reader sees it before.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from functools import cache
from importlib.resources import files
from pathlib import Path
from stat import S_ISREG
from threading import Lock
from urllib.parse import quote

from planloom.errors import ConfigError, JournalFormatError, JournalWriteError
from planloom.journal.faults import SQLITE_ERRORS, is_busy, journal_error
from planloom.whole_file import make_private

APPLICATION_ID = 0x706C6F6D
"""The letters "plom", as `file` shows them."""
BUSY_TIMEOUT_S = 30.0
"""How long a commit waits for another process that is writing to the same journal."""
_OLDEST_SQLITE = (3, 35, 0)
_SMALLEST_BYTES = 512
_RETRY_S = 0.01
_PREPARING = Lock()
"""Closing a file gives up all POSIX locks its process has on it, SQLite's as well: nobody here may be at it yet."""


def prepare(path: Path) -> None:
    """Make the file a journal of today's shape, or find that it is one. Blocks for a few milliseconds.

    Raises:
        JournalFormatError: Not a journal, damaged, or of a newer planloom.
        JournalWriteError: It cannot be made, opened or migrated.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise ConfigError(
            f"this Python has SQLite {sqlite3.sqlite_version}; a journal needs 3.35 or later",
            remedy="use a newer Python, or keep journals in memory",
        )
    with _PREPARING:
        _make_file(path)
        _refuse_stump(path)
        _try_to_migrate(path)


def _try_to_migrate(path: Path) -> None:
    until = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            with closing(_connect(path, read_only=False)) as connection:
                _migrate(connection, path)
        except SQLITE_ERRORS as error:
            # Turning WAL on does not wait for a lock as everything else does: two processes may start at once.
            if not is_busy(error) or time.monotonic() > until:
                raise journal_error(error, str(path)) from error
            time.sleep(_RETRY_S)
        else:
            return


def newest_format() -> int:
    """Return the number of the format that this planloom writes."""
    return len(_migrations())


def writing_connection(path: Path) -> sqlite3.Connection:
    """Return a connection whose commits are durable; may be handed from thread to thread."""
    return _opened(path, read_only=False)


def reading_connection(path: Path) -> sqlite3.Connection:
    """Return a connection that sees what is committed and can change nothing."""
    return _opened(path, read_only=True)


def _opened(path: Path, *, read_only: bool) -> sqlite3.Connection:
    try:
        return _connect(path, read_only=read_only)
    except SQLITE_ERRORS as error:
        raise journal_error(error, str(path)) from error


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",  # never `rwc`: a journal that vanished must not come back empty
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except SQLITE_ERRORS:
        connection.close()
        raise
    return connection


def _make_file(path: Path) -> None:
    try:
        make_private(path)  # opened and judged next; a parent that is a file is found there too
    except OSError as error:
        raise JournalWriteError(
            f"journal {path} cannot be made: {error.strerror}",
            remedy="name a file in a folder that this user may write to",
        ) from error


def _refuse_stump(path: Path) -> None:
    """Refuse what is too short to be a database, which SQLite takes for an empty one and would write over."""
    try:
        found = path.stat()
    except OSError as error:
        raise JournalWriteError(
            f"journal {path} cannot be opened: {error.strerror}",
            remedy="name a file in a folder that this user may enter",
        ) from error
    if S_ISREG(found.st_mode) and 0 < found.st_size < _SMALLEST_BYTES:
        raise JournalFormatError(
            f"{path} is not a journal: it has only {found.st_size} bytes", remedy="name another file, or move this one"
        )


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    if _number(connection, "user_version") == len(_migrations()) and _is_journal(connection, path):
        return
    _is_journal(connection, path)
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise JournalWriteError(
            f"the file system of journal {path} cannot share memory between processes, which WAL needs",
            remedy="name a file on a local disk",
        )
    connection.execute("BEGIN IMMEDIATE")
    try:
        _is_journal(connection, path)
        done = _number(connection, "user_version")  # read again: another process may have been first
        for statements in _migrations()[done:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(_migrations())}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _is_journal(connection: sqlite3.Connection, path: Path) -> bool:
    """Return True for a journal that this planloom can read, False for an empty file.

    Raises:
        JournalFormatError: Anything else.
    """
    application_id = _number(connection, "application_id")
    version = _number(connection, "user_version")
    if application_id == APPLICATION_ID:
        if version > len(_migrations()):
            raise JournalFormatError(
                f"journal {path} has format {version}; this planloom reads up to {len(_migrations())}",
                remedy="upgrade planloom, or name another journal",
            )
        return True
    if application_id == 0 and version == 0 and _number(connection, "schema_version") == 0:
        return False
    raise JournalFormatError(
        f"{path} is a database of another program, not a journal", remedy="name another file; nothing was changed here"
    )


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    number: int = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
    return number


@cache
def _migrations() -> tuple[tuple[str, ...], ...]:
    """Return the statements of each migration, in order of their numbers."""
    folder = files("planloom.journal") / "migrations"
    found = sorted((entry.name, entry) for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return tuple(_statements(entry.read_text("utf-8")) for _, entry in found)


def _statements(script: str) -> tuple[str, ...]:
    """Return the statements one by one: `executescript` would commit what came before."""
    found: list[str] = []
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending)
            pending = ""
    return tuple(found)
