"""What PostgreSQL's errors mean for whoever runs the engine.

Rule 1: every error of PostgreSQL that leaves this room went through `journal_error`.
Rule 2: only the server's main message is repeated. Its details may quote a row, and a row may hold anything.
"""

from __future__ import annotations

from psycopg import Error

from planloom.errors import JournalDamagedError, JournalError, JournalFormatError, JournalWriteError

_ACKNOWLEDGED = "what was acknowledged is kept"
_GOING = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03"})
"""The server is going down, starting up, or has cut a connection that was idle for too long."""
_IN_THE_WAY = frozenset({"40001", "40P01"})
"""Two transactions were in each other's way, and this one was taken back whole."""
_LATE = frozenset({"55P03", "57014"})
_RIGHTS = frozenset({"42501", "28000", "28P01"})
_DAMAGE = frozenset({"XX001", "XX002"})
_NO_TABLE = frozenset({"42P01", "3F000", "42703"})


def is_away(error: Error) -> bool:
    """Return whether the server was not to be reached, or went away: it may be back soon."""
    state = error.sqlstate
    if state is None:
        return type(error).__name__ in ("OperationalError", "ConnectionTimeout", "InterfaceError")
    return state.startswith("08") or state in _GOING


def may_try_again(error: Error) -> bool:
    """Return whether the same transaction may go through at once."""
    return error.sqlstate in _IN_THE_WAY


def journal_error(error: Error, place: str) -> JournalError:
    """Return what is wrong with the journal at `place`, with a remedy."""
    state, said = error.sqlstate or "", _said(error)
    if is_away(error):
        return JournalWriteError(
            f"the server of journal {place} cannot be reached: {said}",
            remedy=f"see that PostgreSQL runs there and lets this host and user in; {_ACKNOWLEDGED}",
        )
    if state in _RIGHTS:
        return JournalWriteError(
            f"journal {place} does not let this user do that: {said}",
            remedy="connect as another user, or give this one the role it needs (see roles.sql)",
        )
    if state == "25006":
        return JournalWriteError(
            f"the server of journal {place} is read-only, as a standby is",
            remedy="connect to the primary: name all hosts and target_session_attrs=read-write",
        )
    if state in _LATE:
        return JournalWriteError(
            f"journal {place} took too long: {said}",
            remedy=f"look in pg_stat_activity for what is in the way, then try again; {_ACKNOWLEDGED}",
        )
    if state == "53100":
        return JournalWriteError(
            f"journal {place} cannot grow: its disk is full",
            remedy=f"free space on the server's disk, then resume the run; {_ACKNOWLEDGED}",
        )
    if state in _DAMAGE:
        return JournalDamagedError(
            f"journal {place} is damaged: {said}", remedy="restore it from a backup, and check the server's disk"
        )
    if state in _NO_TABLE:
        return JournalFormatError(
            f"the database {place} is no journal, or not of this planloom's format: {said}",
            remedy="name another database, or let its owner open it once with this planloom",
        )
    return JournalWriteError(
        f"journal {place} cannot be read or written: {said}",
        remedy=f"look into the server's log, then resume the run; {_ACKNOWLEDGED}",
    )


def _said(error: Error) -> str:
    primary = error.diag.message_primary
    if primary:
        return primary
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
