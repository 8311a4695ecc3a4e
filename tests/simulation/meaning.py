"""What a life should have come to, by the naive meaning of its plan, given what its attempts came to and people said.

Rule 1: only lives whose end does not depend on time are held to it: none that was stopped, replanned, or in which a
step ran out of its own time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from planloom.core.events import (
    ApprovalAnswered,
    AttemptFailed,
    AttemptSucceeded,
    ReplanRequested,
    RunFinished,
    RunStarted,
    RunStopping,
    StepFailed,
    StepResolved,
)
from planloom.core.machine import RunMachine
from planloom.core.result import StepStatus
from planloom.plan.policy import FailureKind
from planloom.testing.reference import UNKNOWN, AttemptAnswer, TimingError, expected
from tests.simulation.life import Life
from tests.simulation.world import EFFECTS


def misunderstood(life: Life, machine: RunMachine) -> Iterator[str]:
    """Yield where a run came to something else than its plan means."""
    events = [entry.event for entry in life.disk.run("r").records]
    first, last = events[0], events[-1]
    if not isinstance(first, RunStarted) or not isinstance(last, RunFinished) or _depends_on_time(events):
        return
    said = _said(events, machine)

    def answers(key: str, attempt: int, args: dict[str, Any]) -> AttemptAnswer:
        found = said.get(key, [])
        if attempt > len(found):
            raise TimingError(f"nothing is on record of attempt {attempt} of {key}")
        return found[attempt - 1]

    try:
        wanted = expected(first.plan, first.inputs, answers=answers, effects=EFFECTS, run_id="r")
    except TimingError:
        return
    if wanted.status is not last.status:
        yield f"meaning: the run ended {last.status}, and its plan means {wanted.status}"
    for key, end in wanted.steps.items():
        node = machine.state.nodes.get(key)
        if node is None:
            yield f"meaning: {key} was never reached, and its plan means {end.status}"
        elif node.status is not end.status or (end.status is StepStatus.SKIPPED and node.reason is not end.reason):
            yield f"meaning: {key} is {node.status} {node.reason}, and its plan means {end.status} {end.reason}"
        elif end.status is StepStatus.COMPLETED and end.output is not UNKNOWN and node.output != end.output:
            yield f"meaning: {key} came to {node.output}, and its plan means {end.output}"


def _depends_on_time(events: list[Any]) -> bool:
    return any(
        isinstance(event, RunStopping | ReplanRequested)
        or (isinstance(event, StepFailed) and event.status is not StepStatus.FAILED)
        for event in events
    )


def _said(events: list[Any], machine: RunMachine) -> dict[str, list[AttemptAnswer]]:
    """Return what each step's attempts came to, in order; lost ones are no attempts, and a person's word is one."""
    found: dict[str, list[AttemptAnswer]] = {}
    for event in events:
        answer = _answer(event)
        if answer is None:
            continue
        if (
            isinstance(event, ApprovalAnswered)
            and event.approved
            and machine.state.nodes[event.step].step.approve is None
        ):
            continue  # the attempt may be made: what it comes to is still to come
        said = found.setdefault(event.step, [])
        if machine.state.nodes[event.step].step.agent is not None:
            said.clear()  # whether an agent may try again depends on its calls: what it came to last counts
        said.append(answer)
    return found


def _answer(event: Any) -> AttemptAnswer | None:
    match event:
        case AttemptSucceeded():
            return AttemptAnswer(event.output)
        case AttemptFailed() if event.kind is not FailureKind.LOST:
            return AttemptAnswer(None, event.kind, UNKNOWN, event.error_types)
        case ApprovalAnswered() if event.approved:
            return AttemptAnswer({"approved_by": event.by})
        case StepResolved() if event.how == "output":
            return AttemptAnswer(event.output)
        case ApprovalAnswered():
            return AttemptAnswer(None, FailureKind.REFUSED, UNKNOWN)
        case StepResolved() if event.how == "fail":
            return AttemptAnswer(None, FailureKind.REFUSED, UNKNOWN)
    return None
