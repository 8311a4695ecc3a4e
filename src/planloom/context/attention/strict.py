"""A limit of hops that holds for the whole model, however many layers it has: encoding in rounds.

Rule 1: in round 0 every chunk is encoded alone, over the SINK. In round r it is encoded anew over its neighbours as
they were in earlier rounds: over a neighbour d hops away as it was in round r - d, and over one of its own document, or
that the graph does not know, as it was in round r - 1. The READER reads the last round.
Rule 2: so what a chunk holds after round r comes from chunks at most r hops away, through however many layers; and all
that are that near, and stand before it, are in it, also where no chunk stands on the path between.
Rule 3: a round that changes nothing for a chunk costs nothing: its key is that of the round before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planloom.context.attention.encodings import EncodingPlan, Planned, places_before_reader
from planloom.context.layout import SegmentKind, SegmentLayout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planloom.context.attention.kv_keys import Maker

ALONE = -1


def rounds_of(layout: SegmentLayout) -> int:
    """Return how many rounds there are after round 0."""
    farthest = max((max(away, 1) for row in layout.near for away in row.values()), default=0)
    return max(layout.policy.max_hops, 1) if farthest else 0


def in_rounds(layout: SegmentLayout, ids: Sequence[int], maker: Maker) -> EncodingPlan:
    """Return the plan of `hop_mode` strict."""
    planned = Planned(layout, ids, maker)
    places = places_before_reader(layout)
    sinks: list[int] = []
    versions: dict[int, list[int]] = {}
    for place in places:
        is_sink = layout.kinds[place] is SegmentKind.SINK
        at = planned.add(place, sinks)
        if is_sink:
            sinks.append(at)
        else:
            versions[place] = [at]
    rounds = rounds_of(layout)
    for number in range(1, rounds + 1):
        for place, so_far in versions.items():
            reads = _reads(layout.near[place], versions, number)
            changed = planned.encodings[so_far[-1]].reads != (*sinks, *reads)
            so_far.append(planned.add(place, (*sinks, *reads), first=False) if changed else so_far[-1])
    last = (*sinks, *(so_far[rounds] for so_far in versions.values()))
    return EncodingPlan(tuple(planned.encodings), last, layout.within(ALONE), rounds)


def _reads(near: dict[int, int], versions: dict[int, list[int]], number: int) -> list[int]:
    """Return what a chunk reads in this round: its neighbours, in order, each as old as it is far."""
    steps = {other: max(away, 1) for other, away in sorted(near.items()) if other in versions}
    return [versions[other][number - away] for other, away in steps.items() if away <= number]
