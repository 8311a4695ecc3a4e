"""Which texts a query is about, by their words: BM25, once for the project.

Rule 1: the same texts and the same query give the same scores and the same order, in every process.
Rule 2: a text that shares no word with the query is not found at all.
Rule 3: nothing here knows what the texts are: tools, chunks, documents and prompts are all read in one way.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from functools import lru_cache
from heapq import nsmallest

K1, B = 1.2, 0.75
"""BM25: how soon a repeated word stops counting, and how much a long text is held against it (the usual values)."""
BEGINNING, BEGINNING_WEIGHT = 5, 0.3
"""Letters by which long words are taken for kin ("category", "categorize"), and what that counts beside a word."""
STOP_WORDS = frozenset(
    "a about all an and any are as at be by can do each every for from get give given has have how i if in into is it "  # noqa: SIM905 - words to read, not a list
    "its me my of on one or our out so than that the their them then there these they this to up us use used uses "
    "using was we what when which will with you your".split()
)
"""Words that are in every text and tell none from another."""

_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]+)")
"""Chinese and Japanese, which put no space between words: pairs of signs stand for them."""
_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORDS_REMEMBERED = 1 << 16


class LexicalIndex:
    """Texts that can be asked for by their words; made once, never changed.

    Args:
        texts: What is asked for, each a text or the `terms` of one, where some of its words are to count more.
    """

    def __init__(self, texts: Sequence[Mapping[str, float] | str]) -> None:
        said = [terms(text) if isinstance(text, str) else text for text in texts]
        self._size = len(said)
        self._idf, self._postings = _postings(said)

    def __len__(self) -> int:
        return self._size

    def scores(self, query: Mapping[str, float] | str, *, among: Container[int] | None = None) -> dict[int, float]:
        """Return BM25 by the place of a text: a share, above 0 and below 1, of the most that any text could have.

        Args:
            query: A text of any length, or its `terms`.
            among: Which places count at all; None: every one.
        """
        found: defaultdict[int, float] = defaultdict(float)
        most = 0.0
        for word, weight in (terms(query) if isinstance(query, str) else query).items():
            idf = self._idf.get(word)
            if idf is None:
                continue
            importance = min(weight, 1.0)  # said twice is not asked for twice
            most += importance * idf * (K1 + 1)
            for place, impact in self._postings[word]:
                found[place] += importance * impact
        return {place: score / most for place, score in found.items() if among is None or place in among}

    def best(self, query: Mapping[str, float] | str, limit: int = 10) -> list[tuple[int, float]]:
        """Return the places of the texts that a query is about with their scores, best first; of equals the earlier."""
        return nsmallest(limit, self.scores(query).items(), key=lambda found: (-found[1], found[0]))


def terms(text: str, weight: float = 1.0, *, ignored: Container[str] = STOP_WORDS) -> dict[str, float]:
    """Return the words of a text with what each counts: split at `_`, `.`, `-` and capitals, plurals as singulars.

    A long word counts a little by its beginning as well.

    Args:
        weight: What a word counts each time it is said.
        ignored: Words, in small letters, that do not count.
    """
    found: defaultdict[str, float] = defaultdict(float)
    for piece, times in Counter(pieces(text)).items():
        for word, term, beginning in _parts(piece):
            if word in ignored:
                continue
            found[term] += weight * times
            if beginning:
                found[beginning] += weight * times * BEGINNING_WEIGHT
    return dict(found)


def pieces(text: str) -> list[str]:
    """Return the runs of letters and digits of a text, with accents written as one sign with their letter."""
    return _WORD.findall(text if text.isascii() else unicodedata.normalize("NFC", text))


def words(piece: str) -> list[str]:
    """Return the words of a piece: of "sendMail" "send" and "Mail"."""
    found: list[str] = []
    for part in _HUMPS.split(piece):
        for run in (part,) if part.isascii() else filter(None, _UNSPACED.split(part)):
            is_unspaced = len(run) > 2 and _UNSPACED.match(run)
            found += [run[at : at + 2] for at in range(len(run) - 1)] if is_unspaced else [run]
    return found


@lru_cache(maxsize=_WORDS_REMEMBERED)
def _parts(piece: str) -> tuple[tuple[str, str, str], ...]:
    """Return the words of a piece in small letters, the term each counts as, and its beginning ("" of a short one)."""
    found = []
    for part in words(piece):
        word = part.lower()
        term = _singular(word)
        found.append((word, term, f"{term[:BEGINNING]}…" if len(term) > BEGINNING else ""))
    return tuple(found)


def _singular(word: str) -> str:
    """Return a plural as its singular (Harman's S stemmer)."""
    if len(word) <= 3 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return f"{word[:-3]}y"
    return word[:-1]


def _postings(
    said: Sequence[Mapping[str, float]],
) -> tuple[dict[str, float], dict[str, list[tuple[int, float]]]]:
    """Return how telling each word is, and by word what it adds to the score of which texts."""
    lengths = [sum(counts.values()) for counts in said]
    mean = sum(lengths) / len(lengths) if lengths else 1.0
    spread = Counter(word for counts in said for word in counts)
    idf = {word: math.log1p((len(said) - count + 0.5) / (count + 0.5)) for word, count in spread.items()}
    postings: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    for place, counts in enumerate(said):
        damped = K1 * (1 - B + B * lengths[place] / (mean or 1.0))
        for word, weight in counts.items():
            postings[word].append((place, idf[word] * weight * (K1 + 1) / (weight + damped)))
    return idf, dict(postings)
