"""Does a draft pay? What the earlier drafts of a step came to decides whether its next attempt is drafted.

Rule 1: kept in memory and nowhere else, as long as whoever holds the `AcceptanceGate`: an engine, or a
`SpeculativeExecutor`. Nothing of it goes on record; after a restart it is learnt anew.
Rule 2: bounded: of the templates used last, MAX_TEMPLATES.
Rule 3: no dice: of the calls that are held back, every PROBE_EVERY-th is drafted all the same, to see if times changed.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from math import inf

MAX_TEMPLATES = 1_000
PROBE_EVERY = 20


@dataclass(slots=True)
class Mean:
    """A running mean; None until there is something to be the mean of."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass(slots=True)
class Drafts:
    """What is known of one step template with one draft model.

    Attributes:
        hits, misses: Drafts that were of use and that were not; a share of one where only part of it was.
        held_back: Calls that were not drafted because it did not pay.
        answer_tokens: Of the answers, whoever gave them.
        target_s: Seconds that the step's own model takes without a draft.
    """

    hits: float = 0.0
    misses: float = 0.0
    held_back: int = 0
    answer_tokens: Mean = field(default_factory=Mean)
    draft_s: Mean = field(default_factory=Mean)
    judge_s: Mean = field(default_factory=Mean)
    target_s: Mean = field(default_factory=Mean)

    @property
    def mean(self) -> float:
        """Return the mean of the Beta posterior of a draft being of use, from a uniform prior."""
        return (self.hits + 1) / (self.hits + self.misses + 2)

    def observe(self, accepted: float) -> None:
        """Take note of one draft: 1 it was of use, 0 it was not."""
        self.hits += accepted
        self.misses += 1 - accepted

    def go(self, break_even: float) -> bool:
        """Return whether to draft the next call, and count it if not."""
        if self.hits + self.misses == 0 or self.mean >= break_even:
            return True
        self.held_back += 1
        return self.held_back % PROBE_EVERY == 0

    @property
    def latency_share(self) -> float | None:
        """Return the seconds of draft and judge by those of the step's own model, once measured."""
        draft_s, target_s = self.draft_s.value, self.target_s.value
        if draft_s is None or not target_s:
            return None
        return (draft_s + (self.judge_s.value or 0.0)) / target_s


class AcceptanceGate:
    """`Drafts` by template; safe to share by all attempts of one event loop."""

    def __init__(self, *, size: int = MAX_TEMPLATES) -> None:
        self._size = size
        self._known: OrderedDict[str, Drafts] = OrderedDict()

    def of(self, template: str) -> Drafts:
        """Return what is known of a template, nothing at first."""
        found = self._known.setdefault(template, Drafts())
        self._known.move_to_end(template)
        while len(self._known) > self._size:
            self._known.popitem(last=False)
        return found


def break_even(policy: str, *, latency: float | None, cost: float | None, weight: float) -> float:
    """Return the share of accepted drafts from which on drafting pays.

    With a the share of accepted drafts, l and c what draft and judge take of the step's own model, and w the weight of
    time against money: a cascade saves a - l of the time and a - c of the money, and pays once w(a-l) + (1-w)(a-c) > 0.
    Hedged saves a(1-l) of the time and, as stopped calls may be billed, none of the c of the money it costs more.
    A prediction can only cost more, so it pays by time alone: a - l.

    Args:
        policy: "cascade", "hedged" or "predicted".
        latency: l, or None where it is not measured yet: then it decides nothing.
        cost: c, or None where a price is unknown: then it decides nothing.
        weight: w, 0 to 1: `SpeculatePolicy.latency_weight`.
    """
    if policy == "predicted":
        return latency or 0.0
    if policy == "cascade":
        known = [(share, w) for share, w in ((latency, weight), (cost, 1 - weight)) if share is not None and w > 0]
        total = sum(w for _, w in known)
        return sum(share * w for share, w in known) / total if total else 0.0
    saved = weight * (1 - min(1.0, latency or 0.0))
    spent = (1 - weight) * (cost or 0.0)
    if saved > 0:
        return spent / saved
    return 0.0 if latency is None and not spent else inf
