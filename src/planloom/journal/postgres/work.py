"""What orchestrators and the journal tell each other of a run that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planloom.plan.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planloom.core.events import Event, Fact
    from planloom.errors import JournalError
    from planloom.ports import Recorded

WorkKey = tuple[str, int, int]
"""Step, attempt, epoch."""


@frozen
class Work:
    """An attempt that is asked for and has not answered.

    Attributes:
        token: The fence: an outcome without it is not this attempt's.
        place: Labels of the workers that may make it; "": any.
        body: JSON of the command.
        send_at: Not to be published before; seconds since the epoch, as all times here.
        sent_at: When it was published; None: not yet.
        stop_at: When it is given up; None: never.
    """

    run_id: str
    step: str
    attempt: int
    epoch: int
    token: str
    capability: str
    place: str
    body: str
    send_at: float
    sent_at: float | None = None
    claimed_by: str | None = None
    stop_at: float | None = None

    @property
    def key(self) -> WorkKey:
        return self.step, self.attempt, self.epoch


@frozen
class LockedRun:
    """What `decide` sees of a run while its row is locked.

    Attributes:
        last_seq: 0: there is no such run.
        events: Those after the ones that whoever asked knows.
        driver: "cluster", or "engine": then a process drives it alone, and nothing may be decided here.
        status: As the row of the run has it; "" for no run.
        work: All that it has outstanding.
        posted: What people left for it, oldest first, each with its number.
        problem: Why its record cannot be used; then nothing can be decided.
    """

    run_id: str
    last_seq: int
    events: list[Recorded]
    driver: str
    status: str
    work: dict[WorkKey, Work]
    posted: list[tuple[int, Fact]]
    wake_at: float | None = None
    problem: JournalError | None = None


@frozen
class Decided:
    """What follows for a run.

    Attributes:
        opened: Work to be made known; a row of the same key is replaced, unsent and unclaimed.
        closed: Work that is over.
        stopped: Work that is to be given up, and when.
        claimed: Work that a worker has begun, and who.
        wake_at: When the run has to be looked at again though nothing comes in; None: never.
        taken: Posted facts up to this number are in `events`, and are forgotten.
    """

    events: Sequence[Event] = ()
    causes: Sequence[int] = ()
    opened: Sequence[Work] = ()
    closed: Sequence[WorkKey] = ()
    stopped: Sequence[tuple[WorkKey, float]] = ()
    claimed: Sequence[tuple[WorkKey, str]] = ()
    wake_at: float | None = None
    taken: int = 0
