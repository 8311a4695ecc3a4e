"""Where a process is stopped: the Nth time that it uses one of its ports, before or after.

Rule 1: points of one kind are numbered from 1, over all of a process's life, in the order in which they come.
Rule 2: `str(point)` and `Point.read` are each other's inverse, and so are `text_of` and `read_cuts`: it is what people
copy from a report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from planloom.errors import ConfigError

PointKind = Literal["write", "call", "attempt", "timer", "post"]
PointMoment = Literal["before", "after"]

MEANING: dict[tuple[PointKind, PointMoment], str] = {
    ("write", "before"): "before a write of the journal; what is not yet acknowledged is lost, too",
    ("write", "after"): "after a write, and before anybody is told of it",
    ("call", "before"): "when a tool is about to be called",
    ("call", "after"): "after a tool did what it does, and before its answer is on record",
    ("attempt", "before"): "when an attempt of a step that is no tool's is about to begin",
    ("attempt", "after"): "after that attempt, and before what it came to is on record",
    ("timer", "before"): "when a timer is about to be set",
    ("timer", "after"): "when a timer fired, and before anybody heard of it",
    ("post", "before"): "after somebody's word was read, and before it was taken in",
    ("post", "after"): "after what it led to is on record, and before it is forgotten",
}
"""Every kind of point, in the order in which they are tried."""


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One of them, e.g. ``write 17, after``."""

    kind: PointKind
    number: int
    moment: PointMoment

    def __str__(self) -> str:
        return f"{self.kind} {self.number}, {self.moment}"

    @classmethod
    def read(cls, text: str) -> Point:
        """Return the point that this is the text of.

        Raises:
            ConfigError: It is the text of none.
        """
        head, _, moment = (part.strip() for part in text.partition(","))
        kind, _, number = head.partition(" ")
        if kind in get_args(PointKind) and moment in get_args(PointMoment) and number.strip().isdecimal():
            return cls(cast("PointKind", kind), int(number), cast("PointMoment", moment))
        raise ConfigError(
            f"{text!r} is no point to stop at", remedy=f'write e.g. "write 17, after"; kinds: {", ".join(_KINDS)}'
        )


_KINDS = get_args(PointKind)
_THEN = " then "
Cuts = tuple[Point, ...]
"""Where the power is cut in the first life of a run's process, in the second, and so on."""


def text_of(cuts: Cuts) -> str:
    """Return e.g. ``call 1, before then post 1, after``."""
    return _THEN.join(map(str, cuts))


def read_cuts(text: str) -> Cuts:
    """Return the cuts that this is the text of; ConfigError if it is the text of none."""
    return tuple(Point.read(part) for part in text.split(_THEN))
