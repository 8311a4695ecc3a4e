"""What a commit writes: the rows of events, runs, large values, work and posted facts.

Rule 1: this is the only SQL that adds events to a journal. It runs in a thread, inside a transaction.
Rule 2: large values are written in the order of their names, all at once: two transactions that bring the same ones
would else wait for each other.
Rule 3: events go by COPY. Beside INSERT with as many rows it measured two to four times as fast. A few of them go by
INSERT, in one journey with all the rest.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

from planloom.journal.postgres.texts import storable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planloom.journal.blobs import Blob
    from planloom.journal.postgres.connect import Connection
    from planloom.journal.postgres.work import Work, WorkKey

_COPY = "COPY events (run_id, seq, cause, kind, version, at, body, link) FROM STDIN"
_INSERT_EVENTS = (
    "INSERT INTO events (run_id, seq, cause, kind, version, at, body, link) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
)
FEW_EVENTS = 16
_INSERT_RUNS = (
    "INSERT INTO runs (run_id, plan, plan_hash, started_at, first_link, driver, status)"
    " VALUES (%s, %s, %s, %s, %s, %s, 'running')"
)
_INSERT_BLOBS = (
    "INSERT INTO blobs (sha256, size, body) SELECT * FROM unnest(%s::text[], %s::bigint[], %s::text[])"
    " ON CONFLICT DO NOTHING"
)
_END = "UPDATE runs SET status = %s, wake_at = NULL WHERE run_id = %s"
_WAKE = (
    "UPDATE runs SET wake_at = w.at FROM unnest(%s::text[], %s::float8[]) AS w(run_id, at) WHERE runs.run_id = w.run_id"
)
_OPEN = (
    "INSERT INTO work (run_id, step, attempt, epoch, token, capability, place, body, send_at, sent_at, claimed_by,"
    " stop_at, check_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    " ON CONFLICT (run_id, md5(step), attempt, epoch) DO UPDATE SET token = EXCLUDED.token,"
    " capability = EXCLUDED.capability, place = EXCLUDED.place, body = EXCLUDED.body, send_at = EXCLUDED.send_at,"
    " sent_at = EXCLUDED.sent_at, claimed_by = EXCLUDED.claimed_by, stop_at = EXCLUDED.stop_at,"
    " check_at = EXCLUDED.check_at"
)
_VALUES = attrgetter(
    *("run_id", "step", "attempt", "epoch", "token", "capability", "place", "body"),
    *("send_at", "sent_at", "claimed_by", "stop_at"),
)
# By the names' digests, as the index has them; and by the names themselves.
_CLOSE = "DELETE FROM work WHERE run_id = %s AND (md5(step), step, attempt, epoch) = (md5(%s), %s, %s, %s)"
_STOP = "UPDATE work SET stop_at = %s WHERE run_id = %s AND (md5(step), step, attempt, epoch) = (md5(%s), %s, %s, %s)"
_CLAIM = (
    "UPDATE work SET claimed_by = %s WHERE run_id = %s AND (md5(step), step, attempt, epoch) = (md5(%s), %s, %s, %s)"
)
_TAKEN = "DELETE FROM posted WHERE run_id = %s AND number <= %s"

RunStart = tuple[str, str, str, float, bytes, str]
"""Run id, plan's name, plan's hash, started at, first link, driver."""
EventRow = tuple[str, int, int, str, int, float, str, bytes]


class Batch:
    """What one transaction adds."""

    __slots__ = ("blobs", "ended", "events", "others", "started", "woken")

    def __init__(self) -> None:
        self.started: list[RunStart] = []
        self.events: list[EventRow] = []
        self.blobs: dict[str, Blob] = {}
        self.ended: list[tuple[str, str]] = []
        """Status and run id."""
        self.woken: dict[str, float | None] = {}
        self.others: dict[str, list[Sequence[Any]]] = {}
        """By statement, what it is executed with."""

    @property
    def is_empty(self) -> bool:
        return not (self.events or self.woken or self.others)

    def open(self, work: Work) -> None:
        self._other(_OPEN, (*_VALUES(work), work.send_at))

    def close(self, run_id: str, key: WorkKey) -> None:
        self._other(_CLOSE, (run_id, key[0], *key))

    def stop(self, run_id: str, key: WorkKey, stop_at: float) -> None:
        self._other(_STOP, (stop_at, run_id, key[0], *key))

    def claim(self, run_id: str, key: WorkKey, claimed_by: str) -> None:
        self._other(_CLAIM, (claimed_by, run_id, key[0], *key))

    def take(self, run_id: str, number: int) -> None:
        self._other(_TAKEN, (run_id, number))

    @property
    def is_small(self) -> bool:
        """Return whether all of it goes in one journey: COPY takes journeys of its own, which many rows are worth."""
        return len(self.events) <= FEW_EVENTS

    def write(self, connection: Connection) -> None:
        """Write all of it into the transaction that is under way."""
        with connection.pipeline():
            self._write_rest(connection)
        if self.events:
            with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
                for row in self.events:
                    copy.write_row(row)

    def write_small(self, connection: Connection) -> None:
        """Write all of it into the transaction that is under way; in a pipeline."""
        self._write_rest(connection)
        if self.events:
            with connection.cursor() as cursor:
                cursor.executemany(_INSERT_EVENTS, self.events)

    def _write_rest(self, connection: Connection) -> None:
        with connection.cursor() as cursor:
            if self.started:
                runs = [(run_id, storable(plan), *others) for run_id, plan, *others in self.started]
                cursor.executemany(_INSERT_RUNS, runs)
            insert_blobs(connection, self.blobs.values())
            if self.ended:
                cursor.executemany(_END, self.ended)
            if self.woken:
                cursor.execute(_WAKE, (list(self.woken), list(self.woken.values())))
            for statement, values in self.others.items():
                cursor.executemany(statement, values)

    def _other(self, statement: str, values: Sequence[Any]) -> None:
        texts = [storable(value) if isinstance(value, str) else value for value in values]
        self.others.setdefault(statement, []).append(texts)


def insert_blobs(connection: Connection, blobs: Iterable[Blob]) -> None:
    """Write large values, those that are not there."""
    found = sorted(blobs, key=lambda blob: blob.sha256)
    if found:
        columns = [one.sha256 for one in found], [one.size_bytes for one in found], [one.text for one in found]
        connection.execute(_INSERT_BLOBS, columns)
