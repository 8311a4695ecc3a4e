"""What the laws of a record are, and what is said when one is broken."""

from __future__ import annotations

from dataclasses import dataclass, field

LAWS: dict[str, str] = {
    "I1": "what is on record stays: numbered without gaps, begun once, each event because of an earlier one",
    "I2": "a reported result never changes",
    "I3": "nothing that may be done only once is done twice",
    "I4": "nothing starts before what it waits for is on record, nor where another one has its place",
    "I5": "what has ended has ended, and nothing starts in what stops or rests",
    "I6": "what is used and set aside never passes a limit",
    "I7": "a run ends with all its steps, as they ended, or names what it waits for",
    "I8": "a map has the items it was to have: done, failed and skipped make its width",
    "order": "attempts, engines and waits follow one another, and time does not go back",
    "record": "the record can be read",
}
"""Law → what it says. I1 to I8 are those of the design; the other two are checked beside them."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One place where a record breaks a law.

    Attributes:
        law: One of LAWS.
        seq: Number of the event that breaks it; of the last one, where something is missing.
        step: Key of the step it is about, "" for the run.
        what: A sentence.
    """

    law: str
    seq: int
    step: str
    what: str

    def __str__(self) -> str:
        about = f" {self.step}:" if self.step else ""
        return f"{self.law} at event {self.seq}:{about} {self.what}"


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """One call that a tool says was made of it.

    Attributes:
        key: The idempotency key it was given.
    """

    step: str
    attempt: int
    key: str
    tool: str
    run: str = ""


@dataclass(slots=True)
class Findings:
    """What was looked at, and what was found.

    Attributes:
        violations: In the order of the record.
        counted: By law, how many of what were looked at, e.g. ``{"I3": {"once attempts": 12}}``.
    """

    violations: list[Violation] = field(default_factory=list)
    counted: dict[str, dict[str, int]] = field(default_factory=dict)

    def accuse(self, law: str, seq: int, step: str, what: str) -> None:
        self.violations.append(Violation(law, seq, step, what))

    def count(self, law: str, what: str, number: int = 1) -> None:
        kinds = self.counted.setdefault(law, {})
        kinds[what] = kinds.get(what, 0) + number
