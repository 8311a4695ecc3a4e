"""What people say to a run: approvals, and what came of a step nobody knows about. Checked before it becomes a fact.

Rule 1: an answer says what it answers; whether that still waits when it comes, the heart decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planloom.core.approvals import changes
from planloom.core.events import ApprovalAnswered, StepResolved
from planloom.core.result import BINDING_SHOWN
from planloom.errors import ConfigError, RunStateError, ValidationError
from planloom.plan.inputs import input_problems
from planloom.plan.values import as_json

if TYPE_CHECKING:
    from planloom.core.run_state import RunState
    from planloom.core.state import Consent, Node

MIN_BINDING = 12
"""Hex digits of a binding that say enough."""
WAYS = ("output", "retry", "fail")


def answer_fact(
    state: RunState, step: str, *, by: str, approved: bool, output: Any, at: float, binding: str | None = None
) -> ApprovalAnswered:
    """Return the fact of an answered approval, bound to what waits in this state.

    Args:
        binding: Of what the person was shown, or its first MIN_BINDING digits or more; None: what waits now, whatever
            it is.

    Raises:
        RunStateError: No approval of that step waits, or not any more, or another one than was shown does.
        ValidationError: What was filled in does not fit the form.
    """
    node = _waiting(state, step, "approval")
    asked = node.asked
    assert asked is not None
    if node.step.approve is not None and node.due_at is not None and at >= node.due_at:
        raise RunStateError(
            f"the approval of step {step!r} expired {at - node.due_at:.0f} s ago", remedy="start the run again"
        )
    if binding is not None:
        _same(asked, step, binding)
    filled = as_json(output)
    told = misfit(asked, filled) if approved else ""
    if told:
        form = asked.request.form
        raise ValidationError(f"the answer does not fit the form of step {step!r}: {told}", remedy=f"fill in: {form}")
    return ApprovalAnswered(step, approved, by, at, filled, asked.request.binding)


def misfit(asked: Consent, filled: Any) -> str:
    """Return why what was filled in does not fit the form of a question, or ""."""
    form = asked.request.form
    if form is None:
        return ""
    return "; ".join(problem.message for problem in input_problems("answer", filled, form))


def _same(asked: Consent, step: str, binding: str) -> None:
    """Refuse an answer to something else than what waits, and say what changed since."""
    shown = binding.lower()
    now = asked.request.binding or ""
    if len(shown) >= MIN_BINDING and now.startswith(shown):
        return
    before = next((one for one in asked.earlier if shown and (one.binding or "").startswith(shown)), None)
    why = "it is of nothing that this step of this run asked"
    if len(shown) < MIN_BINDING:
        why = f"give {MIN_BINDING} digits of it or more"
    elif before is not None:
        why = f"changed since: {changes(before, asked.request)}"
    raise RunStateError(
        f"step {step!r} does not wait for an answer with binding {binding!r}: {why}",
        remedy=f"see what it asks now with planloom show, and answer with --binding {now[:BINDING_SHOWN]}",
    )


def resolution_fact(
    state: RunState, step: str, how: str, *, by: str, output: Any, error: str | None, at: float
) -> StepResolved:
    """Return the fact that says what came of a step whose outcome was unknown.

    Raises:
        RunStateError: No such step waits.
        ConfigError: `how` is none of output, retry, fail.
    """
    node = _waiting(state, step, "unknown")
    if how not in WAYS:
        raise ConfigError(f"{how!r} is no way to resolve a step", remedy=f"use one of: {', '.join(WAYS)}")
    # Heard again after a crash, it must not be taken for an answer about the attempt that it led to.
    return StepResolved(step, how, by, at, as_json(output), error, node.attempt)


def _waiting(state: RunState, step: str, what: str) -> Node:
    node = state.blocked.get(step)
    if node is None or node.waiting != what:
        waiting = sorted(key for key, blocked in state.blocked.items() if blocked.waiting == what)
        wanted = "an approval" if what == "approval" else "a resolution"
        remedy = f"these do: {', '.join(waiting)}" if waiting else "nothing in this run does; see planloom show"
        raise RunStateError(f"step {step!r} of run {state.run_id} does not wait for {wanted}", remedy=remedy)
    return node
