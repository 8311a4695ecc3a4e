"""What speculation saved or cost, in one form for every policy.

Rule 1: one formula: ``speculative_efficiency = 1 - verify_steps / output_tokens``, not clamped: a cascade whose draft
is rejected is below zero, by the judge's tokens. It is no speed: `speedup_est` is told beside it.
Rule 2: unknown is None, never zero; what was not done at all took 0 s and cost 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculated:
    """How one answer came about.

    Attributes:
        policy: Which policy the call was made with; "plain" where `auto` found none.
        lossless: Whether this answer is the verify model's own: what it would have said without a draft.
        accepted: Whether the draft, or part of it, became the answer.
        judge_score: 0 to 9; None where no judge gave one.
        draft_tokens: Output tokens of the draft.
        accepted_tokens: How many of them became the answer.
        drafts: Pieces the draft came in; at response level one.
        verify_steps: Sequential decode steps of the verify model on the way to this answer.
        output_tokens: Tokens of the answer.
        draft_s, verify_s, judge_s, wall_s: Seconds; side by side they add up to more than `wall_s`.
        baseline_est_s: Seconds the verify model alone would have taken, as far as can be told.
        draft_cost, verify_cost: US dollars; the judge is part of `verify_cost`.
        wasted_tokens, wasted_cost: Of what came to nothing: rejected drafts with their judging, stopped calls, rejected
            predictions.
        fallback_reason: Why the verify model answered, where a draft might have.
    """

    policy: str
    lossless: bool = True
    accepted: bool = False
    judge_score: int | None = None
    draft_tokens: int = 0
    accepted_tokens: int = 0
    drafts: int = 0
    verify_steps: int = 0
    output_tokens: int = 0
    draft_s: float = 0.0
    verify_s: float = 0.0
    judge_s: float = 0.0
    wall_s: float = 0.0
    baseline_est_s: float | None = None
    draft_cost: float | None = 0.0
    verify_cost: float | None = 0.0
    wasted_tokens: int = 0
    wasted_cost: float | None = 0.0
    fallback_reason: str | None = None

    @property
    def speculative_efficiency(self) -> float:
        return 1 - self.verify_steps / self.output_tokens if self.output_tokens else 0.0

    @property
    def acceptance_rate(self) -> float:
        return self.accepted_tokens / self.draft_tokens if self.draft_tokens else 0.0

    @property
    def mean_accept_len(self) -> float:
        """Return the accepted tokens of a piece, on average."""
        return self.accepted_tokens / self.drafts if self.drafts else 0.0

    @property
    def speedup_est(self) -> float | None:
        return self.baseline_est_s / self.wall_s if self.baseline_est_s is not None and self.wall_s > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        told = {name: getattr(self, name) for name in self.__slots__ if name != "drafts"}
        for name in ("speculative_efficiency", "acceptance_rate", "mean_accept_len", "speedup_est"):
            told[name] = getattr(self, name)
        return told
