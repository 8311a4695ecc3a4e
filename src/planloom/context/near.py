"""Which passage may read which: hops in the dependency graph, between places in a prompt; and in what order they stand.

Rule 1: passages of one document are 0 hops apart, whatever the graph says.
Rule 2: what may be read is said without regard to who stands first; a layout leaves out what comes later.
Rule 3: a passage that the graph does not know is never cut off silently: it is dense, or isolated where the policy says
so, and counted either way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from planloom.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from planloom.plan.gasa import GasaPolicy


class HopGraph(Protocol):
    """What is asked of a graph here; `DependencyGraph` has it."""

    def __contains__(self, node: object, /) -> bool: ...

    def hop_rows(
        self, nodes: Sequence[str], max_hops: int, direction: Literal["both", "dependencies"] = "both"
    ) -> Sequence[Mapping[int, int]]:
        """Return for each place in `nodes` the places within `max_hops`, with how many hops away each is."""
        ...

    def topological(self, ids: AbstractSet[str]) -> Sequence[str]:
        """Return the nodes, dependencies first."""
        ...


@dataclass(frozen=True, slots=True)
class Near:
    """Who may read whom.

    Attributes:
        near: For each place, the other places that it may read, with how many hops away each is.
        unknown: How many documents are no node of the graph.
    """

    near: tuple[dict[int, int], ...]
    unknown: int


def near_of(
    nodes: Sequence[str | None], documents: Sequence[str | None], graph: HopGraph | None, policy: GasaPolicy
) -> Near:
    """Return who may read whom among passages that stand in this order.

    Args:
        nodes: What each passage is called in the graph. One that is no node there stands where its document stands.
        documents: The document that each passage is of; None: of none but itself.
        graph: None: nobody knows any of them.
        policy: `max_hops`, `direction` and `unknown_nodes` are obeyed here.
    """
    _same_length(nodes, documents)
    known = _known(nodes, documents, graph)
    unknown = [place for place, node in enumerate(known) if node is None]
    dense = unknown if policy.unknown_nodes == "dense" else []
    everywhere = range(len(known)) if dense else ()
    reached = _reached(known, graph, policy)
    near = []
    for place, siblings in enumerate(_siblings(documents)):
        found = dict(reached[place]) if place in reached else dict.fromkeys(everywhere, 0)
        found.update(dict.fromkeys(dense, 0))
        found.update(dict.fromkeys(siblings, 0))
        found.pop(place, None)
        near.append(found)
    return Near(tuple(near), len({_document_key(documents[place], place) for place in unknown}))


def ordered(
    nodes: Sequence[str | None],
    documents: Sequence[str | None],
    graph: HopGraph | None,
    policy: GasaPolicy,
    *,
    scores: Sequence[float] | None = None,
) -> tuple[int, ...]:
    """Return the places in the order in which the passages should stand: `policy.order`.

    `topological`: dependencies first, then by id; a document's passages stay together, in the order given; what the
    graph does not know comes last, by document. `edges`: the best first, the second best last, and so on inwards.

    Raises:
        ConfigError: `edges` without a score for each passage.
    """
    _same_length(nodes, documents)
    if policy.order == "given":
        return tuple(range(len(nodes)))
    if policy.order == "edges":
        return _best_at_both_ends(len(nodes), scores)
    known = _known(nodes, documents, graph)
    rank: dict[str, int] = {}
    if graph is not None:
        rank = {node: at for at, node in enumerate(graph.topological({node for node in known if node is not None}))}
    keys = [_document_key(document, place) for place, document in enumerate(documents)]
    last: dict[str, int] = {}
    for key, node in zip(keys, known, strict=True):
        last[key] = max(last.get(key, 0), len(rank) if node is None else rank[node])
    names = [document or node or "" for node, document in zip(nodes, documents, strict=True)]
    return tuple(sorted(range(len(nodes)), key=lambda place: (last[keys[place]], names[place], place)))


def _best_at_both_ends(count: int, scores: Sequence[float] | None) -> tuple[int, ...]:
    if scores is None or len(scores) != count:
        raise ConfigError(
            "order 'edges' puts the best passages at both ends and needs a score for each",
            remedy="give scores, or use order 'topological'",
        )
    best = sorted(range(count), key=lambda place: (-scores[place], place))
    return (*best[::2], *reversed(best[1::2]))


def _known(nodes: Sequence[str | None], documents: Sequence[str | None], graph: HopGraph | None) -> list[str | None]:
    """Return where each passage stands in the graph: at its own node, at its document's, or nowhere."""
    if graph is None:
        return [None] * len(nodes)
    pairs = zip(nodes, documents, strict=True)
    return [next((name for name in pair if name is not None and name in graph), None) for pair in pairs]


def _reached(known: Sequence[str | None], graph: HopGraph | None, policy: GasaPolicy) -> dict[int, Mapping[int, int]]:
    """Return for each place that is in the graph which places it reaches there."""
    if graph is None:
        return {}
    places = [place for place, node in enumerate(known) if node is not None]
    rows = graph.hop_rows([node for node in known if node is not None], policy.max_hops, policy.direction)
    return {
        place: {places[other]: away for other, away in row.items()} for place, row in zip(places, rows, strict=True)
    }


def _siblings(documents: Sequence[str | None]) -> list[list[int]]:
    """Return for each place the places of the same document."""
    of: dict[str, list[int]] = {}
    for place, document in enumerate(documents):
        of.setdefault(_document_key(document, place), []).append(place)
    return [of[_document_key(document, place)] for place, document in enumerate(documents)]


def _document_key(document: str | None, place: int) -> str:
    return f"\0{place}" if document is None else document


def _same_length(nodes: Sequence[str | None], documents: Sequence[str | None]) -> None:
    if len(nodes) != len(documents):
        raise ConfigError(
            f"{len(nodes)} nodes and {len(documents)} documents", remedy="give one of each for every passage"
        )
