"""Journals to be damaged, and what becomes of a reading then."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing, contextmanager
from enum import StrEnum
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from planloom import SqliteJournal
from planloom.errors import JournalError
from planloom.journal.chain import Chains
from planloom.journal.faults import SQLITE_ERRORS, journal_error
from planloom.journal.record import read_page
from planloom.journal.schema import reading_connection
from planloom.journal.tails import Tails
from tests.journals.files import Story, stories, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planloom.ports import Recorded

RUNS = ("ended", "cut-in-a-map", "cut")
"""A run that has ended and two that have not."""


class Outcome(StrEnum):
    """What a reading of a damaged record came to."""

    REFUSED = "refused"
    SAME = "same"
    SHORTER = "shorter"
    """Events are missing at the end, and nothing says so."""
    DIFFERENT = "different"
    """The one thing that must never be."""


@contextmanager
def quick_folder() -> Iterator[Path]:
    """Make a folder in memory, where there is one: thousands of files are opened, and none need outlive the power."""
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder)


@cache
def _stories() -> dict[str, Story]:
    return asyncio.run(stories())


def written(path: Path, *, key: bytes | None = None, runs: tuple[str, ...] = RUNS) -> None:
    """Write these runs to a new file."""

    told = _stories()

    async def main() -> None:
        journal = SqliteJournal(path, key=key)
        for run_id in runs:
            await write(journal, run_id, told[run_id])
        await journal.close()

    asyncio.run(main())


def read(connection: sqlite3.Connection, run_id: str, *, key: bytes | None = None) -> list[Recorded] | JournalError:
    """Return the events of a run, or why there are none; any other error is a bug."""
    try:
        page = read_page(connection, run_id, Chains(key), tails=Tails())
    except SQLITE_ERRORS as error:
        return journal_error(error, "the journal")
    except JournalError as error:
        return error
    return page.events if page is not None else JournalError("no such run")


def read_file(path: Path, run_id: str, *, key: bytes | None = None) -> list[Recorded] | JournalError:
    """Return as `read` what is in a file."""
    try:
        with closing(reading_connection(path)) as connection:
            return read(connection, run_id, key=key)
    except JournalError as error:
        return error


def compared(found: list[Recorded] | JournalError, wanted: list[Recorded]) -> Outcome:
    """Return what a reading came to."""
    if isinstance(found, JournalError):
        return Outcome.REFUSED
    if found == wanted:
        return Outcome.SAME
    return Outcome.SHORTER if found == wanted[: len(found)] else Outcome.DIFFERENT
