"""Reading chunks through the model, those that no store holds, and putting keys and values together into a cache.

Rule 1: what has to be encoded and reads nothing kept goes through the model in one pass, under its mask; what reads
something kept goes over just that, put together into a cache, in the plan's order.
Rule 2: keys and values that go into a store are copies: a slice would hold on to the whole prompt's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import DynamicCache

from planloom.context.attention.apply import BACKENDS, apply
from planloom.context.attention.chunk_kv import ChunkKV, ChunkKVStore
from planloom.context.attention.rope import rotation_of
from planloom.context.layout import SegmentKind, SegmentLayout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planloom.context.attention.encodings import EncodingPlan
    from planloom.context.mask_cache import MaskCache
    from planloom.plan.gasa import GasaPolicy

Backend = Literal["auto", "blockrow", "flex", "sdpa_mask"]
Placed = tuple[ChunkKV, int]
"""A chunk's keys and values, and at what position its first token stands here."""


@dataclass(slots=True)
class EncodedChunks:
    """Keys and values by key of encoding.

    Attributes:
        reused: Keys that the store held.
        tokens: Read through the model.
        backend: What masked them; "" where there were none.
    """

    chunks: dict[str, ChunkKV] = field(default_factory=dict)
    reused: set[str] = field(default_factory=set)
    tokens: int = 0
    backend: str = ""


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes segments of one prompt.

    Attributes:
        ids, positions: Of the prompt, (1, tokens).
        store: Where to look and keep; None: nowhere.
        dtype: In which numbers are kept; also where there is no store.
    """

    model: Any
    ids: torch.Tensor
    positions: torch.Tensor
    layout: SegmentLayout
    store: ChunkKVStore | None
    dtype: torch.dtype
    backend: Backend
    masks: MaskCache | None

    @classmethod
    def of(
        cls,
        model: Any,
        ids: torch.Tensor,
        layout: SegmentLayout,
        store: ChunkKVStore | None,
        masks: MaskCache | None = None,
    ) -> Encoder:
        known = layout.positions()
        after = known[-1] + 1 if known else 0
        positions = [*known, *range(after, after + ids.shape[1] - len(known))]
        dtype = model.dtype if store is None else store.kept_dtype(model.dtype)
        placed = torch.tensor([positions], device=ids.device)
        return cls(model, ids, placed, layout, store, dtype, masking(layout.policy), masks)

    def filled(self, plan: EncodingPlan) -> EncodedChunks:
        """Return keys and values of at least the plan's last encodings."""
        found = EncodedChunks()
        missing = self._looked_up(plan, found)
        self._together(plan, self._first(plan, missing), found)
        for at in missing:
            if plan.encodings[at].key not in found.chunks:
                self._over_others(plan, at, found)
        return found

    def _looked_up(self, plan: EncodingPlan, found: EncodedChunks) -> list[int]:
        """Return the encodings that are wanted and not kept, in order; a kept one's own reading is not wanted."""
        wanted, missing = set(plan.last), []
        for at in reversed(range(len(plan.encodings))):
            one = plan.encodings[at]
            if at not in wanted or one.key in found.chunks:
                continue
            kept = self.store.get(one.key) if self.store is not None else None
            if kept is None:
                missing.append(at)
                wanted.update(one.reads)
            else:
                found.chunks[one.key] = kept
                found.reused.add(one.key)
        return missing[::-1]

    def _first(self, plan: EncodingPlan, missing: Sequence[int]) -> list[int]:
        """Return which go into the one pass: those that read no kept chunk. Instructions are read again there."""
        members: set[int] = set()
        sinks = [at for at in plan.last if self._is_sink(plan, at)]
        for at in missing:
            one = plan.encodings[at]
            if one.first and all(other in members or self._is_sink(plan, other) for other in one.reads):
                members.add(at)
        if not members or members.issuperset(sinks):
            return sorted(members)
        pass_over = sum(self._tokens(plan, at) for at in sinks) > sum(self._tokens(plan, at) for at in members)
        all_kept = all(plan.encodings[at].key not in {plan.encodings[one].key for one in missing} for at in sinks)
        return [] if pass_over and all_kept else sorted(members.union(sinks))

    def _together(self, plan: EncodingPlan, members: Sequence[int], found: EncodedChunks) -> None:
        if not members:
            return
        places = [plan.encodings[at].place for at in members]
        cache = self._read(plan.together, places, DynamicCache(config=self.model.config), found)
        start = 0
        for at in members:
            tokens = self._tokens(plan, at)
            self._keep(plan, at, _cut(cache, start, start + tokens, plan.encodings[at].position), found)
            start += tokens

    def _over_others(self, plan: EncodingPlan, at: int, found: EncodedChunks) -> None:
        reads = [plan.encodings[other] for other in plan.encodings[at].reads]
        cache = cache_of(self.model, [(found.chunks[one.key], one.position) for one in reads])
        tokens = self._tokens(plan, at)
        places = [*(one.place for one in reads), plan.encodings[at].place]
        cache = self._read(self.layout, places, cache, found, only_last=True)
        end = cache.get_seq_length()
        self._keep(plan, at, _cut(cache, end - tokens, end, plan.encodings[at].position), found)

    def _read(
        self, layout: SegmentLayout, places: Sequence[int], cache: Any, found: EncodedChunks, *, only_last: bool = False
    ) -> Any:
        """Read segments through the model, as if there were no others; `only_last`: the others are in the cache."""
        part = _part(layout, places)
        read = places[-1:] if only_last else places
        tokens = torch.cat([torch.arange(layout.starts[at], layout.ends[at]) for at in read]).to(self.ids.device)
        with apply(self.model, part, backend=self.backend, masks=self.masks) as applied:
            self.model.base_model(
                input_ids=self.ids[:, tokens],
                position_ids=self.positions[:, tokens],
                past_key_values=cache,
                use_cache=True,
            )
        found.backend = applied.backend
        found.tokens += len(tokens)
        return cache

    def _keep(self, plan: EncodingPlan, at: int, made: ChunkKV, found: EncodedChunks) -> None:
        key, kept = plan.encodings[at].key, made.to(self.dtype)
        if key in found.reused:  # Instructions that were read again for those that stand over them.
            return
        found.chunks[key] = kept
        if self.store is not None:
            self.store.put(key, kept)

    def _is_sink(self, plan: EncodingPlan, at: int) -> bool:
        return self.layout.kinds[plan.encodings[at].place] is SegmentKind.SINK

    def _tokens(self, plan: EncodingPlan, at: int) -> int:
        return self.layout.segments[plan.encodings[at].place].length


def masking(policy: GasaPolicy) -> Backend:
    """Return which backend is to mask under this policy."""
    return next((known for known in BACKENDS if known == policy.backend), "auto")


def cache_of(model: Any, parts: Sequence[Placed]) -> Any:
    """Return a cache that holds these chunks one after the other, each moved to where it stands here."""
    cache = DynamicCache(config=model.config)
    if not parts:
        return cache
    turn = _turn(model, parts)
    for layer in range(len(parts[0][0].keys)):
        keys = torch.cat([chunk.keys[layer] for chunk, _ in parts], dim=-2).to(model.dtype)
        values = torch.cat([chunk.values[layer] for chunk, _ in parts], dim=-2).to(model.dtype)
        if turn is not None:
            keys = turn(keys)
        cache.update(keys[..., :0, :], values[..., :0, :], layer)  # Only makes the layer ready.
        cache.layers[layer].keys, cache.layers[layer].values = keys, values
    return cache


def _turn(model: Any, parts: Sequence[Placed]) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return what moves the keys of these chunks, joined; None: each stands where it was made."""
    if all(chunk.position == position for chunk, position in parts):
        return None
    rotation = rotation_of(model)
    if rotation is None:  # Their keys hold their positions, so none can have been found elsewhere.
        raise RuntimeError("a chunk was found at another position, but this model's keys cannot be moved")
    device = parts[0][0].keys[0].device
    old, new = (
        torch.cat([torch.arange(first, first + chunk.tokens, device=device) for chunk, first in side])
        for side in ([(chunk, chunk.position) for chunk, _ in parts], parts)
    )
    cos, sin = rotation.turn(old, new)
    return lambda keys: rotation.turned(keys, cos, sin)


def _cut(cache: Any, start: int, end: int, position: int) -> ChunkKV:
    """Return the keys and values of these tokens, as copies."""
    keys, values = (
        tuple(side[..., start:end, :].clone(memory_format=torch.contiguous_format) for side in sides)
        for sides in zip(*((layer.keys, layer.values) for layer in cache.layers), strict=True)
    )
    return ChunkKV(keys, values, position)


def _part(layout: SegmentLayout, places: Sequence[int]) -> SegmentLayout:
    """Return the layout of these segments alone."""
    here = {place: at for at, place in enumerate(places)}
    near = ({here[other]: away for other, away in layout.near[at].items() if other in here} for at in places)
    return SegmentLayout(tuple(layout.segments[at] for at in places), tuple(near), layout.policy)
