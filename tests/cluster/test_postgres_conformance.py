"""The journal in PostgreSQL, under the suite that every journal passes."""

import psycopg
import pytest

from planloom.journal.chain import Chains
from planloom.journal.postgres.journal import PostgresJournal
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


@pytest.mark.parametrize("check", [*CHECKS, *LASTING_CHECKS, *RIVAL_CHECKS, *DAMAGE_CHECKS], ids=named)
def test_postgres_journal(check: Check, postgres: str) -> None:
    def intrude(run_id: str) -> None:
        with psycopg.connect(postgres) as connection:
            last = "SELECT seq, link FROM planloom.events WHERE run_id = %s ORDER BY seq DESC LIMIT 1"
            [(seq, link)] = connection.execute(last, (run_id,)).fetchall()
            row = (seq + 1, 0, "run_resumed", 1, 1.5, '{"epoch":1,"at":1.5}')
            values = (run_id, *row, Chains().links(run_id).after(link, *row))
            connection.execute("INSERT INTO planloom.events VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", values)

    def spoil(run_id: str) -> None:
        with psycopg.connect(postgres) as connection:
            connection.execute(
                "UPDATE planloom.events SET body = replace(body, '1', '7') WHERE run_id = %s AND seq = 2", (run_id,)
            )

    run_check(check, JournalPlace(lambda: PostgresJournal(postgres), intrude, spoil))
