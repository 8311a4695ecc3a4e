"""Parts of a graph that nothing connects: found, and set side by side.

Rule 1: the same parts always land in the same places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def islands_of(count: int, edges: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the sets of boxes that edges connect, each in order, ordered by their first box."""
    root = list(range(count))

    def find(box: int) -> int:
        while root[box] != box:
            root[box] = root[root[box]]
            box = root[box]
        return box

    for source, target in edges:
        one, other = find(source), find(target)
        root[max(one, other)] = min(one, other)
    found: dict[int, list[int]] = {}
    for box in range(count):
        found.setdefault(find(box), []).append(box)
    return list(found.values())


def shelved(sizes: Sequence[tuple[float, float]], gap_x: float, gap_y: float) -> list[tuple[float, float]]:
    """Return a corner for each rectangle: highest first, from left to right, in rows of about equal width."""
    area = sum((width + gap_x) * (height + gap_y) for width, height in sizes)
    room = max(*(width for width, _ in sizes), (area * 1.7) ** 0.5)
    corners: list[tuple[float, float]] = [(0.0, 0.0)] * len(sizes)
    x, y, row = 0.0, 0.0, 0.0
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index][1]):
        width, height = sizes[index]
        if x > 0 and x + width > room:
            x, y, row = 0.0, y + row + gap_y, 0.0
        corners[index] = (x, y)
        x, row = x + width + gap_x, max(row, height)
    return corners
