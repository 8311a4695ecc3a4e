"""AgentPool: several agents alike behind one name, for agents that can do one thing at a time.

Rule 1: an agent is given to one caller at a time, and comes back whatever became of the call.
Rule 2: an agent is made when none is free and there may be another; one that raised is as good as any other, unless
`is_sound` says otherwise.
Rule 3: an agent that is sync has a thread of its own while it works, so that as many work at once as there may be.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from inspect import isawaitable, iscoroutinefunction
from typing import Any
from weakref import WeakKeyDictionary

from planloom import blocking
from planloom.agents.roster import way_of
from planloom.errors import ConfigError
from planloom.plan.policy import Effects


class AgentPool:
    """An agent like any other, with `run_step(request, context)`.

    Args:
        make: Makes an agent that is asked by `run_step`, `arun` or `run`, or is called; may be async.
        size: Agents at work at most, in one event loop; whoever finds none free waits, the first come first.
        effects: What asking an agent again would do; None: nobody says.
        is_sound: Whether an agent may be used again after a call that raised; None: always.
    """

    def __init__(
        self,
        make: Callable[[], Any | Awaitable[Any]],
        size: int = 4,
        *,
        effects: Effects | str | None = None,
        is_sound: Callable[[Any], bool] | None = None,
    ) -> None:
        if size < 1:
            raise ConfigError(f"a pool of {size} agents answers nobody", remedy="give 1 or more")
        self.size = size
        self.effects = None if effects is None else Effects(effects)
        self._make = make
        self._is_sound = is_sound
        self._places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        """By event loop: who waits in one cannot be woken in another."""
        self._is_closed = False
        self._free: list[Any] = []

    async def run_step(self, request: Any, context: dict[str, Any]) -> Any:
        """Have one of the agents answer."""
        async with self.lent() as agent:
            asked = _asked(agent)
            given = (request, context) if way_of(agent) == "run_step" else (request,)
            answer = await blocking.in_thread(asked, *given) if _is_sync(asked) else asked(*given)
            return await answer if isawaitable(answer) else answer

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[Any]:
        """Give out an agent that nobody else has."""
        async with self._places.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self.size)):
            if self._free:
                agent = self._free.pop()
            else:
                made = self._make()
                agent = await made if isawaitable(made) else made
            try:
                yield agent
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError) and _is_sync(_asked(agent)):
                    raise  # its thread cannot be stopped: it may be busy for a long time yet
                await self._take_back(agent, is_sound=self._is_sound is None or self._is_sound(agent))
                raise
            await self._take_back(agent)

    async def _take_back(self, agent: Any, *, is_sound: bool = True) -> None:
        if is_sound and not self._is_closed:
            self._free.append(agent)
        else:
            await _let_go(agent)

    async def close(self) -> None:
        """Let go of the agents: call their `aclose` or `close`, where they have one; of those at work when they end."""
        self._is_closed = True
        while self._free:
            await _let_go(self._free.pop())


def _asked(agent: Any) -> Any:
    way = way_of(agent)
    return agent if way is None else getattr(agent, way)


def _is_sync(asked: Any) -> bool:
    return not (iscoroutinefunction(asked) or iscoroutinefunction(type(asked).__call__))


async def _let_go(agent: Any) -> None:
    for name in ("aclose", "close"):
        end = getattr(agent, name, None)
        if callable(end):
            ended = end()
            if isawaitable(ended):
                await ended
            return
