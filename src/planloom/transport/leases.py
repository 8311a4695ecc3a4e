"""Attempts on their way: who has which, and what may be said about it.

Rule 1: a lease has a random token. Only who was given it may speak for the attempt, and only until the lease ends;
whatever comes later, twice or from elsewhere changes nothing.
Rule 2: an attempt that was sent may have begun, whatever is heard of it; only one that was never sent, or that its
worker gave back, is sent again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from planloom.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    AttemptWaiting,
    CallEnded,
    CallStarted,
    CircuitChanged,
    OutputStreamed,
)
from planloom.errors import ProtocolError
from planloom.transport.plausible import check_plausible

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.core.events import Fact
    from planloom.plan.policy import FailureKind
    from planloom.ports import Deliver, Record
    from planloom.transport.worker import Worker

ENDS = (AttemptSucceeded, AttemptFailed)
"""Facts that end an attempt."""
NOTES = (OutputStreamed, AttemptWaiting, CallStarted, CallEnded, CircuitChanged)
"""Facts that an attempt may state while it is under way."""


def check_stated(fact: Fact, attempt: tuple[str, int, int], allowed: tuple[type, ...]) -> None:
    """Refuse what no worker may say of this attempt: its step, its number and its epoch.

    Raises:
        ProtocolError: A fact of another kind, or about another attempt, or one that cannot be.
    """
    if not isinstance(fact, allowed):
        raise ProtocolError(f"a worker stated a {type(fact).__name__}, which is not its to state")
    said = getattr(fact, "step", None), getattr(fact, "attempt", None), getattr(fact, "epoch", None)
    if said != attempt:
        raise ProtocolError(f"a worker that has {attempt[0]!r} spoke of {said[0]!r}")
    check_plausible(fact)


@dataclass(slots=True, eq=False)
class Errand:
    """An attempt from its submission to its fact.

    Attributes:
        stopping: It was asked to stop.
        timer: What cancels the timer that ends it if nothing else does, or None.
    """

    request: RunStep
    deliver: Deliver
    record: Record
    stopping: bool = False
    timer: Callable[[], None] | None = None

    def clear_timer(self) -> None:
        if self.timer is not None:
            self.timer()
            self.timer = None

    def failed(self, kind: FailureKind, text: str, now: float, *, abandoned: bool = False) -> AttemptFailed:
        """Return the fact of an attempt that cannot speak for itself."""
        types = ("TimeoutError", "Exception") if kind == "timeout" else ()
        request = self.request
        return AttemptFailed(
            request.key, request.attempt, request.epoch, kind, text, now, now, types, abandoned=abandoned
        )

    def check(self, fact: Fact, allowed: tuple[type, ...]) -> None:
        """Refuse what no worker may say of this attempt.

        Raises:
            ProtocolError: A fact of another kind, or about another attempt.
        """
        check_stated(fact, (self.request.key, self.request.attempt, self.request.epoch), allowed)


@dataclass(slots=True, eq=False)
class Held:
    """A worker that was lent, and what it has to do.

    Attributes:
        errands: By the token of their lease.
        since: When it last got or ended something, by the engine's clock.
        leaving: It takes nothing more.
        tainted: Something goes on in it that could not be stopped: it is killed when the rest has ended.
    """

    worker: Worker
    errands: dict[str, Errand] = field(default_factory=dict)
    since: float = 0.0
    leaving: bool = False
    tainted: bool = False

    @property
    def has_room(self) -> bool:
        return not self.leaving and not self.worker.seat.is_gone and len(self.errands) < self.worker.capacity

    def lease(self, errand: Errand) -> str:
        """Enter an attempt and return its token."""
        token = secrets.token_hex(12)
        self.errands[token] = errand
        return token

    def token_of(self, errand: Errand) -> str | None:
        return next((token for token, held in self.errands.items() if held is errand), None)

    def end(self) -> Iterator[Errand]:
        """End every lease, and yield whose it was."""
        while self.errands:
            yield self.errands.popitem()[1]
