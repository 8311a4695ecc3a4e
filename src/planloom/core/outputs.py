"""What a run or sub-plan returns, once its steps have ended."""

from __future__ import annotations

from typing import Any

from planloom.core.result import StepStatus
from planloom.core.state import ScopeState
from planloom.errors import EvaluationError, MissingValueError
from planloom.plan.refs import Template

CANNOT_RESOLVE = (MissingValueError, EvaluationError)
"""What working out a reference may raise."""


def outputs_of(scope: ScopeState, *, lenient: bool = False) -> Any:
    """Return what a plan instance returns.

    Args:
        lenient: Give null for a top-level part that leads nowhere, because the run did not do all its steps anyway.
    """
    template = scope.graph.outputs
    if template is None:
        ends = [node for node in scope.nodes if not node.entry.downstream]
        if len(ends) == 1:
            return ends[0].output
        return {node.step.id: node.output for node in ends if node.status is StepStatus.COMPLETED} or None
    if not lenient:
        return template.resolve(scope)
    return _where_possible(scope, template)


def _where_possible(scope: ScopeState, template: Template) -> Any:
    def attempt(part: Template) -> Any:
        try:
            return part.resolve(scope)
        except CANNOT_RESOLVE:
            return None

    parts = template.parts()
    return attempt(template) if parts is None else {name: attempt(part) for name, part in parts.items()}
