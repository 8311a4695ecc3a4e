"""Asking a cluster for runs: submit, say something to a run, wait for its end.

Rule 1: a submission that was taken is durable; whether it can run is decided by an agent, and read here.
Rule 2: asking again for the same run under the same name is one run.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planloom.core.events import CancelRequested, PauseRequested, RunFinished, RunResumed
from planloom.errors import (
    BrokerError,
    JetStreamError,
    JournalConflictError,
    OverloadedError,
    RunNotFoundError,
    SubmissionRefusedError,
)
from planloom.journal.address import spelled_out
from planloom.journal.open import open_database
from planloom.plan.load import load_plan
from planloom.runtime.clock import LoopClock
from planloom.runtime.cluster import bodies
from planloom.runtime.reading import read_run
from planloom.runtime.run_ids import checked_run_id, new_run_id
from planloom.runtime.wire import JsonWire
from planloom.transport.nats import subjects

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from planloom.core.events import Fact
    from planloom.core.result import RunResult
    from planloom.journal.postgres.journal import PostgresJournal
    from planloom.journal.postgres.shared import SharedRuns
    from planloom.plan.policy import ResourceLimits
    from planloom.ports import Clock
    from planloom.runtime.checks import PlanSource
    from planloom.transport.nats.link import Broker

FIRST_LOOK_S, LOOK_S = 0.02, 0.2
"""Seconds between looks whether a submission has become a run: at first, and once it takes its time."""
WAIT_S = 10.0
"""Seconds that a broker is waited for which does not listen yet."""
SUBMIT_AGAIN_S = 3.0
"""Seconds after which a submission that nobody took is submitted once more, while it is waited for."""
TRIES = 20
AGAIN_S = 0.5


class ClusterClient:
    """Submits runs to a cluster. An async context manager.

    Args:
        broker: Where the broker is, and who asks; or its address.
        journal: The address of the record, for whoever waits for runs; or the journal itself, which is left open. None:
            nothing is waited for.
        shared: The same database, for refusals; None: it is opened where the journal is.
        credentials: File that says who asks, where `broker` is an address.
        key: Of the record, where `journal` is an address.
    """

    def __init__(
        self,
        broker: Broker | str,
        *,
        journal: PostgresJournal | str | None = None,
        shared: SharedRuns | None = None,
        credentials: str | Path | None = None,
        key: bytes | None = None,
        clock: Clock | None = None,
    ) -> None:
        from planloom.transport.nats.link import Broker, BrokerLink  # an extra; it says so where it is missing

        if isinstance(broker, str):
            broker = Broker((broker,), None if credentials is None else Path(credentials), "planloom-client")
        self._link = BrokerLink(broker)
        self._address = journal if isinstance(journal, str) else None
        self._journal = None if isinstance(journal, str) else journal
        self._shared = shared
        self._key = key
        self._clock = clock or LoopClock()
        self._submitted: dict[str, bodies.PlanSubmission] = {}
        """What was submitted here, until it is known what became of it."""
        self._ending = AsyncExitStack()

    @property
    def is_up(self) -> bool:
        """Return whether there is a connection to the broker now."""
        return self._link.is_up

    async def __aenter__(self) -> ClusterClient:
        async with AsyncExitStack() as opening:
            await self._link.open(wait_s=WAIT_S)
            opening.push_async_callback(self._link.close)
            if self._address is not None:
                self._journal = open_database(self._address, key=self._key)
                opening.push_async_callback(self._journal.close)
                from planloom.journal.postgres.shared import SharedRuns  # of the same extra as the journal

                self._shared = SharedRuns(spelled_out(self._address), key=self._key, connections=1)
                opening.push_async_callback(self._shared.close)
            self._ending = opening.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._ending.aclose()

    async def submit(
        self,
        plan: PlanSource,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        limits: ResourceLimits | None = None,
        allow: Iterable[str] | None = None,
        module: str = "",
        parallel: bool = True,
        track_cost: bool = True,
        request: str = "",
    ) -> str:
        """Have a run of a plan begin; return its name once the broker has the submission.

        Args:
            request: What tells one request from another, for the record; "": all that is submitted does.

        Raises:
            PlanError: It is no plan.
            OverloadedError: There is no room for it.
            BrokerError: The broker does not answer; asking again under the same name is safe.
        """
        run_id = new_run_id() if run_id is None else checked_run_id(run_id)
        submission = bodies.PlanSubmission(
            run_id=run_id,
            plan=json.loads(load_plan(plan).canonical_json),
            inputs=dict(inputs or {}),
            limits=None if limits is None else limits.model_dump(mode="json", exclude_unset=True),
            allow=None if allow is None else tuple(allow),
            module=module,
            parallel=parallel,
            track_cost=track_cost,
            asked=request,
            nonce=_nonce(request),
        )
        return await self._submit(submission)

    async def fork(
        self,
        run_id: str,
        step: str,
        output: Any,
        *,
        new_id: str | None = None,
        repeat_effects: bool = False,
        request: str = "",
    ) -> str:
        """Have a run begin that goes on from another one as if a step had come to another output; as `submit`.

        What `Engine.fork` would refuse, an agent refuses.
        """
        earlier = bodies.EarlierRun(run_id=run_id, step=step, output=output, repeat_effects=repeat_effects)
        return await self._go_on_from(earlier, new_id, request)

    async def retry_failed(self, run_id: str, *, new_id: str | None = None, request: str = "") -> str:
        """Have a run begin that reuses every result of an ended one that is not behind a failure; as `fork`."""
        return await self._go_on_from(bodies.EarlierRun(run_id=run_id), new_id, request)

    async def _go_on_from(self, earlier: bodies.EarlierRun, new_id: str | None, request: str) -> str:
        new_id = new_run_id() if new_id is None else checked_run_id(new_id)
        return await self._submit(
            bodies.PlanSubmission(run_id=new_id, earlier=earlier, asked=request, nonce=_nonce(request))
        )

    async def _submit(self, submission: bodies.PlanSubmission) -> str:
        run_id = submission.run_id
        self._submitted[run_id] = submission
        try:
            # Nobody must guess it: a message of any module's worker under the same one would swallow this.
            await self._store(subjects.submission(run_id), submission.written(), secrets.token_hex(16))
        except BaseException:
            self._submitted.pop(run_id, None)
            raise
        return run_id

    async def cancel(self, run_id: str, *, by: str = "caller", reason: str = "") -> None:
        """Ask a run to stop."""
        await self.say(run_id, "cancel", CancelRequested(by, self._clock.now(), reason))

    async def pause(self, run_id: str, *, by: str = "caller") -> None:
        """Have nothing new start in a run; what is under way ends."""
        await self.say(run_id, "pause", PauseRequested(by, self._clock.now()))

    async def resume(self, run_id: str) -> None:
        """Have a paused run go on, once what was under way has ended."""
        await self.say(run_id, "resume", RunResumed(0, self._clock.now()))

    async def say(self, run_id: str, name: str, fact: Fact) -> None:
        """Say to a run what a person answers: see `runtime.people`."""
        await self._store(subjects.signal(run_id, name), bodies.signal_body(run_id, fact, JsonWire()), "")

    async def started(self, run_id: str) -> None:
        """Wait until a submission has become a run.

        Raises:
            SubmissionRefusedError: It was refused, and why.
            JournalConflictError: There is a run of that name, which something else was asked for.
        """
        journal, _ = self._here()
        ours, wait_s, now = self._submitted.get(run_id), FIRST_LOOK_S, asyncio.get_running_loop().time
        again_at = now() + SUBMIT_AGAIN_S
        try:
            while True:
                try:
                    first = (await journal.read(run_id, limit=1))[0].event
                except RunNotFoundError:
                    pass
                else:
                    if ours is not None and getattr(first, "request", "") != ours.request:
                        raise JournalConflictError(
                            f"run {run_id!r} exists", remedy="submit it under another id, or none", run_id=run_id
                        )
                    return
                await self.check_refused(run_id, ticket=None if ours is None else ours.ticket)
                if ours is not None and now() >= again_at:
                    again_at = now() + SUBMIT_AGAIN_S
                    await self._submit_again(ours)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, LOOK_S)
        finally:
            self._submitted.pop(run_id, None)

    async def _submit_again(self, submission: bodies.PlanSubmission) -> None:
        """Submit once more what nobody has read: the broker may have lost it with its store. Twins are one run."""
        with suppress(BrokerError):  # it has it, is full, or is away: there is another time
            subject = subjects.submission(submission.run_id)
            await self._link.store(subject, submission.written(), msg_id=secrets.token_hex(16))

    async def check_refused(self, run_id: str, *, ticket: str | None = None) -> None:
        """Look whether the newest submission under this name, or that one, was refused.

        Raises:
            SubmissionRefusedError: It was, and why.
        """
        _, shared = self._here()
        told = json.loads(await shared.refusal(run_id) or "null")
        if told is not None and ticket in (None, told["request"]):
            error = told["error"]
            raise SubmissionRefusedError(
                f"run {run_id} was refused: {error['message']}", remedy=error.get("remedy", ""), refusal=error
            )

    async def result(self, run_id: str) -> RunResult:
        """Wait until a run has ended, and return its result.

        Raises:
            SubmissionRefusedError: It was refused, and why.
        """
        await self.started(run_id)
        journal, _ = self._here()
        async for recorded in journal.follow(run_id):
            if isinstance(recorded.event, RunFinished):
                break
        return (await read_run(journal, run_id)).result

    def _here(self) -> tuple[PostgresJournal, SharedRuns]:
        if self._journal is None or self._shared is None:
            raise RunNotFoundError("this client has no record to look at", remedy="give it the journal's address")
        return self._journal, self._shared

    async def _store(self, subject: str, body: bytes, msg_id: str) -> None:
        """Have the broker keep a message, however often it has to be asked."""
        for tries in range(1, TRIES + 1):
            try:
                await self._link.store(subject, body, msg_id=msg_id)
            except JetStreamError as error:
                words = str(error.facts.get("words", ""))
                if "maximum messages" in words or "maximum bytes" in words:
                    raise OverloadedError(
                        "too much waits for the cluster's agents", remedy="submit it again later, or start more agents"
                    ) from error
                raise
            except BrokerError:
                if tries == TRIES or not msg_id:
                    raise
                await asyncio.sleep(AGAIN_S)
            else:
                return


def _nonce(request: str) -> str:
    """Return what makes a submission another one than an earlier one of the same request, which may be refused."""
    return secrets.token_hex(8) if request else ""
