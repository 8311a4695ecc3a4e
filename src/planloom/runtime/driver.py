"""One run, driven: write down, do, listen.

Rule 1: what a fact leads to is written down before anything is done about it; what has effects waits until that is
durable (output commit), and so does telling anyone how the run stands.
Rule 2: the driver decides nothing; it carries out commands and hands in facts.
Rule 3: a fact is taken in without what is declared a secret: the run itself never knows one.
Rule 4: when the record cannot be written, everything under way is stopped and the run's owner gets that error.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from planloom import masking
from planloom.core.commands import EndRun, GoOn, RunStep, SetTimer, StopStep
from planloom.core.events import AttemptFailed, TimerFired, WentOn
from planloom.errors import JournalError
from planloom.plan.policy import FailureKind
from planloom.runtime.clock import RunClock, moved

if TYPE_CHECKING:
    from planloom.core.events import Fact
    from planloom.core.machine import RunMachine
    from planloom.ports import Clock, Lane, RunWriter


class Driver:
    """Carries out one machine's commands.

    Attributes:
        machine: The run.
        clock: The time of this run.
    """

    def __init__(self, machine: RunMachine, lane: Lane, clock: Clock) -> None:
        self.machine = machine
        self._lane = lane
        self.clock = RunClock(clock)
        self._writer: RunWriter | None = None
        self._written = 0
        self._durable = 0
        self._parked: deque[tuple[int, RunStep]] = deque()
        self._parked_by_key: dict[str, RunStep] = {}
        self._timers: dict[str, Callable[[], None]] = {}
        self._broken: BaseException | None = None
        self._delivering = False
        self._at_rest = False
        self._resting: list[asyncio.Future[None]] = []
        self._flushing: list[asyncio.Future[None]] = []
        self._closed = False
        self._struck = masking.StruckFacts()

    def begin(self, writer: RunWriter, fact: Fact) -> None:
        """Take the pen and hand in the first fact."""
        self._writer = writer
        self._written = self._durable = self.machine.state.seq
        self.deliver(fact)

    async def settled(self) -> None:
        """Wait until the run has ended or waits for a person, and all of that is durable.

        Raises:
            JournalError: The record broke, or the run was let go of.
        """
        await self._until(lambda: self._at_rest, self._resting)

    async def flushed(self) -> None:
        """Wait until everything handed in so far is durable. Raises as `settled`."""
        written = self._written
        await self._until(lambda: self._durable >= written, self._flushing)

    async def _until(self, reached: Callable[[], bool], waiters: list[asyncio.Future[None]]) -> None:
        while not reached():
            if self._broken is not None:
                raise self._broken
            if self._closed:
                raise JournalError(
                    f"run {self.machine.run_id} was let go of before it ended",
                    remedy=f"resume it: planloom resume {self.machine.run_id}",
                )
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiters.append(waiter)
            await waiter

    def _wake(self) -> None:
        """Have everyone who waits look again."""
        _look_again(self._resting)
        _look_again(self._flushing)

    @property
    def gone(self) -> bool:
        """Return True when this driver takes no facts any more: it was closed, or its record broke."""
        return self._broken is not None or self._closed

    @property
    def behind(self) -> bool:
        """Return True while the record is not yet durable up to where the run stands."""
        return self._durable < self._written

    def deliver(self, fact: Fact) -> bool:
        """Hand in a fact; return once its consequences are written (not yet durable) and commands are under way.

        Returns:
            False if this driver takes no facts any more.
        """
        mask = masking.known()
        if mask is None:
            return self._take(fact)
        return all(self._take(one) for one in self._struck.facts(mask, fact))

    def _take(self, fact: Fact) -> bool:
        if self._broken is not None or self._closed:
            return False
        assert self._writer is not None
        if fact.at < self.machine.state.last_at:  # it was on its way while something else was taken in
            fact = replace(fact, at=self.machine.state.last_at)
        self._delivering = True
        try:
            turn = self.machine.handle(fact)
            if turn.events:
                self._written = self._writer.append(turn.events, turn.causes)
            for command in turn.commands:
                if isinstance(command, RunStep):
                    self._submit(command)
                else:
                    self._do(command)
        except Exception as error:  # noqa: BLE001 - a broken record, or a bug in the heart, ends this run and must not hang it
            self.break_off(error)
            return False
        finally:
            self._delivering = False
        self._settle()
        return True

    async def record(self, fact: Fact) -> bool:
        """Hand in a fact and wait until it is durable; return False if it says nothing to this run any more.

        Raises: as `settled`.
        """
        before = self.machine.state.seq
        if not self.deliver(fact) or self.machine.state.seq == before:
            return False
        await self.flushed()
        return not self.gone

    def on_durable(self, seq: int, error: BaseException | None) -> None:
        """Hear from the journal how far the record is durable."""
        if error is not None:
            self.break_off(error)
            return
        if seq > self._durable:
            self._durable = seq
        if self._delivering:
            return  # a journal in memory: what there is to do is being done
        while self._parked and self._parked[0][0] <= self._durable and self._broken is None:
            request = self._parked.popleft()[1]
            if self._parked_by_key.get(request.key) is request:  # else it was stopped meanwhile
                del self._parked_by_key[request.key]
                self._hand_over(request)
        self._settle()

    def time_passed(self, by_s: float) -> None:
        """Hear that so many seconds went by unnoticed: moments that came meanwhile have come."""
        self.clock.caught_up(by_s)
        if self.gone:
            return
        state = self.machine.state
        for key, due_at in list(state.timers.items()):
            if key and state.nodes[key].inner is None:  # a limit of the run, or of a sub-plan, counts seconds
                self._do(SetTimer(key, due_at))

    def break_off(self, error: BaseException) -> None:
        """Stop everything: this run cannot go on here."""
        if self._broken is not None:
            return
        self._broken = error
        self._stop_all()
        self._wake()

    async def close(self) -> None:
        """Let go of the run, ended or not; what is under way is stopped and not recorded."""
        if self._closed:
            return
        self._closed = True
        self._stop_all()
        self._wake()
        self._lane.close()
        if self._writer is not None:
            await self._writer.close()

    # --- commands ---

    def _submit(self, command: RunStep) -> None:
        if command.after_durable and self._durable < self._written:
            self._parked.append((self._written, command))
            self._parked_by_key[command.key] = command
        else:
            self._hand_over(command)

    def _hand_over(self, request: RunStep) -> None:
        """Have an attempt made where the engine's time holds, and not that of this run."""
        if not self.clock.ahead_s:
            self._lane.submit(request, self.deliver, self.record)
            return
        if request.deadline_at is not None:
            request = replace(request, deadline_at=request.deadline_at - self.clock.ahead_s)
        self._lane.submit(
            request,
            lambda fact: self.deliver(moved(fact, self.clock.ahead_s)),
            lambda fact: self.record(moved(fact, self.clock.ahead_s)),
        )

    def _do(self, command: SetTimer | StopStep | GoOn | EndRun) -> None:
        match command:
            case SetTimer():
                self._cancel_timer(command.key)
                self._timers[command.key] = self.clock.call_at(command.due_at, lambda: self._fire(command.key))
            case StopStep():
                self._stop(command.key)
            case GoOn():
                asyncio.get_running_loop().call_soon(lambda: self.deliver(WentOn(self.clock.now())))
            case EndRun():
                for key in list(self._timers):
                    self._cancel_timer(key)
            case _:
                assert_never(command)

    def _fire(self, key: str) -> None:
        self._timers.pop(key, None)
        # The loop may call a little early; the heart compares with the due time it recorded.
        due_at = self.machine.state.timers.get(key, 0.0)
        self.deliver(TimerFired(key, max(self.clock.now(), due_at)))

    def _cancel_timer(self, key: str) -> None:
        cancel = self._timers.pop(key, None)
        if cancel is not None:
            cancel()

    def _stop(self, key: str) -> None:
        request = self._parked_by_key.pop(key, None)
        if request is None:
            self._lane.stop(self.machine.run_id, key)
            return
        now = self.clock.now()
        stopped = AttemptFailed(
            key, request.attempt, request.epoch, FailureKind.CANCELLED, "stopped before it began", now, now
        )
        # Not at once: the turn that asked for it is still being carried out.
        asyncio.get_running_loop().call_soon(self.deliver, stopped)

    def _stop_all(self) -> None:
        self._parked.clear()
        self._parked_by_key.clear()
        for key in list(self._timers):
            self._cancel_timer(key)
        for key in self.machine.under_way:
            self._lane.stop(self.machine.run_id, key)

    def _settle(self) -> None:
        """Say that nothing more happens by itself, once that is durable."""
        state = self.machine.state
        if state.finished is None and not ((state.blocked or state.paused) and self.machine.waits_for_person):
            self._at_rest = False
        elif self._broken is None:
            self._at_rest = not self.behind
            if self._at_rest and self._resting:
                _look_again(self._resting)
        if self._flushing:
            _look_again(self._flushing)


def _look_again(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()
