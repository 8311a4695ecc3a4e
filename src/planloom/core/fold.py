"""Everything known about a run, folded from its events.

Rule 1: state changes only here, and only because of an event; the same events give the same state, live or replayed.
Rule 2: nothing here decides: what follows without choice from an event (counters, queues) is derived, the rest is an
event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from planloom.core import ahead
from planloom.core.budget import NO_CLAIM, ONE_CALL, Budget, Claim
from planloom.core.claims import Claims
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
    ToolFacts,
    WaitStarted,
    WentOn,
)
from planloom.core.inner import InnerCalls, lost_use
from planloom.core.needs import agent_facts
from planloom.core.prices import ModelFacts
from planloom.core.ready import ReadySteps
from planloom.core.result import FOR_A_PERSON, RunStatus, SkipReason, StepStatus, Usage
from planloom.core.state import Node, Replan, ScopeState
from planloom.errors import EvaluationError, MissingValueError
from planloom.plan.graph import PlanGraph, compile_plan
from planloom.plan.policy import Effects, FailureKind, JoinRule, OnError
from planloom.plan.terms import truthy

TIME_OVER = "its time was over"
ENOUGH_ITEMS = 5
"""Items that must have ended before their failure rate says anything."""
_AS_BEFORE = (SkipReason.CONDITION_FALSE, SkipReason.UPSTREAM_SKIPPED)
"""Reasons that a run which reuses results comes to again by itself."""


class RunState:
    """A run as its events tell it.

    Attributes:
        seq: Number of the last event.
        nodes: Every step and item by key.
        ready: Steps whose turn may come.
        joined: Steps whose upstream steps have ended, not yet looked at.
        closing: Containers whose parts have all ended, not yet closed.
        running: Attempts under way by step key.
        timers: When each waiting step is due.
        blocked: Steps that wait for a person.
        to_stop: Attempts that the last events ask to stop.
        paused: Nothing new starts until the run is resumed.
        stopping: What the run will end as, once it stops early; `limits` that made it stop.
        path_s: Seconds of the longest chain of dependent steps so far; `busy_s`: of all attempts.
        ahead: Attempts that run, or ran, ahead and are not settled, by lane key.
        hits: Of steps whose drafts others ran ahead on: how often that was right, and wrong, in this run.
        rolled_back, wasted_usd, wasted_tokens, wasted_s: What came of those that were wrong.
        imperfect: Steps skipped or failed and tolerated: a run with any is at best partial.
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.seq = 0
        self.epoch = 1
        self.status = RunStatus.RUNNING
        self.started: RunStarted | None = None
        self.finished: RunFinished | None = None
        self.reused: dict[str, Any] = {}
        self.models: dict[str, ModelFacts] = {}
        self.tools: dict[str, ToolFacts] = {}
        self._effects: dict[str | None, Effects] = {}
        self.root: ScopeState
        self.budget: Budget
        self.claims: Claims
        self.nodes: dict[str, Node] = {}
        self.ready = ReadySteps()
        self.joined: list[Node] = []
        self.closing: list[Node] = []
        self.running: dict[str, Node] = {}
        self.timers: dict[str, float] = {}
        self.blocked: dict[str, Node] = {}
        self.to_stop: list[str] = []
        self.stopping: RunStopping | None = None
        self.paused = False
        self.imperfect = 0
        self.refused = 0
        self.ahead: dict[str, ahead.Ahead] = {}
        self.hits: dict[str, list[int]] = {}
        self.rolled_back = 0
        self.wasted_usd = 0.0
        self.wasted_tokens = 0
        self.wasted_s = 0.0
        self.path_s = 0.0
        self.busy_s = 0.0
        self.last_at = 0.0
        self.segment_at = 0.0
        self.paused_at = 0.0
        self.active_s = 0.0

    # --- the run ---

    def apply(self, event: Event) -> None:
        """Take the next event in."""
        self.seq += 1
        self.last_at = event.at
        APPLY[type(event)](self, event)

    def _run_started(self, event: RunStarted) -> None:
        self.started = event
        self.models = event.models
        self.tools = event.tools
        self.reused = event.reused
        self.segment_at = event.at
        plan = event.plan
        self.budget = Budget(event.limits, parallel=event.parallel)
        self.claims = Claims(event, self.budget)
        allow = () if event.allow is None else (frozenset(event.allow),)
        if any(step.priority for step in plan.steps):
            self.ready.age_from(event.at)
        self.root = ScopeState(self.run_id, compile_plan(plan), event.inputs, allow=allow)
        self._open(self.root, ())
        if event.limits is not None and event.limits.timeout_seconds is not None:
            self.timers[""] = event.at + event.limits.timeout_seconds

    def _run_resumed(self, event: RunResumed) -> None:
        self.epoch = event.epoch
        self.paused = False
        limits = self.started.limits if self.started else None
        if limits is not None and limits.timeout_seconds is not None and self._time_runs():
            self.timers[""] = event.at + max(0.0, limits.timeout_seconds - self.active_s)
        down_s = event.at - self.paused_at
        for node in self.nodes.values():
            if node.deadline_at is not None and not node.ended:
                node.deadline_at += down_s
                if node.inner is not None and node.key in self.timers:
                    self.timers[node.key] = node.deadline_at
        self.segment_at = event.at
        ahead.lose_all(self)
        for node in list(self.running.values()):
            self._slot_back(node, *lost_use(self._calls_known(node), node.grant, node.claim))
            node.waiting = node.due_at = None
            if self.effects(node) is not Effects.ONCE:
                node.move(StepStatus.READY)
                self._ready_again(node, node.claim or NO_CLAIM)
            else:
                node.waiting = "lost"

    def _cancel_requested(self, event: CancelRequested) -> None:
        pass  # the decision that follows it, RunStopping, changes the state

    def _went_on(self, event: WentOn) -> None:
        pass  # a turn of the heart begins; nothing has changed

    def _run_stopping(self, event: RunStopping) -> None:
        self.stopping = event
        if not self._time_runs():
            self.timers.pop("", None)
        self._stop_scope(self.root, keep_always=event.status is RunStatus.FAILED)

    def _time_runs(self) -> bool:
        """Return whether the run's time limit still binds: it does while a failed run cleans up."""
        return self.stopping is None or self.stopping.status is RunStatus.FAILED

    def _run_finished(self, event: RunFinished) -> None:
        self.finished = event
        self.status = event.status
        self.active_s += event.at - self.segment_at
        self.timers.clear()

    def end_segment(self) -> None:
        """Close the books on the time an engine that is gone was active; called before each `RunResumed`."""
        self.paused_at = self.last_at
        self.active_s += self.last_at - self.segment_at

    # --- steps ---

    def effects(self, node: Node) -> Effects:
        """Return what running this step again would do: what step or tool say, else the safe answer for its kind."""
        step = node.entry.step
        if node.replan is Replan.ASKED:
            return Effects.NONE
        if step.effects is not None:
            return step.effects
        known = self._effects.get(step.tool)
        if known is not None:
            return known
        if step.tool is None and step.model is None:
            return self._effects_inside(node)
        if step.tool is None:
            return strictest(self._effects_of(name) for name in step.tools or ())
        return self._effects_of(step.tool)

    def _effects_inside(self, node: Node) -> Effects:
        """Return what doing an agent or code step again would do: each of its calls is on record by itself."""
        step = node.entry.step
        if node.calls is not None and node.calls.open:
            return Effects.ONCE
        if step.code is not None:
            return Effects.NONE
        assert self.started is not None
        facts = agent_facts(step, self.started.agents)
        return facts.effects or Effects.ONCE if facts is not None else Effects.ONCE

    def _calls_known(self, node: Node) -> InnerCalls | None:
        """Return the calls of an attempt so far; None where its kind puts none of them on record."""
        if node.calls is not None or node.replan is Replan.ASKED:
            return node.calls
        assert self.started is not None
        facts = agent_facts(node.entry.step, self.started.agents)
        is_told = node.entry.step.code is not None or (facts is not None and facts.model is not None)
        return InnerCalls() if is_told else None

    def _effects_of(self, tool: str) -> Effects:
        assert self.started is not None
        facts = self.started.tools.get(tool)
        found = facts.effects or Effects.ONCE if facts is not None else Effects.ONCE
        self._effects[tool] = found
        return found

    def _open(self, scope: ScopeState, turn: tuple[int, ...]) -> None:
        """Create the nodes of a plan instance; those without upstream steps are joined at once."""
        self.claims.open(scope)
        turns = self._turns(scope.graph)
        clean = scope.owner is None or scope.owner.clean
        for entry in scope.graph.steps:
            node = Node(scope.prefix + entry.step.id, scope, entry, (*turn, turns[entry.place]))
            if not clean:
                node.clean = False
            scope.nodes.append(node)
            self.nodes[node.key] = node
        for node in scope.nodes:
            if not node.entry.upstream:
                node.ready_at = self.last_at
                self.joined.append(node)

    def _turns(self, graph: PlanGraph) -> Sequence[int]:
        """Return each step's turn; paths weigh what tools are expected to take, where any of them says so."""
        started = self.started
        assert started is not None
        if not started.parallel:
            turns = [0] * len(graph.order)
            for turn, place in enumerate(graph.order):
                turns[place] = turn
            return turns
        expected = {name: facts.expected_latency_ms for name, facts in started.tools.items()}
        known = [latency for latency in expected.values() if latency]
        if not known:
            return graph.urgency()
        usual = sum(known) / len(known)
        return graph.urgency([expected.get(entry.step.tool or "") or usual for entry in graph.steps])

    def _step_dispatched(self, event: StepDispatched) -> None:
        node = self.nodes[event.step]
        node.move(StepStatus.RUNNING)
        node.queued = False
        node.attempt = event.attempt
        node.epoch = event.epoch
        node.seq = self.seq
        if node.claim is None:
            node.claim = self.claims.of(node)
        if node.started_at is None:
            node.started_at = event.at
        step = node.entry.step
        if step.timeout_seconds is not None and node.deadline_at is None:
            node.deadline_at = event.at + step.timeout_seconds
        node.grant = self.budget.take(node.claim)
        self.running[event.step] = node

    def _attempt_succeeded(self, event: AttemptSucceeded) -> None:
        node = self._attempt_ended(event)
        if node.replan is Replan.ASKED:
            node.metadata = {"replan": event.metadata}
            return  # what follows from the plan is decided: `StepReplanned` or `StepFailed`
        node.output = event.output
        if event.metadata is not None:
            node.metadata = event.metadata
        node.calls = None
        node.ended_at = event.at
        node.move(StepStatus.COMPLETED)
        self._ended(node)

    def _attempt_failed(self, event: AttemptFailed) -> None:
        node = self._attempt_ended(event)
        if node.replan is Replan.ASKED:
            return  # what the step itself failed with stays
        if event.kind is FailureKind.LOST:
            node.lost += 1
        else:
            node.failures += 1
        node.error = event.error
        node.error_kind = event.kind

    def _attempt_ended(self, event: AttemptSucceeded | AttemptFailed) -> Node:
        node = self.nodes[event.step]
        if isinstance(event, AttemptFailed) and event.kind is FailureKind.LOST:
            self._slot_back(node, *lost_use(self._calls_known(node), node.grant, node.claim))
        else:
            self._slot_back(node, event.cost_usd, event.usage, event.tool_calls)
        if node.waiting is not None:
            node.waiting = node.due_at = None
        busy_s = event.at - event.started_at
        node.busy_s += busy_s
        self.busy_s += busy_s
        return node

    def _step_speculated(self, event: StepSpeculated) -> None:
        ahead.begin(self, event)

    def _speculation_answered(self, event: SpeculationAnswered) -> None:
        ahead.answer(self, event)

    def _speculation_settled(self, event: SpeculationSettled) -> None:
        ahead.settle(self, event)

    def hits_of(self, key: str) -> tuple[float, float]:
        """Return how often this step's draft led to the right inputs, and how often not, earlier runs included."""
        assert self.started is not None
        hits, misses = self.hits.get(key, (0, 0))
        before = self.started.guesses.get(key, (0, 0))
        return hits + before[0], misses + before[1]

    def guesses_confirmed(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.hits.setdefault(key, [0, 0])[0] += 1

    def guesses_missed(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.hits.setdefault(key, [0, 0])[1] += 1

    def _output_streamed(self, event: OutputStreamed) -> None:
        pass  # for whoever follows the run; the whole comes with the attempt's end

    def _attempt_waiting(self, event: AttemptWaiting) -> None:
        node = self.nodes[event.step]
        node.waiting, node.due_at = event.reason, event.until

    def _call_started(self, event: CallStarted) -> None:
        self._calls_of(event.step).begin(event)

    def _call_ended(self, event: CallEnded) -> None:
        self._calls_of(event.step).end(event)

    def _calls_of(self, key: str) -> InnerCalls:
        node = self.nodes[key]
        if node.calls is None:
            node.calls = InnerCalls()
        return node.calls

    def _circuit_changed(self, event: CircuitChanged) -> None:
        pass  # for people: why calls were refused; whose breaker it is, decides by itself

    def _pause_requested(self, event: PauseRequested) -> None:
        self.paused = True

    def _slot_back(self, node: Node, cost_usd: float | None, usage: Usage | None, tool_calls: int) -> None:
        del self.running[node.key]
        if node.calls is not None:
            node.calls.forget_use()
        claim = node.claim or NO_CLAIM
        self.budget.settle(claim, cost_usd=cost_usd, usage=usage, grant=node.grant, tool_calls=tool_calls)
        if claim is ONE_CALL and cost_usd is None and usage is None:
            return
        if cost_usd is not None or claim.estimate_usd:
            node.cost_usd = (node.cost_usd or 0.0) + (cost_usd if cost_usd is not None else claim.estimate_usd)
        if usage is not None:
            node.usage = usage if node.usage is None else node.usage + usage

    def _retry_scheduled(self, event: RetryScheduled) -> None:
        node = self.nodes[event.step]
        node.move(StepStatus.READY)
        self._wait(node, "retry", event.due_at)

    def _wait_started(self, event: WaitStarted) -> None:
        self._begin(event.step, event.at)
        self._wait(self.nodes[event.step], "timer", event.until)

    def _approval_requested(self, event: ApprovalRequested) -> None:
        self._begin(event.step, event.at)
        self._wait(self.nodes[event.step], "approval", event.expires_at)

    def _outcome_unknown(self, event: OutcomeUnknown) -> None:
        self._wait(self.nodes[event.step], "unknown", None)

    def _wait(self, node: Node, what: str, due_at: float | None) -> None:
        node.waiting = what
        node.due_at = due_at
        node.seq = self.seq
        if due_at is not None:
            self.timers[node.key] = due_at
        if what in FOR_A_PERSON:
            self.blocked[node.key] = node

    def _wait_over(self, node: Node) -> None:
        node.waiting = node.due_at = None
        self.timers.pop(node.key, None)
        self.blocked.pop(node.key, None)

    def _timer_fired(self, event: TimerFired) -> None:
        if event.step == "":
            self.timers.pop("", None)
            return
        node = self.nodes[event.step]
        retry = node.waiting == "retry"
        self._wait_over(node)
        if node.inner is not None:
            if not node.stopping:
                node.because = TIME_OVER
            self._stop_container(node, keep_always=True)
        elif retry:
            self._ready_again(node, node.claim or NO_CLAIM)

    def _approval_answered(self, event: ApprovalAnswered) -> None:
        self._wait_over(self.nodes[event.step])

    def _step_resolved(self, event: StepResolved) -> None:
        node = self.nodes[event.step]
        self._wait_over(node)
        if event.how == "retry":
            if node.calls is not None:
                node.calls.open.clear()
            node.move(StepStatus.READY)
            self._ready_again(node, node.claim or NO_CLAIM)

    def _ready_again(self, node: Node, claim: Claim) -> None:
        node.ready_at = self.last_at
        self.ready.push(node, claim)

    def _result_refused(self, event: ResultRefused) -> None:
        self.refused += 1

    # --- containers ---

    def _begin(self, key: str, at: float) -> Node:
        node = self.nodes[key]
        node.move(StepStatus.RUNNING)
        node.queued = False
        node.seq = self.seq
        node.started_at = at
        if node.claim is None:
            node.claim = self.claims.of(node)
        if node.claim.names:
            self.budget.hold(node.claim)
        return node

    def _step_expanded(self, event: StepExpanded) -> None:
        node = self._begin(event.step, event.at)
        node.left = len(event.items)
        node.children = []
        for index, item in enumerate(event.items):
            child = Node.of_item(node, index, item)
            node.children.append(child)
            self.nodes[child.key] = child
            child.ready_at = event.at
            self.joined.append(child)
        if not event.items:
            self.closing.append(node)

    def _sub_plan_started(self, event: SubPlanStarted) -> None:
        node = self._begin(event.step, event.at)
        graph = node.entry.sub
        assert graph is not None, f"{node.key} has no sub-plan"
        node.inner = ScopeState(
            self.run_id, graph, event.inputs, prefix=f"{node.key}/", owner=node, allow=node.scope.allow
        )
        self._open(node.inner, node.turn)
        if node.step.timeout_seconds is not None:
            node.deadline_at = self.timers[node.key] = event.at + node.step.timeout_seconds
        if not graph.steps:
            self.closing.append(node)

    def _replan_requested(self, event: ReplanRequested) -> None:
        node = self.nodes[event.step]
        node.move(StepStatus.READY)
        node.seq = self.seq
        node.replan = Replan.ASKED
        self._ready_again(node, self.claims.of_replanning(node))

    def _step_replanned(self, event: StepReplanned) -> None:
        node = self.nodes[event.step]
        node.seq = self.seq
        node.replan = Replan.DONE
        node.claim = self.claims.of_container(node)
        if node.claim.names:
            self.budget.hold(node.claim)
        node.clean = False  # what an earlier run's plan in its place came to means nothing for this one
        graph, allow = compile_plan(event.plan), node.scope.allow
        node.inner = ScopeState(self.run_id, graph, event.inputs, prefix=f"{node.key}/", owner=node, allow=allow)
        self._open(node.inner, node.turn)
        if node.deadline_at is not None:
            self.timers[node.key] = node.deadline_at

    # --- ends ---

    def _step_succeeded(self, event: StepSucceeded) -> None:
        node = self.nodes[event.step]
        self._wait_over(node)
        node.output = event.output
        node.errors = event.errors
        node.ended_at = event.at
        node.clean = event.reused
        if event.errors:
            self.imperfect += 1
        node.move(StepStatus.COMPLETED)
        self._ended(node)

    def _step_failed(self, event: StepFailed) -> None:
        node = self.nodes[event.step]
        self._wait_over(node)
        node.error = event.error
        node.error_kind = event.kind
        node.ended_at = event.at
        node.move(event.status)
        if node.parent is not None:
            node.parent.bad_items += 1
            if node.step.on_item_error == "fail_fast":
                self._stop_container(node.parent, keep_always=False)
        elif node.tolerated:
            self.imperfect += 1
        elif event.status is not StepStatus.CANCELLED or not node.scope.stopping:
            node.scope.failures += 1
            if node.scope.owner is not None and node.scope.graph.plan.fail_fast:
                self._stop_scope(node.scope, keep_always=True)
        self._ended(node)

    def _step_skipped(self, event: StepSkipped) -> None:
        node = self.nodes[event.step]
        node.ended_at = event.at
        self._skip(node, event.reason, event.because)

    def _skip(self, node: Node, reason: SkipReason, because: str) -> None:
        self._mark_skipped(node, reason, because)
        self._ended(node)

    def _mark_skipped(self, node: Node, reason: SkipReason, because: str) -> None:
        self._wait_over(node)
        node.reason = reason
        node.because = because
        self.imperfect += 1
        node.move(StepStatus.SKIPPED)

    def _ended(self, node: Node) -> None:  # noqa: PLR0912 - made for every step; the calls would cost more than the work
        """Tell the container, or every step that waits for this one; in a stopping plan those end with it."""
        waiting = [node]
        while waiting:
            one = waiting.pop()
            claim = one.claim
            if claim is not None and not claim.slot and claim.names and one.started_at is not None:
                self.budget.let_go(claim)
            ran = one.parent is None and one.children is None and one.inner is None and one.attempt
            if ran or not (one.status is StepStatus.COMPLETED or one.reason in _AS_BEFORE):
                one.clean = False
            if one.parent is not None:
                one.parent.left -= 1
                if one.parent.left == 0:
                    self.closing.append(one.parent)
                elif one.parent.bad_items and _fails_too_often(one.parent):
                    self._stop_container(one.parent, keep_always=False)
                continue
            one.path_s += _own_s(one)
            scope = one.scope
            scope.left -= 1
            if scope.owner is None:
                if one.path_s > self.path_s:
                    self.path_s = one.path_s
            elif scope.left == 0:
                self.closing.append(scope.owner)
            completed = one.status is StepStatus.COMPLETED
            for place in one.entry.downstream:
                below = scope.nodes[place]
                if completed and not below.entry.conditions:
                    below.ok += 1
                else:
                    self._count(one, below)
                if not one.clean:
                    below.clean = False
                if one.path_s > below.path_s:
                    below.path_s = one.path_s
                below.met += 1
                if below.met == len(below.entry.upstream) or below.entry.join is JoinRule.ONE_SUCCESS:
                    self._may_join(below, waiting)

    def _may_join(self, below: Node, waiting: list[Node]) -> None:
        """Queue a step whose upstream steps have ended to be looked at; in a stopping plan, end it instead."""
        if below.status is not StepStatus.PENDING or (below.met < len(below.entry.upstream) and below.ok != 1):
            return
        below.ready_at = self.last_at
        self.joined.append(below)
        if below.scope.stopping and not _cleans_up(below):
            self._mark_skipped(below, SkipReason.NOT_STARTED, "")
            waiting.append(below)

    def _count(self, node: Node, below: Node) -> None:
        """Count an ended upstream step as ok, failed or skipped, as the edge's condition has it."""
        if node.status is StepStatus.COMPLETED:
            good = True
        elif node.status is StepStatus.SKIPPED:
            if node.reason is SkipReason.UPSTREAM_FAILED:
                below.failed += 1
            else:
                below.skipped += 1
            return
        else:
            good = node.tolerated
        condition = below.entry.conditions.get(node.entry.place) if below.entry.conditions else None
        if good and condition is not None:
            try:
                good = truthy(condition.evaluate(node.scope))
            except (MissingValueError, EvaluationError) as error:
                below.broken = f"the condition on the edge from {node.step.id!r} cannot be worked out: {error.message}"
            if not good:
                below.skipped += 1
                return
        if good:
            below.ok += 1
        else:
            below.failed += 1

    # --- stopping ---

    def _stop_scope(self, scope: ScopeState, *, keep_always: bool) -> None:
        scope.cleans_up = keep_always and (scope.cleans_up or not scope.stopping)  # a stop only ever tightens
        scope.stopping = True
        for node in scope.nodes:
            self._halt(node)

    def _stop_container(self, node: Node, *, keep_always: bool) -> None:
        node.stopping = True
        if node.inner is not None:
            self._stop_scope(node.inner, keep_always=keep_always)
        for child in node.children or ():
            self._halt(child)

    def _halt(self, node: Node) -> None:
        """Ask what is under way to stop; end what waits, unless it waits for a step that has yet to stop."""
        if node.ended or (node.parent is None and _cleans_up(node) and not node.stopping):
            return
        if node.key in self.running:
            self.to_stop.append(node.key)
        elif node.children is not None or node.inner is not None:
            self._stop_container(node, keep_always=node.scope.cleans_up and not node.stopping)
        elif node.started_at is not None:
            self._wait_over(node)
            node.ended_at = self.last_at
            node.error = node.error or "the run stopped before this step was done"
            node.error_kind = node.error_kind or FailureKind.CANCELLED
            node.move(StepStatus.CANCELLED)
            self._ended(node)
        elif node.parent is not None or node.met == len(node.entry.upstream):
            self._skip(node, SkipReason.NOT_STARTED, "")
        else:
            node.queued = False  # one success was enough for it; it ends with its last upstream step


def _fails_too_often(node: Node) -> bool:
    """Return whether too large a share of the items that ended failed."""
    rate = node.step.max_failure_rate
    if rate is None or node.stopping:
        return False
    done = len(node.children or ()) - node.left
    return done >= ENOUGH_ITEMS and node.bad_items > rate * done


def _cleans_up(node: Node) -> bool:
    """Return True for a step that runs although its plan is stopping."""
    return node.scope.cleans_up and node.entry.join is JoinRule.ALWAYS


def _own_s(node: Node) -> float:
    """Return the seconds a step took by itself: its attempts, or from begin to end for a container or a wait."""
    if (node.attempt and node.inner is None) or node.started_at is None or node.ended_at is None:
        return node.busy_s
    return node.ended_at - node.started_at


def strictest(effects: Iterable[Effects]) -> Effects:
    """Return the effects of doing all of these; `none` of nothing."""
    found = set(effects)
    return next((one for one in (Effects.ONCE, Effects.IDEMPOTENT) if one in found), Effects.NONE)


def failure_of(node: Node) -> OnError:
    """Return what the failure of this node means: items always fail, their `for_each` step decides further."""
    return OnError.FAIL if node.parent is not None else node.step.on_error


APPLY: dict[type[Any], Callable[[RunState, Any], None]] = {
    RunStarted: RunState._run_started,
    RunResumed: RunState._run_resumed,
    CancelRequested: RunState._cancel_requested,
    RunStopping: RunState._run_stopping,
    RunFinished: RunState._run_finished,
    StepDispatched: RunState._step_dispatched,
    AttemptSucceeded: RunState._attempt_succeeded,
    AttemptFailed: RunState._attempt_failed,
    OutputStreamed: RunState._output_streamed,
    AttemptWaiting: RunState._attempt_waiting,
    CallStarted: RunState._call_started,
    CallEnded: RunState._call_ended,
    CircuitChanged: RunState._circuit_changed,
    PauseRequested: RunState._pause_requested,
    StepSpeculated: RunState._step_speculated,
    SpeculationAnswered: RunState._speculation_answered,
    SpeculationSettled: RunState._speculation_settled,
    RetryScheduled: RunState._retry_scheduled,
    WaitStarted: RunState._wait_started,
    WentOn: RunState._went_on,
    ApprovalRequested: RunState._approval_requested,
    ApprovalAnswered: RunState._approval_answered,
    OutcomeUnknown: RunState._outcome_unknown,
    StepResolved: RunState._step_resolved,
    ResultRefused: RunState._result_refused,
    TimerFired: RunState._timer_fired,
    StepExpanded: RunState._step_expanded,
    SubPlanStarted: RunState._sub_plan_started,
    ReplanRequested: RunState._replan_requested,
    StepReplanned: RunState._step_replanned,
    StepSucceeded: RunState._step_succeeded,
    StepFailed: RunState._step_failed,
    StepSkipped: RunState._step_skipped,
}
