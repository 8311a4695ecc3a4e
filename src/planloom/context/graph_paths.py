"""The ways from one node to another, shortest first: Yen's algorithm in Lawler's form, over hops.

Rule 1: a way visits no node twice.
Rule 2: each way costs a few breadth-first searches, however many there are beside it: nothing is tried in vain, so a
dense graph cannot make it explode.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from heapq import heappop, heappush

from planloom.context.graph_search import Links

Path = tuple[str, ...]


def shortest_paths(
    src: str, dst: str, max_hops: int, limit: int, forth: Sequence[Links], back: Sequence[Links]
) -> list[Path]:
    """Return at most `limit` ways of at most `max_hops` hops; of equally long ones the first by their ids.

    Args:
        forth, back: From a node to those one hop after it, and before it.
    """
    first = _shortest((src,), dst, frozenset(), max_hops, forth, back)
    waiting: list[tuple[int, Path, int, frozenset[str]]] = []
    if first:
        heappush(waiting, (len(first), first, 0, frozenset()))
    found: list[Path] = []
    while waiting and len(found) < limit:
        _, path, turn, barred = heappop(waiting)
        found.append(path)
        # What remains of the ways this one stood for: those that leave it at one of its nodes.
        for place in range(turn, len(path) - 1):
            bars = (barred if place == turn else frozenset()) | {path[place + 1]}
            other = _shortest(path[: place + 1], dst, bars, max_hops, forth, back)
            if other:
                heappush(waiting, (len(other), other, place, bars))
    return found


def _shortest(
    root: Path, dst: str, barred: AbstractSet[str], max_hops: int, forth: Sequence[Links], back: Sequence[Links]
) -> Path:
    """Return the shortest way that begins with `root` and does not go on to `barred`; () where there is none."""
    if root[-1] == dst:
        return root if not barred else ()
    away = {dst: 0}
    taken = set(root)
    frontier = {dst}
    firsts = _around((root[-1],), forth) - barred - taken
    for hop in range(1, max_hops - len(root) + 2):
        if not firsts.isdisjoint(frontier):
            break
        frontier = _around(frontier, back).difference(away, taken)
        if not frontier:
            return ()
        away |= dict.fromkeys(frontier, hop)
    path = list(root)
    nexts = firsts & frontier
    while nexts:
        path.append(min(nexts))
        wanted = away[path[-1]] - 1
        nexts = {node for node in _around(path[-1:], forth) if away.get(node) == wanted}
    return tuple(path) if path[-1] == dst and len(path) <= max_hops + 1 else ()


def _around(nodes: Iterable[str], links: Sequence[Links]) -> set[str]:
    return set().union(*(side.get(node, ()) for side in links for node in nodes))
