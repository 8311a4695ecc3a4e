"""ExecutionAgent: takes programs on, has a worker do each, watches over it, and tells on the bus what happens.

Rule 1: every program it took on comes to an end that its submitter hears of: none is lost in silence.
Rule 2: a worker is provisioned for each program and released exactly once, whatever became of the program.
Rule 3: an agent keeps nothing that the journal does not have, but for what still waits for a worker: another agent,
here or elsewhere, goes on where this one died.
Rule 4: the bus hears of a run what its record says, entry by entry; whether anybody listens changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

from planloom.core.result import RunStatus
from planloom.errors import (
    ConfigError,
    JournalError,
    JournalFormatError,
    NotAllowedError,
    PlanError,
    RunNotFoundError,
    plan_error,
)
from planloom.runtime.announcer import Announcer
from planloom.runtime.dead_letters import dead_letters
from planloom.runtime.engine import Engine
from planloom.runtime.explain import explain
from planloom.runtime.modules import Module, Modules
from planloom.runtime.posted import look_for_posted
from planloom.runtime.programs import Programs
from planloom.runtime.run_ids import checked_run_id, new_run_id
from planloom.runtime.submission import Submission
from planloom.runtime.workers import on_workers
from planloom.transport.bus import EventBus
from planloom.transport.event import SOURCE, Event
from planloom.transport.slots import SlotPool

if TYPE_CHECKING:
    from planloom.plan.model import Plan
    from planloom.plan.policy import ResourceLimits
    from planloom.ports import Journal
    from planloom.runtime.checks import PlanSource
    from planloom.runtime.explain import StepExplanation
    from planloom.runtime.run import Run
    from planloom.transport.pool import WorkerPool
    from planloom.transport.staff import PoolEvent

_log = logging.getLogger("planloom.agent")

MAX_QUEUE = 100
"""Programs that may wait for a worker."""


class ExecutionAgent:
    """Runs programs for modules, each on a worker of its own. An async context manager.

    Leaving it lets go of every run; those that have not ended are taken up by the next agent of the same journal.

    Args:
        bus: Where it tells what happens; None: a bus of its own.
        pool: Its workers: a `SlotPool` of this process, or a `WorkerPool` of processes; None: 1 to 4 slots.
        engine: What runs the plans, and stays open; for a pool of processes made with `transport=on_workers(pool)`.
            None: one of its own, made with `options` (see `Engine`).
        modules: Who may use what. If there are any, each program is some module's.
        max_queue: Programs that may wait for a worker; beyond that `submit` waits, or refuses.
        recover: Whether it takes up the runs on record that have not ended and that nobody drives.
        adopt_every_s: Seconds between looks for such runs later on; None: it looks only when it starts.
        source: Who says what it tells on the bus.
    """

    def __init__(
        self,
        bus: EventBus | None = None,
        pool: SlotPool | WorkerPool | None = None,
        *,
        engine: Engine | None = None,
        modules: Iterable[Module] = (),
        max_queue: int = MAX_QUEUE,
        recover: bool = True,
        adopt_every_s: float | None = None,
        source: str = SOURCE,
        **options: Any,
    ) -> None:
        if engine is not None and options:
            raise ConfigError(
                f"an engine is given, and {', '.join(options)} for another one", remedy="give these to the engine"
            )
        if max_queue < 1:
            raise ConfigError(f"a queue of {max_queue} holds no program", remedy="give at least 1")
        self.bus = bus if bus is not None else EventBus()
        self.pool = pool if pool is not None else SlotPool()
        self.modules = Modules(modules)
        self._owns_bus, self._owns_pool, self._owns_engine = bus is None, pool is None, engine is None
        self._engine = engine
        self._options = options
        if isinstance(self.pool, SlotPool):
            self._places = self.pool
        else:
            # Its workers are lent to a run by the transport, as its steps need them; here it only waits for its turn.
            self._places = SlotPool(0, max(1, self.pool.max))
            if engine is None:
                options.setdefault("transport", on_workers(self.pool))
        self._recover = recover
        self._adopt_every_s = adopt_every_s
        self._source = source
        self._announcer = Announcer(self.bus, source)
        self._programs = Programs(lambda: self.engine, self._places, self._announcer, max_queue=max_queue)
        self._looking: list[asyncio.Task[None]] = []
        self._stop_watching: Any = None
        self._closed = False

    # --- from start to end ---

    async def __aenter__(self) -> ExecutionAgent:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Begin: take up the runs that nobody drives. Does nothing the second time.

        Raises:
            ConfigError: A module names a tool that is not here.
        """
        self._programs.check_open()
        if self._stop_watching is not None:
            return
        if self._engine is None:
            self._engine = Engine(**self._options)
        for module in self.modules:
            module.tools(self._engine.tools)
        self._stop_watching = self.pool.watch(self._hear_worker)
        await self.pool.start()
        if self._recover:
            await self.adopt()
        loop = asyncio.get_running_loop()
        self._looking.append(loop.create_task(look_for_posted(self.journal, self._resting, self._answered)))
        if self._adopt_every_s is not None:
            self._looking.append(loop.create_task(self._adopt_again(self._adopt_every_s)))

    async def close(self) -> None:
        """Let go of every program, and give every worker back; runs that have not ended can be resumed."""
        if self._closed:
            return
        self._closed = True
        async with AsyncExitStack() as ending:  # in turn, the last first, whatever one of them raises
            if self._owns_bus:
                ending.push_async_callback(self.bus.close)
            if self._owns_pool:
                ending.push_async_callback(self.pool.close)
            if self._stop_watching is not None:
                ending.callback(self._stop_watching)
            if self._owns_engine and self._engine is not None:
                ending.push_async_callback(self._engine.close)
            ending.push_async_callback(self._end_tasks)

    async def _end_tasks(self) -> None:
        for task in self._looking:
            task.cancel()
        await asyncio.gather(*self._looking, return_exceptions=True)
        await self._programs.close()
        await self._announcer.close()

    def _hear_worker(self, event: PoolEvent) -> None:
        self._announcer.worker(event)
        if self._places is not self.pool:
            self._places.resize(max(1, self.pool.max))

    @property
    def engine(self) -> Engine:
        """Return what runs the plans.

        Raises:
            ConfigError: The agent has not been started.
        """
        if self._engine is None:
            raise ConfigError("this agent has not begun", remedy="async with ExecutionAgent(...) as agent")
        return self._engine

    @property
    def journal(self) -> Journal:
        return self.engine.journal

    @property
    def submissions(self) -> list[Submission]:
        """Return the programs it has, the first first; of those that have ended, the last `remembered`."""
        return self._programs.all()

    @property
    def queued(self) -> int:
        """Return how many programs wait for a worker."""
        return self._programs.queued

    @property
    def remembered(self) -> int:
        """Return how many programs that have ended can be asked about without the journal; twice as many at times."""
        return self._programs.remembered

    @remembered.setter
    def remembered(self, count: int) -> None:
        self._programs.remembered = count

    # --- programs ---

    async def submit(
        self,
        plan: PlanSource,
        inputs: Mapping[str, Any] | None = None,
        *,
        module: Module | str | None = None,
        run_id: str | None = None,
        limits: ResourceLimits | None = None,
        parallel: bool = True,
        wait: bool = True,
    ) -> Submission:
        """Take a program on; return once it has a place in the queue. Await what it returns for the run's result.

        Args:
            module: Whose program it is: it may use what that module may, and no more.
            run_id: Its name in the journal; None: a new one that sorts by time.
            wait: Wait for a place if the queue is full; False: refuse.

        Raises:
            PlanError: The plan is wrong; nothing has happened.
            NotAllowedError: It uses what its module may not use; this is told on the bus, too.
            OverloadedError: The queue is full, and `wait` is False.
        """
        self._programs.check_open()
        engine, name = self.engine, new_run_id() if run_id is None else checked_run_id(run_id)
        whose = self.modules.find(module)
        owner = "" if whose is None else whose.name
        checked = self._checked(plan, whose, name)
        allow = None if whose is None else whose.tools(engine.tools)

        async def begin() -> Run:
            return await engine.start(
                checked, inputs, run_id=name, limits=limits, parallel=parallel, allow=allow, module=owner
            )

        one = Submission(name, checked.name, owner, begin, self._programs.cancel)
        await self._programs.submit(one, wait=wait)
        told = {"plan": checked.name, "plan_hash": checked.hash, "module": owner}
        self._announcer.tell("planloom.run.requested", told, run_id=name)
        return one

    def _checked(self, plan: PlanSource, whose: Module | None, run_id: str) -> Plan:
        """Return the plan, checked against what is here and what its module may use."""
        try:
            checked = self.engine.check(plan)
            denied = [] if whose is None else whose.denials(checked, self.engine.tools)
            if denied:
                raise plan_error(denied)
        except PlanError as error:
            for problem in error.problems:
                if isinstance(problem, NotAllowedError):
                    self._announcer.denied(problem, "" if whose is None else whose.name, run_id)
            raise
        return checked

    # --- what people want of programs ---

    async def status(self, run_id: str) -> str:
        """Return "queued", or the `RunStatus` of a run here or on record.

        Raises:
            RunNotFoundError: No such run.
        """
        one = self._programs.get(run_id)
        if one is not None and not one.rests and not (one.has_failed and one.is_on_record):
            return one.status
        return (await self.engine.result_of(run_id)).status.value

    async def cancel(self, run_id: str, *, by: str = "caller", reason: str = "") -> None:
        """Ask a program to stop: one that waits never begins, one under way stops, with that on record on return.

        Raises:
            RunNotFoundError: No such program here.
        """
        await self._programs.cancel(run_id, by, reason)

    def go_on(self, run_id: str) -> Submission:
        """Take up a program that waited for a person, or was paused.

        Raises:
            RunNotFoundError: No such program waits here.
        """
        return self._programs.go_on(run_id)

    async def explain(self, run_id: str, step: str) -> StepExplanation:
        """Return why a step stands as it does, back to the submission of its run, from the record alone.

        Raises:
            RunNotFoundError: No such run. ConfigError: no such step in it.
        """
        return await explain(self.journal, run_id, step)

    async def dead_letters(self, run_id: str | None = None, *, limit: int = 100) -> list[Event]:
        """Return the dead letters on record, of one run or of the newest runs, whether or not they were heard."""
        return await dead_letters(self.journal, run_id, limit=limit, source=self._source)

    def _resting(self) -> set[str]:
        return {one.run_id for one in self._programs.all() if one.rests}

    async def _answered(self, run_id: str) -> None:
        """Take up what waited for a person and was answered, from here or another process."""
        with suppress(RunNotFoundError):  # somebody here has it go on already
            self.go_on(run_id)

    # --- runs that nobody drives ---

    async def adopt(self) -> list[Submission]:
        """Take up every run on record that has not ended and that nobody drives; return them.

        One that cannot be taken up here, because its tools are missing, say, is told on the bus and left as it is.
        """
        found = []
        for row in await self.journal.runs(status=RunStatus.RUNNING.value, limit=1_000_000):
            if not self._programs.is_here(row.run_id):
                begin, cancel = self._taking_up(row.run_id), self._programs.cancel
                one = Submission(row.run_id, row.plan, "", begin, cancel, is_on_record=True)
                found.append(one)
                self._programs.take_on(one)
        return found

    def _taking_up(self, run_id: str) -> Any:
        async def take_up() -> Run:
            try:
                return await self.engine.resume(run_id)
            except (ConfigError, JournalFormatError) as error:
                self._announcer.tell("planloom.run.not_recovered", {"error": error.message}, run_id=run_id)
                raise

        return take_up

    async def _adopt_again(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.adopt()
            except JournalError as error:
                _log.warning("cannot look for runs that nobody drives: %s", error)
