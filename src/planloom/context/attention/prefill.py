"""Filling a cache for a prompt from chunks' kept keys and values: `prefill`, `strict_prefill`, `prepared_cache`.

Rule 1: only what is exact is used again. A chunk counts as known where everything that made its keys is equal
(`kv_keys.py`); it may then stand elsewhere only where its keys were seen to move exactly (`rope.py`).
Rule 2: the cache holds instructions and chunks; the READER comes on top, by `generate` or by `prefill`.
Rule 3: what is used is what would be kept: an answer does not depend on what the store held before.
Rule 4: one prompt at a time, without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from planloom.context.attention.apply import apply
from planloom.context.attention.encoder import EncodedChunks, Encoder, Placed, cache_of, masking
from planloom.context.attention.encodings import EncodingPlan, layered
from planloom.context.attention.kv_keys import Maker, maker_of, model_identity
from planloom.context.attention.rope import changed_by_length, length_dependent
from planloom.context.attention.strict import in_rounds
from planloom.context.layout import SegmentKind, SegmentLayout
from planloom.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planloom.context.attention.chunk_kv import ChunkKVStore
    from planloom.context.mask_cache import MaskCache
    from planloom.plan.gasa import GasaPolicy

READER = SegmentKind.READER
UNKEPT = Maker(facts="", reach=0, soft=True)
"""For keys that are compared within one prompt only."""


@dataclass(frozen=True, slots=True)
class ReuseCounts:
    """What was taken from the store, and what was not.

    Attributes:
        kv_chunks_reused: Chunks that were not encoded at all.
        kv_tokens_reused: Their tokens.
        chunks_moved: Those of them whose keys were turned, because they stand at other positions than before.
        tokens_encoded: Tokens read through the model before the READER's, each as often as it was.
        rounds: Of `hop_mode` strict.
        refused: Why nothing could be used again or kept; None: it could.
    """

    kv_chunks_reused: int = 0
    kv_tokens_reused: int = 0
    chunks_moved: int = 0
    tokens_encoded: int = 0
    rounds: int = 0
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A prompt whose instructions and chunks are in a cache.

    Use: ``with prepared.over(model): model.generate(**prepared.inputs, ...)``. Once: generating adds to the cache.

    Attributes:
        length: Tokens in the cache.
        ids: The whole prompt, (1, tokens).
        positions: Of the whole prompt, (1, tokens).
        backend: What encoded the chunks that were not kept; "" where all were.
        layout: Of the prompt.
    """

    cache: Any
    length: int
    ids: torch.Tensor
    positions: torch.Tensor
    counts: ReuseCounts
    backend: str
    layout: SegmentLayout

    @property
    def inputs(self) -> dict[str, Any]:
        """Return what `model.generate` is to be given."""
        return {
            "input_ids": self.ids,
            "attention_mask": torch.ones_like(self.ids),
            "position_ids": self.positions,
            "past_key_values": self.cache,
        }

    @contextmanager
    def over(self, model: Any) -> Iterator[None]:
        """Let `generate` go on from this cache inside the block, assisted generation too.

        Assisted generation hands the whole prompt to its first pass, as if the cache were empty; here it is cut to what
        is not in the cache yet. The candidates' own search still sees the whole prompt.
        """
        handle = model.register_forward_pre_hook(self._cut, with_kwargs=True)
        try:
            with self.read_by(model):
                yield
        finally:
            handle.remove()

    def read_by(self, model: Any) -> AbstractContextManager[Any]:
        """Hold the model under the layout, for whoever calls it for what is not in the cache yet.

        The READER reads everything, so nothing is masked; but the model's way of attending must not change in the
        middle of a pass, because another thread is done with it.
        """
        return apply(model, self.layout, backend=masking(self.layout.policy))

    def _cut(self, _: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        ids, cache = named.get("input_ids"), named.get("past_key_values")
        if ids is None or cache is None or cache is not self.cache:
            return None
        if ids.shape[1] < self.ids.shape[1] or cache.get_seq_length() != self.length:
            return None
        cut = {"input_ids": ids[:, self.length :]}
        positions = named.get("position_ids")
        if positions is not None and positions.shape[-1] == ids.shape[1]:
            cut["position_ids"] = positions[..., self.length :]
        return given, {**named, **cut}


class Filled(NamedTuple):
    """A prompt that was read to its end.

    Attributes:
        logits: Of its last token, (1, vocabulary).
    """

    cache: Any
    logits: torch.Tensor
    counts: ReuseCounts


def prepared_cache(
    model: Any,
    ids: Sequence[int] | torch.Tensor,
    layout: SegmentLayout,
    policy: GasaPolicy,
    store: ChunkKVStore | None,
    *,
    identity: str | None = None,
    masks: MaskCache | None = None,
) -> PreparedPrompt:
    """Return the prompt with instructions and chunks in a cache, as `policy.hop_mode` says.

    Args:
        ids: The whole prompt, also as (1, tokens); those past the layout are READER.
        policy: Instead of the layout's.
        store: Where chunks are looked up and kept; None: nothing is.
        identity: Of `model_identity`; None: it is worked out from the weights.
        masks: Where tables of masks are kept from prompt to prompt.

    Raises:
        ConfigError: More than one prompt, a prompt without a READER, a model that is being trained or that cannot be
            masked, or one whose positions forbid strict rounds.
    """
    if layout.policy != policy:
        layout = SegmentLayout(layout.segments, layout.near, policy)
    prompt = torch.as_tensor(ids, device=model.device).reshape(1, -1) if isinstance(ids, Sequence) else ids
    _check(model, prompt, layout)
    refused = length_dependent(model.config) if store is not None else None
    kept = None if refused is not None else store
    maker = UNKEPT if kept is None else maker_of(model, identity or model_identity(model, "in memory"), layout)
    plan = plan_of(prompt, layout, maker)
    encoder = Encoder.of(model, prompt, layout, kept, masks)
    with torch.no_grad():
        found = encoder.filled(plan)
        cache = cache_of(model, placed(plan, found))
    counts = _counts(plan, found, layout, refused)
    return PreparedPrompt(cache, cache.get_seq_length(), prompt, encoder.positions, counts, found.backend, layout)


def prefill(
    model: Any,
    ids: Sequence[int] | torch.Tensor,
    layout: SegmentLayout,
    store: ChunkKVStore | None,
    *,
    identity: str | None = None,
) -> Filled:
    """Return the whole prompt in a cache, what the model says after it, and what was used again.

    Args, raises: As `prepared_cache`; the policy is the layout's.
    """
    prepared = prepared_cache(model, ids, layout, layout.policy, store, identity=identity)
    rest, positions = (one[:, prepared.length :] for one in (prepared.ids, prepared.positions))
    least = {"logits_to_keep": 1} if model._supports_logits_to_keep() else {}
    given = {"input_ids": rest, "position_ids": positions, "past_key_values": prepared.cache}
    with torch.no_grad(), prepared.read_by(model):
        logits = model(**given, use_cache=True, **least).logits[:, -1]
    return Filled(prepared.cache, logits, prepared.counts)


def strict_prefill(
    model: Any,
    ids: Sequence[int] | torch.Tensor,
    layout: SegmentLayout,
    store: ChunkKVStore | None = None,
    *,
    identity: str | None = None,
) -> Filled:
    """Return what `prefill` does, in rounds, whatever the layout's policy says: no chunk reaches beyond `max_hops`."""
    policy = layout.policy.model_copy(update={"hop_mode": "strict"})
    return prefill(model, ids, SegmentLayout(layout.segments, layout.near, policy), store, identity=identity)


def cannot_go_in_rounds(config: Any) -> str | None:
    """Return why `hop_mode` strict cannot be kept with a model of this config; None: it can."""
    return changed_by_length(config)


def plan_of(ids: torch.Tensor, layout: SegmentLayout, maker: Maker) -> EncodingPlan:
    """Return what has to be encoded, and how often."""
    tokens = ids[0].tolist()
    return in_rounds(layout, tokens, maker) if layout.policy.hop_mode == "strict" else layered(layout, tokens, maker)


def placed(plan: EncodingPlan, found: EncodedChunks) -> list[Placed]:
    """Return what the READER reads, in order."""
    last = [plan.encodings[at] for at in plan.last]
    return [(found.chunks[one.key], one.position) for one in last]


def _counts(plan: EncodingPlan, found: EncodedChunks, layout: SegmentLayout, refused: str | None) -> ReuseCounts:
    last = [plan.encodings[at] for at in plan.last]
    reused = [one for one in last if one.key in found.reused and layout.kinds[one.place] is SegmentKind.CHUNK]
    return ReuseCounts(
        kv_chunks_reused=len(reused),
        kv_tokens_reused=sum(found.chunks[one.key].tokens for one in reused),
        chunks_moved=sum(found.chunks[one.key].position != one.position for one in reused),
        tokens_encoded=found.tokens,
        rounds=plan.rounds,
        refused=refused,
    )


def _check(model: Any, ids: torch.Tensor, layout: SegmentLayout) -> None:
    before = max((end for end, kind in zip(layout.ends, layout.kinds, strict=True) if kind is not READER), default=0)
    if ids.ndim != 2 or ids.shape[0] != 1:
        raise ConfigError(f"ids of shape {tuple(ids.shape)}", remedy="give one prompt at a time")
    if ids.shape[1] <= before or ids.shape[1] < layout.n:
        raise ConfigError(
            f"{ids.shape[1]} tokens for a layout of {layout.n}, {before} of them before the question",
            remedy="put at least one token, e.g. of the question, after the chunks",
        )
    if model.training:
        raise ConfigError("a model that is being trained gives no keys to keep", remedy="call model.eval() first")
    reason = cannot_go_in_rounds(model.config) if layout.policy.hop_mode == "strict" else None
    if reason is not None:
        raise ConfigError(f"hop_mode 'strict' cannot be kept here: {reason}", remedy="use hop_mode 'layered'")
