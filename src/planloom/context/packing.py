"""Which pieces of text go into a budget: best first along a graph, beside the order of their own scores.

Rule 1: what is chosen never passes the budget, and nothing is chosen in part.
Rule 2: equal pieces and an equal graph give the same choice in the same order; of equals the earlier place is better.
Rule 3: taken in turns, what the scores alone find in half the budget is chosen, whatever the graph says: a wrong graph
can cost at most twice the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import chain

SEEDS = 5
"""Best pieces that a search along the graph begins with."""
PASSED_ON = 0.5
"""What a piece passes on of its priority to those one hop away."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces of text, by their places.

    Attributes:
        scores: How much each has to do with the question, 0 for nothing.
        sizes: Tokens of each.
        nodes: Where each stands in the graph; several may stand at one node, 0 hops apart.
        neighbours: The nodes one hop away from a node. Nodes at which nothing stands are walked through.
    """

    scores: Sequence[float]
    sizes: Sequence[int]
    nodes: Sequence[str]
    neighbours: Callable[[str], Iterable[str]]


def ranked(scores: Sequence[float]) -> list[int]:
    """Return all places, the best score first."""
    return sorted(range(len(scores)), key=lambda place: (-scores[place], place))


def seeds_of(scores: Sequence[float]) -> list[int]:
    """Return the places where a search begins: the best that have to do with the question at all."""
    return [place for place in ranked(scores)[:SEEDS] if scores[place] > 0]


def fitting(order: Iterable[int], sizes: Sequence[int], budget: int) -> list[int]:
    """Return each place of an order, once, that still fits when its turn comes."""
    least = min(sizes, default=0)
    found: dict[int, None] = {}
    for place in order:
        if budget < least:
            break
        if place not in found and sizes[place] <= budget:
            found[place] = None
            budget -= sizes[place]
    return list(found)


def best_first(pieces: Pieces, seeds: Iterable[int], max_hops: int, *, anchors: Iterable[str] = ()) -> Iterator[int]:
    """Yield the places within `max_hops` of where it begins, best first.

    The priority of a piece is its score, and half the priority of the piece that led to it. A node passes on what its
    best piece had, when that one's turn comes, and once more only if it is reached in fewer hops later.

    Args:
        anchors: Nodes to begin with as well; what stands there has the best of all scores added to its own.
    """
    nothing = len(pieces.nodes)  # the place of a node at which nothing stands
    standing: dict[str, list[int]] = {}
    for place, node in enumerate(pieces.nodes):
        standing.setdefault(node, []).append(place)
    score = [*pieces.scores, 0.0]
    first = max(score) or 1.0
    heap = [(-score[place], place, pieces.nodes[place], 0) for place in seeds]
    heap += [(-first - score[place], place, node, 0) for node in anchors for place in standing.get(node, (nothing,))]
    heapify(heap)
    depths: dict[str, int] = {}
    told: set[int] = {nothing}
    while heap:
        lack, place, node, depth = heappop(heap)
        if place not in told:
            told.add(place)
            yield place
        if depths.get(node, max_hops + 1) <= depth:
            continue
        depths[node] = depth
        for other in standing.get(node, ()):
            if other not in told:
                heappush(heap, (PASSED_ON * lack - score[other], other, node, depth))
        for next_node in pieces.neighbours(node) if depth < max_hops else ():
            if depths.get(next_node, max_hops + 1) > depth + 1:
                for other in standing.get(next_node, (nothing,)):
                    heappush(heap, (PASSED_ON * lack - score[other], other, next_node, depth + 1))


def along_graph(walk: Iterable[int], pieces: Pieces, budget: int) -> list[int]:
    """Return what is chosen along the graph, and by score where the graph leads no further; best first."""
    return fitting(chain(walk, ranked(pieces.scores)), pieces.sizes, budget)


def by_score(pieces: Pieces, budget: int) -> list[int]:
    """Return what is chosen by score alone, best first."""
    return fitting(ranked(pieces.scores), pieces.sizes, budget)


def found_by_score(pieces: Pieces, budget: int) -> list[int]:
    """Return the best that have to do with the question at all, up to the first that does not fit any more."""
    found = []
    for place in ranked(pieces.scores):
        budget -= pieces.sizes[place]
        if budget < 0 or pieces.scores[place] <= 0:
            break
        found.append(place)
    return found


def in_turns(walk: Iterable[int], pieces: Pieces, budget: int) -> list[int]:
    """Return what is chosen one by one along the graph and by score, in turns; in the order chosen.

    Room for what the scores alone find in half the budget (`found_by_score`) is kept from the beginning. What has
    nothing to do with the question and is not reached comes last.
    """
    order, sizes = ranked(pieces.scores), pieces.sizes
    set_aside = dict.fromkeys(found_by_score(pieces, budget // 2))
    reserved = sum(sizes[place] for place in set_aside)
    found: dict[int, None] = {}

    def takes(place: int) -> bool:
        nonlocal budget, reserved
        own = sizes[place] if place in set_aside else 0
        if place in found or sizes[place] > budget - reserved + own:
            return False
        found[place] = None
        budget -= sizes[place]
        reserved -= own
        return True

    least = min(sizes, default=0)
    sides: list[Iterator[int]] = [iter(walk), (place for place in order if pieces.scores[place] > 0)]
    while sides and budget >= least:
        sides = [side for side in sides if any(takes(place) for place in side)]
    for place in order:
        takes(place)
    return list(found)
