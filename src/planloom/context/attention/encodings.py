"""What has to be encoded for a prompt, in what order, and by what key each piece is kept: `Encoding`.

Rule 1: an encoding is a segment read once through the model; what it reads stands before it in the plan.
Rule 2: two encodings with one key are the same keys and values, whatever the hop mode: what differs is in the key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.context.attention.kv_keys import Maker, Read
from planloom.context.layout import SegmentKind, SegmentLayout

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Encoding:
    """One segment, read once.

    Attributes:
        place: Which segment.
        position: Of its first token.
        reads: Which encodings it reads besides itself, by their place in the plan, in the order of the prompt.
        first: Whether it can be done in one pass with all others that are so.
    """

    place: int
    key: str
    position: int
    reads: tuple[int, ...]
    first: bool


@dataclass(frozen=True, slots=True)
class EncodingPlan:
    """All encodings of a prompt.

    Attributes:
        encodings: Each after what it reads.
        last: Of each segment before the READER, in order, the encoding that the READER reads.
        together: Who reads whom in the pass over those that are `first`.
        rounds: How often a chunk is encoded anew over its neighbours.
    """

    encodings: tuple[Encoding, ...]
    last: tuple[int, ...]
    together: SegmentLayout
    rounds: int = 0


class Planned:
    """Encodings that are being put in order."""

    def __init__(self, layout: SegmentLayout, ids: Sequence[int], maker: Maker) -> None:
        self.layout = layout
        self.encodings: list[Encoding] = []
        self._ids = ids
        self._maker = maker
        self._positions = layout.positions()

    def add(self, place: int, reads: Sequence[int], *, first: bool = True) -> int:
        """Return where in the plan this encoding stands; in front of it stands what it reads."""
        start, end = self.layout.starts[place], self.layout.ends[place]
        position = self._positions[start]
        read = [self._read(place, self.encodings[at]) for at in reads]
        key = self._maker.key(self._ids[start:end], position, read)
        self.encodings.append(Encoding(place, key, position, tuple(reads), first))
        return len(self.encodings) - 1

    def _read(self, place: int, other: Encoding) -> Read:
        return Read(other.key, other.position, self.layout.hops(place, other.place))


def places_before_reader(layout: SegmentLayout) -> list[int]:
    """Return the segments that hold something and that no READER is."""
    solid = [at for at, segment in enumerate(layout.segments) if segment.length]
    return [at for at in solid if layout.kinds[at] is not SegmentKind.READER]


def layered(layout: SegmentLayout, ids: Sequence[int], maker: Maker) -> EncodingPlan:
    """Return the plan in which each segment is encoded once over all that it reads (`hop_mode` layered)."""
    planned = Planned(layout, ids, maker)
    found: dict[int, int] = {}
    for place in places_before_reader(layout):
        reads = [found[other] for other in found if layout.rows[place] >> other & 1]
        found[place] = planned.add(place, reads)
    return EncodingPlan(tuple(planned.encodings), tuple(found.values()), layout)
