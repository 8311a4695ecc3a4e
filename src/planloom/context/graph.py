"""What depends on what among documents: `DependencyGraph`.

Rule 1: an edge runs from a node to what that node depends on; how far two nodes are apart is counted along edges in
either direction unless somebody asks for "dependencies".
Rule 2: documents and entities are nodes alike: one on the way counts one hop.
Rule 3: equal graphs are equal, and written equally, in whatever order they were built.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, Self, TypeVar

from planloom.context import graph_file, graph_search
from planloom.context.code_graph import imports_of
from planloom.context.document import Document
from planloom.context.graph_parts import GraphEdge, GraphNode, Kind, Skipped, checked_edge, checked_node
from planloom.context.graph_paths import shortest_paths
from planloom.context.graph_search import Links
from planloom.context.link_graph import links_of
from planloom.context.on_class import on_class_too
from planloom.context.repository import text_files
from planloom.errors import ConfigError, suggestion

__all__ = ["DependencyGraph", "Reach"]

Reach = Literal["both", "dependencies"]
BUILT = ("imports", "links_to", "cites", "depends_on")
"""Types of the edges that builders make."""
MAX_FILE_BYTES = 1_000_000
_Edges = dict[str, dict[str, dict[str, GraphEdge]]]
_Side = TypeVar("_Side")


class Documents(Protocol):
    """What holds documents, as a `MemoryStore` does."""

    def documents(self) -> Iterable[Document]: ...


class DependencyGraph:
    """Documents and entities, and typed, weighted edges between them."""

    def __init__(self) -> None:
        self._nodes: dict[str, GraphNode] = {}
        self._out: _Edges = {}
        self._in: _Edges = {}
        self._skipped: tuple[Skipped, ...] = ()

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

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What `build_from_memory` could not read, or could read in two ways; no part of what the graph says."""
        return self._skipped

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
        node = checked_node(told, kind)
        there = self._nodes.get(node.id)
        if there is not None and there.kind != kind:
            raise ConfigError(
                f"the node {node.id!r:.80} is there, and no {kind}", remedy="give one of the two another id"
            )
        self._nodes[node.id] = node
        self._out.setdefault(node.id, {})
        self._in.setdefault(node.id, {})
        return node.id

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
        self._put(edge)
        return edge

    def _put(self, edge: GraphEdge) -> None:
        self._out[edge.src].setdefault(edge.dst, {})[edge.relationship_type] = edge
        self._in[edge.dst].setdefault(edge.src, {})[edge.relationship_type] = edge

    def _known(self, node: str) -> str:
        if node not in self._nodes:
            raise ConfigError(
                f"the graph has no node {node!r:.80}",
                remedy=suggestion(node, self._nodes, otherwise="add it with add_document_node or add_entity_node"),
            )
        return node

    def update(self, other: DependencyGraph) -> None:
        """Add all nodes and edges of another graph.

        Raises:
            ConfigError: A document here is an entity there, or the other way round. Nothing was added.
        """
        for node in other._nodes.values():
            if self._nodes.get(node.id, node).kind != node.kind:
                raise ConfigError(
                    f"the node {node.id!r:.80} is a document in one graph and an entity in the other",
                    remedy="give one of the two another id",
                )
        for node in other._nodes.values():
            self._nodes[node.id] = node
            self._out.setdefault(node.id, {})
            self._in.setdefault(node.id, {})
        for edge in other._all_edges():
            self._put(edge)
        self._skipped += other._skipped

    @on_class_too
    def build_from_memory(
        self, store: Documents, *, relationship_types: Collection[str] | str = BUILT
    ) -> DependencyGraph:
        """Add all documents of a store, and edges where one names or imports another; return the graph.

        Called on the class, it makes a new graph. `imports_of` and `links_of` say what makes an edge. What could not be
        read is in `skipped`.

        Args:
            store: A `MemoryStore`, or what else has `documents()`.
            relationship_types: Which edges are made, of "imports", "links_to", "cites" and "depends_on".

        Raises:
            ConfigError: No such type, or a document has the id of an entity. Nothing was added.
        """
        self.update(_built(list(store.documents()), relationship_types))
        return self

    @on_class_too
    def build_from_repository(
        self,
        path: str | PathLike[str],
        suffixes: Sequence[str] = (".py", ".md"),
        *,
        relationship_types: Collection[str] | str = BUILT,
    ) -> DependencyGraph:
        """Add all text files of a folder by their paths within it, as `MemoryStore.index_repository` names them.

        Everything else is as in `build_from_memory`.

        Args:
            suffixes: Endings of files to read.

        Raises:
            ConfigError: There is no such folder, no such type, or a file has the name of an entity. Nothing was added.
        """
        files = list(text_files(path, suffixes, MAX_FILE_BYTES))
        built = _built([Document(one.path, one.text) for one in files if one.text is not None], relationship_types)
        left_out = [one for one in files if one.text is None and not one.path.endswith("/")]
        built._skipped += tuple(Skipped(one.path, one.problem) for one in left_out)
        self.update(built)
        return self

    # --- asking it ----------------------------------------------------------------------------

    def get_neighbors(
        self,
        node: str,
        relationship_types: Collection[str] | str | None = None,
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
        types = None if relationship_types is None else _types(relationship_types)
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

    def get_subgraph(self, ids: Iterable[str], max_hops: int = 1, *, direction: Reach = "both") -> DependencyGraph:
        """Return the graph of the nodes within `max_hops` of any of `ids`, and all edges between them.

        Raises:
            ConfigError: No such node.
        """
        found = graph_search.within([self._known(node) for node in ids], max_hops, self._links(direction))
        made = DependencyGraph()
        for node in found:
            made._nodes[node] = self._nodes[node]
            made._out[node] = {dst: dict(types) for dst, types in self._out[node].items() if dst in found}
            made._in[node] = {src: dict(types) for src, types in self._in[node].items() if src in found}
        return made

    # --- keeping it ---------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the graph as JSON, in the same order for equal graphs; `from_dict` gives an equal one back."""
        nodes = [self._nodes[node].to_dict() for node in sorted(self._nodes)]
        return {"version": graph_file.VERSION, "nodes": nodes, "edges": [edge.to_dict() for edge in self.edges]}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """Return the graph of `to_dict`. Of two edges of one type between the same nodes the last counts.

        Raises:
            ConfigError: It is none; the message says what is wrong, and where.
        """
        return cls._read(told, "the graph")

    @on_class_too
    def load(self, path: str | PathLike[str]) -> DependencyGraph:
        """Add what `save` wrote; return the graph. Called on the class, it makes a new graph.

        Raises:
            ConfigError: The file cannot be read, or is none. Nothing was added.
        """
        self.update(DependencyGraph._read(graph_file.read_file(Path(path)), str(path)))
        return self

    def save(self, path: str | PathLike[str]) -> None:
        """Write the graph to a file as JSON: whoever reads it meanwhile finds the old one or the new one.

        Raises:
            ConfigError: The file cannot be written.
        """
        graph_file.write_file(Path(path), self.to_dict())

    @classmethod
    def _read(cls, told: Mapping[str, Any], where: str) -> Self:
        held = graph_file.checked(told, where=where)
        made = cls()
        place = ""
        try:
            for number, node in enumerate(held.nodes):
                place = f"nodes[{number}]"
                if node.id in made:
                    raise ConfigError(f"the id {node.id!r:.80} stands twice", remedy="keep one of the two")
                made._add_node({"id": node.id, "title": node.title, "metadata": node.metadata}, node.kind)
            for number, edge in enumerate(held.edges):
                place = f"edges[{number}]"
                made.add_edge(edge.src, edge.dst, edge.relationship_type, edge.weight, edge.metadata)
        except ConfigError as error:
            raise ConfigError(f"{where}: {place}: {error.message}", remedy=error.remedy) from error
        return made

    def _links(self, direction: Reach) -> tuple[Links, ...]:
        return _choice(direction, {"both": (self._out, self._in), "dependencies": (self._out,)})


def _types(told: Collection[str] | str) -> set[str]:
    return {told} if isinstance(told, str) else set(told)


def _built(documents: Sequence[Document], relationship_types: Collection[str] | str) -> DependencyGraph:
    wanted = _types(relationship_types)
    unknown = sorted(wanted - set(BUILT))
    if unknown:
        raise ConfigError(f"no builder makes edges {unknown[0]!r:.60}", remedy=suggestion(unknown[0], BUILT))
    built = DependencyGraph()
    for document in documents:
        built.add_document_node(document)
    for found in (imports_of(documents), links_of(documents)):
        for edge in found.edges:
            if edge.relationship_type in wanted:
                built._put(edge)
        built._skipped += found.skipped
    return built


def _choice(name: str, choices: Mapping[str, tuple[_Side, ...]]) -> tuple[_Side, ...]:
    if name not in choices:
        raise ConfigError(f"there is no direction {name!r:.60}", remedy=suggestion(name, choices))
    return choices[name]
