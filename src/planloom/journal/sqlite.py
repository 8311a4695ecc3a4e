"""The record of all runs in one SQLite file.

Rule 1: this file puts the parts together and says what a run's life is; SQL that writes is in writer.py, SQL that reads
in reader.py, and what a file must be in schema.py.
Rule 2: a run is written by whoever holds its lock (ownership.py); that its numbers are unique is what makes it safe.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from planloom import masking
from planloom.errors import JournalConflictError, RunBusyError
from planloom.journal.chain import Chains, RunChain
from planloom.journal.codec import encode
from planloom.journal.followers import Followers, file_watch
from planloom.journal.following import PAGE, followed
from planloom.journal.ownership import OwnersFile, is_owned, owners_of
from planloom.journal.reader import (
    ReadPool,
    closed_error,
    newest_runs,
    not_found,
    runs_with_posted_facts,
    status_of,
)
from planloom.journal.record import CheckedUpTo, Page, is_there, posted_facts, read_page
from planloom.journal.rows import SqliteStore, insert_posted
from planloom.journal.schema import prepare, writing_connection
from planloom.journal.tails import Tails
from planloom.journal.writer import Committer, RunPen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from planloom.core.events import Fact
    from planloom.ports import OnDurable, Recorded, RunRow


class SqliteJournal:
    """A journal in a file. Other processes may read and write the same file at the same time.

    Args:
        path: The file; made, with the folders above it, when it is not there. Only its owner may read it.
        key: Makes the links between a run's events a MAC: 16 to 64 bytes that whoever may write to the file must not
            know. None: links show damage, and no forgery.

    Raises:
        ConfigError: The key is too short or too long.
        JournalFormatError: The file is something else, damaged, or of a newer planloom.
        JournalWriteError: The file cannot be made or opened.
    """

    def __init__(self, path: str | os.PathLike[str], *, key: bytes | None = None) -> None:
        self.path = Path(os.path.realpath(path))
        self._chains = Chains(key)
        self._tails = Tails()
        prepare(self.path)
        self._reads = ReadPool(self.path)
        self._followers = Followers(partial(file_watch, self.path))
        self._writers: dict[str, RunPen | None] = {}
        """Runs that this journal drives; None while one is being taken."""
        self._committer: Committer | None = None
        self._writable = False
        self._owners: OwnersFile | None = None
        self._closed = False

    async def create(self, run_id: str, on_durable: OnDurable) -> RunPen:
        """Take ownership of a new run.

        Raises:
            JournalConflictError: The run exists.
            JournalError: The journal cannot be written.
        """
        committer = await self._writing()
        with ExitStack() as undo:
            if not self._claim(run_id, undo):
                raise _exists(run_id, f" and {self._owned().owner(run_id)} drives it")
            if await self._reads.read(lambda connection: status_of(connection, run_id)) is not None:
                raise _exists(run_id, "")
            return self._pen(run_id, committer, on_durable, None, undo)

    async def take(self, run_id: str, on_durable: OnDurable) -> tuple[list[Recorded], RunPen]:
        """Take ownership of a run on record; return its events and its pen.

        Raises:
            RunNotFoundError: No such run.
            RunBusyError: Another process, or another driver of this one, owns it.
            JournalFormatError: As `read`.
        """
        committer = await self._writing()
        with ExitStack() as undo:
            if not self._claim(run_id, undo):
                raise RunBusyError(
                    f"{self._owned().owner(run_id)} drives run {run_id!r} now",
                    remedy="wait for it, or end that process: the run is then free at once",
                    run_id=run_id,
                )
            page = await self._page(run_id, tails=self._tails)
            return page.events, self._pen(run_id, committer, on_durable, page.checked, undo)

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
        checked = (await self._page(run_id, tails=Tails())).checked
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
        return await self._reads.read(
            partial(read_page, run_id=run_id, chains=self._chains, after=after, limit=PAGE, checked=checked)
        )

    async def runs(
        self,
        *,
        status: str | None = None,
        limit: int = 100,
        plan: str | None = None,
        before: tuple[float, str] | None = None,
    ) -> list[RunRow]:
        """Return runs, newest first; see the port."""
        return await self._reads.read(lambda connection: newest_runs(connection, status, limit, plan, before))

    async def is_driven(self, run_id: str) -> bool | None:
        """Return whether a process drives the run now; None where the system does not say."""
        return is_owned(self.path, run_id)

    async def weaknesses(self) -> list[str]:
        """Return nothing: what makes an event durable is set here, and not by whoever runs a server."""
        return []

    @property
    def place(self) -> str:
        """Return where it is, for people."""
        return str(self.path)

    async def post(self, run_id: str, fact: Fact) -> None:
        """Leave a person's fact for whoever drives the run; durable on return.

        Raises:
            RunNotFoundError: No such run.
            JournalKeyError: The run has another key than this journal, or one of both has none.
        """
        mask = masking.known()
        encoded = encode(fact if mask is None else mask.fact(fact))
        committer = await self._writing()

        def insert(connection: sqlite3.Connection) -> None:
            if not is_there(connection, run_id, self._chains):
                raise not_found(run_id, self.path)
            insert_posted(connection, run_id, encoded, self._chains.links(run_id))

        await committer.do(insert)

    async def posted(self, run_id: str) -> list[tuple[int, Fact]]:
        """Return facts left for this run and not yet taken, oldest first, each with its number."""
        return await self._reads.read(lambda connection: posted_facts(connection, run_id, self._chains))

    async def posted_runs(self) -> set[str]:
        """Return the runs that have facts left for them."""
        return await self._reads.read(runs_with_posted_facts)

    async def taken(self, run_id: str, number: int) -> None:
        """Forget the posted facts of this run up to `number`: their consequences are on record."""
        committer = await self._writing()
        await committer.do(
            lambda connection: (
                connection.execute("DELETE FROM posted WHERE run_id = ? AND number <= ?", (run_id, number)).rowcount
            )
        )

    async def close(self) -> None:
        """Write what is left and let go of files, locks and threads. A second call is harmless."""
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        if self._committer is not None:
            await loop.run_in_executor(None, self._committer.close)
        for writer in tuple(self._writers.values()):
            if writer is not None:
                writer.end()
        if self._owners is not None:
            self._owners.close()
        await loop.run_in_executor(None, self._followers.close)
        await self._reads.close()

    async def _writing(self) -> Committer:
        """Return the committer, started with the first thing to write: a journal that is only read needs none."""
        if self._closed:
            raise closed_error(self.path)
        if self._committer is None:
            store = SqliteStore(writing_connection(self.path), str(self.path))
            self._committer = Committer(store, str(self.path), committed=self._followers.wake)
        if not self._writable:
            await self._committer.do(_probe)
            self._writable = True
        return self._committer

    def _owned(self) -> OwnersFile:
        if self._owners is None:
            self._owners = owners_of(self.path)
        return self._owners

    def _claim(self, run_id: str, undo: ExitStack) -> bool:
        if not self._owned().claim(run_id):
            return False
        self._writers[run_id] = None
        undo.callback(self._release, run_id)
        return True

    def _release(self, run_id: str) -> None:
        self._writers.pop(run_id, None)
        self._owned().release(run_id)
        self._followers.wake((run_id,))  # one who waits for a run that was never begun must not wait for ever

    def _pen(
        self, run_id: str, committer: Committer, on_durable: OnDurable, last: CheckedUpTo | None, undo: ExitStack
    ) -> RunPen:
        links = self._chains.links(run_id)
        writer = RunPen(
            run_id,
            committer,
            on_durable,
            links=links,
            last_seq=0 if last is None else last.seq,
            last_link=links.first if last is None else last.link,
            released=partial(self._release, run_id),
        )
        self._writers[run_id] = writer
        undo.pop_all()  # from here the writer gives the run up
        return writer

    async def _page(self, run_id: str, *, after: int = 0, limit: int | None = None, tails: Tails | None = None) -> Page:
        reading = partial(read_page, run_id=run_id, chains=self._chains, after=after, limit=limit, tails=tails)
        page = await self._reads.read(reading)
        if page is None:
            raise not_found(run_id, self.path)
        return page


def _probe(connection: sqlite3.Connection) -> None:
    """Write nothing: a transaction may begin in a read-only file, a statement that would write may not."""
    connection.execute("DELETE FROM posted WHERE run_id IS NULL")


def _exists(run_id: str, how: str) -> JournalConflictError:
    return JournalConflictError(
        f"run {run_id!r} exists{how}", remedy="resume it, or start a run under another id", run_id=run_id
    )
