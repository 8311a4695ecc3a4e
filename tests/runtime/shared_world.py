"""A cluster in virtual time: a table, a bus that keeps no promise, workers that die, and agents that crash anywhere.

Rule 1: only the table lasts, and what happened in the world: the log of effects.
Rule 2: an agent does what the real one does, in the order in which it does it: commit, publish, then acknowledge.
Rule 3: all dice are thrown by one `Random`, so a seed tells the same story again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any

from planloom.core.commands import RunStep
from planloom.core.events import AttemptFailed, AttemptSucceeded, Fact, RunFinished, RunStarted, StepResolved, ToolFacts
from planloom.core.machine import RunMachine
from planloom.errors import JournalConflictError, JournalError
from planloom.journal.codec import decode, encode
from planloom.journal.postgres.work import Decided, LockedRun, Work, WorkKey
from planloom.plan.model import Plan
from planloom.plan.policy import Effects, FailureKind
from planloom.ports import Recorded
from planloom.runtime.cluster.hearts import Done, Hearts
from planloom.runtime.cluster.inputs import Claimed, Due, Fate, Input, Lost, PersonSaid, Received, Stated, Submitted
from planloom.runtime.cluster.outbox import Placing, as_sent
from planloom.runtime.people import answer_fact
from planloom.runtime.wire import JsonWire

TOOLS = {
    "t": ToolFacts("d", Effects.NONE),
    "key": ToolFacts("d", Effects.IDEMPOTENT),
    "once": ToolFacts("d", Effects.ONCE),
}
LEASE_S = 4.0
MAX_DELIVER = 4
QUIET_S = 8.0
"""Seconds after which work is looked for that nothing was heard of."""


class Clock:
    """Time as the story tells it."""

    def __init__(self) -> None:
        self.time = 1_000.0

    def now(self) -> float:
        return self.time

    def call_at(self, when: float, callback: Callable[[], None]) -> Callable[[], None]:
        raise NotImplementedError


class OtherClock(Clock):
    """The clock of one agent, which is not quite that of the others."""

    def __init__(self, story: Clock, ahead_s: float) -> None:
        self.story, self.ahead_s = story, ahead_s

    def now(self) -> float:
        return self.story.now() + self.ahead_s


class Crash(Exception):
    """An agent is killed here."""


@dataclass
class _Row:
    record: list[Recorded] = field(default_factory=list)
    work: dict[WorkKey, Work] = field(default_factory=dict)
    check_at: dict[WorkKey, float] = field(default_factory=dict)
    posted: list[tuple[int, Fact]] = field(default_factory=list)
    wake_at: float | None = None


class Table:
    """What `SharedRuns` is, in memory. What is written is read back as its codec reads it."""

    def __init__(self, dice: Random) -> None:
        self.rows: dict[str, _Row] = {}
        self.dice = dice
        self.again = 0.0
        """Share of turns that are tried a second time."""
        self.stuck: set[str] = set()
        """Runs that cannot be written."""
        self.fails = 0.0
        """Share of turns that are not written."""
        self.unknown = 0.0
        """Share of turns that are durable, and whose answer is lost."""

    async def turn(self, known: Mapping[str, int], decide: Callable[[LockedRun], Decided | None]) -> None:
        found = self._decided(known, decide)
        if self.dice.random() < self.again:
            found = self._decided(known, decide)
        if not self.stuck.isdisjoint(found):
            raise JournalConflictError("somebody else wrote to one of these runs")
        if self.dice.random() < self.fails:
            raise JournalError("the server went away")
        for run_id, decided in found.items():
            self._write(self.rows.setdefault(run_id, _Row()), decided)
        if self.dice.random() < self.unknown:
            raise JournalError("the server did not say whether it is durable")

    def _decided(self, known: Mapping[str, int], decide: Callable[[LockedRun], Decided | None]) -> dict[str, Decided]:
        found = {}
        for run_id in sorted(known):
            row = self.rows.get(run_id, _Row())
            events = row.record[known[run_id] :]
            last = len(row.record)
            locked = LockedRun(
                run_id, last, events, "cluster" if last else "", "", dict(row.work), list(row.posted), row.wake_at
            )
            decided = decide(locked)
            if decided is not None:
                found[run_id] = decided
        return found

    def _write(self, row: _Row, decided: Decided) -> None:
        for cause, event in zip(decided.causes, decided.events, strict=True):
            kind, version, body, blobs = encode(event)
            apart = {blob.sha256: blob.text for blob in blobs}
            row.record.append(Recorded(len(row.record) + 1, cause, decode(kind, version, body, apart.__getitem__)))
        for key in decided.closed:
            row.work.pop(key, None)
        for work in decided.opened:
            row.work[work.key] = replace(work, sent_at=None, claimed_by=None)
        for key, at in decided.stopped:
            row.work[key] = replace(row.work[key], stop_at=at)
        for key, worker in decided.claimed:
            row.work[key] = replace(row.work[key], claimed_by=worker)
        row.wake_at = decided.wake_at
        row.posted = [(number, fact) for number, fact in row.posted if number > decided.taken]

    def all_work(self) -> list[Work]:
        return [work for row in self.rows.values() for work in row.work.values()]

    def mark_sent(self, work: Work, at: float) -> None:
        row = self.rows[work.run_id]
        held = row.work.get(work.key)
        if held is not None and held.token == work.token:
            row.work[work.key] = replace(held, sent_at=at)
            row.check_at[work.key] = at + QUIET_S


@dataclass
class Faults:
    """Shares of what may go wrong."""

    duplicated: float = 0.1
    delayed: float = 0.2
    """Messages that come late, some of them after their lease."""
    lost: float = 0.05
    """Messages that the broker loses: commands as well as outcomes."""
    worker_dies: float = 0.1
    zombie: float = 0.05
    """Workers that freeze, and go on long after somebody else has their work."""
    agent_crashes: float = 0.1
    unheard: float = 0.1
    """Answers to a worker that get lost on the way."""
    skewed_s: float = 2.0
    """Seconds by which the clocks of agents are ahead, or behind, at most."""
    wiped: float = 0.0
    """Seconds in which the broker loses all it has."""


@dataclass
class _Command:
    work: Work
    body: dict[str, Any]
    deliveries: int = 0


class Cluster:
    """A few agents, a bus and any number of workers.

    Attributes:
        effects: How often each thing that has effects was really done, by its idempotency key.
        fates: What became of all inputs.
    """

    def __init__(self, seed: int, faults: Faults, *, agents: int = 3, places: Set[str] = frozenset({""})) -> None:
        self.dice = Random(seed)
        self.faults = faults
        self.clock = Clock()
        self.table = Table(self.dice)
        self.places = places
        self.placing = Placing(
            JsonWire(), lambda request: "main", lambda labels: ",".join(f"{k}={v}" for k, v in sorted(labels.items())),
            lease_s=LEASE_S,
        )  # fmt: skip
        self.agents = [self._agent() for _ in range(agents)]
        self.commands: dict[tuple[Any, ...], _Command] = {}
        self.effects: Counter[str] = Counter()
        self.fates: Counter[Fate] = Counter()
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.crashes = 0
        self.submitted: list[str] = []
        self.stored: dict[int, tuple[Any, ...]] = {}
        """Outcomes that the broker has and nobody has acknowledged."""
        self._numbers = count(1)
        self._happens: list[tuple[float, int, Callable[[], None]]] = []
        self.later(1.0, self._sweep)

    def _agent(self) -> Hearts:
        clock = OtherClock(self.clock, self.dice.uniform(-self.faults.skewed_s, self.faults.skewed_s))
        return Hearts(self.table, self.placing, clock, keep=3)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        heappush(self._happens, (self.clock.time + seconds, next(self._numbers), what))

    def chance(self, share: float) -> bool:
        return self.dice.random() < share

    # --- the story ----------------------------------------------------------------------------

    def submit(self, run_id: str, plan: Plan, **pinned: Any) -> None:
        started = RunStarted(plan, {}, self.clock.now(), None, dict(TOOLS), request=run_id, run_ahead=False, **pinned)
        self.submitted.append(run_id)
        self.bring(Submitted(run_id, started))

    def run(self, *, until_s: float = 3_000.0) -> None:
        """Tell the story until every run has ended."""
        while not all(run_id in self.table.rows and self.ended(run_id) for run_id in self.submitted):
            at, _, what = heappop(self._happens)
            assert at < 1_000.0 + until_s, f"it does not end: {self.open_runs()}"
            self.clock.time = at
            what()

    def record(self, run_id: str) -> list[Recorded]:
        return self.table.rows[run_id].record

    def machine(self, run_id: str) -> RunMachine:
        machine = RunMachine(run_id)
        machine.replay(entry.event for entry in self.record(run_id))
        return machine

    def ended(self, run_id: str) -> bool:
        record = self.record(run_id)
        return bool(record) and isinstance(record[-1].event, RunFinished)

    def open_runs(self) -> dict[str, Any]:
        return {
            run_id: (row.record[-1].event, row.work, row.wake_at)
            for run_id, row in self.table.rows.items()
            if not self.ended(run_id)
        }

    # --- agents -------------------------------------------------------------------------------

    def leave(self, run_id: str, fact: Fact) -> None:
        """Leave something for a run in the journal, if there is one by now."""
        if run_id in self.table.rows:
            self.table.rows[run_id].posted.append((next(self._numbers), fact))

    def bring(self, one: Input) -> None:
        """Have the bus bring an input to some agent, perhaps twice, perhaps late."""
        for _ in range(2 if self.chance(self.faults.duplicated) else 1):
            delay = self.dice.uniform(0, 0.05)
            if self.chance(self.faults.delayed):
                delay = self.dice.choice([0.5, 2.0, LEASE_S * 2])
            self.later(delay, lambda: self._input(one))

    def _input(self, one: Input) -> None:
        """Take an input in; where an agent dies over it, the bus brings it again."""
        which = self.dice.randrange(len(self.agents))
        try:
            answer = self._taken(which, [one])[0]
        except (Crash, JournalError) as error:
            self._dies(which, error)
            self.later(1.0, lambda: self._input(one))
            return
        if answer.fate in (Fate.RESTS, Fate.BROKEN):
            self.later(1.0, lambda: self._input(one))

    def _taken(self, which: int, inputs: list[Input]) -> list[Received]:
        """Commit, publish, and return the answers; an agent may die before each of these, and after."""
        self._may_crash()
        done = now(self.agents[which].take(inputs))
        self._may_crash()
        for work in done.opened:
            self._may_crash()
            self.publish(work)
        for work in done.void:
            self.commands.pop((*work.key, work.run_id, work.place), None)
        self._may_crash()
        self.fates.update(answer.fate for answer in done.answers)
        return list(done.answers)

    def _dies(self, which: int, error: Exception) -> None:
        if isinstance(error, Crash):  # else it lives on, and brings the input again
            self.crashes += 1
            self.agents[which] = self._agent()

    def _may_crash(self) -> None:
        if self.chance(self.faults.agent_crashes / 5):
            raise Crash

    def _sweep(self) -> None:
        """Do what agents do each second: timers, what was not sent, what nothing was heard of, and people."""
        self.later(1.0, self._sweep)
        now = self.clock.now()
        if self.chance(self.faults.wiped):
            self.commands.clear()
            self.stored.clear()
        for run_id, row in self.table.rows.items():
            if (row.wake_at is not None and row.wake_at <= now) or row.posted:
                self._input(Due(run_id))
        for work in self.table.all_work():
            row = self.table.rows[work.run_id]
            if work.sent_at is None and work.send_at <= now - 2.0:
                self._check(work)
            elif work.sent_at is not None and row.check_at[work.key] <= now:
                row.check_at[work.key] = now + QUIET_S
                self._check(work)
        self._people()

    def _check(self, work: Work) -> None:
        """Look for work where it was put: with the workers, then among the inputs, then on record."""
        if (*work.key, work.run_id, work.place) in self.commands:
            return
        if any(one[:2] == (work.run_id, work.key) for one in self._on_their_way()):
            return
        held = self.table.rows[work.run_id].work.get(work.key)
        if held is not None and held.token == work.token:
            self._input(Lost(work.run_id, work.key, work.token, "it is nowhere", is_nowhere=True))

    def _on_their_way(self) -> list[tuple[Any, ...]]:
        return list(self.stored.values())

    def publish(self, work: Work) -> None:
        place = (*work.key, work.run_id, work.place)
        if place not in self.commands:
            command = _Command(work, json.loads(as_sent(work, self.clock.now())))
            if not self.chance(self.faults.lost):
                self.commands[place] = command
                self.later(self.dice.uniform(0, 0.1), lambda: self._deliver(place, command))
        self.table.mark_sent(work, self.clock.now())

    # --- workers ------------------------------------------------------------------------------

    def _deliver(self, place: tuple[Any, ...], command: _Command) -> None:
        if self.commands.get(place) is not command:
            return  # it was acknowledged, or taken away
        if command.work.place not in self.places:
            return  # no worker is there
        command.deliveries += 1
        if command.deliveries > MAX_DELIVER:
            del self.commands[place]
            work = command.work
            self.bring(Lost(work.run_id, work.key, work.token, f"it was delivered {MAX_DELIVER} times"))
            return
        self.later(LEASE_S, lambda: self._deliver(place, command))
        self._work(place, command, f"w{next(self._numbers)}")

    def _work(self, place: tuple[Any, ...], command: _Command, worker: str) -> None:
        if self.chance(self.faults.worker_dies / 2):
            return
        work, again = command.work, command.deliveries > 1
        if command.body["needs_claim"]:
            claim = Claimed(work.run_id, work.key, command.body["token"], worker, again)
            if self._asked(claim).fate is not Fate.TAKEN:
                self._acknowledge(place, command)
                return
        elif again:
            self._tell(place, command, FailureKind.LOST)
            return
        request = JsonWire().request_in(command.body["step"], self.clock.now())
        if request.effects is not Effects.NONE:
            self.effects[request.idempotency_key] += 1
        if self.chance(self.faults.worker_dies):
            return
        seconds = LEASE_S * 2 if self.chance(self.faults.zombie) else self.dice.uniform(0.1, LEASE_S * 0.9)
        self.later(seconds, lambda: self._tell(place, command, None, request))

    def _asked(self, one: Input) -> Received:
        """Ask an agent, again and again until an answer is heard."""
        while True:
            which = self.dice.randrange(len(self.agents))
            try:
                answer = self._taken(which, [one])[0]
            except (Crash, JournalError) as error:
                self._dies(which, error)
                continue
            if not self.chance(self.faults.unheard):
                return answer

    def _tell(
        self,
        place: tuple[Any, ...],
        command: _Command,
        kind: FailureKind | None,
        request: RunStep | None = None,
    ) -> None:
        """Publish what an attempt came to, and only then acknowledge the command."""
        work, now = command.work, self.clock.now()
        where = work.step, work.attempt, work.epoch
        failing = request is not None and request.args.get("fails")
        fact: Fact
        if kind is not None:
            fact = AttemptFailed(*where, kind, "its worker was lost", now, now)
        elif failing:
            fact = AttemptFailed(*where, FailureKind.ERROR, "it says no", now - 0.1, now, ("ValueError", "Exception"))
        else:
            fact = AttemptSucceeded(*where, output_of(work.step), now - 0.1, now)
        stated = Stated(work.run_id, work.key, command.body["token"], fact, True)
        number = next(self._numbers)
        if not self.chance(self.faults.lost):
            self.stored[number] = work.run_id, work.key
            self._bring_stored(number, stated)
        self._acknowledge(place, command)

    def _bring_stored(self, number: int, one: Input) -> None:
        def taken() -> None:
            if number in self.stored:
                self._input(one)
                self.stored.pop(number, None)

        delay = self.dice.uniform(0, 0.05)
        if self.chance(self.faults.delayed):
            delay = self.dice.choice([0.5, 2.0, LEASE_S * 2])
        if self.chance(self.faults.duplicated):
            self.later(delay + 0.01, lambda: self._input(one))
        self.later(delay, taken)

    def _acknowledge(self, place: tuple[Any, ...], command: _Command) -> None:
        if self.commands.get(place) is command:
            del self.commands[place]

    # --- people -------------------------------------------------------------------------------

    def _people(self) -> None:
        """Received what waits: approve what asks, and say of an unknown outcome what really happened."""
        for run_id in self.table.rows:
            machine = self.machine(run_id) if not self.ended(run_id) else None
            for key, node in list(machine.state.blocked.items()) if machine else ():
                if node.waiting == "unknown":
                    effect = f"{run_id}/{key}"
                    fails = (node.step.args or {}).get("fails")
                    how = "retry" if not self.effects[effect] else "fail" if fails else "output"
                    told = output_of(key) if how == "output" else None
                    self.bring(
                        PersonSaid(run_id, StepResolved(key, how, "Ann", self.clock.now(), told, None, node.attempt))
                    )
                elif machine is not None:
                    fact = answer_fact(machine.state, key, by="Ann", approved=True, output=None, at=self.clock.now())
                    self.bring(PersonSaid(run_id, fact))


def output_of(step: str) -> Any:
    return f"of {step}"


def now(coroutine: Any) -> Done:
    """Return what a coroutine returns that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        done: Done = ended.value
        return done
    raise AssertionError("it waits for something")
