"""Runs walked at random: plans of every shape, answers of every kind, engines that die at any moment.

Rule 1: what must hold is worked out here from the journal and the plan, not taken from the heart's own counters.
Rule 2: the restart rule is not optional: it alone finds steps that are started twice.
"""

from __future__ import annotations

import os
from collections import Counter
from math import inf
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from planloom.core import machine
from planloom.core.commands import RunStep
from planloom.core.events import (
    AnswerRefused,
    ApprovalAnswered,
    ApprovalRequested,
    AttemptFailed,
    AttemptSucceeded,
    CallEnded,
    CallStarted,
    PauseRequested,
    RunFinished,
    RunResumed,
    RunStopping,
    StepDispatched,
    StepExpanded,
    StepFailed,
    StepResolved,
    SubPlanStarted,
    TimerFired,
    ToolFacts,
    WaitStarted,
)
from planloom.core.result import ENDED, RunStatus, SkipReason, StepStatus
from planloom.plan.flow import FlowPolicy
from planloom.plan.model import Plan
from planloom.plan.policy import Effects, FailureKind, JoinRule, OnError, ResourceLimits
from tests.core.driving import Drive, differences, snapshot
from tests.core.naive_labels import NaiveLabels
from tests.core.random_plans import COST_USD, IN_PLACE, OUTPUTS, TOOLS, labelled_tools, limits, plans, policies

WALKS = float(os.environ.get("PLANLOOM_WALKS", "1"))
"""How many times as many walks as usual."""
ALL = machine.DECISIONS_A_TURN
BEGINS = (StepDispatched, StepExpanded, SubPlanStarted, WaitStarted, ApprovalRequested)
ANY = st.integers(0, 20)
KINDS = st.sampled_from([*FailureKind, FailureKind.ERROR, FailureKind.ERROR, FailureKind.NOT_DONE])
BAD = (StepStatus.FAILED, StepStatus.TIMED_OUT, StepStatus.CANCELLED)


class AnyRun(RuleBasedStateMachine):
    a_turn: int | None = None
    """Decisions that one turn makes at most; None: as many as there are."""
    drives: type[Drive] = Drive
    """Who drives the run; `Drive` itself may be handed a fact while something is undecided."""

    @initialize(document=plans(replans=True), limited=limits(), parallel=st.sampled_from([True, True, True, False]))
    def the_run_starts(self, document: dict[str, Any], limited: dict[str, Any] | None, parallel: bool) -> None:
        self.starts(document, limited, parallel, TOOLS)

    def starts(
        self,
        document: dict[str, Any],
        limited: dict[str, Any] | None,
        parallel: bool,
        tools: dict[str, ToolFacts],
        **pinned: Any,
    ) -> None:
        machine.DECISIONS_A_TURN = self.a_turn or ALL
        self.limits = None if limited is None else ResourceLimits(**limited)
        self.parallel = parallel
        self.seen = 0
        self.statuses: dict[str, Any] = {}
        self.answers: list[Any] = []
        plan = Plan.from_dict(document)
        at_once = self.a_turn is None or self.drives is not Drive
        self.drive = self.drives(
            plan, limits=self.limits, tools=tools, at=1_000.0, parallel=parallel, at_once=at_once, **pinned
        )

    # --- what may happen ---

    @precondition(lambda self: self.drive.undecided)
    @rule()
    def it_goes_on_deciding(self) -> None:
        self.drive.go_on()

    def pick(self, keys: Any, which: int) -> str:
        found = list(keys)
        return str(found[which % len(found)])

    def answered(self, key: str, **told: Any) -> dict[str, Any]:
        return told | ({"cost_usd": COST_USD} if calls_a_tool(self.drive.under_way[key]) else {})

    @precondition(lambda self: self.drive.under_way)
    @rule(which=ANY, output=OUTPUTS, later=st.integers(0, 2))
    def an_attempt_succeeds(self, which: int, output: Any, later: int) -> None:
        key = self.pick(self.drive.under_way, which)
        if self.drive.under_way[key].role == "replan":
            output = IN_PLACE[which % len(IN_PLACE)]
        turn = self.drive.after(later).ok(key, output, **self.answered(key))
        self.answers.append(turn.events[0])

    @precondition(lambda self: self.drive.under_way)
    @rule(which=ANY, kind=KINDS, later=st.integers(0, 2))
    def an_attempt_fails(self, which: int, kind: FailureKind, later: int) -> None:
        key = self.pick(self.drive.under_way, which)
        turn = self.drive.after(later).fail(key, kind, f"{kind} of {key}", **self.answered(key))
        self.answers.append(turn.events[0])

    @precondition(lambda self: any(request.role == "replan" for request in self.drive.under_way.values()))
    @rule(which=ANY)
    def a_plan_comes_in_place_of_a_step(self, which: int) -> None:
        key = self.pick([key for key, request in self.drive.under_way.items() if request.role == "replan"], which)
        turn = self.drive.ok(key, IN_PLACE[which % 4])
        self.answers.append(turn.events[0])

    @precondition(lambda self: self.answers)
    @rule(which=ANY)
    def an_old_answer_comes_again(self, which: int) -> None:
        before = snapshot(self.drive.machine)["nodes"]
        turn = self.drive.hand(self.answers[which % len(self.answers)])
        assert turn.commands == ()
        assert snapshot(self.drive.machine)["nodes"] == before

    @precondition(lambda self: self.drive.machine.state.timers and not self.drive.machine.ended)
    @rule(which=ANY)
    def a_timer_rings(self, which: int) -> None:
        timers = self.drive.machine.state.timers
        by_time = sorted(timers, key=lambda key: (timers[key], key))
        self.drive.fire(by_time[0] if which < 18 else self.pick(by_time, which))

    @precondition(lambda self: self.drive.machine.state.timers)
    @rule(which=ANY)
    def a_timer_rings_too_early(self, which: int) -> None:
        timers = self.drive.machine.state.timers
        key = self.pick(timers, which)
        if timers[key] > self.drive.now:
            assert self.drive.hand(TimerFired(key, self.drive.now)).events == ()

    @precondition(lambda self: self.drive.machine.state.blocked)
    @rule(which=ANY, good=st.booleans(), how=st.sampled_from(["output", "retry", "retry", "fail"]))
    def a_person_answers(self, which: int, good: bool, how: str) -> None:
        key = self.pick(self.drive.machine.state.blocked, which)
        if self.drive.machine.state.blocked[key].waiting == "unknown":
            self.drive.resolve(key, how, 1)
        elif good:
            self.drive.approve(key)
        else:
            self.drive.deny(key)

    @rule(which=ANY)
    def someone_cancels(self, which: int) -> None:
        if which == 20:
            self.drive.cancel()

    @rule(which=ANY)
    def someone_pauses(self, which: int) -> None:
        if which >= 19:
            self.drive.hand(PauseRequested("Ann", self.drive.now))

    @precondition(lambda self: self.drive.under_way)
    @rule(which=ANY, effects=st.sampled_from(Effects), ends=st.booleans())
    def an_attempt_makes_a_call(self, which: int, effects: Effects, ends: bool) -> None:
        request = self.drive.under_way[self.pick(self.drive.under_way, which)]
        place = (request.key, request.attempt, request.epoch, f"call {len(self.drive.journal)}", "tool")
        self.drive.hand(CallStarted(*place, self.drive.now, effects))
        if ends:
            self.drive.hand(CallEnded(*place, "tool", which, self.drive.now, self.drive.now))

    @rule(down_s=st.sampled_from([0, 1, 50]))
    def the_engine_restarts(self, down_s: int) -> None:
        if not self.drive.undecided:
            self.drive.assert_is_lawful()
        self.drive.after(down_s).restart()

    # --- what must hold ---

    @invariant()
    def replaying_the_journal_gives_the_same_state(self) -> None:
        drive = self.drive
        live = snapshot(drive.machine)
        twin = Drive.__new__(Drive)
        twin.run_id, twin.journal = drive.run_id, drive.journal
        twin.replay()
        assert differences(live, snapshot(twin.machine)) == {}

    @invariant()
    def what_just_happened_was_lawful(self) -> None:
        fresh = range(self.seen, len(self.drive.journal))
        self.seen = len(self.drive.journal)
        for place in fresh:
            event = self.drive.journal[place]
            if isinstance(event, BEGINS):
                self.needs_come_first(event, place)
                self.what_stops_starts_nothing(event, place)
            if isinstance(event, StepDispatched):
                self.nothing_is_started_twice(event, place)

    def needs_come_first(self, event: Any, place: int) -> None:
        node = self.node(event.step)
        if node.parent is not None or getattr(event, "attempt", 0) > 1:
            return
        told = Counter(self.counts(node, above, place) for above in node.entry.upstream)
        total, ok, failed, skipped = len(node.entry.upstream), told["ok"], told["failed"], told["skipped"]
        rule_met = {
            JoinRule.ALL_SUCCESS: ok == total,
            JoinRule.NONE_FAILED: ok + skipped == total,
            JoinRule.ONE_SUCCESS: ok > 0 or total == 0,
            JoinRule.NONE_FAILED_MIN_ONE_SUCCESS: ok + skipped == total and (ok > 0 or total == 0),
            JoinRule.ALL_DONE: ok + failed + skipped == total,
            JoinRule.ALWAYS: ok + failed + skipped == total,
        }[node.entry.join]
        assert rule_met, f"{event.step} began although its upstream steps were {told}"

    def counts(self, node: Any, above: int, place: int) -> str:
        """Return how an upstream step counts at this place of the journal, from what is on record before it."""
        upstream = node.scope.nodes[above]
        if upstream.status not in ENDED:
            return "open"
        good = upstream.status is StepStatus.COMPLETED
        if upstream.status is StepStatus.SKIPPED:
            return "failed" if upstream.reason is SkipReason.UPSTREAM_FAILED else "skipped"
        if not good and upstream.step.on_error is not OnError.CONTINUE:
            return "failed"
        condition = next(
            (need for need in node.step.needs if not isinstance(need, str) and need.step == upstream.step.id), None
        )
        if condition is not None:
            wanted = int(condition.when.split("==")[1])
            if upstream.output is True or upstream.output != wanted:
                return "skipped"
        return "ok"

    def what_stops_starts_nothing(self, event: Any, place: int) -> None:
        before = self.drive.journal[:place]
        stops = [past for past in before if isinstance(past, RunStopping)]
        pauses = [past for past in before if isinstance(past, PauseRequested | RunResumed)]
        assert not pauses or isinstance(pauses[-1], RunResumed), f"{event.step} began in a run that was paused"
        chain = list(self.around(self.node(event.step)))
        if stops:
            assert all(stop.status is RunStatus.FAILED for stop in stops), (
                f"{event.step} began in a run that was to end"
            )
            assert cleans_up(chain), f"{event.step} began in a run that had failed"
        failed = {past.step: past for past in before if isinstance(past, StepFailed)}
        for depth, node in enumerate(chain):
            if node.parent is not None and node.step.on_item_error == "fail_fast":
                culprit = next((child for child in node.parent.children if child.key in failed), None)
                assert culprit is None, f"{event.step} began although {culprit.key} had failed"
            owner = node.scope.owner
            if node.parent is None and owner is not None and node.scope.graph.plan.fail_fast:
                bad = [
                    one.key
                    for one in node.scope.nodes
                    if one.key in failed and one.step.on_error is not OnError.CONTINUE
                ]
                assert not bad or cleans_up(chain[: depth + 1]), f"{event.step} began although {bad} had failed"

    def nothing_is_started_twice(self, event: StepDispatched, place: int) -> None:
        before = [past for past in self.drive.journal[:place] if getattr(past, "step", None) == event.step]
        attempts = [past for past in before if isinstance(past, StepDispatched)]
        assert event.attempt == len(attempts) + 1, "attempts are numbered one after the other"
        if not attempts:
            return
        last = before[before.index(attempts[-1]) + 1 :]
        ended = [past for past in last if isinstance(past, AttemptSucceeded | AttemptFailed)]
        since = [past for past in self.drive.journal[:place] if isinstance(past, RunResumed)]
        assert ended or (since and since[-1].epoch > attempts[-1].epoch), "two attempts at the same time"
        assert not any(isinstance(past, AttemptSucceeded) for past in before), "a success is done again"
        if self.drive.machine.state.effects(self.node(event.step)) is Effects.ONCE:
            not_done = any(isinstance(past, AttemptFailed) and past.kind is FailureKind.NOT_DONE for past in last)
            resolved = any(isinstance(past, StepResolved) and past.how == "retry" for past in last)
            assert not_done or resolved, f"{event.step} may run only once"

    @invariant()
    def ceilings_hold(self) -> None:
        nodes = [self.node(key) for key in self.drive.under_way]
        assert self.parallel or len(nodes) <= 1
        open_ = [node for node in self.drive.machine.state.nodes.values() if self.holds(node)]
        for scope in {id(node.scope): node.scope for node in open_}.values():
            mine = [node for node in open_ if node.scope is scope]
            assert sum(node.step.mode == "sequential" and node.parent is None for node in mine) <= 1
            for name, most in scope.graph.plan.concurrency.items():
                assert sum(node.step.concurrency == name and not is_map(node) for node in mine) <= most
        for node in self.drive.machine.state.nodes.values():
            if node.children is not None and node.step.max_parallel is not None:
                assert sum(self.holds(child) for child in node.children) <= node.step.max_parallel
        calls = sum(map(calls_a_tool, self.drive.started))
        if self.limits is not None:
            assert self.limits.max_concurrent is None or len(nodes) <= self.limits.max_concurrent
            assert self.limits.max_tool_calls is None or calls <= self.limits.max_tool_calls
            assert self.limits.max_total_cost_usd is None or calls * COST_USD <= self.limits.max_total_cost_usd
            asked = [request.step.tool for request in self.drive.under_way.values() if calls_a_tool(request)]
            memory_mb = sum(TOOLS[tool].memory_mb or 0 for tool in asked)
            assert self.limits.max_memory_mb is None or memory_mb <= self.limits.max_memory_mb

    def holds(self, node: Any) -> bool:
        """Return whether this step is under way: an attempt, or a container, a wait or an approval that has begun."""
        if node.entry.step.tool is not None and not is_map(node) and node.inner is None:
            return node.key in self.drive.under_way
        return node.status is StepStatus.RUNNING

    @invariant()
    def what_has_ended_stays_as_it_is(self) -> None:
        for key, node in self.drive.machine.state.nodes.items():
            now = (node.status, node.output, node.error, node.reason)
            if key in self.statuses:
                assert now == self.statuses[key]
            elif node.status in ENDED:
                self.statuses[key] = now

    @invariant()
    def it_never_stalls(self) -> None:
        drive = self.drive
        state = drive.machine.state
        at_rest = not drive.machine.ended and not drive.undecided and not drive.under_way
        assert not at_rest or state.timers or state.blocked or state.paused
        only_people = state.paused or set(state.timers) <= {""} | set(state.blocked)
        assert drive.machine.waits_for_person == (at_rest and only_people)

    def node(self, key: str) -> Any:
        return self.drive.machine.state.nodes[key]

    def around(self, node: Any) -> Any:
        """Yield the step and everything it is a part of."""
        while node is not None:
            yield node
            node = node.parent if node.parent is not None else node.scope.owner

    # --- the end ---

    def teardown(self) -> None:
        try:
            if hasattr(self, "drive"):
                self.it_ends()
        finally:
            machine.DECISIONS_A_TURN = ALL

    def it_ends(self) -> None:
        drive = self.drive
        for _ in range(2_000):
            if drive.machine.ended:
                break
            self.something_ends()
            self.what_just_happened_was_lawful()
            self.ceilings_hold()
            self.it_never_stalls()
        assert drive.machine.ended, f"nothing more happens, and the run has not ended: {drive.statuses()}"
        assert drive.under_way == {}
        assert [type(event) for event in drive.journal].count(RunFinished) == 1
        self.the_end_is_told_as_it_was()
        drive.assert_replays()

    def something_ends(self) -> None:
        drive, state = self.drive, self.drive.machine.state
        if drive.undecided:
            drive.go_on()
        elif drive.under_way:
            key = next(iter(drive.under_way))
            output = IN_PLACE[len(drive.started) % 4] if drive.under_way[key].role == "replan" else 1
            drive.ok(key, output, **self.answered(key)) if key not in drive.stopped else drive.halt(
                key, **self.answered(key)
            )
        elif state.paused:
            drive.restart()
        elif state.blocked:
            key = next(iter(state.blocked))
            if drive.now >= state.timers.get(key, inf):
                drive.fire(key)  # too late for an answer
                return
            drive.resolve(key, "output", 1) if state.blocked[key].waiting == "unknown" else drive.approve(key)
        else:
            drive.fire(min(state.timers, key=lambda key: state.timers[key]))

    def the_end_is_told_as_it_was(self) -> None:
        state = self.drive.machine.state
        result = self.drive.result
        assert all(node.status in ENDED for node in state.nodes.values())
        for node in state.nodes.values():
            assert node.status is StepStatus.COMPLETED or node.output is None
            if node.children is not None:
                ends = Counter(child.status for child in node.children)
                assert sum(ends.values()) == len(node.children)
            if node.status is StepStatus.COMPLETED and node.children is not None:
                assert node.output == [child.output for child in node.children]
            if node.status in BAD:
                assert node.error is not None
        broken = [
            node for node in state.root.nodes if node.status in BAD and node.step.on_error is not OnError.CONTINUE
        ]
        left_out = [node for node in state.root.nodes if node.status is not StepStatus.COMPLETED]
        stopped = [event for event in self.drive.journal if isinstance(event, RunStopping)]
        if result.status is RunStatus.SUCCESS:
            assert not left_out
        elif result.status is RunStatus.PARTIAL:
            assert not broken
        elif result.status is RunStatus.FAILED:
            assert result.error is not None
            assert broken or result.failed_step is None
        elif result.status is RunStatus.LIMIT_EXCEEDED:
            assert stopped
            assert all(getattr(self.limits, name) is not None for name in result.exceeded_limits)
            assert result.exceeded_limits
        else:
            assert stopped[-1].status is RunStatus.CANCELLED
        if stopped:
            assert result.status is stopped[-1].status
        calls = sum(map(calls_a_tool, self.drive.started))
        assert result.tool_calls == calls + calls_lost(self.drive.journal)
        assert result.cost_usd == calls * COST_USD


def calls_lost(journal: list[Any]) -> int:
    """Return how many calls with effects had begun, and not ended, in attempts that were lost."""
    lost = 0
    begun: dict[str, set[str]] = {}
    for event in journal:
        match event:
            case CallStarted():
                begun.setdefault(event.step, set()).add(event.key)
            case CallEnded():
                begun.get(event.step, set()).discard(event.key)
            case AttemptSucceeded() | AttemptFailed():
                open_calls = begun.pop(event.step, set())
                lost += len(open_calls) if getattr(event, "kind", None) is FailureKind.LOST else 0
            case RunResumed():
                lost += sum(map(len, begun.values()))
                begun.clear()
    return lost


class AnyLabelledRun(AnyRun):
    """A run of tools that say where values come from and where they may go; people are asked about single attempts."""

    @initialize(
        document=plans(replans=True, refers=True),
        limited=limits(),
        tools=labelled_tools(),
        policy=policies(),
        small=st.booleans(),
    )
    def the_run_starts(
        self,
        document: dict[str, Any],
        limited: dict[str, Any] | None,
        tools: dict[str, ToolFacts],
        policy: FlowPolicy,
        small: bool,
    ) -> None:
        self.a_turn = 2 if small else None
        self.tools, self.policy = tools, policy
        self.starts(document, limited, True, tools, flow=policy, binds=True)

    @precondition(lambda self: self.drive.under_way)
    @rule(which=ANY, labels=st.sampled_from([("web",), ("inbox", "web"), ("secret",)]), good=st.booleans())
    def an_attempt_brings_something_in(self, which: int, labels: tuple[str, ...], good: bool) -> None:
        key = self.pick(self.drive.under_way, which)
        request = self.drive.under_way[key]
        place = (key, request.attempt, request.epoch, f"call {len(self.drive.journal)}", "tool")
        if which % 2:
            self.drive.hand(CallEnded(*place, "tool", 1, self.drive.now, self.drive.now, labels=("page",)))
        if request.role == "replan":
            self.drive.ok(key, IN_PLACE[which % 4], labels=labels)
        elif good:
            self.drive.ok(key, 1, labels=labels, **self.answered(key))
        else:
            self.drive.fail(key, labels=labels, **self.answered(key))

    @precondition(lambda self: any(isinstance(event, ApprovalRequested) for event in self.drive.journal))
    @rule(which=ANY, other=ANY)
    def a_person_answers_an_old_question(self, which: int, other: int) -> None:
        asked = [event for event in self.drive.journal if isinstance(event, ApprovalRequested)]
        old, step = asked[which % len(asked)], asked[other % len(asked)].step
        node = self.node(step)
        waits = node.waiting == "approval" and not self.drive.machine.ended
        in_time = node.step.approve is None or node.due_at is None or self.drive.now < node.due_at
        current = waits and in_time and node.asked.request.binding == old.binding
        turn = self.drive.hand(ApprovalAnswered(step, True, "Bob", self.drive.now, None, old.binding))
        assert [type(event) for event in turn.events[:1]] == (
            [ApprovalAnswered] if current else [AnswerRefused] if waits else []
        )

    @invariant()
    def no_attempt_starts_that_may_not(self) -> None:
        journal = self.drive.journal
        for place in range(self.judged, len(journal)):
            event = journal[place]
            if isinstance(event, StepDispatched):
                self.may_start(event, place)
        self.judged = len(journal)

    judged = 0

    def may_start(self, event: StepDispatched, place: int) -> None:
        """Assert that what the plan, the tools and the policy say of this attempt is what became of it."""
        before = self.drive.journal[:place]
        naive = NaiveLabels(before)
        if event.step in naive.asked:
            told = naive.flows_in(event.step)
            assert "secret" not in told or self.policy.secret == "allow"
            return
        told, step = naive.flows_in(event.step), naive.step(event.step)
        facts = self.tools[step["tool"]]
        sink = facts.sink if facts.sink is not None else facts.effects is not Effects.NONE
        left = told - set(facts.accepts) if sink else set()
        words = {self.policy.secret if label == "secret" else self.policy.untrusted for label in left}
        assert "refuse" not in words, f"{event.step} was called with {left}"
        if "ask" not in words and not facts.needs_approval:
            return
        own = [past for past in before if getattr(past, "step", None) == event.step]
        asked = [past for past in own if isinstance(past, ApprovalRequested)][-1]
        said = own[-1]
        assert isinstance(said, ApprovalAnswered), f"{event.step} was called without a word, after {said}"
        assert said.approved
        assert said.binding == asked.binding
        assert asked.attempt == event.attempt
        assert asked.labels == tuple(sorted(told))
        assert asked.expires_at is None or event.at < asked.expires_at

    @invariant()
    def labels_are_what_the_plan_and_the_record_say(self) -> None:
        if len(self.drive.journal) % 4 == 0 or self.drive.machine.ended:
            self.labels_agree()

    def labels_agree(self) -> None:
        naive = NaiveLabels(self.drive.journal)
        for key, node in self.drive.machine.state.nodes.items():
            assert node.labels == naive.of_key(key), f"{key}: {set(node.labels)}, not {set(naive.of_key(key))}"
        for key, request in self.drive.under_way.items():
            assert request.labels == naive.told[key]

    def it_ends(self) -> None:
        super().it_ends()
        self.no_attempt_starts_that_may_not()
        self.labels_agree()


class AnyRunInSmallTurns(AnyRun):
    """A run whose turns are cut short, as those of very wide plans are: facts come in between."""

    a_turn = 2


def calls_a_tool(request: RunStep) -> bool:
    return request.step.tool is not None and request.role == ""


def is_map(node: Any) -> bool:
    return node.step.for_each is not None and node.parent is None


def cleans_up(chain: list[Any]) -> bool:
    return any(node.entry.join is JoinRule.ALWAYS and node.parent is None for node in chain)


def walked(kind: type[AnyRun], *, examples: int, steps: int) -> Any:
    case = kind.TestCase
    case.settings = settings(
        max_examples=max(1, round(examples * WALKS)),
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    return case


class AnyLongRun(AnyRun):
    """The same with more of everything."""


class AnyRunAtLength(AnyRun):
    """The same as often as there is time for beside the kill loops."""


TestAnyRun = pytest.mark.slow(walked(AnyRun, examples=150, steps=30))
TestAnyRunInSmallTurns = pytest.mark.slow(walked(AnyRunInSmallTurns, examples=120, steps=30))
TestAnyLabelledRun = pytest.mark.slow(walked(AnyLabelledRun, examples=60, steps=30))
TestAnyLongRun = pytest.mark.slow(walked(AnyLongRun, examples=100, steps=80))
TestAnyRunAtLength = pytest.mark.crash(walked(AnyRunAtLength, examples=400, steps=80))
