"""A run in hand: wait for it, follow it, answer it, cancel it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from planloom.core.events import ApprovalAnswered, CancelRequested, PauseRequested, StepResolved
from planloom.core.report import run_result
from planloom.core.result import RunResult, RunStatus
from planloom.errors import ConfigError
from planloom.runtime.people import answer_fact, resolution_fact
from planloom.runtime.replay import replayed

if TYPE_CHECKING:
    from planloom.core.machine import RunMachine
    from planloom.ports import Clock, Journal, Recorded
    from planloom.runtime.driver import Driver


class Run:
    """One run, driven by this engine or already ended.

    Attributes:
        run_id: Names it in the journal.
    """

    def __init__(self, machine: RunMachine, driver: Driver | None, journal: Journal, clock: Clock) -> None:
        self.run_id = machine.run_id
        self._machine = machine
        self._driver = driver
        self._journal = journal
        self._clock = clock

    def __await__(self) -> Any:
        return self.result().__await__()

    @property
    def status(self) -> RunStatus:
        """Return how the run stands, as far as it is durable."""
        machine = self._machine
        if self._driver is not None and self._driver.behind:
            return RunStatus.RUNNING
        return RunStatus.WAITING if machine.waits_for_person else machine.state.status

    @property
    def is_paused(self) -> bool:
        """Return whether somebody paused it, so that nothing new starts."""
        return self._machine.state.paused and not self._machine.ended

    @property
    def last_seq(self) -> int:
        """Return the number of its last event, which may not be durable yet."""
        return self._machine.state.seq

    async def result(self) -> RunResult:
        """Wait until the run has ended or waits for a person; return how it stands then.

        Raises:
            JournalError: The record broke; the run can be resumed.
        """
        if self._driver is not None:
            await self._driver.settled()
        return self.state_now()

    def state_now(self) -> RunResult:
        """Return how the run stands in this process, which may be ahead of what is durable; show others `snapshot`."""
        return run_result(self._machine.state, waiting=self._machine.waits_for_person)

    async def snapshot(self) -> RunResult:
        """Return how the run stands now, as far as it is durable."""
        machine = replayed(self.run_id, await self._journal.read(self.run_id))
        return run_result(machine.state, waiting=machine.waits_for_person)

    def follow(self, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield the run's durable events with numbers above `after` as they come, without gap or double."""
        return self._journal.follow(self.run_id, after=after)

    async def cancel(self, *, by: str = "caller", reason: str = "") -> None:
        """Ask the run to stop; it is on record on return, then enforced. A run that has ended stays as it is."""
        if not self._machine.ended:
            await self._tell(CancelRequested(by, self._clock.now(), reason))
        elif self._driver is not None:
            await self._driver.flushed()  # that it has ended: else it could go on after a crash

    async def pause(self, *, by: str = "caller") -> None:
        """Have nothing new start; it is on record on return. What is under way ends, and then the run rests.

        `result` returns then, with status "waiting"; whoever resumes the run, here or in another process, goes on.
        """
        if not self._machine.ended:
            await self._tell(PauseRequested(by, self._clock.now()))
        elif self._driver is not None:
            await self._driver.flushed()

    async def approve(
        self, step: str, *, by: str, approved: bool = True, output: Any = None, binding: str | None = None
    ) -> None:
        """Answer an approval that waits; the answer is durable on return. It counts for exactly that, once.

        Args:
            binding: Of what the person was shown, `StepResult.approval["binding"]`: if something else waits by now, it
                is not answered. None: what waits now.

        Raises:
            ConfigError: No such approval waits, another one does, or `output` does not fit its form.
        """
        state, now = self._machine.state, self._clock.now()
        fact = answer_fact(state, step, by=by, approved=approved, output=output, at=now, binding=binding)
        await self._tell(fact)

    async def resolve(self, step: str, how: str, *, by: str, output: Any = None, error: str | None = None) -> None:
        """Say what came of a step whose outcome is unknown: "output", "retry" or "fail"; durable on return.

        Raises:
            ConfigError: No such step waits, or another word.
        """
        state, now = self._machine.state, self._clock.now()
        await self._tell(resolution_fact(state, step, how, by=by, output=output, error=error, at=now))

    async def tell(self, fact: ApprovalAnswered | StepResolved | CancelRequested | PauseRequested) -> bool:
        """Hand in what a person says; durable on return. False: the run is not driven here any more."""
        if self._driver is None or not self._driver.deliver(fact):
            return False
        await self._driver.flushed()
        return True

    async def _tell(self, fact: ApprovalAnswered | StepResolved | CancelRequested | PauseRequested) -> None:
        if not await self.tell(fact):
            raise ConfigError(
                f"run {self.run_id} is not driven here any more",
                remedy="resume it, or leave the answer in the journal with planloom approve, resolve or cancel",
            )
