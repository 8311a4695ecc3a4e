"""A run told again from its record alone: nothing is called, nothing is written.

`replayed` takes the record as it is; `diverges` feeds only its facts to a new heart and compares every decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planloom.core.events import FACT_TYPES, Event, ResultRefused, SpeculationSettled, StepSpeculated
from planloom.core.machine import RunMachine
from planloom.ports import Recorded


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


def diverges(run_id: str, record: Sequence[Recorded]) -> Divergence | None:
    """Return the first place where the facts on record lead to another decision than the recorded one, or None."""
    machine = RunMachine(run_id)
    events = [entry.event for entry in record]
    place = 0
    while place < len(events):
        event = events[place]
        if isinstance(event, ResultRefused):
            machine.state.apply(event)
            place += 1
            continue
        if not isinstance(event, FACT_TYPES):
            return Divergence(place + 1, event, None)
        machine.told = _told(events, place + 1)
        for decided in machine.handle(event).events:
            recorded = events[place] if place < len(events) else None
            if recorded != decided:
                return Divergence(place + 1, recorded, decided)
            place += 1
        if place < len(events) and events[place] is event:
            return Divergence(place + 1, event, None)
    return None


def _told(events: Sequence[Event], place: int) -> list[StepSpeculated | SpeculationSettled]:
    """Return the decisions about running ahead from here to the next fact: they rest on values not on record."""
    found: list[StepSpeculated | SpeculationSettled] = []
    for event in events[place:]:
        if isinstance(event, FACT_TYPES):
            break
        if isinstance(event, (StepSpeculated, SpeculationSettled)):
            found.append(event)
    return found
