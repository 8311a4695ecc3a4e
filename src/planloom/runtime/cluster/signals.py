"""What people say to a run of the cluster, as the run may hear it: whoever said it, and whichever way it came.

Rule 1: whoever may say something to a run may say what people say, and nothing that an attempt came to.
Rule 2: it says when it was said; it takes effect when it is heard.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from planloom.core.events import ApprovalAnswered, Fact, PauseRequested, RunResumed
from planloom.runtime.cluster.inputs import NOT_WANTED, RESTS, SIGNALS, TAKEN, Fate, Received
from planloom.runtime.people import misfit

if TYPE_CHECKING:
    from planloom.core.machine import RunMachine


def heard(machine: RunMachine, fact: Fact, now: float) -> Fact | Received:
    """Return what a run is to be told, or what becomes of it instead."""
    state = machine.state
    if state.started is None or machine.ended or type(fact) not in SIGNALS.values():
        return NOT_WANTED
    if isinstance(fact, RunResumed):
        if not state.paused:
            return NOT_WANTED
        if state.running:
            return RESTS  # what is under way ends first: it is not to be made a second time
        return RunResumed(state.epoch + 1, now)
    if isinstance(fact, PauseRequested) and state.paused:
        return TAKEN
    if isinstance(fact, ApprovalAnswered) and fact.approved:
        node = state.blocked.get(fact.step)
        why = misfit(node.asked, fact.output) if node is not None and node.asked is not None else ""
        if why:
            return Received(Fate.REFUSED, f"the answer does not fit the form of step {fact.step!r}: {why}")
    return replace(fact, at=now)
