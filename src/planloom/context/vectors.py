"""Vectors of texts, and how an order by them and one by words become one order.

Rule 1: nothing here makes a vector: whoever wants them gives an `Embed`, and what it gives is checked each time.
Rule 2: vectors are of length 1 from here on, so that the likeness of two is the sum of their products.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import mul
from typing import TypeVar

from planloom.errors import ConfigError

Embed = Callable[[list[str]], Sequence[Sequence[float]]]
"""Texts in, a vector for each out, all of one length."""

FUSION = 60
"""Reciprocal rank fusion: a place counts 1 / (FUSION + place), as in Cormack, Clarke and Buettcher, SIGIR 2009."""

K = TypeVar("K", bound=Hashable)


def embedded(embed: Embed, texts: list[str]) -> list[list[float]]:
    """Return a vector of length 1 for each text; of length 0 where `embed` gives only zeros.

    Raises:
        ConfigError: `embed` gives something else than one vector of finite numbers, all of one length, for each text.
    """
    if not texts:
        return []
    vectors = [[float(number) for number in vector] for vector in embed(texts)]
    if len(vectors) != len(texts):
        raise bad_vectors(f"{len(vectors)} vectors for {len(texts)} texts")
    if len({len(vector) for vector in vectors}) != 1 or not vectors[0]:
        raise bad_vectors("vectors of different lengths, or empty ones")
    return [unit(vector) for vector in vectors]


def unit(vector: Sequence[float]) -> list[float]:
    """Return a vector of the same direction and length 1; zeros as they are."""
    length = math.hypot(*vector)
    if not math.isfinite(length):
        raise bad_vectors("numbers that are not finite")
    return [number / length for number in vector] if length else list(vector)


def likeness(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of two vectors of length 1.

    Raises:
        ConfigError: They are of different lengths, so that one `embed` cannot have made both.
    """
    if len(one) != len(other):
        raise bad_vectors(f"vectors of {len(other)} and of {len(one)} numbers")
    return float(sum(map(mul, one, other)))


def fused(*orders: Iterable[K]) -> dict[K, float]:
    """Return reciprocal rank fusion of some orders, as a share: 60/61 for what is first in all of them."""
    best = len(orders) / FUSION
    scores: defaultdict[K, float] = defaultdict(float)
    for order in orders:
        for rank, found in enumerate(order, start=1):
            scores[found] += 1 / (FUSION + rank) / best
    return dict(scores)


def bad_vectors(what: str) -> ConfigError:
    """Return the error that tells what `embed` gave instead of vectors."""
    return ConfigError(f"`embed` gave {what}", remedy="give one vector of the same length for each text")
