"""Whether a transaction was committed whose answer never came.

Rule 1: a transaction that adds to the journal has an id in the table `commits`, put there by the transaction itself.
Rule 2: to look one up is to put the same id there: the server waits until the one that may still be under way has
ended, then finds its id, and it was committed; or takes ours, and it never will be.
Rule 3: each connection takes out its last id with the next one, so the table stays as small as there are writers.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg

from planloom.journal.postgres.faults import is_away

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from planloom.journal.postgres.connect import Connection, Server

_MARK = "WITH gone AS (DELETE FROM commits WHERE commit_id = %s) INSERT INTO commits (commit_id) VALUES (%s)"
_FORGET = "DELETE FROM commits WHERE at < now() - interval '1 day'"
_CLAIM = "INSERT INTO commits (commit_id) VALUES (%s) ON CONFLICT DO NOTHING"
_AGAIN_S = 0.1


class AnswerLostError(Exception):
    """The connection broke while its transaction was being committed, and the server was not found again."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.error = error


def mark(connection: Connection) -> UUID:
    """Put the id of a new commit into the transaction that is under way, and return it."""
    commit_id = uuid4()
    connection.execute(_MARK, (connection.last_commit, commit_id))
    return commit_id


def forget_old(connection: Connection) -> None:
    """Take out ids whose connections ended without a next commit; nobody asks for them any more."""
    connection.execute(_FORGET)


def commit(connection: Connection, commit_id: UUID, server: Server, until: float) -> None:
    """Commit; where the answer gets lost, find out.

    Args:
        until: When to give the server up; as `time.monotonic` counts.

    Raises:
        psycopg.Error: It is not committed, and never will be.
        AnswerLostError: Nobody knows.
    """
    with _certain(connection, commit_id, server, until):
        connection.execute("COMMIT", prepare=False)


def write_and_commit(connection: Connection, write: Callable[[Connection], None], server: Server, until: float) -> None:
    """Have written what is to be written into the transaction under way, and commit it, all in one journey.

    Args:
        write: Executes statements and fetches nothing: it is called in a pipeline.

    Raises:
        psycopg.Error: It is not committed, and never will be.
        AnswerLostError: Nobody knows.
    """
    commit_id = uuid4()
    with _certain(connection, commit_id, server, until), connection.pipeline():
        connection.execute(_MARK, (connection.last_commit, commit_id))
        write(connection)
        # After a statement that failed the server skips this one with all others.
        connection.execute("COMMIT", prepare=False)


@contextmanager
def _certain(connection: Connection, commit_id: UUID, server: Server, until: float) -> Iterator[None]:
    """Find out about the commit that the block makes where its answer gets lost."""
    try:
        yield
    except psycopg.Error as error:
        if not is_away(error):
            raise
        if not was_committed(connection, commit_id, server, until):
            raise
    else:
        connection.last_commit = commit_id


def was_committed(connection: Connection, commit_id: UUID, server: Server, until: float) -> bool:
    """Return whether the transaction of that id, sent over a connection that broke, was committed. Blocks."""
    with suppress(psycopg.Error):
        connection.close()
    while True:
        try:
            with server.connect() as asking:
                server.end(asking, connection)
                return asking.execute(_CLAIM, (commit_id,)).rowcount == 0
        except psycopg.Error as error:
            if time.monotonic() > until:
                raise AnswerLostError(error) from error
            time.sleep(_AGAIN_S)
