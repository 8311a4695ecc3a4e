"""Chance, by a seed: what is drawn depends on what it is drawn for, never on what was drawn before."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any


@dataclass(frozen=True, slots=True)
class Dice:
    """All chance of one seed."""

    seed: int

    def of(self, *what: Any) -> Random:
        """Return chance of its own for something; the same something, the same chance."""
        return Random(f"{self.seed} {what}")

    def share(self, *what: Any) -> float:
        """Return a number from 0 to 1; cheaper than `of` where one is enough."""
        return int.from_bytes(blake2b(f"{self.seed} {what}".encode(), digest_size=6).digest()) / 2**48
