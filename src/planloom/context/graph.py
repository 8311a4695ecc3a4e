"""What depends on what among documents: `DependencyGraph`.

Rule 1: an edge runs from a node to what that node depends on; how far two nodes are apart is counted along edges in
either direction unless somebody asks for "dependencies".
Rule 2: documents and entities are nodes alike: one on the way counts one hop.
Rule 3: equal graphs are equal, and written equally, in whatever order they were built.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from planloom.context import graph_search
from planloom.context.graph_parts import GraphEdge, GraphNode, Kind, as_metadata, checked_edge, node_id
from planloom.context.graph_paths import shortest_paths
from planloom.context.graph_search import Links
from planloom.errors import ConfigError, suggestion

__all__ = ["DependencyGraph", "Reach"]

Reach = Literal["both", "dependencies"]
_Edges = dict[str, dict[str, dict[str, GraphEdge]]]
_Side = TypeVar("_Side")


class DependencyGraph:
    """Documents and entities, and typed, weighted edges between them."""

    def __init__(self) -> None:
        self._nodes: dict[str, GraphNode] = {}
        self._out: _Edges = {}
        self._in: _Edges = {}

    def __contains__(self, node: object) -> bool:
        return node in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DependencyGraph):
            return NotImplemented
        return self._nodes == other._nodes and self._out == other._out

    __hash__ = None  # type: ignore[assignment]  # it can change

    def __repr__(self) -> str:
        return f"DependencyGraph({len(self._nodes)} nodes, {sum(1 for _ in self._all_edges())} edges)"

    @property
    def nodes(self) -> Mapping[str, GraphNode]:
        """The nodes by id."""
        return MappingProxyType(self._nodes)

    @property
    def edges(self) -> tuple[GraphEdge, ...]:
        """All edges, ordered by source, target and type."""
        return tuple(sorted(self._all_edges(), key=lambda edge: edge.key))

    def _all_edges(self) -> Iterator[GraphEdge]:
        return (edge for row in self._out.values() for types in row.values() for edge in types.values())

    # --- making one ---------------------------------------------------------------------------

    def add_document_node(self, document: object) -> str:
        """Add a document, or name one anew that is there; return its id.

        Args:
            document: A `Document`, a dict with `id` and perhaps `title`, or an id. Nothing else is kept of it.

        Raises:
            ConfigError: It has no id, or an entity has it already.
        """
        return self._add_node(document, "document")

    def add_entity_node(self, entity: object) -> str:
        """Add an entity, which is what documents are about, or name one anew that is there; return its id.

        Args:
            entity: A dict with `id` and perhaps `title` (or `name`) and `metadata`, an object with such fields, or an
                id.

        Raises:
            ConfigError: It has no id, or a document has it already.
        """
        return self._add_node(entity, "entity")

    def _add_node(self, told: object, kind: Kind) -> str:
        fields: Mapping[str, Any] = {"id": told} if isinstance(told, str) else _fields(told)
        node = node_id(fields.get("id"))
        where = f"the node {node!r:.80}"
        there = self._nodes.get(node)
        if there is not None and there.kind != kind:
            raise ConfigError(f"{where} is there already, and no {kind}", remedy="give one of the two another id")
        title = fields.get("title") or fields.get("name") or ""
        if not isinstance(title, str):
            raise ConfigError(f"{where} has the title {title!r:.60}", remedy="give text")
        metadata = as_metadata(fields.get("metadata"), where=where) if kind == "entity" else {}
        self._nodes[node] = GraphNode(node, kind, title, metadata)
        self._out.setdefault(node, {})
        self._in.setdefault(node, {})
        return node

    def add_edge(
        self,
        src: str,
        dst: str,
        relationship_type: str = "depends_on",
        weight: float = 1.0,
        metadata: Mapping[str, Any] | None = None,
    ) -> GraphEdge:
        """Say that `src` depends on `dst`. An edge of the same type between the two is replaced.

        Raises:
            ConfigError: No such node, from a node to itself, or a weight that is no finite number of 0 or more.
        """
        edge = checked_edge(src, dst, relationship_type, weight, metadata)
        self._known(edge.src)
        self._known(edge.dst)
        self._out[edge.src].setdefault(edge.dst, {})[edge.relationship_type] = edge
        self._in[edge.dst].setdefault(edge.src, {})[edge.relationship_type] = edge
        return edge

    def _known(self, node: str) -> str:
        if node not in self._nodes:
            raise ConfigError(
                f"the graph has no node {node!r:.80}",
                remedy=suggestion(node, self._nodes, otherwise="add it with add_document_node or add_entity_node"),
            )
        return node

    # --- asking it ----------------------------------------------------------------------------

    def get_neighbors(
        self,
        node: str,
        relationship_types: Collection[str] | None = None,
        direction: Literal["outgoing", "incoming", "both"] = "outgoing",
    ) -> list[str]:
        """Return the nodes one hop away, by id.

        Args:
            relationship_types: Only along edges of these types; None: of any.
            direction: "outgoing": what it depends on; "incoming": what depends on it.

        Raises:
            ConfigError: No such node, or no such direction.
        """
        sides = {"outgoing": (self._out,), "incoming": (self._in,), "both": (self._out, self._in)}
        rows = [side[self._known(node)] for side in _choice(direction, sides)]
        types = None if relationship_types is None else set(relationship_types)
        return sorted({other for row in rows for other, by in row.items() if types is None or types & by.keys()})

    def hops(self, node: str, max_hops: int, direction: Reach = "both") -> dict[str, int]:
        """Return every node within `max_hops`, and how many hops away it is; itself is 0 away.

        Args:
            direction: "both": along edges either way; "dependencies": only to what it depends on.

        Raises:
            ConfigError: No such node.
        """
        return graph_search.hops_from(self._known(node), max_hops, *self._links(direction))

    def hop_rows(self, nodes: Sequence[str], max_hops: int, direction: Reach = "both") -> list[dict[int, int]]:
        """Return `hops` for many nodes at once, by place: for each, the places of those it reaches, itself included.

        A node may stand at several places, which are 0 hops apart. One that is not in the graph reaches only itself.
        """
        return graph_search.hop_rows(nodes, max_hops, *self._links(direction))

    def topological(self, ids: Iterable[str]) -> list[str]:
        """Return `ids`, each once, dependencies first; by id where that leaves a choice.

        Dependencies count also through nodes that are not among `ids`. Nodes that depend on each other in a circle
        stand together, by id; one that is not in the graph depends on nothing.
        """
        return graph_search.topological(ids, self._out)

    def components(self, ids: Iterable[str]) -> list[list[str]]:
        """Return `ids` in groups between which no way leads, each by id, the groups by their first id."""
        return graph_search.parts_of(ids, self._out, self._in)

    def find_paths(
        self, src: str, dst: str, max_hops: int = 3, *, direction: Reach = "both", limit: int = 100
    ) -> list[list[str]]:
        """Return the ways from one node to another that visit none twice, shortest first, then by ids.

        Args:
            limit: Most ways.

        Raises:
            ConfigError: No such node.
        """
        forth = self._links(direction)
        back = forth if direction == "both" else (self._in,)
        paths = shortest_paths(self._known(src), self._known(dst), max_hops, limit, forth, back)
        return [list(path) for path in paths]

    def _links(self, direction: Reach) -> tuple[Links, ...]:
        return _choice(direction, {"both": (self._out, self._in), "dependencies": (self._out,)})


def _choice(name: str, choices: Mapping[str, tuple[_Side, ...]]) -> tuple[_Side, ...]:
    if name not in choices:
        raise ConfigError(f"there is no direction {name!r:.60}", remedy=suggestion(name, choices))
    return choices[name]


def _fields(told: object) -> Mapping[str, Any]:
    if isinstance(told, Mapping):
        return told
    return {name: getattr(told, name, None) for name in ("id", "title", "name", "metadata")}
