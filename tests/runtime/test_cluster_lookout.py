"""What an agent looks for: that a broker which is away costs no look, and no row its turn."""

from __future__ import annotations

import asyncio
from typing import Any

from planloom import MemoryJournal
from planloom.errors import BrokerError, JetStreamError
from planloom.journal.postgres.work import Work
from planloom.runtime.cluster.inputs import Input, Lost
from planloom.runtime.cluster.lookout import Lookout
from planloom.runtime.cluster.settings import ClusterSettings
from planloom.testing.clock import ManualClock

WORK = Work("r", "s", 1, 1, "token", "main", "", "{}", 0.0, sent_at=1.0)
CHECK_S = 0.04


class Rows:
    """Rows of work that are taken to be looked for, and nobody else's for a while then."""

    def __init__(self) -> None:
        self.unsent_again: list[float] = []
        self.quiet_before: list[float] = []
        self.looked = asyncio.Event()

    async def unsent(self, before: float, limit: int, *, again_s: float) -> list[Work]:
        self.unsent_again.append(again_s)
        return []

    async def quiet(self, before: float, limit: int, *, again_s: float) -> list[Work]:
        self.quiet_before.append(before)
        self.looked.set()
        return [WORK]

    async def due(self, now: float, limit: int) -> list[str]:
        return []


class Link:
    """A connection to a broker that has nothing, or is away."""

    def __init__(self) -> None:
        self.is_up = False
        self.answers = True

    async def api(self, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        if not self.answers:
            raise BrokerError("no answer")
        raise JetStreamError("no message", number=10037)


def test_no_row_is_taken_while_the_broker_is_away_and_a_look_at_all_that_fails_is_made_again() -> None:
    async def main() -> None:
        rows, link, found = Rows(), Link(), asyncio.Queue[Input]()
        clock = ManualClock()
        settings = ClusterSettings(check_s=CHECK_S)
        lookout: Any = Lookout(link, rows, MemoryJournal(), settings, clock, found.put_nowait)  # type: ignore[arg-type]
        lookout.check_all()
        lookout.start()
        for _ in range(10):
            await asyncio.sleep(CHECK_S / 4)
        assert rows.unsent_again == rows.quiet_before == []

        link.is_up, link.answers = True, False
        await rows.looked.wait()
        rows.looked.clear()
        await rows.looked.wait()
        link.answers = True
        lost = await found.get()
        await lookout.close()

        assert isinstance(lost, Lost)
        assert lost.is_nowhere
        assert set(rows.unsent_again) == {CHECK_S}
        assert len(set(rows.quiet_before[:3])) == 1  # ahead of time, each time, until it was done once
        assert rows.quiet_before[0] > clock.now()

    asyncio.run(main())
