"""Which tools a text is about: BM25 over what is said of them, and, where there are embeddings, both in one order.

Rule 1: the same tools and the same text give the same order, to the last place.
Rule 2: a tool that the text calls by its whole name comes before all that it does not.
Rule 3: a tool that shares nothing with the text is not found at all.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from planloom.context import lexical
from planloom.context.lexical import STOP_WORDS, LexicalIndex, pieces, words
from planloom.context.vectors import embedded, fused, likeness

if TYPE_CHECKING:
    from planloom.context.vectors import Embed
    from planloom.tools.definition import ToolDefinition

NAMED = 1.0
"""Added to the score of a tool that the text calls by its name; other scores are below 1."""

_NAME_LIKE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:-]*")
_IGNORED = STOP_WORDS | {"tool"}


class ToolIndex:
    """An index over some definitions, made once.

    Attributes:
        definitions: What it was made over; one that comes or goes asks for a new index.
    """

    def __init__(self, definitions: Iterable[ToolDefinition], *, embed: Embed | None = None) -> None:
        """Read what is said of each tool.

        Raises:
            ConfigError: `embed` gives something else than one vector of the same length for each text.
        """
        self.definitions = tuple(definitions)
        self._embed = embed
        self._by_name = {one.name: [place] for place, one in enumerate(self.definitions)}
        self._by_spelling: defaultdict[str, list[int]] = defaultdict(list)
        """Places by name in small letters."""
        for place, definition in enumerate(self.definitions):
            self._by_spelling[definition.name.lower()].append(place)
        self._words = LexicalIndex([_weighted(one) for one in self.definitions])
        self._vectors = [] if embed is None else embedded(embed, [_said(one) for one in self.definitions])

    def search(
        self, query: str, *, limit: int = 10, keep: Callable[[ToolDefinition], bool] | None = None
    ) -> list[tuple[ToolDefinition, float]]:
        """Return the tools that a text is about, best first.

        Args:
            query: A task or a few words; a whole document is read to its end.
            limit: Most tools to return.
            keep: Which tools count at all; None: all.

        Returns:
            Each with its score, above 0 and below 1, and 1 more where the text calls the tool by its name; equal ones
            in the order of their names.
        """
        kept = [place for place, one in enumerate(self.definitions) if keep is None or keep(one)]
        scores = self._words.scores(terms(query), among=frozenset(kept))
        if self._embed is not None and self._vectors:
            scores = fused(self._order(scores), self._order(self._similar(self._embed, query, kept)))
        for place in self._named(query):
            if keep is None or keep(self.definitions[place]):
                scores[place] = scores.get(place, 0.0) + NAMED
        return [(self.definitions[place], scores[place]) for place in self._order(scores)[: max(0, limit)]]

    def _order(self, scores: dict[int, float]) -> list[int]:
        return sorted(scores, key=lambda place: (-scores[place], self.definitions[place].name))

    def _named(self, query: str) -> list[int]:
        """Return the tools whose whole name stands in the text; one called `all` only where that is the whole text."""
        found: set[int] = set()
        for word in _NAME_LIKE.findall(query):
            if word.lower() in _IGNORED and word != query.strip():
                continue
            for name in (word, word.rstrip("./:-")):  # a name may end in them, and so may a sentence
                found.update(self._by_name.get(name) or self._by_spelling.get(name.lower()) or ())
        return sorted(found)

    def _similar(self, embed: Embed, query: str, kept: list[int]) -> dict[int, float]:
        asked = embedded(embed, [query])[0]
        alike = {place: likeness(asked, self._vectors[place]) for place in kept}
        return {place: score for place, score in alike.items() if score > 0}


def terms(text: str, weight: float = 1.0) -> dict[str, float]:
    """Return the words of a text with what each counts, as `context.lexical` has them; "tool" tells nothing here."""
    return lexical.terms(text, weight, ignored=_IGNORED)


def _weighted(definition: ToolDefinition) -> dict[str, float]:
    """Return the words that are said of a tool: those of its name count most."""
    found: defaultdict[str, float] = defaultdict(float)
    parts = [(definition.name, 3.0), (definition.domain, 1.0), (definition.description, 1.0)]
    parts += [(parameter.name, 0.7) for parameter in definition.parameters]
    parts += [(parameter.description, 0.5) for parameter in definition.parameters]
    for example in definition.examples:
        parts += [(example.description, 0.5), (json.dumps(example.input, ensure_ascii=False), 0.3)]
    for text, weight in parts:
        for word, counts in terms(text, weight).items():
            found[word] += counts
    return dict(found)


def _said(definition: ToolDefinition) -> str:
    """Return what is said of a tool as one text, for an embedding."""
    name = " ".join(word for piece in pieces(definition.name) for word in words(piece))
    parameters = ", ".join(parameter.name for parameter in definition.parameters)
    return "\n".join(part for part in (name, definition.domain, definition.description, parameters) if part)
