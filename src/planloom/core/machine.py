"""The heart: facts in, decisions and commands out.

Rule 1: everything that decides what a run does next lives in this file (how long to wait in retry.py, what fits in
budget.py).
Rule 2: a decision is recorded, then its consequences are derived by `fold.py`; there is no third way to change state.
Rule 3: nothing here reads a clock, rolls dice, logs or waits.
Rule 4: after `RunFinished` nothing is recorded any more, whatever comes in.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, assert_never

from planloom.core.budget import NO_CLAIM
from planloom.core.commands import NOTHING_RECORDED, Command, EndRun, GoOn, RunStep, SetTimer, StopStep
from planloom.core.events import (
    ApprovalAnswered,
    ApprovalRequested,
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
    OutcomeUnknown,
    OutputStreamed,
    PauseRequested,
    ReplanRequested,
    ResultRefused,
    RetryScheduled,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopping,
    SpeculationAnswered,
    SpeculationSettled,
    StepDispatched,
    StepExpanded,
    StepFailed,
    StepReplanned,
    StepResolved,
    StepSkipped,
    StepSpeculated,
    StepSucceeded,
    SubPlanStarted,
    TimerFired,
    WaitStarted,
    WentOn,
)
from planloom.core.fold import APPLY, TIME_OVER, RunState, failure_of
from planloom.core.joins import first_not_completed, skip_reason
from planloom.core.outputs import CANNOT_RESOLVE, outputs_of
from planloom.core.replanning import asked_with, may_replan, misfit, plan_in_place, told_of
from planloom.core.result import RunStatus, SkipReason, StepStatus
from planloom.core.retry import delay_s, worth_retrying
from planloom.core.speculation import Speculation, speculates
from planloom.core.state import Node, Replan, ScopeState
from planloom.errors import EvaluationError, PlanError
from planloom.plan.frozen import frozen
from planloom.plan.inputs import check_inputs
from planloom.plan.policy import NO_RETRY, Effects, FailureKind, JoinRule, OnError
from planloom.plan.terms import truthy

DECISIONS_A_TURN = 1_000
"""Events after which a turn ends (about 20 ms). Only events are counted, so that a replay ends its turns alike; with
another number, runs on record would be cut elsewhere."""


@frozen
class Turn:
    """What one fact led to.

    Attributes:
        events: The fact and the decisions, to be recorded in this order, all or none; empty if it changed nothing.
        causes: For each event the number of the event that led to it, 0 for none.
        commands: What to do, in this order.
    """

    events: tuple[Event, ...]
    causes: tuple[int, ...]
    commands: tuple[Command, ...]


NOTHING = Turn((), (), ())
MAX_LOST = 3
"""Workers that may die with one step before it is taken to be the step that kills them."""
_NOTED = (OutputStreamed, AttemptWaiting, CallStarted, CallEnded, CircuitChanged)
_OtherFact = (
    RunStarted | RunResumed | TimerFired | ApprovalAnswered | StepResolved | CancelRequested | PauseRequested | WentOn
)


class RunMachine:
    """One run. `handle` facts, or `replay` a record and then `handle(RunResumed)`."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.state = RunState(run_id)
        self._events: list[Event] = []
        self._causes: list[int] = []
        self._commands: list[Command] = []
        self._now = 0.0
        self._cause = 0
        self._undecided = False
        self.speculation: Speculation | None = None
        """What runs ahead; None where no step of the plan has others do so."""
        self.told: list[StepSpeculated | SpeculationSettled] | None = None
        """In a replay that compares: decisions of this turn that rest on values which are not on record."""

    @property
    def now(self) -> float:
        """Return the time of the turn."""
        return self._now

    @property
    def ended(self) -> bool:
        return self.state.finished is not None

    @property
    def waits_for_person(self) -> bool:
        """Return True when nothing is under way and only a person can make the run go on."""
        state = self.state
        if state.running or state.ahead or self._undecided or state.finished is not None:
            return False
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
            self.state.apply(event)
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
            self._record(ResultRefused(fact.step, fact.attempt, fact.epoch, self._now))
            return self._turn()
        self._cause = node.seq
        self._record(fact)
        self._cause = first
        if isinstance(fact, AttemptFailed):
            self._attempt_failed(node, fact)
        elif node.replan is Replan.ASKED:
            self._plan_answered(node, fact.output)
        # Any other success needs no answer of its own: what follows from it is derived in fold.py and decided below.
        self._decide()
        return self._turn()

    def _watch(self, started: RunStarted) -> None:
        if speculates(started.plan):
            self.speculation = Speculation(self)

    def _ahead_answered(self, fact: SpeculationAnswered) -> Turn:
        """Take in what came of an attempt ahead of its time."""
        entry = self.state.ahead.get(f"{fact.step}!{fact.role}")
        if entry is None or not entry.running:
            return NOTHING
        self._begin_turn(fact.at)
        self._cause = entry.seq
        self._record(fact)
        self._cause = self.state.seq
        self._decide()
        return self._turn()

    def record(self, event: Event) -> None:
        """Record a decision of `speculation.py`."""
        self._record(event)

    def command(self, command: Command) -> None:
        self._commands.append(command)

    def stop(self, key: str) -> None:
        """Have an attempt ahead of its time stopped."""
        self._commands.append(StopStep(key))

    def _noted(self, fact: Note) -> Turn:
        """Take note of what an attempt under way says of itself; nothing follows from it."""
        node = self.state.running.get(fact.step)
        if node is None or node.attempt != fact.attempt or node.epoch != fact.epoch:
            return NOTHING
        self._begin_turn(fact.at)
        self._cause = node.seq
        self._record(fact)
        return self._turn()

    def _handle_other(self, fact: _OtherFact) -> Turn:
        """Take in a fact that ends no attempt."""
        state = self.state
        if not self._wanted(fact):
            return NOTHING
        self._begin_turn(fact.at)
        first = state.seq + 1
        if isinstance(fact, (TimerFired, ApprovalAnswered, StepResolved)) and fact.step:
            self._cause = state.nodes[fact.step].seq
        elif isinstance(fact, RunResumed):
            state.end_segment()
        self._record(fact)
        self._cause = first
        self._react(fact)
        self._decide()
        if isinstance(fact, (RunStarted, RunResumed)) and state.finished is None:
            self._commands = [SetTimer(key, due_at) for key, due_at in state.timers.items()] + [
                command for command in self._commands if not isinstance(command, SetTimer)
            ]
        return self._turn()

    def _begin_turn(self, now: float) -> None:
        self._events, self._causes, self._commands = [], [], []
        self._now = now
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

    def _record(self, event: Event) -> None:
        state = self.state  # as RunState.apply, without the call
        state.seq += 1
        state.last_at = event.at
        APPLY[type(event)](state, event)
        self._events.append(event)
        self._causes.append(self._cause)
        if self.speculation is not None:
            self.speculation.touch(event)

    # --- facts ---

    def _wanted(self, fact: _OtherFact) -> bool:
        """Return False for a fact that says nothing new: an answer nobody waits for, a timer that was set anew."""
        state = self.state
        if isinstance(fact, TimerFired):
            due_at = state.timers.get(fact.step)
            return due_at is not None and fact.at >= due_at
        if isinstance(fact, (ApprovalAnswered, StepResolved)):
            node = state.blocked.get(fact.step)
            return node is not None and node.waiting == (
                "approval" if isinstance(fact, ApprovalAnswered) else "unknown"
            )
        if isinstance(fact, PauseRequested):
            return not state.paused and state.stopping is None
        if isinstance(fact, CancelRequested):
            return state.stopping is None or state.stopping.status is not RunStatus.CANCELLED
        return not isinstance(fact, WentOn) or self._undecided

    def _react(self, fact: _OtherFact) -> None:
        match fact:
            case RunStarted():
                self._watch(fact)
            case RunResumed():
                self._resumed()
            case WentOn() | PauseRequested():
                pass
            case TimerFired():
                self._timer_fired(fact)
            case ApprovalAnswered():
                self._approval_answered(self.state.nodes[fact.step], fact)
            case StepResolved():
                self._resolved(self.state.nodes[fact.step], fact)
            case CancelRequested():
                because = f"{fact.by}: {fact.reason}" if fact.reason else fact.by
                self._record(RunStopping(RunStatus.CANCELLED, self._now, because))
            case _:
                assert_never(fact)

    def _resumed(self) -> None:
        """Ask again for what was under way; what must not run twice waits for a person."""
        if self.speculation is not None:
            self.speculation.forget()
        for node in self.state.nodes.values():
            if node.waiting == "lost":
                self._record(OutcomeUnknown(node.key, node.attempt, self._now))

    def _timer_fired(self, fact: TimerFired) -> None:
        if fact.step == "":
            because = "the run's time is over"
            self._record(RunStopping(RunStatus.LIMIT_EXCEEDED, self._now, because, ("timeout_seconds",)))
            return
        node = self.state.nodes[fact.step]
        if node.status is not StepStatus.RUNNING or node.inner is not None:
            return  # a wait before a retry, or a sub-plan's time: fold.py queued the step, or stops the sub-plan
        if node.step.approve is not None:
            self._fail(node, StepStatus.TIMED_OUT, FailureKind.TIMEOUT, "nobody answered in time")
        else:
            self._record(StepSucceeded(node.key, None, self._now))

    def _approval_answered(self, node: Node, fact: ApprovalAnswered) -> None:
        if not fact.approved:
            self._fail(node, StepStatus.FAILED, FailureKind.REFUSED, f"denied by {fact.by}")
            return
        assert node.step.approve is not None
        output = fact.output if node.step.approve.form is not None else {"approved_by": fact.by}
        self._record(StepSucceeded(node.key, output, self._now))

    def _resolved(self, node: Node, fact: StepResolved) -> None:
        if fact.how == "output":
            self._record(StepSucceeded(node.key, fact.output, self._now))
        elif fact.how == "fail":
            self._fail(node, StepStatus.FAILED, FailureKind.ERROR, fact.error or f"marked as failed by {fact.by}")

    def _attempt_failed(self, node: Node, fact: AttemptFailed) -> None:
        if node.replan is Replan.ASKED:
            self._no_other_plan(node, fact.error)
            return
        policy = node.step.retry or NO_RETRY
        effects = self.state.effects(node)
        if fact.kind is FailureKind.LOST and not self._stopping(node) and self._attempt_lost(node, effects):
            return
        if not self._stopping(node) and worth_retrying(policy, fact, failures=node.failures, effects=effects):
            seed = f"{self.run_id}/{node.key}/{node.failures}"
            due_at = self._now + delay_s(policy, node.failures, seed, retry_after_s=fact.retry_after_s)
            if node.deadline_at is None or due_at < node.deadline_at:
                self._record(RetryScheduled(node.key, node.attempt + 1, due_at, self._now))
                self._commands.append(SetTimer(node.key, due_at))
                return
        if not self._stopping(node) and may_replan(node, fact, effects):
            self._record(ReplanRequested(node.key, node.attempt + 1, self._now))
            return
        status = StepStatus.FAILED
        stop = self.state.stopping
        if fact.kind is FailureKind.TIMEOUT or (stop is not None and "timeout_seconds" in stop.limits):
            status = StepStatus.TIMED_OUT
        elif fact.kind is FailureKind.CANCELLED and self._stopping(node):
            status = StepStatus.CANCELLED
        self._fail(node, status, fact.kind, fact.error, limits=fact.limits)

    def _attempt_lost(self, node: Node, effects: Effects) -> bool:
        """Have a step done elsewhere whose worker died; return False if nobody should try it again."""
        if effects is Effects.ONCE:
            self._record(OutcomeUnknown(node.key, node.attempt, self._now))
            return True
        if node.lost >= MAX_LOST or (node.deadline_at is not None and self._now >= node.deadline_at):
            return False
        self._record(RetryScheduled(node.key, node.attempt + 1, self._now, self._now))
        self._commands.append(SetTimer(node.key, self._now))
        return True

    def _plan_answered(self, node: Node, document: Any) -> None:
        """Put the plan that a model wrote in the place of a step, if it is sound and within what the step might do."""
        state = self.state
        assert state.started is not None
        if self._stopping(node):
            self._no_other_plan(node, "the run is stopping")
            return
        try:
            plan, inputs = plan_in_place(document, node, state.started, state.nodes)
        except (PlanError, *CANNOT_RESOLVE) as error:
            self._no_other_plan(node, error.message)
            return
        self._record(StepReplanned(node.key, plan, inputs, self._now))
        if node.deadline_at is not None:
            self._commands.append(SetTimer(node.key, node.deadline_at))

    def _no_other_plan(self, node: Node, why: str) -> None:
        """End a step with what it failed with, since nothing takes its place."""
        kind = node.error_kind or FailureKind.ERROR
        status = StepStatus.TIMED_OUT if kind is FailureKind.TIMEOUT else StepStatus.FAILED
        self._fail(node, status, kind, f"{node.error}; no other plan: {why}")

    def _stopping(self, node: Node) -> bool:
        """Return True when nothing new may be tried for this step; clean-up steps go on after a failure."""
        if node.parent is not None and node.parent.stopping:
            return True
        scope = node.scope
        return scope.stopping and not (scope.cleans_up and node.entry.join is JoinRule.ALWAYS)

    def _fail(
        self, node: Node, status: StepStatus, kind: FailureKind, error: str, *, limits: tuple[str, ...] = ()
    ) -> None:
        """End a step that no attempt is left for; with `limits`, the run is at them and stops."""
        on_error = failure_of(node)
        if on_error is OnError.SKIP and status is not StepStatus.CANCELLED:
            self._record(StepSkipped(node.key, SkipReason.ON_ERROR_SKIP, self._now, error))
        else:
            self._record(StepFailed(node.key, status, kind, error, self._now))
        state = self.state
        if limits and state.stopping is None:
            self._record(RunStopping(RunStatus.LIMIT_EXCEEDED, self._now, node.key, limits))
        if state.root.failures and state.root.graph.plan.fail_fast and state.stopping is None:
            self._record(RunStopping(RunStatus.FAILED, self._now, node.key))

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
                self._close(closing.pop(0))
            else:
                next_up = None if state.paused else state.ready.pop(state.budget)
                if next_up is not None:
                    self._start(next_up)
                elif state.root.left == 0:
                    if self.speculation is None or self.speculation.over():
                        self._finish()
                    return
                elif state.running or state.ahead or state.paused or not self._starved():
                    return
        self._undecided = True
        self._commands.append(GoOn())

    def _join_all(self, joined: list[Node]) -> None:
        done = 0
        for node in joined:  # grows on the way
            self._join(node)
            done += 1
            if len(self._events) >= DECISIONS_A_TURN:
                break
        del joined[:done]

    def _join(self, node: Node) -> None:
        """Look at a step whose upstream steps have ended: run it, skip it, or fail it."""
        if node.status is not StepStatus.PENDING or node.queued:
            return
        if node.scope.stopping and self._stopping(node):
            return  # one success was enough for it, and came before the stop; it ends with its last upstream step
        entry = node.entry
        if node.parent is None:
            if node.ok != len(entry.upstream) or node.broken is not None:
                if node.broken is not None:
                    self._fail(node, StepStatus.FAILED, FailureKind.INPUT, node.broken)
                    return
                reason = skip_reason(node)
                if reason is not None:
                    self._record(StepSkipped(node.key, reason, self._now, first_not_completed(node)))
                    return
            when = entry.when
            if when is not None:
                try:
                    wanted = truthy(when.evaluate(node.scope))
                except CANNOT_RESOLVE as error:
                    self._fail(
                        node, StepStatus.FAILED, FailureKind.INPUT, f"`when` cannot be worked out: {error.message}"
                    )
                    return
                if not wanted:
                    self._record(StepSkipped(node.key, SkipReason.CONDITION_FALSE, self._now, str(node.step.when)))
                    return
        state = self.state
        state.ready.push(node, node.claim or state.claims.of(node))

    def _start(self, node: Node) -> None:
        if node.attempt and self._stopping(node):
            # It was under way, was to stop, and its engine died before it answered.
            error = "the engine ended while this step was being stopped"
            self._fail(node, StepStatus.CANCELLED, FailureKind.CANCELLED, error)
            return
        if node.deadline_at is not None and self._now >= node.deadline_at:
            error = "its time was over before it could be tried again"
            self._fail(node, StepStatus.TIMED_OUT, FailureKind.TIMEOUT, error)
            return
        reused = self.state.reused
        if reused and node.clean and node.key in reused:
            self._record(StepSucceeded(node.key, reused[node.key], self._now, reused=True))
            return
        entry = node.entry
        try:
            if entry.for_each is not None and node.parent is None:
                self._expand(node)
            elif entry.is_leaf:
                self._dispatch(node)
            elif entry.sub is not None:
                self._open_sub_plan(node)
            elif entry.step.approve is not None:
                self._ask(node)
            else:
                until = self._until(node)
                self._record(WaitStarted(node.key, until, self._now))
                self._commands.append(SetTimer(node.key, until))
        except CANNOT_RESOLVE as error:
            self._fail(node, StepStatus.FAILED, FailureKind.INPUT, error.message)
        except PlanError as error:
            self._fail(node, StepStatus.FAILED, FailureKind.INPUT, error.message)

    def _dispatch(self, node: Node) -> None:
        if node.replan is Replan.ASKED:
            self._ask_for_plan(node)
            return
        state, entry = self.state, node.entry
        assert state.started is not None
        view = node.view
        args = entry.args.resolve(view)
        key = f"{self.run_id}/{node.key}" if entry.key is None else str(entry.key.resolve(view))
        effects = state.effects(node)
        attempt = node.attempt + 1
        adopted = self.speculation.adopts(node, args) if self.speculation is not None else None
        self._record(StepDispatched(node.key, attempt, state.epoch, self._now))
        if adopted is not None and self.speculation is not None:
            self.speculation.goes_on(node, adopted)
            return
        step = entry.step
        deadline_at = node.deadline_at
        if step.attempt_timeout is not None:
            end = self._now + step.attempt_timeout
            deadline_at = end if deadline_at is None else min(end, deadline_at)
        self._commands.append(
            RunStep(
                self.run_id,
                node.key,
                step,
                attempt,
                state.epoch,
                args,
                effects,
                effects is not Effects.NONE,
                key,
                deadline_at,
                node.scope.allow,
                node.grant,
                state.models,
                node.calls.ended if node.calls is not None else NOTHING_RECORDED,
                tools=state.started.tools,
            )
        )

    def _ask_for_plan(self, node: Node) -> None:
        state = self.state
        assert state.started is not None
        args = asked_with(node, state.started)
        attempt = node.attempt + 1
        self._record(StepDispatched(node.key, attempt, state.epoch, self._now))
        self._commands.append(
            RunStep(
                self.run_id,
                node.key,
                node.step,
                attempt,
                state.epoch,
                args,
                Effects.NONE,
                after_durable=False,
                idempotency_key=f"{self.run_id}/{node.key}/replan",
                deadline_at=node.deadline_at,
                allow=node.scope.allow,
                grant=node.grant,
                models=state.models,
                role="replan",
                tools=state.started.tools,
            )
        )

    def _expand(self, node: Node) -> None:
        assert node.entry.for_each is not None
        items = node.entry.for_each.resolve(node.scope)
        if not isinstance(items, list):
            raise EvaluationError(
                f"`for_each` needs a list and got {type(items).__name__}: {node.step.for_each!r}",
                remedy="use keys(…) or values(…) of an object",
            )
        self._record(StepExpanded(node.key, items, self._now))

    def _open_sub_plan(self, node: Node) -> None:
        assert node.entry.sub is not None
        inputs = check_inputs(node.entry.sub.plan, node.entry.args.resolve(node.view))
        self._record(SubPlanStarted(node.key, inputs, self._now))
        if node.deadline_at is not None:
            self._commands.append(SetTimer(node.key, node.deadline_at))

    def _ask(self, node: Node) -> None:
        approve = node.step.approve
        assert approve is not None
        message = str(node.entry.args.resolve(node.view)["message"])
        expires_at = None if approve.expires_seconds is None else self._now + approve.expires_seconds
        self._record(ApprovalRequested(node.key, message, self._now, approve.form, expires_at))
        if expires_at is not None:
            self._commands.append(SetTimer(node.key, expires_at))

    def _until(self, node: Node) -> float:
        given = node.entry.args.resolve(node.view)
        if given["until"] is not None:
            try:
                moment = datetime.fromisoformat(str(given["until"]))
            except ValueError:
                moment = None
            if moment is None or moment.tzinfo is None:
                raise EvaluationError(
                    f"`until` needs a moment with an offset and got {given['until']!r}",
                    remedy="write e.g. 2026-12-01T09:00:00+01:00",
                )
            return max(self._now, moment.timestamp())
        seconds = given["seconds"]
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 10**10:
            raise EvaluationError(f"`wait` needs seconds, 0 or more, and got {seconds!r}", remedy="give a number")
        return self._now + seconds

    # --- ends ---

    def _close(self, node: Node) -> None:
        """End a container whose parts have all ended."""
        if node.ended:
            return
        if node.children is not None:
            self._close_map(node, node.children)
        elif node.inner is not None:
            self._close_sub_plan(node, node.inner)

    def _close_map(self, node: Node, children: list[Node]) -> None:
        bad = [child for child in children if child.status is not StepStatus.COMPLETED]
        culprits = [child for child in bad if child.status in (StepStatus.FAILED, StepStatus.TIMED_OUT)]
        collect = node.step.on_item_error == "collect" and not node.stopping and len(bad) < len(children)
        if not bad or collect:
            errors = tuple(
                {"index": child.index, "error": child.error, "kind": str(child.error_kind or FailureKind.ERROR)}
                for child in bad
            )
            self._record(StepSucceeded(node.key, [child.output for child in children], self._now, errors))
        elif culprits:
            first = culprits[0]
            more = f" (and {len(culprits) - 1} more)" if len(culprits) > 1 else ""
            kind = first.error_kind or FailureKind.ERROR
            self._fail(node, StepStatus.FAILED, kind, f"item {first.index}: {first.error}{more}")
        else:
            self._fail(node, StepStatus.CANCELLED, FailureKind.CANCELLED, "stopped with items not done")

    def _close_sub_plan(self, node: Node, inner: ScopeState) -> None:
        culprit = next((part for part in inner.nodes if _broke(part)), None)
        if culprit is not None:
            kind = node.error_kind or culprit.error_kind or FailureKind.ERROR
            self._fail(node, StepStatus.FAILED, kind, told_of(node, culprit))
        elif node.because == TIME_OVER and _unfinished(inner):
            self._fail(node, StepStatus.TIMED_OUT, FailureKind.TIMEOUT, TIME_OVER)
        elif _unfinished(inner):
            self._fail(node, StepStatus.CANCELLED, FailureKind.CANCELLED, "stopped with steps not done")
        else:
            try:
                output = outputs_of(inner)
            except CANNOT_RESOLVE as error:
                self._fail(node, StepStatus.FAILED, FailureKind.INPUT, f"`outputs` of the sub-plan: {error.message}")
                return
            problem = misfit(node, output)
            if problem is not None:
                self._fail(node, StepStatus.FAILED, FailureKind.OUTPUT, problem)
                return
            self._record(StepSucceeded(node.key, output, self._now))

    def _starved(self) -> bool:
        """Stop the run if what could start next can never fit; return whether anything was decided."""
        limits: dict[str, None] = {}
        because = ""
        for node in self.state.ready.starved():
            # A name is held by something that will give it back, so it starves nobody.
            broken = self.state.budget.in_the_way(node.claim or NO_CLAIM, names=False)
            if broken and node.replan is Replan.ASKED:
                self._no_other_plan(node, f"too little is left of {' and '.join(broken)} to ask for one")
                return True
            because = because or (node.key if broken else "")
            limits.update(dict.fromkeys(broken))
        if not limits:
            return False
        self._record(RunStopping(RunStatus.LIMIT_EXCEEDED, self._now, because, tuple(limits)))
        return True

    def _finish(self) -> None:
        state = self.state
        stop = state.stopping
        failed = next((node for node in state.root.nodes if _broke(node)), None)
        if stop is not None and stop.status is RunStatus.FAILED:
            failed = state.nodes[stop.because]  # others may have broken while they were being stopped
        if stop is not None:
            status = stop.status
        elif failed is not None:
            status = RunStatus.FAILED
        else:
            status = RunStatus.PARTIAL if state.imperfect else RunStatus.SUCCESS
        error = failed.error if failed is not None else None
        output = None
        try:
            output = outputs_of(state.root, lenient=status is not RunStatus.SUCCESS)
        except CANNOT_RESOLVE as problem:
            status, error = RunStatus.FAILED, f"`outputs` of the plan: {problem.message}"
        self._record(RunFinished(status, output, self._now, error, failed.key if failed is not None else None))
        self._commands.append(EndRun(status))


def _unfinished(scope: ScopeState) -> bool:
    """Return whether stopping kept any of its steps from being done."""
    return scope.stopping and any(
        node.status is StepStatus.CANCELLED or node.reason is SkipReason.NOT_STARTED for node in scope.nodes
    )


def _broke(node: Node) -> bool:
    """Return whether this step's failure fails the run."""
    return node.status in (StepStatus.FAILED, StepStatus.TIMED_OUT) and not node.tolerated
