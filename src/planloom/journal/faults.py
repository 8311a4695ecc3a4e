"""What SQLite's errors mean for whoever runs the engine.

Rule 1: every error of SQLite that leaves this room, one of `SQLITE_ERRORS`, went through `journal_error`.
Rule 2: "cannot be written" and "is not a journal" are different errors: the first passes, the second does not.
"""

from __future__ import annotations

import sqlite3

from planloom.errors import (
    JournalConflictError,
    JournalDamagedError,
    JournalError,
    JournalFormatError,
    JournalWriteError,
)

SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What Python's own module raises: the second where SQLite's message quotes a damaged file, and so is no text."""
_PRIMARY = 0xFF
"""SQLite keeps the general code in the low byte of an extended one."""
_ACKNOWLEDGED = "what was acknowledged is kept"
_RESTORE = "restore it from a backup, and check the disk"
_NO_TEXT = "Could not decode to UTF-8"
"""What Python's own module says, with the text, of a row whose bytes are no text any more."""


def is_busy(error: sqlite3.Error | UnicodeDecodeError) -> bool:
    """Return whether another connection was in the way, so that trying again may help."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def journal_error(error: sqlite3.Error | UnicodeDecodeError, path: str) -> JournalError:
    """Return what is wrong with the journal at `path`, with a remedy."""
    if isinstance(error, UnicodeDecodeError):
        return JournalDamagedError(f"journal {path} is damaged: its very list of tables is no text", remedy=_RESTORE)
    match _code(error):
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_FORMAT:
            return JournalFormatError(f"{path} is not a journal: {error}", remedy="name another file, or move this one")
        case sqlite3.SQLITE_CORRUPT:
            return JournalDamagedError(f"journal {path} is damaged: {error}", remedy=_RESTORE)
        case sqlite3.SQLITE_FULL:
            return JournalWriteError(
                f"journal {path} cannot grow: the disk is full",
                remedy=f"free space on that disk, then resume the run; {_ACKNOWLEDGED}",
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return JournalWriteError(
                f"journal {path} is read-only for this user: {error}",
                remedy="give this user the right to write to the file and its folder, or name another journal",
            )
        case sqlite3.SQLITE_CANTOPEN:
            return JournalWriteError(
                f"journal {path} cannot be opened: {error}",
                remedy="name a file in a folder that exists and that this user may write to",
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return JournalWriteError(
                f"journal {path} stayed locked by another program",
                remedy=f"end that program (a backup, a shell with an open transaction), then resume; {_ACKNOWLEDGED}",
            )
        case _:
            return JournalWriteError(
                f"journal {path} cannot be read or written: {error}",
                remedy=f"check the disk and its file system, then resume the run; {_ACKNOWLEDGED}",
            )


def is_damage(error: sqlite3.Error | UnicodeDecodeError) -> bool:
    """Return whether what was to be read is not what was written, as opposed to out of reach."""
    if isinstance(error, UnicodeDecodeError) or str(error).startswith(_NO_TEXT):
        return True
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def conflict(run_id: str) -> JournalConflictError:
    """Return the error of an engine that writes to a run that another one has written to."""
    return JournalConflictError(
        f"another engine wrote to run {run_id!r}: this one has stopped writing",
        remedy="let the other engine go on, or end it and resume the run",
        run_id=run_id,
    )


def damaged_run(run_id: str, seq: int, what: str) -> JournalDamagedError:
    """Return the error of a run whose record cannot be trusted from this event on."""
    return JournalDamagedError(
        f"run {run_id!r} is damaged at event {seq}: {what}",
        remedy="restore the journal from a backup, and check the disk; the other runs in it can go on",
        run_id=run_id,
        seq=seq,
    )


def _code(error: sqlite3.Error | UnicodeDecodeError) -> int | None:
    """Return SQLite's general code; None for what Python's own module found wrong."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & _PRIMARY
