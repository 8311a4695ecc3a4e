"""How a run and its steps are shown: from the record alone, as JSON.

Rule 1: what carries the label "secret" is not shown; the record itself, which has it, is for whoever may read all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from planloom.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    CallEnded,
    OutputStreamed,
    RetryScheduled,
    RunResumed,
    StepDispatched,
)
from planloom.core.result import FOR_A_PERSON
from planloom.errors import NoStepError, suggestion
from planloom.observe.looks import every_step
from planloom.plan.flow import SECRET
from planloom.runtime.explain import explained
from planloom.runtime.inflight import known_arguments
from planloom.runtime.people import WAYS

if TYPE_CHECKING:
    from planloom.core.result import RunResult, StepResult, Usage
    from planloom.ports import RunRow
    from planloom.runtime.reading import RunOnRecord

_TELL_ERRORS = ("attempt_failed", "step_failed")
NOT_SHOWN = "not shown, for it is secret"


def run_line(row: RunRow, status: str) -> dict[str, Any]:
    """Return a run as a list has it."""
    return {name: getattr(row, name) for name in row.__slots__} | {"status": status}


def run_summary(run: RunOnRecord) -> dict[str, Any]:
    """Return a run in a line, with where it comes from."""
    started = run.state.started
    assert started is not None
    return {
        "run_id": run.result.run_id,
        "plan": run.plan.name,
        "plan_hash": run.plan.hash,
        "status": run.result.status.value,
        "started_at": started.at,
        "updated_at": run.state.last_at,
        "last_seq": run.records[-1].seq,
        "from_run": started.from_run,
        "edited": started.edited,
        "paused": run.state.paused and not run.machine.ended,
    }


def run_detail(run: RunOnRecord) -> dict[str, Any]:
    """Return how a run stands, with all of its steps."""
    started = run.state.started
    assert started is not None
    told = run.result.to_dict() | run_summary(run)
    del told["blocked"]
    secret, hidden = secret_keys(run), []
    if secret:
        told["steps"] = [_without(step, secret) for step in told["steps"]]
    if run.state.flow is not None and SECRET in run.state.flow.of_run(run.state.root):
        told["result"], hidden = None, ["result"]
    if told["failed_step"] in secret and told["error"] is not None:
        told["error"], hidden = NOT_SHOWN, [*hidden, "error"]
    limits = started.limits.model_dump() if started.limits is not None else None
    return told | {
        "inputs": started.inputs,
        "limits": limits,
        "driven": run.driven,
        "questions": questions_of(run),
        "hidden": hidden,
    }


def questions_of(run: RunOnRecord) -> list[dict[str, Any]]:
    """Return what a run asks people, oldest step first."""
    if run.machine.ended:
        return []
    return [_question(run, step) for step in run.result.blocked if step.id in run.state.blocked]


def _question(run: RunOnRecord, step: StepResult) -> dict[str, Any]:
    node = run.state.blocked[step.id]
    told: dict[str, Any] = {
        "step": node.key,
        "kind": "approval",
        "message": "",
        "form": None,
        "binding": None,
        "expires_at": None,
        "attempt": 0,
        "tool": "",
        "arguments": None,
        "labels": [],
        "ways": [],
    }
    assert step.waiting in FOR_A_PERSON
    if step.waiting == "unknown":
        message = "it may run only once, and whether it did is unknown"
        return told | {"kind": "unknown", "message": message, "attempt": node.attempt, "ways": list(WAYS)}
    assert node.asked is not None
    request = node.asked.request
    return told | {
        "message": request.message,
        "form": request.form,
        "binding": request.binding,
        "expires_at": request.expires_at,
        "attempt": request.attempt,
        "tool": request.tool,
        "arguments": request.args,
        "labels": list(request.labels),
    }


def step_detail(run: RunOnRecord, key: str) -> dict[str, Any]:
    """Return a step with everything on record about it.

    Raises:
        NoStepError: The run has no such step, or not yet.
    """
    node = run.state.nodes.get(key)
    if node is None:
        raise NoStepError(
            f"run {run.result.run_id} has no step {key!r}, or not yet",
            remedy=suggestion(key, run.state.nodes),
            step=key,
        )
    step = next(one for one in every_step(run.result.steps) if one.id == key)
    told = step.to_dict(track_cost=run.state.started is None or run.state.started.track_cost)
    secret = secret_keys(run)
    given = known_arguments(node)
    hidden = []
    if key in secret:
        told, hidden = _without(told, secret), ["output"]
    if SECRET in node.told and given is not None:
        given, hidden = None, [*hidden, "inputs"]
    return told | {
        "run_id": run.result.run_id,
        "needs": [node.scope.nodes[place].key for place in node.entry.upstream] if node.parent is None else [],
        "inputs": given,
        "labels": sorted(node.labels),
        "tries": _quiet(_tries(run, key), "error", is_secret=key in secret),
        "calls": _quiet(_calls(run, key), "error", is_secret=key in secret),
        "streamed": _streamed(run, key) if not hidden else "",
        "hidden": hidden,
        "chain": _chain(run, key, secret),
    }


def _chain(run: RunOnRecord, key: str, secret: frozenset[str]) -> list[dict[str, Any]]:
    """Return why a step stands as it does; what a failure told stays out where it may tell a secret."""
    links = [link.to_dict() for link in explained(run.result.run_id, run.records, key).chain]
    told = [link for link in links if link["step"] in secret and link["event"] in _TELL_ERRORS]
    _quiet(told, "text", is_secret=True)
    return links


def _quiet(rows: list[dict[str, Any]], field: str, *, is_secret: bool) -> list[dict[str, Any]]:
    for row in rows if is_secret else ():
        row[field] = None if row[field] is None else NOT_SHOWN
    return rows


def _tries(run: RunOnRecord, key: str) -> list[dict[str, Any]]:
    """Return the attempts of a step, in the order they began."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for recorded in run.records:
        event = recorded.event
        if isinstance(event, RunResumed):  # what was under way went with the engine
            for one in found.values():
                if one["status"] == "running":
                    one |= {"status": "lost", "ended_at": event.at}
        if getattr(event, "step", None) != key:
            continue
        match event:
            case StepDispatched():
                found[event.attempt, event.epoch] = _try(event)
            case AttemptSucceeded() if (event.attempt, event.epoch) in found:
                found[event.attempt, event.epoch] |= {"status": "completed", "cached": event.cached, **_ended(event)}
            case AttemptFailed() if (event.attempt, event.epoch) in found:
                failed = {"status": "failed", "error": event.error, "error_kind": event.kind.value}
                found[event.attempt, event.epoch] |= {**failed, **_ended(event)}
            case RetryScheduled():
                last = [one for (number, _), one in found.items() if number == event.attempt - 1]
                if last:
                    last[-1]["retry_at"] = event.due_at
            case _:
                pass
    return list(found.values())


def _try(event: StepDispatched) -> dict[str, Any]:
    return {
        "number": event.attempt,
        "epoch": event.epoch,
        "started_at": event.at,
        "ended_at": None,
        "status": "running",
        "error": None,
        "error_kind": None,
        "usage": None,
        "cost_usd": None,
        "tool_calls": 0,
        "cached": False,
        "retry_at": None,
    }


def _ended(event: AttemptSucceeded | AttemptFailed) -> dict[str, Any]:
    return {
        "started_at": event.started_at,
        "ended_at": event.at,
        "usage": _usage(event.usage),
        "cost_usd": event.cost_usd,
        "tool_calls": event.tool_calls,
    }


def _calls(run: RunOnRecord, key: str) -> list[dict[str, Any]]:
    return [
        {
            "attempt": event.attempt,
            "key": event.key,
            "name": event.name,
            "kind": event.kind,
            "started_at": event.started_at,
            "ended_at": event.at,
            "error": event.error,
            "usage": _usage(event.usage),
            "cost_usd": event.cost_usd,
        }
        for recorded in run.records
        if isinstance(event := recorded.event, CallEnded) and event.step == key
    ]


def _streamed(run: RunOnRecord, key: str) -> str:
    """Return what the attempt under way has answered so far."""
    node = run.state.nodes[key]
    if node.ended:
        return ""
    pieces = (one.event for one in run.records if isinstance(one.event, OutputStreamed) and one.event.step == key)
    return "".join(one.text for one in pieces if one.attempt == node.attempt and one.epoch == node.epoch)


def _usage(usage: Usage | None) -> dict[str, int] | None:
    return None if usage is None else usage.to_dict()


def secret_keys(run: RunOnRecord) -> frozenset[str]:
    """Return the steps whose output, or error, must not be shown."""
    if run.state.flow is None:
        return frozenset()
    return frozenset(key for key, node in run.state.nodes.items() if SECRET in node.labels)


def shown_result(run: RunOnRecord) -> RunResult:
    """Return the result without the errors that are secret, for pictures; outputs are in none of these."""
    secret = secret_keys(run)
    if not secret:
        return run.result

    def without(step: StepResult) -> StepResult:
        error = NOT_SHOWN if step.id in secret and step.error is not None else step.error
        return replace(step, error=error, parts=tuple(without(part) for part in step.parts))

    error = NOT_SHOWN if run.result.error is not None else None
    return replace(run.result, error=error, steps=tuple(without(step) for step in run.result.steps))


def _without(step: dict[str, Any], secret: frozenset[str]) -> dict[str, Any]:
    """Return a step, and its parts, without what is secret of them."""
    told = dict(step)
    if told["id"] in secret:
        told |= {"output": None, "error": None if told["error"] is None else NOT_SHOWN}
        told.pop("metadata", None)
    if "parts" in told:
        told["parts"] = [_without(part, secret) for part in told["parts"]]
    return told
