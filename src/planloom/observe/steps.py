"""Which step of which plan a key on record names: plans that come in place of a step included.

Rule 1: events are read in the order of the record, all of them from the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planloom.core.events import RunStarted, StepReplanned, SubPlanStarted

if TYPE_CHECKING:
    from planloom.core.events import Event
    from planloom.plan.model import Plan, Step

RUN = ""
"""Key of the run's own plan, and path of its span."""


class StepsOfRun:
    """Knows the steps of one run by their keys."""

    def __init__(self) -> None:
        self._plans: dict[str, dict[str, Step]] = {}

    def read(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._add(RUN, event.plan)
            case StepReplanned():
                self._add(event.step, event.plan)
            case SubPlanStarted():
                step = self.step(event.step)
                if step is not None and step.plan is not None and not isinstance(step.plan, str):
                    self._add(event.step, step.plan)
            case _:
                pass

    def step(self, key: str) -> Step | None:
        """Return the step of a key, as its plan has it; an item of a map is done as the map says."""
        while key.endswith("]"):
            key = key[: key.rfind("[")]
        owner, _, step_id = key.rpartition("/")
        return self._plans.get(owner, {}).get(step_id)

    def _add(self, owner: str, plan: Plan) -> None:
        self._plans[owner] = {step.id: step for step in plan.steps}
