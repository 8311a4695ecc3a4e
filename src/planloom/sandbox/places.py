"""How many programs of one sandbox run at a time; the others wait, and whoever asked for them can tell.

Rule 1: what is waited for a place is no time of the program's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from planloom.core.code import Program

AT_ONCE = 16
"""Programs of one sandbox at a time."""


class Places:
    """Places for programs."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._free = asyncio.Semaphore(at_once)

    @asynccontextmanager
    async def one(self, program: Program) -> AsyncIterator[None]:
        """Hold a place; the program's `waits` is told while there is none."""
        if self._free.locked():
            asked_at = monotonic()
            program.waits(None)
            await self._free.acquire()
            program.waits(monotonic() - asked_at)
        else:
            await self._free.acquire()
        try:
            yield
        finally:
            self._free.release()
