"""What a plan may count on: tried as often as it says, within its time, stopped at a limit only if that is reached, and
never with more authority than it has. Worked out from plan and record alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from planloom.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopping,
    SpeculationSettled,
    StepDispatched,
    StepReplanned,
    StepSpeculated,
)
from planloom.plan.model import Plan, Step
from planloom.plan.policy import FailureKind
from planloom.ports import Recorded
from tests.simulation.world import COST_USD

SLACK_S = 1e-3
STOPS_S = 20.0
"""Seconds that stopping what is under way may take; messages to workers take some of them."""


def broken_promises(records: Sequence[Recorded]) -> Iterator[str]:
    events = [entry.event for entry in records]
    if not events or not isinstance(events[0], RunStarted):
        return
    steps = dict(_steps(events[0].plan, ""))
    for event in events:
        if isinstance(event, StepReplanned):
            steps |= dict(_steps(event.plan, f"{_bare(event.step)}/"))
    yield from _in_order(events)
    yield from _tried(events, steps)
    yield from _in_time(events)
    yield from _at_its_limits(events, steps)
    yield from _authority(events)


def _steps(plan: Plan, prefix: str) -> Iterator[tuple[str, Step]]:
    for step in plan.steps:
        yield prefix + step.id, step
        if isinstance(step.plan, Plan):
            yield from _steps(step.plan, f"{prefix}{step.id}/")


def _bare(key: str) -> str:
    """Return the key without the numbers of items."""
    while "[" in key:
        before, _, after = key.partition("[")
        key = before + after.partition("]")[2]
    return key


def _in_order(events: Sequence[Any]) -> Iterator[str]:
    """Each result is of an attempt that had begun by then, and began after its start was decided."""
    began = {(e.step, e.attempt, e.epoch): e.at for e in events if isinstance(e, StepDispatched)}
    ahead = {e.step for e in events if isinstance(e, SpeculationSettled)}
    for event in events:
        if isinstance(event, AttemptSucceeded | AttemptFailed) and event.step not in ahead:
            at = began.get((event.step, event.attempt, event.epoch))
            if at is not None and event.started_at < at - SLACK_S:
                yield f"order: {event.step}, attempt {event.attempt}, had begun {at - event.started_at:.3f} s too early"


def _tried(events: Sequence[Any], steps: dict[str, Step]) -> Iterator[str]:
    """No step fails more often than its policy lets it."""
    failed: Counter[str] = Counter()
    for event in events:
        if isinstance(event, AttemptFailed) and event.kind not in (FailureKind.LOST, FailureKind.CANCELLED):
            failed[event.step] += 1
    for key, times in failed.items():
        step = steps[_bare(key)]
        most = (1 if step.retry is None else step.retry.max_attempts) + (step.replan is not None)
        if times > most:
            yield f"retries: {key} failed {times} times, and may be tried {most} times"


def _in_time(events: Sequence[Any]) -> Iterator[str]:
    """A run is not active for longer than it may be, but for what it takes to stop."""
    first, last = events[0], events[-1]
    if first.limits is None or first.limits.timeout_seconds is None:
        return
    active, since, before = 0.0, first.at, first.at
    for event in events:
        if isinstance(event, RunResumed):
            active += before - since
            since = event.at
        before = event.at
    active += last.at - since
    if isinstance(last, RunFinished) and active > first.limits.timeout_seconds + STOPS_S:
        yield f"time: the run was active for {active:.1f} s, and may be for {first.limits.timeout_seconds} s"


def _at_its_limits(events: Sequence[Any], steps: dict[str, Step]) -> Iterator[str]:
    """A run that is stopped because a call does not fit any more has really used what it may."""
    limits = events[0].limits
    for place, event in enumerate(events):
        if not isinstance(event, RunStopping) or not event.limits:
            continue
        step = steps.get(_bare(event.because))
        if step is None or step.tool is None:
            continue
        before = events[:place]
        if event.limits == ("max_tool_calls",):
            used = _calls(before, steps)
            if used is not None and used < limits.max_tool_calls:
                yield f"limit: stopped after {used} calls, and {limits.max_tool_calls} may be made"
        elif event.limits == ("max_total_cost_usd",) and step.tool == "pay":
            usd = _usd(before, steps)
            if usd is not None and usd + COST_USD <= limits.max_total_cost_usd:
                yield f"limit: stopped after ${usd:.3f}, and ${limits.max_total_cost_usd} may be spent"


def _is_plain(step: Step) -> bool:
    """Return whether an attempt of a step is one call of one tool, and never a request for another plan."""
    return step.tool is not None and step.replan is None


def _calls(events: Sequence[Any], steps: dict[str, Step]) -> int | None:
    """Return how many tools were called; None where a lost attempt may have called any number."""
    made, open_now = 0, set()
    ahead: dict[str, int] = {}
    for event in events:
        if isinstance(event, StepDispatched):
            step = steps[_bare(event.step)]
            if event.step in open_now and not _is_plain(step):
                return None
            made += step.tool is not None
            open_now.add(event.step)
        elif isinstance(event, StepSpeculated):
            ahead[event.step] = event.calls
            made += event.calls
        elif isinstance(event, SpeculationSettled) and event.outcome == "confirmed":
            made -= ahead.pop(event.step, 0)  # it is the step's own attempt now
        elif isinstance(event, AttemptSucceeded | AttemptFailed):
            open_now.discard(event.step)
            made += event.tool_calls
    return made if all(_is_plain(steps[_bare(key)]) for key in open_now) else None


def _usd(events: Sequence[Any], steps: dict[str, Step]) -> float | None:
    """Return what was spent at most; None where a lost attempt may have spent anything."""
    open_now: set[str] = set()
    spent = 0.0
    for event in events:
        if isinstance(event, StepDispatched):
            if event.step in open_now:  # the attempt before it was lost
                if not _is_plain(steps[_bare(event.step)]):
                    return None
                spent += COST_USD
            open_now.add(event.step)
        elif isinstance(event, AttemptSucceeded | AttemptFailed):
            open_now.discard(event.step)
            if isinstance(event, AttemptFailed) and event.kind is FailureKind.LOST:
                if not _is_plain(steps[_bare(event.step)]):
                    return None
                spent += COST_USD
            else:
                spent += COST_USD if event.cost_usd is None else event.cost_usd
        elif isinstance(event, SpeculationSettled):
            return None
    plain = all(_is_plain(steps[_bare(key)]) for key in open_now)
    return spent + COST_USD * len(open_now) if plain else None


def _authority(events: Sequence[Any]) -> Iterator[str]:
    """A plan in the place of a step has only what the run's own plan names, and is no longer than it may be."""
    own = dict(_steps(events[0].plan, ""))
    tools = {step.tool for step in own.values() if step.tool is not None}
    for event in events:
        if not isinstance(event, StepReplanned):
            continue
        policy = own[_bare(event.step)].replan
        for key, step in _steps(event.plan, ""):
            if step.tool not in tools and step.model is None:
                yield f"authority: {event.step} is now a plan whose step {key} is a {step.kind} step, {step.tool}"
        if policy is None or len(event.plan.steps) > policy.max_steps:
            yield f"authority: {event.step} is now a plan of {len(event.plan.steps)} steps"
