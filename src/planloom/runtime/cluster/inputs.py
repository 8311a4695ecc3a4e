"""What comes in for a run of the cluster, and what became of it.

Rule 1: an input may come twice, late, or after others that were said later; whoever decides finds that out.
Rule 2: an input about an attempt names it and has its token; without that token it speaks for nobody.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from planloom.core.events import ApprovalAnswered, CancelRequested, PauseRequested, RunResumed, StepResolved
from planloom.plan.frozen import frozen

if TYPE_CHECKING:
    from planloom.core.events import Fact, RunStarted
    from planloom.journal.postgres.work import WorkKey


SIGNALS: dict[str, type] = {
    "approve": ApprovalAnswered,
    "resolve": StepResolved,
    "cancel": CancelRequested,
    "pause": PauseRequested,
    "resume": RunResumed,
}
"""What people may say to a run, by the name under which they say it; nothing else is theirs to say."""


class Fate(StrEnum):
    """What became of an input. One that RESTS, or that found its run BROKEN, is to be brought again, later."""

    TAKEN = "taken"
    """It is on record, or was already."""
    STALE = "stale"
    """It speaks for an attempt that is over, that is another's, or that there never was."""
    NOT_WANTED = "not_wanted"
    """It says nothing to this run, or not any more."""
    REFUSED = "refused"
    """It may not be said by whoever said it."""
    RESTS = "rests"
    """It cannot be taken in yet."""
    BROKEN = "broken"
    """Nothing can be taken in: the run's record is damaged, or we have a bug."""


@frozen
class Received:
    """What became of one input.

    Attributes:
        problem: Why it was refused, for whoever said it.
    """

    fate: Fate
    problem: str = ""


TAKEN = Received(Fate.TAKEN)
STALE = Received(Fate.STALE)
NOT_WANTED = Received(Fate.NOT_WANTED)
RESTS = Received(Fate.RESTS)


@frozen
class Submitted:
    """A run is to begin; the fact is checked, and its `request` names the submission."""

    run_id: str
    started: RunStarted


@frozen
class Stated:
    """What an attempt came to, or says of itself on the way.

    Attributes:
        fact: As it was read; whether a worker may say it is looked at when it is taken in.
        ends: It is to be what the attempt came to, and not a note.
        capability: For which whoever says so may speak; "": for any.
    """

    run_id: str
    key: WorkKey
    token: str
    fact: Fact
    ends: bool
    capability: str = ""


@frozen
class Claimed:
    """A worker asks whether it may begin an attempt.

    Attributes:
        worker: Names the worker and this one delivery to it.
        again: The attempt was delivered to somebody before, who did not answer.
        capability: For which whoever asks may speak; "": for any.
    """

    run_id: str
    key: WorkKey
    token: str
    worker: str
    again: bool
    capability: str = ""


@frozen
class Lost:
    """Nobody answers for an attempt any more.

    Attributes:
        why: For people.
        is_nowhere: It is not where it was put, so nobody can be given it; False: nobody shall be given it again.
    """

    run_id: str
    key: WorkKey
    token: str
    why: str
    is_nowhere: bool = False


@frozen
class Unsendable:
    """An attempt cannot be put where workers find it, whatever is tried."""

    run_id: str
    key: WorkKey
    token: str
    why: str


@frozen
class PersonSaid:
    """What a person says to a run."""

    run_id: str
    fact: Fact


@frozen
class Due:
    """A moment may have come for which a run waits, or somebody left something for it in the journal."""

    run_id: str


Input = Submitted | Stated | Claimed | Lost | Unsendable | PersonSaid | Due
