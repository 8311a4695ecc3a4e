"""A run's events as they come, as server-sent events: each under its number, none left out, none twice.

Rule 1: the number is the id: whoever comes again with the last one it saw is told of all that came after it.
Rule 2: a follower takes what there is, as fast as it can, from what all followers of the run share (tails.py): a slow
one holds up nobody and fills nothing.
Rule 3: a stream ends with its run, or when the server is told to end; then its follower comes again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planloom.errors import JournalError, OverloadedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from planloom.server.service import RunService

HEARTBEAT_S = 15.0
"""Seconds of silence after which something is sent, so that nobody in between takes the connection for dead."""
AGAIN_MS = 1_000
"""After how many milliseconds a follower that lost its connection is to come again."""


async def check_run(service: RunService, run_id: str) -> None:
    """Refuse to follow a run that is not there, and one follower more than there may be.

    Raises:
        RunNotFoundError: No such run.
        JournalError: Its record cannot be read.
        OverloadedError: As many follow runs as may.
    """
    tails = service.tails
    if run_id not in tails:
        await service.journal.read(run_id, limit=1)
    if tails.followers >= service.settings.max_followers or tails.ending:
        raise OverloadedError("too many follow runs now", remedy="ask again after Retry-After", retry_after_s=2)


async def stream(service: RunService, run_id: str, after: int) -> AsyncIterator[bytes]:
    """Yield the events with numbers above `after`, as text of the protocol; ends with the run."""
    tails = service.tails
    async with tails.following(run_id, after) as tail:
        yield f"retry: {AGAIN_MS}\n\n".encode()
        while not tails.ending:
            try:
                told, after = await tail.after(after)
            except JournalError:  # come again, and be told why
                return
            if told:
                yield told
            elif tail.over:
                return
            elif not await tail.news(HEARTBEAT_S):
                yield b": still there\n\n"
