"""What came of running an agent graph, made of the run's own result and nothing else.

Rule 1: the state is worked out by the rule of `dag_plan.py`, from outputs on record: a resumed run has the same.
Rule 2: what concerns a hidden step is told of the node it stands in front of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from planloom.core.result import ENDED, SkipReason, StepStatus
from planloom.plan.policy import OnError
from planloom.plan.terms import fresh

if TYPE_CHECKING:
    from planloom.api.dag_plan import GraphPlan
    from planloom.api.shared_state import SharedState
    from planloom.core.result import RunResult, StepResult

FAILED = frozenset({StepStatus.FAILED, StepStatus.TIMED_OUT, StepStatus.CANCELLED})


@dataclass(frozen=True, slots=True)
class DAGResult:
    """How a run of a graph ended, or stands if it waits for a person.

    Attributes:
        run_id: Names it in the journal.
        status: "success"; "partial": it ended well, but nodes were skipped, or failed and were tolerated; "failed";
            "cancelled", "limit_exceeded", "waiting".
        completed_nodes, failed_nodes, skipped_nodes: How many; timed out and cancelled nodes count as failed.
        execution_time_seconds: Wall-clock seconds in which the run was active.
        node_results: Output of each node that is done.
        errors: What went wrong, by node; failures that were tolerated or skipped over, too.
        final_state: What the run began with, and over it what nodes left.
        state: The same with who set what and when, and everything that was set.
        nodes: How each node stands: status, attempts, times, cost, usage.
        run: The run itself, hidden steps included.
    """

    dag_name: str
    run_id: str
    status: str
    total_nodes: int
    completed_nodes: int
    failed_nodes: int
    skipped_nodes: int
    execution_time_seconds: float
    node_results: dict[str, Any]
    errors: dict[str, str]
    final_state: dict[str, Any]
    state: SharedState
    nodes: Mapping[str, StepResult]
    run: RunResult

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON."""
        return {
            "dag_name": self.dag_name,
            "run_id": self.run_id,
            "status": self.status,
            "total_nodes": self.total_nodes,
            "completed_nodes": self.completed_nodes,
            "failed_nodes": self.failed_nodes,
            "skipped_nodes": self.skipped_nodes,
            "execution_time_seconds": self.execution_time_seconds,
            "node_results": fresh(self.node_results),
            "errors": dict(self.errors),
            "final_state": fresh(self.final_state),
            "nodes": {name: step.to_dict() for name, step in self.nodes.items()},
        }


def dag_result(graph: GraphPlan, initial: Mapping[str, Any], run: RunResult, state: SharedState) -> DAGResult:
    """Return a run's result as its graph's.

    Args:
        initial: The state that the run began with.
        state: As it was filled while the run was under way.
    """
    steps = {step.id: step for step in run.steps}
    blamed = broken_edges(graph, steps)
    nodes = {name: blamed.get(name, steps[name]) for name in graph.nodes}
    final = fresh(dict(initial))
    for name in graph.order:
        if leaves(nodes[name], graph.nodes[name].on_error):
            final[graph.nodes[name].state_key] = fresh(nodes[name].output)
    statuses = [step.status for step in nodes.values()]
    return DAGResult(
        dag_name=graph.plan.name,
        run_id=run.run_id,
        status=run.status.value,
        total_nodes=len(nodes),
        completed_nodes=statuses.count(StepStatus.COMPLETED),
        failed_nodes=sum(status in FAILED for status in statuses),
        skipped_nodes=statuses.count(StepStatus.SKIPPED),
        execution_time_seconds=run.active_s,
        node_results={name: step.output for name, step in nodes.items() if step.status is StepStatus.COMPLETED},
        errors=_errors(nodes),
        final_state=final,
        state=state,
        nodes=nodes,
        run=run,
    )


def leaves(step: StepResult, on_error: OnError | str) -> bool:
    """Return whether a node leaves a value in the state: its output, or None where its failure is tolerated."""
    tolerated = step.status in (StepStatus.FAILED, StepStatus.TIMED_OUT) and on_error == OnError.CONTINUE
    return step.status is StepStatus.COMPLETED or tolerated


def broken_edges(graph: GraphPlan, steps: Mapping[str, StepResult]) -> dict[str, StepResult]:
    """Return the nodes whose edge's condition raised, each with what it raised as its error."""
    found: dict[str, StepResult] = {}
    for hidden, edge in graph.conditions.items():
        step, node = steps[hidden], steps[edge.target]
        failed = node.status is StepStatus.FAILED or node.skip_reason is SkipReason.ON_ERROR_SKIP
        if step.status in FAILED and failed and edge.target not in found:
            error = f"the condition on the edge from {edge.source!r} to {edge.target!r} failed: {step.error}"
            found[edge.target] = replace(node, error=error)
    return found


def _errors(nodes: Mapping[str, StepResult]) -> dict[str, str]:
    return {name: step.error for name, step in nodes.items() if step.error is not None and step.status in ENDED}
