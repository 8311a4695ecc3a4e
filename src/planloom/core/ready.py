"""Which ready step goes first: one queue per claim, ordered by turn.

Rule 1: a step that does not fit never holds up one that does.
Rule 2: finding the next step costs the same however many wait; it grows only with the number of different claims.
"""

from __future__ import annotations

from heapq import heappop, heappush

from planloom.core.budget import Budget, Claim
from planloom.core.result import StepStatus
from planloom.core.state import Node

_WAITING = (StepStatus.PENDING, StepStatus.READY)


class ReadySteps:
    """Steps whose turn may come. Entries that were started or ended meanwhile are dropped when met."""

    def __init__(self) -> None:
        self._queues: dict[Claim, list[tuple[tuple[int, ...], Node]]] = {}

    def push(self, node: Node, claim: Claim) -> None:
        """Queue a step that needs this much of the run's limits."""
        node.queued = True
        node.claim = claim
        queue = self._queues.get(claim)
        if queue is None:
            queue = self._queues[claim] = []
        heappush(queue, (node.turn, node))

    def pop(self, budget: Budget) -> Node | None:
        """Return the step to start now, or None."""
        if not self._queues:
            return None
        best: Claim | None = None
        first: tuple[int, ...] = ()
        for claim, queue in list(self._queues.items()):
            while queue and not self._alive(queue[0][1]):
                heappop(queue)
            if not queue:
                del self._queues[claim]
            elif (best is None or queue[0][0] < first) and budget.fits(claim):
                best, first = claim, queue[0][0]
        if best is None:
            return None
        queue = self._queues[best]
        node = heappop(queue)[1]
        if not queue:
            del self._queues[best]
        node.queued = False
        return node

    @staticmethod
    def _alive(node: Node) -> bool:
        return node.queued and node.status in _WAITING and node.waiting is None

    def starved(self) -> list[Node]:
        """Return the first waiting step of each queue, in the order of their turns."""
        first = [queue[0] for queue in self._queues.values() if queue and self._alive(queue[0][1])]
        return [node for _, node in sorted(first, key=lambda entry: entry[0])]
