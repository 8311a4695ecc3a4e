"""Runs that nobody owns: any orchestrator takes one up, decides a little, and lets go of it again.

Rule 1: one `turn` is one transaction. It locks the runs' rows in the order of their names, reads what is new, has
`decide` say what follows, writes it, and returns once that is durable; if it raises, nothing of it is on record.
Rule 2: a commit whose answer got lost is looked up, never guessed (commits.py).
Rule 3: what is read is checked link by link. A run that is damaged stops nobody else's turn: it has a `problem`.
Rule 4: `work` is the outbox: an attempt that is asked for has a row until it has an outcome. Its token is the fence.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import psycopg

from planloom.core.events import RunFinished, RunStarted
from planloom.errors import JournalConflictError, JournalError
from planloom.journal.chain import Chains
from planloom.journal.codec import encode
from planloom.journal.postgres.commits import AnswerLostError, commit, mark, write_and_commit
from planloom.journal.postgres.connect import PATIENCE_S, Pool, Server
from planloom.journal.postgres.faults import is_away, journal_error, may_try_again
from planloom.journal.postgres.locked import locked_runs
from planloom.journal.postgres.rows import Batch
from planloom.journal.postgres.schema import prepare
from planloom.journal.postgres.texts import is_name, storable
from planloom.journal.postgres.work import Decided, LockedRun, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from planloom.journal.chain import RunLinks
    from planloom.journal.postgres.connect import Connection

AGAIN_S = 30.0
"""After this long what was handed out by `unsent` or `quiet` is handed out again, if nothing came of it."""
MOST_RUNS = 128
"""Runs of one turn."""
_TRIES = 5
_MOVES, _MOVE_S = 40, 0.025
_UNSENT = (
    "UPDATE work SET send_at = %(before)s + %(again)s WHERE ctid IN ("
    " SELECT ctid FROM work WHERE sent_at IS NULL AND send_at <= %(before)s"
    " ORDER BY send_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED) RETURNING *"
)
_QUIET = (
    "UPDATE work SET check_at = %(before)s + %(again)s WHERE ctid IN ("
    " SELECT ctid FROM work WHERE sent_at IS NOT NULL AND check_at <= %(before)s"
    " ORDER BY check_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED) RETURNING *"
)
# It takes what it can at once, and says what is left: waiting for a row while holding others, it and a turn could wait
# for each other.
_MOVE = (
    "WITH asked AS (SELECT * FROM unnest(%(runs)s::text[], %(steps)s::text[], %(attempts)s::int[], %(epochs)s::int[],"
    " %(tokens)s::text[], %(moments)s::float8[]) WITH ORDINALITY"
    " AS asked(run, step, attempt, epoch, token, moment, number)),"
    " there AS (SELECT number FROM asked JOIN work ON run_id = run AND md5(work.step) = md5(asked.step)"
    " AND work.attempt = asked.attempt AND work.epoch = asked.epoch AND work.token = asked.token),"
    " free AS (SELECT work.ctid AS found, moment, number FROM work JOIN asked ON run_id = run"
    " AND md5(work.step) = md5(asked.step) AND work.attempt = asked.attempt AND work.epoch = asked.epoch"
    " AND work.token = asked.token FOR UPDATE OF work SKIP LOCKED),"
    " done AS (UPDATE work SET sent_at = CASE WHEN %(is_sent)s THEN moment ELSE sent_at END,"
    " check_at = CASE WHEN %(is_sent)s THEN moment + %(after)s ELSE check_at END,"
    " send_at = CASE WHEN %(is_sent)s THEN send_at ELSE moment END FROM free WHERE ctid = found RETURNING number)"
    " SELECT number FROM there WHERE number NOT IN (SELECT number FROM done)"
)
_SLOTS = (
    "INSERT INTO buckets AS b (bucket, next_at) VALUES (%(bucket)s, %(floor)s + %(taken)s) ON CONFLICT (bucket)"
    " DO UPDATE SET next_at = greatest(b.next_at, %(floor)s) + %(taken)s RETURNING next_at"
)


class SharedRuns:
    """The runs of a journal that orchestrators share. For the tasks of one event loop.

    Args:
        dsn: The address of the journal's database.
        key: As the journal's.
        connections: How many turns may be under way at once.
        patience_s: How long a server that went away is waited for.
    """

    def __init__(
        self, dsn: str, *, key: bytes | None = None, connections: int = 4, patience_s: float = PATIENCE_S
    ) -> None:
        self._server = Server(dsn)
        self._chains = Chains(key)
        self._patience_s = patience_s
        prepare(self._server)
        self._pool = Pool(self._server, threads=connections, read_only=False, patience_s=patience_s)
        self._places = asyncio.Semaphore(connections)

    async def turn(self, known: Mapping[str, int], decide: Callable[[LockedRun], Decided | None]) -> None:
        """Take these runs one step on, all in one transaction; durable on return.

        Args:
            known: Run ids, each with the seq of the last event that whoever asks has seen; 0 for none.
            decide: Called on the event loop for each run, in the order of their names, while all of them are locked.
                It must be quick and wait for nothing. None: nothing follows. It may be called again, with all of what
                is new since `known`, where the transaction had to be tried again.

        Raises:
            JournalConflictError: Somebody wrote to one of the runs who had no right to. Nothing was written.
            JournalError: It cannot be written. Nothing was; or, after a server did not come back, nobody knows.
        """
        if len(known) > MOST_RUNS:
            raise ValueError(f"{len(known)} runs in one turn, and {MOST_RUNS} are the most")
        until = time.monotonic() + self._patience_s
        tries = 0
        async with self._places:
            while True:
                tries += 1
                try:
                    await self._try_turn(known, decide, until)
                except psycopg.Error as error:
                    again = may_try_again(error) and tries < _TRIES
                    if not again and not (is_away(error) and time.monotonic() < until):
                        raise journal_error(error, self._server.place) from error
                    await asyncio.sleep(0.01 if again else 0.1)
                else:
                    return

    async def unsent(self, before: float, limit: int, *, again_s: float = AGAIN_S) -> list[Work]:
        """Return work that was to be sent before this moment and was not; nobody else gets it for `again_s`."""
        return await self._changed_work(_UNSENT, {"before": before, "limit": limit, "again": again_s})

    async def mark_sent(self, sent: Sequence[Work], at: float, *, check_after_s: float = AGAIN_S) -> None:
        """Note that this work is published, unless another has taken its place meanwhile."""
        await self._moved(sent, [at] * len(sent), {"is_sent": True, "after": check_after_s})

    async def postpone(self, works: Sequence[Work], moments: Sequence[float]) -> None:
        """Have this work sent later, each at its moment, unless another has taken its place meanwhile."""
        await self._moved(works, moments, {"is_sent": False, "after": 0.0})

    async def quiet(self, before: float, limit: int, *, again_s: float = AGAIN_S) -> list[Work]:
        """Return work that was sent and is to be checked before this moment; nobody else gets it for `again_s`."""
        return await self._changed_work(_QUIET, {"before": before, "limit": limit, "again": again_s})

    async def due(self, now: float, limit: int) -> list[str]:
        """Return runs whose `wake_at` has come, those that wait longest first."""
        rows = await self._pool.do(
            lambda connection: connection.execute(
                "SELECT run_id FROM runs WHERE wake_at <= %s AND driver = 'cluster' ORDER BY wake_at LIMIT %s",
                (now, limit),
            ).fetchall()
        )
        return [run_id for (run_id,) in rows]

    async def take_slots(
        self, bucket: str, count: int, *, per_minute: float, now: float, burst: int = 1
    ) -> list[float]:
        """Take the next free moments of a rate limit, and return them; `burst` of them may be one moment."""
        gap_s = 60.0 / per_minute
        [[next_at]] = await self._changed(
            _SLOTS,
            {"bucket": bucket, "floor": now - (burst - 1) * gap_s, "taken": count * gap_s},
        )
        return [max(now, next_at - (count - place) * gap_s) for place in range(count)]

    async def refuse(self, run_id: str, told: str) -> None:
        """Keep what whoever submitted a run is told of its refusal; the last counts. Names no run can have are not."""
        if is_name(run_id):
            await self._changed(
                "INSERT INTO refusals (run_id, told) VALUES (%s, %s)"
                " ON CONFLICT (run_id) DO UPDATE SET told = excluded.told",
                (run_id, storable(told)),
                durably=True,
            )

    async def refusal(self, run_id: str) -> str | None:
        """Return why a submission was refused; None: it was not, or not yet."""
        if not is_name(run_id):
            return None
        rows = await self._pool.do(
            lambda connection: connection.execute("SELECT told FROM refusals WHERE run_id = %s", (run_id,)).fetchall()
        )
        return str(rows[0][0]) if rows else None

    async def close(self) -> None:
        """Wait for what is under way and let go of the connections. A second call is harmless."""
        await self._pool.close()

    async def _moved(self, works: Sequence[Work], moments: Sequence[float], how: Mapping[str, Any]) -> None:
        """Set these moments; rows that a turn has locked are left to the next try, after the last one as they are."""
        left = [(work, moment) for work, moment in zip(works, moments, strict=True)]
        for _ in range(_MOVES):
            if not left:
                return
            asked = {
                "runs": [work.run_id for work, _ in left],
                "steps": [work.step for work, _ in left],
                "attempts": [work.attempt for work, _ in left],
                "epochs": [work.epoch for work, _ in left],
                "tokens": [work.token for work, _ in left],
                "moments": [moment for _, moment in left],
            }
            left = [left[number - 1] for (number,) in await self._changed(_MOVE, {**asked, **how})]
            if left:
                await asyncio.sleep(_MOVE_S)

    async def _changed(self, statement: str, values: Any, *, durably: bool = False) -> list[tuple[Any, ...]]:
        """Change something in a transaction of its own; unless `durably`, the server does not wait for its disk."""

        def change(connection: Connection) -> list[tuple[Any, ...]]:
            with connection.pipeline():
                connection.execute("BEGIN")
                if not durably:
                    connection.execute("SET LOCAL synchronous_commit = off")
                changed = connection.execute(statement, values)
                connection.execute("COMMIT")
            return changed.fetchall() if changed.description else []

        return await self._pool.do(change)

    async def _changed_work(self, statement: str, values: Any) -> list[Work]:
        rows = await self._changed(statement, values)
        return [Work(*row[:-1]) for row in rows]  # without `check_at`

    # --- one turn -----------------------------------------------------------------------------

    async def _try_turn(
        self, known: Mapping[str, int], decide: Callable[[LockedRun], Decided | None], until: float
    ) -> None:
        async with self._pool.borrowed() as connection:
            found = await self._pool.in_thread(locked_runs, connection, known, self._chains)
            batch = Batch()
            for run, last_link in found:
                decided = decide(run)
                if decided is not None:
                    _add(batch, run, self._chains.links(run.run_id), last_link, decided)
            await self._pool.in_thread(self._write, connection, batch, until)

    def _write(self, connection: Connection, batch: Batch, until: float) -> None:
        if batch.is_empty:
            return
        try:
            if batch.is_small:
                write_and_commit(connection, batch.write_small, self._server, until)
            else:
                commit_id = mark(connection)
                batch.write(connection)
                commit(connection, commit_id, self._server, until)
        except psycopg.errors.UniqueViolation as error:
            raise JournalConflictError(
                "somebody wrote to a run that the cluster drives",
                remedy="look with `planloom verify` which one it is, and keep other programs from writing here",
            ) from error
        except AnswerLostError as lost:
            raise journal_error(lost.error, self._server.place) from lost


def _add(batch: Batch, run: LockedRun, links: RunLinks, link: bytes, decided: Decided) -> None:
    """Add what was decided for a run to what is written."""
    run_id, seq = run.run_id, run.last_seq
    if run.problem is not None or run.driver == "engine":
        raise ValueError(f"run {run_id!r} cannot be decided on here") from run.problem
    if seq == 0 and decided.events:
        first = decided.events[0]
        if not isinstance(first, RunStarted):
            raise JournalError(
                f"run {run_id!r} would begin with {type(first).__name__}", remedy="begin with `RunStarted`"
            )
        batch.started.append((run_id, first.plan.name, first.plan.hash, first.at, links.first, "cluster"))
    for event, cause in zip(decided.events, decided.causes, strict=True):
        kind, version, body, apart = encode(event)
        seq += 1
        link = links.after(link, seq, cause, kind, version, event.at, body)
        batch.events.append((run_id, seq, cause, kind, version, event.at, body, link))
        batch.blobs.update((blob.sha256, blob) for blob in apart)
        if isinstance(event, RunFinished):
            batch.ended.append((event.status.value, run_id))
    for key in decided.closed:
        batch.close(run_id, key)
    for work in decided.opened:
        batch.open(work)
    for key, stop_at in decided.stopped:
        batch.stop(run_id, key, stop_at)
    for key, claimed_by in decided.claimed:
        batch.claim(run_id, key, claimed_by)
    if decided.wake_at != run.wake_at and seq:
        batch.woken[run_id] = decided.wake_at
    if decided.taken:
        batch.take(run_id, decided.taken)
