"""What people leave in the journal for runs that they do not drive, from any process: looked for, and handed on.

Rule 1: it is forgotten only once what it led to is on record.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from planloom.errors import JournalError

if TYPE_CHECKING:
    from planloom.core.events import Fact
    from planloom.ports import Clock, Journal
    from planloom.runtime.driver import Driver

_log = logging.getLogger("planloom.engine")

POLL_S = 0.5
"""Seconds between looks."""


async def look_for_posted(
    journal: Journal,
    runs: Callable[[], Collection[str]],
    found: Callable[[str], Awaitable[None]],
    *,
    also: Callable[[], None] = lambda: None,
) -> None:
    """Look again and again, and call `found` with each of `runs()` that something was left for.

    Args:
        also: Called each time before that.
    """
    while True:
        await asyncio.sleep(POLL_S)
        also()
        ours = runs()
        if not ours:
            continue
        try:
            for run_id in (await journal.posted_runs()).intersection(ours):
                await found(run_id)
        except JournalError as error:
            # Heard at the next look; a disk that stays broken ends each run through its own writer.
            _log.warning("cannot look for people's answers: %s", error)


async def take_posted(
    journal: Journal, clock: Clock, driver: Driver, posted: list[tuple[int, Fact]], *, but: tuple[type, ...] = ()
) -> None:
    """Hand in what was left for a run, and forget it.

    Args:
        but: What is forgotten without being handed in.
    """
    for _, fact in posted:
        if not isinstance(fact, but):
            # It says when it was left; it takes effect when it is heard.
            driver.deliver(replace(fact, at=clock.now()))
    if posted and not driver.gone:
        await driver.flushed()
        await journal.taken(driver.machine.run_id, posted[-1][0])
