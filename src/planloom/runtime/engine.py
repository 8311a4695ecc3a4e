"""Many runs: start, resume, recover, retry, batch. Holds what they share: journal, tools, transport.

Rule 1: a plan, its inputs and its tools are checked whole before a run exists.
Rule 2: whoever drives a run owns it; nobody else writes to it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from typing import TYPE_CHECKING, Any

from planloom.core.events import PauseRequested, RunResumed, RunStarted
from planloom.core.machine import RunMachine
from planloom.core.report import run_result
from planloom.core.result import RunResult, RunStatus
from planloom.errors import ConfigError, JournalError, JournalFormatError, PlanError, RunBusyError, RunNotFoundError
from planloom.executors.wrap.guarded import check_spared
from planloom.journal.open import open_journal
from planloom.observe.heard import HeardWriter
from planloom.observe.logs import RunLog
from planloom.plan.model import Plan
from planloom.runtime.agents import roster_of
from planloom.runtime.batch import run_batch
from planloom.runtime.checks import Checks, PlanSource
from planloom.runtime.clock import LoopClock
from planloom.runtime.declared import declare_secrets, without_secrets
from planloom.runtime.driver import Driver
from planloom.runtime.guesses import Guesses
from planloom.runtime.inflight import InFlight, another_decision, needed_of, unreadable
from planloom.runtime.labelled import Labelled
from planloom.runtime.openings import Openings
from planloom.runtime.posted import look_for_posted, take_posted
from planloom.runtime.reach import Reach
from planloom.runtime.replay import replayed
from planloom.runtime.run import Run
from planloom.runtime.run_ids import checked_run_id, new_run_id
from planloom.runtime.settings import Settings
from planloom.runtime.wiring import catalogue_of, wire
from planloom.tools.registry import ToolRegistry
from planloom.verify.checks import ValidatorRegistry

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from planloom.agents.roster import AgentRegistry
    from planloom.executors.acceptance import AcceptanceGate
    from planloom.models.llm import LLM
    from planloom.observe.heard import Observer
    from planloom.observe.metrics import Metrics
    from planloom.observe.trace import Tracing
    from planloom.plan.flow_paths import FlowPath
    from planloom.plan.policy import ResourceLimits
    from planloom.ports import Clock, Journal, MakeTransport, Model, Recorded, RunWriter, SandboxBackend
    from planloom.verify.judge import JudgeAgent

_log = logging.getLogger("planloom.engine")

CANCEL_S = 2.0
"""Seconds a cancelled run has to end."""


class Engine:
    """Runs plans. An async context manager; leaving it lets go of every run, and unended ones can be resumed.

    Args:
        journal: A path (SQLite), a journal, or None for one in memory.
        tools: A registry, a list of tools or functions, a module; None: the tools decorated in this process.
        allow: Names of the tools that plans may use; None: all of `tools`.
        models: Models by the names that plans use, besides those of the settings: in hand, or as URIs.
        validators: Where the checks that plans name are looked up; None: the built-in ones.
        judges: Who judges where `verify.model` is that name, by a rubric and within a budget of its own.
        gate: What earlier drafts came to; None: nothing is known yet.
        agents: Agents by the names that plans use, besides those of the settings.
        transport: How attempts reach the place where they are made; None: they are made here.
        sandboxes: Where code runs, by the `runtime` that a step names, besides those that there are; left open.
        settings: See `Settings`.
        clock: Time; None: the real one.
        telemetry: True: every run is told as spans and metrics of OpenTelemetry, with the providers that this process
            set up. Or a tracer, or an `observe.trace.Tracing`, which may tell what was answered, too.
        metrics: Counts what runs do, for Prometheus; several engines may share one.
    """

    def __init__(
        self,
        journal: str | os.PathLike[str] | Journal | None = None,
        *,
        tools: Any = None,
        allow: Iterable[str] | None = None,
        models: Mapping[str, LLM | str | Model] | None = None,
        validators: ValidatorRegistry | None = None,
        judges: Mapping[str, JudgeAgent] | None = None,
        gate: AcceptanceGate | None = None,
        agents: AgentRegistry | Mapping[str, Any] | Iterable[Any] | None = None,
        transport: MakeTransport | None = None,
        sandboxes: Mapping[str, SandboxBackend] | None = None,
        settings: Settings | None = None,
        clock: Clock | None = None,
        telemetry: bool | Tracer | Tracing | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._settings = settings or Settings()
        declare_secrets(self._settings)
        self._clock = clock or LoopClock()
        self._registry = ToolRegistry.of(tools).frozen()
        self._allow = None if allow is None else tuple(sorted(self._registry.expanded(allow)))
        check_spared(self._registry, breakers=self._settings.breakers, tool_rates=self._settings.tool_rates)
        self._journal = open_journal(journal, key=self._settings.journal_key)
        self._owns_journal = self._journal is not journal
        roster = roster_of(self._settings.agents, self._registry, agents)
        self._models = catalogue_of(self._settings, roster.models() | dict(models or {}), clock)
        validators = ValidatorRegistry() if validators is None else validators
        self._wired = wire(
            self._registry,
            self._settings,
            self._clock,
            self._models,
            validators=validators,
            judges=judges,
            gate=gate,
            agents=roster,
            transport=transport,
            sandboxes=sandboxes,
        )
        reach = Reach(
            self._wired.transport,
            sandboxes=self._wired.runtimes,
            agents=frozenset(roster.names()) - self._settings.agents.keys(),
            models=frozenset(name for name, one in (models or {}).items() if not isinstance(one, str)),
            judges=frozenset(judges or ()),
            validators=frozenset(validators.names()) - frozenset(ValidatorRegistry().names()),
        )
        self._labelled = Labelled(self._registry, roster, self._settings.flow)
        self._checks = Checks(
            self._registry,
            self._models,
            roster,
            validators,
            allow=self._allow,
            kinds=self._wired.kinds,
            reach=reach,
            labelled=self._labelled,
        )
        self._tracing = _tracing_of(telemetry) if telemetry else None
        told = (
            metrics,
            None if self._tracing is None else self._tracing.metrics,
            RunLog() if RunLog.wanted() else None,
        )
        self._observers: tuple[Observer, ...] = tuple(one for one in told if one is not None)
        self._drivers: dict[str, Driver] = {}
        self._guesses = Guesses()
        self._openings = Openings(self._checks, self._guesses, self._clock, allow=self._allow)
        self._poll: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def journal(self) -> Journal:
        return self._journal

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def tools(self) -> ToolRegistry:
        return self._registry

    @property
    def openings(self) -> Openings:
        """Return what says how its runs begin, for whoever has them done elsewhere."""
        return self._openings

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of every run and stop what is under way; what was not recorded will be asked for again on resume."""
        self._closed = True
        for run_id in list(self._drivers):
            self._leave_untold(run_id)
        drivers = list(self._drivers.values())
        self._drivers.clear()
        async with AsyncExitStack() as ending:  # in turn, the last first, whatever one of them raises
            if self._owns_journal:
                ending.push_async_callback(self._journal.close)
            if self._tracing is not None:
                ending.push_async_callback(self._tracing.close)
            ending.callback(self._wired.threads.close)
            ending.push_async_callback(self._models.close)
            ending.push_async_callback(self._registry.aclose)
            for sandbox in self._wired.sandboxes:
                ending.push_async_callback(sandbox.close)
            ending.push_async_callback(self._wired.transport.close)
            for driver in drivers:
                ending.push_async_callback(driver.close)
            if self._poll is not None:
                self._poll.cancel()
                await asyncio.gather(self._poll, return_exceptions=True)

    # --- check ---

    def check(self, plan: PlanSource) -> Plan:
        """Return the plan, checked against everything that is here.

        Raises:
            PlanError: All that is wrong with it, in `.problems`.
        """
        return self._checks.of(plan, self._allow).plan

    def problems_here(self, plan: Plan) -> list[PlanError]:
        """Return why a plan, sound by itself, cannot run here: unknown tools, wrong arguments, what is not allowed."""
        return self._checks.problems_here(plan)

    def flows(self, plan: Plan) -> list[FlowPath]:
        """Return how labelled values may reach tools with effects and models in a sound plan, and what becomes of them.

        The gravest verdicts come first; those that are refused and `certain` are among `problems_here`.
        """
        return self._labelled.paths(plan)

    # --- start ---

    async def start(
        self,
        plan: PlanSource,
        inputs: Mapping[str, Any] | None = None,
        *,
        limits: ResourceLimits | None = None,
        run_id: str | None = None,
        parallel: bool = True,
        track_cost: bool = True,
        allow: Iterable[str] | None = None,
        module: str = "",
        request: str = "",
        run_ahead: bool = True,
    ) -> Run:
        """Start a run and return it in hand.

        Args:
            limits: In place of the plan's own; None: the plan's.
            run_id: Its name in the journal; None: a new one that sorts by time.
            parallel: False: one step at a time, in stable topological order.
            allow: Names of the tools that this run may use, of those the engine allows; None: all of these.
            module: Whose run it is, for the record.
            request: What tells one request from another, for the record; see `RunStarted.request`.
            run_ahead: False: no step runs ahead of those it needs, though the plan may ask for it.

        Raises:
            PlanError: The plan or its inputs are wrong; nothing has happened.
            MissingKeyError: There is no key for one of its models; nothing has happened.
            JournalConflictError: A run of that name exists.
        """
        started = self.openings.of(
            plan,
            inputs,
            limits=limits,
            parallel=parallel,
            track_cost=track_cost,
            allow=allow,
            module=module,
            request=request,
            run_ahead=run_ahead,
        )
        return await self._begin(new_run_id() if run_id is None else checked_run_id(run_id), started)

    async def run(self, plan: PlanSource, inputs: Mapping[str, Any] | None = None, **options: Any) -> RunResult:
        """Start a run (see `start`), wait for it, let go of it, and return its result."""
        return await self.finish(await self.start(plan, inputs, **options))

    async def finish(self, run: Run) -> RunResult:
        """Wait for a run, let go of it, and return its result. If the waiter is cancelled, so is the run, on record."""
        try:
            result = await run.result()
        except asyncio.CancelledError:
            await self._cancelled(run)
            raise
        except JournalError:
            await self.release(run.run_id)
            raise
        await self.release(run.run_id)
        return result

    async def _cancelled(self, run: Run) -> None:
        """Cancel a run on record, because its caller is being cancelled, and let go of it; in CANCEL_S at most."""
        with suppress(TimeoutError, JournalError):
            async with asyncio.timeout(CANCEL_S):
                with suppress(ConfigError):  # its record has just broken, or its engine closes: it is let go of
                    await run.cancel(by="caller", reason="whoever waited for it was cancelled")
                await run.result()
                await self.release(run.run_id)

    async def batch(
        self,
        plan: PlanSource,
        many: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        max_concurrent: int = 16,
        **options: Any,
    ) -> list[RunResult]:
        """Run one plan on many inputs and return the results in the order of the inputs.

        A run that fails is a result like any other. `options` are those of `start`, but for `run_id`.

        Args:
            max_concurrent: Runs under way at the same time.
        """
        found = {
            place: result async for place, result in self.each(plan, many, max_concurrent=max_concurrent, **options)
        }
        return [found[place] for place in sorted(found)]

    async def each(
        self,
        plan: PlanSource,
        many: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        max_concurrent: int = 16,
        **options: Any,
    ) -> AsyncIterator[tuple[int, RunResult]]:
        """Do as `batch`, and yield each input's place and result as its run ends; nothing is kept."""
        checked = self.check(plan)

        async def run_one(inputs: Mapping[str, Any]) -> RunResult:
            return await self.run(checked, inputs, **options)

        async with aclosing(run_batch(run_one, many, max_concurrent=max_concurrent)) as results:
            async for place, result in results:
                yield place, result

    async def _begin(self, run_id: str, started: RunStarted) -> Run:
        machine = RunMachine(run_id)
        self._check_open()
        started = without_secrets(run_id, started)
        driver = Driver(machine, self._wired.transport.lane(), self._clock)
        try:
            driver.begin(await self._created(run_id, driver), started)
        except BaseException:
            await driver.close()
            raise
        self._keep(run_id, driver)
        run = Run(machine, driver, self._journal, driver.clock)
        try:
            await driver.flushed()  # whoever is told of a run can resume it
        except asyncio.CancelledError:
            await self._cancelled(run)
            raise
        except JournalError:
            await self.release(run_id)
            raise
        return run

    async def _created(self, run_id: str, driver: Driver) -> RunWriter:
        """Return the pen of a new run, with whoever observes it."""
        if not self._observers:
            return await self._journal.create(run_id, driver.on_durable)
        heard = HeardWriter(run_id, self._observers, driver.on_durable)
        return heard.holding(await self._journal.create(run_id, heard.on_durable))

    async def _taken(self, run_id: str, driver: Driver) -> tuple[list[Recorded], RunWriter]:
        """Return a run on record and its pen, with whoever observes it."""
        if not self._observers:
            return await self._journal.take(run_id, driver.on_durable)
        heard = HeardWriter(run_id, self._observers, driver.on_durable)
        record, writer = await self._journal.take(run_id, heard.on_durable)
        return record, heard.holding(writer, record)

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError("this engine is closed", remedy="make another one; its runs can be resumed there")

    def _keep(self, run_id: str, driver: Driver, *, told: int = 0) -> None:
        """Keep a run that goes on here.

        Args:
            told: Number of the last event on record before that.
        """
        self._drivers[run_id] = driver
        if self._tracing is not None:
            self._tracing.begin(run_id, self._journal.follow(run_id), after=told)
        if self._poll is None:
            hearing = look_for_posted(self._journal, self._drivers.keys, self._hear_people, also=self._look_at_clock)
            self._poll = asyncio.get_running_loop().create_task(hearing)

    async def release(self, run_id: str) -> None:
        """Let go of a run: stop what is under way, give up the pen. An unended run can be resumed."""
        self._leave_untold(run_id)
        driver = self._drivers.pop(run_id, None)
        if driver is not None:
            self._guesses.learn(driver.machine)
            await driver.close()

    def _leave_untold(self, run_id: str) -> None:
        """Have telemetry wait no longer for a run that does not end here."""
        driver = self._drivers.get(run_id)
        if self._tracing is not None and driver is not None and not driver.machine.ended:
            self._tracing.let_go(run_id)

    # --- go on ---

    async def resume(self, run_id: str) -> Run:
        """Take up a run where its record ends; a run that has ended is returned as it is.

        Raises:
            RunNotFoundError: No such run.
            RunBusyError: Somebody drives it now.
        """
        self._check_open()
        if run_id in self._drivers:
            raise RunBusyError(f"run {run_id} is driven by this engine already", remedy="use the Run in hand")
        return await self._take_up(run_id, replayed(run_id, await self._journal.read(run_id)))

    async def _take_up(self, run_id: str, machine: RunMachine) -> Run:
        """Go on with a run that stood like this when it was last looked at."""
        if machine.ended:
            return Run(machine, None, self._journal, self._clock)
        self._checks.recorded(machine)
        driver = Driver(machine, self._wired.transport.lane(), self._clock)
        writer = None
        try:
            record, writer = await self._taken(run_id, driver)
            driver.machine = machine = replayed(run_id, record)
            if machine.ended:  # its last driver ended it in the meantime
                await writer.close()
                await driver.close()
                return Run(machine, None, self._journal, self._clock)
            driver.clock.not_before(machine.state.last_at)
            posted = await self._journal.posted(run_id)
            driver.begin(writer, RunResumed(machine.state.epoch + 1, driver.clock.now()))
        except BaseException:
            await driver.close()
            if writer is not None:
                await writer.close()
            raise
        self._keep(run_id, driver, told=record[-1].seq)
        # In the turn it goes on in: one that somebody cancelled meanwhile must not begin its steps again first.
        # A pause was asked for before: whoever resumes wants it to go on.
        await take_posted(self._journal, driver.clock, driver, posted, but=(PauseRequested,))
        return Run(machine, driver, self._journal, driver.clock)

    async def in_flight(self, run_id: str) -> InFlight:
        """Return what `resume` would make of a run that has not ended, and what its steps would find here.

        Nothing is called, and nothing is written.

        Raises:
            RunNotFoundError: No such run.
        """
        try:
            record = await self._journal.read(run_id)
            machine = replayed(run_id, record)
            if machine.state.started is None:
                raise JournalFormatError(f"the record of run {run_id!r} does not begin with its start")
            findings = [*self._checks.in_flight(machine), *another_decision(run_id, record)]
        except RunNotFoundError:
            raise
        except (JournalError, PlanError) as error:  # a record that is damaged or newer, or a plan that is none any more
            return unreadable(run_id, error)
        left = tuple(node.key for node in needed_of(machine).nodes)
        return InFlight(run_id, machine.state.started.plan.name, left, tuple(findings))

    async def recover(self) -> list[Run]:
        """Resume every unended run that nobody drives or paused, and that can be resumed here; return them.

        One that cannot (its tools are missing, its record is damaged) is logged and left as it is.
        """
        self._check_open()
        runs = []
        for row in await self._journal.runs(status=RunStatus.RUNNING.value, limit=1_000_000):
            if row.run_id in self._drivers:
                continue
            try:
                machine = replayed(row.run_id, await self._journal.read(row.run_id))
                if not machine.state.paused:
                    runs.append(await self._take_up(row.run_id, machine))
            except RunBusyError:
                continue
            except (ConfigError, JournalFormatError, PlanError) as error:
                _log.warning("run %s is not recovered: %s", row.run_id, error)
        return runs

    async def retry_failed(self, run_id: str, *, new_id: str | None = None, request: str = "") -> Run:
        """Start a new run of an ended one's plan and inputs that reuses every result not behind a failure.

        Args:
            request: As for `start`.

        Raises:
            RunStateError: The run has not ended (resume it) or needs no retry.
        """
        machine = replayed(run_id, await self._journal.read(run_id))
        started = self.openings.retry(machine, request=request)
        return await self._begin(new_run_id() if new_id is None else checked_run_id(new_id), started)

    async def fork(
        self,
        run_id: str,
        step: str,
        output: Any,
        *,
        new_id: str | None = None,
        repeat_effects: bool = False,
        request: str = "",
    ) -> Run:
        """Start a new run that goes on from another one, ended or not, as if a step had come to another output.

        It reuses every result that does not follow from the step; the earlier run stays as it is.

        Args:
            step: Its key: `extract`, `check[3]` for an item, `sub/extract` inside a sub-plan.
            repeat_effects: Whether steps with effects that ran behind it, or are under way, may run again.
            request: As for `start`.

        Raises:
            RunNotFoundError: No such run.
            NoStepError: No such step in it, or not yet.
            RunStateError: The step has not begun, or effects would be repeated.
            ValidationError: The output does not fit what the step declares.
        """
        machine = replayed(run_id, await self._journal.read(run_id))
        started = self.openings.fork(machine, step, output, repeat_effects=repeat_effects, request=request)
        return await self._begin(new_run_id() if new_id is None else checked_run_id(new_id), started)

    async def result_of(self, run_id: str) -> RunResult:
        """Return how a run stands, from the record alone."""
        machine = replayed(run_id, await self._journal.read(run_id))
        return run_result(machine.state, waiting=machine.waits_for_person)

    def follow(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield a run's durable events as they come, without gap or double; ends with the run."""
        return self._journal.follow(run_id, after=after)

    def _look_at_clock(self) -> None:
        """Tell every run if the machine slept, or its clock was set: time went by that nobody noticed."""
        by_s = self._clock.catch_up() if isinstance(self._clock, LoopClock) else 0.0
        if by_s:
            _log.info("clock.ahead by_s=%.1f", by_s)
            for driver in list(self._drivers.values()):
                driver.time_passed(by_s)

    async def _hear_people(self, run_id: str) -> None:
        """Hand on what people left for a run of ours from other processes."""
        driver = self._drivers.get(run_id)
        if driver is not None:
            await take_posted(self._journal, driver.clock, driver, await self._journal.posted(run_id))


def _tracing_of(telemetry: bool | Tracer | Tracing) -> Tracing | None:
    from planloom.observe.trace import Tracing  # an extra, and only where it is asked for

    return Tracing.of(telemetry)
