"""Connections to the server of a journal.

Rule 1: a connection is used by one thread at a time, and thrown away with its first error that is the server's end.
Rule 2: nothing waits for ever: connecting, statements, locks and transactions that nobody goes on with have limits.
Rule 3: a password is in no text that leaves this file. `Server.place` has none.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from planloom.errors import ConfigError
from planloom.journal.postgres.faults import is_away, journal_error
from planloom.journal.reader import closed_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from datetime import datetime
    from uuid import UUID

SCHEMA = "planloom"
CONNECT_S = 10
STATEMENT_S = 30.0
LOCK_S = 10.0
IDLE_IN_TRANSACTION_S = 15.0
"""After this long the server takes a transaction back that its client does not go on with, and its locks with it."""
PATIENCE_S = 30.0
"""How long a server that went away is waited for."""
_AGAIN_S = 0.1
_END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE (pid, backend_start) = (%s, %s)"
_END_TRIES, _END_S = 200, 0.01
_DEFAULTS: dict[str, Any] = {
    "connect_timeout": CONNECT_S,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "client_encoding": "UTF8",
}
_SETTINGS = (
    ("search_path", SCHEMA),
    ("statement_timeout", f"{STATEMENT_S * 1000:.0f}"),
    ("lock_timeout", f"{LOCK_S * 1000:.0f}"),
    ("idle_in_transaction_session_timeout", f"{IDLE_IN_TRANSACTION_S * 1000:.0f}"),
)
# Whoever administers the server may have commits wait for more than its own disk, but for nothing less.
_GREETING = (
    "SELECT pg_backend_pid(), (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()),"
    " set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), false)"
)
_READING = (("default_transaction_read_only", "on"), ("default_transaction_isolation", "repeatable read"))

Found = TypeVar("Found")


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection to a journal's database.

    Attributes:
        last_commit: Which commit of it is still in the table `commits`; see commits.py.
        backend: What the server knows it by: the number of its process, and when that began.
    """

    last_commit: UUID | None = None
    backend: tuple[int, datetime] | None = None


class Server:
    """Where the database of a journal is.

    Args:
        dsn: As libpq takes it: `postgresql://…` or `host=… dbname=…`.

    Attributes:
        place: Host and database, for people.

    Raises:
        ConfigError: It is not such a text.
    """

    def __init__(self, dsn: str) -> None:
        try:
            terms = conninfo_to_dict(dsn)
        except psycopg.Error:
            raise ConfigError(  # libpq's own message may quote the password
                "the address of the journal is none that PostgreSQL's client takes",
                remedy="write it as postgresql://user@host/database",
            ) from None
        host = str(terms.get("host") or os.environ.get("PGHOST", "") or "localhost")
        port = f":{terms['port']}" if terms.get("port") else ""
        self.place = f"postgresql://{host}{port}/{terms.get('dbname') or os.environ.get('PGDATABASE', '')}"
        named = {"application_name": f"planloom {socket.gethostname()} {os.getpid()}"}
        self._dsn = make_conninfo("", **{**_DEFAULTS, **named, **terms})

    def connect(self, *, read_only: bool = False) -> Connection:
        """Return a connection; raises psycopg's own error."""
        connection = Connection.connect(self._dsn, autocommit=True)
        try:
            settings = (*_SETTINGS, *(_READING if read_only else ()))
            chosen = ", ".join(["set_config(%s, %s, false)"] * len(settings))
            row = connection.execute(f"{_GREETING}, {chosen}", [part for pair in settings for part in pair]).fetchone()
            assert row is not None, "a SELECT without FROM gives a row"
            connection.backend = row[0], row[1]
        except BaseException:
            connection.close()
            raise
        return connection

    def end(self, asking: Connection, broken: Connection) -> None:
        """Have the server end what is left of a broken connection, and its locks: it may not have noticed yet."""
        for _ in range(_END_TRIES):
            if not asking.execute(_END, broken.backend).fetchall():
                return
            time.sleep(_END_S)


class Pool:
    """A few threads, each with a connection while it needs one, for an event loop."""

    def __init__(self, server: Server, *, threads: int, read_only: bool, patience_s: float = PATIENCE_S) -> None:
        self.server = server
        self._read_only = read_only
        self._patience_s = patience_s
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="planloom-postgres")
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        self._closed = False

    async def do(self, work: Callable[[Connection], Found]) -> Found:
        """Return what `work` returns, done in a thread; it is done again if the server went away meanwhile.

        Raises:
            JournalError: It cannot be done, or the pool is closed.
        """
        return await self.in_thread(self._do, work)

    async def in_thread(self, work: Callable[..., Found], *args: Any) -> Found:
        """Return what `work(*args)` returns, done in a thread. Being cancelled waits for its end all the same."""
        if self._closed:
            raise closed_error(self.server.place)
        done = asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait({done})
            done.cancelled() or done.exception()
            raise

    async def close(self) -> None:
        """Wait for what is being done and let go of the connections. A second call is harmless."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(None, self._let_go)

    def take(self) -> Connection:
        """Return a connection that nobody else uses; blocks. Raises psycopg's own error."""
        return self._idle_one() or self.server.connect(read_only=self._read_only)

    def _idle_one(self) -> Connection | None:
        while True:
            try:
                connection = self._idle.get_nowait()
            except Empty:
                return None
            if not connection.closed:
                return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next one, unless it is of no use any more."""
        if _is_idle(connection):
            self._idle.put(connection)
        else:
            with suppress(psycopg.Error):
                connection.close()

    @asynccontextmanager
    async def borrowed(self) -> AsyncIterator[Connection]:
        """Lend a connection for several `in_thread`; what is under way on it at the end is taken back."""
        taken: list[Connection] = []
        try:
            idle = self._idle_one()
            if idle is None:
                await self.in_thread(lambda: taken.append(self.server.connect(read_only=self._read_only)))
            else:
                taken.append(idle)
            yield taken[0]
        finally:
            if taken and not self._closed and _is_idle(taken[0]):
                self._idle.put(taken[0])
            elif taken:
                # Not `in_thread`: the pool may have been closed meanwhile.
                await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._taken_back, taken[0]))

    def _taken_back(self, connection: Connection) -> None:
        if not connection.closed and connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            with suppress(psycopg.Error):
                connection.execute("ROLLBACK")
        if self._closed:
            with suppress(psycopg.Error):
                connection.close()
        else:
            self.give_back(connection)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        connection = self.take()
        try:
            yield connection
        finally:
            self.give_back(connection)

    def _do(self, work: Callable[[Connection], Found]) -> Found:
        until = time.monotonic() + self._patience_s
        while True:
            try:
                with self.connection() as connection:
                    return work(connection)
            except psycopg.Error as error:
                if not is_away(error) or self._closed or time.monotonic() > until:
                    raise journal_error(error, self.server.place) from error
                time.sleep(_AGAIN_S)

    def _let_go(self) -> None:
        self._threads.shutdown()
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return


def _is_idle(connection: Connection) -> bool:
    """Return whether it is of use, and nothing is under way on it."""
    return not connection.closed and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
