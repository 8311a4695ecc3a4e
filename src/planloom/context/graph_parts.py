"""What a dependency graph is made of: nodes and edges, checked where they are made.

Rule 1: a node is a name and what it is called; what a document says is the store's.
Rule 2: an edge runs from a node to what that node depends on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

from planloom.errors import ConfigError, OutputError
from planloom.plan.values import as_json

Kind = Literal["document", "entity"]
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A document, or an entity: what documents are about.

    Attributes:
        title: What people call it; "" where it has no other name than its id.
        metadata: JSON; of a document it stays with the document.
    """

    id: str
    kind: Kind = "document"
    title: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the node as JSON, without what is empty."""
        told: dict[str, Any] = {"id": self.id, "kind": self.kind}
        return told | {name: value for name in ("title", "metadata") if (value := getattr(self, name))}


@dataclass(frozen=True, slots=True)
class GraphEdge:
    """That `src` depends on `dst`.

    Attributes:
        relationship_type: In what way, e.g. "imports".
        weight: How strongly: finite, 0 or more.
        metadata: JSON.
    """

    src: str
    dst: str
    relationship_type: str = "depends_on"
    weight: float = 1.0
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """What no two edges of a graph share."""
        return (self.src, self.dst, self.relationship_type)

    def to_dict(self) -> dict[str, Any]:
        """Return the edge as JSON, without empty metadata."""
        told: dict[str, Any] = {
            "src": self.src,
            "dst": self.dst,
            "relationship_type": self.relationship_type,
            "weight": self.weight,
        }
        return told | ({"metadata": self.metadata} if self.metadata else {})


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that made no edges, though it may have been meant to.

    Attributes:
        document: The id of the document it stands in.
        why: One clause, e.g. "is no Python: invalid syntax at line 3".
    """

    document: str
    why: str


@dataclass(frozen=True, slots=True)
class Found:
    """What was read out of documents."""

    edges: tuple[GraphEdge, ...] = ()
    skipped: tuple[Skipped, ...] = ()


def node_id(told: object) -> str:
    """Return an id.

    Raises:
        ConfigError: No text, an empty one, or one that UTF-8 cannot write.
    """
    return _text(told, f"a node's id is {told!r:.60}", "give each node an id, text of at least one character")


def _text(told: object, problem: str, remedy: str) -> str:
    if not isinstance(told, str) or not told:
        raise ConfigError(problem, remedy=remedy)
    try:
        told.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{problem}, which has half of a character at {error.start}", remedy=remedy) from error
    return told


def checked_node(told: object, kind: Kind) -> GraphNode:
    """Return a node of an id, a mapping or an object with such fields.

    Raises:
        ConfigError: It has no id, its title is no text, or the metadata of an entity is no JSON.
    """
    names = ("id", "title", "name", "metadata")
    if isinstance(told, str):
        fields: Mapping[str, Any] = {"id": told}
    else:
        fields = told if isinstance(told, Mapping) else {name: getattr(told, name, None) for name in names}
    node = node_id(fields.get("id"))
    where = f"the node {node!r:.80}"
    title = fields.get("title") or fields.get("name") or ""
    if title:
        _text(title, f"{where} has the title {title!r:.60}", "give text")
    metadata = as_metadata(fields.get("metadata"), where=where) if kind == "entity" else {}
    return GraphNode(node, kind, "" if title == node else title, metadata)


def checked_edge(
    src: object, dst: object, relationship_type: object, weight: object, metadata: Mapping[str, Any] | None
) -> GraphEdge:
    """Return an edge.

    Raises:
        ConfigError: From a node to itself, a weight that is no finite number of 0 or more, metadata that is no JSON.
    """
    ends = node_id(src), node_id(dst)
    where = f"the edge {ends[0]!r:.80} -> {ends[1]!r:.80}"
    if ends[0] == ends[1]:
        raise ConfigError(f"{where} leads from a node to itself", remedy="leave it out: a node always reads itself")
    kind = _text(
        relationship_type, f"{where} has the relationship_type {relationship_type!r:.60}", "give a word: 'depends_on'"
    )
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise ConfigError(f"{where} has the weight {weight!r:.60}", remedy="give a number")
    try:
        number = float(weight)
    except OverflowError:
        number = float("inf")
    if not isfinite(number) or number < 0:
        raise ConfigError(f"{where} has the weight {number!r}", remedy="give a finite number, 0 or more")
    return GraphEdge(*ends, kind, number, as_metadata(metadata, where=where))


def as_metadata(told: Mapping[str, Any] | None, *, where: str) -> dict[str, Any]:
    """Return a copy of metadata as JSON.

    Raises:
        ConfigError: Not a mapping, or something in it is no JSON.
    """
    if told is None or told == {}:
        return {}
    try:
        made = as_json(told, where="metadata")
    except OutputError as error:
        raise ConfigError(f"{where}: {error.message}", remedy=error.remedy) from error
    if not isinstance(made, dict):
        raise ConfigError(f"{where} has metadata {told!r:.60}", remedy="give names and values")
    return made
