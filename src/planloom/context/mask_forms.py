"""A mask as single tokens see it, in three forms that say the same: to look at, to compare, to keep in a file.

Rule 1: a cell holds 0 for a pair that is not read and hops + 1 for one that is, so one mask serves "binary" and "soft".
Rule 2: no model is run on these: kernels take a layout and its block tables, which are far smaller.
Rule 3: what is in a file is JSON, ranges of tokens; nothing in it is run.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from math import exp, inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from planloom.errors import ConfigError, suggestion
from planloom.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from planloom.context.layout import SegmentLayout

Form = Literal["dense", "sparse", "block_sparse"]
MOST_DENSE_TOKENS = 1 << 15
"""Pair by pair, so many tokens take a gibibyte."""
_NUMBER_BYTES = 8
"""Of a number in a range, as it is counted in `size_bytes`."""


@dataclass(frozen=True, slots=True)
class Band:
    """Tokens, one after the other, that read alike but for causality.

    Attributes:
        start, end: The tokens.
        ranges: What they read: (start, end, cell), ascending and apart; each token only up to itself.
    """

    start: int
    end: int
    ranges: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class TokenMask:
    """Which token reads which.

    Attributes:
        n: Tokens.
        form: How it is held: "dense", a byte for each pair; "sparse", ranges; "block_sparse", the blocks that are not
            empty, one cell for a block that is uniform.
        soft_bias: What a score falls by for each hop; None: nothing.
        cells: In the form's own way; ask `row` and `weight`.
    """

    n: int
    form: Form
    block_size: int
    soft_bias: float | None
    cells: tuple[bytes, ...] | tuple[Band, ...] | dict[tuple[int, int], bytes] = field(repr=False)

    @classmethod
    def of(cls, layout: SegmentLayout, form: Form = "sparse") -> TokenMask:
        """Return the layout's mask; ConfigError for over `MOST_DENSE_TOKENS` in a form other than sparse."""
        policy = layout.policy
        bias = policy.soft_bias if policy.mask_strategy == "soft" else None
        return cls(layout.n, "sparse", policy.block_size, bias, tuple(_bands(layout))).in_form(form)

    def in_form(self, form: Form) -> TokenMask:
        """Return the same mask, held otherwise."""
        if form not in get_args(Form):
            raise ConfigError(f"no form {form!r} of a mask", remedy=suggestion(str(form), get_args(Form)))
        if form == self.form:
            return self
        if form == "sparse":
            return replace(self, form=form, cells=tuple(_grouped(self.rows())))
        if self.n > MOST_DENSE_TOKENS:
            raise ConfigError(
                f"a mask of {self.n} tokens, pair by pair, takes {self.n**2 / 2**30:.1f} GiB",
                remedy="use form 'sparse'",
            )
        if form == "dense":
            return replace(self, form=form, cells=tuple(self.rows()))
        return replace(self, form=form, cells=_blocked(self.rows(), self.n, self.block_size))

    def rows(self) -> Iterator[bytes]:
        """Yield each token's cells, one byte for each token of the mask."""
        if self.form == "sparse":
            for band in self._held_bands:
                pattern = _pattern(band, self.n)
                for token in range(band.start, band.end):
                    yield pattern[: token + 1] + bytes(self.n - token - 1)
        else:
            for token in range(self.n):
                yield self.row(token)

    def row(self, token: int) -> bytes:
        """Return one token's cells."""
        if not 0 <= token < self.n:
            raise ConfigError(f"no token {token} in a mask of {self.n}", remedy="count from 0")
        if isinstance(self.cells, dict):
            return self._row_of_blocks(token)
        found = self.cells[token] if self.form == "dense" else None
        if isinstance(found, bytes):
            return found
        band = self._held_bands[bisect_right(self._band_starts, token) - 1]
        return _pattern(band, self.n)[: token + 1] + bytes(self.n - token - 1)

    def weight(self, q: int, k: int) -> float:
        """Return what token q's score for token k is worth: 0 where it is not read, else 1, or less with every hop."""
        cell = self.row(q)[k]
        if cell == 0 or self.soft_bias is None:
            return float(cell > 0)
        return exp(-self.soft_bias * (cell - 1))

    @property
    def density(self) -> float:
        """Return which share of the pairs a causal model computes is read."""
        read = sum(self.n - row.count(0) for row in self.rows())
        return read / (self.n * (self.n + 1) // 2) if self.n else 1.0

    @property
    def size_bytes(self) -> int:
        """Return what the cells take, without what Python adds."""
        if isinstance(self.cells, dict):
            return sum(len(cells) + 2 * _NUMBER_BYTES for cells in self.cells.values())
        return sum(
            len(one) if isinstance(one, bytes) else _NUMBER_BYTES * (2 + 3 * len(one.ranges)) for one in self.cells
        )

    def same_as(self, other: TokenMask) -> bool:
        """Return whether both say the same of every pair, whatever form they are in."""
        return (
            (self.n, self.soft_bias) == (other.n, other.soft_bias)
            and all(mine == theirs for mine, theirs in zip(self.rows(), other.rows(), strict=True))
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return the mask as JSON; `from_dict` gives an equal one back."""
        bands = self.in_form("sparse")._held_bands
        return {
            "n": self.n,
            "form": self.form,
            "block_size": self.block_size,
            "soft_bias": self.soft_bias,
            "bands": [[band.start, band.end, [list(one) for one in band.ranges]] for band in bands],
        }

    @classmethod
    def from_dict(cls, told: Any) -> TokenMask:
        """Return the mask of `to_dict`.

        Raises:
            ConfigError: It is no mask.
        """
        try:
            bands = tuple(
                Band(start, end, tuple((first, after, cell) for first, after, cell in ranges))
                for start, end, ranges in told["bands"]
            )
            n, block_size, bias, form = told["n"], told["block_size"], told["soft_bias"], told["form"]
            _check(n, block_size, bias, bands)
            mask = cls(n, "sparse", block_size, bias, bands)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"this is no mask: {error}", remedy="give what TokenMask.to_dict made") from error
        return mask.in_form(form)

    def save(self, path: str | Path) -> None:
        """Write the mask to a file, as JSON."""
        write_whole(Path(path), json.dumps(self.to_dict(), separators=(",", ":")))

    @classmethod
    def load(cls, path: str | Path) -> TokenMask:
        """Return the mask of a file that `save` wrote; ConfigError for any other."""
        try:
            told = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} holds no mask: {error}", remedy="give what TokenMask.save wrote") from error
        return cls.from_dict(told)

    @cached_property
    def _held_bands(self) -> tuple[Band, ...]:
        return tuple(band for band in self.cells if isinstance(band, Band))

    @cached_property
    def _band_starts(self) -> list[int]:
        return [band.start for band in self._held_bands]

    def _row_of_blocks(self, token: int) -> bytes:
        assert isinstance(self.cells, dict)
        size = self.block_size
        block, line = divmod(token, size)
        parts = []
        for other in range(block + 1):
            width = min(size, self.n - other * size)
            cells = self.cells.get((block, other), b"\0")
            parts.append(cells * width if len(cells) == 1 else cells[line * width : (line + 1) * width])
        return b"".join(parts).ljust(self.n, b"\0")


def _bands(layout: SegmentLayout) -> Iterator[Band]:
    for at, (start, end) in enumerate(zip(layout.starts, layout.ends, strict=True)):
        if start == end:
            continue
        ranges: list[tuple[int, int, int]] = []
        for other in range(at + 1):
            cell = layout.hops(at, other) + 1
            first, after = layout.starts[other], layout.ends[other]
            if cell == 0 or first == after:
                continue
            if ranges and ranges[-1][1:] == (first, cell):
                first = ranges.pop()[0]
            ranges.append((first, after, cell))
        yield Band(start, end, tuple(ranges))


def _pattern(band: Band, n: int) -> bytes:
    cells = bytearray(n)
    for first, after, cell in band.ranges:
        cells[first:after] = bytes((cell,)) * (after - first)
    return bytes(cells)


def _grouped(rows: Iterable[bytes]) -> Iterator[Band]:
    """Yield the bands of a mask: a row belongs to the band before it where it only adds to what that one reads."""
    start, before = 0, b""
    for token, row in enumerate(rows):
        if row[:token] != before[:token]:
            yield Band(start, token, _ranges(before[:token]))
            start = token
        before = row
    if before:
        yield Band(start, len(before), _ranges(before))


def _ranges(cells: bytes) -> tuple[tuple[int, int, int], ...]:
    found = []
    at = 0
    while at < len(cells):
        cell = cells[at]
        rest = cells[at:]
        after = at + len(rest) - len(rest.lstrip(bytes((cell,))))
        if cell:
            found.append((at, after, cell))
        at = after
    return tuple(found)


def _blocked(rows: Iterable[bytes], n: int, size: int) -> dict[tuple[int, int], bytes]:
    found: dict[tuple[int, int], bytes] = {}
    waiting: list[bytes] = []
    for token, row in enumerate(rows):
        waiting.append(row)
        if len(waiting) < size and token < n - 1:
            continue
        block = token // size
        for other in range(block + 1):
            cells = b"".join(line[other * size : (other + 1) * size] for line in waiting)
            uniform = cells.count(cells[0]) == len(cells)
            if not uniform or cells[0]:
                found[block, other] = cells[:1] if uniform else cells
        waiting.clear()
    return found


def _check(n: object, block_size: object, bias: object, bands: tuple[Band, ...]) -> None:
    """Raise ValueError for what no layout makes: gaps, ranges out of order, a bias that is none."""
    numbers = [n, block_size, *(number for band in bands for number in (band.start, band.end, *chain(*band.ranges)))]
    if any(type(number) is not int or number < 0 for number in numbers) or block_size == 0:
        raise ValueError("tokens are counted in whole numbers")
    if bias is not None and not (isinstance(bias, float) and 0 < bias < inf):
        raise ValueError("soft_bias is a number over 0")
    at = 0
    for band in bands:
        if band.start != at or not at < band.end:
            raise ValueError(f"the band at token {at} is missing")
        last = 0
        for first, after, cell in band.ranges:
            if not last <= first < after <= band.end or not 1 <= cell <= 255:
                raise ValueError(f"a range of the band at token {at} is out of order")
            last = after
        at = band.end
    if at != n:
        raise ValueError(f"bands end at token {at} of {n}")
