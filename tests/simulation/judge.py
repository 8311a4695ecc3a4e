"""What must hold of every life, whatever happened in it.

Rule 1: nothing here knows of any bug. The laws are those of the design: of the record by itself, of the record beside
what really happened, and of what people and callers were told.
Rule 2: what a step should have been given is worked out from plan and record; what it should have answered follows
from that alone (`world.value`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from planloom.core.events import (
    AnswerRefused,
    ApprovalAnswered,
    AttemptSucceeded,
    CancelRequested,
    ReplanRequested,
    RunFinished,
    RunStarted,
    StepDispatched,
    StepResolved,
)
from planloom.core.machine import RunMachine
from planloom.core.outputs import CANNOT_RESOLVE
from planloom.core.result import StepStatus
from planloom.core.state import Node
from planloom.plan.policy import Effects, JoinRule
from planloom.runtime.replay import diverges, replayed
from planloom.testing import LoggedCall, check_history
from tests.simulation.life import Life
from tests.simulation.meaning import misunderstood
from tests.simulation.promises import broken_promises
from tests.simulation.world import COST_USD, EFFECTS, told_by_model, value

EARLY = (JoinRule.ONE_SUCCESS,)
"""Joins that let a step begin before all that it needs has ended."""


def violations(life: Life) -> list[str]:
    """Return what is wrong with a life, each as `law: what`."""
    found = [f"end: {life.stuck}"] if life.stuck else []
    found += [f"unheard: {told}" for told in life.unheard]
    if not life.disk.has("r"):
        return found
    records = life.disk.run("r").records
    divergence = diverges("r", records)
    if divergence is not None:
        found.append(f"replay: {divergence}")
    found += [f"{one.law}: {one}" for one in check_history(records, tool_calls=_logged(life), run_id="r")]
    try:
        machine = replayed("r", records)
    except (AssertionError, KeyError, AttributeError, TypeError, ValueError) as error:
        return [*found, f"replay: the record cannot be read: {type(error).__name__}: {error}"]
    found += [*broken_promises(records), *misunderstood(life, machine)]
    return [*found, *_effects(life), *_allowed(life), *_values(life, machine), *_told(life)]


# --- beside what really happened ----------------------------------------------------------------


def _logged(life: Life) -> list[LoggedCall]:
    """Return what the tools say was called and had an effect.

    Of an agent's own tools the record does not say what they do, so that all of them would count as `once`.
    """
    return [
        LoggedCall(done.step, done.attempt, done.key, done.tool, "r")
        for done in life.world.effects
        if not done.inside or EFFECTS[done.tool] is Effects.ONCE
    ]


def _effects(life: Life) -> Iterator[str]:
    world, records = life.world, life.disk.run("r").records
    once = Counter(done.key for done in world.effects if EFFECTS[done.tool] is Effects.ONCE)
    for key, times in once.items():
        if times > 1:
            yield f"once: {key} happened {times} times"
    paid = Counter(done.key for done in world.effects if done.tool == "pay")
    first = records[0].event
    limit = first.limits.max_total_cost_usd if isinstance(first, RunStarted) and first.limits is not None else None
    if limit is not None and paid.total() * COST_USD > limit:
        yield f"spent: {paid.total()} payments of ${COST_USD} were made, and ${limit} may be spent"
    for done in world.unrecorded:
        yield f"output commit: {done.step}, attempt {done.attempt}, had an effect before its start was on record"
    began = {(e.step, e.attempt) for r in records if isinstance(e := r.event, StepDispatched)}
    for done in world.effects:
        if (done.step, done.attempt) not in began:
            yield f"lost: {done.step}, attempt {done.attempt}, had an effect and is not on record"
    happened = {(done.step, done.attempt) for done in world.effects}
    machine = replayed("r", records)
    planning = _planning(life)
    for entry in records:
        event = entry.event
        if not isinstance(event, AttemptSucceeded) or event.cached or planning(event):
            continue
        tool = machine.state.nodes[event.step].entry.step.tool
        if EFFECTS.get(tool, Effects.NONE) is not Effects.NONE and (event.step, event.attempt) not in happened:
            yield f"effects: {event.step}, attempt {event.attempt}, is on record as done and did not happen"


def _allowed(life: Life) -> Iterator[str]:
    """Check that what asks for a person's word happened with one, each time with one of its own."""
    words: Counter[str] = Counter()
    for entry in life.disk.run("r").records:
        event = entry.event
        if isinstance(event, ApprovalAnswered):
            words[event.step] += event.approved
        elif isinstance(event, StepDispatched):
            for done in life.world.effects:
                if done.tool == "wire" and (done.step, done.attempt) == (event.step, event.attempt):
                    words[event.step] -= 1
                    if words[event.step] < 0:
                        yield f"permission: {done.step}, attempt {done.attempt}, was made and nobody had allowed it"


# --- values ------------------------------------------------------------------------------------


def _values(life: Life, machine: RunMachine) -> Iterator[str]:
    """Check what each step was given and answered, from its plan and the record."""
    nodes = machine.state.nodes
    given: dict[str, Any] = {}
    for key, node in nodes.items():
        if node.entry.is_leaf and node.entry.step.join not in EARLY and (node.parent or not node.children):
            args = _args(node)
            if args is not None:
                given[key] = args
    for done in life.world.effects:  # what changes nothing may have been called in a history that was lost
        args = given.get(done.step)
        if args is not None and not done.inside and (done.n, done.given) != (args["n"], args["given"]):
            yield f"given: {done.step}, attempt {done.attempt}, was given {done.n}, {done.given}, and not {args}"
    planning = _planning(life)
    for entry in life.disk.run("r").records:
        event = entry.event
        if not isinstance(event, AttemptSucceeded) or planning(event):
            continue
        args = given.get(event.step)
        wanted = None if args is None else _answer(nodes[event.step], args)
        if wanted is not None and event.output != wanted:
            yield f"values: {event.step} answered {event.output}, and not {wanted}"
    for key, node in nodes.items():
        if node.children is not None and node.status is StepStatus.COMPLETED:
            parts = [child.output if child.status is StepStatus.COMPLETED else None for child in node.children]
            if node.output != parts:
                yield f"values: map {key} came to {node.output}, and its items to {parts}"


def _planning(life: Life) -> Callable[[AttemptSucceeded], bool]:
    """Return what tells whether an attempt asked for a plan in place of its step."""
    first = {e.step: e.attempt for r in life.disk.run("r").records if isinstance(e := r.event, ReplanRequested)}
    return lambda event: event.step in first and event.attempt >= first[event.step]


def _args(node: Node) -> Any:
    try:
        return node.entry.args.resolve(node.view)
    except CANNOT_RESOLVE:
        return None


def _answer(node: Node, args: Any) -> Any:
    step = node.entry.step
    if step.tool in EFFECTS:
        return value(step.tool, args["n"], args["given"])
    return told_by_model(args["prompt"]) if step.model == "big" else None


# --- beside what was told ----------------------------------------------------------------------


def _told(life: Life) -> Iterator[str]:
    """Check that what people and callers heard is on record."""
    run = life.disk.run("r")
    for fact in life.disk.forgotten:
        yield f"people: what was left for the run is forgotten, and the record still waits for it: {fact}"
    heard = {e.by for r in run.records if isinstance(e := r.event, ApprovalAnswered | AnswerRefused | StepResolved)}
    for fact in life.people.promised:
        if isinstance(fact, ApprovalAnswered | StepResolved) and fact.by not in heard:
            yield f"people: an answer was taken and is not on record: {fact}"
    if life.people.in_time and not any(isinstance(entry.event, CancelRequested) for entry in run.records):
        yield "people: a cancel was taken while the run went on, and is not on record"
    ended = [r.event for r in run.records if isinstance(r.event, RunFinished)]
    for result in life.told:
        if [result.status] != [event.status for event in ended] or result.output != ended[0].output:
            yield f"told: the run was said to have ended {result.status} with {result.output}, and on record is {ended}"
