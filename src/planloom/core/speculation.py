"""Running ahead: steps that change nothing start on a draft's answer while the step's own model still thinks.

Rule 1: lossless. What counts is always the step's own attempt on inputs that are confirmed: an attempt that ran ahead
is adopted if its arguments turn out to be the step's arguments, canonical JSON for canonical JSON; else it is stopped.
Rule 2: nothing with an effect, no stream, no cache and nothing that waits for a person ever sees an unconfirmed value.
Rule 3: unconfirmed values live here, in `Speculation.values`, and nowhere else: no event holds one, and a restart
forgets them.
Rule 4: real work goes first: it takes the slot and the money of what runs ahead.

Source: Speculative Actions (arXiv 2510.04371), Dynamic Speculative Planning (arXiv 2509.01920).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol
from zlib import crc32

from planloom.core.ahead import Ahead, alive, lane_key
from planloom.core.budget import Claim
from planloom.core.commands import NO_LIMIT, Grant, RunStep, StopStep
from planloom.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    Event,
    Note,
    SpeculationAnswered,
    SpeculationSettled,
    StepDispatched,
    StepFailed,
    StepSkipped,
    StepSpeculated,
    StepSucceeded,
)
from planloom.core.outputs import CANNOT_RESOLVE
from planloom.core.permission import verdict_on
from planloom.core.result import StepStatus
from planloom.core.state import Replan
from planloom.core.turns import Turns
from planloom.errors import MissingValueError
from planloom.plan.flow import NO_LABELS
from planloom.plan.policy import Effects, FailureKind, JoinRule

if TYPE_CHECKING:
    from planloom.core.run_state import RunState
    from planloom.core.state import Node, ScopeState
    from planloom.plan.graph import GraphStep
    from planloom.plan.model import Plan

PROBE = 20
"""Where drafts were mostly wrong, one in so many is tried all the same."""
_TOUCHING = (StepDispatched, AttemptSucceeded, StepSucceeded, StepFailed, StepSkipped, SpeculationAnswered)
_NOT_ITS_OWN = frozenset({FailureKind.CANCELLED, FailureKind.LIMIT, FailureKind.LOST})
"""Failures of an attempt that ran ahead which say nothing about the step."""


class Tells(Turns, Protocol):
    """Who it decides for: `machine.RunMachine`."""

    told: list[tuple[int, StepSpeculated | SpeculationSettled]] | None


@dataclass(frozen=True, slots=True)
class _Guess:
    """What a step is taken to answer; `on`: whose own answer that still waits for."""

    value: Any
    on: frozenset[str] = frozenset()
    by_draft: bool = False
    labels: frozenset[str] = NO_LABELS
    on_record: bool = False


class _Ahead:
    """What the references of a step that runs ahead see."""

    __slots__ = ("guesses", "scope")

    def __init__(self, scope: ScopeState, guesses: dict[str, _Guess]) -> None:
        self.scope = scope
        self.guesses = guesses

    def root(self, name: str) -> Any:
        return self.scope.root(name)

    def step(self, step_id: str, field: str) -> Any:
        guess = self.guesses.get(step_id)
        if guess is None or guess.on_record:
            return self.scope.step(step_id, field)
        if field == "output":
            return guess.value
        if field == "status":
            return StepStatus.COMPLETED.value
        if field == "error":
            return None
        raise MissingValueError(f"steps.{step_id}.{field} is not known ahead", remedy="wait for it")


class Speculation:
    """What runs ahead in one run.

    Attributes:
        values: By lane key, how each attempt that ended ended, its value in it; never on record.
        adopted: By step key, the lane key of its attempt that ran ahead and goes on as its own.
        labels: By lane key, what the attempt was given carries, as far as that was known when it began.
    """

    def __init__(self, machine: Tells) -> None:
        self.machine = machine
        self.values: dict[str, AttemptSucceeded | AttemptFailed] = {}
        self.adopted: dict[str, str] = {}
        self.labels: dict[str, frozenset[str]] = {}
        self.waiting: list[AttemptSucceeded | AttemptFailed] = []
        """Ends of adopted attempts that came before their step; facts of the turns to come."""
        self._freed = False
        """Whether settling gave back what was set aside for an attempt that had ended."""
        self._touched: list[Node] = []
        self._later: dict[str, Node] = {}

    @property
    def told(self) -> list[tuple[int, StepSpeculated | SpeculationSettled]] | None:
        """Return, in a replay that compares, what the record says was decided here in this turn."""
        return self.machine.told

    @property
    def state(self) -> RunState:
        return self.machine.state

    def forget(self) -> None:
        """Begin anew: an engine took the run up again."""
        self.values.clear()
        self.adopted.clear()
        self.labels.clear()
        self.waiting.clear()
        self._touched.clear()
        self._later.clear()

    # --- what the machine tells ---

    def touch(self, event: Event) -> None:
        """Hear what was recorded."""
        if isinstance(event, _TOUCHING):
            node = self.state.nodes.get(event.step)
            if node is not None and node.parent is None:
                self._touched.append(node)

    def own(self, fact: AttemptSucceeded | AttemptFailed | Note) -> AttemptSucceeded | AttemptFailed | Note:
        """Return the fact of an adopted attempt as one of its step."""
        if "!" not in fact.step:
            return fact
        key = fact.step.rpartition("!")[0]
        node = self.state.running.get(key)
        if self.adopted.get(key) != fact.step or node is None or fact.epoch != node.epoch:
            return fact
        if isinstance(fact, (AttemptSucceeded, AttemptFailed)):
            del self.adopted[key]
        return replace(fact, step=key, attempt=node.attempt)

    def at_their_places(self, keys: list[str]) -> list[str]:
        """Return the names under which these steps' attempts are under way; not those that have ended already."""
        ended = {fact.step for fact in self.waiting}
        return [self.adopted.get(key, key) for key in keys if key not in ended]

    def answered(self, fact: AttemptSucceeded | AttemptFailed) -> SpeculationAnswered | None:
        """Return what goes on record of an attempt that ran ahead; None if nobody knows of it."""
        entry = self.state.ahead.get(fact.step)
        if entry is None or not entry.running or (entry.attempt, entry.epoch) != (fact.attempt, fact.epoch):
            return None
        ok = isinstance(fact, AttemptSucceeded)
        error = fact.error if isinstance(fact, AttemptFailed) else None
        if not entry.dying:
            self.values[fact.step] = fact
        return SpeculationAnswered(
            entry.node.key,
            entry.role,
            fact.attempt,
            fact.epoch,
            ok,
            fact.started_at,
            fact.at,
            fact.usage,
            fact.cost_usd,
            fact.tool_calls,
            error,
        )

    def adopts(self, node: Node, args: dict[str, Any], labels: frozenset[str]) -> Ahead | None:
        """Return the attempt that ran ahead with just these arguments, now the step's own; else roll it back.

        One that knew less of where they come from is none of it: it may have done what was not allowed.
        """
        key = lane_key(node, "ahead")
        entry = alive(self.state.ahead.get(key))
        if self.told is not None:
            return self._adopted_as_told(node, entry)
        if entry is None:
            return None
        ended = self.values.get(key)
        usable = ended is None or isinstance(ended, AttemptSucceeded) or ended.kind not in _NOT_ITS_OWN
        knew = self.labels.get(key, NO_LABELS)
        if not usable or entry.inputs != digest(args) or not knew.issuperset(labels):
            self._roll_back(node)
            return None
        self._settle(entry, "confirmed")
        return entry

    def _adopted_as_told(self, node: Node, entry: Ahead | None) -> Ahead | None:
        assert self.told is not None
        found = None
        while (event := self._next_told()) is not None and event.step == node.key:
            if isinstance(event, StepSpeculated) or event.outcome == "spent":
                break
            self._repeat(event)
            found = entry if event.outcome == "confirmed" else found
        return found

    def goes_on(self, node: Node, entry: Ahead) -> None:
        """Take the adopted attempt over: what it comes to, or came to, is the step's."""
        key = entry.key
        ended = self.values.pop(key, None)
        if ended is None:
            self.adopted[node.key] = key
            return
        now = self.machine.now
        # Its seconds stay what they were; it only becomes known now.
        began = now - (ended.at - ended.started_at)
        self.waiting.append(
            replace(ended, step=node.key, attempt=node.attempt, epoch=node.epoch, started_at=began, at=now)
        )

    # --- a turn's end ---

    def think(self) -> bool:
        """See what is over, what may run ahead now, and what has to make way; return whether that made room at once."""
        if self.told is not None:
            return self._as_told(StepSpeculated, SpeculationSettled)
        self._freed = False
        self._sweep()
        while self._touched or self._later:
            if not self._touched:
                again, self._later = list(self._later.values()), {}
                if self.state.ready.starved():
                    self._later = {node.key: node for node in again}
                    break
                for node in again:
                    self._consider(node)
                if not self._touched:
                    break
                continue
            node = self._touched.pop()
            if node.status is StepStatus.RUNNING and node.key in self.state.running and node.replan is Replan.NO:
                self._draft_of_running(node)
            for place in node.entry.downstream:
                self._consider(node.scope.nodes[place])
        if not self._freed and self.state.ready.starved():
            self._make_way()
        return self._freed

    def _as_told(self, *kinds: type) -> bool:
        assert self.told is not None
        settled = False
        while (event := self._next_told()) is not None and isinstance(event, kinds):
            settled = settled or isinstance(event, SpeculationSettled)
            self._repeat(event)
        self._touched.clear()
        return settled

    def _next_told(self) -> StepSpeculated | SpeculationSettled | None:
        """Return what the record says was decided next, if that was decided here."""
        told = self.told
        return told[0][1] if told and told[0][0] == self.state.seq + 1 else None

    def _repeat(self, event: StepSpeculated | SpeculationSettled) -> None:
        """Decide as the record says."""
        assert self.told is not None
        self.told.pop(0)
        self.machine.record(replace(event, at=self.machine.now))

    def over(self) -> bool:
        """Settle all there is, because the run is about to end; return whether nothing is under way any more."""
        if self.told is not None:
            self._as_told(SpeculationSettled)
        else:
            for entry in list(self.state.ahead.values()):
                if not entry.dying:
                    self._settle(entry, "rolled_back" if entry.role == "ahead" else "spent")
        return not self.state.ahead

    def _sweep(self) -> None:
        """Settle what nobody will want: its step has ended, or its plan stops; a draft whose own answer is there."""
        for entry in list(self.state.ahead.values()):
            if entry.dying:
                continue
            node = entry.node
            if node.ended or node.scope.stopping or self.state.stopping is not None:
                self._settle(entry, "rolled_back" if entry.role == "ahead" else "spent")
            elif (
                entry.role == "draft"
                and not entry.running
                and not isinstance(self.values.get(entry.key), AttemptSucceeded)
            ):
                self._settle(entry, "spent")

    # --- drafts and guesses ---

    def _guess(self, node: Node) -> _Guess | None:
        if node.status is StepStatus.COMPLETED:
            return _Guess(node.output, labels=node.labels, on_record=True)
        if node.ended:
            return None
        known = next((fact for fact in self.waiting if fact.step == node.key), None)
        if isinstance(known, AttemptSucceeded):  # adopted with its answer, which is the next fact to be taken in
            flow = self.state.flow
            return _Guess(known.output, labels=NO_LABELS if flow is None else flow.after(node, node.told, known.labels))
        for role in ("ahead", "draft"):
            entry = alive(self.state.ahead.get(lane_key(node, role)))
            ended = self.values.get(entry.key) if entry is not None else None
            if entry is not None and isinstance(ended, AttemptSucceeded):
                draft = role == "draft"
                told = self.labels.get(entry.key, NO_LABELS)
                labels = self.state.flow.after(node, told, ended.labels) if self.state.flow is not None else NO_LABELS
                return _Guess(ended.output, entry.on | {node.key} if draft else entry.on, draft, labels)
        return None

    def _draft_of_running(self, node: Node) -> None:
        """Have the draft of a step that is under way made, or know that it stands on confirmed inputs now."""
        entry = alive(self.state.ahead.get(lane_key(node, "draft")))
        if entry is not None:
            entry.on = frozenset()
            return
        try:
            args = node.entry.args.resolve(node.view)
        except CANNOT_RESOLVE:
            return
        self._draft(node, args, frozenset(), (), node.told)

    def _draft(
        self, node: Node, args: dict[str, Any], on: frozenset[str], drafts: tuple[str, ...], labels: frozenset[str]
    ) -> None:
        policy = node.step.speculate
        if policy is None or policy.policy != "compare" or node.step.tools or self._stops(node):
            return  # a draft is untrusted text: it calls no tools
        below = (node.scope.nodes[place] for place in node.entry.downstream)
        if any(_may_run_ahead(self.state, one) for one in below) and self._worth_it(node):
            self._start(node, "draft", args, on, drafts, labels)

    def _worth_it(self, node: Node) -> bool:
        policy = node.step.speculate
        assert policy is not None
        state = self.state
        if policy.max_waste_usd is not None and state.wasted_usd >= policy.max_waste_usd:
            return False
        if policy.max_waste_tokens is not None and state.wasted_tokens >= policy.max_waste_tokens:
            return False
        hits, misses = state.hits_of(node.key)
        share = (hits + 1) / (hits + misses + 2)
        if share * policy.latency_weight >= (1 - share) * (1 - policy.latency_weight):
            return True
        return crc32(f"{state.run_id}/{node.key}".encode()) % PROBE == 0  # not random(): see retry.py

    # --- running ahead ---

    def _consider(self, node: Node) -> None:
        """Start this step ahead, leave it, or roll it back, as its inputs are known now."""
        entry = alive(self.state.ahead.get(lane_key(node, "ahead")))
        if node.status is not StepStatus.PENDING or node.queued or node.met == len(node.entry.upstream):
            return  # its real turn has come
        found = self._inputs_of(node)
        if found is None:
            if entry is not None:
                self._roll_back(node)
            return
        args, on, drafts, labels = found
        inputs = digest(args)
        if entry is not None and entry.inputs == inputs and self.labels.get(entry.key, NO_LABELS) >= labels:
            if entry.on != on:
                entry.on = on
                draft = alive(self.state.ahead.get(lane_key(node, "draft")))
                if draft is not None:
                    draft.on = on
                self._touched.append(node)
            return
        if entry is not None:
            self._roll_back(node)
        if self._start(node, "ahead", args, on, drafts, labels):
            self._draft(node, args, on, drafts, labels)

    def _inputs_of(self, node: Node) -> tuple[dict[str, Any], frozenset[str], tuple[str, ...], frozenset[str]] | None:
        """Return arguments, unconfirmed steps and drafts behind them, and the labels of all that.

        None if it may not run ahead on what is known.
        """
        if not _may_run_ahead(self.state, node) or self._stops(node):
            return None
        nodes = node.scope.nodes
        guesses: dict[str, _Guess] = {}
        for place in node.entry.upstream:
            guess = self._guess(nodes[place])
            if guess is None:
                return None
            guesses[nodes[place].step.id] = guess
        on = frozenset().union(*(guess.on for guess in guesses.values()))
        if len(on) > min((_depth(self.state.nodes[key]) for key in on), default=0):
            return None
        drafts = tuple(node.scope.prefix + name for name, guess in guesses.items() if guess.by_draft)
        try:
            args = node.entry.args.resolve(_Ahead(node.scope, guesses))
        except CANNOT_RESOLVE:
            return None
        if self.state.flow is None:
            return args, on, drafts, NO_LABELS
        ahead = {node.scope.graph.index[name]: guess.labels for name, guess in guesses.items()}
        return args, on, drafts, self.state.flow.flowed_in(node, ahead)

    def _stops(self, node: Node) -> bool:
        return node.scope.stopping or self.state.stopping is not None

    def _start(
        self,
        node: Node,
        role: str,
        args: dict[str, Any],
        on: frozenset[str],
        drafts: tuple[str, ...],
        labels: frozenset[str],
    ) -> bool:
        """Begin an attempt ahead of its time, if nothing real wants its place; return whether it began."""
        key = lane_key(node, role)
        state, step = self.state, node.entry.step
        if key in state.ahead:
            return False  # one that was stopped has not answered yet
        if state.flow is not None and verdict_on(state, node, labels).kind != "allowed":
            return False  # nobody is asked about what may turn out never to be done
        self.labels[key] = labels
        claim = state.claims.of_ahead(node, args, role)
        if state.ready.starved() or not state.budget.fits(claim):
            self._later[node.key] = node
            return False
        now, attempt = self.machine.now, node.attempt + 1 if role == "ahead" else max(node.attempt, 1)
        self.machine.record(
            StepSpeculated(
                node.key,
                role,
                attempt,
                state.epoch,
                digest(args),
                now,
                tuple(sorted(on)),
                drafts,
                claim.cost_usd,
                claim.tokens,
                claim.calls,
            )
        )
        limits = [seconds for seconds in (step.attempt_timeout, step.timeout_seconds) if seconds is not None]
        self.machine.command(
            RunStep(
                state.run_id,
                key,
                step,
                attempt,
                state.epoch,
                args,
                Effects.NONE,
                False,
                f"{state.run_id}/{node.key}",
                now + min(limits) if limits else None,
                node.scope.allow,
                _grant(state, claim),
                state.models,
                role="draft" if role == "draft" else "",
                tools=state.tools,
                labels=labels,
                flow=None if state.flow is None else state.flow.policy,
            )
        )
        return True

    def _roll_back(self, node: Node) -> None:
        """Drop what this step ran ahead on, and what others ran ahead on because of it."""
        for role in ("ahead", "draft"):
            entry = alive(self.state.ahead.get(lane_key(node, role)))
            if entry is not None:
                self._settle(entry, "rolled_back")
        self._touched.append(node)

    def _settle(self, entry: Ahead, outcome: str) -> None:
        running, now, ended = entry.running, self.machine.now, self.values.get(entry.key)
        if outcome == "confirmed":
            began = entry.began_at if ended is None else now - (ended.at - ended.started_at)
            self.machine.record(SpeculationSettled(entry.node.key, entry.role, outcome, now, began))
            return
        self.machine.record(SpeculationSettled(entry.node.key, entry.role, outcome, now))
        self.values.pop(entry.key, None)
        if running:
            self.machine.command(StopStep(entry.key))
        else:
            self._freed = True

    def _make_way(self) -> None:
        """Drop the youngest that ran ahead, if a step that is ready would fit without it.

        One that is under way has to answer first.
        """
        state = self.state
        entries = list(state.ahead.values())
        if not entries or any(entry.dying for entry in entries):
            return
        for node in state.ready.starved():
            claim = node.claim
            if claim is None or state.budget.fits(claim):
                continue
            if set(state.budget.in_the_way(claim)) != set(state.budget.in_the_way(claim, names=False)):
                continue  # a name is held by real work
            self._roll_back(max(entries, key=lambda entry: entry.seq).node)
            return


def _may_run_ahead(state: RunState, node: Node) -> bool:
    """Return whether a step is of the sort that may start on values nobody has confirmed."""
    if node.parent is not None or not _sort_runs_ahead(node.entry) or state.effects(node) is not Effects.NONE:
        return False
    assert state.started is not None
    facts = state.started.tools.get(node.step.tool or "")
    return facts is None or (facts.memory_mb is None and facts.cpu_percent is None)


def _sort_runs_ahead(entry: GraphStep) -> bool:
    step = entry.step
    if step.tool is None and step.model is None and step.code is None:
        return False
    bound = entry.for_each, entry.when, step.concurrency, step.cache, step.idempotency_key, step.replan
    unbound = all(field is None for field in bound) and not entry.conditions and not step.stream
    return unbound and step.mode == "parallel" and entry.join is JoinRule.ALL_SUCCESS


def _depth(node: Node) -> int:
    return node.step.speculate.max_depth if node.step.speculate is not None else 1


def _grant(state: RunState, claim: Claim) -> Grant:
    limits = state.budget.limits
    if limits is None:
        return NO_LIMIT
    return Grant(
        None if limits.max_total_cost_usd is None else claim.cost_usd,
        None if limits.max_total_tokens is None else claim.tokens,
        None if limits.max_tool_calls is None else claim.calls,
    )


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value's one canonical text."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def speculates(plan: Plan) -> bool:
    """Return whether any step of a plan or of its sub-plans has others run ahead on its draft; looked up once."""
    kept: bool | None = plan.__dict__.get("_speculates")
    if kept is None:
        kept = plan.__dict__["_speculates"] = any(
            (step.speculate is not None and step.speculate.policy == "compare")
            or (step.plan is not None and not isinstance(step.plan, str) and speculates(step.plan))
            for step in plan.steps
        )
    return kept
