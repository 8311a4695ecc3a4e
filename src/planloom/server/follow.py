"""A run's events as they come, as server-sent events: each under its number, none left out, none twice.

Rule 1: the number is the id: whoever comes again with the last one it saw is told of all that came after it.
Rule 2: one follower reads one event after the other, as fast as it takes them: a slow one holds up nobody and fills
nothing.
Rule 3: a stream ends with its run, or when the server is told to end; then its follower comes again.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from planloom.errors import JournalError, OverloadedError
from planloom.journal.telling import entry_value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from planloom.ports import Recorded
    from planloom.server.service import RunService

HEARTBEAT_S = 15.0
"""Seconds of silence after which something is sent, so that nobody in between takes the connection for dead."""
AGAIN_MS = 1_000
"""After how many milliseconds a follower that lost its connection is to come again."""


def check_room(service: RunService) -> None:
    """Refuse one follower more than there may be.

    Raises:
        OverloadedError: There are as many as there may be.
    """
    if service.followers >= service.settings.max_followers or service.ending.is_set():
        raise OverloadedError("too many follow runs now", remedy="ask again after Retry-After", retry_after_s=2)


async def stream(service: RunService, run_id: str, after: int) -> AsyncIterator[str]:
    """Yield the events with numbers above `after`, as text of the protocol; ends with the run."""
    events = service.journal.follow(run_id, after=after)
    ending = asyncio.ensure_future(service.ending.wait())
    coming: asyncio.Future[Recorded] | None = None
    service.followers += 1
    try:
        yield f"retry: {AGAIN_MS}\n\n"
        while True:
            coming = coming or asyncio.ensure_future(anext(events))
            both: set[asyncio.Future[Any]] = {coming, ending}
            done, _ = await asyncio.wait(both, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if coming not in done:
                if ending in done:
                    return
                yield ": still there\n\n"
                continue
            try:
                recorded = coming.result()
            except (StopAsyncIteration, JournalError):  # the run ended, or the record was closed: come again
                return
            coming = None
            yield _frame(recorded)
    finally:
        service.followers -= 1
        left: list[asyncio.Future[Any]] = [ending] if coming is None else [ending, coming]
        for one in left:
            one.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


def _frame(recorded: Recorded) -> str:
    value = entry_value(recorded)
    return f"id: {recorded.seq}\nevent: {value['event']}\ndata: {json.dumps(value, separators=(',', ':'))}\n\n"
