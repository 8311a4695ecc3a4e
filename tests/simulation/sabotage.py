"""Bugs that are put into the engine on purpose, one at a time: a simulation that does not find them is worth nothing.

Rule 1: nothing checks for any of these: a bug is caught when a life breaks a law that every life is held to.
Rule 2: a life with a bug is judged with the bug: what of the engine the judge uses has it, too, as it would be with a
bug that nobody knows of.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from planloom.agents.authority import Authority
from planloom.core import answers, ended, endings, fold, machine, ready, replanning, run_state, speculation, starts
from planloom.core.budget import Budget
from planloom.core.commands import SetTimer
from planloom.core.events import AttemptFailed, AttemptSucceeded, RunResumed, StepExpanded
from planloom.core.result import StepStatus
from planloom.executors.inner import Inner
from planloom.executors.wrap.cached import CachedExecutor
from planloom.plan.policy import Effects
from planloom.runtime import engine, posted
from planloom.runtime.driver import Driver
from tests.simulation.disk import SimulatedWriter
from tests.simulation.sweep import Found, look_at

LIFE_S = 20
"""Real seconds after which a life with a bug in it is taken to go round and round."""
MOST = 2_000
"""Seeds within which every bug must be caught."""


@dataclass(frozen=True, slots=True)
class Bug:
    """One bug.

    Attributes:
        put: Puts it in for as long as the context is open.
    """

    name: str
    what: str
    put: Callable[[], AbstractContextManager[None]]


BUGS: dict[str, Bug] = {}


def bug(what: str) -> Callable[[Callable[[], Iterator[None]]], Callable[[], Iterator[None]]]:
    """Keep a bug under the name of its function."""

    def keep(put: Callable[[], Iterator[None]]) -> Callable[[], Iterator[None]]:
        name = put.__name__.replace("_", " ")
        BUGS[name] = Bug(name, what, contextmanager(put))
        return put

    return keep


@contextmanager
def patched(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Have something in the place of a function, made of it."""
    before = getattr(owner, name)
    setattr(owner, name, make(before))
    try:
        yield
    finally:
        setattr(owner, name, before)


# --- the record and its two rules --------------------------------------------------------------


@bug("what has an effect is started before its start is durable")
def early_output_commit() -> Iterator[None]:
    def submit(driver: Any, command: Any) -> None:
        driver._lane.submit(command, driver.deliver, driver.record)

    with patched(Driver, "_submit", lambda _: submit):
        yield


@bug("nobody waits until what he is told is durable")
def skipped_flush() -> Iterator[None]:
    async def flushed(driver: Any) -> None:
        await asyncio.sleep(0)

    with patched(Driver, "flushed", lambda _: flushed):
        yield


@bug("the journal says that it has written before it has")
def acknowledged_before_written() -> Iterator[None]:
    def make(append: Any) -> Any:
        def lying(writer: Any, events: Any, causes: Any) -> int:
            seq: int = append(writer, events, causes)
            asyncio.get_running_loop().call_soon(writer._on_durable, seq, None)
            return seq

        return lying

    with patched(SimulatedWriter, "append", make):
        yield


@bug("an engine that has lost its run goes on writing")
def ignored_fence() -> Iterator[None]:
    def make(commit: Any) -> Any:
        def unfenced(writer: Any, *, broken: bool) -> None:
            owner, writer.run.owner = writer.run.owner, writer
            commit(writer, broken=broken)
            writer.run.owner = owner

        return unfenced

    with patched(SimulatedWriter, "commit", make):
        yield


@bug("a person's answer is forgotten before what it led to is durable")
def forgotten_too_early() -> Iterator[None]:
    async def take(journal: Any, clock: Any, driver: Any, found: Any, *, but: tuple[type, ...] = ()) -> None:
        if found:
            await journal.taken(driver.machine.run_id, found[-1][0])
        for _, fact in found:
            if not isinstance(fact, but):
                driver.deliver(replace(fact, at=clock.now()))

    with patched(engine, "take_posted", lambda _: take), patched(posted, "take_posted", lambda _: take):
        yield


# --- attempts ----------------------------------------------------------------------------------


def _as_if_current(wrong: Callable[[Any, Any], bool]) -> Callable[[Any], Any]:
    def make(handle: Any) -> Any:
        def taking(heart: Any, fact: Any) -> Any:
            if isinstance(fact, AttemptSucceeded | AttemptFailed):
                node = heart.state.running.get(fact.step)
                if node is not None and wrong(node, fact):
                    fact = replace(fact, attempt=node.attempt, epoch=node.epoch)
            return handle(heart, fact)

        return taking

    return make


@bug("a result of before the restart counts")
def ignored_epoch() -> Iterator[None]:
    wrong = _as_if_current(lambda node, fact: fact.epoch != node.epoch)
    with patched(machine.RunMachine, "handle", wrong):
        yield


@bug("a result of an attempt that was given up counts")
def old_attempt_accepted() -> Iterator[None]:
    wrong = _as_if_current(lambda node, fact: fact.epoch == node.epoch and fact.attempt < node.attempt)
    with patched(machine.RunMachine, "handle", wrong):
        yield


@bug("what may be done only once is tried again after an error")
def once_step_retried() -> Iterator[None]:
    def make(worth: Any) -> Any:
        return lambda policy, failure, *, failures, effects: worth(
            policy, failure, failures=failures, effects=Effects.IDEMPOTENT
        )

    with patched(answers, "worth_retrying", make):
        yield


@bug("after a restart, what was under way and may be done only once is simply done again")
def unknown_outcome_guessed() -> Iterator[None]:
    def make(resumed: Any) -> Any:
        def guessing(state: Any, event: Any) -> None:
            resumed(state, event)
            for node in state.nodes.values():
                if node.waiting == "lost":
                    node.waiting = None
                    node.move(StepStatus.READY)
                    fold._ready_again(state, node, node.claim)

        return guessing

    with applied(RunResumed, make):
        yield


@bug("a failed step is tried once more than its policy says")
def one_retry_too_many() -> Iterator[None]:
    def make(worth: Any) -> Any:
        return lambda policy, failure, *, failures, effects: worth(
            policy, failure, failures=failures - 1, effects=effects
        )

    with patched(answers, "worth_retrying", make):
        yield


@bug("calls that an earlier attempt of an agent has made are made again")
def inner_calls_forgotten() -> Iterator[None]:
    def make(init: Any) -> Any:
        def forgetting(inner: Any, request: Any, context: Any) -> None:
            init(inner, replace(request, recorded={}), context)

        return forgetting

    with patched(Inner, "__init__", make):
        yield


@bug("two steps of one tool with a cache get one value, whatever they are given")
def stale_cache() -> Iterator[None]:
    def make(key: Any) -> Any:
        return lambda executor, request: key(executor, replace(request, args={}))

    with patched(CachedExecutor, "_key", make):
        yield


# --- limits ------------------------------------------------------------------------------------


@bug("a call that starts is counted twice until it ends")
def budget_claimed_twice() -> Iterator[None]:
    def make(take: Any) -> Any:
        def greedy(budget: Any, claim: Any) -> Any:
            grant = take(budget, claim)
            budget._reserved_calls += claim.calls
            return grant

        return greedy

    with patched(Budget, "take", make):
        yield


@bug("what was set aside for an attempt is never given back")
def budget_never_settled() -> Iterator[None]:
    def make(settle: Any) -> Any:
        def keeping(budget: Any, claim: Any, **told: Any) -> None:
            settle(budget, claim, **told)
            budget._reserved_cost += claim.cost_usd

        return keeping

    with patched(Budget, "settle", make):
        yield


@bug("one attempt more than may be is under way at a time")
def one_slot_too_many() -> Iterator[None]:
    def make(init: Any) -> Any:
        def wide(budget: Any, limits: Any, **told: Any) -> None:
            init(budget, limits, **told)
            budget.slots = None if budget.slots is None else budget.slots + 1

        return wide

    with patched(Budget, "__init__", make):
        yield


@bug("one call more than may be is made")
def one_call_too_many() -> Iterator[None]:
    def make(with_claim: Any) -> Any:
        return lambda budget, claim: max(0, with_claim(budget, claim) - 1)

    with patched(Budget, "_calls_with", make):
        yield


@bug("what a lost attempt may have cost is not counted")
def lost_attempts_are_free() -> Iterator[None]:
    with patched(fold, "lost_use", lambda _: lambda *given: (0.0, None, 0)):
        yield


# --- steps -------------------------------------------------------------------------------------


@contextmanager
def applied(event: type[Any], make: Callable[[Any], Any]) -> Iterator[None]:
    """Have something in the place of what an event does to the state of a run."""
    before = fold.APPLY[event]
    fold.APPLY[event] = make(before)
    try:
        yield
    finally:
        fold.APPLY[event] = before


@bug("a step that waits for three others or more is not woken by the last one")
def lost_wake_up() -> Iterator[None]:

    def make(may_join: Any) -> Any:
        def losing(state: Any, below: Any, waiting: Any) -> None:
            if len(below.entry.upstream) < 3:
                may_join(state, below, waiting)

        return losing

    with patched(ended, "_may_join", make):
        yield


@bug("a step that waits for several others starts when half of them have ended")
def join_on_half_its_inputs() -> Iterator[None]:

    def make(count: Any) -> Any:
        def hurried(state: Any, node: Any) -> None:
            count(state, node)
            for place in node.entry.downstream if node.parent is None else ():
                below = node.scope.nodes[place]
                if (
                    below.status is StepStatus.PENDING
                    and not below.queued
                    and below.met * 2 >= len(below.entry.upstream)
                ):
                    below.ok = len(below.entry.upstream)
                    state.joined.append(below)

        return hurried

    with patched(fold, "ended", make), patched(ended, "ended", make):
        yield


@bug("the last item of a map is not started")
def last_item_dropped() -> Iterator[None]:
    def make(expanded: Any) -> Any:
        def short(state: Any, event: Any) -> None:
            expanded(state, replace(event, items=event.items[:-1]) if len(event.items) > 1 else event)

        return short

    with applied(StepExpanded, make):
        yield


@bug("a map is one item narrower than its list, on record too")
def width_off_by_one() -> Iterator[None]:
    def make(record: Any) -> Any:
        def narrow(heart: Any, event: Any) -> None:
            if isinstance(event, StepExpanded) and len(event.items) > 1:
                event = replace(event, items=event.items[:-1])
            record(heart, event)

        return narrow

    with patched(machine.RunMachine, "record", make):
        yield


@bug("a map hands on what its items came to in the order they ended")
def items_swapped() -> Iterator[None]:
    def make(close: Any) -> Any:
        def by_time(heart: Any, node: Any, children: Any) -> None:
            close(heart, node, sorted(children, key=lambda child: child.ended_at or 0.0))

        return by_time

    with patched(endings, "_close_map", make):
        yield


@bug("a step runs although one that it needs was skipped")
def skip_does_not_cascade() -> Iterator[None]:
    def make(reason: Any) -> Any:
        return lambda node: reason(node) if node.failed else None

    with patched(starts, "skip_reason", make):
        yield


@bug("steps that wait for their turn start although the run is stopping")
def cancel_ignored_for_queued() -> Iterator[None]:

    def make(halt: Any) -> Any:
        def forgetful(state: Any, node: Any) -> None:
            if not (node.queued and node.status is StepStatus.PENDING):
                halt(state, node)

        return forgetful

    with patched(ended, "_halt", make):
        yield


@bug("what waits for its time when an engine dies waits for ever")
def timer_lost_after_resume() -> Iterator[None]:
    def make(handle: Any) -> Any:
        def forgetful(heart: Any, fact: Any) -> Any:
            turn = handle(heart, fact)
            if not isinstance(fact, RunResumed):
                return turn
            kept = tuple(command for command in turn.commands if not isinstance(command, SetTimer))
            return replace(turn, commands=kept)

        return forgetful

    with patched(machine.RunMachine, "handle", make):
        yield


# --- people, plans and guesses -----------------------------------------------------------------


@bug("an answer counts for whichever step asked last")
def answer_for_another_step() -> Iterator[None]:
    def make(answered: Any) -> Any:
        def confused(heart: Any, node: Any, fact: Any) -> None:
            asking = [one for one in heart.state.blocked.values() if one.waiting == "approval"]
            answered(heart, asking[-1] if asking else node, fact)

        return confused

    with patched(answers, "_approval_answered", make):
        yield


@bug("a no is taken for a yes")
def denial_ignored() -> Iterator[None]:
    def make(answered: Any) -> Any:
        return lambda heart, node, fact: answered(heart, node, replace(fact, approved=True))

    with patched(answers, "_approval_answered", make):
        yield


@bug("a step with an effect runs ahead on a guess")
def effect_on_a_guess() -> Iterator[None]:
    def make(_: Any) -> Any:
        return lambda state, node: node.parent is None and speculation._sort_runs_ahead(node.entry)

    with patched(speculation, "_may_run_ahead", make):
        yield


@bug("what ran ahead on a wrong guess is kept")
def wrong_guess_kept() -> Iterator[None]:
    def make(init: Any) -> Any:
        def careless(speculated: Any, node: Any, args: Any, *told: Any) -> Any:
            entry = speculation.alive(speculated.state.ahead.get(speculation.lane_key(node, "ahead")))
            if entry is not None:
                entry.inputs = speculation.digest(args)
            return init(speculated, node, args, *told)

        return careless

    with patched(speculation.Speculation, "adopts", make):
        yield


@bug("a plan in the place of a step may use any tool, however much of it")
def replan_with_wider_tools() -> Iterator[None]:
    anything = patched(Authority, "problems", lambda _: lambda *given: [])
    with anything, patched(replanning, "_beyond", lambda _: lambda *given: iter(())):
        yield


@bug("the time limit of a run is not set")
def time_limit_ignored() -> Iterator[None]:
    def make(_: Any) -> Any:
        return lambda state: False

    def without(handle: Any) -> Any:
        def endless(heart: Any, fact: Any) -> Any:
            turn = handle(heart, fact)
            kept = tuple(one for one in turn.commands if not (isinstance(one, SetTimer) and one.key == ""))
            return replace(turn, commands=kept)

        return endless

    with patched(run_state.RunState, "time_runs", make), patched(machine.RunMachine, "handle", without):
        yield


@bug("after a restart a step starts by the claim that it had before")
def stale_claim_after_resume() -> Iterator[None]:
    """As it really was; the simulation found it."""

    def alive(queue: Any, entry: Any, claim: Any) -> bool:
        turn, node = entry
        if not node.queued or node.status not in ready._WAITING or node.waiting is not None:
            return False
        return queue._began_at is None or turn == queue._turn(node)

    with patched(ready.ReadySteps, "_alive", lambda _: alive):
        yield


@bug("a paused run does not rest while what ran ahead is not settled")
def pause_without_rest() -> Iterator[None]:
    """As it really was; the simulation found it."""
    before = machine.RunMachine.waits_for_person
    assert before.fget is not None
    found = before.fget
    with patched(
        machine.RunMachine, "waits_for_person", lambda _: property(lambda one: not one.state.ahead and found(one))
    ):
        yield


# --- is it caught ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Caught:
    """How a bug was found out.

    Attributes:
        seed: The first seed that breaks a law; None: none did.
        seeds: How many were lived.
        law: What that life broke.
    """

    name: str
    seed: int | None
    seeds: int
    law: str
    seconds: float


def caught(name: str, *, first: int = 0, most: int = MOST) -> Caught:
    """Put a bug in and live seed after seed until one breaks a law."""
    began = time.monotonic()
    for place in range(most):
        with BUGS[name].put():
            found = _in_time(first + place)
        if found.violations:
            return Caught(name, first + place, place + 1, found.violations[0], time.monotonic() - began)
    return Caught(name, None, most, "", time.monotonic() - began)


def _in_time(seed: int) -> Found:
    """Live a life; one that goes round and round without a turn of the loop has broken a law, too."""

    def rang(number: int, frame: Any) -> None:
        raise TimeoutError(f"no end after {LIFE_S} s")

    before = signal.signal(signal.SIGALRM, rang)
    signal.alarm(LIFE_S)
    try:
        return look_at(seed)
    except TimeoutError as error:
        return Found(seed, [f"end: {error}"], "", "none", {})
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def print_table(*, first: int, most: int, jobs: int) -> int:
    """Try every bug in processes of their own, and print what caught it; return 1 if any was not caught."""
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.simulation.sabotage", str(first), str(most)]

    def one(name: str) -> Caught:
        environment = os.environ | {"PYTHONHASHSEED": "1"}
        done = subprocess.run([*command, name], capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr[-2_000:]}")
        return Caught(**json.loads(done.stdout))

    width = max(map(len, BUGS))
    missed = 0
    sys.stdout.write(f"{'bug':{width}}  seeds  caught by\n")
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        for found in pool.map(one, BUGS):
            missed += found.seed is None
            law = found.law.splitlines()[0][:140] if found.law else "NOT CAUGHT"
            sys.stdout.write(f"{found.name:{width}}  {found.seeds:5}  {law}\n")
            sys.stdout.flush()
    seconds = time.monotonic() - began
    sys.stdout.write(f"{len(BUGS) - missed} of {len(BUGS)} bugs caught within {most} seeds, {seconds:.0f} s\n")
    return 1 if missed else 0


if __name__ == "__main__":
    outcome = caught(sys.argv[3], first=int(sys.argv[1]), most=int(sys.argv[2]))
    sys.stdout.write(json.dumps({name: getattr(outcome, name) for name in Caught.__slots__}))
