"""Where the boxes of a layered graph go, and how its edges run between them.

The usual three passes: give every box a level, order each level so that few edges cross, then place the boxes so that
edges are short and long ones straight. Works on plain sizes and edges, so anything with steps can be drawn.

Rule 1: the same graph always gives the same picture: no dice, no iteration over sets.
Rule 2: bounded work: past the caps below the picture gets plainer, never slower.
Rule 3: a graph with a circle is still drawn (its closing edge runs upwards); refusing it is somebody else's job.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING

from planloom.observe.packing import islands_of, shelved

if TYPE_CHECKING:
    from collections.abc import Sequence

Edge = tuple[int, int]
Point = tuple[float, float]

MAX_VERTICES = 6_000
"""Boxes plus bends; past it, edges over more than one level are drawn without bends of their own."""
CAREFUL_VERTICES = 400
"""Up to here neighbours are also swapped one by one, which removes the crossings that sweeping leaves."""
BEND_WIDTH = 12.0
STRAIGHTNESS = {0: 1.0, 1: 2.0, 2: 8.0}
"""How hard an edge pulls its ends into line, by how many of them are bends (Gansner et al. 1993, section 4.1)."""


@dataclass(frozen=True, slots=True)
class Place:
    """A box: its upper left corner and its size, in pixels."""

    x: float
    y: float
    width: float
    height: float
    level: int

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height


@dataclass(frozen=True, slots=True)
class Layout:
    """Places in the order of the sizes given, routes in the order of the edges given.

    A route is pairs of points, one pair for each level: where it begins or enters, and where it leaves or ends.
    Within a pair it runs straight down, from pair to pair it bends.
    """

    width: float
    height: float
    places: tuple[Place, ...]
    routes: tuple[tuple[Point, ...], ...]


def levels_of(count: int, edges: Sequence[Edge], *, max_per_level: int | None = None) -> list[int]:
    """Return each box's level: one below the lowest box it depends on, or further down where a level is full.

    Args:
        count: Boxes, numbered from 0.
        edges: (from, to); an edge to itself counts for nothing.
        max_per_level: Boxes a level may hold, or None for any number.
    """
    downstream: list[list[int]] = [[] for _ in range(count)]
    unmet = [0] * count
    for source, target in edges:
        if source != target:
            downstream[source].append(target)
            unmet[target] += 1
    levels = [0] * count
    used: dict[int, int] = {}
    first_free = [0]
    ready = [(0, box) for box in range(count) if unmet[box] == 0]
    heapify(ready)
    placed = [False] * count
    stuck_from = 0
    for _ in range(count):
        if not ready:  # only a circle is left: open it at its first box
            stuck_from = next(box for box in range(stuck_from, count) if not placed[box])
            ready.append((levels[stuck_from], stuck_from))
        _, box = heappop(ready)
        placed[box] = True
        levels[box] = _level_with_room(levels[box], used, first_free, max_per_level)
        for target in downstream[box]:
            if placed[target]:
                continue
            levels[target] = max(levels[target], levels[box] + 1)
            unmet[target] -= 1
            if unmet[target] == 0:
                heappush(ready, (levels[target], target))
    return levels


def _level_with_room(level: int, used: dict[int, int], first_free: list[int], room: int | None) -> int:
    if room is None:
        return level
    level = max(level, first_free[0])
    while used.get(level, 0) >= room:
        level += 1
    used[level] = used.get(level, 0) + 1
    while used.get(first_free[0], 0) >= room:
        first_free[0] += 1
    return level


def layered(
    sizes: Sequence[tuple[float, float]],
    edges: Sequence[Edge],
    *,
    gap_x: float = 28.0,
    gap_y: float = 44.0,
    max_per_level: int | None = None,
) -> Layout:
    """Place boxes of these (width, height) in levels from top to bottom, and route the edges.

    Boxes that no path connects are laid out on their own and set side by side.

    Args:
        sizes: Width and height of each box, pixels.
        edges: (from, to) box numbers; an edge from a box to itself gets an empty route.
        gap_x: Least space between boxes of a level, pixels.
        gap_y: Least space between levels, pixels; more where many edges cross.
        max_per_level: Boxes a level may hold, or None for any number.
    """
    if not sizes:
        return Layout(0.0, 0.0, (), ())
    islands = islands_of(len(sizes), edges)
    at = {box: (island, place) for island, boxes in enumerate(islands) for place, box in enumerate(boxes)}
    own_edges: list[list[int]] = [[] for _ in islands]
    for number, (source, _) in enumerate(edges):
        own_edges[at[source][0]].append(number)
    drawn = [
        _one_island(
            [sizes[box] for box in boxes],
            [(at[edges[number][0]][1], at[edges[number][1]][1]) for number in numbers],
            gap_x=gap_x,
            gap_y=gap_y,
            max_per_level=max_per_level,
        )
        for boxes, numbers in zip(islands, own_edges, strict=True)
    ]
    corners = shelved([(layout.width, layout.height) for layout in drawn], gap_x, gap_y)
    places: list[Place | None] = [None] * len(sizes)
    routes: list[tuple[Point, ...]] = [()] * len(edges)
    for layout, boxes, numbers, (x, y) in zip(drawn, islands, own_edges, corners, strict=True):
        for box, place in zip(boxes, layout.places, strict=True):
            places[box] = Place(place.x + x, place.y + y, place.width, place.height, place.level)
        for number, route in zip(numbers, layout.routes, strict=True):
            routes[number] = tuple((px + x, py + y) for px, py in route)
    return Layout(
        width=max(x + layout.width for layout, (x, _) in zip(drawn, corners, strict=True)),
        height=max(y + layout.height for layout, (_, y) in zip(drawn, corners, strict=True)),
        places=tuple(place for place in places if place is not None),
        routes=tuple(routes),
    )


def _one_island(
    sizes: Sequence[tuple[float, float]],
    edges: Sequence[Edge],
    *,
    gap_x: float,
    gap_y: float,
    max_per_level: int | None,
) -> Layout:
    levels = levels_of(len(sizes), edges, max_per_level=max_per_level)
    web = _Web(sizes, edges, levels)
    web.reduce_crossings()
    middles = web.middles(gap_x)
    tops, heights = web.level_rows(gap_y)
    places = tuple(
        Place(middles[box] - width / 2, tops[level] + (heights[level] - height) / 2, width, height, level)
        for box, ((width, height), level) in enumerate(zip(sizes, levels, strict=True))
    )
    rows = [(top, top + height) for top, height in zip(tops, heights, strict=True)]
    return Layout(
        width=max(*middles, *(place.x + place.width for place in places)),
        height=tops[-1] + heights[-1],
        places=places,
        routes=_routes(edges, web.chains, places, middles, levels, rows),
    )


class _Web:
    """Boxes and bends (the places where a long edge passes a level) with the short edges between them."""

    def __init__(self, sizes: Sequence[tuple[float, float]], edges: Sequence[Edge], levels: Sequence[int]) -> None:
        self.boxes = len(sizes)
        self.widths = [width for width, _ in sizes]
        self.heights = [height for _, height in sizes]
        self.level = list(levels)
        self.chains: list[tuple[int, ...]] = []
        """For each edge its vertices from end to end; without bends where it runs up or there are too many."""
        spans = sum(max(0, levels[target] - levels[source] - 1) for source, target in edges)
        bends_fit = self.boxes + spans <= MAX_VERTICES
        for source, target in edges:
            self.chains.append(self._chain(source, target, with_bends=bends_fit))
        count = len(self.level)
        self.above: list[list[int]] = [[] for _ in range(count)]
        self.below: list[list[int]] = [[] for _ in range(count)]
        for chain in self.chains:
            for upper, lower in pairwise(chain):
                if self.level[lower] == self.level[upper] + 1:
                    self.below[upper].append(lower)
                    self.above[lower].append(upper)
        self.rows: list[list[int]] = [[] for _ in range(max(self.level) + 1)]
        for vertex in range(count):
            self.rows[self.level[vertex]].append(vertex)

    def _chain(self, source: int, target: int, *, with_bends: bool) -> tuple[int, ...]:
        if not with_bends:
            return (source, target)
        bends = range(self.level[source] + 1, self.level[target])
        first = len(self.level)
        for level in bends:
            self.level.append(level)
            self.widths.append(BEND_WIDTH)
            self.heights.append(0.0)
        return (source, *range(first, first + len(bends)), target)

    # --- the order within each level

    def reduce_crossings(self) -> None:
        """Sweep down and up, each vertex to the mean place of its neighbours; keep the best order seen."""
        best = [list(row) for row in self.rows]
        fewest = self._crossings()
        sweeps = 12 if len(self.level) <= 2_000 else 6
        for sweep in range(sweeps):
            if fewest == 0:
                break
            down = sweep % 2 == 0
            neighbours = self.above if down else self.below
            rows = self.rows[1:] if down else self.rows[-2::-1]
            position = self._positions()
            for row in rows:
                self._sort_row(row, neighbours, position)
            if len(self.level) <= CAREFUL_VERTICES:
                self._swap_neighbours(position)
            crossings = self._crossings()
            if crossings < fewest:
                fewest, best = crossings, [list(row) for row in self.rows]
        self.rows = best

    def _positions(self) -> list[int]:
        position = [0] * len(self.level)
        for row in self.rows:
            for place, vertex in enumerate(row):
                position[vertex] = place
        return position

    @staticmethod
    def _sort_row(row: list[int], neighbours: list[list[int]], position: list[int]) -> None:
        def mean(vertex: int) -> float:
            near = neighbours[vertex]
            return sum(position[other] for other in near) / len(near) if near else float(position[vertex])

        row.sort(key=mean)
        for place, vertex in enumerate(row):
            position[vertex] = place

    def _swap_neighbours(self, position: list[int]) -> None:
        for row in self.rows:
            for place in range(len(row) - 1):
                left, right = row[place], row[place + 1]
                gain = sum(
                    _pair_crossings(side[left], side[right], position)
                    - _pair_crossings(side[right], side[left], position)
                    for side in (self.above, self.below)
                )
                if gain > 0:
                    row[place], row[place + 1] = right, left
                    position[left], position[right] = place + 1, place

    def _crossings(self) -> int:
        """Count pairs of edges that cross, by insertion into a sorted list of the ends seen so far."""
        position = self._positions()
        total = 0
        for row in self.rows:
            seen: list[int] = []
            for vertex in row:
                ends = sorted(position[lower] for lower in self.below[vertex])
                total += sum(len(seen) - bisect_right(seen, end) for end in ends)
                if ends:
                    seen = sorted(seen + ends)
        return total

    # --- the place within each level

    def middles(self, gap_x: float) -> list[float]:
        """Return each vertex's x: as near its neighbours as order and gaps allow, the leftmost box at 0."""
        x = [0.0] * len(self.level)
        gaps = [self._gaps(row, gap_x) for row in self.rows]
        for row, row_gaps in zip(self.rows, gaps, strict=True):
            at = -sum(row_gaps) / 2
            for vertex, gap in zip(row, (*row_gaps, 0.0), strict=True):
                x[vertex] = at
                at += gap
        both = [up + down for up, down in zip(self.above, self.below, strict=True)]
        rounds = 8 if len(self.level) <= 2_000 else 3
        passes = [self.above, self.below] * rounds + [both] * 4
        for turn, neighbours in enumerate(passes):
            rows = range(len(self.rows)) if turn % 2 == 0 else range(len(self.rows) - 1, -1, -1)
            for index in rows:
                self._settle(self.rows[index], gaps[index], neighbours, x)
        left = min(*x, *(x[box] - self.widths[box] / 2 for box in range(self.boxes)))
        return [value - left for value in x]

    def _gaps(self, row: list[int], gap_x: float) -> list[float]:
        return [
            (self.widths[left] + self.widths[right]) / 2 + (gap_x if left < self.boxes or right < self.boxes else 4.0)
            for left, right in pairwise(row)
        ]

    def _settle(self, row: list[int], gaps: list[float], neighbours: list[list[int]], x: list[float]) -> None:
        wanted, weights = [], []
        for vertex in row:
            bend = vertex >= self.boxes
            pull, moment = 0.0, 0.0
            for other in neighbours[vertex]:
                force = STRAIGHTNESS[bend + (other >= self.boxes)]
                pull += force
                moment += force * x[other]
            wanted.append(moment / pull if pull else x[vertex])
            weights.append(pull or 0.05)
        for vertex, value in zip(row, spread(wanted, weights, gaps), strict=True):
            x[vertex] = value

    def level_rows(self, gap_y: float) -> tuple[list[float], list[float]]:
        """Return the top and height of each level; levels with many edges between them stand further apart."""
        heights = [max((self.heights[vertex] for vertex in row), default=0.0) for row in self.rows]
        tops, at = [], 0.0
        for row, height in zip(self.rows, heights, strict=True):
            tops.append(at)
            edges = sum(len(self.below[vertex]) for vertex in row)
            at += height + gap_y + min(gap_y * 1.5, max(0, edges - 6) * 1.5)
        return tops, heights


def _pair_crossings(left: list[int], right: list[int], position: list[int]) -> int:
    return sum(position[a] > position[b] for a in left for b in right)


def spread(wanted: Sequence[float], weights: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """Return the x nearest to `wanted` (weighted least squares) with at least `gaps[i]` between x[i] and x[i+1].

    With the gaps taken off this is isotonic regression, which pooling neighbours that are out of order solves exactly.
    """
    offsets = [0.0]
    for gap in gaps:
        offsets.append(offsets[-1] + gap)
    pools: list[tuple[float, float, int]] = []  # mean, weight, vertices
    for want, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, mass, size = want - offset, weight, 1
        while pools and pools[-1][0] > mean:
            other_mean, other_mass, other_size = pools.pop()
            mean = (mean * mass + other_mean * other_mass) / (mass + other_mass)
            mass += other_mass
            size += other_size
        pools.append((mean, mass, size))
    means = [mean for mean, _, size in pools for _ in range(size)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _routes(
    edges: Sequence[Edge],
    chains: Sequence[tuple[int, ...]],
    places: Sequence[Place],
    middles: Sequence[float],
    levels: Sequence[int],
    rows: Sequence[tuple[float, float]],
) -> tuple[tuple[Point, ...], ...]:
    starts = _ports(places, [(chain[0], middles[chain[1]], edge) for edge, chain in enumerate(chains)])
    ends = _ports(places, [(chain[-1], middles[chain[-2]], edge) for edge, chain in enumerate(chains)])
    routes: list[tuple[Point, ...]] = []
    for edge, (source, target) in enumerate(edges):
        if source == target:
            routes.append(())
            continue
        points: list[Point] = [(starts[edge], places[source].bottom), (starts[edge], rows[levels[source]][1])]
        for step, bend in enumerate(chains[edge][1:-1], levels[source] + 1):
            top, bottom = rows[step]
            points += [(middles[bend], top), (middles[bend], bottom)]
        points += [(ends[edge], rows[levels[target]][0]), (ends[edge], places[target].y)]
        routes.append(tuple(points))
    return tuple(routes)


def _ports(places: Sequence[Place], ends: list[tuple[int, float, int]]) -> dict[int, float]:
    """Return for each edge where on its box's side it meets the box: side by side, in the order they come from."""
    by_box: dict[int, list[tuple[float, int]]] = {}
    for box, toward, edge in ends:
        by_box.setdefault(box, []).append((toward, edge))
    ports: dict[int, float] = {}
    for box, wanted in by_box.items():
        wanted.sort()
        room = max(0.0, places[box].width - 36.0)
        pitch = min(18.0, room / max(1, len(wanted) - 1))
        first = places[box].middle - pitch * (len(wanted) - 1) / 2
        for place, (_, edge) in enumerate(wanted):
            ports[edge] = first + place * pitch
    return ports
