"""What a server does with runs: submits them, reads them, and, by its parts, keeps and steers them. No HTTP in here.

Rule 1: a run is told of only once it is on record; whoever asks again with the same key is told of the same run.
Rule 2: what is shown is durable.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from planloom.core.events import RunStarted
from planloom.core.result import RunStatus
from planloom.errors import JournalConflictError, NotAllowedError, RunBusyError, RunNotFoundError
from planloom.plan.policy import ResourceLimits
from planloom.runtime.reading import RunOnRecord
from planloom.server.drawn import DrawnViews
from planloom.server.hand import RunsInHand
from planloom.server.locks import NamedLocks
from planloom.server.readings import Readings
from planloom.server.standing import Standings
from planloom.server.steering import Steering
from planloom.server.tails import RunTails

if TYPE_CHECKING:
    from pydantic import BaseModel

    from planloom.plan.model import Plan
    from planloom.ports import Journal, RunRow
    from planloom.runtime.engine import Engine
    from planloom.server.bodies import ForkBody, LimitsBody, ResumeBody, SubmitBody
    from planloom.server.hands import RunHands
    from planloom.server.plans import NamedPlans
    from planloom.server.settings import ServerSettings

BUSY_TRIES = 20
BUSY_WAIT_S = 0.05
"""How often, and after how long, a run is looked for again that another process is starting right now."""


class RunService:
    """The runs of one journal, for whoever asks from outside.

    Args:
        engine: Checks what is asked for, and runs it unless others do; it is not closed here.
        plans: Where named plans come from.
        hands: Who sees to the runs; None: the engine.
    """

    def __init__(
        self, engine: Engine, plans: NamedPlans, settings: ServerSettings, *, hands: RunHands | None = None
    ) -> None:
        self.plans = plans
        self.settings = settings
        self._engine = engine
        self._hands: RunHands = hands or RunsInHand(engine, most_active=settings.max_active_runs)
        self._locks = NamedLocks()
        self.steering = Steering(engine, self._hands, self._locks)
        """What people say to runs goes through here."""
        self._readings = Readings(engine.journal)
        self._standings = Standings(engine.journal, self._hands)
        self.views = DrawnViews(self._readings)
        self.tails = RunTails(engine.journal)
        """What followers of runs are told from."""

    @property
    def engine(self) -> Engine:
        return self._engine

    @property
    def journal(self) -> Journal:
        return self._engine.journal

    @property
    def active(self) -> int:
        """Return how many runs are under way here, those that wait for a person not counted."""
        return self._hands.active

    @property
    def held(self) -> int:
        """Return how many runs are in hand, those that wait for a person included."""
        return self._hands.held

    @property
    def followers(self) -> int:
        """Return how many streams of events are open."""
        return self.tails.followers

    @property
    def is_open(self) -> bool:
        return self._hands.is_open

    async def open(self) -> int:
        """Begin to take runs; return how many were taken up that nobody drove."""
        return await self._hands.open()

    def end_streams(self) -> None:
        """Tell whoever follows a run that the server is about to end."""
        self.tails.end()

    async def close(self) -> None:
        """Begin nothing any more, and let go of the runs in hand; the next start takes them up."""
        self.tails.end()
        await self._hands.close()

    async def check_ready(self) -> None:
        """Raise why no runs are taken now, if none are.

        Raises:
            OverloadedError: The server is starting or ending.
            JournalError: The record cannot be read.
        """
        self._hands.check_open()
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

        async def begin(run_id: str | None) -> str:
            self._hands.check_room()
            plan = await self.plan_of(body)
            return await self._hands.start(
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

        async def begin(new_id: str | None) -> str:
            return await self._hands.fork(
                run_id,
                body.step,
                body.output,
                new_id=new_id,
                repeat_effects=body.repeat_effects,
                request=asked if key is not None else "",
            )

        return await self._once(begin, by=by, key=key, asked=asked)

    async def retry_failed(self, run_id: str, body: ResumeBody, *, by: str, key: str | None) -> tuple[str, bool]:
        """Start a run that reuses what an ended one finished; as `submit`.

        Raises:
            RunStateError: The run has not ended, or ended well.
        """
        asked = _digest(f"retry {run_id}", by, body)

        async def begin(new_id: str | None) -> str:
            return await self._hands.retry_failed(run_id, new_id=new_id, request=asked if key is not None else "")

        return await self._once(begin, by=by, key=key, asked=asked)

    async def _once(
        self, begin: Callable[[str | None], Awaitable[str]], *, by: str, key: str | None, asked: str
    ) -> tuple[str, bool]:
        """Begin a run, or find the one that this key began."""
        if key is None:
            return await begin(None), True
        run_id = f"key-{_sha256(by, key)[:40]}"
        async with self._locks.alone(run_id):
            known = await self._started(run_id)
            if known is None:
                try:
                    return await begin(run_id), True
                except JournalConflictError:  # another process on this journal was faster
                    known = await self._started(run_id, tries=BUSY_TRIES)
            if known is None:
                raise RunBusyError("another process is starting this run now", remedy="ask again")
            if known.request != asked:
                raise JournalConflictError(
                    "this idempotency key stands for another request", remedy="use a new key for a new request"
                )
            return run_id, False

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

    # --- look ---

    async def read(self, run_id: str) -> RunOnRecord:
        """Return a run from its record.

        Raises:
            RunNotFoundError: There is none, or not yet.
            SubmissionRefusedError: There is none, since it was refused after it was taken on.
        """
        try:
            return await self._readings.read(run_id)
        except RunNotFoundError:
            await self._hands.check_refused(run_id)
            raise

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
                stands = await self._standings.of(row)
                if status is None or stands is status:
                    found.append((row, stands))
                    if len(found) == limit:
                        return found
            if len(page) < limit:
                return found


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
