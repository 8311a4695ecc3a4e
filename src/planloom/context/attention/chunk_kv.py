"""`ChunkKVStore`: keys and values of chunks, kept for the next prompt that holds the same chunk.

Rule 1: what is kept is never more than `max_bytes`, not for a moment; what was used longest ago goes first.
Rule 2: a kept tensor owns its memory and is never written to: many prompts read it at once.
Rule 3: it decides nothing: whether a chunk may be used again is in its key (`kv_keys.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from planloom.plan.gasa import ChunkKVConfig

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class ChunkKV:
    """Keys and values of one chunk.

    Attributes:
        keys, values: Of each layer, (1, heads, tokens, size).
        position: Of its first token, where the keys were made.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    position: int

    @property
    def tokens(self) -> int:
        return int(self.keys[0].shape[-2])

    @cached_property
    def size_bytes(self) -> int:
        return sum(one.numel() * one.element_size() for one in (*self.keys, *self.values))

    def to(self, dtype: torch.dtype) -> ChunkKV:
        """Return the same in another number format; itself where it is in that one."""
        if all(one.dtype is dtype for one in (*self.keys, *self.values)):
            return self
        keys, values = (tuple(one.to(dtype) for one in side) for side in (self.keys, self.values))
        return ChunkKV(keys, values, self.position)


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """What a store has done so far.

    Attributes:
        evicted: Chunks that went to make room.
        refused: Chunks that alone are larger than all the room there is.
        kept_bytes, kept_chunks: What it holds now.
    """

    hits: int
    misses: int
    evicted: int
    refused: int
    kept_bytes: int
    kept_chunks: int


class ChunkKVStore:
    """Chunks' keys and values in memory, on the device where they were made. Safe to use from many threads.

    Args:
        config: How much, and in what number format: a smaller one saves room, and answers change by its rounding.
    """

    def __init__(self, config: ChunkKVConfig) -> None:
        self.config = config
        self._kept: OrderedDict[str, ChunkKV] = OrderedDict()
        self._bytes = self._hits = self._misses = self._evicted = self._refused = 0
        self._lock = Lock()

    @property
    def counts(self) -> StoreCounts:
        with self._lock:
            return StoreCounts(self._hits, self._misses, self._evicted, self._refused, self._bytes, len(self._kept))

    def __contains__(self, key: object) -> bool:
        with self._lock:
            return key in self._kept

    def get(self, key: str) -> ChunkKV | None:
        """Return what is kept by this key, and count whether there was anything."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self._misses += 1
            else:
                self._hits += 1
                self._kept.move_to_end(key)
            return found

    def put(self, key: str, chunk: ChunkKV) -> None:
        """Keep this; others go where there is no room, and this is not kept where it alone is too large."""
        with self._lock:
            before = self._kept.pop(key, None)
            if before is not None:
                self._bytes -= before.size_bytes
            if chunk.size_bytes > self.config.max_bytes:
                self._refused += 1
                return
            while self._bytes + chunk.size_bytes > self.config.max_bytes:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= oldest.size_bytes
                self._evicted += 1
            self._kept[key] = chunk
            self._bytes += chunk.size_bytes

    def clear(self) -> None:
        """Let go of all; the counts stay."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def kept_dtype(self, made: torch.dtype) -> torch.dtype:
        """Return the number format in which chunks of a model of this one are kept."""
        return _DTYPES.get(self.config.dtype, made)
