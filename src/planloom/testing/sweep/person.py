"""Somebody who reads the record and says what people say: yes, no, what came of a step nobody knows about.

Rule 1: what was said is left in the journal, as from another process, and stays said whatever becomes of this one.
Rule 2: what came of a step is looked up in what was really done, never in the record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planloom.core.events import ApprovalRequested, CallEnded, CallStarted, OutcomeUnknown
from planloom.errors import ConfigError
from planloom.observe.looks import every_step
from planloom.plan.policy import Effects
from planloom.runtime.people import answer_fact, resolution_fact
from planloom.runtime.replay import replayed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from planloom.core.events import Event, Fact
    from planloom.core.result import RunResult, StepResult
    from planloom.core.run_state import RunState
    from planloom.ports import Journal, Recorded
    from planloom.testing.sweep.calls import CallBook

    Says = Callable[[Event], Fact | None]

NAME = "a person"


class Person:
    """Answers what a run asks.

    Args:
        answers: What to say to an approval, by the step's key or id: False denies it, True allows it, anything else
            allows it and is what was filled in. A step that is not there is allowed.
        says: What else to say at an event, e.g. a `CancelRequested`; asked first.
    """

    def __init__(self, book: CallBook, *, answers: Mapping[str, Any], says: Says | None) -> None:
        self.undisturbed: RunResult | None = None
        """What the run comes to when nothing happens to it, once that is known."""
        self._book = book
        self._answers = answers
        self._says = says

    async def hear(self, event: Event, journal: Journal, run_id: str, now: float) -> None:
        """Say what there is to be said about an event that is on record."""
        fact = self._says(event) if self._says is not None else None
        if fact is None and isinstance(event, ApprovalRequested | OutcomeUnknown):
            record = await journal.read(run_id)
            state = replayed(run_id, record).state
            try:
                if isinstance(event, ApprovalRequested):
                    fact = self._answer(event, state, now)
                else:
                    fact = self._resolution(event, state, record, now)
            except ConfigError:
                return  # it waits no longer: the run was stopped meanwhile
        if fact is not None:
            await journal.post(run_id, fact)

    def _answer(self, event: ApprovalRequested, state: RunState, now: float) -> Fact | None:
        own_id = event.step.rpartition("/")[2].partition("[")[0]
        answer = self._answers.get(event.step, self._answers.get(own_id, True))
        if answer is None:
            return None  # nobody says anything
        if isinstance(answer, bool):
            return answer_fact(state, event.step, by=NAME, approved=answer, output=None, at=now)
        return answer_fact(state, event.step, by=NAME, approved=True, output=answer, at=now)

    def _resolution(self, event: OutcomeUnknown, state: RunState, record: list[Recorded], now: float) -> Fact:
        """Say what came of a step, as somebody who looks would."""
        how, output = self._looked_up(event, record, state.run_id)
        error = "it failed" if how == "fail" else None
        return resolution_fact(state, event.step, how, by=NAME, output=output, error=error, at=now)

    def _looked_up(self, event: OutcomeUnknown, record: list[Recorded], run_id: str) -> tuple[str, Any]:
        open_keys = _open_keys(record, event.step, run_id)
        found = [
            made
            for made in self._book.of_step(event.step)
            if (made.key in open_keys if open_keys else made.effects is Effects.ONCE)
        ]
        if not found or (found[-1].ended and found[-1].not_done):
            return "retry", None
        expected = self._expected(event.step)
        if expected is not None and expected.error is not None:
            return "fail", None
        if found[-1].is_all and found[-1].ended:
            return ("fail", None) if found[-1].error else ("output", found[-1].output)
        return "output", None if expected is None else expected.output

    def _expected(self, step: str) -> StepResult | None:
        if self.undisturbed is None:
            return None
        return next((one for one in every_step(self.undisturbed.steps) if one.id == step), None)


def _open_keys(record: list[Recorded], step: str, run_id: str) -> set[str]:
    """Return the keys of `once` calls inside a step that began, and of which nobody knows what they came to."""
    keys: set[str] = set()
    for entry in record:
        event = entry.event
        if isinstance(event, CallStarted) and event.step == step and event.effects is Effects.ONCE:
            keys.add(f"{run_id}/{step}/{event.key}")
        elif isinstance(event, CallEnded) and event.step == step:
            keys.discard(f"{run_id}/{step}/{event.key}")
    return keys
