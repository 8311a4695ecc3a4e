"""Masks made before, for prompts whose segments hang together alike: `MaskCache`.

Rule 1: a key is of lengths, kinds, who reads whom and how it is cut into blocks; never of the text.
Rule 2: safe to use from many threads. Two that miss at once both make it; one of the two is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from planloom.context.blocks import BlockTables
    from planloom.context.layout import SegmentLayout

T = TypeVar("T")


class MaskCache:
    """Keeps the `size` masks used last; 0: none.

    Attributes:
        hits, misses: How often one was there, and was not.
    """

    def __init__(self, size: int) -> None:
        self.hits = 0
        self.misses = 0
        self._size = size
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def tables(self, layout: SegmentLayout, block_size: int | None = None) -> tuple[BlockTables, bool]:
        """Return the layout's block tables, and whether they were there."""
        size = block_size or layout.policy.block_size
        return self.get(layout.key(size), lambda: layout.block_tables(size))

    def get(self, key: str, make: Callable[[], T]) -> tuple[T, bool]:
        """Return what is kept by this key, or what `make` returns, and whether it was there."""
        with self._lock:
            if key in self._kept:
                self.hits += 1
                self._kept.move_to_end(key)
                found: T = self._kept[key]
                return found, True
            self.misses += 1
        made = make()
        with self._lock:
            self._kept[key] = made
            self._kept.move_to_end(key)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return made, False
