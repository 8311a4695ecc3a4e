"""Several answers to one question: do most of them say the same?

Rule 1: two answers are the same if their JSON is, or their text but for case, blanks and a full stop at the end.
Rule 2: a majority is more than half of all that were asked for; what failed counts as asked and agrees with nobody.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import normalize

from planloom.errors import OutputError
from planloom.plan.values import as_json


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far answers agree.

    Attributes:
        place: Where the first answer of the largest group stands; None where there is no answer.
        votes: Size of that group.
        total: Answers that were asked for.
    """

    place: int | None
    votes: int
    total: int

    @property
    def is_majority(self) -> bool:
        return self.place is not None and self.votes * 2 > self.total

    @property
    def share(self) -> float:
        return self.votes / self.total if self.total else 0.0


def canonical(answer: Any) -> str:
    """Return one text for all answers that say the same; see rule 1.

    Raises:
        OutputError: It is no JSON.
    """
    value = as_json(answer, where="answer")
    if isinstance(value, str):
        try:
            held = as_json(json.loads(value))
        except (ValueError, RecursionError, OutputError):
            held = None
        if not isinstance(held, dict | list):
            return "text:" + " ".join(normalize("NFC", value).split()).removesuffix(".").casefold()
        value = held
    return "json:" + json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """Return JSON in which 1.0 and 1 are one number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def agreement(answers: Sequence[Any], *, total: int | None = None) -> Agreement:
    """Return how far the answers agree; of groups of one size the one that began first counts.

    Args:
        total: Answers that were asked for, if some of them failed; None: as many as there are.
    """
    groups: Counter[str] = Counter()
    first: dict[str, int] = {}
    for place, answer in enumerate(answers):
        try:
            key = canonical(answer)
        except OutputError:
            continue  # no JSON: it was asked for and agrees with nobody
        groups[key] += 1
        first.setdefault(key, place)
    asked = len(answers) if total is None else total
    if not groups:
        return Agreement(None, 0, asked)
    key, votes = groups.most_common(1)[0]
    return Agreement(first[key], votes, asked)
