"""An event loop without time and without chance: what depends on time takes none, what might run first is drawn.

Rule 1: time is virtual. It stands still while anything can run, then it jumps to the next timer.
Rule 2: the seed decides everything else: two runs of the same program with the same seed are the same, step by step.
Rule 3: only orders that could happen are drawn. Of what is ready in one turn of the loop, wake-ups of tasks and timers
go in any order, for what wakes them comes from outside; callbacks of `call_soon` keep their order among each other, as
asyncio promises. Nobody waits for a second turn: what is ready now runs before anything that becomes ready meanwhile.
Rule 4: no threads, no sockets, no signals: they bring a time of their own. Whoever asks for one is told so.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from random import Random
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, TypeVarTuple

from planloom.errors import DeadlockError, SimulationError
from planloom.testing.clock import NOON

if TYPE_CHECKING:
    import contextvars
    from selectors import SelectorKey

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_TURNS = 1_000_000
"""Turns of the loop after which a program is taken to go round and round."""
_RESOLUTION_S = 1e-9
_TOLD = 5
"""Tasks that an error names at most."""


class _Ready:
    """What is ready to run, in turns, each in an order of its own; in the place of the loop's queue."""

    def __init__(self, draw: Random) -> None:
        self._draw = draw
        self._turn: list[asyncio.Handle] = []
        """What is left of this turn, the last first."""
        self._next: list[asyncio.Handle] = []

    def __len__(self) -> int:
        return len(self._turn) + len(self._next)

    def append(self, handle: asyncio.Handle) -> None:
        self._next.append(handle)

    def popleft(self) -> asyncio.Handle:
        if not self._turn:
            self._begin_turn()
        return self._turn.pop()

    def clear(self) -> None:
        self._turn.clear()
        self._next.clear()

    def _begin_turn(self) -> None:
        ready, self._next = self._next, []
        if len(ready) == 1:
            self._turn = ready
            return
        free = [handle for handle in ready if _may_move(handle)]
        if not free:
            ready.reverse()
            self._turn = ready
            return
        kept = [handle for handle in ready if not _may_move(handle)]
        self._draw.shuffle(free)
        turn = self._turn
        while free and kept:  # from the last to the first
            whose = free if self._draw.random() * (len(free) + len(kept)) < len(free) else kept
            turn.append(whose.pop())
        turn += reversed(free or kept)


def _may_move(handle: asyncio.Handle) -> bool:
    """Return whether something outside could as well have made this ready a little sooner or later."""
    if isinstance(handle, asyncio.TimerHandle):
        return True
    return isinstance(getattr(handle._callback, "__self__", None), asyncio.Task)  # type: ignore[attr-defined]  # asyncio's own


class _NoSelector:
    """In the place of what waits for sockets: lets virtual time pass."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[tuple[SelectorKey, int]]:
        self._loop.let_pass(timeout)
        return []


class SimulatedLoop(asyncio.BaseEventLoop):
    """See the top of this file. `run` is the way to use it.

    Args:
        seed: Decides in which order things happen that could happen in several.
        max_turns: Turns after which a program is taken to go round and round.
    """

    def __init__(self, seed: int = 0, *, max_turns: int = MAX_TURNS) -> None:
        super().__init__()
        self.turns = 0
        self._max_turns = max_turns
        self._own_thread = threading.get_ident()
        self._by_thread = ""
        """What another thread has asked for."""
        self._now_s = 0.0
        self._clock_resolution = _RESOLUTION_S
        self._selector = _NoSelector(self)
        self._ready = _Ready(Random(seed))  # noqa: S311 - it is to be repeatable

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._now_s

    def let_pass(self, seconds: float | None) -> None:
        """Begin the next turn, so many seconds later.

        Args:
            seconds: None: nothing is ready, and no timer is set.

        Raises:
            DeadlockError: Everything waits, and nothing will ever happen.
            SimulationError: It was the last turn there may be, or another thread has a hand in this.
        """
        if self._by_thread:
            told, self._by_thread = self._by_thread, ""
            raise _no_threads(f"another thread asks for {told}, and threads cannot be simulated")
        if seconds is None:
            raise DeadlockError(
                f"everything waits, and nothing will ever happen: {self._who_waits()}",
                remedy="look at what should have woken them; nothing from outside can, and no thread",
            )
        self._now_s += seconds
        self.turns += 1
        if self.turns > self._max_turns:
            turns, self._max_turns = self._max_turns, self._max_turns + self.turns  # what is under way has to end
            raise SimulationError(
                f"no end after {turns} turns of the loop and {self._now_s:g} virtual seconds: {self._who_waits()}",
                remedy="look for something that is tried again and again, or allow more with `max_turns`",
            )

    def _who_waits(self) -> str:
        """Return the tasks that have not ended, each with the line it waits at."""
        found = sorted(_told(task) for task in asyncio.all_tasks(self))
        more = [f"and {len(found) - _TOLD} more"] if len(found) > _TOLD else []
        return "; ".join([*found[:_TOLD], *more]) or "no task is left"

    def _process_events(self, event_list: list[tuple[SelectorKey, int]]) -> None:
        """Do nothing: there are no sockets."""

    def _write_to_self(self) -> None:
        """Do nothing: nobody else could have woken the loop."""

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Do as `call_soon`; that another thread called it, the next turn says."""
        if threading.get_ident() != self._own_thread:
            self._by_thread = getattr(callback, "__qualname__", str(callback))
        return super().call_soon_threadsafe(callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]  # it never returns, so what it would return does not matter
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> NoReturn:
        """Refuse: a thread takes real time, and nobody can say how much."""
        raise _no_threads(f"{getattr(func, '__qualname__', func)} was to run in a thread, which cannot be simulated")


def _no_threads(what: str) -> SimulationError:
    return SimulationError(what, remedy="simulate with async tools, scripted models and a journal in memory")


def _told(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    where = f" at {frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else ""
    coroutine = task.get_coro()
    return f"{getattr(coroutine, '__qualname__', task.get_name())}{where}"


class SimulatedClock:
    """A `ports.Clock` of the simulated loop that runs now.

    Args:
        now: Seconds since the epoch that it tells at first; another one for each of several machines.
    """

    def __init__(self, now: float = NOON) -> None:
        self._loop = asyncio.get_running_loop()
        self._offset = now - self._loop.time()

    def now(self) -> float:
        return self._offset + self._loop.time()

    def call_at(self, when: float, callback: Callable[[], None]) -> Callable[[], None]:
        return self._loop.call_later(max(0.0, when - self.now()), callback).cancel


def run(main: Coroutine[Any, Any, T], *, seed: int = 0, max_turns: int = MAX_TURNS) -> T:
    """Run a coroutine to its end on a loop of its own, as `asyncio.run` does, in no time.

    Args:
        seed: Decides in which order things happen that could happen in several. Try many.
        max_turns: Turns of the loop after which a program is taken to go round and round.

    Raises:
        DeadlockError: Everything waits, and nothing will ever happen.
        SimulationError: Too many turns, or somebody asked for a thread.
    """
    with asyncio.Runner(loop_factory=lambda: SimulatedLoop(seed, max_turns=max_turns)) as runner:
        return runner.run(main)
