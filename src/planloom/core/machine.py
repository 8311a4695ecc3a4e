"""The heart: facts in, decisions and commands out.

Rule 1: this file says in what order a turn goes: take a fact in, do what follows at once (answers.py), then decide
until nothing can start (starts.py) or end (endings.py). What runs ahead is decided in speculation.py.
Rule 2: a decision is recorded, then its consequences are derived by `fold.py`; there is no third way to change state.
Rule 3: nothing here reads a clock, rolls dice, logs or waits.
Rule 4: after `RunFinished` nothing is recorded any more, whatever comes in.
"""

from __future__ import annotations

from collections.abc import Iterable

from planloom.core.answers import OtherFact, attempt_failed, plan_answered, react
from planloom.core.approvals import misses
from planloom.core.commands import Command, GoOn, SetTimer, StopStep
from planloom.core.endings import close, finish, starved
from planloom.core.events import (
    AnswerRefused,
    ApprovalAnswered,
    AttemptFailed,
    AttemptSucceeded,
    AttemptWaiting,
    CallEnded,
    CallStarted,
    CancelRequested,
    CircuitChanged,
    Event,
    Fact,
    Note,
    OutputStreamed,
    PauseRequested,
    ResultRefused,
    RunResumed,
    RunStarted,
    SpeculationAnswered,
    SpeculationSettled,
    StepResolved,
    StepSpeculated,
    TimerFired,
    WentOn,
)
from planloom.core.fold import APPLY, apply
from planloom.core.result import RunStatus
from planloom.core.run_state import RunState
from planloom.core.speculation import Speculation, speculates
from planloom.core.starts import join, start
from planloom.core.state import Node, Replan
from planloom.core.turns import NOTHING, Turn

DECISIONS_A_TURN = 1_000
"""Events after which a turn ends (about 20 ms). Only events are counted, so that a replay ends its turns alike; with
another number, runs on record would be cut elsewhere."""


_NOTED = (OutputStreamed, AttemptWaiting, CallStarted, CallEnded, CircuitChanged)


class RunMachine:
    """One run. `handle` facts, or `replay` a record and then `handle(RunResumed)`."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.state = RunState(run_id)
        self._events: list[Event] = []
        self._causes: list[int] = []
        self._commands: list[Command] = []
        self.now = 0.0
        self._cause = 0
        self._undecided = False
        self.speculation: Speculation | None = None
        """What runs ahead; None where no step of the plan has others do so, or the run is not to."""
        self.told: list[tuple[int, StepSpeculated | SpeculationSettled]] | None = None
        """In a replay that compares: decisions of this turn, with their numbers, that rest on values which are not on
        record."""

    @property
    def ended(self) -> bool:
        return self.state.finished is not None

    @property
    def waits_for_person(self) -> bool:
        """Return True when nothing is under way and only a person can make the run go on."""
        state = self.state
        if state.running or self._undecided or state.finished is not None:
            return False
        if any(entry.running for entry in state.ahead.values()):
            return False  # one that has answered is settled with what others do, and does nothing by itself
        if state.paused or not state.blocked:
            return state.paused
        return all(key == "" or key in state.blocked for key in state.timers)

    @property
    def under_way(self) -> list[str]:
        """Return the names under which attempts are at their places, those ahead of their time included."""
        running = list(self.state.running)
        if self.speculation is None:
            return running
        ahead = [key for key, entry in self.state.ahead.items() if entry.running]
        return [*self.speculation.at_their_places(running), *ahead]

    def replay(self, events: Iterable[Event]) -> None:
        """Take in what is on record; decides nothing."""
        for event in events:
            if isinstance(event, RunResumed):
                self.state.end_segment()
            apply(self.state, event)
            self.state.to_stop.clear()
            if isinstance(event, RunStarted):
                self._watch(event)

    def handle(self, fact: Fact) -> Turn:
        """Take one fact in and return what it leads to."""
        state = self.state
        if state.finished is not None:
            return NOTHING
        if self.speculation is not None:
            if isinstance(fact, SpeculationAnswered):
                return self._ahead_answered(fact)
            if isinstance(fact, (AttemptSucceeded, AttemptFailed, *_NOTED)):
                fact = self.speculation.own(fact)
                if isinstance(fact, (AttemptSucceeded, AttemptFailed)) and fact.step in state.ahead:
                    answered = self.speculation.answered(fact)
                    return NOTHING if answered is None else self._ahead_answered(answered)
        if isinstance(fact, SpeculationAnswered):
            return NOTHING
        if not isinstance(fact, (AttemptSucceeded, AttemptFailed)):
            if isinstance(fact, _NOTED):
                return self._noted(fact)
            return self._handle_other(fact)
        if fact.step not in state.nodes:
            return NOTHING
        self._begin_turn(fact.at)
        first = state.seq + 1
        node = state.running.get(fact.step)
        if node is None or node.attempt != fact.attempt or node.epoch != fact.epoch:
            self.record(ResultRefused(fact.step, fact.attempt, fact.epoch, self.now))
            return self._turn()
        self._cause = node.seq
        self.record(fact)
        self._cause = first
        if isinstance(fact, AttemptFailed):
            attempt_failed(self, node, fact)
        elif node.replan is Replan.ASKED:
            plan_answered(self, node, fact.output)
        # Any other success needs no answer of its own: what follows from it is derived in fold.py and decided below.
        self._decide()
        return self._turn()

    def _watch(self, started: RunStarted) -> None:
        if started.run_ahead and speculates(started.plan):
            self.speculation = Speculation(self)

    def _ahead_answered(self, fact: SpeculationAnswered) -> Turn:
        """Take in what came of an attempt ahead of its time."""
        entry = self.state.ahead.get(f"{fact.step}!{fact.role}")
        if entry is None or not entry.running:
            return NOTHING
        self._begin_turn(fact.at)
        self._cause = entry.seq
        self.record(fact)
        self._cause = self.state.seq
        self._decide()
        return self._turn()

    def command(self, command: Command) -> None:
        self._commands.append(command)

    def _noted(self, fact: Note) -> Turn:
        """Take note of what an attempt under way says of itself; nothing follows from it."""
        node = self.state.running.get(fact.step)
        if node is None or node.attempt != fact.attempt or node.epoch != fact.epoch:
            return NOTHING
        self._begin_turn(fact.at)
        self._cause = node.seq
        self.record(fact)
        return self._turn()

    def _handle_other(self, fact: OtherFact) -> Turn:
        """Take in a fact that ends no attempt."""
        state = self.state
        if not self._wanted(fact):
            return NOTHING
        self._begin_turn(fact.at)
        first = state.seq + 1
        if isinstance(fact, ApprovalAnswered):
            node = state.nodes[fact.step]
            why = misses(node, fact)
            if why is not None:
                self._cause = node.seq
                self.record(AnswerRefused(fact.step, fact.by, why, self.now))
                return self._turn()
        if isinstance(fact, (TimerFired, ApprovalAnswered, StepResolved)) and fact.step:
            self._cause = state.nodes[fact.step].seq
        elif isinstance(fact, RunResumed):
            state.end_segment()
        self.record(fact)
        self._cause = first
        if isinstance(fact, RunStarted):
            self._watch(fact)
        react(self, fact)
        self._decide()
        if isinstance(fact, (RunStarted, RunResumed)) and state.finished is None:
            self._commands = [SetTimer(key, due_at) for key, due_at in state.timers.items()] + [
                command for command in self._commands if not isinstance(command, SetTimer)
            ]
        return self._turn()

    def _begin_turn(self, now: float) -> None:
        self._events, self._causes, self._commands = [], [], []
        self.now = now
        self._cause = 0

    def _turn(self) -> Turn:
        to_stop = self.state.to_stop
        if to_stop:
            keys = list(dict.fromkeys(to_stop))
            if self.speculation is not None:
                keys = self.speculation.at_their_places(keys)
            self._commands.extend(StopStep(key) for key in keys)
            to_stop.clear()
        if self.speculation is not None and self.speculation.waiting:
            return self._with_what_came_before()
        return Turn(tuple(self._events), tuple(self._causes), tuple(self._commands))

    def _with_what_came_before(self) -> Turn:
        """Go on with what adopted attempts came to before they were adopted, as if it came now."""
        assert self.speculation is not None
        events, causes, commands = self._events, self._causes, self._commands
        fact = self.speculation.waiting.pop(0)
        more = self.handle(fact)
        return Turn((*events, *more.events), (*causes, *more.causes), (*commands, *more.commands))

    def record(self, event: Event) -> None:
        """Record a fact or a decision, and derive what follows from it."""
        state = self.state  # as RunState.apply, without the call
        state.seq += 1
        state.last_at = event.at
        APPLY[type(event)](state, event)
        self._events.append(event)
        self._causes.append(self._cause)
        if self.speculation is not None:
            self.speculation.touch(event)

    # --- facts ---

    def _wanted(self, fact: OtherFact) -> bool:
        """Return False for a fact that says nothing new: an answer nobody waits for, a timer that was set anew."""
        state = self.state
        if isinstance(fact, TimerFired):
            due_at = state.timers.get(fact.step)
            return due_at is not None and fact.at >= due_at
        if isinstance(fact, ApprovalAnswered):
            node = state.blocked.get(fact.step)
            return node is not None and node.waiting == "approval"
        if isinstance(fact, StepResolved):
            node = state.blocked.get(fact.step)
            return node is not None and node.waiting == "unknown" and fact.attempt in (0, node.attempt)
        if isinstance(fact, PauseRequested):
            return not state.paused and state.stopping is None
        if isinstance(fact, CancelRequested):
            return state.stopping is None or state.stopping.status is not RunStatus.CANCELLED
        return not isinstance(fact, WentOn) or self._undecided

    # --- decisions ---

    def _decide(self) -> None:
        """Decide until nothing can start or end, or for DECISIONS_A_TURN: a wide plan must not hold up the others."""
        self._decide_what_is_due()
        if self.speculation is not None:
            while self.state.finished is None and not self.state.paused and self.speculation.think():
                self._decide_what_is_due()
            if self.state.finished is None and self.state.root.left == 0 and not self.state.ahead:
                self._decide_what_is_due()

    def _decide_what_is_due(self) -> None:
        state = self.state
        joined, closing, events = state.joined, state.closing, self._events
        self._undecided = False
        while len(events) < DECISIONS_A_TURN:
            if joined:
                self._join_all(joined)
            elif closing:
                close(self, closing.pop(0))
            else:
                next_up = None if state.paused else state.ready.pop(state.budget)
                if next_up is not None:
                    start(self, next_up)
                elif state.root.left == 0:
                    if self.speculation is None or self.speculation.over():
                        finish(self)
                    return
                elif state.running or state.ahead or state.paused or not starved(self):
                    return
        self._undecided = True
        self._commands.append(GoOn())

    def _join_all(self, joined: list[Node]) -> None:
        done = 0
        for node in joined:  # grows on the way
            join(self, node)
            done += 1
            if len(self._events) >= DECISIONS_A_TURN:
                break
        del joined[:done]
