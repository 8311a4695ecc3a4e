"""A program in the hands of an Execution Agent: wait for it, look how it stands, cancel it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any

from planloom.core.result import RUN_ENDED, RunStatus

if TYPE_CHECKING:
    from planloom.core.result import RunResult
    from planloom.runtime.run import Run

QUEUED = "queued"
"""How a program stands that waits for a worker; it is not on record yet."""

Begin = Callable[[], Awaitable["Run"]]
Cancel = Callable[[str, str, str], Awaitable[None]]


class Submission:
    """One program that an Execution Agent took on; awaiting it gives the run's result.

    Attributes:
        run_id: Its name in the journal.
        plan: Name of its plan; "" where that is only known from the record.
        module: Whose program it is; "" where there are no modules.
    """

    def __init__(
        self, run_id: str, plan: str, module: str, begin: Begin, cancel: Cancel, *, is_on_record: bool = False
    ) -> None:
        self.run_id = run_id
        self.plan = plan
        self.module = module
        self.begin = begin
        self.run: Run | None = None
        """The run while it is under way."""
        self.waits = True
        """Whether it waits for a worker; `has_room`: whether it has one of the queue's places."""
        self.has_room = False
        self.is_on_record = is_on_record
        self.cancelled: tuple[str, str] | None = None
        """Who asked to cancel it and why, if that was before it was on record."""
        self._cancel = cancel
        self._settled = asyncio.Event()
        self._result: RunResult | None = None
        self._error: BaseException | None = None

    def __await__(self) -> Generator[Any, None, RunResult]:
        return self.result().__await__()

    def __repr__(self) -> str:
        return f"Submission({self.run_id!r}, status={self.status!r})"

    @property
    def status(self) -> str:
        """Return "queued", or a `RunStatus`, as far as it is durable."""
        if self.run is not None:
            return self.run.status.value
        if self._result is not None:
            return self._result.status.value
        if self._error is not None:
            return RunStatus.FAILED.value
        return QUEUED

    async def result(self) -> RunResult:
        """Wait until the run has ended or waits for a person; return how it stands then.

        Raises:
            PlanError: It could not be started after all: a model's key is missing, say.
            WorkerError: There was no worker for it.
            JournalError: The record broke, or the agent let go of the run; it can be resumed.
        """
        await self._settled.wait()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    async def cancel(self, *, by: str = "caller", reason: str = "") -> None:
        """Ask it to stop; on record on return, if it had begun. One that has ended stays as it is."""
        await self._cancel(self.run_id, by, reason)

    # --- for the agent ---

    @property
    def is_settled(self) -> bool:
        return self._settled.is_set()

    @property
    def rests(self) -> bool:
        """Return True while it waits for a person, and nobody drives it."""
        waits = self._result is not None and self._result.status is RunStatus.WAITING
        return self.is_settled and waits

    @property
    def has_ended(self) -> bool:
        return self._result is not None and self._result.status in RUN_ENDED

    @property
    def has_failed(self) -> bool:
        """Return True if the agent could not see it through; its run may go on elsewhere."""
        return self._error is not None

    def let_go(self, result: RunResult) -> None:
        """Take in how its run stands that nobody here drives from now on."""
        self.run = None
        self._result = result

    def settle(self, result: RunResult) -> None:
        self.let_go(result)
        self._settled.set()

    def fail(self, error: BaseException) -> None:
        self.run = None
        self._error = error
        self._settled.set()

    def reopen(self, begin: Begin) -> None:
        """Take it up again after it rested."""
        self.begin = begin
        self.waits = True
        self._result = None
        self._settled.clear()
