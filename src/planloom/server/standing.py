"""How runs stand that a list names: whether one that has not ended goes on or waits for a person.

Rule 1: what a record says of it does not change until the record does: it is read once for each last number.
Rule 2: what is kept does not grow with the number of runs: those asked for longest ago are forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from planloom.core.result import RUN_ENDED, RunStatus
from planloom.runtime.replay import replayed

if TYPE_CHECKING:
    from planloom.ports import Journal, RunRow
    from planloom.server.hands import RunHands

KEPT_RUNS = 20_000


class Standings:
    """How the runs of a journal stand; those in hand say it themselves."""

    def __init__(self, journal: Journal, hands: RunHands) -> None:
        self._journal = journal
        self._hands = hands
        self._kept: OrderedDict[str, tuple[int, RunStatus]] = OrderedDict()
        """By run: the number of its last event when it was read, and how it stood."""

    async def of(self, row: RunRow) -> RunStatus:
        """Return how a run of a list stands."""
        status = RunStatus(row.status)
        if status in RUN_ENDED:
            return status
        now = self._hands.status_of(row.run_id)
        if now is not None:
            return now
        last_seq, stands = self._kept.get(row.run_id, (0, status))
        if last_seq != row.last_seq:
            records = await self._journal.read(row.run_id)
            machine = replayed(row.run_id, records)
            last_seq = records[-1].seq
            stands = RunStatus.WAITING if machine.waits_for_person else machine.state.status
        self._kept[row.run_id] = last_seq, stands
        self._kept.move_to_end(row.run_id)
        if len(self._kept) > KEPT_RUNS:
            self._kept.popitem(last=False)
        return stands
