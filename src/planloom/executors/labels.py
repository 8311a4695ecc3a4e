"""Labels inside one attempt: what its calls bring in, and which calls it may not make because of them.

Rule 1: what an attempt was given and what any call of it brought, everything that it says afterwards may come from.
Rule 2: nobody can be asked in the middle of an attempt. A call that a person would have to approve is not made, and
    whoever wanted it is told so, as of any call that fails; a step of its own for that call would be asked about.
Rule 3: a run that keeps no labels (`request.flow` is None) pays one look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planloom.errors import FlowError
from planloom.plan.flow import ALLOWED, NO_LABELS, decide, decide_model, labels_after
from planloom.plan.policy import Effects

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.plan.flow import FlowFacts
    from planloom.ports import AttemptContext
    from planloom.tools.tool import Tool


def refuse_flow(tool: Tool, request: RunStep, context: AttemptContext, *, tells_model: bool) -> None:
    """Let a call inside an attempt pass that needs nobody's word.

    Args:
        tells_model: Whether a model is told what it comes to.

    Raises:
        FlowError: It may not be made. It was not.
    """
    policy = request.flow
    if policy is None:
        return
    facts = _facts(tool, request)
    verdict = decide(context.reported_labels.union(request.labels), facts, tool.effects or Effects.ONCE, policy)
    if verdict.kind == "allowed" and tells_model:
        verdict = decide_model(labels_after(NO_LABELS, facts), policy)
    if verdict.kind != "allowed":
        raise FlowError(
            f"tool {tool.name!r} was not called: {verdict.why}, and nobody can be asked inside an attempt",
            remedy="give the call a step of its own, where a person can approve it",
            step=request.key,
            tool=tool.name,
            labels=list(verdict.labels),
        )


def refuse_judge(request: RunStep, context: AttemptContext) -> None:
    """Let an answer be judged by a model that holds nothing which calls inside the attempt brought in as a secret.

    Raises:
        FlowError: It may hold one. No judge was asked.
    """
    verdict = ALLOWED if request.flow is None else decide_model(context.reported_labels, request.flow)
    if verdict.kind != "allowed":
        raise FlowError(
            f"the answer of step {request.key!r} was not judged: {verdict.why}",
            remedy="verify it with validators, or have what reads the secret be a step of its own",
            step=request.key,
            labels=list(verdict.labels),
        )


def picked_up(tool: Tool, request: RunStep, context: AttemptContext) -> None:
    """Remember what a call of this tool brought into the attempt, whatever it came to: an error may quote it."""
    if request.flow is not None:
        brought = labels_after(NO_LABELS, _facts(tool, request))
        if brought:
            context.report_labels(brought)


def _facts(tool: Tool, request: RunStep) -> FlowFacts:
    """Return what the run was told of this very tool when it started, else what the tool says."""
    pinned = request.tools.get(tool.name)
    return pinned if pinned is not None and pinned.digest == tool.digest else tool
