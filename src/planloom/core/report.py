"""A run's state as the result people read: `RunState` → `RunResult`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from planloom.core.result import RunResult, RunStatus, StepResult, Steps, StepStatus, Usage
from planloom.core.run_state import RunState
from planloom.core.state import Node
from planloom.plan.policy import JoinRule
from planloom.plan.terms import fresh


def run_result(state: RunState, *, waiting: bool = False) -> RunResult:
    """Return how the run stands.

    Args:
        waiting: True when nothing can go on without a person, so that an unended run reads `waiting`.
    """
    started, finished = state.started, state.finished
    assert started is not None, "a run without RunStarted has no state to report"
    nodes, track_cost = state.root.nodes, started.track_cost

    def steps() -> list[StepResult]:
        return [_step(node, track_cost=track_cost) for node in nodes]

    # What has ended never changes, so its steps are worked out when somebody looks at them.
    told = Steps(steps) if finished is not None else Steps(steps).now()
    active_s = state.active_s if finished is not None else state.active_s + state.last_at - state.segment_at
    path_s = state.path_s
    budget = state.budget
    speedup = state.busy_s / active_s if active_s > 0 else 1.0
    exceeded = state.stopping.limits if state.stopping is not None else ()
    status = state.status
    cost_usd, unknown = _run_cost(state)
    return RunResult(
        run_id=state.run_id,
        plan=started.plan.name,
        status=RunStatus.WAITING if waiting and finished is None else status,
        output=fresh(finished.output) if finished is not None else None,
        steps=told,
        error=finished.error if finished is not None else None,
        failed_step=finished.failed_step if finished is not None else None,
        exceeded_limits=tuple(dict.fromkeys((*exceeded, *budget.exceeded))),
        limits_not_enforced=_not_enforced(state),
        cost_usd=cost_usd,
        cost_unknown=unknown,
        usage=budget.usage,
        tool_calls=budget.calls,
        speculation=_speculation(state, active_s),
        started_at=started.at,
        ended_at=finished.at if finished is not None else None,
        active_s=active_s,
        speedup=speedup,
        parallel_efficiency=min(1.0, speedup / budget.peak) if budget.peak else 1.0,
        critical_path_ms=path_s * 1000,
        scheduler_overhead_ms=max(0.0, active_s - path_s) * 1000,
        full_plan=started.plan,
    )


def _speculation(state: RunState, active_s: float) -> dict[str, Any] | None:
    if not state.hits and not state.rolled_back:
        return None
    return {
        "hits": sum(hits for hits, _ in state.hits.values()),
        "misses": sum(misses for _, misses in state.hits.values()),
        "rolled_back": state.rolled_back,
        "wasted_s": state.wasted_s,
        "wasted_tokens": state.wasted_tokens,
        "wasted_cost_usd": state.wasted_usd,
        "efficiency": 1 - active_s / state.path_s if state.path_s > 0 else 0.0,
    }


def _may_start(node: Node) -> bool:
    """Return True for a step that waits for nothing but its turn."""
    if node.status is not StepStatus.PENDING or node.scope.stopping:
        return False
    early = node.entry.join is JoinRule.ONE_SUCCESS and node.ok > 0
    return node.parent is not None or early or node.met == len(node.entry.upstream)


def _step(node: Node, *, track_cost: bool) -> StepResult:
    parts: tuple[StepResult, ...] = ()
    if node.children is not None:
        parts = tuple(_step(child, track_cost=track_cost) for child in node.children)
    elif node.inner is not None:
        parts = tuple(_step(inner, track_cost=track_cost) for inner in node.inner.nodes)
    status = StepStatus.READY if _may_start(node) else node.status
    failed = status in (StepStatus.FAILED, StepStatus.TIMED_OUT, StepStatus.CANCELLED, StepStatus.SKIPPED)
    error = node.error if failed else None
    return StepResult(
        id=node.key,
        kind=node.step.kind,
        doer=node.step.doer,
        status=status,
        output=fresh(node.output),
        error=error,
        error_kind=node.error_kind.value if error is not None and node.error_kind is not None else None,
        skip_reason=node.reason,
        attempts=node.attempt,
        cost_usd=_cost(node, parts) if track_cost else None,
        usage=node.usage,
        started_at=node.started_at,
        ended_at=node.ended_at,
        busy_s=node.busy_s,
        width=len(node.children) if node.children is not None else None,
        errors=node.errors,
        waiting=node.waiting,
        approval=_approval(node) if node.waiting == "approval" else None,
        metadata=node.metadata,
        parts=parts,
    )


def _approval(node: Node) -> dict[str, Any] | None:
    """Return what a person is asked about a step; None in a run that binds no answers."""
    if node.asked is None or node.asked.request.binding is None:
        return None
    request = node.asked.request
    told: dict[str, Any] = {
        "message": request.message,
        "attempt": request.attempt,
        "binding": request.binding,
        "expires_at": request.expires_at,
    }
    if request.attempt:
        told |= {"tool": request.tool, "arguments": fresh(request.args), "labels": list(request.labels)}
    return told


def _run_cost(state: RunState) -> tuple[float | None, tuple[str, ...]]:
    """Return what is known of the run's cost, and the steps of which it is not known."""
    assert state.started is not None
    budget = state.budget
    if not state.started.track_cost:
        return None, ()
    if not _is_used(budget.usage):  # nobody asked a model: no step needs to be looked at
        return budget.cost_usd, ()
    unknown = tuple(_unpriced(state.root.nodes))
    is_known = not unknown or budget.cost_usd > 0 or any(node.cost_usd is not None for node in state.nodes.values())
    return budget.cost_usd if is_known else None, unknown


def _unpriced(nodes: Iterable[Node]) -> Iterator[str]:
    """Yield the steps that asked a model and have no cost."""
    for node in nodes:
        items = node.children or ()
        if (node.cost_usd is None and _is_used(node.usage)) or next(_unpriced(items), None) is not None:
            yield node.key
        if node.inner is not None:
            yield from _unpriced(node.inner.nodes)


def _is_used(usage: Usage | None) -> bool:
    return usage is not None and (usage.requests > 0 or usage.total_tokens > 0)


def _cost(node: Node, parts: tuple[StepResult, ...]) -> float | None:
    known = [cost for cost in (node.cost_usd, *(part.cost_usd for part in parts)) if cost is not None]
    return sum(known) if known else None


def _not_enforced(state: RunState) -> tuple[str, ...]:
    """Return limits the user set on purpose that bind only tools which declare their needs, where some do not."""
    assert state.started is not None
    limits, tools = state.started.limits, state.started.tools
    if limits is None:
        return ()
    chosen = limits.model_fields_set
    found = []
    if "max_memory_mb" in chosen and any(facts.memory_mb is None for facts in tools.values()):
        found.append("max_memory_mb")
    if "max_cpu_percent" in chosen and any(facts.cpu_percent is None for facts in tools.values()):
        found.append("max_cpu_percent")
    return tuple(found)
