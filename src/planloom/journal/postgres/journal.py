"""The record of all runs in one PostgreSQL database.

Rule 1: this file puts the parts together and says what a run's life is. What is written is in store.py and rows.py;
what is read goes through the same code as a SQLite journal: it is one format.
Rule 2: a run is written by whoever holds its lock (store.py); that its numbers are unique is what makes it safe.
Rule 3: a run that orchestrators share (shared.py) is read and answered here, and never driven.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import psycopg

from planloom import masking
from planloom.errors import JournalConflictError, JournalWriteError, RunBusyError
from planloom.journal.chain import Chains, RunChain
from planloom.journal.codec import encode
from planloom.journal.followers import Followers
from planloom.journal.following import PAGE, followed
from planloom.journal.postgres.connect import PATIENCE_S, Pool, Server
from planloom.journal.postgres.faults import journal_error
from planloom.journal.postgres.rows import insert_blobs
from planloom.journal.postgres.schema import prepare
from planloom.journal.postgres.store import PostgresStore, holder
from planloom.journal.postgres.texts import MAX_NAME_BYTES, is_name, storable
from planloom.journal.reader import closed_error, newest_runs, not_found, runs_with_posted_facts
from planloom.journal.record import CheckedUpTo, Page, is_there, posted_facts, read_page
from planloom.journal.writer import Committer, RunPen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence

    from planloom.core.events import Fact
    from planloom.journal.codec import Encoded
    from planloom.journal.followers import News
    from planloom.journal.postgres.connect import Connection
    from planloom.journal.reader import Rows
    from planloom.ports import OnDurable, Recorded, RunRow

READING_THREADS = 4
_RUNS = (
    "SELECT runs.run_id, runs.plan, runs.plan_hash, runs.status, runs.started_at, last.at, last.seq FROM runs"
    " CROSS JOIN LATERAL (SELECT at, seq FROM events WHERE events.run_id = runs.run_id ORDER BY seq DESC LIMIT 1)"
    " AS last"
)
_LAST = "SELECT name, (SELECT max(seq) FROM events WHERE run_id = name) FROM unnest(%s::text[]) AS asked(name)"
_POST = "INSERT INTO posted (number, run_id, kind, version, body, link) VALUES (%s, %s, %s, %s, %s, %s)"
_UNSAFE = "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name"
_NUMBER = "SELECT nextval(pg_get_serial_sequence('posted', 'number'))"


Asked = ParamSpec("Asked")
Found = TypeVar("Found")


class PostgresJournal:
    """A journal in a PostgreSQL database. Any number of processes may read and write the same one at the same time.

    Args:
        dsn: Where the database is, as libpq takes it: `postgresql://user@host/database`. What it does not name comes
            from libpq's own variables and files; a password is best left to those.
        key: Makes the links between a run's events a MAC: 16 to 64 bytes that whoever may write to the database must
            not know. None: links show damage, and no forgery.
        make: False: a database that is no journal is not made one.
        patience_s: How long a server that went away is waited for, before what was to be written is given up.

    Raises:
        ConfigError: The address is none, or the key too short or too long.
        RunNotFoundError: The database is no journal, and is not to be made one.
        JournalFormatError: It is one of a newer planloom.
        JournalWriteError: The server cannot be reached, or does not let this user do it.
    """

    def __init__(
        self, dsn: str, *, key: bytes | None = None, make: bool = True, patience_s: float = PATIENCE_S
    ) -> None:
        self._server = Server(dsn)
        self._chains = Chains(key)
        self._patience_s = patience_s
        prepare(self._server, make=make)
        self._reads = Pool(self._server, threads=READING_THREADS, read_only=True, patience_s=patience_s)
        self._followers = Followers(partial(_watch, self._server))
        self._writers: dict[str, RunPen | None] = {}
        """Runs that this journal drives; None while one is being taken."""
        self._committer: Committer | None = None
        self._closed = False

    @property
    def place(self) -> str:
        """Return where it is, without the password."""
        return self._server.place

    async def create(self, run_id: str, on_durable: OnDurable) -> RunPen:
        """Take ownership of a new run.

        Raises:
            JournalConflictError: The run exists.
            JournalError: The journal cannot be written.
        """
        if not is_name(run_id):
            raise JournalWriteError(
                f"{run_id!r:.80} can be no run's name in PostgreSQL",
                remedy=f"give a name without NUL, of at most {MAX_NAME_BYTES} bytes",
            )
        with ExitStack() as undo:
            busy, driver = await self._claim(run_id, undo)
            if busy is not None:
                raise _exists(run_id, f" and {busy} drives it")
            if driver is not None:
                raise _exists(run_id, "")
            return self._pen(run_id, on_durable, None, undo)

    async def take(self, run_id: str, on_durable: OnDurable) -> tuple[list[Recorded], RunPen]:
        """Take ownership of a run on record; return its events and its pen.

        Raises:
            RunNotFoundError: No such run.
            RunBusyError: Another process, or another driver of this one, owns it; or the cluster drives it.
            JournalFormatError: As `read`.
        """
        self._check_name(run_id)
        with ExitStack() as undo:
            busy, driver = await self._claim(run_id, undo)
            if busy is not None:
                raise RunBusyError(
                    f"{busy} drives run {run_id!r} now",
                    remedy="wait for it, or end that process: the run is then free at once",
                    run_id=run_id,
                )
            if driver == "cluster":
                raise RunBusyError(
                    f"the cluster drives run {run_id!r}",
                    remedy="see that `planloom agent` runs; what people answer is left with approve, resolve, cancel",
                    run_id=run_id,
                )
            page = await self._page(run_id)
            return page.events, self._pen(run_id, on_durable, page.checked, undo)

    async def read(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Return durable events with seq > `after`, in order.

        Raises:
            RunNotFoundError: No such run.
            JournalDamagedError: One of them is missing, or is not what was written.
            JournalKeyError: They were written with another key, or one of both has none.
            JournalFormatError: One of them is of a newer planloom.
        """
        return (await self._page(run_id, after=after, limit=limit)).events

    async def chain_of(self, run_id: str) -> RunChain:
        """Return what the links of a run say, after checking all of it; raises as `read`."""
        checked = (await self._page(run_id)).checked
        return RunChain(checked.seq, checked.chained, self._chains.is_keyed, checked.link)

    def follow(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield durable events as they come, none left out, none twice; ends after `RunFinished`. See `followed`."""
        return followed(self, self._followers, run_id, after)

    @property
    def is_closed(self) -> bool:
        return self._closed

    def is_starting(self, run_id: str) -> bool:
        """Return whether this journal drives the run, or is about to."""
        return run_id in self._writers

    async def next_page(self, run_id: str, after: int, checked: CheckedUpTo | None) -> Page | None:
        """Return the next events for who follows a run; None: there is no such run."""
        if not is_name(run_id):
            return None
        return await self._read(read_page, run_id, self._chains, after=after, limit=PAGE, checked=checked)

    async def runs(
        self,
        *,
        status: str | None = None,
        limit: int = 100,
        plan: str | None = None,
        before: tuple[float, str] | None = None,
    ) -> list[RunRow]:
        """Return runs, newest first; see the port."""
        named = None if plan is None else storable(plan)
        return await self._read(newest_runs, status, limit, named, before, select=_RUNS)

    async def is_driven(self, run_id: str) -> bool | None:
        """Return whether somebody drives the run now: a process that has its lock, or the cluster."""

        def look(connection: Connection) -> bool:
            return _driver(connection, run_id) == "cluster" or holder(connection, run_id) is not None

        return await self._reads.do(look)

    async def is_clusters(self, run_id: str) -> bool:
        """Return whether orchestrators share the run: then no engine can take it up."""
        return bool(await self._reads.do(lambda connection: _driver(connection, run_id) == "cluster"))

    async def weaknesses(self) -> list[str]:
        """Return what of the server's settings makes an acknowledged event less than certain, for people."""

        def look(connection: Connection) -> list[str]:
            rows = connection.execute(_UNSAFE)
            return [f"its setting {name} is off: a power cut may take acknowledged events away" for (name,) in rows]

        return await self._reads.do(look)

    async def post(self, run_id: str, fact: Fact) -> None:
        """Leave a person's fact for whoever drives the run; durable on return.

        Raises:
            RunNotFoundError: No such run.
            JournalKeyError: The run has another key than this journal, or one of both has none.
        """
        self._check_name(run_id)
        mask = masking.known()
        encoded = encode(fact if mask is None else mask.fact(fact))

        def insert(connection: Connection) -> None:
            if not is_there(_Rows(connection), run_id, self._chains):
                raise not_found(run_id, self.place)
            _insert_posted(connection, run_id, encoded, self._chains)

        await self._writing().do(lambda store: store.transaction(insert))

    async def posted(self, run_id: str) -> list[tuple[int, Fact]]:
        """Return facts left for this run and not yet taken, oldest first, each with its number."""
        return await self._read(posted_facts, run_id, self._chains) if is_name(run_id) else []

    async def posted_runs(self) -> set[str]:
        """Return the runs that have facts left for them."""
        return await self._read(runs_with_posted_facts)

    async def taken(self, run_id: str, number: int) -> None:
        """Forget the posted facts of this run up to `number`: their consequences are on record."""

        def delete(connection: Connection) -> None:
            connection.execute("DELETE FROM posted WHERE run_id = %s AND number <= %s", (run_id, number))

        await self._writing().do(lambda store: store.transaction(delete))

    async def close(self) -> None:
        """Write what is left and let go of connections and threads. A second call is harmless."""
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        if self._committer is not None:
            await loop.run_in_executor(None, self._committer.close)
        for writer in tuple(self._writers.values()):
            if writer is not None:
                writer.end()
        await loop.run_in_executor(None, self._followers.close)
        await self._reads.close()

    def _check_name(self, run_id: str) -> None:
        """Say that a run is not here whose name it cannot have here."""
        if not is_name(run_id):
            raise not_found(run_id, self.place)

    def _writing(self) -> Committer:
        """Return the committer, started with the first thing to write: a journal that is only read needs none."""
        if self._closed:
            raise closed_error(self.place)
        if self._committer is None:
            store = PostgresStore(self._server, patience_s=self._patience_s)
            self._committer = Committer(store, self.place, committed=self._followers.wake)
        return self._committer

    async def _claim(self, run_id: str, undo: ExitStack) -> tuple[str | None, str | None]:
        """Take the run's lock. Return who has it instead, and what drives the run if it is on record."""
        if run_id in self._writers:
            return "this process", None
        committer = self._writing()

        def claim(store: PostgresStore) -> tuple[str | None, str | None]:
            if store.claim(run_id):
                return None, store.look(lambda connection: _driver(connection, run_id))
            return store.look(lambda connection: holder(connection, run_id)) or "another process", None

        self._writers[run_id] = None
        undo.callback(self._release, run_id)
        return await committer.do(claim)  # type: ignore[no-any-return]  # what a job returns is what it returns

    def _release(self, run_id: str) -> None:
        self._writers.pop(run_id, None)
        if self._committer is not None:
            self._committer.soon(lambda store: store.release(run_id))
        self._followers.wake((run_id,))  # one who waits for a run that was never begun must not wait for ever

    def _pen(self, run_id: str, on_durable: OnDurable, last: CheckedUpTo | None, undo: ExitStack) -> RunPen:
        links = self._chains.links(run_id)
        writer = RunPen(
            run_id,
            self._writing(),
            on_durable,
            links=links,
            last_seq=0 if last is None else last.seq,
            last_link=links.first if last is None else last.link,
            released=partial(self._release, run_id),
        )
        self._writers[run_id] = writer
        undo.pop_all()  # from here the writer gives the run up
        return writer

    async def _page(self, run_id: str, *, after: int = 0, limit: int | None = None) -> Page:
        self._check_name(run_id)
        page = await self._read(read_page, run_id, self._chains, after=after, limit=limit)
        if page is None:
            raise not_found(run_id, self.place)
        return page

    async def _read(
        self, reading: Callable[Concatenate[Rows, Asked], Found], *values: Asked.args, **named: Asked.kwargs
    ) -> Found:
        return await self._reads.do(lambda connection: reading(_Rows(connection), *values, **named))


class _Rows:
    """A connection as what reads a journal knows one; see `planloom.journal.reader.Rows`."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> psycopg.Cursor[tuple[Any, ...]]:
        return self._connection.execute(_translated(sql), values)


@cache
def _translated(sql: str) -> bytes:
    return sql.replace("?", "%s").encode()


def _driver(connection: Connection, run_id: str) -> str | None:
    """Return what drives the run, "engine" or "cluster"; None: there is no such run."""
    row = connection.execute("SELECT driver FROM runs WHERE run_id = %s", (run_id,)).fetchone()
    return None if row is None else str(row[0])


def _insert_posted(connection: Connection, run_id: str, encoded: Encoded, chains: Chains) -> None:
    """Write a fact that a person left for a run. Its number is in its link: a copy under another one does not fit."""
    kind, version, body, blobs = encoded
    insert_blobs(connection, blobs)
    row = connection.execute(_NUMBER).fetchone()
    assert row is not None, "a sequence has always a next number"
    number = int(row[0])
    link = chains.links(run_id).of_posted(number, kind, version, body)
    connection.execute(_POST, (number, run_id, kind, version, body, link))


@contextmanager
def _watch(server: Server) -> Iterator[News]:
    """Tell the news of the runs that somebody waits for.

    By asking, and not by NOTIFY: that takes one lock over all commits of a database, and so their order of one.
    """
    seen: dict[str, int | None] = {}
    try:
        with server.connect(read_only=True) as connection:

            def news(run_ids: Collection[str]) -> Collection[str]:
                nonlocal seen
                found = dict(connection.execute(_LAST, (list(run_ids),)).fetchall())
                came = [name for name, seq in found.items() if name not in seen or seen[name] != seq]
                seen = found
                return came

            yield news
    except psycopg.Error as error:
        raise journal_error(error, server.place) from error


def _exists(run_id: str, how: str) -> JournalConflictError:
    return JournalConflictError(
        f"run {run_id!r} exists{how}", remedy="resume it, or start a run under another id", run_id=run_id
    )
