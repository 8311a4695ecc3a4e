"""What `planloom doctor` found: each thing looked at, how it stands, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    OK = "ok"
    HINT = "hint"
    """Works without it."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        remedy: The command or the change that mends it; "" where nothing has to be.
    """

    about: str
    verdict: Grade
    words: str
    remedy: str = ""
