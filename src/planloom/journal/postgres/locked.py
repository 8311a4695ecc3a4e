"""Locking runs and reading what is new in them, for one turn of an orchestrator. Runs in a thread.

Rule 1: names of runs that may have no row yet are locked first, then the rows, each in one order that all keep: so no
two turns wait for each other.
Rule 2: what is read after the locks is what the last turn left: each statement sees what is committed before it.
"""

from __future__ import annotations

import re
from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from planloom.core.result import RUN_ENDED
from planloom.errors import JournalError, JournalKeyError, JournalWriteError
from planloom.journal.blobs import intact
from planloom.journal.faults import damaged_run
from planloom.journal.postgres.texts import MAX_NAME_BYTES, is_name
from planloom.journal.postgres.work import LockedRun, Work
from planloom.journal.record import CheckedUpTo, check_links, checked_fact, decoded
from planloom.ports import Recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from planloom.core.events import Fact
    from planloom.journal.chain import Chains, RunLinks
    from planloom.journal.postgres.connect import Connection

_NEW_RUNS = 0x706C6F6E
"""Key space of the locks on names that have no row yet."""
_LOCK_NAMES = "SELECT pg_advisory_xact_lock(%s, place) FROM unnest(%s::int[]) AS new(place)"
_LOCK_ROWS = (
    "SELECT run_id, status, driver, first_link, wake_at FROM runs WHERE run_id = ANY(%s) ORDER BY run_id FOR UPDATE"
)
_EVENTS = (
    "SELECT name, seq, cause, kind, version, at, body, link FROM unnest(%s::text[], %s::bigint[]) AS asked(name, since)"
    " CROSS JOIN LATERAL (SELECT * FROM events WHERE run_id = name AND seq >= since ORDER BY seq) AS found"
)
_WORK = (
    "SELECT run_id, step, attempt, epoch, token, capability, place, body, send_at, sent_at, claimed_by, stop_at"
    " FROM work WHERE run_id = ANY(%s)"
)
_POSTED = "SELECT run_id, number, kind, version, body, link FROM posted WHERE run_id = ANY(%s) ORDER BY run_id, number"
_BLOBS = "SELECT sha256, body FROM blobs WHERE sha256 = ANY(%s)"
_BLOB = re.compile('@blob":"([0-9a-f]{64})"')
_ENDED = frozenset(status.value for status in RUN_ENDED)
_ENDING = "run_finished"

Row = tuple[Any, ...]


def locked_runs(connection: Connection, known: Mapping[str, int], chains: Chains) -> list[tuple[LockedRun, bytes]]:
    """Begin a transaction, lock these runs, and return each with the link of its last event."""
    found = [_nameless(name) for name in sorted(known) if not is_name(name)]
    names = sorted(name for name in known if is_name(name))
    new = sorted(_place(name) for name in names if known[name] == 0)
    with connection.pipeline():
        connection.execute("BEGIN")
        if new:
            connection.execute(_LOCK_NAMES, (_NEW_RUNS, new))
        runs = connection.execute(_LOCK_ROWS, (names,))
        events = connection.execute(_EVENTS, (names, [known[name] for name in names]))
        work = connection.execute(_WORK, (names,))
        posted = connection.execute(_POSTED, (names,))
    rows = {row[0]: row for row in runs}
    events_of, work_of, posted_of = _by_run(events.fetchall()), _by_run(work.fetchall()), _by_run(posted.fetchall())
    blob_text = _blob_texts(connection, [*events_of.values(), *posted_of.values()])
    for name in names:
        links = chains.links(name)
        outstanding = {one.key: one for one in (Work(*row) for row in work_of.get(name, ()))}
        if name not in rows:
            found.append((LockedRun(name, 0, [], "", "", outstanding, []), links.first))
            continue
        _, status, driver, first_link, wake_at = rows[name]
        problem: JournalError | None = None
        recorded: list[Recorded] = []
        left: list[tuple[int, Fact]] = []
        checked = CheckedUpTo(0, links.first)
        try:
            if first_link != links.first:
                raise JournalKeyError(
                    f"run {name!r} was written with another key than this journal's, or one of both has none",
                    remedy="give the key it was written with; a run keeps the key, or none, that it began with",
                    run_id=name,
                )
            recorded, checked = _checked(name, known[name], events_of.get(name, []), links, blob_text)
            if (status in _ENDED) != checked.finished:
                raise damaged_run(name, checked.seq, f"its row says {status!r:.20}, and its last event does not")
            left = [checked_fact(name, row[1:], chains, blob_text) for row in posted_of.get(name, ())]
        except JournalError as error:
            problem = error
        run = LockedRun(name, checked.seq, recorded, driver, status, outstanding, left, wake_at, problem)
        found.append((run, checked.link))
    return found


def _nameless(name: str) -> tuple[LockedRun, bytes]:
    """Return a run that cannot be here: nothing is asked of the server for it."""
    problem = JournalWriteError(
        f"{name!r:.80} can be no run's name in PostgreSQL",
        remedy=f"give a name without NUL, of at most {MAX_NAME_BYTES} bytes",
    )
    return LockedRun(name, 0, [], "", "", {}, [], None, problem), b""


def _checked(
    run_id: str, known: int, rows: list[Row], links: RunLinks, blob_text: Callable[[str], str]
) -> tuple[list[Recorded], CheckedUpTo]:
    """Return the events after the known ones, and how far the run is checked."""
    rows = [row[1:] for row in rows]
    since = CheckedUpTo(0, links.first)
    if known:
        if not rows or rows[0][0] != known:
            raise damaged_run(run_id, known, "it was there, and is missing")
        seq, _, kind, _, _, _, link = rows.pop(0)
        since = CheckedUpTo(seq, link, seq, kind == _ENDING)
    elif not rows:
        raise damaged_run(run_id, 1, "it is missing")
    checked = check_links(run_id, rows, links, since, from_begin=True)
    recorded = [
        Recorded(seq, cause, decoded(kind, version, body, blob_text, run_id, seq))
        for seq, cause, kind, version, _, body, _ in rows
    ]
    return recorded, checked


def _blob_texts(connection: Connection, tables: list[list[Row]]) -> Callable[[str], str]:
    """Return what gives the large values that these rows name, fetched at once."""
    names = {name for rows in tables for row in rows for name in _BLOB.findall(row[-2])}
    texts = dict(connection.execute(_BLOBS, (list(names),)).fetchall()) if names else {}
    return lambda name: intact(name, texts.get(name))


def _by_run(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the rows by their first column, in whose order they come together."""
    return {name: list(group) for name, group in groupby(sorted(rows, key=itemgetter(0)), itemgetter(0))}


def _place(run_id: str) -> int:
    """Return the number that the name is locked by: two names that share one wait for each other, no more."""
    return int.from_bytes(sha256(run_id.encode()).digest()[:4], "big", signed=True)
