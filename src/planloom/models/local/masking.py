"""The documents of a call, masked if that pays, and what became of that: `gasa_stats`.

Rule 1: the stats say what was done in this call; a mask that is not used has a reason that says why.
Rule 2: masks, and keys and values of chunks, are kept with the model they are of, and go with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from planloom.context.attention.apply import BACKENDS, apply, cannot_mask
from planloom.context.attention.chunk_kv import ChunkKVStore
from planloom.context.attention.kv_keys import model_identity
from planloom.context.attention.prefill import cannot_go_in_rounds, prepared_cache
from planloom.context.attention.shape import shape_of
from planloom.context.layout import layout_of
from planloom.context.mask_cache import MaskCache
from planloom.context.saving import reason_against
from planloom.context.stats import GasaStats
from planloom.models.local.decode import Begun

if TYPE_CHECKING:
    from planloom.context.layout import SegmentLayout
    from planloom.core.chat import Material
    from planloom.models.local.prompt import PromptTokens
    from planloom.models.local.weights import Loaded
    from planloom.plan.gasa import GasaPolicy

KEPT = "chunk_kv"
"""What is told as the backend where no chunk had to be read at all."""
Backend = Literal["auto", "blockrow", "flex", "sdpa_mask"]


@dataclass(frozen=True, slots=True)
class Masking:
    """What is done with the documents of one call; nothing, where it has none.

    Attributes:
        begun: The prompt, as far as it was read with what was kept; None: the model still has to read it.
        positions: Of the prompt's tokens, where they are not 0, 1, 2, …
    """

    stats: GasaStats | None = None
    begun: Begun | None = None
    positions: Sequence[int] | None = None

    def told(self, prefill_s: float) -> dict[str, Any] | None:
        """Return `gasa_stats`."""
        return None if self.stats is None else replace(self.stats, prefill_s=prefill_s).to_dict()


@contextmanager
def masking_of(material: Material | None, prompt: PromptTokens, loaded: Loaded) -> Iterator[Masking]:
    """Have the model read this prompt as its policy says, while this is open."""
    if material is None:
        yield Masking()
        return
    policy, began_at = material.policy, time.perf_counter()
    readers = [len(ids) for ids in (prompt.summary, prompt.reader) if ids]
    layout = layout_of(material, [len(ids) for ids in prompt.passages], len(prompt.sink), readers)
    (block_fraction, reason), is_hit = _judged(layout, policy, loaded)
    mask_ms = (time.perf_counter() - began_at) * 1e3
    if reason is not None:
        yield Masking(GasaStats.of_dense(layout, reason, mask_ms=mask_ms, mask_cache_hit=is_hit))
        return
    with ExitStack() as stack:
        told = {"block_fraction": block_fraction, "mask_ms": mask_ms, "mask_cache_hit": is_hit}
        if policy.chunk_kv is None and policy.hop_mode == "layered":
            masks = _masks(policy, loaded)
            used = stack.enter_context(apply(loaded.model, layout, backend=_backend(policy), masks=masks))
            stats = GasaStats.of_mask(layout, used.backend, fallback_reason=used.note or None, **told)
            yield Masking(stats, positions=_positions(layout))
            return
        yield _from_kept(layout, prompt, loaded, told)


def _judged(layout: SegmentLayout, policy: GasaPolicy, loaded: Loaded) -> tuple[tuple[float, str | None], bool]:
    """Return the share of blocks that a mask leaves, why there is none all the same, and whether that was known."""
    if not policy.enabled or policy.backend in ("off", "packing"):
        return (1.0, "gasa is off" if policy.backend != "packing" else "backend packing makes no mask"), False
    against = cannot_mask(loaded.model)
    if against is not None:
        return (1.0, against), False
    against = cannot_go_in_rounds(loaded.model.config) if policy.hop_mode == "strict" else None
    if against is not None:
        return (1.0, against), False
    tables, is_hit = _masks(policy, loaded).tables(layout)
    fraction = tables.block_fraction
    if policy.backend != "auto":
        return (fraction, None), is_hit
    shape = shape_of(loaded.model.config)
    if policy.chunk_kv is not None or policy.hop_mode == "strict":
        # What is kept saves far more than a mask does, and a strict limit is asked for what it means.
        policy = policy.model_copy(update={"min_saving": 0.0})
    return (fraction, reason_against(layout.n, shape, fraction, policy)), is_hit


def _from_kept(layout: SegmentLayout, prompt: PromptTokens, loaded: Loaded, told: dict[str, Any]) -> Masking:
    """Return a prompt that is read but for its end: chunks by themselves, kept ones not at all."""
    policy = layout.policy
    identity = _kept(loaded, "identity", lambda: model_identity(loaded.model, str(loaded.folder), folder=loaded.folder))
    ids = torch.tensor([prompt.ids], device=loaded.model.device)
    store, masks = _store(policy, loaded), _masks(policy, loaded)
    prepared = prepared_cache(loaded.model, ids, layout, policy, store, identity=identity, masks=masks)
    counts = prepared.counts
    stats = GasaStats.of_mask(
        layout,
        prepared.backend or KEPT,
        kv_chunks_reused=counts.kv_chunks_reused,
        kv_tokens_reused=counts.kv_tokens_reused,
        fallback_reason=counts.refused,
        **told,
    )
    return Masking(stats, Begun(prepared.cache, prepared.length), _positions(layout))


def _store(policy: GasaPolicy, loaded: Loaded) -> ChunkKVStore | None:
    config = policy.chunk_kv
    if config is None:
        return None
    store: ChunkKVStore = _kept(loaded, config, lambda: ChunkKVStore(config))
    return store


def _masks(policy: GasaPolicy, loaded: Loaded) -> MaskCache:
    size = policy.mask_cache_size if policy.cache_masks else 0
    masks: MaskCache = _kept(loaded, ("masks", size), lambda: MaskCache(size))
    return masks


def _kept(loaded: Loaded, name: Any, make: Callable[[], Any]) -> Any:
    if name not in loaded.kept:
        loaded.kept[name] = make()
    return loaded.kept[name]


def _backend(policy: GasaPolicy) -> Backend:
    return next((known for known in BACKENDS if known == policy.backend), "auto")


def _positions(layout: SegmentLayout) -> Sequence[int] | None:
    return None if layout.policy.positions == "global" else layout.positions()
