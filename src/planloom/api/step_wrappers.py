"""A `StepExecutor` that keeps answers, has threads of its own, or counts: the same executor, made with other settings.

Rule 1: none of these changes how a step is done, so any of them can be had with any other:
``MetricsStepExecutor(agents, cache_size=100, effects="none")`` keeps answers and counts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from planloom import blocking
from planloom.api.step_metrics import StepMetrics
from planloom.api.steps import StepExecutor
from planloom.errors import ConfigError
from planloom.executors.in_time import in_time
from planloom.executors.threads import ThreadPool
from planloom.plan.policy import Effects

T = TypeVar("T")


class CachedStepExecutor(StepExecutor):
    """Gives the same agent's answer again to the same request with the same memory and metadata.

    Of several who ask the same at once, one is asked. Errors are never kept, nor are answers of agents whose `effects`,
    or the effects of whose tools, are not "none"; an agent that says nothing of its effects counts as one that has none
    here. What is handed out is a copy.

    Args:
        maxsize: Answers kept; the one that was used least recently goes first.
    """

    def __init__(self, *args: Any, maxsize: int = 100, **options: Any) -> None:
        if maxsize < 1:
            raise ConfigError(f"maxsize={maxsize} keeps nothing", remedy="give 1 or more, or use StepExecutor")
        settings: dict[str, Any] = {"effects": Effects.NONE, "cache_size": maxsize}
        super().__init__(*args, **settings | options)


class MetricsStepExecutor(StepExecutor):
    """Counts what its agents were asked; see `StepMetrics` for what the numbers mean."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._numbers = StepMetrics()
        super().__init__(*args, metrics=self._numbers, **options)

    @property
    def metrics(self) -> dict[str, int | float]:
        """Return the numbers so far, a copy."""
        return self._numbers.to_dict()

    def get_metrics(self) -> dict[str, int | float]:
        """Return `metrics`."""
        return self.metrics


class PooledStepExecutor(StepExecutor):
    """Has a pool of threads for functions that block.

    Args:
        pool_size: Functions under way at once; more wait for their turn. One that was given up no longer counts.
    """

    def __init__(self, *args: Any, pool_size: int = 10, **options: Any) -> None:
        if pool_size < 1:
            raise ConfigError(f"pool_size={pool_size} lets nothing run", remedy="give 1 or more")
        super().__init__(*args, **options)
        self.pool_size = pool_size
        self._pool = ThreadPool(pool_size)
        self._calls: set[_BlockingCall] = set()

    async def execute_blocking_tool(self, tool_func: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function in a thread of the pool, with these arguments, and return its result.

        Raises:
            TimeoutError: No answer within `timeout_seconds`, a wait for a free thread included. A function that had
                begun runs on, and its result is ignored.
            Exception: Whatever the function raised.
        """
        call = _BlockingCall(partial(tool_func, *args, **kwargs))
        self._calls = {one for one in self._calls if not one.done.is_set()} | {call}
        name = getattr(tool_func, "__name__", type(tool_func).__name__)
        try:
            called = self._pool.call(call.make, {}, call)
            result: T = await in_time(called, allowed_s=self.timeout_seconds, who=f"function {name!r}")
            return result
        finally:
            if not call.is_left:
                call.done.set()  # also one that was given up before it began

    async def close(self) -> None:
        """Wait until every function that was called is done, and let go of the threads and the engine.

        A wait that is cancelled leaves the functions to themselves: none keeps the process from ending.
        """
        await blocking.in_thread(lambda calls: [call.done.wait() for call in calls], list(self._calls))
        self._pool.close()
        await super().close()


class _BlockingCall:
    """One function that blocks, from when it is asked for until it is done."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.is_left = False
        self.done = threading.Event()

    def make(self) -> Any:
        try:
            return self._function()
        finally:
            self.done.set()

    def abandon(self) -> None:
        """Hear that nobody waits for it any more, but that its thread runs on; `close` waits for that."""
        self.is_left = True

    def wait(self, seconds: float) -> None:
        """Nothing to note: the time limit counts the wait for a thread."""
