"""The SQLite file of a `MemoryStore`: how it is made, recognised, opened and copied.

Rule 1: nothing is changed in a file before it is known to be a store, or empty: `application_id` says which.
Rule 2: every error of SQLite that leaves the store went through `store_error`.
Rule 3: only its owner may read a file that is made here.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from urllib.parse import quote

from planloom.errors import StoreError
from planloom.whole_file import make_private

IN_MEMORY = ":memory:"
APPLICATION_ID = 0x706C6F64
"""The letters "plod", as `file` shows them: planloom's documents."""
VERSION = 1
SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What Python's own module raises: the second where a damaged file holds text that is none."""
_BUSY_TIMEOUT_S = 30.0
_SMALLEST_BYTES = 512
_PRIMARY = 0xFF
"""SQLite keeps the general code in the low byte of an extended one."""
_TABLES = (
    """
    CREATE TABLE documents (
        place INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        title TEXT NOT NULL,
        content TEXT NOT NULL,
        parts TEXT NOT NULL,
        metadata TEXT NOT NULL,
        embedding BLOB,
        chunks TEXT NOT NULL
    )
    """,
    "CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)


def connected(path: str) -> sqlite3.Connection:
    """Return a connection to a store; a file that is not there, or empty, becomes one.

    Raises:
        StoreError: It is something else, of a newer planloom, or cannot be opened.
    """
    if path != IN_MEMORY:
        _make_file(Path(path))
        _refuse_stump(Path(path))
    connection = _connection(path, mode="rw")
    try:
        with translated(path):
            connection.execute("PRAGMA trusted_schema = OFF")
            if not _is_store(connection, path):
                _make_tables(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def copy_into_memory(path: str) -> sqlite3.Connection:
    """Return a connection to a copy of a store, held in memory; the file is only read.

    Raises:
        StoreError: There is no store at that path.
    """
    _refuse_stump(Path(path))
    with closing(_connection(path, mode="ro")) as source, translated(path):
        if not _is_store(source, path):
            raise StoreError(f"{path} is empty, no store", remedy="name a file that `save` wrote, or a `MemoryStore`'s")
        copy = _connection(IN_MEMORY, mode="rw")
        try:
            source.backup(copy)
        except BaseException:
            copy.close()
            raise
        return copy


def copy_into_file(connection: sqlite3.Connection, path: Path) -> None:
    """Write a store as a file, whole or not at all.

    Raises:
        StoreError: There is something else at that path, or it cannot be written.
    """
    if path.exists():
        _refuse_stump(path)
        with closing(_connection(str(path), mode="ro")) as there, translated(str(path)):
            _is_store(there, str(path))
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        os.close(descriptor)
        with closing(_connection(name, mode="rw")) as copy, translated(str(path)):
            connection.backup(copy)
        os.replace(name, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            os.unlink(name)


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn what SQLite raises within into a `StoreError`."""
    try:
        yield
    except SQLITE_ERRORS as error:
        raise store_error(error, path) from error


def store_error(error: sqlite3.Error | UnicodeDecodeError, path: str) -> StoreError:
    """Return what is wrong with the store at `path`, with a remedy."""
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
    if isinstance(error, UnicodeDecodeError) or code == sqlite3.SQLITE_CORRUPT:
        return StoreError(f"store {path} is damaged: {error}", remedy="make it again from what it was made from")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT):
        return StoreError(f"{path} is no store: {error}", remedy="name another file, or move this one")
    remedy = {
        sqlite3.SQLITE_FULL: "free space on that disk; what was there is kept",
        sqlite3.SQLITE_READONLY: "give this user the right to write to the file and its folder",
        sqlite3.SQLITE_CANTOPEN: "name a file in a folder that exists and that this user may write to",
        sqlite3.SQLITE_BUSY: "end the other program that is writing to it, or wait for it",
        sqlite3.SQLITE_LOCKED: "end the other program that is writing to it, or wait for it",
        sqlite3.SQLITE_TOOBIG: "cut the text into several documents",
    }.get(code, "check the disk and its file system")
    return StoreError(f"store {path} cannot be read or written: {error}", remedy=remedy)


def _connection(path: str, *, mode: str) -> sqlite3.Connection:
    is_file = path != IN_MEMORY
    name = f"file:{quote(path)}?mode={mode}" if is_file else path  # never `rwc`: what vanished must not come back empty
    with translated(path):
        return sqlite3.connect(
            name, uri=is_file, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )


def _make_file(path: Path) -> None:
    try:
        make_private(path)  # opened and judged next; a parent that is a file is found there too
    except OSError as error:
        raise _unwritable(path, error) from error


def _refuse_stump(path: Path) -> None:
    """Refuse what is no file, and what is too short for a database: SQLite takes that for an empty one."""
    try:
        found = path.stat()
    except OSError as error:
        raise StoreError(f"there is no store {path}: {error.strerror}", remedy="name a file that is there") from error
    if not S_ISREG(found.st_mode) or 0 < found.st_size < _SMALLEST_BYTES:
        raise StoreError(f"{path} is no store", remedy="name another file; nothing was changed here")


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"store {path} cannot be written: {error.strerror}",
        remedy="name a file in a folder that this user may write to",
    )


def _is_store(connection: sqlite3.Connection, path: str) -> bool:
    """Return True for a store that this planloom can read, False for an empty file.

    Raises:
        StoreError: Anything else.
    """
    application_id, version = _number(connection, "application_id"), _number(connection, "user_version")
    if application_id == APPLICATION_ID:
        if version > VERSION:
            raise StoreError(
                f"store {path} has format {version}; this planloom reads up to {VERSION}",
                remedy="upgrade planloom, or make the store again",
            )
        return True
    if application_id == version == _number(connection, "schema_version") == 0:
        return False
    raise StoreError(
        f"{path} is a database of another program, no store", remedy="name another file; nothing was changed here"
    )


def _make_tables(connection: sqlite3.Connection, path: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not _is_store(connection, path):  # asked again: another process may have been first
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    number: int = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
    return number
