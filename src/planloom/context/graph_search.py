"""Searches over named nodes: how far, in what order, in which parts, along which ways.

Rule 1: `links` are mappings from a node to those one hop away; several are read as if they were one.
Rule 2: no recursion along the graph: a chain of 100,000 nodes is a graph like any other.
Rule 3: equal graphs give equal answers, in whatever order they were built: ties go by id.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import compress

Links = Mapping[str, Collection[str]]

_AS_FLAGS = bytes.maketrans(b"01", b"\x00\x01")


def hops_from(start: str, max_hops: int, *links: Links) -> dict[str, int]:
    """Return each node within `max_hops` of one, and how far it is; itself is 0 away."""
    found = {start: 0}
    frontier: Collection[str] = (start,)
    for hop in range(1, max_hops + 1):
        frontier = set().union(*(side.get(node, ()) for side in links for node in frontier)).difference(found)
        if not frontier:
            break
        found |= dict.fromkeys(frontier, hop)
    return found


def hop_rows(nodes: Sequence[str], max_hops: int, *links: Links) -> list[dict[int, int]]:
    """Return for each place in `nodes` the places within `max_hops` of it, itself included, and how far each is.

    A set of places is one integer, a bit for each, and goes along all edges at once: the work does not grow with how
    much of the graph each node reaches.
    """
    places: dict[str, int] = {}
    for place, node in enumerate(nodes):
        places[node] = places.get(node, 0) | 1 << place
    around = {node: set().union(*(side.get(node, ()) for side in links)) for node in within(places, max_hops, links)}
    reached = {node: places.get(node, 0) for node in around}
    rows: dict[str, dict[int, int]] = {node: dict.fromkeys(_places_of(bits), 0) for node, bits in places.items()}
    for hop in range(1, max_hops + 1):
        before, reached = reached, {}
        for node, bits in before.items():
            for other in around[node]:
                bits |= before.get(other, 0)  # noqa: PLW2901 - it is gathered here
            reached[node] = bits
        if reached == before:
            break
        for node, row in rows.items():
            row.update(dict.fromkeys(_places_of(reached[node] ^ before[node]), hop))
    return [dict(rows[node]) for node in nodes]


def within(nodes: Iterable[str], max_hops: int, links: Sequence[Links]) -> set[str]:
    """Return every node within `max_hops` of any of some."""
    found = set(nodes)
    frontier = set(found)
    for _ in range(max_hops):
        frontier = set().union(*(side.get(node, ()) for side in links for node in frontier)) - found
        if not frontier:
            break
        found |= frontier
    return found


def _places_of(bits: int) -> Iterable[int]:
    if bits.bit_count() * 16 < bits.bit_length():  # few of many: one by one is sooner done than a look at each
        places = []
        while bits:
            lowest = bits & -bits
            places.append(lowest.bit_length() - 1)
            bits ^= lowest
        return places
    flags = bin(bits)[:1:-1].encode().translate(_AS_FLAGS)
    return compress(range(len(flags)), flags)


def topological(ids: Iterable[str], dependencies: Links) -> list[str]:
    """Return `ids`, each once, dependencies first; the lowest id first among those that could go next.

    What depends on what is followed through nodes that are not asked for. Nodes that depend on each other, in a circle,
    stand together, by id.
    """
    asked = set(ids)
    parts = _circles(sorted(asked), dependencies)
    part_of = {node: number for number, part in enumerate(parts) for node in part}
    shown = [sorted(asked.intersection(part)) for part in parts]
    dependents: list[list[int]] = [[] for _ in parts]
    unmet = [0] * len(parts)
    for number, part in enumerate(parts):
        below = {part_of[other] for node in part for other in dependencies.get(node, ())} - {number}
        unmet[number] = len(below)
        for other_part in below:
            dependents[other_part].append(number)
    # What is not asked for goes as soon as it can: it must not decide between two that are.
    ready = [(shown[number][:1], number) for number, count in enumerate(unmet) if count == 0]
    heapify(ready)
    order: list[str] = []
    while ready:
        _, number = heappop(ready)
        order += shown[number]
        for above in dependents[number]:
            unmet[above] -= 1
            if unmet[above] == 0:
                heappush(ready, (shown[above][:1], above))
    return order


def _circles(starts: Iterable[str], links: Links) -> list[list[str]]:
    """Return the strongly connected parts of what can be reached: Tarjan's algorithm, with its own stack."""
    seen_at: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_nodes: list[str] = []
    is_open: set[str] = set()
    parts: list[list[str]] = []
    for start in starts:
        walk: list[tuple[str, Iterator[str]]] = [] if start in seen_at else [(start, iter(links.get(start, ())))]
        while walk:
            node, others = walk[-1]
            if node not in seen_at:
                seen_at[node] = lowest[node] = len(seen_at)
                open_nodes.append(node)
                is_open.add(node)
            for other in others:
                if other not in seen_at:
                    walk.append((other, iter(links.get(other, ()))))
                    break
                if other in is_open:
                    lowest[node] = min(lowest[node], seen_at[other])
            else:
                walk.pop()
                if walk:
                    above = walk[-1][0]
                    lowest[above] = min(lowest[above], lowest[node])
                if lowest[node] == seen_at[node]:
                    parts.append([])
                    while not parts[-1] or parts[-1][-1] != node:
                        parts[-1].append(open_nodes.pop())
                    is_open.difference_update(parts[-1])
    return parts


def parts_of(ids: Iterable[str], *links: Links) -> list[list[str]]:
    """Return `ids` in groups: together is what any way leads between, also through nodes that are not asked for."""
    asked = set(ids)
    seen: set[str] = set()
    parts: list[list[str]] = []
    for start in sorted(asked):
        if start not in seen:
            found = within([start], sum(map(len, links)) + 1, links)
            seen |= found
            parts.append(sorted(found & asked))
    return parts
