"""Which blocks of a mask there is anything to compute in: the tables that sparse kernels take.

Rule 1: a full block is allowed as a whole, and stands strictly below the diagonal: on it, causality cuts into blocks.
Rule 2: nothing here grows with tokens squared; what is allowed is told in ranges of tokens, and blocks are bits.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Ranges = tuple[tuple[int, int], ...]
"""Tokens, as (start, end), ascending and apart."""


@dataclass(frozen=True)
class BlockTables:
    """The blocks of keys that each block of queries reads; block b holds tokens b * block_size and on.

    Attributes:
        n: Tokens; the last block may hold fewer than `block_size`.
        kv_idx: For each block of queries, the blocks that are allowed in part, ascending.
        full_idx: The same for those allowed as a whole; no block is in both.
    """

    block_size: int
    n: int
    kv_idx: tuple[array[int], ...]
    full_idx: tuple[array[int], ...]

    @property
    def blocks(self) -> int:
        return len(self.kv_idx)

    @cached_property
    def kv_num(self) -> array[int]:
        """Return for each block of queries how many blocks are allowed in part."""
        return array("i", map(len, self.kv_idx))

    @cached_property
    def full_num(self) -> array[int]:
        return array("i", map(len, self.full_idx))

    @property
    def block_fraction(self) -> float:
        """Return which share of the blocks that causal attention computes is computed."""
        causal = self.blocks * (self.blocks + 1) // 2
        return (sum(self.kv_num) + sum(self.full_num)) / causal if causal else 1.0

    def padded(self, which: Literal["kv", "full"]) -> array[int]:
        """Return the indices as one table, row by row, `blocks` wide: what a row has no blocks for is 0."""
        wide = array("i", bytes(self.blocks * self.blocks * array("i").itemsize))
        for row, found in enumerate(self.kv_idx if which == "kv" else self.full_idx):
            at = row * self.blocks
            wide[at : at + len(found)] = found
        return wide


def tables_of(segments: Sequence[tuple[int, int, Ranges]], block_size: int) -> BlockTables:
    """Return the tables of a causal mask.

    Args:
        segments: (start, end, ranges) of each run of tokens whose queries read alike, from token 0 without gaps; the
            ranges hold the run itself, and nothing past its end.
        block_size: Tokens of a block, of queries and of keys.
    """
    filled = [one for one in segments if one[1] > one[0]]
    n = filled[-1][1] if filled else 0
    blocks = -(-n // block_size)
    some, whole = [0] * blocks, [-1] * blocks
    for start, end, ranges in filled:
        touched, covered = _touched(ranges, block_size), _covered(ranges, block_size)
        for block in range(start // block_size, (end - 1) // block_size + 1):
            some[block] |= touched
            whole[block] &= covered
    kv_idx, full_idx = [], []
    for block in range(blocks):
        below = (1 << block) - 1
        full = whole[block] & below
        part = some[block] & (below << 1 | 1) & ~full
        kv_idx.append(_indices(part))
        full_idx.append(_indices(full))
    return BlockTables(block_size, n, tuple(kv_idx), tuple(full_idx))


def bit_runs(bits: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of ones in an int that is not negative, as (first, after the last), lowest first."""
    at = 0
    while bits:
        zeros = (bits & -bits).bit_length() - 1
        bits >>= zeros
        ones = (~bits & (bits + 1)).bit_length() - 1
        bits >>= ones
        yield at + zeros, at + zeros + ones
        at += zeros + ones


def _indices(bits: int) -> array[int]:
    found = array("i")
    for first, after in bit_runs(bits):
        found.extend(range(first, after))
    return found


def _touched(ranges: Ranges, size: int) -> int:
    bits = 0
    for start, end in ranges:
        bits |= _ones(start // size, (end - 1) // size + 1)
    return bits


def _covered(ranges: Ranges, size: int) -> int:
    bits = 0
    for start, end in ranges:
        bits |= _ones(-(-start // size), end // size)
    return bits


def _ones(first: int, after: int) -> int:
    return (1 << after) - (1 << first) if after > first else 0
