"""What comes in from the broker: submissions, outcomes, signals, what workers ask, and commands that killed them.

Rule 1: an input is acknowledged once all that followed from it was seen to; until then another agent may get it, too.
Rule 2: what cannot be read, or may not be said, is counted and dropped: it must not come again and again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING

from planloom.errors import (
    BrokerError,
    JetStreamError,
    JournalError,
    JournalFormatError,
    PlanloomError,
    ProtocolError,
    RunNotFoundError,
)
from planloom.runtime.cluster import bodies
from planloom.runtime.cluster.admission import PlansInHand, admitted, refusal_of, taken_name
from planloom.runtime.cluster.inputs import Fate, Lost, Submitted
from planloom.runtime.cluster.turnstile import Waiting
from planloom.runtime.replay import replayed
from planloom.transport.events_out import refused
from planloom.transport.nats import commands, subjects
from planloom.transport.nats.commands import dead_command
from planloom.transport.nats.puller import Puller
from planloom.transport.nats.streams import BURIERS, DLQ, IN, ORCH

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from nats.aio.msg import Msg

    from planloom.journal.postgres.shared import SharedRuns
    from planloom.ports import Clock, Journal
    from planloom.runtime.cluster.capabilities import Capabilities
    from planloom.runtime.cluster.inputs import Input, Received
    from planloom.runtime.cluster.newsroom import Newsroom
    from planloom.runtime.cluster.turnstile import Turnstile
    from planloom.runtime.engine import Engine
    from planloom.transport.nats.link import BrokerLink, Hearing
    from planloom.transport.nats.puller import Delivery
    from planloom.transport.nats.stranded import Stranded
    from planloom.transport.wire import WireFormat

    Given = Delivery | Stranded

_log = logging.getLogger("planloom.cluster")

AT_ONCE = 1_024
"""Inputs of one agent that are not acknowledged, at most."""
LATER_S = 1.0
"""Seconds after which what could not be taken in is brought again; of a run that is broken, BROKEN_S."""
BROKEN_S = 60.0
_SUBMISSION, _SIGNAL = f"{subjects.ROOT}.in.{subjects.SUBMIT}.", f"{subjects.ROOT}.in.{subjects.SIGNAL}."
NOT_NOW = "the record cannot be written now"


class Intake:
    """Brings what comes in to the turnstile.

    Attributes:
        counts: What became of inputs, by fate; "unreadable": those that were noise.
    """

    def __init__(
        self,
        link: BrokerLink,
        turnstile: Turnstile,
        shared: SharedRuns,
        journal: Journal,
        engine: Engine,
        capabilities: Capabilities,
        newsroom: Newsroom | None,
        wire: WireFormat,
        clock: Clock,
        *,
        lease_s: float,
    ) -> None:
        self._link = link
        self._lease_s = lease_s
        self._turnstile = turnstile
        self._shared = shared
        self._journal = journal
        self._engine = engine
        self._capabilities = capabilities
        self._newsroom = newsroom
        self._wire = wire
        self._clock = clock
        self._inputs = Puller(link, IN, ORCH, self._came, room=self._free)
        self._dead = Puller(link, DLQ, BURIERS, self._died, room=lambda: 16)
        self._asks: Hearing | None = None
        self._plans = PlansInHand()
        self._held: set[Given] = set()
        """Inputs that are not acknowledged."""
        self._renewing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts: Counter[str] = Counter()

    async def start(self, inbox: str) -> None:
        self._inputs.start(f"{inbox}.in")
        self._dead.start(f"{inbox}.dead")
        self._renewing = asyncio.get_running_loop().create_task(self._renew())
        self._asks = await self._link.subscribe(subjects.ALL_ASKED, self._asked, queue=subjects.ORCHESTRATORS)

    def forget(self) -> None:
        """Ask for everything anew: there is another connection."""
        self._inputs.forget()
        self._dead.forget()

    async def drain(self) -> None:
        """Take nothing more; what came before has been brought to the turnstile on return."""
        await asyncio.gather(self._inputs.withdraw(), self._dead.withdraw())
        if self._asks is not None:
            await self._asks.end()

    def close(self) -> None:
        """Leave what is not acknowledged to others."""
        if self._renewing is not None:
            self._renewing.cancel()

    @property
    def is_idle(self) -> bool:
        return not self._held and not self._tasks

    def _free(self) -> int:
        return AT_ONCE - len(self._held)

    async def _renew(self) -> None:
        """Say that what is held is being seen to: else others would begin with it, too."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            for delivery in list(self._held):
                await _heard(delivery.renew())

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(_heard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- inputs of the stream -----------------------------------------------------------------

    def take(self, one: Stranded) -> None:
        """Take an input that was not given to anybody, unless it is being seen to already."""
        if all(one.sequence != held.sequence for held in self._held):
            self._came(one)

    def _came(self, delivery: Given) -> None:
        try:
            one = self._read(delivery)
        except ProtocolError as error:
            self.counts["unreadable"] += 1
            _log.warning("an input at %s is dropped: %s", delivery.subject[:200], error.message)
            self._start(delivery.drop())
            return
        except PlanloomError as error:
            self._held.add(delivery)
            self._start(self._refuse(delivery, error))
            return
        self._held.add(delivery)
        if isinstance(one, bodies.PlanSubmission):
            self._start(self._goes_on(delivery, one))
        else:
            self._put(delivery, one)

    def _put(self, delivery: Given, one: Input) -> None:
        self._turnstile.put(Waiting(one, done=lambda answer: self._taken(delivery, one, answer)))

    async def _goes_on(self, delivery: Given, submission: bodies.PlanSubmission) -> None:
        """Take in the submission of a run that goes on from an earlier one, whose record is read for it."""
        assert submission.earlier is not None
        run_id = submission.earlier.run_id
        try:
            earlier = replayed(run_id, await self._journal.read(run_id))
            one = admitted(submission, self._engine, self._capabilities, earlier=earlier)
        except (RunNotFoundError, JournalFormatError) as error:
            await self._refuse(delivery, error)
        except JournalError as error:
            _log.warning("the record of a run that another one is to go on from cannot be read: %s", error.message)
            self._done(delivery, delivery.give_back(delay_s=LATER_S))
        except PlanloomError as error:
            await self._refuse(delivery, error)
        else:
            self._put(delivery, one)

    def _read(self, delivery: Given) -> Input | bodies.PlanSubmission:
        subject, body, now = delivery.subject, delivery.body, self._clock.now()
        if subject.startswith(_SUBMISSION):
            submission = bodies.read_submission(subject, body)
            if submission.earlier:
                return submission
            return admitted(submission, self._engine, self._capabilities, known=self._plans)
        if subject.startswith(_SIGNAL):
            return bodies.read_signal(subject, body, self._wire, now)
        return bodies.read_outcome(subject, body, self._wire, now)

    def _taken(self, delivery: Given, one: Input, answer: Received | None) -> None:
        """Acknowledge an input, or have it brought again."""
        if answer is None or answer.fate in (Fate.RESTS, Fate.BROKEN):
            broken = answer is not None and answer.fate is Fate.BROKEN
            self._count(answer)
            self._done(delivery, delivery.give_back(delay_s=BROKEN_S if broken else LATER_S))
            return
        self._count(answer)
        if answer.fate is Fate.REFUSED and isinstance(one, Submitted):
            self._start(self._refuse(delivery, taken_name(one.run_id)))
            return
        self._done(delivery, delivery.ack())

    def _count(self, answer: Received | None) -> None:
        self.counts["unwritten" if answer is None else answer.fate.value] += 1

    def _done(self, delivery: Given, said: Coroutine[None, None, None]) -> None:
        self._held.discard(delivery)
        self._inputs.more()
        self._start(said)

    async def _refuse(self, delivery: Given, error: PlanloomError) -> None:
        """Keep why a submission is refused where whoever submitted it looks, and tell it."""
        self.counts["submissions_refused"] += 1
        submission = bodies.read_submission(delivery.subject, delivery.body)
        try:
            await self._shared.refuse(submission.run_id, refusal_of(error, submission.ticket))
        except JournalError as problem:
            _log.warning("a refusal cannot be kept: %s", problem.message)
            self._done(delivery, delivery.give_back(delay_s=LATER_S))
            return
        if self._newsroom is not None:
            told = refused(submission.run_id, submission.ticket, error.to_dict(), self._clock.now())
            await self._newsroom.tell_now(told)
        self._done(delivery, delivery.ack())

    # --- what workers ask ---------------------------------------------------------------------

    async def _asked(self, message: Msg) -> None:
        try:
            one = bodies.read_asked(message.subject, message.data, self._wire, self._clock.now())
        except ProtocolError as error:
            self.counts["unreadable"] += 1
            self._answer(message.reply, bodies.answered(wanted=False, problem=f"cannot be read: {error.message}"))
            return

        def durable(answer: Received | None) -> None:
            self._count(answer)
            if answer is None or answer.fate is Fate.BROKEN:
                self._answer(message.reply, bodies.answered(wanted=False, problem=NOT_NOW))
                return
            is_wanted = answer.fate is Fate.TAKEN
            self._answer(message.reply, bodies.answered(wanted=is_wanted, problem=answer.problem))

        self._turnstile.put(Waiting(one, durable))

    def _answer(self, reply: str, body: bytes) -> None:
        if reply:
            self._start(self._link.publish(reply, body))

    # --- commands that nobody may be given any more -------------------------------------------

    def _died(self, delivery: Delivery) -> None:
        self._start(self._bury(delivery))

    async def _bury(self, delivery: Delivery) -> None:
        """Say that a command's attempt is lost, and take it out of the stream, which would keep it for ever."""
        dead = await dead_command(self._link, delivery.body)
        if dead is None:
            await delivery.ack()
            return
        self.counts["dead_letters"] += 1
        try:
            run_id, key, token = bodies.attempt_of_command(dead.body)
        except ProtocolError as error:
            _log.warning("a dead command cannot be read: %s", error.message)
            await commands.bury(self._link, dead.sequence)
            await delivery.ack()
            return
        why = f"it was given to {dead.deliveries} workers, and none of them answered"

        def done(answer: Received | None) -> None:
            if answer is None:
                self._start(delivery.give_back(delay_s=LATER_S))
            else:
                self._start(self._buried(delivery, dead.sequence))

        self._turnstile.put(Waiting(Lost(run_id, key, token, why), done=done))

    async def _buried(self, delivery: Delivery, sequence: int) -> None:
        await commands.bury(self._link, sequence)
        await delivery.ack()


async def _heard(work: Coroutine[None, None, None]) -> None:
    """Do something about a message; where the broker is away, the message comes again."""
    try:
        await work
    except (BrokerError, JetStreamError) as error:
        _log.debug("a message is left: %s", error.message)
