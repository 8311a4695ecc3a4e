"""The engine behind a `StepExecutor`.

Rule 1: it is made when it is first needed, and anew when agents or tools have changed, or another event loop asks; the
one before is let go of when the last who uses it is done.
Rule 2: a record that nobody asked to keep is gone with its call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planloom.journal.memory import MemoryJournal
from planloom.journal.open import open_journal

if TYPE_CHECKING:
    import os

    from planloom.ports import Journal
    from planloom.runtime.engine import Engine

Parts = Mapping[str, Any]


@dataclass(slots=True)
class _Lent:
    engine: Engine
    loop: asyncio.AbstractEventLoop
    parts: Parts
    users: int = 0
    is_retired: bool = False


class StepEngine:
    """An engine at hand.

    Args:
        journal: Where runs are on record; None: nowhere beyond their own call.
        make: Makes an engine with this journal.
        parts: What an engine would be made of now, by name.
        key: Returns the key of the journal's file, where it has one.
    """

    def __init__(
        self,
        journal: str | os.PathLike[str] | Journal | None,
        make: Callable[[Journal], Engine],
        parts: Callable[[], Parts],
        *,
        key: Callable[[], bytes | None],
    ) -> None:
        self._given = journal
        self._key = key
        self._make = make
        self._parts = parts
        self._journal: Journal | None = None
        self._lent: _Lent | None = None

    @property
    def journal(self) -> Journal:
        """Return where runs are on record, opened when it is first needed."""
        if self._journal is None:
            self._journal = open_journal(self._given, key=self._key)
        return self._journal

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[Engine]:
        """Give the engine out; it is not closed before it is given back."""
        lent = await self._current()
        lent.users += 1
        try:
            yield lent.engine
        finally:
            lent.users -= 1
            if lent.is_retired and not lent.users:
                await lent.engine.close()

    def forget(self, run_id: str) -> None:
        """Let go of a run's record, unless somebody asked to keep it."""
        if self._given is None and isinstance(self._journal, MemoryJournal):
            self._journal.forget(run_id)

    async def close(self) -> None:
        """Close the engine, and the journal if it was given as a path."""
        lent, self._lent = self._lent, None
        if lent is not None and lent.loop is asyncio.get_running_loop():
            await lent.engine.close()
        journal, self._journal = self._journal, None
        if journal is not None and journal is not self._given:
            await journal.close()

    async def _current(self) -> _Lent:
        loop, parts = asyncio.get_running_loop(), self._parts()
        lent = self._lent
        if lent is not None and lent.loop is loop and _same(lent.parts, parts):
            return lent
        if self._given is None and lent is not None and lent.loop is not loop:
            self._journal = None  # one in memory serves one loop
        self._lent = _Lent(self._make(self.journal), loop, parts)
        if lent is not None:
            lent.is_retired = True
            if not lent.users and lent.loop is loop:
                await lent.engine.close()
        return self._lent


def _same(before: Parts, now: Parts) -> bool:
    return before.keys() == now.keys() and all(before[name] is now[name] for name in now)
