"""A graph's run while it is under way: its events, as they become durable, shown on nodes and kept in the state.

Rule 1: nothing is decided here and nothing waits for it; the result is worked out from the record, not from this.
Rule 2: nodes show one run, the one started last; a run that another one took them from leaves them alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planloom.api.dag_result import leaves
from planloom.api.shared_state import StateEntry
from planloom.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    Event,
    StepDispatched,
    StepFailed,
    StepSkipped,
    StepSucceeded,
)
from planloom.core.result import SkipReason, StepStatus
from planloom.plan.policy import OnError
from planloom.plan.terms import fresh

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planloom.api.dag import AgentDAG
    from planloom.api.dag_node import AgentNode
    from planloom.api.dag_plan import GraphPlan
    from planloom.api.dag_result import DAGResult
    from planloom.api.shared_state import SharedState

INITIAL = "initial_state"
"""Source of what a run begins with."""


class LiveRun:
    """Shows one run of a graph.

    Args:
        state: Filled as nodes end.
    """

    def __init__(self, dag: AgentDAG, graph: GraphPlan, state: SharedState) -> None:
        self._dag = dag
        self._nodes = graph.nodes
        self._rank = {name: at for at, name in enumerate(graph.order)}
        self._state = state
        self._winner: dict[str, int] = {}
        """Key → place in the order of the node whose value counts."""
        dag.shown_run = self
        dag.reset()

    def begin(self, initial: Mapping[str, Any], at: float) -> None:
        """Take in what the run begins with, as far as the state does not say so already."""
        for key, value in initial.items():
            if not self._state.has(key) or self._state.get(key) != value:
                self._state.put(StateEntry(key, fresh(value), INITIAL, at))

    def take(self, event: Event) -> None:
        """Take in the next event of the run."""
        match event:
            case AttemptSucceeded() | StepSucceeded():
                self._left(event.step, event.output, event.at)
            case StepFailed():
                node = self._nodes.get(event.step)
                if node is not None and node.on_error == OnError.CONTINUE:
                    self._left(event.step, None, event.at)
            case _:
                pass
        if self._dag.shown_run is self:
            node = self._nodes.get(getattr(event, "step", ""))
            if node is not None:
                _show(node, event)

    def _left(self, name: str, value: Any, at: float) -> None:
        node = self._nodes.get(name)
        if node is None:
            return
        rank, key = self._rank[name], node.state_key
        counts = rank >= self._winner.get(key, -1)
        self._state.put(StateEntry(key, fresh(value), name, at), is_current=counts)
        if counts:
            self._winner[key] = rank

    def end(self, result: DAGResult) -> None:
        """Show on the nodes how the run ended."""
        if self._dag.shown_run is not self:
            return
        for name, step in result.nodes.items():
            node = self._nodes[name]
            node.status, node.error = step.status, step.error
            node.result = fresh(step.output) if leaves(step, node.on_error) else None
            node.start_time, node.end_time, node.execution_count = step.started_at, step.ended_at, step.attempts


def _show(node: AgentNode, event: Event) -> None:
    match event:
        case StepDispatched():
            node.status, node.execution_count = StepStatus.RUNNING, event.attempt
            node.start_time = event.at if node.start_time is None else node.start_time
        case AttemptSucceeded() | StepSucceeded():
            node.status, node.result, node.error, node.end_time = (
                StepStatus.COMPLETED, fresh(event.output), None, event.at,
            )  # fmt: skip
        case AttemptFailed():
            node.error = event.error
        case StepFailed():
            node.status, node.error, node.end_time = event.status, event.error, event.at
        case StepSkipped():
            node.status, node.end_time = StepStatus.SKIPPED, event.at
            if event.reason is SkipReason.ON_ERROR_SKIP:
                node.error = event.because
        case _:
            pass
