"""What a server does with runs: start them, keep those under way in hand, answer for people. No HTTP in here.

Rule 1: a run is told of only once it is on record; whoever asks again with the same key is told of the same run.
Rule 2: a run is in hand from its start until it ends or is paused, whoever asked for it went away or not.
Rule 3: what is shown is durable.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeVar

from planloom.core.events import ApprovalAnswered, CancelRequested, PauseRequested, RunStarted, StepResolved
from planloom.core.result import RUN_ENDED, RunStatus
from planloom.errors import (
    ConfigError,
    JournalConflictError,
    JournalError,
    NotAllowedError,
    OverloadedError,
    PlanError,
    RunBusyError,
    RunNotFoundError,
    RunStateError,
)
from planloom.plan.policy import ResourceLimits
from planloom.runtime.people import answer_fact, resolution_fact
from planloom.runtime.reading import RunOnRecord, read_run
from planloom.runtime.replay import replayed

if TYPE_CHECKING:
    from pydantic import BaseModel

    from planloom.plan.model import Plan
    from planloom.ports import Journal, RunRow
    from planloom.runtime.engine import Engine
    from planloom.runtime.run import Run
    from planloom.server.bodies import AnswerBody, ForkBody, LimitsBody, ResolutionBody, SubmitBody
    from planloom.server.plans import NamedPlans
    from planloom.server.settings import ServerSettings

_log = logging.getLogger("planloom.server")

T = TypeVar("T")
Said = ApprovalAnswered | StepResolved | CancelRequested | PauseRequested
"""What people say to runs."""
CLOSE_S = 5.0
"""Seconds that runs which are being begun have to be on record, once the server ends."""
BUSY_TRIES = 20
BUSY_WAIT_S = 0.05
"""How often, and after how long, a run is looked for again that another process is starting right now."""


class RunService:
    """The runs of one engine, for whoever asks from outside.

    Args:
        engine: Runs them; it is not closed here.
        plans: Where named plans come from.
    """

    def __init__(self, engine: Engine, plans: NamedPlans, settings: ServerSettings) -> None:
        self.plans = plans
        self.settings = settings
        self._engine = engine
        self._hand: dict[str, Run] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._resting: set[str] = set()
        self._starting = 0
        self._beginning: set[asyncio.Task[Any]] = set()
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._is_open = False
        self.followers = 0
        """Streams of events that are open."""
        self.ending = asyncio.Event()
        """Set once the server is about to end: whoever follows a run is to come again."""

    @property
    def engine(self) -> Engine:
        return self._engine

    @property
    def journal(self) -> Journal:
        return self._engine.journal

    @property
    def active(self) -> int:
        """Return how many runs are under way here, those that wait for a person not counted."""
        return len(self._hand) - len(self._resting) + self._starting

    @property
    def held(self) -> int:
        """Return how many runs are in hand, those that wait for a person included."""
        return len(self._hand)

    @property
    def is_open(self) -> bool:
        return self._is_open

    async def open(self) -> int:
        """Take up every unended run that nobody drives or paused; return how many those are."""
        runs = await self._engine.recover()
        for run in runs:
            self._keep(run)
        self._is_open = True
        return len(runs)

    def end_streams(self) -> None:
        """Tell whoever follows a run that the server is about to end."""
        self.ending.set()

    async def close(self) -> None:
        """Begin nothing any more, and let go of the runs in hand; the next start takes them up."""
        self._is_open = False
        self.ending.set()
        if self._beginning:
            await asyncio.wait(self._beginning, timeout=CLOSE_S)
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def check_ready(self) -> None:
        """Raise why no runs are taken now, if none are.

        Raises:
            OverloadedError: The server is starting or ending.
            JournalError: The record cannot be read.
        """
        if not self._is_open:
            raise OverloadedError("this server is starting or ending", remedy="ask again", retry_after_s=2)
        await self.journal.runs(limit=1)

    # --- plans ---

    async def plan_of(self, body: SubmitBody) -> Plan:
        """Return the plan that is asked for; raises as `NamedPlans`."""
        if body.name is not None:
            return await self.named(body.name)
        assert body.plan is not None
        return await self.brought(body.plan)

    async def named(self, name: str) -> Plan:
        """Return a plan of the folders, held against everything that is here; raises as `NamedPlans`."""
        return await self.plans.named(name, also=self._engine.problems_here)

    async def brought(self, source: dict[str, Any] | str) -> Plan:
        """Return a plan that a caller brings along, if that is allowed here."""
        if self.settings.named_only:
            raise NotAllowedError("this server runs its own plans only", remedy="name one of GET /v1/plans")
        return await self.plans.brought(source, also=self._engine.problems_here)

    async def checked(self, source: dict[str, Any] | str) -> Plan:
        """Return the plan of a caller, held against everything that is here."""
        return self._engine.check(await self.plans.brought(source, also=self._engine.problems_here))

    # --- start ---

    async def submit(self, body: SubmitBody, *, by: str, key: str | None) -> tuple[str, bool]:
        """Start a run; return its id, and whether it is a new one.

        Args:
            by: Whose run it is.
            key: The caller's own name of this request: asked again with it, the same run is meant.

        Raises:
            PlanError: The plan or its inputs are wrong.
            JournalConflictError: The key stands for another request.
            OverloadedError: Too many runs are under way.
        """
        asked = _digest("submit", by, body)

        async def begin(run_id: str | None) -> Run:
            plan = await self.plan_of(body)
            return await self._engine.start(
                plan,
                body.inputs,
                limits=_limits(plan, body.limits),
                run_id=run_id,
                parallel=body.parallel,
                track_cost=body.track_cost,
                module="" if by == "local" else by,
                request=asked if key is not None else "",
            )

        return await self._once(begin, by=by, key=key, asked=asked)

    async def fork(self, run_id: str, body: ForkBody, *, by: str, key: str | None) -> tuple[str, bool]:
        """Start a run that goes on from another one as if a step had come to another output; as `submit`.

        Raises:
            RunNotFoundError: No such run.
            ConfigError: No such step, or effects would be repeated.
        """
        asked = _digest(f"fork {run_id}", by, body)

        async def begin(new_id: str | None) -> Run:
            return await self._engine.fork(
                run_id,
                body.step,
                body.output,
                new_id=new_id,
                repeat_effects=body.repeat_effects,
                request=asked if key is not None else "",
            )

        return await self._once(begin, by=by, key=key, asked=asked)

    async def _once(
        self, begin: Callable[[str | None], Awaitable[Run]], *, by: str, key: str | None, asked: str
    ) -> tuple[str, bool]:
        """Begin a run, or find the one that this key began."""
        if key is None:
            return (await self._begin(lambda: begin(None))).run_id, True
        run_id = f"key-{_sha256(by, key)[:40]}"
        async with self._alone(run_id):
            known = await self._started(run_id)
            if known is None:
                try:
                    return (await self._begin(lambda: begin(run_id))).run_id, True
                except JournalConflictError:  # another process on this journal was faster
                    known = await self._started(run_id, tries=BUSY_TRIES)
            if known is None:
                raise RunBusyError("another process is starting this run now", remedy="ask again")
            if known.request != asked:
                raise JournalConflictError(
                    "this idempotency key stands for another request", remedy="use a new key for a new request"
                )
            return run_id, False

    async def _begin(self, begin: Callable[[], Awaitable[Run]]) -> Run:
        """Begin a run, whether or not whoever asked for it stays to hear of it."""
        self._admit()
        self._starting += 1

        async def begun() -> Run:
            try:
                run = await begin()
                self._keep(run)
                return run
            finally:
                self._starting -= 1

        return await self._to_its_end(begun())

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.get_running_loop().create_task(work)
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)
        return await asyncio.shield(task)

    def _admit(self) -> None:
        if not self._is_open:
            raise OverloadedError("this server is starting or ending", remedy="ask again", retry_after_s=2)
        if self.active >= self.settings.max_active_runs:
            raise OverloadedError(
                f"{self.active} runs are under way, and that is all there may be",
                remedy="ask again after the time in Retry-After, or raise max_active_runs in [server]",
                retry_after_s=1,
            )

    async def _started(self, run_id: str, *, tries: int = 1) -> RunStarted | None:
        """Return how a run began; None if there is none of that name."""
        for left in reversed(range(tries)):
            try:
                first = (await self.journal.read(run_id, limit=1))[0].event
            except RunNotFoundError:
                if left:
                    await asyncio.sleep(BUSY_WAIT_S)
                continue
            assert isinstance(first, RunStarted)
            return first
        return None

    # --- in hand ---

    def _keep(self, run: Run) -> None:
        self._hand[run.run_id] = run
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
            self._hand.pop(run.run_id, None)
            self._tasks.pop(run.run_id, None)
            if self._is_open:
                with suppress(JournalError):
                    await self._engine.release(run.run_id)

    # --- look ---

    async def read(self, run_id: str) -> RunOnRecord:
        """Return a run from its record; RunNotFoundError if there is none."""
        return await read_run(self.journal, run_id)

    async def rows(
        self, *, status: RunStatus | None, plan: str | None, limit: int, before: tuple[float, str] | None
    ) -> list[tuple[RunRow, RunStatus]]:
        """Return runs, newest first, each with how it stands."""
        on_record = RunStatus.RUNNING if status is RunStatus.WAITING else status
        found: list[tuple[RunRow, RunStatus]] = []
        while True:
            wanted = None if on_record is None else on_record.value
            page = await self.journal.runs(status=wanted, plan=plan, limit=limit, before=before)
            for row in page:
                before = (row.started_at, row.run_id)
                stands = await self._stands(row)
                if status is None or stands is status:
                    found.append((row, stands))
                    if len(found) == limit:
                        return found
            if len(page) < limit:
                return found

    async def _stands(self, row: RunRow) -> RunStatus:
        status = RunStatus(row.status)
        if status in RUN_ENDED:
            return status
        run = self._hand.get(row.run_id)
        if run is not None:
            return run.status
        machine = replayed(row.run_id, await self.journal.read(row.run_id))
        return RunStatus.WAITING if machine.waits_for_person else machine.state.status

    # --- say ---

    async def answer(self, run_id: str, body: AnswerBody, *, by: str) -> tuple[Said, bool | None]:
        """Answer an approval; return what is on record now, and whether somebody takes it up.

        Raises:
            RunNotFoundError: No such run.
            RunStateError: No such approval waits, or another one.
            ValidationError: What was filled in does not fit the form.
        """

        def fact(run: RunOnRecord, at: float) -> Said:
            return answer_fact(
                run.state, body.step, by=by, approved=body.approved, output=body.output, at=at, binding=body.binding
            )

        return await self._say(run_id, fact)

    async def resolve(self, run_id: str, body: ResolutionBody, *, by: str) -> tuple[Said, bool | None]:
        """Say what came of a step whose outcome is unknown; as `answer`."""

        def fact(run: RunOnRecord, at: float) -> Said:
            return resolution_fact(run.state, body.step, body.how, by=by, output=body.output, error=body.error, at=at)

        return await self._say(run_id, fact)

    async def cancel(self, run_id: str, *, by: str, reason: str) -> tuple[Said, bool | None]:
        """Ask a run to stop; on record on return. Asked again of a cancelled run, it says so again."""

        def fact(run: RunOnRecord, at: float) -> Said:
            if run.result.status is not RunStatus.CANCELLED:
                _unended(run, "cancel")
            return CancelRequested(by, at, reason)

        return await self._say(run_id, fact, take_up=lambda run: True)

    async def pause(self, run_id: str, *, by: str) -> tuple[Said, bool | None]:
        """Have nothing new start; on record on return."""

        def fact(run: RunOnRecord, at: float) -> Said:
            _unended(run, "pause")
            return PauseRequested(by, at)

        return await self._say(run_id, fact, take_up=lambda run: False)

    async def resume(self, run_id: str) -> str:
        """Go on with a run that is paused, or that nobody drives; one that goes on, or has ended, stays as it is.

        Raises:
            RunNotFoundError: No such run.
            RunBusyError: Another process drives it.
            RunStateError: It was asked to pause, and what is under way has not ended yet.
        """
        async with self._alone(run_id):
            run = self._hand.get(run_id)
            if run is not None and not run.is_paused:
                return run_id
            if run is not None and run.status is RunStatus.RUNNING:
                raise RunStateError(f"run {run_id} is being paused: steps are under way", remedy="ask again shortly")
            task = self._tasks.get(run_id)
            if task is not None:
                await asyncio.wait([task])
            if (await self.read(run_id)).machine.ended:
                return run_id
            await self._begin(lambda: self._engine.resume(run_id))
            return run_id

    async def retry_failed(self, run_id: str) -> str:
        """Start a new run that reuses what an ended one finished; return its id.

        Raises:
            RunStateError: The run has not ended, or ended well.
        """
        return (await self._begin(lambda: self._engine.retry_failed(run_id))).run_id

    async def _say(
        self,
        run_id: str,
        make: Callable[[RunOnRecord, float], Said],
        *,
        take_up: Callable[[RunOnRecord], bool] = lambda run: not run.state.paused,
    ) -> tuple[Said, bool | None]:
        """Leave a fact with a run, and have it heard: here at once, elsewhere by whoever drives it.

        Args:
            take_up: Whether a run that nobody drives is taken up, so that it hears.
        """
        async with self._alone(run_id):
            on_record = await self.read(run_id)
            fact = make(on_record, self._engine.clock.now())
            if on_record.machine.ended:  # nothing is left to be told
                return fact, None
            run = self._hand.get(run_id)
            if run is not None and await run.tell(fact):
                return fact, True
            await self.journal.post(run_id, fact)
            if on_record.driven or not take_up(on_record):
                return fact, on_record.driven
            return fact, await self._taken_up(run_id)

    async def _taken_up(self, run_id: str) -> bool:
        """Try to go on with a run that nobody seems to drive; what was left for it stays if it cannot be."""
        try:
            await self._begin(lambda: self._engine.resume(run_id))
        except RunBusyError:
            return True
        except (ConfigError, OverloadedError, PlanError) as error:
            _log.warning("run %s cannot go on here: %s", run_id, error)
            return False
        return True

    def _alone(self, run_id: str) -> _Alone:
        return _Alone(self._locks, run_id)


class _Alone:
    """A lock by name, forgotten when nobody holds or wants it."""

    def __init__(self, locks: dict[str, tuple[asyncio.Lock, int]], name: str) -> None:
        self._locks = locks
        self._name = name

    async def __aenter__(self) -> None:
        lock, users = self._locks.get(self._name, (asyncio.Lock(), 0))
        self._locks[self._name] = (lock, users + 1)
        try:
            await lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *exception: object) -> None:
        self._locks[self._name][0].release()
        self._leave()

    def _leave(self) -> None:
        lock, users = self._locks.pop(self._name)
        if users > 1:
            self._locks[self._name] = (lock, users - 1)


def _unended(run: RunOnRecord, what: str) -> None:
    if run.machine.ended:
        raise RunStateError(
            f"run {run.result.run_id!r} has ended: {run.result.status.value}", remedy=f"there is nothing to {what}"
        )


def _digest(what: str, by: str, body: BaseModel) -> str:
    told = json.dumps(body.model_dump(mode="json", exclude_unset=True), sort_keys=True)
    return _sha256(what, by, told)


def _sha256(*texts: str) -> str:
    return sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


def _limits(plan: Plan, given: LimitsBody | None) -> ResourceLimits | None:
    """Return the plan's limits with those of the caller on top; None where neither says anything."""
    if given is None or not given.model_fields_set:
        return plan.limits
    off: dict[str, Any] = dict.fromkeys(ResourceLimits.model_fields)
    base = plan.limits.model_dump() if plan.limits is not None else off
    return ResourceLimits(**(base | given.model_dump(exclude_unset=True)))
