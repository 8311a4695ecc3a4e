"""What stands around the calls of one tool, in order: its circuit breaker, its rate, the breaker again.

Rule 1: an open breaker refuses at once, and not after a wait for a rate; one that opens meanwhile refuses then.
Rule 2: a tool that asks for neither, and that the settings name for neither, has no guard, and pays for none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from planloom.errors import ConfigError, suggestion
from planloom.executors.wrap.breaker import CircuitBreaker
from planloom.executors.wrap.limited import CallRate
from planloom.models.rates import RateLimits

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.ports import AttemptContext, Clock
    from planloom.tools.registry import ToolRegistry
    from planloom.tools.sparing import BreakerPolicy
    from planloom.tools.tool import Tool

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


class Guards:
    """The guards of an engine's tools, and of tools that only an agent has.

    Args:
        breakers: By a tool's name or a family, ``"web.*"``; what stands here counts more than what the tool says.
        rates: Calls per second, likewise.

    Attributes:
        by_name: Those of the engine's tools that have one, by canonical name.
    """

    def __init__(
        self,
        registry: ToolRegistry,
        clock: Clock,
        *,
        breakers: Mapping[str, BreakerPolicy] | None = None,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._buckets = RateLimits(clock)
        self.by_name: dict[str, GuardedTool] = {}
        self._of_others: dict[tuple[str, str], GuardedTool] = {}
        """By name and digest: agents bring the same tools in ever new registries."""
        for tool in registry.tools():
            policy = _said(registry, tool.name, breakers or {}, tool.breaker)
            per_second = _said(registry, tool.name, rates or {}, tool.rate_per_second)
            guard = self._made(tool.name, tool.name, policy, per_second)
            if guard is not None:
                self.by_name[tool.name] = guard

    def of(self, tool: Tool) -> GuardedTool | None:
        """Return what stands around the calls of a tool, or None."""
        if self._registry.by_name().get(tool.name) is tool:
            return self.by_name.get(tool.name)
        if tool.breaker is None and tool.rate_per_second is None:
            return None
        key = (tool.name, tool.digest)
        guard = self._of_others.get(key)
        if guard is None:
            guard = self._made(tool.name, " ".join(key), tool.breaker, tool.rate_per_second)
            assert guard is not None
            self._of_others[key] = guard
        return guard

    def _made(
        self, name: str, bucket: str, policy: BreakerPolicy | None, per_second: float | None
    ) -> GuardedTool | None:
        if policy is None and per_second is None:
            return None
        return GuardedTool(
            None if policy is None else CircuitBreaker(name, policy, self._clock),
            None if per_second is None else CallRate(bucket, per_second, self._buckets),
        )


def check_spared(registry: ToolRegistry, **settings: Mapping[str, object]) -> None:
    """Refuse settings that name a tool that is not there: it would be spared by nothing, and nobody would know.

    Args:
        settings: What the settings say, by the name of the setting; families, ``"web.*"``, may be of no tool.

    Raises:
        ConfigError: They do.
    """
    for setting, entries in settings.items():
        for entry in entries:
            if not entry.endswith(".*") and registry.resolve(entry) is None:
                raise ConfigError(
                    f"the setting {setting!r} names {entry!r}, and there is no such tool",
                    remedy=suggestion(entry, registry.names(), otherwise="take it out: there are no tools at all"),
                )


def _said(registry: ToolRegistry, name: str, settings: Mapping[str, T], declared: T | None) -> T | None:
    """Return what holds for a tool: its own entry, else that of the closest family, else what it declares itself."""
    found = [(entry != name, -len(entry), entry) for entry in settings if registry.allows(name, (entry,))]
    return settings[min(found)[2]] if found else declared
