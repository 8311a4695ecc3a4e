"""The runs that this server drives: begun, kept until they end or are paused, and let go of when the server ends.

Rule 1: a run that is being begun is begun, whether or not whoever asked for it stays to hear of it.
Rule 2: a run is in hand from its start until it ends or is paused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from planloom.core.result import RUN_ENDED, RunStatus
from planloom.errors import ConfigError, JournalError, OverloadedError, PlanError, RunBusyError, RunStateError
from planloom.runtime.reading import read_run

if TYPE_CHECKING:
    from planloom.runtime.engine import Engine
    from planloom.runtime.run import Run
    from planloom.server.hands import Said

_log = logging.getLogger("planloom.server")

T = TypeVar("T")
CLOSE_S = 5.0
"""Seconds that runs which are being begun have to be on record, once the server ends."""


class RunsInHand:
    """The runs of one engine that are under way here; see `RunHands`.

    Args:
        most_active: How many may be under way at once, those that wait for a person not counted.
    """

    def __init__(self, engine: Engine, *, most_active: int) -> None:
        self._engine = engine
        self._most_active = most_active
        self._runs: dict[str, Run] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._resting: set[str] = set()
        self._starting = 0
        self._beginning: set[asyncio.Task[Any]] = set()
        self._is_open = False

    @property
    def held(self) -> int:
        return len(self._runs)

    @property
    def active(self) -> int:
        return len(self._runs) - len(self._resting) + self._starting

    @property
    def is_open(self) -> bool:
        return self._is_open

    def status_of(self, run_id: str) -> RunStatus | None:
        run = self._runs.get(run_id)
        return None if run is None else run.status

    async def open(self) -> int:
        """Take up every unended run that nobody drives or paused; return how many those are."""
        runs = await self._engine.recover()
        for run in runs:
            self._keep(run)
        self._is_open = True
        return len(runs)

    async def close(self) -> None:
        """Begin nothing any more, and let go of all; the next start takes them up."""
        self._is_open = False
        if self._beginning:
            await asyncio.wait(self._beginning, timeout=CLOSE_S)
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def check_open(self) -> None:
        """Raise OverloadedError while the server is starting or ending."""
        if not self._is_open:
            raise OverloadedError("this server is starting or ending", remedy="ask again", retry_after_s=2)

    async def start(self, *asked: Any, **terms: Any) -> str:
        return await self._begin(lambda: self._engine.start(*asked, **terms))

    async def fork(self, *asked: Any, **terms: Any) -> str:
        return await self._begin(lambda: self._engine.fork(*asked, **terms))

    async def retry_failed(self, *asked: Any, **terms: Any) -> str:
        return await self._begin(lambda: self._engine.retry_failed(*asked, **terms))

    async def resume(self, run_id: str) -> None:
        run = self._runs.get(run_id)
        if run is not None and not run.is_paused:
            return
        if run is not None and run.status is RunStatus.RUNNING:
            raise RunStateError(f"run {run_id} is being paused: steps are under way", remedy="ask again shortly")
        await self._let_go(run_id)
        if not (await read_run(self._engine.journal, run_id)).machine.ended:
            await self._begin(lambda: self._engine.resume(run_id))

    async def tell(self, run_id: str, fact: Said) -> bool:
        run = self._runs.get(run_id)
        return run is not None and await run.tell(fact)

    async def take_up(self, run_id: str) -> bool:
        try:
            await self._begin(lambda: self._engine.resume(run_id))
        except RunBusyError:
            return True
        except (ConfigError, OverloadedError, PlanError) as error:
            _log.warning("run %s cannot go on here: %s", run_id, error)
            return False
        return True

    async def check_refused(self, run_id: str) -> None:
        """Do nothing: what is refused here is refused at once."""

    async def _begin(self, begin: Callable[[], Awaitable[Run]]) -> str:
        """Begin a run and keep it; OverloadedError where there is no room for it."""
        self.check_room()
        self._starting += 1

        async def begun() -> str:
            try:
                run = await begin()
                self._keep(run)
                return run.run_id
            finally:
                self._starting -= 1

        return await self._to_its_end(begun())

    async def _let_go(self, run_id: str) -> None:
        """Wait until a run that ends or is paused is not in hand any more."""
        task = self._tasks.get(run_id)
        if task is not None:
            await asyncio.wait([task])

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.get_running_loop().create_task(work)
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)
        return await asyncio.shield(task)

    def check_room(self) -> None:
        self.check_open()
        if self.active >= self._most_active:
            raise OverloadedError(
                f"{self.active} runs are under way, and that is all there may be",
                remedy="ask again after the time in Retry-After, or raise max_active_runs in [server]",
                retry_after_s=1,
            )

    def _keep(self, run: Run) -> None:
        self._runs[run.run_id] = run
        self._tasks[run.run_id] = asyncio.get_running_loop().create_task(self._look_after(run))

    async def _look_after(self, run: Run) -> None:
        """Keep a run until it ends or is paused; then let go of it."""
        try:
            while True:
                await run.result()
                if run.status in RUN_ENDED or run.is_paused:
                    return
                self._resting.add(run.run_id)
                async for _ in run.follow(after=run.last_seq):
                    break
                self._resting.discard(run.run_id)
        except JournalError as error:
            _log.error("run %s is let go of: %s", run.run_id, error)
        finally:
            self._resting.discard(run.run_id)
            self._runs.pop(run.run_id, None)
            self._tasks.pop(run.run_id, None)
            if self._is_open:
                with suppress(JournalError):
                    await self._engine.release(run.run_id)
