"""Who could do what somebody waits for: the workers that are here, and those that can be started.

No clock and no process: `staff.py` acts on what is said here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.transport.wants import carries
from planloom.transport.worker import Offer, Seat, SeatState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from planloom.transport.setup import WorkerSetup
    from planloom.transport.wants import Want

HERE = (SeatState.STARTING, SeatState.IDLE, SeatState.LENT)


@dataclass(frozen=True, slots=True)
class Rota:
    """How many workers there are to be, of what kind, and for how long."""

    min: int
    max: int
    label_sets: Sequence[Mapping[str, str]]
    capacity: int
    setup: WorkerSetup
    lease_s: float
    idle_s: float
    start_s: float


class Prospects:
    """Looks at the seats of a pool for whoever waits.

    Attributes:
        offers: What processes turned out to offer, by the place of their labels.
    """

    def __init__(self, rota: Rota, seats: Mapping[str, Seat]) -> None:
        self.offers: dict[int, Offer] = {}
        self._rota = rota
        self._seats = seats

    def _here(self) -> Iterator[Seat]:
        return (seat for seat in self._seats.values() if seat.state in HERE)

    def could_like(self, want: Want) -> bool:
        """Return whether a worker with everything it prefers is here, or can be started."""
        return any(want.likes(labels) for labels in self._rota.label_sets if self._rota.max) or any(
            want.likes(seat.labels) for seat in self._here()
        )

    def hopeless(self, want: Want) -> str:
        """Return why no worker there is, or can be started, will do for it; "" if one may."""
        why = "there is none, and none can be started"
        for seat in self._here():
            if seat.offer is None:
                if carries(seat.labels, want.require):
                    return ""
                continue
            reason = want.against(seat.offer)
            if not reason:
                return ""
            why = f"worker {seat.id}: {reason}"
        for place in range(len(self._rota.label_sets) if self._rota.max else 0):
            offer = self.offers.get(place)
            reason = want.against(offer or Offer(self._rota.label_sets[place])) if offer or want.require else ""
            if offer is None and carries(self._rota.label_sets[place], want.require):
                reason = ""  # none has come in yet: what it has is not known
            if not reason:
                return ""
            why = why if why.startswith("worker") else reason
        return why

    def is_all_there_is(self, want: Want) -> bool:
        """Return whether it makes no sense to wait for somebody who joins from outside."""
        return self._rota.max > 0 and not want.require and not want.prefer

    def lack(self, tools: Iterable[str]) -> str:
        """Return which of these tools nobody has who is here or can be started, as far as that is known; else ""."""
        if not self._rota.max:
            return ""  # who comes is not ours to know
        offers = [self.offers.get(place) for place in range(len(self._rota.label_sets))]
        offers += [seat.offer for seat in self._here() if seat.state is not SeatState.STARTING]
        known = [offer for offer in offers if offer is not None]
        if len(known) < len(offers):
            return ""
        lacking = [name for name in tools if not any(name in offer.tools for offer in known)]
        return f"no worker has tool {lacking[0]!r}, or may use it" if lacking else ""

    def suits(self, want: Want, labels: Mapping[str, str], now: float) -> bool:
        """Return whether one that is started with these labels is worth waiting for."""
        return want.likes(labels) if now < want.until else carries(labels, want.require)

    def may_start(self, want: Want, place: int, now: float) -> bool:
        offer = self.offers.get(place)
        if offer is not None and want.against(offer):
            return False
        return self.suits(want, self._rota.label_sets[place], now)
