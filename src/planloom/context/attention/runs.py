"""Which stretches of a prompt are attended to at once: `runs_of`.

Rule 1: a run reads all of some earlier tokens and, causally, itself; so it is done without a mask of tokens.
Rule 2: neighbouring segments that read the same before them are one run: a complete graph is one run over everything,
which is plain causal attention.
Rule 3: chunks that are read across different hops stand in different groups: `soft` lowers each by its own amount.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from planloom.context.layout import SegmentKind

if TYPE_CHECKING:
    from planloom.context.layout import SegmentLayout

Span = tuple[int, int]
"""Tokens, as (start, after the last)."""


@dataclass(frozen=True, slots=True)
class Group:
    """Earlier tokens that a run reads all of.

    Attributes:
        spans: Ascending, and apart.
        bias: What is added to their scores; 0, or less in `soft`.
    """

    spans: tuple[Span, ...]
    bias: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """Queries from `start` to before `stop`: they read themselves causally, and `groups` as a whole."""

    start: int
    stop: int
    groups: tuple[Group, ...]


def runs_of(layout: SegmentLayout, start: int, stop: int) -> tuple[Stretch, ...]:
    """Return the runs of the queries from `start` to before `stop`, when there are `stop` keys.

    A prompt that comes whole has start 0; one that comes in pieces, or a token being written, starts later.
    """
    layout = layout.grown(stop)
    runs = []
    for first, after in _fused(layout):
        begin, end = layout.starts[first], min(layout.ends[after - 1], stop)
        if end <= max(begin, start):
            continue
        at = max(begin, start)
        # A run that began earlier has its beginning among the keys.
        spans = [*_earlier(layout, first), *([(begin, at, 0.0)] if at > begin else [])]
        runs.append(Stretch(at, end, _grouped(spans)))
    return tuple(runs)


def reader_start(layout: SegmentLayout) -> int:
    """Return the first token from which on every one reads all before it."""
    return next((layout.starts[at] for at, kind in enumerate(layout.kinds) if kind is SegmentKind.READER), layout.n)


def _fused(layout: SegmentLayout) -> list[Span]:
    """Return the segments, as (first, after the last) of each run; empty ones are in none."""
    solid = sum(1 << at for at, segment in enumerate(layout.segments) if segment.length)
    runs: list[Span] = []
    for at in range(len(layout.segments)):
        if not solid >> at & 1:
            continue
        if runs and _goes_on(layout, runs[-1][0], at, solid):
            runs[-1] = (runs[-1][0], at + 1)
        else:
            runs.append((at, at + 1))
    return runs


def _goes_on(layout: SegmentLayout, first: int, at: int, solid: int) -> bool:
    """Return whether segment `at` reads all from `first` on, and before it the same as `first`.

    Args:
        solid: The segments that are not empty, as bits; the others do not count.
    """
    before, here = (1 << first) - 1, (1 << (at + 1)) - (1 << first)
    if (~layout.rows[at] & here & solid) or ((layout.rows[at] ^ layout.rows[first]) & before & solid):
        return False
    if layout.policy.mask_strategy != "soft":
        return True
    mine, theirs = layout.near[at], layout.near[first]
    return all(
        mine.get(other, 0) == (theirs.get(other, 0) if other < first else 0) for other in mine.keys() | theirs.keys()
    )


def _earlier(layout: SegmentLayout, at: int) -> list[tuple[int, int, float]]:
    """Return what segment `at` reads before itself, as (start, end, bias)."""
    if layout.policy.mask_strategy != "soft" or not any(layout.near[at].values()):
        return [(start, end, 0.0) for start, end in layout.reads(at)]
    fall = layout.policy.soft_bias
    return [
        (layout.starts[other], layout.ends[other], -fall * layout.hops(at, other) or 0.0)
        for other in range(at)
        if layout.rows[at] >> other & 1 and layout.ends[other] > layout.starts[other]
    ]


def _grouped(spans: list[tuple[int, int, float]]) -> tuple[Group, ...]:
    groups = []
    for bias, members in groupby(sorted(spans, key=lambda span: (-span[2], span[0])), key=lambda span: span[2]):
        joined: list[Span] = []
        for start, end, _ in members:
            if joined and joined[-1][1] == start:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        groups.append(Group(tuple(joined), bias))
    return tuple(groups)
