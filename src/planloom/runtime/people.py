"""What people say to a run: approvals, and what came of a step nobody knows about. Checked before it becomes a fact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planloom.core.events import ApprovalAnswered, StepResolved
from planloom.errors import ConfigError
from planloom.plan.inputs import input_problems
from planloom.plan.values import as_json

if TYPE_CHECKING:
    from planloom.core.run_state import RunState
    from planloom.core.state import Node

WAYS = ("output", "retry", "fail")


def answer_fact(state: RunState, step: str, *, by: str, approved: bool, output: Any, at: float) -> ApprovalAnswered:
    """Return the fact of an answered approval.

    Raises:
        ConfigError: No approval of that step waits, or what was filled in does not fit the form.
    """
    node = _waiting(state, step, "approval")
    assert node.step.approve is not None
    form = node.step.approve.form
    filled = as_json(output)
    if approved and form is not None:
        problems = input_problems("answer", filled, form)
        if problems:
            told = "; ".join(problem.message for problem in problems)
            raise ConfigError(f"the answer does not fit the form of step {step!r}: {told}", remedy=f"fill in: {form}")
    return ApprovalAnswered(step, approved, by, at, filled)


def resolution_fact(
    state: RunState, step: str, how: str, *, by: str, output: Any, error: str | None, at: float
) -> StepResolved:
    """Return the fact that says what came of a step whose outcome was unknown.

    Raises:
        ConfigError: No such step waits, or `how` is none of output, retry, fail.
    """
    _waiting(state, step, "unknown")
    if how not in WAYS:
        raise ConfigError(f"{how!r} is no way to resolve a step", remedy=f"use one of: {', '.join(WAYS)}")
    return StepResolved(step, how, by, at, as_json(output), error)


def _waiting(state: RunState, step: str, what: str) -> Node:
    node = state.blocked.get(step)
    if node is None or node.waiting != what:
        waiting = sorted(key for key, blocked in state.blocked.items() if blocked.waiting == what)
        wanted = "an approval" if what == "approval" else "a resolution"
        remedy = f"these do: {', '.join(waiting)}" if waiting else "nothing in this run does; see planloom show"
        raise ConfigError(f"step {step!r} of run {state.run_id} does not wait for {wanted}", remedy=remedy)
    return node
