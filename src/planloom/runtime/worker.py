"""A worker: a process that makes the attempts an engine sends it, with executors, tools and an allowlist of its own.

``python -m planloom.runtime.worker`` is what a pool starts: it reads one line, an `Invitation`, and goes to work.
``planloom worker`` starts one that joins a pool by itself.

Rule 1: the token is never an argument and does not stay in the environment.
Rule 2: it ends with its engine: without a connection it kills itself and everything it started.
Rule 3: what comes over the connection names tools, and never brings code.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from planloom.errors import ConfigError, PlanloomError, field_problems
from planloom.runtime.agents import roster_of
from planloom.runtime.clock import LoopClock
from planloom.runtime.declared import declare_secrets
from planloom.runtime.settings import Settings, read_settings
from planloom.runtime.wire import JsonWire
from planloom.runtime.wiring import HEART_KINDS, catalogue_of, wire
from planloom.tools.load import load_tools
from planloom.tools.registry import ToolRegistry
from planloom.transport.bench import Bench
from planloom.transport.fitting import tools_of
from planloom.transport.post import Post

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from planloom.core.commands import RunStep
    from planloom.runtime.wiring import Wired

_log = logging.getLogger("planloom.workers")

REFUSED = 3
"""Exit code of a worker that the engine did not let in."""
ALONE = 4
"""Exit code of one whose engine is gone, where it could not be killed with its group."""
CLOSE_S = 0.5
"""Seconds that attempts of a worker that was told to go have to end."""


class Outfit(BaseModel):
    """What a worker has and may use, whoever it works for.

    Attributes:
        tools: Modules, or paths of Python files.
        wait_s: Seconds to go on trying to reach whom it works for, who does not listen yet.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    worker: Annotated[str, Field(min_length=1, max_length=200)]
    labels: dict[str, str] = {}
    capacity: Annotated[int, Field(ge=1, le=1000)] = 1
    tools: tuple[str, ...] = ()
    settings: Path | None = None
    allow: tuple[str, ...] | None = None
    paths: tuple[str, ...] = ()
    wait_s: float = 0.0


class Invitation(Outfit):
    """What a worker of a pool is started with; `transport.setup.WorkerSetup` writes it."""

    address: str
    token: Annotated[str, Field(min_length=1, repr=False)]


def tools_for(invited: Outfit, settings: Settings) -> ToolRegistry:
    """Return the tools the worker has and may use.

    Raises:
        ConfigError: A module or file that cannot be loaded, two tools of one name, or an allowlist that names none.
    """
    sys.path[:0] = [folder for folder in invited.paths if folder not in sys.path]
    sources = list(invited.tools)
    if not sources and invited.settings is not None:
        folder = invited.settings.parent
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
        sources = [str(folder / name) if name.endswith(".py") else name for name in settings.tools]
    registry = ToolRegistry()
    for source in sources:
        for one in load_tools(source):
            registry.add(one)
    allow = invited.allow if invited.allow is not None else settings.allow
    return registry.restricted(allow)


def refusal(request: RunStep, registry: ToolRegistry) -> str:
    """Return why this worker must not make an attempt: its tools are not those that the run was started with."""
    for name in tools_of(request.step):
        pinned = request.tools.get(name)
        if pinned is not None and name in registry and registry.resolve(name) in registry.by_name():
            own = registry.get(name).digest
            if own != pinned.digest:
                return f"tool {name!r} is another one here than the one this run was started with"
    return ""


class _Work:
    """One worker from its welcome to its end."""

    def __init__(self, invited: Invitation, wired: Wired, registry: ToolRegistry, clock: LoopClock) -> None:
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[str] = self._loop.create_future()
        self._left = False
        kinds = wired.kinds - HEART_KINDS - {"verify", "speculate"}
        offer = {
            "worker": invited.worker,
            "pid": os.getpid(),
            "labels": invited.labels,
            "capacity": invited.capacity,
            "kinds": sorted(kinds),
            "tools": {one.name: one.digest for one in registry},
        }
        self.post = Post(
            invited.address, invited.token, offer, heard=self._came, ended=self._ended, wait_s=invited.wait_s
        )
        self.bench = Bench(
            wired.transport,
            JsonWire(),
            clock,
            self.post.send,
            capacity=invited.capacity,
            refuses=lambda request: refusal(request, registry),
            at_rest=lambda: self._finish("it has nothing more to do"),
        )

    def drain(self) -> None:
        """Take nothing more, end what was begun, and go; the second time, go at once."""
        if self._left:
            self._finish("it was told to go twice")
            return
        self._left = True
        self.post.send({"m": "bye"})
        self.bench.drain()

    def _came(self, message: dict[str, Any]) -> None:
        """Hear the engine, in the thread of the post."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._hear, message)

    def _hear(self, message: dict[str, Any]) -> None:
        if message["m"] != "bye":
            self.bench.hear(message)
            return
        self._finish(str(message.get("why", "")))

    def _finish(self, why: str) -> None:
        self._left = True
        if not self.over.done():
            self.over.set_result(why)

    def _ended(self, why: str, refused: bool) -> None:
        """Hear in the thread of the post that there is no engine any more."""
        if refused:
            sys.stderr.write(f"planloom worker: {why}\n")
            sys.stderr.flush()
            os._exit(REFUSED)
        if not self._left:
            die(why)


def die(why: str) -> None:
    """End this process at once, and its group if it leads one: nobody is left who could stop what it does."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"planloom worker: {why}\n")
        sys.stderr.flush()
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(ALONE)


@dataclass(frozen=True, slots=True)
class Equipped:
    """A worker's own tools and executors, ready to make attempts."""

    wired: Wired
    registry: ToolRegistry
    clock: LoopClock


@asynccontextmanager
async def equipped(outfit: Outfit) -> AsyncIterator[tuple[Equipped, AsyncExitStack]]:
    """Return what a worker makes attempts with, and what to do at the end, after everything it was at has ended.

    Raises:
        ConfigError: Its tools or settings are wrong.
    """
    settings = Settings() if outfit.settings is None else read_settings(outfit.settings)
    declare_secrets(settings)
    registry = tools_for(outfit, settings)
    clock = LoopClock()
    roster = roster_of(settings.agents, registry, None)
    models = catalogue_of(settings, roster.models(), None)
    wired = wire(registry, settings, clock, models, agents=roster)
    async with AsyncExitStack() as ending:  # in turn, the last first, whatever one of them raises
        last = await ending.enter_async_context(AsyncExitStack())
        ending.callback(wired.threads.close)
        ending.push_async_callback(models.close)
        ending.push_async_callback(registry.aclose)
        for sandbox in wired.sandboxes:
            ending.push_async_callback(sandbox.close)
        try:
            yield Equipped(wired, registry, clock), last
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await wired.transport.close()


def on_signals(act: Callable[[], None]) -> None:
    """Have something done when this process is told to end."""
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError, RuntimeError):  # no signals on this system, or not in the main thread
            asyncio.get_running_loop().add_signal_handler(number, act)


async def work(invited: Invitation) -> str:
    """Make attempts for an engine until it says that it was enough; return why it ended.

    Raises:
        ConfigError: Its tools or settings are wrong.
    """
    async with equipped(invited) as (own, last):
        working = _Work(invited, own.wired, own.registry, own.clock)
        on_signals(working.drain)
        last.callback(working.post.stop)
        working.post.start()
        why = await working.over
        working.bench.stop_all()
        return why


def main() -> None:
    """Read the invitation from standard input, and work."""
    line = sys.stdin.buffer.readline()
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    try:
        invited = Invitation.model_validate_json(line)
        del line
        asyncio.run(work(invited))
    except ValidationError as error:
        problems = "; ".join(field_problems(error))
        sys.exit(f"planloom worker: the invitation is wrong: {problems}")
    except ConfigError as error:
        sys.exit(f"planloom worker: {error}")
    except PlanloomError as error:
        sys.exit(f"planloom worker: {error}")


if __name__ == "__main__":
    main()
