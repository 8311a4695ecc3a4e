"""What stands around the calls of one tool, in order: its circuit breaker, its rate, the breaker again.

Rule 1: an open breaker refuses at once, and not after a wait for a rate; one that opens meanwhile refuses then.
Rule 2: a tool that asks for neither, and that the settings name for neither, has no guard, and pays for none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from planloom.executors.wrap.breaker import CircuitBreaker
from planloom.executors.wrap.limited import CallRate
from planloom.models.rates import RateLimits

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.ports import AttemptContext, Clock
    from planloom.tools.registry import ToolRegistry
    from planloom.tools.sparing import BreakerPolicy

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GuardedTool:
    """Lets the calls of one tool through, or not."""

    breaker: CircuitBreaker | None
    rate: CallRate | None

    async def call(
        self, begin: Callable[[], Awaitable[Any]], request: RunStep, context: AttemptContext, *, is_whole: bool
    ) -> Any:
        """Return what the call comes to.

        Args:
            begin: Begins it.
            is_whole: The call is all of its attempt.

        Raises:
            CircuitOpenError: The tool failed too often just now, and was not called.
        """
        if self.breaker is not None:
            self.breaker.refuse_if_open()
        if self.rate is not None:
            await self.rate.turn(context)
        if self.breaker is None:
            return await begin()
        return await self.breaker.around(begin, request, context, is_whole=is_whole)


def guards_for(
    registry: ToolRegistry,
    clock: Clock,
    *,
    breakers: Mapping[str, BreakerPolicy] | None = None,
    rates: Mapping[str, float] | None = None,
) -> dict[str, GuardedTool]:
    """Return the guards of the tools that have any, by canonical name.

    Args:
        breakers: By a tool's name or a family, ``"web.*"``; what stands here counts more than what the tool says.
        rates: Calls per second, likewise.
    """
    buckets = RateLimits(clock)
    guards: dict[str, GuardedTool] = {}
    for tool in registry.tools():
        policy = _said(registry, tool.name, breakers or {}, tool.breaker)
        per_second = _said(registry, tool.name, rates or {}, tool.rate_per_second)
        if policy is not None or per_second is not None:
            guards[tool.name] = GuardedTool(
                None if policy is None else CircuitBreaker(tool.name, policy, clock),
                None if per_second is None else CallRate(tool.name, per_second, buckets),
            )
    return guards


def _said(registry: ToolRegistry, name: str, settings: Mapping[str, T], declared: T | None) -> T | None:
    """Return what holds for a tool: its own entry, else that of the closest family, else what it declares itself."""
    found = [(entry != name, -len(entry), entry) for entry in settings if registry.allows(name, (entry,))]
    return settings[min(found)[2]] if found else declared
