"""Random layouts for tests, and what each pair of tokens may do, written again from the definition.

Rule 1: the graph, the hops and who may read whom share no code with `context/layout.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch

from planloom.context.layout import Segment, SegmentKind, SegmentLayout
from planloom.plan.gasa import GasaPolicy

FAR = 10**6


@dataclass(frozen=True)
class Drawn:
    """A layout, and the graph it was made from: `distance[a][b]` of its chunks, by number."""

    layout: SegmentLayout
    distance: list[list[int]]

    def bias(self) -> torch.Tensor:
        """Return what is added to the score of every pair of tokens; minus infinity: not read."""
        layout, policy = self.layout, self.layout.policy
        fall = policy.soft_bias if policy.mask_strategy == "soft" else 0.0
        of = [at for at, segment in enumerate(layout.segments) for _ in range(segment.length)]
        first = sum(segment.kind is SegmentKind.SINK for segment in layout.segments)
        bias = torch.full((len(of), len(of)), float("-inf"))
        for q, here in enumerate(of):
            for k, there in enumerate(of[: q + 1]):
                kinds = layout.segments[here].kind, layout.segments[there].kind
                if kinds[1] is SegmentKind.SINK or kinds[0] is SegmentKind.READER or here == there:
                    bias[q, k] = 0.0
                elif kinds == (SegmentKind.CHUNK, SegmentKind.CHUNK):
                    away = self.distance[here - first][there - first]
                    if away <= policy.max_hops:
                        bias[q, k] = -fall * away
        return bias


def draw(
    seed: int,
    *,
    chunks: tuple[int, int] = (1, 8),
    tokens: tuple[int, int] = (0, 12),
    sinks: tuple[int, int] = (0, 2),
    readers: tuple[int, int] = (0, 2),
    policy: GasaPolicy | None = None,
) -> Drawn:
    """Return a random layout over a random graph; ranges are (least, most)."""
    drawn = Random(seed)
    count = drawn.randint(*chunks)
    edges = [(a, b) for a in range(count) for b in range(a) if drawn.random() < drawn.choice((0.1, 0.3, 0.8))]
    policy = policy or GasaPolicy(
        max_hops=drawn.randint(0, 3),
        mask_strategy=drawn.choice(("binary", "soft")),
        soft_bias=drawn.choice((0.5, 1.0)),
        block_size=16,
    )
    distance = distances(count, edges)
    segments = [
        *(Segment(SegmentKind.SINK, drawn.randint(*tokens)) for _ in range(drawn.randint(*sinks))),
        *(Segment(SegmentKind.CHUNK, drawn.randint(*tokens), f"n{at}") for at in range(count)),
        *(Segment(SegmentKind.READER, drawn.randint(*tokens)) for _ in range(drawn.randint(*readers))),
    ]
    if not any(segment.length for segment in segments):
        segments.append(Segment(SegmentKind.READER, 3))
    return Drawn(layout_over(segments, distance, policy), distance)


def chain(lengths: list[int], *, sink: int = 4, reader: int = 6, policy: GasaPolicy) -> SegmentLayout:
    """Return the layout of chunks in a row, each depending on the one before it."""
    edges = [(at, at - 1) for at in range(1, len(lengths))]
    return joined(lengths, edges, sink=sink, reader=reader, policy=policy)


def joined(
    lengths: list[int], edges: list[tuple[int, int]], *, sink: int = 4, reader: int = 6, policy: GasaPolicy
) -> SegmentLayout:
    """Return the layout of chunks over a graph of these edges."""
    segments = [
        Segment(SegmentKind.SINK, sink),
        *(Segment(SegmentKind.CHUNK, length, f"n{at}") for at, length in enumerate(lengths)),
        Segment(SegmentKind.READER, reader),
    ]
    return layout_over(segments, distances(len(lengths), edges), policy)


def complete(lengths: list[int], *, sink: int = 4, reader: int = 6, policy: GasaPolicy | None = None) -> SegmentLayout:
    """Return the layout of chunks that all depend on each other."""
    edges = [(a, b) for a in range(len(lengths)) for b in range(a)]
    return joined(lengths, edges, sink=sink, reader=reader, policy=policy or GasaPolicy(max_hops=1))


def layout_over(segments: list[Segment], distance: list[list[int]], policy: GasaPolicy) -> SegmentLayout:
    places = [at for at, segment in enumerate(segments) if segment.kind is SegmentKind.CHUNK]
    near: list[dict[int, int]] = [{} for _ in segments]
    for mine, at in enumerate(places):
        near[at] = {
            there: distance[mine][other]
            for other, there in enumerate(places[:mine])
            if distance[mine][other] <= policy.max_hops
        }
    return SegmentLayout(tuple(segments), tuple(near), policy)


def distances(count: int, edges: list[tuple[int, int]]) -> list[list[int]]:
    """Return the hops between any two, whichever way the edges point; `FAR` where there is no way."""
    away = [[0 if a == b else FAR for b in range(count)] for a in range(count)]
    for a, b in edges:
        away[a][b] = away[b][a] = 1
    for via in range(count):
        for a in range(count):
            for b in range(count):
                away[a][b] = min(away[a][b], away[a][via] + away[via][b])
    return away
