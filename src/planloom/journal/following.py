"""A run followed as its record grows, in whichever database that is.

Rule 1: whoever follows registers before reading, so that nothing falls between the two.
Rule 2: each page goes on where the last one ended, and is checked against it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from planloom.core.events import RunFinished
from planloom.journal.reader import closed_error, not_found

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from planloom.journal.followers import Followers
    from planloom.journal.record import CheckedUpTo, Page
    from planloom.ports import Recorded

PAGE = 500
"""Events that a follower reads at once."""


class Followable(Protocol):
    """What of a journal is needed to follow its runs."""

    @property
    def place(self) -> str:
        """Return where it is, for people."""
        ...

    @property
    def is_closed(self) -> bool: ...

    def is_starting(self, run_id: str) -> bool:
        """Return whether this process drives the run, or is about to."""
        ...

    async def next_page(self, run_id: str, after: int, checked: CheckedUpTo | None) -> Page | None:
        """Return at most PAGE events with numbers above `after`; None: there is no such run."""
        ...


async def followed(journal: Followable, followers: Followers, run_id: str, after: int) -> AsyncIterator[Recorded]:
    """Yield durable events as they come, none left out, none twice; ends after `RunFinished`.

    Raises:
        RunNotFoundError: No such run on record, and none of that name is being started here.
        JournalFormatError: The record is damaged, or of a newer planloom.
        JournalError: The journal was closed meanwhile.
    """
    checked: CheckedUpTo | None = None
    with followers.waiting(run_id) as waiter:
        while not journal.is_closed:
            starting = journal.is_starting(run_id)  # asked before reading: it may begin and be given up meanwhile
            page = await journal.next_page(run_id, after, checked)
            if page is None and not starting:
                raise not_found(run_id, journal.place)
            for recorded in page.events if page is not None else ():
                yield recorded
                after = recorded.seq
                if isinstance(recorded.event, RunFinished):
                    return
            if page is not None:
                checked = page.checked
                if page.events:
                    continue
                if page.ended:
                    return
            await waiter.news()
    raise closed_error(journal.place)
