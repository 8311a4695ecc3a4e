"""Reuse of results of `none` steps that ask for it: the same tool, version and arguments give the same result once.

Rule 1: the key is everything that matters: tool, digest, arguments and the step's own key; so no tool ever gets
another tool's value.
Rule 2: single flight: equal attempts under way at the same time are made once. Where the first is stopped, or fails of
what need not befall the others (its time, its limits, a server's bad moment), one of them takes its place.
Rule 3: errors are never kept, and every hit is a copy.
Rule 4: what calls inside brought in (labels) comes with every hit.
Rule 5: what was used is booked once: with the attempt that used it, whether it came to a result or an error.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from planloom.core.result import StepOutcome, Usage
from planloom.executors.classify import kind_of, usage_of
from planloom.plan.policy import CachePolicy, Effects, FailureKind
from planloom.plan.terms import fresh

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.ports import AttemptContext, AttemptExecutor, Cache, Clock

_ALIKE = frozenset({FailureKind.REFUSED, FailureKind.INPUT})
"""Kinds of failure that an equal attempt cannot escape."""


class LruCache:
    """The most recently used results, in memory."""

    def __init__(self, clock: Clock, *, size: int = 1_000) -> None:
        self._clock = clock
        self._size = size
        self._kept: OrderedDict[str, tuple[StepOutcome, float | None]] = OrderedDict()

    def get(self, key: str) -> StepOutcome | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        outcome, until = kept
        if until is not None and self._clock.now() >= until:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return outcome

    def put(self, key: str, outcome: StepOutcome, *, ttl_s: float | None) -> None:
        self._kept[key] = (outcome, None if ttl_s is None else self._clock.now() + ttl_s)
        self._kept.move_to_end(key)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)


@dataclass(frozen=True, slots=True)
class CachedExecutor:
    """Around any executor.

    Attributes:
        digest_of: Says which version of what would do the step.
    """

    inner: AttemptExecutor
    store: Cache
    digest_of: Callable[[RunStep], str]
    _under_way: dict[str, asyncio.Future[StepOutcome]] = field(default_factory=dict)

    def execute(self, request: RunStep, context: AttemptContext) -> Awaitable[StepOutcome]:
        if request.step.cache is None or request.effects is not Effects.NONE:
            return self.inner.execute(request, context)
        return self._reused(request, context, request.step.cache)

    async def _reused(self, request: RunStep, context: AttemptContext, policy: CachePolicy) -> StepOutcome:
        key = self._key(request)
        while True:
            kept = self.store.get(key)
            if kept is not None:
                return _hit(kept, context)
            first = self._under_way.get(key)
            if first is None:
                break
            found = await _of(first, context)
            if found is not None:
                return _hit(found, context)
        future: asyncio.Future[StepOutcome] = asyncio.get_running_loop().create_future()
        self._under_way[key] = future
        try:
            outcome = await self.inner.execute(request, context)
        except BaseException as error:
            if isinstance(error, Exception) and kind_of(error) in _ALIKE:
                future.set_exception(error)
                future.exception()  # seen: nobody else may be waiting
            else:
                future.cancel()
            raise
        else:
            if context.reported_labels:
                outcome = replace(outcome, labels=tuple(sorted(context.reported_labels)))
            self.store.put(key, outcome, ttl_s=policy.ttl_seconds)
            future.set_result(outcome)
            return outcome
        finally:
            del self._under_way[key]

    def _key(self, request: RunStep) -> str:
        own_key = request.idempotency_key if request.step.idempotency_key is not None else ""
        parts: list[Any] = [request.step.kind, request.step.doer, self.digest_of(request), request.args, own_key]
        if request.labels:  # they decide which calls inside are made
            parts.append(sorted(request.labels))
        return sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


async def _of(first: asyncio.Future[StepOutcome], context: AttemptContext) -> StepOutcome | None:
    """Return what the one that was first came to; None if that was its own trouble, so that somebody else is to try."""
    try:
        return await asyncio.shield(first)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not first.cancelled() or context.stopping or (task is not None and task.cancelling()):
            raise
        return None
    except Exception as error:
        # What it used is booked with the first one; this attempt asked nobody, which is known to cost nothing.
        if usage_of(error) is not None:
            context.report_usage(Usage())
        context.report_usd(0.0)
        raise


def _hit(kept: StepOutcome, context: AttemptContext) -> StepOutcome:
    if kept.labels:
        context.report_labels(kept.labels)
    return StepOutcome(fresh(kept.output), None, 0.0 if kept.cost_usd is not None else None, cached=True)
