"""Who waits for a worker, and which worker suits whom. No clock and no process: the pool acts on what is said here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.errors import WorkerError

if TYPE_CHECKING:
    from planloom.transport.worker import Offer, Seat, Worker

Fits = Callable[["Offer"], str]
"""Returns why a worker that offers this is not the one, or "" if it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Want:
    """A program that waits for a worker.

    Attributes:
        given: Takes the worker.
        failed: Takes the error when there will be none.
        until: By the event loop's clock: how long one with the labels of `prefer` is waited for, or any at all if
            none can come.
    """

    given: Callable[[Worker], None]
    failed: Callable[[WorkerError], None]
    program: str
    require: Mapping[str, str]
    prefer: Mapping[str, str]
    until: float
    fits: Fits | None = None

    def against(self, offer: Offer) -> str:
        """Return why this worker will not do, or "" if it will."""
        if not offer.has(self.require):
            wanted = ", ".join(f"{name}={value}" for name, value in self.require.items())
            return f"it is not labelled {wanted}"
        return "" if self.fits is None else self.fits(offer)

    def likes(self, labels: Mapping[str, str]) -> bool:
        """Return whether these labels are all that it requires and prefers."""
        return carries(labels, self.require) and carries(labels, self.prefer)


def carries(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in wanted.items())


def match(
    wants: Iterable[Want], idle: Sequence[Seat], could_like: Callable[[Want], bool], now: float
) -> tuple[Want, Seat] | None:
    """Return the first want that an idle worker suits, with the best such worker, or None.

    Args:
        could_like: Returns whether a worker with all the labels it prefers is there, or can be started.
    """
    there = [seat for seat in idle if not seat.is_gone]
    if not there:
        return None
    for want in wants:
        suited = [seat for seat in there if seat.offer is not None and not want.against(seat.offer)]
        liked = [seat for seat in suited if want.likes(seat.labels)]
        if not suited or (not liked and now < want.until and could_like(want)):
            continue
        # The one that became idle last: the others may get old enough to be ended.
        return want, max(liked or suited, key=lambda seat: seat.since)
    return None
