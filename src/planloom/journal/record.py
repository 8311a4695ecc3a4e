"""One run's rows → its events, each checked against the link that was written with it.

Rule 1: nothing is decoded before its link fits, so what is damaged is never taken for what is merely newer.
Rule 2: a run is read from a link that was checked or is on record, else from its first event.
Rule 3: what the row of a run says beside its events must follow from them. A list of runs shows it unchecked.
Rule 4: a journal with a key reads what was written with that key, and nothing else; one without a key, no run that has
one. Else whoever can write the file could put a run of his own in the place of a keyed one.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hmac import compare_digest
from typing import TYPE_CHECKING, Any

from planloom.core.events import RunFinished, RunStarted
from planloom.core.result import RUN_ENDED
from planloom.errors import JournalDamagedError, JournalFormatError, JournalKeyError
from planloom.journal.blobs import intact
from planloom.journal.chain import NOT_A_ROW
from planloom.journal.codec import decode
from planloom.journal.faults import SQLITE_ERRORS, damaged_run, is_damage
from planloom.ports import Recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from planloom.core.events import Event, Fact
    from planloom.journal.chain import Chains, RunLinks
    from planloom.journal.reader import Rows
    from planloom.journal.tails import Tails

_ENDED = frozenset(status.value for status in RUN_ENDED)
_ENDING = "run_finished"
_ALL = 2**63 - 1
_EVENTS = (
    "SELECT seq, cause, kind, version, at, body, link FROM events WHERE run_id = ? AND seq > ? ORDER BY seq LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class CheckedUpTo:
    """How far a run was read and checked.

    Attributes:
        seq: The last event so far; 0 for none.
        link: Its link.
        chained: Events so far with a link on record, or those that a link on record stands for.
        finished: Whether that event was the run's end.
    """

    seq: int
    link: bytes
    chained: int = 0
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Events of a run that follow each other, and where the next page begins."""

    events: list[Recorded]
    checked: CheckedUpTo
    ended: bool
    """What the row of the run says."""


@dataclass(frozen=True, slots=True)
class _Row:
    """The row of a run."""

    plan: str
    plan_hash: str
    status: str
    started_at: float
    first_link: bytes | None


def read_page(
    connection: Rows,
    run_id: str,
    chains: Chains,
    *,
    after: int = 0,
    limit: int | None = None,
    checked: CheckedUpTo | None = None,
    tails: Tails | None = None,
) -> Page | None:
    """Return events with seq > `after`, in order; None when there is no such run.

    Args:
        tails: Where to look for events beyond the last, which a damaged index would hide: the end of a run that has
            not ended shows in nothing else. None: they are not looked for.

    Raises:
        JournalDamagedError: One is missing, or is not what was written.
        JournalKeyError: They were written with another key, or one of both has none.
        JournalFormatError: One is of a newer planloom.
    """
    links = chains.links(run_id)
    after = max(after, 0)
    with _snapshot(connection):
        row = _row_of(connection, run_id)
        if row is None:
            return None
        _check_form(connection, run_id, row, links, chains)
        checked = checked or _on_record(connection, run_id, after) or CheckedUpTo(0, links.first)
        wanted = _ALL if limit is None else after - checked.seq + limit
        rows = _fetched(connection, _EVENTS, (run_id, checked.seq, wanted), run_id, checked.seq)
        if tails is not None and rows:
            _look_beyond(connection, run_id, rows[-1][0], tails)
    reached_end = limit is None or len(rows) < wanted
    checked = check_links(run_id, rows, links, checked, from_begin=row.first_link is not None)
    blob_text = blobs_of(connection)
    events = [
        Recorded(seq, cause, decoded(kind, version, body, blob_text, run_id, seq))
        for seq, cause, kind, version, _, body, _ in rows
        if seq > after
    ]
    _check_row(run_id, row, events, checked, reached_end=reached_end)
    return Page(events, checked, row.status in _ENDED)


def is_there(connection: Rows, run_id: str, chains: Chains) -> bool:
    """Return whether there is such a run; raises JournalKeyError if it is not for who has these chains."""
    row = _row_of(connection, run_id)
    if row is not None:
        _check_form(connection, run_id, row, chains.links(run_id), chains)
    return row is not None


def posted_facts(connection: Rows, run_id: str, chains: Chains) -> list[tuple[int, Fact]]:
    """Return what people left for the run, oldest first.

    Raises:
        JournalDamagedError: One is not what was written.
        JournalKeyError: One was left by somebody without this journal's key.
    """
    rows = _fetched(
        connection,
        "SELECT number, kind, version, body, link FROM posted WHERE run_id = ? ORDER BY number",
        (run_id,),
        run_id,
        0,
    )
    blob_text = blobs_of(connection)
    return [checked_fact(run_id, row, chains, blob_text) for row in rows]


def checked_fact(
    run_id: str, row: tuple[Any, ...], chains: Chains, blob_text: Callable[[str], str]
) -> tuple[int, Fact]:
    """Return what a person left for the run, and its number; raises as `posted_facts`.

    Args:
        row: Number, kind, version, body, link.
    """
    number, kind, version, body, link = row
    remedy = f"look who can write to the journal, then delete number {number} from its table `posted`"
    if link is None and chains.is_keyed:
        raise JournalKeyError(
            f"what was left for run {run_id!r} as number {number} was left without this journal's key",
            remedy=remedy,
            run_id=run_id,
        )
    if link is not None and not _fits(link, chains.links(run_id).of_posted, number, kind, version, body):
        what = f"what a person left for it as number {number} is not what was written"
        raise JournalDamagedError(f"run {run_id!r}: {what}", remedy=remedy, run_id=run_id)
    return number, decoded(kind, version, body, blob_text, run_id, 0)  # type: ignore[return-value]  # only facts are posted


def blobs_of(connection: Rows) -> Callable[[str], str]:
    """Return what gives the text stored under a SHA-256, or says that it is not there or damaged."""

    def blob_text(name: str) -> str:
        try:
            row = connection.execute("SELECT body FROM blobs WHERE sha256 = ?", (name,)).fetchone()
        except SQLITE_ERRORS as error:
            if not is_damage(error):
                raise
            row = (None,)
        return intact(name, None if row is None else row[0])

    return blob_text


@contextmanager
def _snapshot(connection: Rows) -> Iterator[None]:
    """See one state of the journal, whatever is committed meanwhile."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        with suppress(*SQLITE_ERRORS):  # nothing was written: how it ends is all the same
            connection.execute("ROLLBACK")


def _fetched(connection: Rows, sql: str, values: tuple[Any, ...], run_id: str, seq: int) -> list[tuple[Any, ...]]:
    """Return the rows; damage is an error that names the event after those that could be read, counted from `seq`."""
    rows: list[tuple[Any, ...]] = []
    try:
        rows.extend(connection.execute(sql, values))
    except SQLITE_ERRORS as error:
        if not is_damage(error):
            raise
        raise damaged_run(run_id, seq + len(rows) + 1, "its row cannot be read") from None  # it may quote the row
    return rows


def _look_beyond(connection: Rows, run_id: str, last: int, tails: Tails) -> None:
    """Refuse a run that has later events than its index knows of."""
    try:
        is_whole = tails.is_last(connection, run_id, last)
    except SQLITE_ERRORS as error:
        if not is_damage(error):
            raise
        is_whole = False
    if not is_whole:
        raise damaged_run(run_id, last + 1, "the index does not know of it, or hides others")


def _row_of(connection: Rows, run_id: str) -> _Row | None:
    found = _fetched(
        connection,
        "SELECT plan, plan_hash, status, started_at, first_link FROM runs WHERE run_id = ?",
        (run_id,),
        run_id,
        0,
    )
    if found:
        return _Row(*found[0])
    if _fetched(connection, "SELECT seq FROM events WHERE run_id = ? LIMIT 1", (run_id,), run_id, 0):
        raise damaged_run(run_id, 1, "it is not in the list of runs")
    return None


def _check_form(connection: Rows, run_id: str, row: _Row, links: RunLinks, chains: Chains) -> None:
    """Refuse a run that was written with another key than this one, or with none, or damage that looks so."""
    if row.first_link == links.first or (row.first_link is None and not chains.is_keyed):
        return
    first = _fetched(connection, _EVENTS, (run_id, 0, 1), run_id, 0)
    if first and _fits(first[0][-1], links.after, links.first, *first[0][:-1]):
        raise damaged_run(run_id, 1, "its row in the list of runs is not what was written")
    if not chains.is_keyed:
        what, remedy = "was written with a key, and none is given", "name the key in `journal_key_file` or `_env`"
    else:
        what = "was not written with the key that is given"
        remedy = "give the key it was written with; a run keeps the key, or none, that it began with"
    raise JournalKeyError(f"run {run_id!r} {what}", remedy=remedy, run_id=run_id)


def _on_record(connection: Rows, run_id: str, seq: int) -> CheckedUpTo | None:
    """Return the link on record of this event, or None: then the run is to be checked from its first event."""
    found = seq and _fetched(
        connection, "SELECT link, kind FROM events WHERE run_id = ? AND seq = ?", (run_id, seq), run_id, seq - 1
    )
    if not found or type(found[0][0]) is not bytes:
        return None
    link, kind = found[0]
    return CheckedUpTo(seq, link, seq, kind == _ENDING)


def check_links(
    run_id: str, rows: list[tuple[Any, ...]], links: RunLinks, checked: CheckedUpTo, *, from_begin: bool
) -> CheckedUpTo:
    """Return how far the run is checked after these rows."""
    expected, link, chained = checked.seq, checked.link, checked.chained
    must_be_chained = from_begin or chained > 0
    kind = None
    for seq, cause, kind, version, at, body, on_record in rows:
        expected += 1
        if seq != expected:
            raise damaged_run(run_id, expected, f"it is missing, {seq} is there")
        try:
            link = links.after(link, seq, cause, kind, version, at, body)
            if on_record is not None and compare_digest(on_record, link):
                must_be_chained = True
                chained += 1
            elif on_record is not None or must_be_chained:
                raise damaged_run(run_id, seq, "it, or one before it, is not what was written")
        except NOT_A_ROW:
            raise damaged_run(run_id, seq, "its row holds what no journal writes") from None  # it may quote the row
    return CheckedUpTo(expected, link, chained, kind == _ENDING if rows else checked.finished)


def _fits(link: Any, made: Callable[..., bytes], *values: Any) -> bool:
    try:
        return compare_digest(link, made(*values))
    except NOT_A_ROW:
        return False


def _check_row(run_id: str, row: _Row, events: list[Recorded], checked: CheckedUpTo, *, reached_end: bool) -> None:
    """Refuse a run whose row does not follow from its events."""
    first = events[0].event if events and events[0].seq == 1 else None
    if first is not None and not (
        isinstance(first, RunStarted)
        and row.plan in (first.plan.name, first.plan.name.replace("\0", "\ufffd"))  # PostgreSQL takes no NUL
        and (row.plan_hash, row.started_at) == (first.plan.hash, first.at)
    ):
        raise damaged_run(run_id, 1, "its row in the list of runs says otherwise")
    if not reached_end:
        return
    if checked.seq == 0:
        raise damaged_run(run_id, 1, "it is missing")
    if (row.status in _ENDED) != checked.finished:
        raise damaged_run(run_id, checked.seq + 1, f"its row says {row.status!r:.20}, and its last event does not")
    last = events[-1].event if events else None
    if isinstance(last, RunFinished) and last.status.value != row.status:
        raise damaged_run(run_id, checked.seq, f"its row says {row.status!r:.20}, and its last event does not")


def decoded(kind: str, version: int, body: str, blob_text: Callable[[str], str], run_id: str, seq: int) -> Event:
    try:
        return decode(kind, version, body, blob_text)
    except JournalDamagedError as error:
        raise damaged_run(run_id, seq, error.message) from error
    except JournalFormatError as error:
        raise JournalFormatError(f"run {run_id!r}, event {seq}: {error.message}", remedy=error.remedy) from error
