"""How well drafts did so far, plan by plan: what `core/speculation.py` starts a run with.

Rule 1: kept in memory, for as long as the engine; each run has what it was told on record.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from planloom.core.speculation import speculates

if TYPE_CHECKING:
    from planloom.core.machine import RunMachine
    from planloom.plan.model import Plan

PLANS = 256
"""Plans that are remembered."""
DECAY = 0.9
"""Weight of what was known before, each time a run adds to it: a draft that got worse is found out."""


class Guesses:
    """Hits and misses of each step's draft, by plan hash."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, dict[str, list[float]]] = OrderedDict()

    def of(self, plan: Plan) -> dict[str, Any]:
        """Return ``{step: [hits, misses]}`` for a run of this plan; nothing where nothing runs ahead."""
        if not speculates(plan):
            return {}
        return {step: list(counts) for step, counts in self._known.get(plan.hash, {}).items()}

    def learn(self, machine: RunMachine) -> None:
        """Take in what a run has seen."""
        state = machine.state
        if state.started is None or not state.hits:
            return
        known = self._known.setdefault(state.started.plan.hash, {})
        for step, (hits, misses) in state.hits.items():
            before = known.get(step, [0.0, 0.0])
            known[step] = [before[0] * DECAY + hits, before[1] * DECAY + misses]
        self._known.move_to_end(state.started.plan.hash)
        while len(self._known) > PLANS:
            self._known.popitem(last=False)
