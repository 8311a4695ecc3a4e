"""A run told again from its record alone: nothing is called, nothing is written.

`replayed` takes the record as it is; `diverges` feeds only its facts to a new heart and compares every decision, those
of another plan too: what of a run would have gone otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planloom.core.events import (
    FACT_TYPES,
    AnswerRefused,
    ApprovalRequested,
    Event,
    ResultRefused,
    RunStarted,
    SpeculationSettled,
    StepDispatched,
    StepExpanded,
    StepSpeculated,
    SubPlanStarted,
    WaitStarted,
)
from planloom.core.fold import apply
from planloom.core.machine import RunMachine
from planloom.plan.model import Plan
from planloom.ports import Recorded

_STARTS = (StepDispatched, StepSpeculated, StepExpanded, SubPlanStarted, WaitStarted, ApprovalRequested)


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where the heart of today decides otherwise than the record says.

    Attributes:
        seq: Number of the first event that differs.
        recorded, decided: The event on record and the one decided now; None where there is none.
    """

    seq: int
    recorded: Event | None
    decided: Event | None


def replayed(run_id: str, record: Sequence[Recorded]) -> RunMachine:
    """Return the machine as the record leaves it."""
    machine = RunMachine(run_id)
    machine.replay(entry.event for entry in record)
    return machine


def diverges(run_id: str, record: Sequence[Recorded], *, plan: Plan | None = None) -> Divergence | None:
    """Return the first place where the facts on record lead to another decision than the recorded one, or None.

    Args:
        plan: To be followed in place of the one on record. Then the first start of a step that is another one there
            is a difference, too, though the decision reads the same.
    """
    machine = RunMachine(run_id)
    events = [entry.event for entry in record]
    others: frozenset[str] = frozenset()
    if plan is not None and events and isinstance(events[0], RunStarted):
        others = _other_steps(events[0].plan, plan)
        events[0] = replace(events[0], plan=plan)
    place = 0
    while place < len(events):
        event = events[place]
        if isinstance(event, (ResultRefused, AnswerRefused)):
            apply(machine.state, event)
            place += 1
            continue
        if not isinstance(event, FACT_TYPES):
            return Divergence(place + 1, event, None)
        machine.told = _told(events, place + 1)
        for decided in machine.handle(event).events:
            recorded = events[place] if place < len(events) else None
            if recorded != decided or (isinstance(decided, _STARTS) and _own(decided.step) in others):
                return Divergence(place + 1, recorded, decided)
            place += 1
        if place < len(events) and events[place] is event:
            return Divergence(place + 1, event, None)
    return None


def _other_steps(before: Plan, now: Plan) -> frozenset[str]:
    """Return the steps of a plan that another one does not have, or has otherwise."""
    known = {step.id: step for step in before.steps}
    return frozenset(step.id for step in now.steps if known.get(step.id) != step)


def _own(key: str) -> str:
    """Return the step of the run's own plan that a key belongs to: `sub` for `sub/extract`, `map` for `map[3]`."""
    return re.split(r"[/\[]", key, maxsplit=1)[0]


def _told(events: Sequence[Event], place: int) -> list[tuple[int, StepSpeculated | SpeculationSettled]]:
    """Return the decisions about running ahead from here to the next fact, with their numbers.

    They rest on values that are not on record; where among the others they were made, decides what else there was room
    for.
    """
    found: list[tuple[int, StepSpeculated | SpeculationSettled]] = []
    for seq, event in enumerate(events[place:], start=place + 1):
        if isinstance(event, FACT_TYPES):
            break
        if isinstance(event, (StepSpeculated, SpeculationSettled)):
            found.append((seq, event))
    return found
