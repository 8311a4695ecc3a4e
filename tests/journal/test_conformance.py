"""The journals that ship with planloom, under the suite that ships with it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from planloom.journal.chain import Chains
from planloom.journal.memory import MemoryJournal
from planloom.journal.sqlite import SqliteJournal
from planloom.testing.conformance.journal import (
    CHECKS,
    DAMAGE_CHECKS,
    LASTING_CHECKS,
    RIVAL_CHECKS,
    Check,
    JournalPlace,
    run_check,
)


def named(check: Check) -> str:
    return getattr(check, "__name__", "check")


@pytest.mark.parametrize("check", CHECKS, ids=named)
def test_memory_journal(check: Check) -> None:
    run_check(check, JournalPlace(MemoryJournal))


@pytest.mark.parametrize("check", [*CHECKS, *LASTING_CHECKS, *RIVAL_CHECKS, *DAMAGE_CHECKS], ids=named)
def test_sqlite_journal(check: Check, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"

    def intrude(run_id: str) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            [(seq, link)] = connection.execute(
                "SELECT max(seq), link FROM events WHERE run_id = ?", (run_id,)
            ).fetchall()
            row = (seq + 1, 0, "run_resumed", 1, 1.5, '{"epoch":1,"at":1.5}')
            link = Chains().links(run_id).after(link, *row)
            connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (run_id, *row, link))

    def spoil(run_id: str) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                "UPDATE events SET body = replace(body, '1', '7') WHERE run_id = ? AND seq = 2", (run_id,)
            )

    run_check(check, JournalPlace(lambda: SqliteJournal(path), intrude, spoil))
