"""A driver without a loop: hands facts to a machine, keeps its journal, and checks the basic laws at every turn.

Rule 1: nothing happens by itself; a test says what each attempt comes to, and when.
Rule 2: the journal is all that survives `restart`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from planloom.core.commands import EndRun, GoOn, RunStep, SetTimer, StopStep
from planloom.core.events import (
    AnswerRefused,
    ApprovalAnswered,
    AttemptFailed,
    AttemptSucceeded,
    CancelRequested,
    Event,
    Fact,
    ResultRefused,
    RunFinished,
    RunResumed,
    RunStarted,
    StepDispatched,
    StepResolved,
    TimerFired,
    ToolFacts,
    WentOn,
)
from planloom.core.machine import RunMachine
from planloom.core.report import run_result
from planloom.core.result import RunResult, RunStatus, StepStatus, Usage
from planloom.core.turns import NOTHING, Turn
from planloom.plan.flow import FlowPolicy
from planloom.plan.model import Plan
from planloom.plan.policy import Effects, FailureKind, ResourceLimits
from planloom.ports import Recorded
from planloom.runtime.replay import diverges
from planloom.testing import check_history

NONE = ToolFacts("digest", effects=Effects.NONE)
LABELLED = {
    "web": ToolFacts("w", Effects.NONE, source=("web",)),
    "mailbox": ToolFacts("m", Effects.NONE, source=("inbox",)),
    "key": ToolFacts("k", Effects.IDEMPOTENT),
    "vault": ToolFacts("v", Effects.NONE, secret=True),
    "clean": ToolFacts("c", Effects.NONE, cleans=("web",)),
    "send": ToolFacts("s", Effects.ONCE),
    "pay": ToolFacts("p", Effects.ONCE, needs_approval=True),
    "post": ToolFacts("o", Effects.ONCE, accepts=("web",)),
    "t": NONE,
}
"""Tools that say where values come from and where they may go."""
TOOLS = {"t": NONE, "once": ToolFacts("digest", effects=Effects.ONCE), "key": ToolFacts("digest", Effects.IDEMPOTENT)}
"""`t` may run again, `once` may not, `key` may with its key."""


def tool(step_id: str, *needs: Any, **fields: Any) -> dict[str, Any]:
    """Return a step that calls `t`, which changes nothing."""
    return {"id": step_id, "tool": "t", "needs": list(needs)} | fields


def plan(*steps: dict[str, Any], **fields: Any) -> Plan:
    return Plan.from_dict({"name": "p", "steps": list(steps)} | fields)


def flowing(*steps: dict[str, Any], policy: FlowPolicy | None = None, **options: Any) -> Drive:
    """Return a run that keeps labels, of the tools in LABELLED."""
    fields = {name: options.pop(name) for name in ("fail_fast", "outputs") if name in options}
    options = {"tools": LABELLED, "binds": True} | options
    return Drive(plan(*steps, **fields), flow=policy or FlowPolicy(), **options)


class Drive:
    """One run, driven by hand.

    Attributes:
        now: The time of the next fact; `after(s)` moves it.
        journal, causes: What is on record.
        under_way: The attempts that are asked for and have not answered, by step key.
        timers: When each timer is due, as the last command said.
        stopped: Keys of attempts that were asked to stop.
        started: Every attempt ever asked for, in order.
        at_once: Let the machine decide everything before the next fact; `undecided`: it has not.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        inputs: dict[str, Any] | None = None,
        limits: ResourceLimits | None = None,
        tools: dict[str, ToolFacts] | None = None,
        at: float = 0.0,
        run_id: str = "run",
        at_once: bool = True,
        **pinned: Any,
    ) -> None:
        self.run_id = run_id
        self.machine = RunMachine(run_id)
        self.now = at
        self.epoch = 1
        self.journal: list[Event] = []
        self.causes: list[int] = []
        self.under_way: dict[str, RunStep] = {}
        self.timers: dict[str, float] = {}
        self.stopped: list[str] = []
        self.at_once = at_once
        self.undecided = False
        self.started: list[RunStep] = []
        limits = limits if limits is not None else plan.limits
        self.first = self.hand(RunStarted(plan, inputs or {}, at, limits, TOOLS if tools is None else tools, **pinned))

    # --- facts ---

    def hand(self, fact: Fact) -> Turn:
        """Hand one fact in and return all that it leads to, having checked the laws that hold at every turn."""
        had_ended = self.machine.ended
        turn = self.machine.handle(fact)
        if had_ended:
            assert turn == NOTHING
        if turn.events:
            refused = isinstance(turn.events[0], ResultRefused | AnswerRefused) and len(turn.events) == 1
            assert turn.events[0] is fact or refused
            if turn.events[0] is fact:
                self.undecided = self.machine._undecided  # still, if it only took note
        if turn.events and turn.events[0] is fact and isinstance(fact, AttemptSucceeded | AttemptFailed):
            del self.under_way[fact.step]
        self._keep(turn)
        while self.at_once and self.undecided:
            turn = _together(turn, self.go_on())
        return turn

    def go_on(self) -> Turn:
        """Let the machine decide what its last turn left undecided."""
        return self.hand(WentOn(self.now))

    def _keep(self, turn: Turn) -> None:
        check_turn(turn, seq=len(self.journal))
        self.journal.extend(turn.events)
        self.causes.extend(turn.causes)
        for command in turn.commands:
            if isinstance(command, RunStep):
                assert command.key not in self.under_way, f"{command.key} is under way twice"
                self.under_way[command.key] = command
                self.started.append(command)
            elif isinstance(command, SetTimer):
                self.timers[command.key] = command.due_at
            elif isinstance(command, StopStep):
                assert command.key in self.under_way, f"{command.key} is stopped but not under way"
                self.stopped.append(command.key)
            elif isinstance(command, GoOn):
                self.undecided = True
        assert set(self.machine.state.running) == set(self.under_way)
        for key, due_at in self.machine.state.timers.items():
            assert self.timers[key] == due_at, f"nobody was asked to wake {key}"

    def after(self, seconds: float) -> Drive:
        self.now += seconds
        return self

    def ok(self, key: str, output: Any = None, **told: Any) -> Turn:
        """Let the attempt of this step that is under way succeed."""
        request = self.under_way[key]
        fact = AttemptSucceeded(key, request.attempt, request.epoch, output, self._began(key), self.now, **told)
        return self.hand(fact)

    def fail(
        self, key: str, kind: FailureKind = FailureKind.ERROR, error: str = "no", *, types: Any = None, **told: Any
    ) -> Turn:
        """Let it fail; as an exception of any class unless `types` says which."""
        request = self.under_way[key]
        error_types = ("RuntimeError", "Exception") if types is None else tuple(types)
        fact = AttemptFailed(
            key, request.attempt, request.epoch, kind, error, self._began(key), self.now, error_types, **told
        )
        return self.hand(fact)

    def halt(self, key: str, **told: Any) -> Turn:
        """Let a stopped attempt answer as one that was cancelled."""
        return self.fail(key, FailureKind.CANCELLED, "stopped", types=(), **told)

    def fire(self, key: str) -> Turn:
        """Let this timer ring at the moment it is due, or now if that is past."""
        self.now = max(self.now, self.timers[key])
        return self.hand(TimerFired(key, self.now))

    def cancel(self, reason: str = "") -> Turn:
        return self.hand(CancelRequested("Ann", self.now, reason))

    def approve(self, key: str, output: Any = None) -> Turn:
        """Say yes to what this step asks now."""
        return self.hand(ApprovalAnswered(key, True, "Ann", self.now, output, self.asked(key)))

    def deny(self, key: str) -> Turn:
        return self.hand(ApprovalAnswered(key, False, "Ann", self.now, None, self.asked(key)))

    def asked(self, key: str) -> str | None:
        """Return the binding of what this step asks, or asked last."""
        node = self.machine.state.nodes.get(key)
        return node.asked.request.binding if node is not None and node.asked is not None else None

    def resolve(self, key: str, how: str, output: Any = None, error: str | None = None) -> Turn:
        return self.hand(StepResolved(key, how, "Ann", self.now, output, error))

    def restart(self) -> Turn:
        """Lose the engine and everything under way; a new one takes the run up from its journal."""
        self.replay()
        self.under_way.clear()
        self.timers.clear()
        self.undecided = False
        self.epoch += 1
        return self.hand(RunResumed(self.epoch, self.now))

    def replay(self) -> None:
        """Put a new machine, which has read the journal, in the place of the old one."""
        self.machine = RunMachine(self.run_id)
        self.machine.replay(self.journal)

    def finish(self, answer: Callable[[RunStep], Any] = lambda request: request.key) -> RunResult:
        """Let everything succeed, timers ring and stopped attempts end, until nothing is left to do."""
        for _ in range(100_000):
            if self.machine.ended:
                break
            if self.under_way:
                key = next(iter(self.under_way))
                self.halt(key) if key in self.stopped else self.ok(key, answer(self.under_way[key]))
            else:
                self.fire(min(self.machine.state.timers, key=self.machine.state.timers.__getitem__))
        return self.result

    def _began(self, key: str) -> float:
        return next(
            event.at for event in reversed(self.journal) if isinstance(event, StepDispatched) and event.step == key
        )

    # --- what came of it ---

    @property
    def result(self) -> RunResult:
        return run_result(self.machine.state, waiting=self.machine.waits_for_person)

    @property
    def status(self) -> RunStatus:
        return self.result.status

    @property
    def output(self) -> Any:
        return self.result.output

    def statuses(self) -> dict[str, str]:
        """Return every step's status; a skipped one with its reason."""
        return {key: _told(node.status, node.reason) for key, node in self.machine.state.nodes.items()}

    @property
    def running(self) -> list[str]:
        return list(self.under_way)

    def order(self) -> list[str]:
        return [request.key for request in self.started]

    def of_type(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.journal if isinstance(event, kind)]

    @property
    def record(self) -> list[Recorded]:
        """Return the journal as a journal gives it."""
        pairs = zip(self.causes, self.journal, strict=True)
        return [Recorded(seq, cause, event) for seq, (cause, event) in enumerate(pairs, start=1)]

    def assert_replays(self) -> None:
        """Assert that the journal alone gives this state, is lawful, and that today's heart would decide it again."""
        twin = RunMachine(self.run_id)
        twin.replay(self.journal)
        different = differences(snapshot(self.machine), snapshot(twin))
        assert different == {}, different
        divergence = diverges(self.run_id, self.record)
        assert divergence is None, divergence
        self.assert_is_lawful()

    def assert_is_lawful(self) -> None:
        """Assert that the journal breaks no law, as it stands now."""
        accused = check_history(self.record, run_id=self.run_id)
        assert accused == [], [str(one) for one in accused]


def _told(status: StepStatus, reason: Any) -> str:
    return status.value if reason is None else f"{status.value}: {reason.value}"


def _together(one: Turn, other: Turn) -> Turn:
    commands = [command for command in (*one.commands, *other.commands) if not isinstance(command, GoOn)]
    return Turn(one.events + other.events, one.causes + other.causes, tuple(commands))


def check_turn(turn: Turn, *, seq: int) -> None:
    """Assert what holds for every turn: events and commands tell the same story."""
    assert len(turn.events) == len(turn.causes)
    assert all(0 <= cause <= seq + place for place, cause in enumerate(turn.causes))
    dispatched = [(event.step, event.attempt) for event in turn.events if isinstance(event, StepDispatched)]
    assert [(command.key, command.attempt) for command in turn.commands if isinstance(command, RunStep)] == dispatched
    ends = [command for command in turn.commands if isinstance(command, EndRun)]
    finished = [event for event in turn.events if isinstance(event, RunFinished)]
    assert [command.status for command in ends] == [event.status for event in finished]
    if finished:
        assert turn.events[-1] is finished[0]


def snapshot(machine: RunMachine) -> dict[str, Any]:
    """Return everything about a run that its journal must give back."""
    state = machine.state
    budget = state.budget
    held = {name: count for name, count in budget._names.items() if count}
    return {
        "run": (state.seq, state.epoch, state.status, state.stopping, state.finished, state.imperfect, state.refused),
        "paused": state.paused,
        "nodes": {key: _node(node) for key, node in state.nodes.items()},
        "running": sorted(state.running),
        "timers": dict(sorted(state.timers.items())),
        "blocked": sorted(state.blocked),
        "used": (budget.calls, round(budget.cost_usd, 6), budget.usage),
        "held": (budget.running, budget._reserved_calls, round(budget._reserved_cost, 6), held),
        "gauges": (round(budget._memory_mb, 6), round(budget._cpu_percent, 6)),
        "left": state.root.left,
        "failures": state.root.failures,
        "result": _told_again(run_result(state).to_dict()),
    }


def _told_again(result: Any) -> Any:
    """Return it with `pending` for `ready`: whether a step is queued already is no fact, so not on record."""
    if isinstance(result, dict):
        return {key: "pending" if value == "ready" else _told_again(value) for key, value in result.items()}
    return [_told_again(entry) for entry in result] if isinstance(result, list) else result


def _node(node: Any) -> tuple[Any, ...]:
    return (
        node.status,
        node.output,
        node.error,
        node.error_kind,
        node.errors,
        node.reason,
        node.because,
        node.attempt,
        node.failures,
        node.lost,
        None if node.calls is None else (node.calls.ended, node.calls.open, node.calls.usd, node.calls.usage),
        node.epoch,
        node.seq,
        node.waiting,
        node.due_at,
        node.deadline_at,
        node.started_at,
        node.ended_at,
        node.cost_usd,
        node.usage,
        node.met,
        node.ok,
        node.failed,
        node.skipped,
        node.broken,
        node.clean,
        node.stopping,
        node.left,
        [child.key for child in node.children] if node.children is not None else None,
        (node.inner.left, node.inner.failures, node.inner.stopping) if node.inner is not None else None,
        (node.inner.given, node.inner.control) if node.inner is not None else None,
        (node.labels, node.told),
        (node.asked.request, node.asked.by, node.asked.earlier) if node.asked is not None else None,
    )


def usage(tokens: int) -> Usage:
    return Usage(tokens, 0, 1)


def kinds(events: Iterable[Event]) -> list[str]:
    """Return the names of events in order, each with its step."""
    return [" ".join(filter(None, (type(event).__name__, getattr(event, "step", "")))) for event in events]


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return what differs between two snapshots, both sides of it; nodes one by one."""
    flat_one, flat_other = (
        {**told, **told["nodes"], **told["result"], "nodes": 0, "result": 0} for told in (one, other)
    )
    keys = flat_one.keys() | flat_other.keys()
    return {key: (flat_one.get(key), flat_other.get(key)) for key in keys if flat_one.get(key) != flat_other.get(key)}
