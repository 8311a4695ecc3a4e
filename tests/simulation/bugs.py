"""Bugs to put into the engine: how they are kept, and those of the record, of attempts and of limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from planloom.core import answers, fold, machine
from planloom.core.budget import Budget
from planloom.core.events import AttemptFailed, AttemptSucceeded, RunResumed
from planloom.core.result import StepStatus
from planloom.core.waits import ready_again
from planloom.executors.inner import Inner
from planloom.executors.wrap.cached import CachedExecutor
from planloom.plan.policy import Effects
from planloom.runtime import engine, posted
from planloom.runtime.driver import Driver
from tests.simulation.disk import SimulatedWriter


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


@contextmanager
def applied(event: type[Any], make: Callable[[Any], Any]) -> Iterator[None]:
    """Have something in the place of what an event does to the state of a run."""
    before = fold.APPLY[event]
    fold.APPLY[event] = make(before)
    try:
        yield
    finally:
        fold.APPLY[event] = before


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
                    ready_again(state, node, node.claim)

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
