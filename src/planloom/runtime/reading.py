"""What a run's record says, and whether anybody drives it. Nothing here writes or runs anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from planloom.core.report import run_result
from planloom.core.result import RUN_ENDED, RunStatus
from planloom.errors import JournalFormatError
from planloom.runtime.replay import replayed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planloom.core.machine import RunMachine
    from planloom.core.result import RunResult
    from planloom.core.run_state import RunState
    from planloom.plan.model import Plan
    from planloom.ports import Journal, Recorded


@runtime_checkable
class KnowsDrivers(Protocol):
    """A journal of several processes."""

    async def is_driven(self, run_id: str) -> bool | None:
        """Return whether somebody drives the run now; None where that cannot be told."""
        ...


@dataclass(frozen=True, slots=True)
class RunOnRecord:
    """A run as its record tells it.

    Attributes:
        driven: False when it has not ended and nobody drives it; None where that cannot be told.
    """

    records: Sequence[Recorded]
    machine: RunMachine
    plan: Plan
    result: RunResult
    driven: bool | None

    @property
    def state(self) -> RunState:
        return self.machine.state

    @property
    def interrupted(self) -> bool:
        """Return True when it has not ended, waits for no person, and nobody drives it."""
        return self.driven is False and self.result.status is RunStatus.RUNNING

    @property
    def blocked(self) -> list[dict[str, str]]:
        """Return what it waits for, if it waits: step, why, and the command that goes on."""
        return [] if self.result.status in RUN_ENDED else self.result.blockers()


async def read_run(journal: Journal, run_id: str, *, known: RunOnRecord | None = None) -> RunOnRecord:
    """Return a run from the record alone.

    Args:
        known: An earlier reading of it: then only what came since is read.

    Raises:
        RunNotFoundError: No such run.
        JournalFormatError: The record is damaged, or of a newer planloom.
    """
    if known is None:
        records = await journal.read(run_id)
    else:
        came = await journal.read(run_id, after=known.records[-1].seq)
        if not came:
            return replace(known, driven=await _driven(journal, run_id, known.machine))
        records = [*known.records, *came]
    machine = replayed(run_id, records)
    if machine.state.started is None:
        raise JournalFormatError(f"the record of run {run_id!r} does not begin with its start")
    result = run_result(machine.state, waiting=machine.waits_for_person)
    driven = await _driven(journal, run_id, machine)
    return RunOnRecord(records, machine, machine.state.started.plan, result, driven)


async def _driven(journal: Journal, run_id: str, machine: RunMachine) -> bool | None:
    return await journal.is_driven(run_id) if not machine.ended and isinstance(journal, KnowsDrivers) else None
