"""The runs of a server that a cluster sees to: submitted to its agents, made by its workers, read from the record.

Rule 1: what is asked for is checked whole here, as an engine checks it; agents check it again, with their own tools.
Rule 2: a run is told of once the broker has its submission for good, or, better, once it is on record.
Rule 3: where the broker is away, all that is on record can be read, and people's answers are left there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

from planloom.core.events import PauseRequested, RunResumed
from planloom.errors import (
    BrokerError,
    JournalConflictError,
    JournalError,
    OverloadedError,
    RunNotFoundError,
    RunStateError,
    SubmissionRefusedError,
    plan_error,
)
from planloom.runtime.cluster.client import ClusterClient
from planloom.runtime.declared import without_secrets
from planloom.runtime.reading import read_run
from planloom.runtime.replay import replayed
from planloom.runtime.run_ids import new_run_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planloom.core.events import RunStarted
    from planloom.core.result import RunStatus
    from planloom.journal.postgres.journal import PostgresJournal
    from planloom.journal.postgres.shared import SharedRuns
    from planloom.plan.model import Plan
    from planloom.plan.policy import ResourceLimits
    from planloom.runtime.cluster.capabilities import Capabilities
    from planloom.runtime.engine import Engine
    from planloom.server.hands import Said
    from planloom.transport.nats.link import Broker

_log = logging.getLogger("planloom.server")

BEGIN_S = 5.0
"""Seconds in which an agent should have begun a run that was submitted; after that it is told of as queued."""
AGAIN_S = 2.0
"""Seconds after which a broker is tried again that was not there."""
_RESUME = "planloom resume RUN"


class RunsOfCluster:
    """Has a cluster see to runs; see `RunHands`.

    Args:
        engine: Checks what is asked for; it runs nothing.
        journal: The cluster's record; left open.
        shared: The same database; left open.
        capabilities: The cluster's modules.
    """

    def __init__(
        self, engine: Engine, broker: Broker, journal: PostgresJournal, shared: SharedRuns, capabilities: Capabilities
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._capabilities = capabilities
        self._client = ClusterClient(broker, journal=journal, shared=shared)
        self._ending = AsyncExitStack()
        self._connecting: asyncio.Task[None] | None = None

    @property
    def active(self) -> int:
        return 0

    @property
    def held(self) -> int:
        return 0

    @property
    def is_open(self) -> bool:
        return self._connecting is not None

    async def open(self) -> int:
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        return 0

    async def close(self) -> None:
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
        await self._ending.aclose()

    def check_open(self) -> None:
        if self._connecting is None:
            raise OverloadedError("this server is starting or ending", remedy="ask again", retry_after_s=2)
        if not self._client.is_up:
            raise OverloadedError(
                "the cluster's broker cannot be reached now", remedy="ask again; what is on record can be read"
            )

    def check_room(self) -> None:
        self.check_open()

    async def start(
        self,
        plan: Plan,
        inputs: Mapping[str, Any],
        *,
        run_id: str | None,
        limits: ResourceLimits | None,
        parallel: bool,
        track_cost: bool,
        module: str,
        request: str,
    ) -> str:
        self.check_open()
        run_id = run_id or new_run_id()
        started = self._engine.openings.of(
            plan,
            inputs,
            limits=limits,
            parallel=parallel,
            track_cost=track_cost,
            module=module,
            request=request,
            run_ahead=False,
        )
        self._check(run_id, started)
        submitting = self._client.submit(
            plan,
            started.inputs,
            run_id=run_id,
            limits=limits,
            allow=started.allow,
            module=module,
            parallel=parallel,
            track_cost=track_cost,
            request=request,
        )
        return await self._begun(submitting)

    async def fork(
        self, run_id: str, step: str, output: Any, *, new_id: str | None, repeat_effects: bool, request: str
    ) -> str:
        self.check_open()
        new_id = new_id or new_run_id()
        earlier = replayed(run_id, await self._journal.read(run_id))
        self._check(new_id, self._engine.openings.fork(earlier, step, output, repeat_effects=repeat_effects))
        submitting = self._client.fork(
            run_id, step, output, new_id=new_id, repeat_effects=repeat_effects, request=request
        )
        return await self._begun(submitting)

    async def retry_failed(self, run_id: str, *, new_id: str | None, request: str) -> str:
        self.check_open()
        new_id = new_id or new_run_id()
        earlier = replayed(run_id, await self._journal.read(run_id))
        self._check(new_id, self._engine.openings.retry(earlier))
        return await self._begun(self._client.retry_failed(run_id, new_id=new_id, request=request))

    async def resume(self, run_id: str) -> None:
        run = await read_run(self._journal, run_id)
        if run.machine.ended:
            return
        if not await self._journal.is_clusters(run_id):
            raise RunStateError(
                f"run {run_id} is none of the cluster's", remedy=f"go on with it where it was begun, or: {_RESUME}"
            )
        left = [fact for _, fact in await self._journal.posted(run_id)]
        if not run.state.paused and not any(isinstance(fact, PauseRequested) for fact in left):
            return
        if run.state.running:
            raise RunStateError(f"run {run_id} is being paused: steps are under way", remedy="ask again shortly")
        await self._journal.post(run_id, RunResumed(0, time.time()))

    async def tell(self, run_id: str, fact: Said) -> bool:
        return False  # it is left in the journal, where the agents look

    async def take_up(self, run_id: str) -> bool:
        _log.warning("run %s is none of the cluster's, and nobody drives it: %s", run_id, _RESUME)
        return False

    async def check_refused(self, run_id: str) -> None:
        await self._client.check_refused(run_id)

    def status_of(self, run_id: str) -> RunStatus | None:
        return None

    def _check(self, run_id: str, started: RunStarted) -> None:
        """Refuse what the agents would refuse, as far as that is known here."""
        problems = self._capabilities.problems(started.plan)
        if problems:
            raise plan_error(problems)
        without_secrets(run_id, started)

    async def _begun(self, submitting: Awaitable[str]) -> str:
        """Return the name of a run that is submitted, once it is on record, or no agent begins it in time."""
        run_id = await submitting
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(BEGIN_S):
                    await self._client.started(run_id)
        except SubmissionRefusedError:
            if await self._is_there(run_id):  # since another submission under this name was faster
                raise JournalConflictError(
                    f"run {run_id!r} exists", remedy="start a run under another id", run_id=run_id
                ) from None
            raise
        except JournalConflictError:
            raise
        except JournalError as error:  # the submission is safe; whoever asks for the run is told what is wrong
            _log.warning("whether run %s has begun cannot be read: %s", run_id, error.message)
        return run_id

    async def _is_there(self, run_id: str) -> bool:
        try:
            await self._journal.read(run_id, limit=1)
        except RunNotFoundError:
            return False
        return True

    async def _connect(self) -> None:
        """Reach the broker, however long it takes; the link itself sees to it from then on."""
        while True:
            try:
                await self._ending.enter_async_context(self._client)
            except BrokerError as error:
                _log.warning("%s; it is tried again", error.message)
                await asyncio.sleep(AGAIN_S)
            else:
                return
