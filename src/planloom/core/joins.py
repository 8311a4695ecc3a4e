"""When a step with several upstream steps may run: the trigger rules, as a table in code.

Rule 1: a tolerated failure counts as ok, a step skipped because of a failure counts as failed (`fold.py` counts).
"""

from __future__ import annotations

from typing import assert_never

from planloom.core.result import SkipReason, StepStatus
from planloom.core.state import Node
from planloom.plan.policy import JoinRule


def skip_reason(node: Node) -> SkipReason | None:
    """Return why the join rule skips this step, or None if it may run."""
    rule = node.entry.join
    upstream_failed = node.failed > 0
    match rule:
        case JoinRule.ALL_DONE | JoinRule.ALWAYS:
            run = True
        case JoinRule.ALL_SUCCESS:
            run = not upstream_failed and node.skipped == 0
        case JoinRule.NONE_FAILED:
            run = not upstream_failed
        case JoinRule.ONE_SUCCESS:
            run = node.ok > 0 or not node.entry.upstream
        case JoinRule.NONE_FAILED_MIN_ONE_SUCCESS:
            run = not upstream_failed and (node.ok > 0 or not node.entry.upstream)
        case _:
            assert_never(rule)
    if run:
        return None
    return SkipReason.UPSTREAM_FAILED if upstream_failed else SkipReason.UPSTREAM_SKIPPED


def first_not_completed(node: Node) -> str:
    """Return the first upstream step that did not complete."""
    nodes = node.scope.nodes
    bad = (nodes[place] for place in node.entry.upstream if nodes[place].status is not StepStatus.COMPLETED)
    first = next(bad, None)
    return first.key if first is not None else "condition"
