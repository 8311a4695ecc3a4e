"""What judging an answer comes to.

Rule 1: a verdict is valid only because something said so: an error is never a pass.
Rule 2: JSON both in and out, so that it can go on record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from planloom.core.result import Usage

_NO_SCORES: Mapping[str, float] = {}


@dataclass(frozen=True, slots=True)
class Check:
    """What one validator says of an answer.

    Attributes:
        feedback: What is wrong and what would be right, for whoever makes the next answer; may be "" if it passed.
    """

    name: str
    passed: bool
    feedback: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "passed": self.passed, "feedback": self.feedback}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether an answer is good enough, and why.

    Attributes:
        feedback: What is wrong with it, or what speaks for it.
        score: 0 to 1; None where nothing was scored.
        error: Why it could not be judged; then it is not valid.
        dimension_scores: Of a judge: 0 to 1 by dimension of its rubric.
        usage: Tokens of the calls that judging took; for `self_consistency` of the samples made for it.
        checks: Which validators said what.
    """

    is_valid: bool
    feedback: str
    strategy: str
    score: float | None = None
    error: str | None = None
    dimension_scores: Mapping[str, float] = field(default_factory=lambda: _NO_SCORES)
    critique: str = ""
    suggestions: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)
    checks: tuple[Check, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON."""
        return {
            "is_valid": self.is_valid,
            "feedback": self.feedback,
            "strategy": self.strategy,
            "score": self.score,
            "error": self.error,
            "dimension_scores": dict(self.dimension_scores),
            "critique": self.critique,
            "suggestions": list(self.suggestions),
            "usage": self.usage.to_dict(),
            "checks": [check.to_dict() for check in self.checks],
        }
