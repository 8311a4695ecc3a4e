"""The programs that an Execution Agent has: each waits for a worker, is seen through, and whoever waits for it hears.

Rule 1: every program comes to an end that its submitter hears of, whatever ended it; no error takes another's place.
Rule 2: a place is provisioned for each program and released exactly once; it is released before anybody hears.
Rule 3: a program that is on record is cancelled on record, also while it waits for a worker: else another agent would
take it up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING

from planloom.core.events import CancelRequested
from planloom.core.result import RUN_ENDED, RunResult, RunStatus
from planloom.errors import (
    ConfigError,
    JournalError,
    OverloadedError,
    PlanloomError,
    RunBusyError,
    RunNotFoundError,
)
from planloom.runtime.submission import QUEUED, Submission

if TYPE_CHECKING:
    from planloom.runtime.announcer import Announcer
    from planloom.runtime.engine import Engine
    from planloom.transport.slots import SlotPool

_log = logging.getLogger("planloom.agent")

REMEMBERED = 1_000


class Programs:
    """Programs by the names of their runs, and the queue they wait in.

    Args:
        engine: Returns what runs them.
        places: Where they run.
        max_queue: How many may wait for a worker.

    Attributes:
        remembered: How many that have ended are kept; twice as many at times.
    """

    def __init__(self, engine: Callable[[], Engine], places: SlotPool, announcer: Announcer, *, max_queue: int) -> None:
        self.remembered = REMEMBERED
        self._engine = engine
        self._places = places
        self._announcer = announcer
        self._max_queue = max_queue
        self._room = asyncio.Semaphore(max_queue)
        self._by_name: dict[str, Submission] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    # --- asking ---

    def all(self) -> list[Submission]:
        return list(self._by_name.values())

    def get(self, run_id: str) -> Submission | None:
        return self._by_name.get(run_id)

    @property
    def queued(self) -> int:
        return sum(one.status == QUEUED for one in self._by_name.values())

    def is_here(self, run_id: str) -> bool:
        """Return whether it waits, is under way or rests here."""
        one = self._by_name.get(run_id)
        return one is not None and (not one.is_settled or one.rests)

    # --- coming in ---

    async def submit(self, one: Submission, *, wait: bool) -> None:
        """Take a new program on, once it has a place in the queue.

        Raises:
            ConfigError: There is one of that name, or everything closes.
            OverloadedError: The queue is full, and it shall not wait.
        """
        self._check_name(one)
        if not wait and self._room.locked():
            self._announcer.tell(
                "planloom.agent.overloaded", {"waiting": self.queued, "plan": one.plan}, run_id=one.run_id
            )
            raise OverloadedError(
                f"{self._max_queue} programs wait for a worker already",
                remedy="submit it again later, or let it wait, or let the pool have more workers",
                waiting=self._max_queue,
            )
        await self._room.acquire()
        try:
            self.check_open()
            self._check_name(one)  # another one of that name may have come in while this one waited
        except ConfigError:
            self._room.release()
            raise
        one.has_room = True
        self.take_on(one)

    def _check_name(self, one: Submission) -> None:
        if self.is_here(one.run_id):
            raise ConfigError(f"there is a program {one.run_id!r} already", remedy="give it another run_id, or none")

    def check_open(self) -> None:
        if self._closed:
            raise ConfigError("this agent is closed", remedy="start another one; its journal has what there was")

    def take_on(self, one: Submission) -> None:
        """Have a program wait for a worker, and see it through."""
        self._by_name[one.run_id] = one
        self._forget_old()
        task = asyncio.get_running_loop().create_task(self._serve(one))
        self._tasks[one.run_id] = task
        task.add_done_callback(lambda ended: self._served(one, ended))

    def _forget_old(self) -> None:
        if len(self._by_name) > 2 * self.remembered:
            ended = [name for name, one in self._by_name.items() if one.is_settled and not one.rests]
            for name in ended[: len(self._by_name) - self.remembered]:
                del self._by_name[name]

    # --- from a worker to an end ---

    async def _serve(self, one: Submission) -> None:
        """See one program through: provision, run, release, and tell whoever waits."""
        try:
            place = await self._places.provision(one.run_id)
            self._leave_queue(one)
            try:
                result = await self._driven(one)
            finally:
                self._places.release(place)
            if result.status in RUN_ENDED:
                await self._announcer.told(one.run_id)
            one.settle(result)
        except RunBusyError as error:
            one.fail(error)  # somebody else drives it, and tells what there is to tell

    async def _driven(self, one: Submission) -> RunResult:
        """Begin a run and see it to where it ends, or waits for a person; let go of it then, whatever it came to."""
        run = await one.begin()
        one.run, one.is_on_record = run, True
        try:
            self._announcer.follow(self._engine().journal, one.run_id)
            if one.cancelled is not None:
                by, reason = one.cancelled
                await run.cancel(by=by, reason=reason)
            result = await run.result()
            one.let_go(result)
            return result
        finally:
            await self._engine().release(one.run_id)

    def _served(self, one: Submission, task: asyncio.Task[None]) -> None:
        """See to it that whoever waits hears of a program's end, whatever its task ended with."""
        error = None if task.cancelled() else task.exception()
        if self._tasks.get(one.run_id) is not task:
            return  # it rested, and was taken up again meanwhile
        del self._tasks[one.run_id]
        self._leave_queue(one)
        if one.is_settled:
            return
        if error is not None:
            self._not_done(one, error)
        elif one.cancelled is not None and not one.is_on_record and not self._closed:
            one.settle(self._withdrawn(one))
        else:
            one.fail(_let_go_of(one))

    def _leave_queue(self, one: Submission) -> None:
        one.waits = False
        if one.has_room:
            one.has_room = False
            self._room.release()

    def _not_done(self, one: Submission, error: BaseException) -> None:
        self._announcer.drop(one.run_id)
        known = isinstance(error, PlanloomError)
        if not known:
            _log.error("program %s failed: %r", one.run_id, error, exc_info=error)
        told = {"error": error.message if isinstance(error, PlanloomError) else type(error).__name__}
        told["code"] = error.code if isinstance(error, PlanloomError) else "bug"
        self._announcer.tell("planloom.run.not_done", told, run_id=one.run_id)
        one.fail(error)

    def _withdrawn(self, one: Submission) -> RunResult:
        """Return the result of a program that was cancelled before a worker was found for it."""
        assert one.cancelled is not None
        by, reason = one.cancelled
        why = f"cancelled before it began, by {by}{f': {reason}' if reason else ''}"
        self._announcer.tell("planloom.run.withdrawn", {"by": by, "reason": reason}, run_id=one.run_id)
        return RunResult(one.run_id, one.plan, RunStatus.CANCELLED, None, (), error=why)

    # --- what people want of them ---

    async def cancel(self, run_id: str, by: str, reason: str) -> None:
        """Ask a program to stop; see `ExecutionAgent.cancel`."""
        one = self._by_name.get(run_id)
        if one is None:
            raise RunNotFoundError(f"there is no program {run_id!r} here", remedy="planloom cancel asks any journal")
        if one.run is not None:
            await one.run.cancel(by=by, reason=reason)
        elif one.has_ended:
            return
        elif one.is_on_record:
            await self._engine().journal.post(run_id, CancelRequested(by, time(), reason))
            if one.rests and not self._closed:
                self.go_on(run_id)
        elif not one.is_settled:
            one.cancelled = by, reason
            task = self._tasks.get(run_id)
            if task is not None and one.waits:
                task.cancel()

    def go_on(self, run_id: str) -> Submission:
        """Take up a program that rests.

        Raises:
            RunNotFoundError: No such program rests here.
        """
        self.check_open()
        one = self._by_name.get(run_id)
        if one is None or not one.rests:
            raise RunNotFoundError(f"no program {run_id!r} waits here", remedy="planloom resume takes up any run")
        one.reopen(lambda: self._engine().resume(run_id))
        self.take_on(one)
        return one

    # --- the end ---

    async def close(self) -> None:
        """Let go of every program, and tell whoever waits."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _let_go_of(one: Submission) -> PlanloomError:
    if not one.is_on_record:
        return ConfigError(f"the agent closed before program {one.run_id} began", remedy="submit it to another agent")
    return JournalError(
        f"run {one.run_id} was let go of before it ended",
        remedy="another agent of the same journal takes it up, or: planloom resume",
    )
