"""One attempt, request → fact: times it, catches everything, classifies once.

Rule 1: exactly one fact comes out, whatever the tool does: raise, exit, time out, answer with what is no JSON.
Rule 2: this is the only place that catches everything: a step's bug must fail that step and not the engine.
Rule 3: a cancellation is an answer too, unless the engine itself is closing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.core.events import AttemptFailed, AttemptSucceeded
from planloom.executors.classify import kind_of, limits_of, retry_after_s, text_of, type_names, usage_of
from planloom.executors.in_time import in_time
from planloom.plan.policy import FailureKind
from planloom.tools.context import under_way

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.ports import AttemptContext, AttemptExecutor

ON_THE_WAY_S, ON_THE_WAY = 0.05, 0.02
"""Seconds, and the share of a time limit, that may be used up before an attempt begins."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """Makes attempts with one executor; calling it satisfies `ports.MakeAttempt`."""

    executor: AttemptExecutor

    async def __call__(self, request: RunStep, context: AttemptContext) -> AttemptSucceeded | AttemptFailed:
        clock = context.clock
        started_at = clock.now()
        here = under_way.set((request.run_id, request.key, request.attempt))
        try:
            doing = self.executor.execute(request, context)
            if request.deadline_at is None:
                outcome = await doing
            else:
                allowed_s = max(0.0, request.deadline_at - started_at)
                limit_s = _limit_s(request, allowed_s)
                outcome = await in_time(
                    doing, allowed_s=allowed_s, who=f"step {request.key!r}", context=context, limit_s=limit_s
                )
        except asyncio.CancelledError as error:
            if context.closing:
                raise
            return _failed(request, context, FailureKind.CANCELLED, error, started_at)
        except BaseException as error:  # noqa: BLE001 - rule 2; a tool may raise whatever it likes
            return _failed(request, context, kind_of(error), error, started_at)
        finally:
            under_way.reset(here)
        return AttemptSucceeded(
            request.key,
            request.attempt,
            request.epoch,
            outcome.output,
            started_at + context.waited_s,
            clock.now(),
            outcome.usage,
            outcome.cost_usd,
            outcome.cached,
            context.reported_calls,
            outcome.metadata,
            tuple(sorted(labels)) if (labels := context.reported_labels) else (),
        )


def _limit_s(request: RunStep, allowed_s: float) -> float:
    """Return the limit of which so many seconds are left: the step's own, if next to nothing of that is used up."""
    for limit_s in (request.step.attempt_timeout, request.step.timeout_seconds):
        if limit_s is not None and 0 <= limit_s - allowed_s < max(ON_THE_WAY_S, limit_s * ON_THE_WAY):
            return limit_s
    return float(f"{allowed_s:.3g}")


def _failed(
    request: RunStep, context: AttemptContext, kind: FailureKind, error: BaseException, started_at: float
) -> AttemptFailed:
    text = "stopped" if kind is FailureKind.CANCELLED else text_of(error)
    if context.abandoned:
        text += "; its thread cannot be stopped and was abandoned"
    return AttemptFailed(
        request.key,
        request.attempt,
        request.epoch,
        kind,
        text,
        started_at + context.waited_s,
        context.clock.now(),
        type_names(error),
        context.reported_usage or usage_of(error),
        context.reported_usd,
        retry_after_s(error),
        context.abandoned,
        context.reported_calls,
        limits_of(error),
        tuple(sorted(context.reported_labels)),
    )
