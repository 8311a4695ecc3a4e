"""One run of the cluster, and what inputs lead to: pure, between the lock of its row and the commit.

Rule 1: nothing is kept here that the record does not hold: whoever takes the next turn decides alike.
Rule 2: nothing undecided is committed, and nothing is done here: what is to be done is work in the outbox.
Rule 3: an outcome counts once, from whoever has the token of the attempt; what comes later is refused, on record.
Rule 4: a fact is taken in without what is declared a secret, and never earlier than what is on record.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from hmac import compare_digest
from typing import TYPE_CHECKING, assert_never

from planloom import masking
from planloom.core.commands import GoOn, RunStep, StopStep
from planloom.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    CallEnded,
    CallStarted,
    CancelRequested,
    Event,
    Fact,
    TimerFired,
    WentOn,
)
from planloom.core.turns import is_stopping
from planloom.errors import OutputError, PlanError, ProtocolError
from planloom.journal.postgres.work import Decided, Work, WorkKey
from planloom.plan.policy import FailureKind
from planloom.plan.values import as_json
from planloom.runtime.cluster.inputs import (
    NOT_WANTED,
    RESTS,
    STALE,
    TAKEN,
    Claimed,
    Due,
    Fate,
    Input,
    Lost,
    PersonSaid,
    Received,
    Stated,
    Submitted,
    Unsendable,
)
from planloom.runtime.cluster.outbox import GRACE_S, Placing, again, is_once, needs_claim
from planloom.runtime.cluster.signals import heard
from planloom.transport.leases import ENDS, NOTES, check_stated

if TYPE_CHECKING:
    from planloom.core.machine import RunMachine
    from planloom.core.turns import Turn
    from planloom.journal.postgres.work import LockedRun

MOST_REFUSED = 100
"""Refused outcomes that a run has on record; what comes beyond that is only counted."""


class RunTurn:
    """One turn of one run.

    Attributes:
        answers: What became of each input, in order.
        stopped: Work that was asked to stop: to be told to workers.
        void: Work that is not to be found any more where it was put.
    """

    def __init__(self, machine: RunMachine, locked: LockedRun, placing: Placing, now: float) -> None:
        self.answers: list[Received] = []
        self.stopped: list[Work] = []
        self.void: list[Work] = []
        self._machine = machine
        self._placing = placing
        self._now = now
        self._work = dict(locked.work)
        self._posted = locked.posted
        self._wake_at = locked.wake_at
        self._taken = 0
        self._events: list[Event] = []
        self._causes: list[int] = []
        self._opened: dict[WorkKey, Work] = {}
        self._closed: set[WorkKey] = set()
        self._given_up: dict[WorkKey, float] = {}
        self._claimed: dict[WorkKey, str] = {}
        self._next: deque[Fact] = deque()

    def take(self, inputs: list[Input]) -> Decided | None:
        """Take inputs in, and whatever else has come due; None: nothing follows."""
        self._look_at_clock()
        self._hear_people()
        for one in inputs:
            self.answers.append(self._one(one))
        self._hear_people()  # what had to rest may be heard now
        self._look_at_clock()
        return self._decided()

    def _decided(self) -> Decided | None:
        if self._machine.ended:
            self._closed |= self._work.keys()
        wake_at = self._next_moment()
        changes = (self._events, self._opened, self._closed, self._given_up, self._claimed, self._taken)
        if not any(changes) and wake_at == self._wake_at:
            return None
        opened = {key: work for key, work in self._opened.items() if key not in self._closed}
        return Decided(
            self._events,
            self._causes,
            list(opened.values()),
            sorted(self._closed),
            [(key, at) for key, at in self._given_up.items() if key not in self._closed and key not in opened],
            [(key, worker) for key, worker in self._claimed.items() if key not in self._closed and key not in opened],
            wake_at,
            self._taken,
        )

    def _next_moment(self) -> float | None:
        """Return when something has to be looked at that does not come in."""
        if self._machine.ended:
            return None
        moments = list(self._machine.state.timers.values())
        for work in self._work.values():
            moments += [at for at in (work.stop_at, self._placing.patient_until(work)) if at is not None]
        return min(moments, default=None)

    # --- inputs -------------------------------------------------------------------------------

    def _one(self, one: Input) -> Received:
        match one:
            case Submitted():
                return self._begin(one)
            case Stated():
                return self._end(one) if one.ends else self._note(one)
            case Claimed():
                return self._claim(one)
            case Lost():
                return self._lost(one)
            case Unsendable():
                return self._unsendable(one)
            case PersonSaid():
                return self._said(one.fact)
            case Due():
                return TAKEN
            case _:
                assert_never(one)

    def _begin(self, one: Submitted) -> Received:
        started = self._machine.state.started
        if started is None:
            self._hand(one.started)
            return TAKEN
        if started.request and started.request == one.started.request:
            return TAKEN  # it came twice
        return Received(Fate.REFUSED, f"there is a run {one.run_id!r} already")

    def _end(self, one: Stated) -> Received:
        work = self._spoken_for(one)
        if work is None:
            return self._too_late(one)
        fact = one.fact
        try:
            check_stated(fact, one.key, ENDS)
        except ProtocolError as error:
            fact = self._failed(work, FailureKind.REFUSED, f"its worker does not keep to what was agreed: {error}")
        if isinstance(fact, AttemptSucceeded):
            try:
                as_json(fact.output)
            except OutputError as error:
                fact = self._failed(work, FailureKind.OUTPUT, error.message)
        self._answered(work, fact)
        return TAKEN

    def _too_late(self, one: Stated) -> Received:
        """Refuse an outcome that nobody waits for, on record where its attempt is over."""
        state = self._machine.state
        step, attempt, epoch = one.key
        node = state.nodes.get(step)
        was_asked_for = node is not None and 0 < attempt <= node.attempt and epoch <= node.epoch
        running = state.running.get(step)
        is_over = running is None or (running.attempt, running.epoch) != (attempt, epoch)
        if was_asked_for and is_over and state.refused < MOST_REFUSED:
            # What it says does not matter: the heart only notes that it came.
            self._hand(AttemptFailed(step, attempt, epoch, FailureKind.LOST, "", self._now, self._now))
        return STALE

    def _note(self, one: Stated) -> Received:
        if self._spoken_for(one) is None:
            return STALE
        fact = one.fact
        try:
            check_stated(fact, one.key, NOTES)
        except ProtocolError as error:
            return Received(Fate.REFUSED, error.message)
        if self._is_known(fact):
            return TAKEN
        return TAKEN if self._hand(fact) else NOT_WANTED

    def _is_known(self, fact: Fact) -> bool:
        """Return whether a call is on record already: whoever asked did not hear the answer, and asks again."""
        if not isinstance(fact, CallStarted | CallEnded):
            return False
        calls = self._machine.state.nodes[fact.step].calls
        if calls is None:
            return False
        return fact.key in calls.ended or (isinstance(fact, CallStarted) and fact.key in calls.begun)

    def _claim(self, one: Claimed) -> Received:
        work = self._spoken_for(one)
        if work is None:
            return STALE
        if work.claimed_by == one.worker:
            return TAKEN  # it did not hear the answer
        if work.claimed_by is not None:
            if one.again:
                self._answered(work, self._failed(work, FailureKind.LOST, f"worker {work.claimed_by} was lost"))
            return NOT_WANTED
        if is_stopping(self._machine.state.nodes[work.step]):
            self._answered(work, self._failed(work, FailureKind.CANCELLED, "stopped before it began"))
            return NOT_WANTED
        self._claimed[work.key] = one.worker
        self._work[work.key] = replace(work, claimed_by=one.worker)
        return TAKEN

    def _lost(self, one: Lost) -> Received:
        """Have an attempt made again that nobody answers for, as far as that is safe."""
        work = self._spoken_for(one)
        if work is None:
            return STALE
        unbegun = needs_claim(work) and work.claimed_by is None
        calls = self._machine.state.nodes[work.step].calls
        if one.is_nowhere and is_once(work) and not unbegun:
            # Whoever has it may still be at it, and tell what it came to: the store of a broker does not know.
            given_up = self._now + self._placing.lease_s * 2
            self._give_up(work, given_up if work.stop_at is None else min(work.stop_at, given_up))
        elif one.is_nowhere and (unbegun or calls is None):
            self._open(again(work, self._now))
        elif unbegun and is_once(work):
            self._answered(work, self._failed(work, FailureKind.NOT_DONE, f"it was never begun: {one.why}"))
        else:
            self._answered(work, self._failed(work, FailureKind.LOST, one.why))
        return TAKEN

    def _unsendable(self, one: Unsendable) -> Received:
        work = self._spoken_for(one)
        if work is None:
            return STALE
        self._answered(work, self._failed(work, FailureKind.REFUSED, one.why))
        return TAKEN

    def _spoken_for(self, one: Stated | Claimed | Lost | Unsendable) -> Work | None:
        """Return the work that an input is about, if it has its token."""
        work = self._work.get(one.key)
        if work is None or not compare_digest(work.token.encode(), one.token.encode()):
            return None
        speaks_for = getattr(one, "capability", "")
        return work if speaks_for in ("", work.capability) else None

    # --- people -------------------------------------------------------------------------------

    def _hear_people(self) -> None:
        """Take in what people left in the journal, in order; a cancel does not wait behind a resumption that rests."""
        left = [one for one in self._posted if one[0] > self._taken]
        cancelled = max((number for number, fact in left if isinstance(fact, CancelRequested)), default=0)
        for number, fact in left:
            if self._said(fact) is RESTS and number > cancelled:
                return
            self._taken = number

    def _said(self, fact: Fact) -> Received:
        told = heard(self._machine, fact, self._now)
        if isinstance(told, Received):
            return told
        return TAKEN if self._hand(told) else NOT_WANTED

    # --- time ---------------------------------------------------------------------------------

    def _look_at_clock(self) -> None:
        """Take in what has come due."""
        self._ring()
        for work in list(self._work.values()):
            if work.key in self._work and not self._machine.ended:
                self._look_at(work)
        self._ring()

    def _ring(self) -> None:
        timers = self._machine.state.timers
        rang = True
        while rang and not self._machine.ended:
            due = [key for key, at in sorted(timers.items(), key=lambda timer: timer[1]) if at <= self._now]
            rang = False
            for key in due:
                rang = self._hand(TimerFired(key, self._now)) or rang

    def _look_at(self, work: Work) -> None:
        """Give up work that does not end, and look for other workers where those that were wanted do not come."""
        node = self._machine.state.nodes[work.step]
        if work.stop_at is not None and work.stop_at <= self._now:
            self.stopped.append(work)
            if is_stopping(node):
                fact = self._failed(work, FailureKind.CANCELLED, "stopped, but it did not answer", abandoned=True)
            elif node.deadline_at is not None or node.step.attempt_timeout is not None:
                fact = self._failed(work, FailureKind.TIMEOUT, "it took too long, and did not answer", abandoned=True)
            else:
                fact = self._failed(work, FailureKind.LOST, f"nothing was heard of worker {work.claimed_by}")
            self._answered(work, fact)
            return
        until = self._placing.patient_until(work)
        if until is None or until > self._now or is_stopping(node):
            return
        moved = self._placing.moved(work, self._now)
        self.void.append(work)
        if moved is not None:
            self._open(moved)
            return
        why = f"no worker at {work.place} took it within {self._placing.patience_s:g} s: it cannot be scheduled"
        self._answered(work, self._failed(work, FailureKind.REFUSED, why))

    # --- to the heart and back ----------------------------------------------------------------

    def _failed(self, work: Work, kind: FailureKind, why: str, *, abandoned: bool = False) -> AttemptFailed:
        types = ("TimeoutError", "Exception") if kind is FailureKind.TIMEOUT else ()
        now = self._now
        return AttemptFailed(work.step, work.attempt, work.epoch, kind, why, now, now, types, abandoned=abandoned)

    def _answered(self, work: Work, fact: Fact) -> None:
        """Take in what work came to: it is over."""
        self._close(work)
        self._hand(fact)

    def _hand(self, fact: Fact) -> bool:
        """Hand a fact to the heart, and all that follows from it; return whether it changed anything."""
        self._next.append(fact)
        changed = False
        while self._next:
            changed = self._hand_one(self._next.popleft()) or changed
        return changed

    def _hand_one(self, fact: Fact) -> bool:
        mask = masking.known()
        if mask is not None:
            fact = mask.fact(fact)
        if fact.at < self._machine.state.last_at:
            fact = replace(fact, at=self._machine.state.last_at)
        turn = self._machine.handle(fact)
        changed = bool(turn.events)
        while self._carry_out(turn):
            turn = self._machine.handle(WentOn(self._machine.state.last_at))
        return changed

    def _carry_out(self, turn: Turn) -> bool:
        """Keep what a turn recorded and asks for; return whether there is more to decide."""
        self._events += turn.events
        self._causes += turn.causes
        is_more = False
        for command in turn.commands:
            if isinstance(command, RunStep):
                self._ask_for(command)
            elif isinstance(command, StopStep):
                self._stop(command.key)
            elif isinstance(command, GoOn):
                is_more = True
            # Timers stand in the state; the end of a run needs nothing.
        return is_more

    def _ask_for(self, request: RunStep) -> None:
        started = self._machine.state.started
        assert started is not None
        try:
            self._open(self._placing.new_work(request, f"{started.at!r}", self._now))
        except (PlanError, ProtocolError) as error:
            now = self._now
            attempt = request.key, request.attempt, request.epoch
            self._next.append(AttemptFailed(*attempt, FailureKind.REFUSED, error.message, now, now))

    def _stop(self, step: str) -> None:
        node = self._machine.state.nodes[step]
        work = self._work.get((step, node.attempt, node.epoch))
        if work is None:
            return  # it is answered for already, in this turn
        if work.key in self._opened:
            self._close(work)
            self._next.append(self._failed(work, FailureKind.CANCELLED, "stopped before it began"))
            return
        self.stopped.append(work)
        self.void.append(work)
        self._give_up(work, self._now + GRACE_S)

    def _open(self, work: Work) -> None:
        self._opened[work.key] = self._work[work.key] = work
        self._given_up.pop(work.key, None)
        self._claimed.pop(work.key, None)

    def _close(self, work: Work) -> None:
        del self._work[work.key]
        self._closed.add(work.key)

    def _give_up(self, work: Work, at: float) -> None:
        self._given_up[work.key] = at
        self._work[work.key] = replace(work, stop_at=at)
