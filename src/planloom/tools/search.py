"""Which tools a text is about: BM25 over what is said of them, and, where there are embeddings, both in one order.

Rule 1: the same tools and the same text give the same order, to the last place.
Rule 2: a tool that the text calls by its whole name comes before all that it does not.
Rule 3: a tool that shares nothing with the text is not found at all.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from operator import mul
from typing import TYPE_CHECKING

from planloom.errors import ConfigError

if TYPE_CHECKING:
    from planloom.tools.definition import ToolDefinition

Embed = Callable[[list[str]], Sequence[Sequence[float]]]
"""Texts in, a vector for each out, all of one length."""

K1, B = 1.2, 0.75
"""BM25: how soon a repeated word stops counting, and how much a long text is held against a tool (the usual values)."""
FUSION = 60
"""Reciprocal rank fusion: a place counts 1 / (FUSION + place), as in Cormack, Clarke and Buettcher, SIGIR 2009."""
NAMED = 1.0
"""Added to the score of a tool that the text calls by its name; other scores are below 1."""
BEGINNING, BEGINNING_WEIGHT = 5, 0.3
"""Letters by which long words are taken for kin ("category", "categorize"), and what that counts beside a word."""

_WORD = re.compile(r"[^\W_]+")
_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NAME_LIKE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:-]*")
_STOP_WORDS = frozenset(
    "a about all an and any are as at be by can do each every for from get give given has have how i if in into is it "  # noqa: SIM905 - words to read, not a list
    "its me my of on one or our out so than that the their them then there these they this to tool up us use used uses "
    "using was we what when which will with you your".split()
)


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
        self._idf, self._postings = _postings(self.definitions)
        self._vectors = self._embedded([_said(one) for one in self.definitions]) if self.definitions else []

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
        scores = self._lexical(query, kept)
        if self._vectors:
            scores = _fused(self._order(scores), self._order(self._similar(query, kept)))
        for place in self._named(query):
            if keep is None or keep(self.definitions[place]):
                scores[place] = scores.get(place, 0.0) + NAMED
        return [(self.definitions[place], scores[place]) for place in self._order(scores)[: max(0, limit)]]

    def _order(self, scores: dict[int, float]) -> list[int]:
        return sorted(scores, key=lambda place: (-scores[place], self.definitions[place].name))

    def _lexical(self, query: str, kept: list[int]) -> dict[int, float]:
        """Return BM25 as a share of the most that any text could have: 0 to 1, only what is above 0."""
        allowed = set(kept)
        found: defaultdict[int, float] = defaultdict(float)
        most = 0.0
        for word, weight in terms(query).items():
            idf = self._idf.get(word)
            if idf is None:
                continue
            importance = min(weight, 1.0)  # said twice is not asked for twice
            most += importance * idf * (K1 + 1)
            for place, impact in self._postings[word]:
                if place in allowed:
                    found[place] += importance * impact
        return {place: score / most for place, score in found.items()}

    def _named(self, query: str) -> list[int]:
        """Return the tools whose whole name stands in the text; one called `all` only where that is the whole text."""
        found: set[int] = set()
        for word in _NAME_LIKE.findall(query):
            if word.lower() in _STOP_WORDS and word != query.strip():
                continue
            for name in (word, word.rstrip("./:-")):  # a name may end in them, and so may a sentence
                found.update(self._by_name.get(name) or self._by_spelling.get(name.lower()) or ())
        return sorted(found)

    def _similar(self, query: str, kept: list[int]) -> dict[int, float]:
        asked = self._embedded([query])[0]
        if len(asked) != len(self._vectors[0]):
            raise _bad_vectors(f"vectors of {len(self._vectors[0])} and of {len(asked)} numbers")
        likeness = {place: sum(map(mul, asked, self._vectors[place])) for place in kept}
        return {place: score for place, score in likeness.items() if score > 0}

    def _embedded(self, texts: list[str]) -> list[list[float]]:
        """Return a vector of length 1 for each text; none at all where nothing embeds."""
        if self._embed is None:
            return []
        vectors = [[float(number) for number in vector] for vector in self._embed(texts)]
        if len(vectors) != len(texts):
            raise _bad_vectors(f"{len(vectors)} vectors for {len(texts)} texts")
        if len({len(vector) for vector in vectors}) != 1 or not vectors[0]:
            raise _bad_vectors("vectors of different lengths, or empty ones")
        return [_unit(vector) for vector in vectors]


def terms(text: str, weight: float = 1.0) -> dict[str, float]:
    """Return the words of a text with what each counts: split at `_`, `.`, `-` and capitals, plurals as singulars.

    A long word counts a little by its beginning as well.
    """
    found: defaultdict[str, float] = defaultdict(float)
    for piece in _WORD.findall(text):
        for part in _HUMPS.split(piece):
            word = part.lower()
            if word in _STOP_WORDS:
                continue
            word = _singular(word)
            found[word] += weight
            if len(word) > BEGINNING:
                found[f"{word[:BEGINNING]}…"] += weight * BEGINNING_WEIGHT
    return dict(found)


def _singular(word: str) -> str:
    """Return a plural as its singular (Harman's S stemmer)."""
    if len(word) <= 3 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return f"{word[:-3]}y"
    return word[:-1]


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


def _postings(
    definitions: tuple[ToolDefinition, ...],
) -> tuple[dict[str, float], dict[str, list[tuple[int, float]]]]:
    """Return how telling each word is, and by word what it adds to the score of which tools."""
    said = [_weighted(one) for one in definitions]
    lengths = [sum(words.values()) for words in said]
    mean = sum(lengths) / len(lengths) if lengths else 1.0
    spread = Counter(word for words in said for word in words)
    idf = {word: math.log1p((len(said) - count + 0.5) / (count + 0.5)) for word, count in spread.items()}
    postings: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    for place, words in enumerate(said):
        damped = K1 * (1 - B + B * lengths[place] / (mean or 1.0))
        for word, weight in words.items():
            postings[word].append((place, idf[word] * weight * (K1 + 1) / (weight + damped)))
    return idf, dict(postings)


def _said(definition: ToolDefinition) -> str:
    """Return what is said of a tool as one text, for an embedding."""
    name = " ".join(part for piece in _WORD.findall(definition.name) for part in _HUMPS.split(piece))
    parameters = ", ".join(parameter.name for parameter in definition.parameters)
    return "\n".join(part for part in (name, definition.domain, definition.description, parameters) if part)


def _fused(*orders: list[int]) -> dict[int, float]:
    """Return reciprocal rank fusion of some orders, as a share: 60/61 for what is first in all of them."""
    best = len(orders) / FUSION
    scores: defaultdict[int, float] = defaultdict(float)
    for order in orders:
        for rank, place in enumerate(order, start=1):
            scores[place] += 1 / (FUSION + rank) / best
    return dict(scores)


def _unit(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    if not math.isfinite(length):
        raise _bad_vectors("numbers that are not finite")
    return [number / length for number in vector] if length else vector


def _bad_vectors(what: str) -> ConfigError:
    return ConfigError(f"`embed` gave {what}", remedy="give one vector of the same length for each text")
