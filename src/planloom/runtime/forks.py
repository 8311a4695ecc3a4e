"""What a new run takes over from an earlier one: all that is not behind a failure, or not behind an edited step.

Rule 1: a new run takes over results, never attempts: whatever is not on record as done is done anew.
Rule 2: a fork repeats no effect unasked: what ran behind the edited step, or is under way, would run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planloom.core.result import RunStatus, StepStatus
from planloom.errors import NoStepError, RunStateError, ValidationError, suggestion
from planloom.plan.policy import Effects
from planloom.plan.schemas import value_problems
from planloom.plan.values import as_json

if TYPE_CHECKING:
    from planloom.core.machine import RunMachine
    from planloom.core.run_state import RunState
    from planloom.core.state import Node

SHOWN = 5
"""Steps that a message names."""


@dataclass(frozen=True, slots=True)
class TakenOver:
    """What a new run takes over.

    Attributes:
        outputs: By step key.
        labels: Of those, as far as the earlier run kept any.
        edited: The step whose output is somebody's own; None: they are all as they came.
    """

    outputs: dict[str, Any]
    labels: dict[str, list[str]]
    edited: str | None = None


def behind_no_failure(machine: RunMachine) -> TakenOver:
    """Return what a new run takes over from an ended one that failed.

    Raises:
        RunStateError: It has not ended, or ended well.
    """
    state = machine.state
    if not machine.ended:
        raise RunStateError(f"run {state.run_id} has not ended", remedy=f"planloom resume {state.run_id}")
    if state.status is RunStatus.SUCCESS:
        raise RunStateError(f"run {state.run_id} ended well; there is nothing to retry", remedy="start a new run")
    return TakenOver(_done(state), state.labels_by_step())


def around(machine: RunMachine, step: str, output: Any, *, repeat_effects: bool) -> TakenOver:
    """Return what a new run takes over in which a step has come to another output.

    Raises:
        NoStepError: The run has no such step, or not yet.
        RunStateError: The step has not begun, is part of a plan that the run made on the way, or effects would be
            repeated.
        ValidationError: The output is not JSON, or does not fit what the step declares.
    """
    state = machine.state
    node = state.nodes.get(step)
    if node is None:
        raise NoStepError(
            f"run {state.run_id} has no step {step!r}, or not yet", remedy=suggestion(step, state.nodes), step=step
        )
    _check_editable(state, node)
    edited = _fitting(node, output)
    anew = set(_behind(node))
    if not repeat_effects:
        _refuse_repeats(state, node, anew)
    outputs = {key: value for key, value in _done(state).items() if key not in anew}
    return TakenOver(outputs | {step: edited}, state.labels_by_step(), step)


def _done(state: RunState) -> dict[str, Any]:
    return {
        key: node.output for key, node in state.nodes.items() if node.status is StepStatus.COMPLETED and not node.errors
    }


def _check_editable(state: RunState, node: Node) -> None:
    if node.status in (StepStatus.PENDING, StepStatus.SKIPPED) and node.waiting is None:
        raise RunStateError(
            f"step {node.key!r} of run {state.run_id} is {node.status.value}: it came to nothing that could be edited",
            remedy="edit a step that has begun",
        )
    owner = node.scope.owner
    while owner is not None:
        if owner.step.plan is None:
            raise RunStateError(
                f"step {node.key!r} is part of a plan that run {state.run_id} was given on the way",
                remedy=f"edit {owner.key!r} itself",
            )
        owner = owner.scope.owner


def _fitting(node: Node, output: Any) -> Any:
    value = as_json(output)
    schema = node.step.output
    if schema is not None and not (node.step.for_each is not None and node.index is None):
        problems = value_problems(value, schema)
        if problems:
            told = "; ".join(sentence for _, sentence in problems)
            raise ValidationError(
                f"the output does not fit what step {node.key!r} declares: {told}", remedy=f"give: {schema}"
            )
    return value


def _behind(node: Node) -> Iterator[str]:
    """Yield the keys of all that is done anew: what follows the step, the containers it is in, what follows those."""
    one: Node | None = node
    while one is not None:
        if one is not node:
            yield one.key
        if one.parent is None:
            for below in _downstream(one):
                yield from _with_parts(below)
        one = one.parent if one.parent is not None else one.scope.owner


def _downstream(node: Node) -> Iterator[Node]:
    seen = {node.entry.place}
    places = list(node.entry.downstream)
    while places:
        place = places.pop()
        if place not in seen:
            seen.add(place)
            found = node.scope.nodes[place]
            yield found
            places.extend(found.entry.downstream)


def _with_parts(node: Node) -> Iterator[str]:
    yield node.key
    for part in (*(node.children or ()), *(node.inner.nodes if node.inner is not None else ())):
        yield from _with_parts(part)


def _refuse_repeats(state: RunState, edited: Node, anew: set[str]) -> None:
    repeated = [
        node.key
        for node in state.nodes.values()
        if node is not edited
        and node.attempt
        and (node.key in anew or not node.ended)
        and node.children is None
        and node.inner is None
        and state.effects(node) is not Effects.NONE
    ]
    if repeated:
        more = f" and {len(repeated) - SHOWN} more" if len(repeated) > SHOWN else ""
        named = ", ".join(repeated[:SHOWN]) + more
        raise RunStateError(
            f"a fork of run {state.run_id} at {edited.key!r} would repeat effects of {named}",
            remedy="ask for it with repeat_effects, if they may happen again",
            steps=repeated,
        )
