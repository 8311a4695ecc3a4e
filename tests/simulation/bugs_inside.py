"""More bugs to put into the engine: of steps, maps and joins, of people, of plans in the place of steps, of guesses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from planloom.agents.authority import Authority
from planloom.core import answers, ended, endings, fold, machine, replanning, run_state, speculation, starts
from planloom.core.ahead import alive, lane_key
from planloom.core.commands import SetTimer
from planloom.core.events import RunResumed, StepExpanded
from planloom.core.result import StepStatus
from planloom.core.speculation import _sort_runs_ahead, digest
from tests.simulation.bugs import applied, bug, patched

# --- steps -------------------------------------------------------------------------------------


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
        return lambda state, node: node.parent is None and _sort_runs_ahead(node.entry)

    with patched(speculation, "_may_run_ahead", make):
        yield


@bug("what ran ahead on a wrong guess is kept")
def wrong_guess_kept() -> Iterator[None]:
    def make(init: Any) -> Any:
        def careless(speculated: Any, node: Any, args: Any, *told: Any) -> Any:
            entry = alive(speculated.state.ahead.get(lane_key(node, "ahead")))
            if entry is not None:
                entry.inputs = digest(args)
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
