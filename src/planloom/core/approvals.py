"""A person's word on one attempt: what it is bound to, and that it counts for that, once, and for nothing else.

Rule 1: an answer counts only if its binding is that of what waits, and an attempt starts only if what it is about to be
given has the binding that was approved: worked out anew at that moment, in `permission.py`.
Rule 2: an approval is used up by the attempt it was given for: the next one has another number, and asks again.
Rule 3: who waits for a person's word holds nothing: no slot, no name, no money.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from planloom.core.state import Consent, Replan

if TYPE_CHECKING:
    from planloom.core.events import ApprovalAnswered, ApprovalRequested
    from planloom.core.state import Node


# --- what an approval is bound to ---------------------------------------------------------------


def binding_of(
    *,
    run_id: str,
    plan: str,
    step: str,
    attempt: int,
    tool: str,
    tool_digest: str,
    args: dict[str, Any],
    idempotency_key: str,
    labels: tuple[str, ...],
    expires_at: float | None,
) -> str:
    """Return the SHA-256 of all that an approval of one attempt is about.

    Args:
        plan: Hash of the plan; of several, where a step was replanned.
        tool_digest: SHA-256 of name, version and parameter schema, as the run was told.
    """
    parts = [run_id, plan, step, attempt, tool, tool_digest, args, idempotency_key, list(labels), expires_at]
    return _sha256(parts)


def question_binding(
    run_id: str, plan: str, step: str, message: str, form: dict[str, Any] | None, expires_at: float | None
) -> str:
    """Return the SHA-256 of all that the answer to an `approve` step is about."""
    return _sha256([run_id, plan, step, message, form, expires_at])


def _sha256(parts: list[Any]) -> str:
    return sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def plans_around(node: Node) -> str:
    """Return the hash of the run's plan, and of each plan that came in place of a step around this one."""
    hashes = []
    scope = node.scope
    while scope.owner is not None:
        if scope.owner.replan is Replan.DONE:
            hashes.append(scope.graph.plan.hash)
        scope = scope.owner.scope
    return "/".join((scope.graph.plan.hash, *reversed(hashes)))


# --- an answer ----------------------------------------------------------------------------------


def misses(node: Node, answer: ApprovalAnswered) -> str | None:
    """Return why an answer is not one to what waits, None if it is."""
    asked = node.asked
    if asked is None or asked.request.binding == answer.binding:
        # An attempt that was allowed too late is asked about again; a step that asks has nothing left but its time-out.
        is_late = node.step.approve is not None and node.due_at is not None and answer.at >= node.due_at
        return "it came when the time for it was over" if is_late else None
    now = asked.request
    if answer.binding is None:
        return "it does not say what it answers"
    before = next((one for one in reversed(asked.earlier) if one.binding == answer.binding), None)
    if before is None:
        return "it answers nothing that this step of this run asked"
    return f"it answers an earlier question; changed since: {changes(before, now)}"


def changes(before: ApprovalRequested, now: ApprovalRequested) -> str:
    """Return what is different about a later question, as far as it is on record with it."""
    return ", ".join(_changes(before, now)) or "what it would be given, which is not shown"


def _changes(before: ApprovalRequested, now: ApprovalRequested) -> Iterator[str]:
    if before.attempt != now.attempt:
        yield f"the attempt ({before.attempt} then, {now.attempt} now)"
    if before.tool != now.tool:
        yield f"what is called ({before.tool!r} then, {now.tool!r} now)"
    if before.args != now.args:
        yield "the arguments"
    if before.labels != now.labels:
        yield f"the labels of the arguments ({', '.join(now.labels) or 'none'} now)"
    if before.expires_at != now.expires_at:
        yield "when it expires"
    if before.message != now.message:
        yield "the question"


def remember(node: Node, event: ApprovalRequested) -> None:
    """Take note of what is asked about a step."""
    before = node.asked
    node.asked = Consent(event) if before is None else Consent(event, earlier=(*before.earlier, before.request))


def waits_until(request: ApprovalRequested, deadline_at: float | None) -> float | None:
    """Return when waiting for an answer is over: as the question, or the step's own time, says first."""
    if request.expires_at is None or deadline_at is None:
        return deadline_at if request.expires_at is None else request.expires_at
    return min(request.expires_at, deadline_at)
