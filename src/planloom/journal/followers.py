"""Who waits for a run's next events, and what wakes them: commits of this process, and of others within `POLL_S`.

Rule 1: a waiter is woken too often rather than once too seldom: it reads again and finds nothing.
Rule 2: whoever waits registers first and reads then, so that nothing falls between its reading and its waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, closing, contextmanager
from threading import Event as Signal
from threading import Lock, Thread
from typing import TYPE_CHECKING

from planloom.errors import JournalError
from planloom.journal.faults import SQLITE_ERRORS, journal_error
from planloom.journal.handover import on_loop
from planloom.journal.schema import reading_connection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

POLL_S = 0.25
"""How often another process's commits are looked for while somebody waits."""

News = Callable[[Collection[str]], Collection[str]]
"""Returns which of these runs may have got events since it was last asked; raises JournalError. Blocks."""
Watch = Callable[[], AbstractContextManager[News]]
"""Opens what tells the news; raises JournalError."""


class Waiter:
    """One task that waits for news of one run."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    async def news(self) -> None:
        """Wait for news since the last call."""
        await self._news.wait()
        self._news.clear()

    def wake(self) -> None:
        """Wake the task, from any thread."""
        on_loop(self._loop, self._news.set)


class Followers:
    """The waiters of one journal, and the thread that watches it for them while there are any."""

    def __init__(self, watch: Watch) -> None:
        self._open_watch = watch
        self._waiters: dict[str, list[Waiter]] = {}
        self._lock = Lock()
        self._watch: Thread | None = None
        self._stop = Signal()

    @contextmanager
    def waiting(self, run_id: str) -> Iterator[Waiter]:
        """Register a waiter for this run while the block lasts."""
        waiter = Waiter()
        with self._lock:
            self._waiters.setdefault(run_id, []).append(waiter)
            if self._watch is None and not self._stop.is_set():
                self._watch = Thread(target=self._look_out, name="planloom-watch", daemon=True)
                self._watch.start()
        try:
            yield waiter
        finally:
            with self._lock:
                self._waiters[run_id].remove(waiter)
                if not self._waiters[run_id]:
                    del self._waiters[run_id]

    def wake(self, run_ids: Iterable[str]) -> None:
        """Wake whoever waits for one of these runs, from any thread."""
        if not self._waiters:  # the usual case, on the writer's path
            return
        with self._lock:
            woken = [waiter for run_id in run_ids for waiter in self._waiters.get(run_id, ())]
        for waiter in woken:
            waiter.wake()

    def close(self) -> None:
        """Wake everybody for the last time and end the thread. Blocks for as long as that takes, milliseconds."""
        self._stop.set()
        self._wake_all()
        watch = self._watch
        if watch is not None:
            watch.join()

    def _wake_all(self) -> None:
        with self._lock:
            everybody = tuple(self._waiters)
        self.wake(everybody)

    def _look_out(self) -> None:
        """Wake whoever another process has committed something for; end when nobody waits."""
        while not self._nobody_waits():
            try:
                with self._open_watch() as news:
                    while self._waiters and not self._stop.is_set():
                        with self._lock:
                            waited_for = tuple(self._waiters)
                        self.wake(news(waited_for))
                        self._stop.wait(POLL_S)
            except JournalError:
                self._wake_all()  # their own reading tells them what is wrong
                if self._stop.wait(POLL_S):
                    return

    def _nobody_waits(self) -> bool:
        with self._lock:
            if self._waiters and not self._stop.is_set():
                return False
            self._watch = None
            return True


@contextmanager
def file_watch(path: Path) -> Iterator[News]:
    """Tell the news of a SQLite file: of all its runs at once."""
    seen: int | None = None  # so that everybody looks once more after the first reading
    with closing(reading_connection(path)) as connection:

        def news(run_ids: Collection[str]) -> Collection[str]:
            nonlocal seen
            try:
                version = connection.execute("PRAGMA data_version").fetchone()[0]
            except SQLITE_ERRORS as error:
                raise journal_error(error, str(path)) from error
            if version == seen:
                return ()
            seen = version
            return run_ids

        yield news
