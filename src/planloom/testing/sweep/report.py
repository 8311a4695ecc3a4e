"""What a sweep found: counts for those who trust it, and for each failure the one line that repeats it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from planloom.testing.sweep.findings import KINDS
from planloom.testing.sweep.point import MEANING, text_of

if TYPE_CHECKING:
    from planloom.testing.sweep.findings import CrashKind
    from planloom.testing.sweep.point import Cuts, PointKind, PointMoment

SHOWN = 20
"""Failures that a report tells at most; all of them are in it."""


@dataclass(frozen=True, slots=True)
class CrashFailure:
    """One thing that must not be.

    Attributes:
        cuts: Where the power was cut; empty: nowhere, the undisturbed run shows it already.
        kind: See `findings.KINDS`.
        repeat: The call that shows it again.
    """

    cuts: Cuts
    kind: CrashKind
    what: str
    repeat: str

    def __str__(self) -> str:
        where = text_of(self.cuts) or "undisturbed"
        return f"{where}: {self.kind}: {self.what}\n    {self.repeat}"


@dataclass(slots=True)
class CrashReport:
    """What came of stopping a run everywhere.

    Attributes:
        plan: Its name.
        points: Where it was stopped, with how many outcomes nobody knew then, so that somebody had to look.
        seconds: How long the sweep took.
    """

    plan: str
    points: dict[Cuts, int] = field(default_factory=dict)
    failures: list[CrashFailure] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def lost(self) -> int:
        """Return how many findings say that something is not there any more."""
        return self._count("lost")

    @property
    def doubled(self) -> int:
        """Return how many findings say that something was done again."""
        return self._count("doubled")

    @property
    def unknown(self) -> int:
        return sum(self.points.values())

    def _count(self, kind: CrashKind) -> int:
        return sum(failure.kind == kind for failure in self.failures)

    def check(self) -> None:
        """Raise AssertionError with the whole report if anything failed."""
        if self.failures:
            raise AssertionError(str(self))

    def summary(self) -> str:
        """Return the counts in one line."""
        return (
            f"{self.plan}: {len(self.points)} points, {self.lost} lost, {self.doubled} doubled, "
            f"{self.unknown} outcomes unknown, {len(self.failures)} failures, {self.seconds:.1f} s"
        )

    def __str__(self) -> str:
        lines = [self.summary(), "", f"{'stopped':<16}{'points':>7}{'unknown':>9}{'failures':>10}"]
        failed = Counter(_at(failure.cuts) for failure in self.failures if failure.cuts)
        points = Counter(map(_at, self.points))
        unknown: Counter[tuple[PointKind, PointMoment]] = Counter()
        for cuts, count in self.points.items():
            unknown[_at(cuts)] += count
        for at in MEANING:
            if points[at]:
                name = f"{at[1]} {at[0]}"
                lines.append(f"{name:<16}{points[at]:>7}{unknown[at]:>9}{failed[at]:>10}")
        for kind, meaning in KINDS.items():
            if self._count(kind):
                lines.append(f"\n{self._count(kind)} × {kind}: {meaning}")
        lines += ["", *map(str, self.failures[:SHOWN])] if self.failures else []
        if len(self.failures) > SHOWN:
            lines.append(f"and {len(self.failures) - SHOWN} more in `failures`")
        return "\n".join(lines)


def _at(cuts: Cuts) -> tuple[PointKind, PointMoment]:
    return cuts[-1].kind, cuts[-1].moment
