"""Whether an attempt may start with what it would be given: at once, never, or once a person says so.

Rule 1: asked at each dispatch of each attempt and item, of what is about to be sent; nothing decided earlier counts.
Rule 2: a plan cannot talk a tool out of what it does: of the effects that a step and its tool say, the graver count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planloom.core.approvals import binding_of, plans_around, question_binding
from planloom.core.commands import SetTimer
from planloom.core.endings import fail
from planloom.core.events import ApprovalRequested
from planloom.core.needs import agent_facts
from planloom.core.result import StepStatus
from planloom.plan.flow import ALLOWED, SECRET, FlowVerdict, decide, decide_model, labels_after
from planloom.plan.policy import JUDGED, Effects, FailureKind
from planloom.plan.rules import STRICTNESS

if TYPE_CHECKING:
    from planloom.core.events import ToolFacts
    from planloom.core.flow import Labels
    from planloom.core.run_state import RunState
    from planloom.core.state import Node
    from planloom.core.turns import Turns

_GRAVE = ("refused", "needs_approval")


def may_start(machine: Turns, node: Node, args: dict[str, Any], key: str) -> Labels | None:
    """Return the labels of what an attempt would be given; None if it may not start now.

    Then it was refused, or a person is asked, and that is on record.

    Args:
        key: Its idempotency key, which its tool is given too.
    """
    flow = machine.state.flow
    assert flow is not None
    labels = flow.flowed_in(node)
    verdict = verdict_on(machine.state, node, labels)
    told = tuple(sorted(labels))
    if verdict.kind == "allowed":
        return labels
    if verdict.kind == "refused":
        fail(machine, node, StepStatus.FAILED, FailureKind.REFUSED, f"not done: {_why(machine.state, node, verdict)}")
        return None
    asked = node.asked
    if asked is not None and asked.by is not None:
        expires_at = asked.request.expires_at
        in_time = expires_at is None or machine.now < expires_at
        if in_time and asked.request.binding == _binding(machine.state, node, args, key, told, expires_at):
            return labels
    _ask(machine, node, args, key, told, verdict)
    return None


def verdict_on(state: RunState, node: Node, labels: Labels) -> FlowVerdict:
    """Return what becomes of an attempt of a step whose arguments carry these labels."""
    flow, step = state.flow, node.entry.step
    assert flow is not None
    verdicts = [ALLOWED]
    facts = state.tools.get(step.tool) if step.tool is not None else None
    if step.tool is not None:
        verdicts.append(decide(labels, facts, _effects(node, facts), flow.policy))
    elif step.code is None:
        verdicts.append(decide_model(labels, flow.policy))
        assert state.started is not None
        agent = agent_facts(step, state.started.agents)
        if agent is not None:  # one that only thinks has no effects by itself; its calls are decided about one by one
            verdicts.append(decide(labels, None, agent.effects or Effects.ONCE, flow.policy))
    if step.verify is not None and step.verify.strategy in JUDGED:
        verdicts.append(decide_model(labels | labels_after(labels, facts), flow.policy))
    return next((one for kind in _GRAVE for one in verdicts if one.kind == kind), ALLOWED)


def _why(state: RunState, node: Node, verdict: FlowVerdict) -> str:
    """Return a sentence that says what of which step would go where."""
    flow = state.flow
    assert flow is not None
    what = f"tool {node.step.tool!r}" if node.step.tool is not None else f"{node.step.kind} {node.step.doer!r}"
    told = [f"{label!r} comes from step {flow.origin(node, label)!r}" for label in verdict.labels]
    return "; ".join((f"{what}: {verdict.why}", *told))


def _ask(
    machine: Turns, node: Node, args: dict[str, Any], key: str, labels: tuple[str, ...], verdict: FlowVerdict
) -> None:
    state = machine.state
    assert state.flow is not None
    seconds = state.flow.policy.approval_seconds
    expires_at = None if seconds is None else machine.now + seconds
    machine.record(
        ApprovalRequested(
            node.key,
            _why(state, node, verdict),
            machine.now,
            None,
            expires_at,
            node.attempt + 1,
            _binding(state, node, args, key, labels, expires_at),
            node.step.doer,
            None if SECRET in labels else args,
            labels,
        )
    )
    if node.due_at is not None:
        machine.command(SetTimer(node.key, node.due_at))


def _binding(
    state: RunState, node: Node, args: dict[str, Any], key: str, labels: tuple[str, ...], expires_at: float | None
) -> str:
    return binding_of(
        run_id=state.run_id,
        plan=plans_around(node),
        step=node.key,
        attempt=node.attempt + 1,
        tool=node.step.doer,
        tool_digest=_digest(state, node),
        args=args,
        idempotency_key=key,
        labels=labels,
        expires_at=expires_at,
    )


def _digest(state: RunState, node: Node) -> str:
    step = node.entry.step
    assert state.started is not None
    known = state.tools.get(step.tool) if step.tool is not None else agent_facts(step, state.started.agents)
    return known.digest if known is not None else ""


def _effects(node: Node, facts: ToolFacts | None) -> Effects:
    """Return what a call does outside: what its tool says or what the step says, whichever is graver."""
    of_tool = (facts.effects if facts is not None else None) or Effects.ONCE
    said = node.entry.step.effects
    return of_tool if said is None else max(of_tool, said, key=STRICTNESS.__getitem__)


def why_not_told(state: RunState, labels: Labels) -> str | None:
    """Return why a model may not be told of a failed step, to write a plan in its place; None if it may."""
    assert state.flow is not None
    verdict = decide_model(labels, state.flow.policy)
    return None if verdict.kind == "allowed" else verdict.why


def ask_person(machine: Turns, node: Node) -> None:
    """Ask what an `approve` step is there to ask."""
    state, approve = machine.state, node.step.approve
    assert approve is not None
    assert state.started is not None
    message = str(node.entry.args.resolve(node.view)["message"])
    expires_at = None if approve.expires_seconds is None else machine.now + approve.expires_seconds
    binding = None
    if state.started.binds:
        plan = plans_around(node)
        binding = question_binding(state.run_id, plan, node.key, message, approve.form, expires_at)
    machine.record(ApprovalRequested(node.key, message, machine.now, approve.form, expires_at, binding=binding))
    if expires_at is not None:
        machine.command(SetTimer(node.key, expires_at))
