"""Runs in virtual time: a machine, a queue of what happens when, and a world that answers by rule.

Rule 1: what an attempt answers, and how long it takes, follows from its step, its arguments and how often the step has
failed; whether it runs ahead makes no difference. Only a draft may say something else.
Rule 2: effects are logged where they happen, when an attempt of a tool that has one begins.
Rule 3: no value is made up twice: all that is on record can be searched for values that were never confirmed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from hashlib import sha256
from heapq import heappop, heappush
from random import Random
from typing import Any

from planloom.core.commands import Command, EndRun, GoOn, RunStep, SetTimer, StopStep
from planloom.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    CancelRequested,
    Event,
    Fact,
    OutputStreamed,
    RunFinished,
    RunResumed,
    RunStarted,
    StepResolved,
    TimerFired,
    ToolFacts,
    WentOn,
)
from planloom.core.machine import RunMachine
from planloom.core.report import run_result
from planloom.core.result import RunResult, Usage
from planloom.plan.model import Plan
from planloom.plan.policy import Effects, FailureKind, ResourceLimits
from planloom.ports import Recorded
from planloom.runtime.replay import diverges
from tests.core.driving import differences, snapshot

TOOLS = {
    "t": ToolFacts("digest", effects=Effects.NONE),
    "once": ToolFacts("digest", effects=Effects.ONCE),
    "key": ToolFacts("digest", effects=Effects.IDEMPOTENT),
}
LINGERS_S = 0.02
"""Longest time a stopped attempt takes to end."""
VALUE = re.compile(r"v[0-9a-f]{12}")
"""How every value looks that an attempt answers."""


# --- the world ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """What attempts come to.

    Attributes:
        p: Share of drafts that say what the step's own model will say.
        verify_s, draft_s: Seconds of every attempt and every draft; None: different ones.
        lost: Share of drafts that fail.
        failing: Share of attempts that fail.
    """

    seed: int
    p: float = 0.7
    verify_s: float | None = None
    draft_s: float | None = None
    lost: float = 0.05
    failing: float = 0.12

    def draw(self, *what: Any) -> Random:
        return Random(json.dumps([self.seed, *what], sort_keys=True))

    def seconds(self, request: RunStep, failures: int) -> float:
        draw = self.draw("seconds", request.role, step_of(request), request.args, failures)
        if request.role == "draft":
            return draw.uniform(0.05, 0.3) if self.draft_s is None else self.draft_s
        if self.verify_s is not None:
            return self.verify_s
        return draw.uniform(0.5, 2.0) if request.step.model is not None else draw.uniform(0.05, 0.8)

    def answer(self, request: RunStep, failures: int) -> Any:
        """Return its value, or the exception's text in an `_Error`."""
        step = step_of(request)
        truth = self._truth(step, request.args, failures)
        if request.role != "draft":
            return truth
        draw = self.draw("draft", step, request.args)
        if draw.random() < self.lost:
            return _Error("the draft failed")
        if draw.random() < self.p and not isinstance(truth, _Error):
            return truth
        wrong = _value("wrong", self.seed, step, request.args)
        return draw.choice([wrong, {"text": wrong}, {"other": wrong}, None])

    def _truth(self, step: str, args: Any, failures: int) -> Any:
        if self.draw("fails", step, args, failures).random() < self.failing:
            return _Error(f"{step} says no")
        value = _value(self.seed, step, args)
        return value if self.verify_s is not None else {"text": value, "n": len(value)}


@dataclass(frozen=True)
class _Error:
    text: str


def _value(*what: Any) -> str:
    return "v" + sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]


def step_of(request: RunStep) -> str:
    """Return the key of the step an attempt is of, ahead of its time or not."""
    return request.key.partition("!")[0]


def is_ahead(request: RunStep) -> bool:
    return "!" in request.key


# --- a run -------------------------------------------------------------------------------------


@dataclass
class _Attempt:
    request: RunStep
    began: float
    fact: Fact
    ends_at: float
    streamed: list[tuple[float, str]] = field(default_factory=list)


class Simulated:
    """One run, from its start to its end.

    Attributes:
        now: Seconds since its start.
        journal, causes: What is on record.
        effects: What really happened: `(step, arguments)`.
        asked_s: Seconds that attempts of steps' own models took, all together, stopped ones as far as they came.
        spent_usd: What every attempt cost that ever ran, by the world's account.
        peak: Most attempts ever under way.
    """

    def __init__(
        self,
        document: dict[str, Any],
        world: World,
        *,
        cancel_at: float | None = None,
        restart_at: float | None = None,
        limits: dict[str, Any] | None = None,
        guesses: dict[str, Any] | None = None,
    ) -> None:
        self.world = world
        self.machine = RunMachine("run")
        self.now = 0.0
        self.journal: list[Event] = []
        self.causes: list[int] = []
        self.effects: list[tuple[str, Any]] = []
        self.requests: list[RunStep] = []
        self.answered: dict[str, Any] = {}
        self.asked_s = 0.0
        self.spent_usd = 0.0
        self.lost_attempts = 0
        self.peak = 0
        self._epoch = 1
        self._numbers = 0
        self._queue: list[tuple[float, int, Any]] = []
        self._at: dict[str, _Attempt] = {}
        self._timers: dict[str, float] = {}
        self._again = False
        plan = Plan.from_dict(document)
        limited = None if limits is None else ResourceLimits(**limits)
        if cancel_at is not None:
            self._later(cancel_at, "cancel")
        if restart_at is not None:
            self._later(restart_at, "restart")
        self._hand(RunStarted(plan, {}, 0.0, limited, TOOLS, guesses=guesses or {}))
        self._run()

    # --- what happens ---

    def _run(self) -> None:
        for _ in range(20_000):
            if self._again:
                self._again = False
                self._hand(WentOn(self.now))
                continue
            if not self._queue or self.machine.ended:
                return
            self.now, _, what = heappop(self._queue)
            if what == "cancel":
                self._hand(CancelRequested("Ann", self.now))
            elif what == "restart":
                self._restart()
            elif isinstance(what, TimerFired):
                if self._timers.get(what.step) == self.now:
                    del self._timers[what.step]
                    self._hand(what)
            elif isinstance(what, _Attempt):
                self._goes_on(what)
        raise AssertionError("the run does not end")

    def _goes_on(self, attempt: _Attempt) -> None:
        """An attempt streams its next piece, or ends."""
        request = attempt.request
        if self._at.get(request.key) is not attempt:
            return
        if attempt.streamed and attempt.streamed[0][0] <= self.now < attempt.ends_at:
            text = attempt.streamed.pop(0)[1]
            self._hand(OutputStreamed(request.key, request.attempt, request.epoch, text, self.now))
        if self.now < attempt.ends_at:
            return
        del self._at[request.key]
        self._count(attempt)
        self._hand(attempt.fact)

    def _count(self, attempt: _Attempt) -> None:
        took = self.now - attempt.began
        if attempt.request.step.model is not None and attempt.request.role != "draft":
            self.asked_s += took
        cost = attempt.fact.cost_usd if isinstance(attempt.fact, AttemptSucceeded | AttemptFailed) else None
        self.spent_usd += cost or 0.0

    def _restart(self) -> None:
        """Lose the engine and all that is under way; what had an effect is told by a person as it really was."""
        twin = RunMachine("run")
        twin.replay(self.journal)
        self.machine = twin
        self.lost_attempts += len(self._at)
        lost = [attempt for attempt in self._at.values() if attempt.request.effects is Effects.ONCE]
        self._at.clear()
        self._timers.clear()
        self._again = False
        self._epoch += 1
        self._hand(RunResumed(self._epoch, self.now))
        for attempt in lost:
            key, fact = attempt.request.key, attempt.fact
            if isinstance(fact, AttemptSucceeded):
                self._hand(StepResolved(key, "output", "Ann", self.now, fact.output))
            else:
                assert isinstance(fact, AttemptFailed)
                self._hand(StepResolved(key, "fail", "Ann", self.now, error=fact.error))

    def _hand(self, fact: Fact) -> None:
        turn = self.machine.handle(fact)
        self.journal.extend(turn.events)
        self.causes.extend(turn.causes)
        assert len(turn.events) == len(turn.causes)
        for command in turn.commands:
            self._do(command)

    def _do(self, command: Command) -> None:
        if isinstance(command, RunStep):
            self._begin(command)
        elif isinstance(command, SetTimer):
            self._timers[command.key] = command.due_at
            self._later(command.due_at, TimerFired(command.key, command.due_at))
        elif isinstance(command, StopStep):
            self._stop(command.key)
        elif isinstance(command, GoOn):
            self._again = True
        elif isinstance(command, EndRun):
            assert not self._at, f"the run ended and {list(self._at)} are under way"

    def _begin(self, request: RunStep) -> None:
        assert request.key not in self._at, f"{request.key} is under way twice"
        self.requests.append(request)
        node = self.machine.state.nodes[step_of(request)]
        if request.effects is not Effects.NONE:
            self._check_effect(request)
            self.effects.append((request.key, json.dumps(request.args, sort_keys=True)))
        failures = 0 if is_ahead(request) else node.failures
        attempt = self._attempt(request, failures)
        self._at[request.key] = attempt
        self.peak = max(self.peak, len(self._at))
        for at, _ in attempt.streamed:
            self._later(at, attempt)
        self._later(attempt.ends_at, attempt)

    def _check_effect(self, request: RunStep) -> None:
        """Assert that what has an effect begins on confirmed values only."""
        assert not is_ahead(request), f"{request.key} has effects and ran ahead"
        node = self.machine.state.nodes[request.key]
        for place in node.entry.upstream if node.parent is None else ():
            assert node.scope.nodes[place].ended, f"{request.key} began before {node.scope.nodes[place].key} ended"

    def _attempt(self, request: RunStep, failures: int) -> _Attempt:
        world, now = self.world, self.now
        seconds = world.seconds(request, failures)
        answer = world.answer(request, failures)
        ends_at, told = now + seconds, (request.key, request.attempt, request.epoch)
        fact: Fact
        if request.deadline_at is not None and ends_at > request.deadline_at:
            ends_at = max(now, request.deadline_at)
            fact = _failed(told, FailureKind.TIMEOUT, "its time was over", now, ends_at, ("TimeoutError", "Exception"))
        elif isinstance(answer, _Error):
            fact = _failed(told, FailureKind.ERROR, answer.text, now, ends_at, ("RuntimeError", "Exception"))
        else:
            usd = _usd(now, ends_at)
            fact = AttemptSucceeded(*told, answer, now, ends_at, usage=Usage(10, 5, 1), cost_usd=usd)
            if request.role != "draft":
                self.answered[json.dumps([step_of(request), request.args], sort_keys=True)] = answer
        streamed = []
        if request.step.stream and request.role == "" and isinstance(fact, AttemptSucceeded):
            streamed = [(now + (ends_at - now) * part, str(answer["text"])) for part in (0.3, 0.6)]
        return _Attempt(request, now, fact, ends_at, streamed)

    def _stop(self, key: str) -> None:
        """Ask an attempt to stop: it ends in its own way, or soon as one that was stopped."""
        assert key in self._at, f"{key} is stopped but not under way"
        attempt = self._at[key]
        request = attempt.request
        ends_at = self.now + self.world.draw("stops", step_of(request), request.attempt).uniform(0.0, LINGERS_S)
        if ends_at >= attempt.ends_at:
            return
        told = (key, request.attempt, request.epoch)
        attempt.fact = _failed(told, FailureKind.CANCELLED, "stopped", attempt.began, ends_at, ())
        attempt.ends_at = ends_at
        self._later(ends_at, attempt)

    def _later(self, at: float, what: Any) -> None:
        self._numbers += 1
        heappush(self._queue, (at, self._numbers, what))

    # --- what came of it ---

    @property
    def result(self) -> RunResult:
        return run_result(self.machine.state, waiting=self.machine.waits_for_person)

    @property
    def done_s(self) -> float:
        """Return when the last step ended."""
        return max(node.ended_at or 0.0 for node in self.machine.state.nodes.values())

    @property
    def finished_s(self) -> float:
        return next(event.at for event in self.journal if isinstance(event, RunFinished))

    def ends(self) -> dict[str, Any]:
        """Return how each step ended."""
        return {
            key: (node.status.value, node.reason and node.reason.value, node.output, node.error_kind, node.error)
            for key, node in self.machine.state.nodes.items()
        }

    def values_on_record(self) -> set[str]:
        return set(VALUE.findall(repr(self.journal[1:])))

    def check(self) -> None:
        """Assert what holds for every run, however it went."""
        assert self.machine.ended, f"stuck with {list(self._at)} under way and {self._timers}"
        assert not self._at
        assert len({key for key, _ in self.effects}) == len(self.effects) or self._retried()
        twin = RunMachine("run")
        twin.replay(self.journal)
        found = differences(snapshot(self.machine), snapshot(twin))
        assert found == {}, found
        record = [
            Recorded(seq, cause, event)
            for seq, (cause, event) in enumerate(zip(self.causes, self.journal, strict=True), start=1)
        ]
        divergence = diverges("run", record)
        assert divergence is None, divergence
        if not self.lost_attempts:
            cost = self.result.cost_usd
            assert abs((cost or 0.0) - self.spent_usd) < 1e-6, (cost, self.spent_usd)
        assert self.machine.state.budget.running == 0

    def _retried(self) -> bool:
        """Return whether something other than a `once` tool was tried again."""
        once = [key for key, _ in self.effects if self.machine.state.nodes[key].step.tool == "once"]
        return len(set(once)) == len(once)


def _failed(
    told: tuple[str, int, int], kind: FailureKind, text: str, began: float, at: float, types: tuple[str, ...]
) -> AttemptFailed:
    return AttemptFailed(*told, kind, text, began, at, types, usage=Usage(10, 0, 1), cost_usd=_usd(began, at))


def _usd(began: float, at: float) -> float:
    return round((at - began) * 0.01, 9)


# --- plans -------------------------------------------------------------------------------------


def without_speculation(document: Any) -> Any:
    """Return the plan with no step that speculates."""
    if isinstance(document, dict):
        return {key: without_speculation(value) for key, value in document.items() if key != "speculate"}
    return [without_speculation(entry) for entry in document] if isinstance(document, list) else document


def random_plan(seed: int, *, timing_matters: bool = False, contended: bool = False) -> dict[str, Any]:
    """Return a plan of 8 to 16 steps, 15 % of them with an effect that must not happen twice.

    Args:
        timing_matters: Let the first failed step stop the run, so that what else is done depends on the time.
        contended: Let steps stand in each other's way; who is sooner may then be what makes all of it later.
    """
    draw = Random(seed)
    steps: list[dict[str, Any]] = []
    for place in range(draw.randint(8, 16)):
        steps.append(_random_step(draw, place, steps))
        if draw.random() < 0.15 and contended:
            steps[-1]["mode"] = "sequential"
    return {"name": "p", "fail_fast": timing_matters, "steps": steps}


def _random_step(draw: Random, place: int, above: list[dict[str, Any]]) -> dict[str, Any]:
    near = above[-5:]
    needs = [step["id"] for step in draw.sample(near, min(len(near), draw.choice((0, 1, 1, 1, 2, 2, 3))))]
    said = [name for name in needs if draw.random() < 0.85]
    step: dict[str, Any] = {"id": f"s{place}"} | _random_kind(draw, said)
    if needs:
        step["needs"] = [_random_need(draw, name) for name in needs]
    if draw.random() < 0.3:
        step["on_error"] = draw.choice(["skip", "continue"])
    if draw.random() < 0.25:
        step["retry"] = {"max_attempts": draw.randint(2, 3), "initial_delay": 0.2, "jitter": draw.random() < 0.5}
    if draw.random() < 0.15:
        step["attempt_timeout"] = draw.choice([0.3, 1.0, 1.5])
    elif draw.random() < 0.08 and "plan" not in step:  # a whole plan that runs ahead may well end in time
        step["timeout_seconds"] = draw.choice([0.3, 1.0, 1.5])
    if draw.random() < 0.1:
        step["join"] = draw.choice(["all_done", "none_failed", "none_failed_min_one_success"])
    if draw.random() < 0.05:
        step["when"] = draw.choice(["true", "false"])
    if draw.random() < 0.06 and "plan" not in step:
        step["for_each"] = [1, 2, 3][: draw.randint(0, 3)]
    if draw.random() < 0.1:
        step["priority"] = draw.randint(-1, 1)
    return step


def _random_need(draw: Random, name: str) -> Any:
    if draw.random() < 0.06:
        return {"step": name, "when": f"steps.{name}.status == 'completed'"}
    return name


def _random_kind(draw: Random, said: list[str]) -> dict[str, Any]:
    roll = draw.random()
    text = draw.choice(["output", "output", "output.text"])
    told = {name: f"${{{{ steps.{name}.{text} }}}}" for name in said}
    if roll < 0.15:
        return {"tool": "once", "with": told}
    if roll < 0.2:
        return {"tool": "key", "with": told}
    if roll < 0.35:
        return {"tool": "t", "with": told}
    if roll < 0.4:
        return {"plan": {"name": "inner", "fail_fast": False, "steps": _chain(draw)}}
    step: dict[str, Any] = {"model": "big", "prompt": " ".join(["Go on:", *told.values()])}
    if draw.random() < 0.08:
        step["stream"] = True
    if draw.random() < 0.75:
        step["speculate"] = {
            "draft": "small",
            "policy": "compare",
            "max_depth": draw.choice([1, 2, 2, 3, 8]),
            "latency_weight": draw.choice([1.0, 1.0, 0.9, 0.5]),
        }
    return step


def _chain(draw: Random) -> list[dict[str, Any]]:
    return chain(draw.randint(2, 3), depth=2)["steps"]


def chain(length: int, *, depth: int) -> dict[str, Any]:
    """Return a plan in which each step asks about the answer of the one before, and all are drafted."""
    speculate = {"draft": "small", "policy": "compare", "max_depth": depth, "latency_weight": 1.0}
    steps: list[dict[str, Any]] = [{"id": "c0", "model": "big", "prompt": "Begin.", "speculate": speculate}]
    for place in range(1, length):
        prompt = f"Go on: ${{{{ steps.c{place - 1}.output }}}}"
        steps.append({"id": f"c{place}", "model": "big", "prompt": prompt, "speculate": speculate})
        steps[-1]["needs"] = [f"c{place - 1}"]
    return {"name": "chain", "steps": steps}
