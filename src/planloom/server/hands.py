"""Whose hands the runs of a server are in: its own process (hand.py), or a cluster's agents and workers (cluster.py).

Rule 1: whoever asks for a run, or says something to one, is answered alike, whoever sees to it.
Rule 2: a run that was taken on goes on, whether or not the server does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from planloom.core.events import ApprovalAnswered, CancelRequested, PauseRequested, StepResolved

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planloom.core.result import RunStatus
    from planloom.plan.model import Plan
    from planloom.plan.policy import ResourceLimits

Said = ApprovalAnswered | StepResolved | CancelRequested | PauseRequested
"""What people say to runs."""


class RunHands(Protocol):
    """Begins runs, and has them go on."""

    @property
    def active(self) -> int:
        """Return how many runs are under way in this process, those that wait for a person not counted."""
        ...

    @property
    def held(self) -> int:
        """Return how many runs this process has, those that wait for a person included."""
        ...

    @property
    def is_open(self) -> bool: ...

    async def open(self) -> int:
        """Begin to take runs; return how many were taken up that nobody drove."""
        ...

    async def close(self) -> None:
        """Begin nothing any more, and let go of all."""
        ...

    def check_open(self) -> None:
        """Raise OverloadedError where no runs are taken now, e.g. while the server is starting or ending."""
        ...

    def check_room(self) -> None:
        """Raise OverloadedError where one more run would not be taken now."""
        ...

    async def start(
        self,
        plan: Plan,
        inputs: Mapping[str, Any],
        *,
        run_id: str | None,
        limits: ResourceLimits | None,
        parallel: bool,
        track_cost: bool,
        module: str,
        request: str,
    ) -> str:
        """Begin a run, as `Engine.start` does; return its name once it cannot be lost.

        Raises:
            PlanError: The plan or its inputs are wrong.
            JournalConflictError: A run of that name exists.
            OverloadedError: There is no room for it.
        """
        ...

    async def fork(
        self, run_id: str, step: str, output: Any, *, new_id: str | None, repeat_effects: bool, request: str
    ) -> str:
        """Begin a run that goes on from another one, as `Engine.fork` does; raises as that and `start`."""
        ...

    async def retry_failed(self, run_id: str, *, new_id: str | None, request: str) -> str:
        """Begin a run that reuses what an ended one finished, as `Engine.retry_failed` does."""
        ...

    async def resume(self, run_id: str) -> None:
        """Go on with a run that is paused, or that nobody drives; one that goes on, or has ended, stays as it is.

        Raises:
            RunNotFoundError: No such run.
            RunBusyError: Another process drives it.
            RunStateError: It was asked to pause, and what is under way has not ended yet.
        """
        ...

    async def tell(self, run_id: str, fact: Said) -> bool:
        """Tell a run that is in hand here; return whether it is, and has the fact on record."""
        ...

    async def take_up(self, run_id: str) -> bool:
        """Try to go on with a run that nobody seems to drive; return whether somebody does now."""
        ...

    async def check_refused(self, run_id: str) -> None:
        """Raise SubmissionRefusedError if a run is not on record because it was refused after it was taken on."""
        ...

    def status_of(self, run_id: str) -> RunStatus | None:
        """Return how a run stands that is in hand here; None: it is not."""
        ...
