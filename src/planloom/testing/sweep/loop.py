"""An event loop in which waiting takes no time, and which waits all the same for what works outside of it.

Rule 1: time stands still while anything can run, then it jumps to the next timer.
Rule 2: while a thread or a socket may still have something to say, it passes as it really does.
Rule 3: where nothing will ever happen, whoever runs the loop is told.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from planloom.errors import DeadlockError

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

PATIENCE_S = 30.0
"""Real seconds to wait for something from outside."""
SILENCE_S = 0.05
"""Real seconds after which open sockets are taken to have nothing to say for now."""
_WAKE_UP = 1
"""Files that the loop itself listens to."""


class _Selector(selectors.BaseSelector):
    """Waits for files as long as anybody outside may write to them; else lets virtual time pass."""

    def __init__(self) -> None:
        self._inner = selectors.DefaultSelector()
        self.loop: PatientLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        sockets = len(self._inner.get_map()) > _WAKE_UP
        if timeout is not None and timeout <= 0:
            return self._inner.select(0) if sockets or self.loop.outside else []
        if not sockets and not self.loop.outside and (timeout is not None or not self.loop.calls):
            if timeout is None:
                raise DeadlockError(
                    f"everything waits, and nothing will ever happen: {self.loop.who_waits()}",
                    remedy="look at what should have woken them",
                )
            self.loop.pass_by(timeout)
            return []
        return self._really_waited(timeout, sockets)

    def _really_waited(self, timeout: float | None, sockets: bool) -> list[tuple[selectors.SelectorKey, int]]:
        silence_s = SILENCE_S if sockets and not self.loop.outside and timeout is not None else PATIENCE_S
        began_at = monotonic()
        events = self._inner.select(silence_s if timeout is None else min(timeout, silence_s))
        if events:
            passed_s = monotonic() - began_at
            self.loop.pass_by(passed_s if timeout is None else min(passed_s, timeout))
        elif timeout is None:
            raise DeadlockError(
                f"nothing came from outside for {PATIENCE_S:g} s: {self.loop.who_waits()}",
                remedy="look at what should have woken them",
            )
        else:
            self.loop.pass_by(timeout if silence_s < PATIENCE_S else min(timeout, PATIENCE_S))
        return events

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return cast("Mapping[Any, selectors.SelectorKey]", self._inner.get_map())

    def close(self) -> None:
        self._inner.close()


class PatientLoop(asyncio.SelectorEventLoop):
    """See the top of this file.

    Attributes:
        outside: How many work elsewhere, whom time has to wait for; whoever gives work away counts it here.
        calls: How many calls of somebody else's code are under way, of which nobody knows what they wait for.
    """

    def __init__(self) -> None:
        self.outside = 0
        self.calls = 0
        self._now_s = 0.0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._now_s

    def pass_by(self, seconds: float) -> None:
        self._now_s += seconds

    def who_waits(self) -> str:
        """Return the tasks that have not ended."""
        return ", ".join(sorted(_name(task) for task in asyncio.all_tasks(self))) or "no task is left"

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]  # as the loop it stands in for
        future = super().run_in_executor(executor, func, *args)
        self.outside += 1
        future.add_done_callback(self._came_back)
        return future

    def _came_back(self, _: asyncio.Future[Any]) -> None:
        self.outside -= 1


def _name(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", task.get_name())


async def for_ever() -> NoReturn:
    """Wait as a process without power does."""
    while True:
        await asyncio.Event().wait()


def run_patiently(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a loop of its own, as `asyncio.run` does, without waiting for time to pass.

    Raises:
        DeadlockError: Everything waits, and nothing will ever happen.
    """
    loop = PatientLoop()  # not by `asyncio.Runner`, which looks after signals, and takes longer for it than most runs
    try:
        return loop.run_until_complete(main)
    finally:
        try:
            _end_all(loop)
        finally:
            loop.close()


def _end_all(loop: PatientLoop) -> None:
    """End what was left behind."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    with suppress(DeadlockError):  # what swallows its cancellation is left where it is
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.outside += 1  # its threads
        loop.run_until_complete(loop.shutdown_default_executor())
