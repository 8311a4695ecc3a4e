"""A worker as the engine sees it: what it offers, the seat it sits on, and the seat lent to one program.

Rule 1: a seat is lent to one program at a time; every time it is lent there is a new `Worker`, good until given back.
Rule 2: a worker that is lost never comes back: what it still says is refused, and its process killed if it is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from planloom.errors import WorkerLostError

if TYPE_CHECKING:
    from planloom.transport.child import ChildProcess
    from planloom.transport.handshake import Hello
    from planloom.transport.link import Link

NO_LABELS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker can do.

    Attributes:
        labels: What it is labelled with, e.g. ``{"region": "eu"}``.
        capacity: Attempts it makes at the same time.
        kinds: Kinds of step it does.
        tools: SHA-256 of the tools it has and may use, by name: its allowlist.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    capacity: int = 1
    kinds: frozenset[str] = frozenset()
    tools: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, hello: Hello) -> Offer:
        return cls(hello.labels, hello.capacity, frozenset(hello.kinds), hello.tools)

    def has(self, labels: Mapping[str, str]) -> bool:
        """Return whether it carries all of these labels."""
        return all(self.labels.get(name) == value for name, value in labels.items())


class SeatState(StrEnum):
    STARTING = "starting"
    IDLE = "idle"
    LENT = "lent"
    LEAVING = "leaving"
    """It was told to go, and takes nothing more."""
    LOST = "lost"


class Seat:
    """One worker, from its start to its end.

    Attributes:
        labels: What it was started with, or says it has.
        child: Its process, if the pool started it; one that joined is somebody else's.
        worker: Whom it is lent to, or None.
        since: When it got into its state, by the event loop's clock.
        served: How many programs it was lent to.
        draining: It said that it takes nothing more.
        ended: How its process ended, or "".
        place: Which of the pool's labels it was started with.
    """

    def __init__(self, seat_id: str, labels: Mapping[str, str], token: str) -> None:
        self.id = seat_id
        self.labels = labels
        self.token = token
        self.state = SeatState.STARTING
        self.since = 0.0
        self.offer: Offer | None = None
        self.child: ChildProcess | None = None
        self.link: Link | None = None
        self.worker: Worker | None = None
        self.served = 0
        self.draining = False
        self.disconnected = False
        self.ended = ""
        self.place = 0

    @property
    def is_gone(self) -> bool:
        """Return whether it has ended or hung up, though what it said last may still be read."""
        return self.disconnected or self.ended != ""

    def turn(self, state: SeatState, now: float) -> None:
        self.state = state
        self.since = now


class Worker:
    """A worker lent to one program.

    Whoever holds it sets `on_message` and `on_lost`, and gives it back to its pool once, whatever happened.

    Attributes:
        id: Of the worker; the same each time it is lent.
        program: Whom it is lent to, for people.
        allow: Names of the tools it may use.
    """

    def __init__(self, seat: Seat, offer: Offer, program: str, on_kill: Callable[[Seat, str], None]) -> None:
        self.id = seat.id
        self.program = program
        self.offer = offer
        self.on_message: Callable[[dict[str, Any]], None] = _nobody_hears
        self.on_lost: Callable[[str], None] = _nobody_hears
        self.released = False
        self.lost: str | None = None
        """Why it is lost, or None."""
        self.seat = seat
        self._on_kill = on_kill

    @property
    def labels(self) -> Mapping[str, str]:
        return self.offer.labels

    @property
    def capacity(self) -> int:
        return self.offer.capacity

    @property
    def allow(self) -> frozenset[str]:
        return frozenset(self.offer.tools)

    @property
    def pid(self) -> int | None:
        """Return the number of its process, or None if it is not ours."""
        return None if self.seat.child is None else self.seat.child.pid

    def send(self, message: dict[str, Any]) -> None:
        """Send it a message, which arrives once and in order, or the worker is lost.

        Raises:
            WorkerLostError: It is lost, or was given back.
            ProtocolError: The message is no JSON, or too long; nothing was sent.
        """
        if self.lost is not None or self.released or self.seat.link is None:
            raise WorkerLostError(f"worker {self.id} is gone", remedy="have another one provisioned", worker=self.id)
        self.seat.link.send(message)

    def kill(self, why: str) -> None:
        """End it and everything it started; nobody else gets it. `on_lost` is not called: the caller knows."""
        if self.lost is None:
            self.lost = why
            self._on_kill(self.seat, why)

    def __repr__(self) -> str:
        return f"Worker({self.id!r}, program={self.program!r}, capacity={self.capacity})"


def _nobody_hears(_: object) -> None:
    """Do nothing: whoever is lent a worker says at once who hears it."""
