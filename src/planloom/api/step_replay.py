"""A run on record, told again: no tool, model or agent is asked, and nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.core.report import run_result
from planloom.plan.load import load_plan
from planloom.runtime.replay import Divergence, diverges, replayed

if TYPE_CHECKING:
    from planloom.core.events import Event
    from planloom.core.result import RunResult
    from planloom.ports import Journal
    from planloom.runtime.checks import PlanSource


@dataclass(frozen=True, slots=True)
class Replay:
    """What a record tells.

    Attributes:
        result: How the run stands, or ended.
        events: Everything that happened, in its order.
        divergence: The first event that would be another one today, or with the plan that was given; None: there is
            none, up to the end of the record.
    """

    result: RunResult
    events: tuple[Event, ...]
    divergence: Divergence | None


async def replay_run(journal: Journal, run_id: str, *, plan: PlanSource | None = None) -> Replay:
    """Tell a run again from its record alone.

    Args:
        plan: To be compared with the one on record: where would this one have gone otherwise?

    Raises:
        RunNotFoundError: No such run.
        JournalFormatError: The record is damaged.
        PlanError: `plan` is none.
    """
    record = await journal.read(run_id)
    machine = replayed(run_id, record)
    return Replay(
        run_result(machine.state, waiting=machine.waits_for_person),
        tuple(entry.event for entry in record),
        diverges(run_id, record, plan=None if plan is None else load_plan(plan)),
    )
