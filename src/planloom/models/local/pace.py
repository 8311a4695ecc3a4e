"""Does token-level speculation pay here? Tokens a second with and without it, as measured.

Rule 1: its answer never changes the text, only how fast it comes.
Rule 2: no dice: every PROBE_EVERY-th call goes the way that is not used, to see whether it still holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PROBE_EVERY = 20
FADING = 0.7
"""Weight of what was known, each time that something new is measured."""
LEAST_TOKENS = 8
"""Tokens below which a call measures nothing but noise."""


@dataclass(slots=True)
class Rate:
    """Tokens a second, the latest calls weighing most; None until measured."""

    tokens: float = 0.0
    seconds: float = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        if tokens < LEAST_TOKENS or seconds <= 0:
            return
        self.tokens = self.tokens * FADING + tokens
        self.seconds = self.seconds * FADING + seconds

    @property
    def per_s(self) -> float | None:
        return self.tokens / self.seconds if self.seconds else None


@dataclass(slots=True)
class Pace:
    """What is known of one way to speculate with one model."""

    sped: Rate = field(default_factory=Rate)
    plain: Rate = field(default_factory=Rate)
    calls: int = 0

    @property
    def speed_up(self) -> float | None:
        """Return how many times as fast it is as without, or None while one of the two is unknown."""
        sped, plain = self.sped.per_s, self.plain.per_s
        return None if sped is None or plain is None else sped / plain

    def go(self) -> bool:
        """Return whether the next call is sped up: as the measured speed-up says; first so, then not, to have one."""
        self.calls += 1
        if self.sped.per_s is None:
            return True
        if self.plain.per_s is None:
            return False
        pays = (self.speed_up or 0.0) >= 1.0
        return not pays if self.calls % PROBE_EVERY == 0 else pays
