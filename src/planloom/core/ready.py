"""Which ready step goes first: one queue per claim, ordered by turn.

Rule 1: a step that does not fit never holds up one that does.
Rule 2: finding the next step costs the same however many wait; it grows only with the number of different claims.
Rule 3: where priorities differ, waiting counts too: a step that has waited AGEING_S seconds longer than another stands
as if its priority were one higher, so that nobody waits for ever.
"""

from __future__ import annotations

from heapq import heappop, heappush

from planloom.core.budget import Budget, Claim
from planloom.core.result import StepStatus
from planloom.core.state import Node

AGEING_S = 60.0
"""Seconds of waiting that are worth one point of priority."""
_WAITING = (StepStatus.PENDING, StepStatus.READY)


class ReadySteps:
    """Steps whose turn may come. Entries that were started or ended meanwhile are dropped when met."""

    def __init__(self) -> None:
        self._queues: dict[Claim, list[tuple[tuple[int, ...], Node]]] = {}
        self._began_at: float | None = None

    def age_from(self, at: float) -> None:
        """Count how long steps wait, from this moment on."""
        self._began_at = at

    def push(self, node: Node, claim: Claim) -> None:
        """Queue a step that needs this much of the run's limits."""
        node.queued = True
        node.claim = claim
        queue = self._queues.get(claim)
        if queue is None:
            queue = self._queues[claim] = []
        heappush(queue, (self._turn(node), node))

    def _turn(self, node: Node) -> tuple[int, ...]:
        if self._began_at is None:
            return node.turn
        # Whoever became ready first goes first, by whole AGEING_S, less what its priority is worth: two steps compare
        # alike whenever they are compared, so the queue never has to be sorted anew.
        return (int((node.ready_at - self._began_at) // AGEING_S) - _priority(node), *node.turn)

    def pop(self, budget: Budget) -> Node | None:
        """Return the step to start now, or None."""
        if not self._queues:
            return None
        best: Claim | None = None
        first: tuple[int, ...] = ()
        for claim, queue in list(self._queues.items()):
            while queue and not self._alive(queue[0], claim):
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

    def _alive(self, entry: tuple[tuple[int, ...], Node], claim: Claim) -> bool:
        turn, node = entry
        if not node.queued or node.status not in _WAITING or node.waiting is not None:
            return False
        if node.claim is not claim and node.claim != claim:
            return False  # it needs something else now, and waits for that
        # One that was started and became ready again stands in the queue a second time, where it stands now.
        return self._began_at is None or turn == self._turn(node)

    def starved(self) -> list[Node]:
        """Return the first waiting step of each queue, in the order of their turns."""
        first = [queue[0] for claim, queue in self._queues.items() if queue and self._alive(queue[0], claim)]
        return [node for _, node in sorted(first, key=lambda entry: entry[0])]


def _priority(node: Node) -> int:
    """Return the priority of a step: that of its own plan's step in the run's plan, if it is one of a sub-plan."""
    while node.scope.owner is not None:
        node = node.scope.owner
    return node.step.priority
