"""A command that a worker took: what it asks for, and how far it has come.

Rule 1: what a command says of itself counts, not the subject it came by: a server may have given that another name.
Rule 2: a token is of one sending of one attempt; whoever has it speaks for the attempt, and nobody else does.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from planloom.core.events import AttemptFailed
from planloom.errors import ProtocolError
from planloom.transport.frames import json_text

if TYPE_CHECKING:
    from planloom.plan.policy import FailureKind
    from planloom.transport.nats.puller import Delivery

VERSION = 1
USUAL_LEASE_S = 30.0
_SHORTEST_LEASE_S = 0.1


@dataclass(frozen=True, slots=True)
class Order:
    """What a command says.

    Attributes:
        run_id, step, attempt, epoch: Which attempt.
        token: What speaks for it.
        lane: Tells its run from another one of the same name.
        lease_s: Seconds after which it is somebody else's if no sign of life comes.
        needs_claim: It must be asked for once more before it is begun.
        request: The attempt, as `WireFormat.request_out` has it.
    """

    run_id: str
    step: str
    attempt: int
    epoch: int
    token: str
    lane: str
    lease_s: float
    needs_claim: bool
    request: dict[str, Any]

    @property
    def at(self) -> list[Any]:
        return [self.run_id, self.step, self.attempt, self.epoch]

    def failed(self, kind: FailureKind, why: str, now: float) -> AttemptFailed:
        return AttemptFailed(self.step, self.attempt, self.epoch, kind, why, now, now)


def read_order(body: bytes) -> Order:
    """Return what a command asks for.

    Raises:
        ProtocolError: It is no command.
    """
    try:
        told = json.loads(body.decode("utf-8", "surrogatepass"))
        run_id, step, attempt, epoch = told["at"]
        request = told["step"]
        order = Order(
            run_id,
            step,
            attempt,
            epoch,
            told["token"],
            told["lane"],
            _lease_s(told),
            bool(told["needs_claim"]),
            request,
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"this is no command: {type(error).__name__}: {error}") from error
    texts = all(isinstance(one, str) for one in (run_id, step, order.token, order.lane))
    numbers = all(type(one) is int for one in (attempt, epoch))
    if told.get("v") != VERSION or not texts or not numbers or not isinstance(request, dict) or not order.token:
        raise ProtocolError("this is no command of this version")
    return order


def _lease_s(told: dict[str, Any]) -> float:
    return max(_SHORTEST_LEASE_S, float(told.get("lease_s", USUAL_LEASE_S)))


def read_stops(body: bytes) -> list[tuple[str, str, int, int]]:
    """Return which attempts are to stop; ProtocolError if it does not say."""
    try:
        told = json.loads(body.decode("utf-8", "surrogatepass"))["at"]
        listed = told if told and isinstance(told[0], list) else [told]
        return [(str(run_id), str(step), int(attempt), int(epoch)) for run_id, step, attempt, epoch in listed]
    except (KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"this says nothing of what is to stop: {type(error).__name__}") from error


@dataclass(frozen=True, slots=True)
class Said:
    """What the bench says of an attempt.

    Attributes:
        what: "note", "record", "outcome" or "returned".
        fact: JSON.
        number: Of what waits for the answer to a "record".
    """

    what: str
    fact: str = ""
    number: int = 0


@dataclass(slots=True, eq=False)
class Taken:
    """A command from its arrival to its acknowledgement.

    Attributes:
        delivery: By which it came, the last time.
        nonce: Tells this taking of it from every other one.
        begun: It was handed to the bench.
        stopped: It is to stop.
        unwanted: Nobody has any use for it any more.
        ending: What it came to is being told.
        renew_at: When the next sign of life is due.
    """

    order: Order
    delivery: Delivery
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))
    begun: bool = False
    stopped: bool = False
    unwanted: bool = False
    ending: bool = False
    renew_at: float = 0.0
    asked: int = 0
    said: asyncio.Queue[Said] = field(default_factory=asyncio.Queue)
    """What the bench says of it, in order."""

    @property
    def place(self) -> tuple[str, str]:
        return self.order.run_id, self.order.step

    def outcome(self, fact: str) -> bytes:
        """Return what is published of its end; the fact is JSON already."""
        return self._about(f'"fact":{fact}')

    def question(self, what: str, fact: str, *, worker: str) -> bytes:
        """Return a question about it: to record or note a fact, which is JSON already, or to claim it."""
        self.asked += 1
        more = f'"redelivered":{json_text(self.delivery.deliveries > 1)}' if what == "claim" else f'"fact":{fact}'
        who = json_text(f"{worker}/{self.nonce}")
        return self._about(f'"n":{self.asked},"what":{json_text(what)},"worker":{who},{more}')

    def _about(self, more: str) -> bytes:
        at, token = json_text(self.order.at), json_text(self.order.token)
        return f'{{"v":{VERSION},"at":{at},"token":{token},{more}}}'.encode()
