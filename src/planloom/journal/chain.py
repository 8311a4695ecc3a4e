"""The links that hold a run's events together: change, move, drop or copy one, and the next does not fit.

Rule 1: a link is BLAKE2b over the run's id, the link before it, and every column of the event's row. Large values are
in it through their SHA-256, which the body holds.
Rule 2: numbers and lengths come first and have fixed sizes, text comes last: no two rows give the same bytes.
Rule 3: what is hashed never changes. Links that a released planloom wrote are checked for ever.
Rule 4: a key is taken into the hash at once and kept nowhere else, so that nothing can print it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import blake2b

from planloom.errors import ConfigError

LINK_BYTES = 16
"""Enough for a MAC; and without a key a link is no protection from whoever can write the file, however long it is."""
SHORTEST_KEY_BYTES = 16
LONGEST_KEY_BYTES = blake2b.MAX_KEY_SIZE
_numbers = struct.Struct("<qqqdI").pack
_length = struct.Struct("<I").pack
NOT_A_ROW = (TypeError, ValueError, OverflowError, struct.error)
"""What `RunLinks.after` raises for values that no journal ever wrote: of other types, or too large."""


@dataclass(frozen=True, slots=True)
class RunChain:
    """What the links of a run say, once each of its events was checked against them.

    Attributes:
        events: How many there are.
        chained: How many of them, the last ones, have a link on record. The others were written before there were any.
        keyed: Whether the links are a MAC.
        head: The last link. Whoever notes it elsewhere can tell later that the run's end was not cut off.
    """

    events: int
    chained: int
    keyed: bool
    head: bytes


class RunLinks:
    """Makes the links of one run."""

    __slots__ = ("_begun", "first")

    def __init__(self, run_id: str, keyed: blake2b) -> None:
        name = run_id.encode()
        self._begun = keyed.copy()
        self._begun.update(_length(len(name)) + name)
        self.first = self._begun.digest()
        """What comes before the link of the first event."""

    def after(self, link: bytes, seq: int, cause: int, kind: str, version: int, at: float, body: str) -> bytes:
        """Return the link of the event after that one; raises one of `NOT_A_ROW` for what is no row."""
        hashed = self._begun.copy()
        hashed.update(link + _numbers(seq, cause, version, at, len(kind)) + (kind + body).encode())
        return hashed.digest()

    def of_posted(self, number: int, kind: str, version: int, body: str) -> bytes:
        """Return the link of a fact that a person left; as `after`."""
        return self.after(self.first, -number, 0, kind, version, 0.0, body)  # no event has such a number


class Chains:
    """Makes the links of a journal's runs.

    Args:
        key: Makes each link a MAC; None: links can be made by anybody.

    Raises:
        ConfigError: The key is too short or too long.
    """

    __slots__ = ("_keyed", "is_keyed")

    def __init__(self, key: bytes | None = None) -> None:
        if key is not None and not SHORTEST_KEY_BYTES <= len(key) <= LONGEST_KEY_BYTES:
            raise ConfigError(
                f"a journal's key has {SHORTEST_KEY_BYTES} to {LONGEST_KEY_BYTES} bytes, not {len(key)}",
                remedy="make one with `openssl rand -hex 32`",
            )
        self.is_keyed = key is not None
        self._keyed = blake2b(digest_size=LINK_BYTES, key=key or b"", person=b"planloom")

    def links(self, run_id: str) -> RunLinks:
        """Return what makes the links of this run."""
        return RunLinks(run_id, self._keyed)
