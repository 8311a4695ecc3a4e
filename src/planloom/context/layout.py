"""Where each piece of a prompt stands, in tokens, and which pieces it may read: `SegmentLayout`.

Rule 1: SINK (instructions, read by all, reads SINK only), then CHUNK (a piece of a document), then READER (question,
summary token and answer: reads everything, read by READER only). Nothing in the middle both reads and is read by all:
in two layers everything would leak through it.
Rule 2: allowed(q, k) = k <= q and (k in a SINK, or q in a READER, or both in one segment, or in two chunks that the
policy's hops allow). A limit of hops holds for each layer: L layers reach L times as far.
Rule 3: a token at or past `n` is READER, so an answer under way needs no new layout.
Rule 4: nothing here grows with tokens squared: a row is one int, a bit for each segment.
Rule 5: `reader_scope` and `anchors` leave passages out where a prompt is composed; here they mask nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from planloom.context.blocks import bit_runs, tables_of
from planloom.context.near import near_of
from planloom.errors import ConfigError
from planloom.plan.gasa import GasaPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planloom.context.blocks import BlockTables
    from planloom.context.near import HopGraph
    from planloom.core.chat import Material

MOST_TOKENS = 2**31 - 1
"""Tables for kernels hold 32-bit numbers."""


class SegmentKind(StrEnum):
    SINK = "sink"
    CHUNK = "chunk"
    READER = "reader"


_ORDER = tuple(SegmentKind)


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt.

    Attributes:
        length: Its tokens; may be 0.
        node: What it is called in the graph; None for what is no document.
    """

    kind: SegmentKind
    length: int
    node: str | None = None


@dataclass(frozen=True)
class SegmentLayout:
    """A prompt's segments and who reads whom. Two that are equal mask alike, whatever the text is.

    Attributes:
        segments: In the order of the prompt.
        near: For each segment, the earlier chunks that it may read by the graph, with how many hops away each is; empty
            for SINK and READER.

    Raises:
        ConfigError: Segments out of order, or hops to what is no earlier chunk.
    """

    segments: tuple[Segment, ...]
    near: tuple[dict[int, int], ...]
    policy: GasaPolicy

    def __post_init__(self) -> None:
        _check_segments(self.segments)
        _check_near(self.segments, self.near)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Return for each segment the place after its last token."""
        return tuple(accumulate(segment.length for segment in self.segments))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        return (0, *self.ends[:-1]) if self.segments else ()

    @property
    def n(self) -> int:
        """Return how many tokens there are."""
        return self.ends[-1] if self.segments else 0

    @cached_property
    def kinds(self) -> tuple[SegmentKind, ...]:
        return tuple(segment.kind for segment in self.segments)

    @cached_property
    def nodes(self) -> tuple[str | None, ...]:
        return tuple(segment.node for segment in self.segments)

    @cached_property
    def chunks(self) -> tuple[int, ...]:
        """Return the places of the chunks among the segments."""
        return tuple(at for at, kind in enumerate(self.kinds) if kind is SegmentKind.CHUNK)

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Return for each segment which segments it reads, as a bit mask: itself, and earlier ones."""
        sinks = sum(1 << at for at, kind in enumerate(self.kinds) if kind is SegmentKind.SINK)
        rows = []
        for at, kind in enumerate(self.kinds):
            upto = (1 << (at + 1)) - 1
            if kind is SegmentKind.READER:
                rows.append(upto)
            elif kind is SegmentKind.SINK:
                rows.append(sinks & upto)
            else:
                rows.append(sinks | 1 << at | _bits(self.near[at]))
        return tuple(rows)

    def hops(self, q: int, k: int) -> int:
        """Return how many hops segment q reads across to see segment k, 0 where no graph is asked; -1: it does not."""
        if not 0 <= k <= q < len(self.segments) or not self.rows[q] >> k & 1:
            return -1
        return self.near[q].get(k, 0)

    def reads(self, q: int) -> tuple[tuple[int, int], ...]:
        """Return which tokens before segment q all of its tokens read, as (start, end), touching ranges as one."""
        ranges: list[tuple[int, int]] = []
        for first, after in bit_runs(self.rows[q] & ~(1 << q)):
            start, end = self.starts[first], self.ends[after - 1]
            if ranges and ranges[-1][1] == start:
                start = ranges.pop()[0]
            if end > start:
                ranges.append((start, end))
        return tuple(ranges)

    def block_tables(self, block_size: int | None = None) -> BlockTables:
        """Return which blocks there is anything to compute in; `block_size` in tokens, None: the policy's."""
        reading = []
        for at, (start, end) in enumerate(zip(self.starts, self.ends, strict=True)):
            ranges = self.reads(at)
            joined = bool(ranges) and ranges[-1][1] == start
            own = (*ranges[:-1], (ranges[-1][0], end)) if joined else (*ranges, (start, end))
            reading.append((start, end, own))
        return tables_of(reading, block_size or self.policy.block_size)

    @cached_property
    def allowed_pairs(self) -> int:
        """Return how many pairs of tokens (q, k), k <= q, are computed."""
        pairs = 0
        for at, segment in enumerate(self.segments):
            before = sum(end - start for start, end in self.reads(at))
            pairs += segment.length * before + segment.length * (segment.length + 1) // 2
        return pairs

    @property
    def dense_pairs(self) -> int:
        """Return how many pairs there are without a mask."""
        return self.n * (self.n + 1) // 2

    @property
    def pair_fraction(self) -> float:
        return self.allowed_pairs / self.dense_pairs if self.n else 1.0

    def spans(self) -> tuple[tuple[int, int, str | None], ...]:
        """Return (start, end, node) of each segment, in tokens: which token is of which document."""
        return tuple(zip(self.starts, self.ends, self.nodes, strict=True))

    def segment_at(self, token: int) -> int:
        """Return the segment of a token; the number of segments for one past the end, which is READER."""
        return next((at for at, end in enumerate(self.ends) if token < end), len(self.segments))

    def positions(self) -> tuple[int, ...]:
        """Return the position id of each token: 0, 1, 2, …; or each chunk right after the SINK (`positions`)."""
        if self.policy.positions == "global":
            return tuple(range(self.n))
        sink = sum(segment.length for segment in self.segments if segment.kind is SegmentKind.SINK)
        longest = max((self.segments[at].length for at in self.chunks), default=0)
        found: list[int] = list(range(sink))
        reader = sink + longest
        for segment in self.segments:
            if segment.kind is SegmentKind.CHUNK:
                found.extend(range(sink, sink + segment.length))
            elif segment.kind is SegmentKind.READER:
                found.extend(range(reader, reader + segment.length))
                reader += segment.length
        return tuple(found)

    def grown(self, n: int) -> SegmentLayout:
        """Return the layout of at least `n` tokens: what is more is READER."""
        if n <= self.n:
            return self
        more = Segment(SegmentKind.READER, n - self.n)
        return SegmentLayout((*self.segments, more), (*self.near, {}), self.policy)

    def within(self, max_hops: int) -> SegmentLayout:
        """Return the layout in which a chunk reads no farther than this; -1: nothing but the SINK and itself."""
        near = tuple({other: away for other, away in row.items() if away <= max_hops} for row in self.near)
        return SegmentLayout(self.segments, near, self.policy)

    def without_mask(self) -> SegmentLayout:
        """Return the layout in which every token reads all before it: chunks become READER and keep their nodes."""
        kinds = [SegmentKind.READER if kind is SegmentKind.CHUNK else kind for kind in self.kinds]
        segments = tuple(Segment(kind, one.length, one.node) for kind, one in zip(kinds, self.segments, strict=True))
        return SegmentLayout(segments, ({},) * len(segments), self.policy)

    def key(self, block_size: int | None = None) -> str:
        """Return what a mask made of this is kept by: everything that makes it differ, and never the text."""
        policy = self.policy
        soft, strict = policy.mask_strategy == "soft", policy.hop_mode == "strict"
        told = {
            "lengths": [segment.length for segment in self.segments],
            "kinds": self.kinds,
            "rows": [f"{row:x}" for row in self.rows],
            "hops": [sorted(row.items()) for row in self.near] if soft or strict else None,
            "soft_bias": policy.soft_bias if soft else None,
            "block_size": block_size or policy.block_size,
            "hop_mode": policy.hop_mode,
        }
        return hashlib.sha256(json.dumps(told, separators=(",", ":")).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the layout as JSON; `from_dict` gives an equal one back."""
        return {
            "segments": [[segment.kind.value, segment.length, segment.node] for segment in self.segments],
            "near": [sorted(map(list, row.items())) for row in self.near],
            "policy": self.policy.model_dump(mode="json"),
        }

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> SegmentLayout:
        """Return the layout of `to_dict`.

        Raises:
            ConfigError: It is no layout.
        """
        try:
            segments = tuple(Segment(SegmentKind(kind), length, node) for kind, length, node in told["segments"])
            near = tuple(dict(row) for row in told["near"])
            policy = GasaPolicy.model_validate(told["policy"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"this is no layout: {error}", remedy="give what SegmentLayout.to_dict made") from error
        return cls(segments, near, policy)


def build_layout(
    segments: Sequence[Segment],
    graph: HopGraph | None,
    policy: GasaPolicy,
    *,
    documents: Sequence[str | None] | None = None,
) -> SegmentLayout:
    """Return the layout of these segments, whose chunks read each other along the graph.

    Args:
        documents: The document of each segment; None: each node is a document.
    """
    chunks = [at for at, segment in enumerate(segments) if segment.kind is SegmentKind.CHUNK]
    nodes = [segments[at].node for at in chunks]
    of = nodes if documents is None else [documents[at] for at in chunks]
    found = near_of(nodes, of, graph, policy).near
    near: list[dict[int, int]] = [{} for _ in segments]
    for at, row in zip(chunks, found, strict=True):
        near[at] = {chunks[place]: away for place, away in row.items() if chunks[place] < at}
    return SegmentLayout(tuple(segments), tuple(near), policy)


def layout_of(material: Material, lengths: Sequence[int], sink: int, reader: int | Sequence[int]) -> SegmentLayout:
    """Return the layout of a call's documents.

    Args:
        material: Whose passages stand in this order.
        lengths: Tokens of each passage.
        sink: Tokens before the passages.
        reader: Tokens after them, of each segment where there are several, e.g. a summary token and the question.
    """
    if len(lengths) != len(material.passages) or len(material.near) != len(material.passages):
        raise ConfigError(
            f"{len(material.passages)} passages, {len(lengths)} lengths and {len(material.near)} rows of neighbours",
            remedy="give one of each for every passage",
        )
    sinks = [Segment(SegmentKind.SINK, sink)] if sink else []
    chunks = [
        Segment(SegmentKind.CHUNK, length, passage.node)
        for passage, length in zip(material.passages, lengths, strict=True)
    ]
    after = [reader] if isinstance(reader, int) else list(reader)
    readers = [Segment(SegmentKind.READER, length) for length in after if length]
    first = len(sinks)
    near = [
        {first + other: away for other, away in row.items() if other < place} for place, row in enumerate(material.near)
    ]
    segments = (*sinks, *chunks, *readers)
    return SegmentLayout(segments, (*[{}] * first, *near, *[{}] * len(readers)), material.policy)


def _bits(places: dict[int, int]) -> int:
    bits = 0
    for place in places:
        bits |= 1 << place
    return bits


def _check_segments(segments: tuple[Segment, ...]) -> None:
    ranks = [_ORDER.index(segment.kind) for segment in segments]
    if ranks != sorted(ranks):
        kinds = ", ".join(segment.kind.value for segment in segments[:20])
        raise ConfigError(
            f"segments out of order: {kinds}", remedy="put sink segments first, then chunks, then reader segments"
        )
    lengths = [segment.length for segment in segments]
    if any(type(length) is not int or length < 0 for length in lengths) or sum(lengths) > MOST_TOKENS:
        raise ConfigError(
            f"lengths of segments are not tokens: {lengths[:20]}", remedy="give whole numbers from 0, in all below 2^31"
        )
    if any(not isinstance(segment.node, str | None) for segment in segments):
        raise ConfigError("a segment's node is no text", remedy="give what the node is called in the graph, or None")


def _check_near(segments: tuple[Segment, ...], near: tuple[dict[int, int], ...]) -> None:
    if len(near) != len(segments):
        raise ConfigError(
            f"{len(segments)} segments and {len(near)} rows of neighbours", remedy="give one row for each segment"
        )
    chunks = {at for at, segment in enumerate(segments) if segment.kind is SegmentKind.CHUNK}
    for at, row in enumerate(near):
        wrong = [
            other for other, away in row.items() if other not in chunks or other >= at or not _is_hops(other, away)
        ]
        if wrong or (row and at not in chunks):
            raise ConfigError(
                f"segment {at} cannot read {(wrong or list(row))[:10]} along the graph",
                remedy="a chunk reads chunks before it, 0 to 64 hops away",
            )


def _is_hops(other: object, away: object) -> bool:
    return type(other) is type(away) is int and 0 <= away <= 64
