"""One attempt, request → fact: times it, catches everything, classifies once.

Rule 1: exactly one fact comes out, whatever the tool does: raise, exit, time out, answer with what is no JSON.
Rule 2: this is the only place that catches `Exception`: a step's bug must fail that step and not the engine.
Rule 3: a cancellation is an answer only if the attempt was asked to stop; else the engine is closing: it goes on up.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.core.events import AttemptFailed, AttemptSucceeded
from planloom.executors.classify import kind_of, retry_after_s, text_of, type_names
from planloom.plan.policy import FailureKind

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.core.result import StepOutcome
    from planloom.ports import AttemptContext, AttemptExecutor


@dataclass(frozen=True, slots=True)
class Attempts:
    """Makes attempts with one executor; calling it satisfies `ports.MakeAttempt`."""

    executor: AttemptExecutor

    async def __call__(self, request: RunStep, context: AttemptContext) -> AttemptSucceeded | AttemptFailed:
        clock = context.clock
        started_at = clock.now()
        try:
            if request.deadline_at is None:
                outcome = await self.executor.execute(request, context)
            else:
                outcome = await self._in_time(request, context, started_at)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if not context.stopping and task is not None and task.cancelling():
                raise
            return _failed(request, context, FailureKind.CANCELLED, error, started_at)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - rule 2
            return _failed(request, context, kind_of(error), error, started_at)
        return AttemptSucceeded(
            request.key,
            request.attempt,
            request.epoch,
            outcome.output,
            started_at,
            clock.now(),
            outcome.usage,
            outcome.cost_usd,
            outcome.cached,
        )

    async def _in_time(self, request: RunStep, context: AttemptContext, started_at: float) -> StepOutcome:
        assert request.deadline_at is not None
        allowed_s = max(0.0, request.deadline_at - started_at)
        scope = asyncio.timeout(allowed_s)
        try:
            async with scope:
                return await self.executor.execute(request, context)
        except TimeoutError as error:
            if scope.expired():
                raise TimeoutError(f"gave no answer within {allowed_s:g} s") from error
            raise


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
        started_at,
        context.clock.now(),
        type_names(error),
        getattr(error, "usage", None),
        getattr(error, "cost_usd", None),
        retry_after_s(error),
        context.abandoned,
    )
