"""What a worker tells of its attempts: its questions, and what they came to.

Rule 1: an outcome is told until the broker has it; only then is its command acknowledged.
Rule 2: what an attempt says is told in the order in which it says it, each thing after the one before was answered.
Rule 3: a question nobody answers is asked again, in the same words: whoever answered it before answers alike.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.errors import BrokerError, JetStreamError
from planloom.plan.policy import FailureKind
from planloom.transport.frames import json_text
from planloom.transport.nats import subjects

if TYPE_CHECKING:
    from planloom.transport.nats.link import BrokerLink
    from planloom.transport.nats.taken import Taken
    from planloom.transport.wire import WireFormat

_log = logging.getLogger("planloom.cluster")

AGAIN_S = 0.2
MAX_AGAIN_S = 2.0
ANSWER_S = 3.0
"""Seconds to wait for one answer, before it is asked again."""
ROOM_BYTES = 1024
"""For what a message holds besides its body."""


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """What a question was answered; `problem` is why it could not be done, or ""."""

    wanted: bool
    problem: str = ""


class Telling:
    """Tells of the attempts of one capability's worker."""

    def __init__(self, link: BrokerLink, wire: WireFormat, capability: str, worker: str) -> None:
        self._link = link
        self._wire = wire
        self._capability = capability
        self._worker = worker

    async def claim(self, taken: Taken) -> bool:
        """Return whether it may be begun here; asked until somebody says."""
        body = taken.question("claim", "", worker=self._worker)
        wait_s = AGAIN_S
        while not taken.stopped:
            answer = await self._asked(taken, body)
            if answer is not None and not (answer.problem and not answer.wanted):
                return answer.wanted
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, MAX_AGAIN_S)
        return True  # it is not begun all the same: it is answered for here

    async def say(self, taken: Taken, what: str, fact: str) -> AgentAnswer:
        """Have a fact recorded ("record") or noted ("note"); asked until somebody says, or it is to stop."""
        body = taken.question(what, fact, worker=self._worker)
        wait_s = AGAIN_S
        while True:
            answer = await self._asked(taken, body)
            if answer is not None and (answer.wanted or not answer.problem):
                return answer
            if taken.stopped or taken.unwanted:
                return AgentAnswer(wanted=False, problem="" if answer is None else answer.problem)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, MAX_AGAIN_S)

    async def _asked(self, taken: Taken, body: bytes) -> AgentAnswer | None:
        """Return the answer; None if there is none."""
        order = taken.order
        subject = subjects.ask(self._capability, order.run_id, order.step, order.attempt, order.epoch)
        try:
            told = json.loads(await self._link.request(subject, body, timeout_s=ANSWER_S))
            return AgentAnswer(bool(told["wanted"]), str(told.get("problem", "")))
        except BrokerError as error:
            _log.debug("worker.unanswered step=%s because=%s", order.step, error.message)
        except (ValueError, KeyError, TypeError, AttributeError):
            _log.warning("worker.answer_unreadable step=%s", order.step)
        return None

    async def end(self, taken: Taken, fact: str) -> None:
        """Tell what an attempt came to until the broker has it, and acknowledge its command then."""
        order = taken.order
        subject = subjects.outcome(self._capability, order.run_id, order.step, order.attempt, order.epoch)
        body, wait_s, tried = taken.outcome(fact), AGAIN_S, 0
        while True:
            if len(body) + ROOM_BYTES > self._link.max_payload:
                body = self._too_large(taken, len(body))
            tried += 1
            try:
                await self._link.store(subject, body, msg_id=f"{order.token}.{taken.nonce}", timeout_s=ANSWER_S)
                break
            except JetStreamError as error:  # there is no room, or it refuses: what else could be done with it?
                level = logging.WARNING if tried == 1 else logging.DEBUG
                _log.log(level, "worker.outcome_not_taken step=%s because=%s", order.step, error.message)
            except BrokerError as error:
                _log.debug("worker.outcome_unheard step=%s because=%s", order.step, error.message)
            if not self._link.is_up:
                await self._link.up()
            else:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, MAX_AGAIN_S)
        await self.done(taken)

    def _too_large(self, taken: Taken, size_bytes: int) -> bytes:
        """Return an outcome in place of one that is larger than the broker takes by now."""
        why = f"its outcome has {size_bytes} bytes; the cluster's broker takes {self._link.max_payload}"
        now = time.time()
        return taken.outcome(json_text(self._wire.fact_out(taken.order.failed(FailureKind.OUTPUT, why, now))))

    async def done(self, taken: Taken) -> None:
        """Acknowledge a command; one that the broker does not hear of comes again, and is answered alike."""
        try:
            await taken.delivery.ack()
        except BrokerError as error:
            _log.debug("worker.ack_unheard step=%s because=%s", taken.order.step, error.message)
