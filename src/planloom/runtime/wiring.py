"""Settings → adapters. The only file that names them, and the order of the wrappers around the executors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.executors.attempt import Attempts
from planloom.executors.by_kind import ByKind
from planloom.executors.calls import ToolCalls
from planloom.executors.threads import ThreadPool
from planloom.executors.tool import ToolExecutor
from planloom.executors.wrap.cached import CachedExecutor, LruCache
from planloom.transport.local import LocalTransport

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.ports import AttemptExecutor, Clock, Transport
    from planloom.runtime.settings import Settings
    from planloom.tools.registry import ToolRegistry

HEART_KINDS = frozenset({"plan", "approve", "wait"})
"""Kinds of step that the heart does itself."""


@dataclass(frozen=True, slots=True)
class Wired:
    """What an engine stands on.

    Attributes:
        kinds: Kinds of step that can be done here.
    """

    transport: Transport
    threads: ThreadPool
    kinds: frozenset[str]


def wire(registry: ToolRegistry, settings: Settings, clock: Clock) -> Wired:
    """Return Cached(ByKind(tool)) behind the local transport."""
    threads = ThreadPool(settings.max_threads)
    executors: dict[str, AttemptExecutor] = {"tool": ToolExecutor(ToolCalls(registry, threads))}

    def digest_of(request: RunStep) -> str:
        return registry.get(request.step.tool).digest if request.step.tool is not None else ""

    cached = CachedExecutor(ByKind(executors), LruCache(clock, size=settings.cache_size), digest_of)
    return Wired(LocalTransport(Attempts(cached), clock), threads, HEART_KINDS | executors.keys())
