"""The database that a journal's committer writes to, through one connection that also holds the runs it drives.

Rule 1: a run is driven by whoever's connection has its advisory lock. The server gives the lock up with the
connection, however that ends; so what this connection still writes, its owner writes.
Rule 2: a connection that broke is replaced for as long as `patience_s`, and what it was writing written again, once it
is certain that it is not on record. Runs whose lock somebody else has by then are written to no more.
Rule 3: used by the committer's thread alone.
"""

from __future__ import annotations

import time
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import psycopg

from planloom.journal.faults import conflict
from planloom.journal.postgres.commits import AnswerLostError, commit, forget_old, mark
from planloom.journal.postgres.faults import is_away, journal_error, may_try_again
from planloom.journal.postgres.rows import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from planloom.journal.postgres.connect import Connection, Server
    from planloom.journal.writer import Share

_AGAIN_S = 0.1
_TRIES = 5
_COLUMNS = 8
_LOCK = "SELECT name, pg_try_advisory_lock(place) FROM unnest(%s::text[], %s::bigint[]) AS asked(name, place)"
_UNLOCK = "SELECT pg_advisory_unlock(%s)"
_HOLDER = (
    "SELECT pid, coalesce(application_name, '') FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " JOIN pg_database ON pg_database.oid = pg_locks.database AND pg_database.datname = current_database()"
    " WHERE granted AND locktype = 'advisory' AND objsubid = 1 AND (classid::bigint << 32) | objid::bigint = %s"
)


class PostgresStore:
    """Where a journal writes, and what it holds there. See `planloom.journal.writer.Store`."""

    def __init__(self, server: Server, *, patience_s: float) -> None:
        self._server = server
        self._patience_s = patience_s
        self._connection: Connection | None = None
        self._held: set[str] = set()
        self._lost: set[str] = set()
        """Runs whose lock was another's when this connection had to be replaced."""

    # --- what a committer needs -----------------------------------------------------------------

    def write(self, shares: list[Share]) -> None:
        """Commit what these runs have waiting."""
        if not self._lost.isdisjoint(share.writer.run_id for share in shares):
            raise conflict(shares[0].writer.run_id)
        batch = _batch(shares)
        try:
            self._patiently(lambda connection, until: self._commit(connection, batch.write, until), shares)
        except psycopg.errors.UniqueViolation as error:
            raise conflict(shares[0].writer.run_id) from error

    def do(self, work: Callable[[PostgresStore], Any]) -> Any:
        """Return what `work` returns, which gets this store."""
        return work(self)

    def close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.execute("SELECT pg_advisory_unlock_all()")  # the server may notice the end later
                self._connection.close()

    # --- what the journal has done in the committer's thread --------------------------------------

    def transaction(self, work: Callable[[Connection], Any]) -> Any:
        """Return what `work` returns, once its transaction is durable. It may be called again."""
        return self._patiently(lambda connection, until: self._commit(connection, work, until))

    def look(self, work: Callable[[Connection], Any]) -> Any:
        """Return what `work` returns. It may be called again."""
        return self._patiently(lambda connection, _: work(connection))

    def claim(self, run_id: str) -> bool:
        """Take the run's lock; return whether it was free."""

        def lock(connection: Connection) -> bool:
            return run_id in _locked(connection, {run_id})

        # Noted only afterwards: a connection that is replaced meanwhile must not take it twice.
        if not self.look(lock):
            return False
        self._held.add(run_id)
        self._lost.discard(run_id)
        return True

    def release(self, run_id: str) -> None:
        """Give the run's lock up; harmless when it is not held."""
        self._lost.discard(run_id)
        if run_id in self._held:
            self._held.discard(run_id)
            connection = self._connection
            if connection is not None and not connection.closed:
                with suppress(psycopg.Error):  # then the connection is gone, and the lock with it
                    connection.execute(_UNLOCK, (place_of(run_id),))

    # --- connections that break -------------------------------------------------------------------

    def _patiently(self, work: Callable[[Connection, float], Any], shares: list[Share] | None = None) -> Any:
        until = time.monotonic() + self._patience_s
        tries = 0
        while True:
            tries += 1
            try:
                connection = self._connected()
                if shares is not None and not self._lost.isdisjoint(share.writer.run_id for share in shares):
                    raise conflict(shares[0].writer.run_id)
                return work(connection, until)
            except AnswerLostError as lost:
                raise journal_error(lost.error, self._server.place) from lost
            except psycopg.errors.UniqueViolation:
                self._roll_back()
                raise
            except psycopg.Error as error:
                self._roll_back()
                if may_try_again(error) and tries < _TRIES:
                    continue
                if not is_away(error) or time.monotonic() > until:
                    raise journal_error(error, self._server.place) from error
                time.sleep(_AGAIN_S)
            except BaseException:
                self._roll_back()
                raise

    def _commit(self, connection: Connection, work: Callable[[Connection], Any], until: float) -> Any:
        with connection.pipeline():
            connection.execute("BEGIN")
            commit_id = mark(connection)
        result = work(connection)
        commit(connection, commit_id, self._server, until)
        return result

    def _connected(self) -> Connection:
        """Return the connection, a new one if it broke: with the locks of the old one, as far as they are free."""
        connection = self._connection
        if connection is not None and not connection.closed and not connection.broken:
            return connection
        replaced, self._connection = self._connection, self._server.connect()
        forget_old(self._connection)
        if replaced is not None:
            self._server.end(self._connection, replaced)
        if self._held:
            got = _locked(self._connection, self._held)
            self._lost |= self._held - got
            self._held = got
        return self._connection

    def _roll_back(self) -> None:
        connection = self._connection
        if connection is not None and not connection.closed:
            try:
                if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    connection.execute("ROLLBACK")
            except psycopg.Error:
                connection.close()


def place_of(run_id: str) -> int:
    """Return the number that the run is locked by."""
    return int.from_bytes(sha256(run_id.encode()).digest()[:8], "big", signed=True)


def holder(connection: Connection, run_id: str) -> str | None:
    """Return who drives the run, for people; None: nobody does."""
    row = connection.execute(_HOLDER, (place_of(run_id),)).fetchone()
    if row is None:
        return None
    pid, name = row
    words = str(name).split()
    if len(words) == 3 and words[0] == "planloom":
        return f"process {words[2]} on {words[1]}"
    return f"another process (PostgreSQL's {pid})"


def _locked(connection: Connection, run_ids: set[str]) -> set[str]:
    """Try to take these runs' locks; return those whose it got."""
    names = sorted(run_ids)
    rows = connection.execute(_LOCK, (names, [place_of(name) for name in names]))
    return {name for name, got in rows if got}


def _batch(shares: list[Share]) -> Batch:
    batch = Batch()
    for share in shares:
        rows = share.rows
        batch.events += [tuple(rows[start : start + _COLUMNS]) for start in range(0, len(rows), _COLUMNS)]
        batch.blobs.update((blob.sha256, blob) for blob in share.blobs)
        if share.started is not None:
            batch.started.append((*share.started, "engine"))
        if share.status is not None:
            batch.ended.append((share.status, share.writer.run_id))
    return batch
