"""How steps, containers and runs end."""

from __future__ import annotations

from planloom.core.budget import NO_CLAIM
from planloom.core.commands import EndRun
from planloom.core.events import (
    RunFinished,
    RunStopping,
    StepFailed,
    StepSkipped,
    StepSucceeded,
)
from planloom.core.fold import failure_of
from planloom.core.outputs import CANNOT_RESOLVE, outputs_of
from planloom.core.replanning import misfit, told_of
from planloom.core.result import RunStatus, SkipReason, StepStatus
from planloom.core.state import Node, Replan, ScopeState
from planloom.core.turns import Turns
from planloom.core.waits import TIME_OVER
from planloom.plan.policy import FailureKind, OnError


def fail(
    machine: Turns, node: Node, status: StepStatus, kind: FailureKind, error: str, *, limits: tuple[str, ...] = ()
) -> None:
    """End a step that no attempt is left for; with `limits`, the run is at them and stops."""
    on_error = failure_of(node)
    if on_error is OnError.SKIP and status is not StepStatus.CANCELLED:
        machine.record(StepSkipped(node.key, SkipReason.ON_ERROR_SKIP, machine.now, error))
    else:
        machine.record(StepFailed(node.key, status, kind, error, machine.now))
    state = machine.state
    if limits and state.stopping is None:
        machine.record(RunStopping(RunStatus.LIMIT_EXCEEDED, machine.now, node.key, limits))
    if state.root.failures and state.root.graph.plan.fail_fast and state.stopping is None:
        machine.record(RunStopping(RunStatus.FAILED, machine.now, node.key))


def no_other_plan(machine: Turns, node: Node, why: str) -> None:
    """End a step with what it failed with, since nothing takes its place."""
    kind = node.error_kind or FailureKind.ERROR
    status = StepStatus.TIMED_OUT if kind is FailureKind.TIMEOUT else StepStatus.FAILED
    fail(machine, node, status, kind, f"{node.error}; no other plan: {why}")


def close(machine: Turns, node: Node) -> None:
    """End a container whose parts have all ended."""
    if node.ended:
        return
    if node.children is not None:
        _close_map(machine, node, node.children)
    elif node.inner is not None:
        _close_sub_plan(machine, node, node.inner)


def _close_map(machine: Turns, node: Node, children: list[Node]) -> None:
    bad = [child for child in children if child.status is not StepStatus.COMPLETED]
    culprits = [child for child in bad if child.status in (StepStatus.FAILED, StepStatus.TIMED_OUT)]
    collect = node.step.on_item_error == "collect" and not node.stopping and len(bad) < len(children)
    if not bad or collect:
        errors = tuple(
            {"index": child.index, "error": child.error, "kind": str(child.error_kind or FailureKind.ERROR)}
            for child in bad
        )
        machine.record(StepSucceeded(node.key, [child.output for child in children], machine.now, errors))
    elif culprits:
        first = culprits[0]
        more = f" (and {len(culprits) - 1} more)" if len(culprits) > 1 else ""
        kind = first.error_kind or FailureKind.ERROR
        fail(machine, node, StepStatus.FAILED, kind, f"item {first.index}: {first.error}{more}")
    else:
        fail(machine, node, StepStatus.CANCELLED, FailureKind.CANCELLED, "stopped with items not done")


def _close_sub_plan(machine: Turns, node: Node, inner: ScopeState) -> None:
    culprit = next((part for part in inner.nodes if _broke(part)), None)
    if culprit is not None:
        kind = node.error_kind or culprit.error_kind or FailureKind.ERROR
        fail(machine, node, StepStatus.FAILED, kind, told_of(node, culprit))
    elif node.because == TIME_OVER and _unfinished(inner):
        fail(machine, node, StepStatus.TIMED_OUT, FailureKind.TIMEOUT, TIME_OVER)
    elif _unfinished(inner):
        fail(machine, node, StepStatus.CANCELLED, FailureKind.CANCELLED, "stopped with steps not done")
    else:
        try:
            output = outputs_of(inner)
        except CANNOT_RESOLVE as error:
            fail(machine, node, StepStatus.FAILED, FailureKind.INPUT, f"`outputs` of the sub-plan: {error.message}")
            return
        problem = misfit(node, output)
        if problem is not None:
            fail(machine, node, StepStatus.FAILED, FailureKind.OUTPUT, problem)
            return
        machine.record(StepSucceeded(node.key, output, machine.now))


def starved(machine: Turns) -> bool:
    """Stop the run if what could start next can never fit; return whether anything was decided."""
    limits: dict[str, None] = {}
    because = ""
    for node in machine.state.ready.starved():
        # A name is held by something that will give it back, so it starves nobody.
        broken = machine.state.budget.in_the_way(node.claim or NO_CLAIM, names=False)
        if broken and node.replan is Replan.ASKED:
            no_other_plan(machine, node, f"too little is left of {' and '.join(broken)} to ask for one")
            return True
        because = because or (node.key if broken else "")
        limits.update(dict.fromkeys(broken))
    if not limits:
        return False
    machine.record(RunStopping(RunStatus.LIMIT_EXCEEDED, machine.now, because, tuple(limits)))
    return True


def finish(machine: Turns) -> None:
    state = machine.state
    stop = state.stopping
    failed = next((node for node in state.root.nodes if _broke(node)), None)
    if stop is not None and stop.status is RunStatus.FAILED:
        failed = state.nodes[stop.because]  # others may have broken while they were being stopped
    if stop is not None:
        status = stop.status
    elif failed is not None:
        status = RunStatus.FAILED
    else:
        status = RunStatus.PARTIAL if state.imperfect else RunStatus.SUCCESS
    error = failed.error if failed is not None else None
    output = None
    try:
        output = outputs_of(state.root, lenient=status is not RunStatus.SUCCESS)
    except CANNOT_RESOLVE as problem:
        status, error = RunStatus.FAILED, f"`outputs` of the plan: {problem.message}"
    machine.record(RunFinished(status, output, machine.now, error, failed.key if failed is not None else None))
    machine.command(EndRun(status))


def _unfinished(scope: ScopeState) -> bool:
    """Return whether stopping kept any of its steps from being done."""
    return scope.stopping and any(
        node.status is StepStatus.CANCELLED or node.reason is SkipReason.NOT_STARTED for node in scope.nodes
    )


def _broke(node: Node) -> bool:
    """Return whether this step's failure fails the run."""
    return node.status in (StepStatus.FAILED, StepStatus.TIMED_OUT) and not node.tolerated
