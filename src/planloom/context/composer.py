"""What a model is given to read where it cannot be told where to look: `ContextComposer`, chunks within a budget.

Rule 1: no chunk is cut: it is in a prompt whole or not at all, and what was left out is told.
Rule 2: the tokens of what is composed never pass the budget, as `count` counts them.
Rule 3: the same question, documents and graph give the same composition; the order of its passages does not depend on
the question, unless the policy says "edges", so that a provider's prefix cache finds it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.context.graph import DependencyGraph
from planloom.context.lexical import LexicalIndex
from planloom.context.near import near_of, ordered
from planloom.context.packing import Pieces, along_graph, best_first, by_score, in_turns, ranked, seeds_of
from planloom.core.asking import estimated_tokens
from planloom.core.chat import Passage
from planloom.errors import ConfigError

if TYPE_CHECKING:
    from planloom.context.document import Document
    from planloom.plan.gasa import GasaPolicy

Count = Callable[[str], int]
"""Tokens of a text."""
Scores = Callable[[str, Sequence[str]], Sequence[float]]
"""A question and texts in; for each how much it has to do with the question, 0 for nothing."""

DENSE = 0.5
"""Share of all documents next to those the search begins with from which on a graph tells nothing apart."""
FEW = 5
"""So few nodes are never taken for a dense graph."""
PIECES = 8
"""Into about so many pieces of a budget's size a document is cut that is larger than the budget."""
STUB_TITLE = 100
"""Characters of a title in the line that stands for a document."""


@dataclass(frozen=True, slots=True)
class Composition:
    """What is to be read.

    Attributes:
        passages: In the order in which they stand in the prompt; a passage's text is a chunk's, without its title.
        documents: Id of the document that each passage is of.
        chunks: Id of the chunk that each passage is; a document that is read whole has its own id.
        sizes: Tokens of each passage, as `count` counts them.
        near: For each passage, the places of the others that it may read, and how many hops away each is.
        chosen: The ids of `chunks`, best first.
        dropped: Passages left out.
        stubs: Lines that stand for documents left out of which nothing is read, one hop from one that is.
        tokens_before: Of all passages there are.
        tokens_after: Of the passages and stubs to be read.
        unknown: How many of the documents to be read are no node of the graph.
        fallback_reason: Why the graph played no part in the choice; None where it did, or nothing had to be chosen.
    """

    passages: tuple[Passage, ...]
    documents: tuple[str, ...]
    chunks: tuple[str, ...]
    sizes: tuple[int, ...]
    near: tuple[dict[int, int], ...]
    chosen: tuple[str, ...]
    dropped: tuple[Passage, ...]
    stubs: tuple[str, ...]
    tokens_before: int
    tokens_after: int
    unknown: int
    fallback_reason: str | None = None


@dataclass(frozen=True, slots=True)
class RankedChunk:
    """A chunk in the order in which chunks are chosen.

    Attributes:
        id: Of the chunk; a document that is read whole has its own id.
        document: Id of its document.
        tokens: As they are counted.
    """

    id: str
    document: str
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class _Chunk:
    id: str
    document: Document
    node: str
    text: str

    @property
    def shown(self) -> str:
        """Return what is searched: a title says what a text is about, and often not once within it."""
        return f"{self.document.title}\n{self.text}"


class ContextComposer:
    """Chooses and orders what is read for a question.

    Args:
        graph: What depends on what; None: nothing on anything.
        policy: How far the graph is followed, from where, and in what order passages stand.
        count: Tokens of a passage, with whatever stands around it in a prompt; None: estimated.
        scores: What each text has to do with a question; None: BM25.
    """

    def __init__(
        self,
        graph: DependencyGraph | None,
        policy: GasaPolicy,
        *,
        count: Count | None = None,
        scores: Scores | None = None,
    ) -> None:
        self._graph = DependencyGraph() if graph is None else graph
        self._policy = policy
        self._count = count or estimated_tokens
        self._scores = scores
        self._read: _Read | None = None

    def compose(self, query: str, documents: Sequence[Document], budget: int | None = None) -> Composition:
        """Return what to read for a question.

        Args:
            query: The question.
            documents: What there is to read; each in its own chunks, or in chunks of the policy's `chunk_size`.
            budget: Most tokens of passages and stubs. A document without chunks that is larger is cut into chunks.
                None: everything is read that the policy's `reader_scope` leaves.

        Raises:
            ConfigError: The budget is below 1, or `scores` gave something else than a number for each text.
        """
        if budget is not None and budget < 1:
            raise ConfigError(f"a budget of {budget} tokens", remedy="give 1 or more, or None for no limit")
        read = self._all(documents, budget)
        kept, lost_anchors = self._in_scope(read.chunks)
        scores = self._scored(query, read)
        picked, reason = self._picked(read, kept, scores, budget)
        order = self._ordered(read.chunks, picked)
        chosen = [read.chunks[place] for place in order]
        left = None if budget is None else budget - sum(read.sizes[place] for place in order)
        stubs = () if left is None else self._stubs(read.chunks, kept, picked, scores, left)
        nodes, names = [one.node for one in chosen], [one.document.id for one in chosen]
        near = near_of(nodes, names, self._graph, self._policy)
        taken = set(order)
        return Composition(
            passages=tuple(Passage(one.node, one.text) for one in chosen),
            documents=tuple(names),
            chunks=tuple(one.id for one in chosen),
            sizes=tuple(read.sizes[place] for place in order),
            near=near.near,
            chosen=tuple(read.chunks[place].id for place in picked),
            dropped=tuple(Passage(one.node, one.text) for at, one in enumerate(read.chunks) if at not in taken),
            stubs=stubs,
            tokens_before=read.tokens,
            tokens_after=sum(read.sizes[place] for place in order) + sum(self._count(f"{line}\n") for line in stubs),
            unknown=near.unknown,
            fallback_reason=lost_anchors or reason,
        )

    def ranking(self, query: str, documents: Sequence[Document]) -> tuple[RankedChunk, ...]:
        """Return every chunk that the question may read, in the order in which they are chosen while there is room.

        Raises:
            ConfigError: `scores` gave something else than a number for each text.
        """
        read = self._all(documents, None)
        kept, _ = self._in_scope(read.chunks)
        room = 2 * sum(read.sizes) + 1
        picked, _ = self._packed(read, kept, self._scored(query, read), room)
        chunks = [(read.chunks[place], read.sizes[place]) for place in picked]
        return tuple(RankedChunk(one.id, one.document.id, one.text, tokens) for one, tokens in chunks)

    # --- what there is ------------------------------------------------------------------------

    def _all(self, documents: Sequence[Document], budget: int | None) -> _Read:
        """Return all chunks, from the last time where nothing is different: questions often share their documents."""
        given, last = tuple(documents), self._read
        if last is not None and last.fits(budget) and last.documents == given:
            return last
        chunks: list[_Chunk] = []
        sizes: list[int] = []
        tokens = largest = 0
        for document in given:
            found = self._chunks(document)
            counted = [self._count(one.text) for one in found]
            tokens += sum(counted)
            whole = counted[0] if [one.id for one in found] == [document.id] else 0
            largest = max(largest, whole)
            if budget is not None and whole > budget:
                found = self._pieces(document, whole, budget)
                counted = [self._count(one.text) for one in found]
            chunks += found
            sizes += counted
        index = LexicalIndex([one.shown for one in chunks]) if self._scores is None else None
        self._read = _Read(given, budget, largest, tuple(chunks), tuple(sizes), tokens, index)
        return self._read

    def _chunks(self, document: Document) -> list[_Chunk]:
        policy = self._policy
        if document.chunks or policy.chunk_size is None:
            pieces = [(one.id, one.content) for one in document.chunks] or [(document.id, document.content)]
        else:
            found = document.chunk(policy.chunk_size, policy.chunk_overlap)
            pieces = [(one.id, one.content) for one in found] if len(found) > 1 else [(document.id, document.content)]
        return [self._chunk(document, name, text) for name, text in pieces]

    def _pieces(self, document: Document, tokens: int, budget: int) -> list[_Chunk]:
        size = max(1, len(document.content) * budget // (tokens * PIECES))
        return [self._chunk(document, one.id, one.content) for one in document.chunk(size)]

    def _chunk(self, document: Document, name: str, text: str) -> _Chunk:
        return _Chunk(name, document, name if name in self._graph else document.id, text)

    # --- what of it ---------------------------------------------------------------------------

    def _in_scope(self, chunks: Sequence[_Chunk]) -> tuple[list[int], str | None]:
        """Return the places of what the question may read, and why that is more than was asked for."""
        policy, everything = self._policy, list(range(len(chunks)))
        if policy.reader_scope == "all":
            return everything, None
        standing = {name for one in chunks for name in (one.node, one.document.id)}
        reach: set[str] = set()
        for anchor in policy.anchors:
            if anchor in self._graph:
                reach.update(self._graph.hops(anchor, policy.max_hops, policy.direction))
            elif anchor in standing:
                reach.add(anchor)
        if not reach:
            return everything, "no anchor is a document or a node of the graph"
        dense = policy.unknown_nodes == "dense"
        return [
            place
            for place, one in enumerate(chunks)
            if one.node in reach or one.document.id in reach or (dense and one.node not in self._graph)
        ], None

    def _scored(self, query: str, read: _Read) -> list[float]:
        count = len(read.chunks)
        if read.index is not None:
            found = read.index.scores(query)
            return [found.get(place, 0.0) for place in range(count)]
        if self._scores is None:  # never: without scores there is an index
            return [0.0] * count
        given = [float(score) for score in self._scores(query, [one.shown for one in read.chunks])]
        if len(given) != count or any(score != score for score in given):  # noqa: PLR0124 - nan
            raise ConfigError(f"`scores` gave {len(given)} numbers for {count} texts", remedy="give one for each text")
        return given

    def _picked(
        self, read: _Read, kept: Sequence[int], scores: Sequence[float], budget: int | None
    ) -> tuple[list[int], str | None]:
        """Return the places of what is read, best first, and why the graph had no part in that."""
        if budget is None or sum(read.sizes[place] for place in kept) <= budget:
            return sorted(kept, key=lambda place: (-scores[place], place)), None
        return self._packed(read, kept, scores, budget)

    def _packed(
        self, read: _Read, kept: Sequence[int], scores: Sequence[float], budget: int
    ) -> tuple[list[int], str | None]:
        neighbours = _Neighbours(self._graph, self._policy.direction)
        pieces = Pieces(
            [scores[place] for place in kept],
            [read.sizes[place] for place in kept],
            [read.chunks[place].node for place in kept],
            neighbours,
        )
        seeds, anchors = seeds_of(pieces.scores), self._anchors(pieces.nodes)
        reason = self._against(pieces.nodes, [pieces.nodes[place] for place in seeds] + anchors)
        if reason is not None:
            found = by_score(pieces, budget)
        else:
            walk = best_first(pieces, seeds, self._policy.max_hops, anchors=anchors)
            found = (along_graph if self._policy.trust_edges else in_turns)(walk, pieces, budget)
        return [kept[place] for place in found], reason

    def _anchors(self, nodes: Sequence[str]) -> list[str]:
        standing = set(nodes)
        return [one for one in self._policy.anchors if one in self._graph or one in standing]

    def _against(self, nodes: Sequence[str], begun: Iterable[str]) -> str | None:
        """Return why the graph cannot help with these nodes, beginning at those; None where it can."""
        links = {node: self._graph.get_neighbors(node, direction="both") for node in begun if node in self._graph}
        if not links:
            return "nothing that the question is about is in the graph"
        if not any(links.values()):
            return "the graph has no edge at what the question is about"
        known = {node for node in nodes if node in self._graph}
        linked = sum(len(known.intersection(others)) for others in links.values())
        if len(known) > FEW and linked >= DENSE * len(links) * (len(known) - 1):
            return "the graph links what the question is about with most documents"
        return None

    # --- how it stands there ------------------------------------------------------------------

    def _ordered(self, chunks: Sequence[_Chunk], picked: Sequence[int]) -> list[int]:
        """Return the places of what is read as they stand in the prompt."""
        places = sorted(picked)
        best = {place: -rank for rank, place in enumerate(picked)}
        nodes, names = [chunks[at].node for at in places], [chunks[at].document.id for at in places]
        order = ordered(nodes, names, self._graph, self._policy, scores=[float(best[at]) for at in places])
        return [places[at] for at in order]

    def _stubs(
        self,
        chunks: Sequence[_Chunk],
        kept: Sequence[int],
        picked: Sequence[int],
        scores: Sequence[float],
        budget: int,
    ) -> tuple[str, ...]:
        """Return a line for each document next to one that is read and itself left out, best first, as they fit."""
        read = {chunks[place].document.id for place in picked}
        around = {
            name
            for place in picked
            if chunks[place].node in self._graph
            for name in self._graph.get_neighbors(chunks[place].node, direction="both")
        }
        found: dict[str, str] = {}
        for place in (kept[at] for at in ranked([scores[place] for place in kept])):
            one = chunks[place]
            if one.document.id not in read and not around.isdisjoint((one.node, one.document.id)):
                found.setdefault(one.document.id, stub_of(one.document))
        lines = []
        for line in found.values():
            tokens = self._count(f"{line}\n")
            if tokens <= budget:
                lines.append(line)
                budget -= tokens
        return tuple(lines)


@dataclass(frozen=True, slots=True)
class _Read:
    """All chunks of some documents, counted and ready to be searched."""

    documents: tuple[Document, ...]
    budget: int | None
    largest: int
    """Tokens of the largest document without chunks."""
    chunks: tuple[_Chunk, ...]
    sizes: tuple[int, ...]
    tokens: int
    index: LexicalIndex | None

    def fits(self, budget: int | None) -> bool:
        """Tell whether documents would be cut in the same way for another budget."""
        whole = {self.budget is None or self.largest <= self.budget, budget is None or self.largest <= budget}
        return whole == {True} or budget == self.budget


class _Neighbours:
    """The nodes one hop away from a node, in the policy's direction."""

    def __init__(self, graph: DependencyGraph, direction: str) -> None:
        self._graph = graph
        self._outgoing = direction == "dependencies"

    def __call__(self, node: str) -> Iterable[str]:
        if node not in self._graph:
            return ()
        return self._graph.get_neighbors(node, direction="outgoing" if self._outgoing else "both")


def stub_of(document: Document) -> str:
    """Return the line that stands for a document that is left out: its id, and its title if that is another."""
    name, title = (" ".join(text.split())[:STUB_TITLE] for text in (document.id, document.title))
    return f"- {name}" if title == name else f"- {name}: {title}"
