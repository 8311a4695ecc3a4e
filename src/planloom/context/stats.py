"""What a model really read, and what that saved: `GasaStats`, told as `metadata["gasa_stats"]`.

Rule 1: it says what was done, not what was asked for; where the two differ, `fallback_reason` says why.
Rule 2: JSON only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planloom.context.layout import SegmentLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class GasaStats:
    """How documents were read in one call.

    Attributes:
        strategy: What was done: "binary" or "soft" (a mask), "prompt_composer", "block_diagonal", "windowed" (packing),
            or "dense": everything read everything before it.
        backend: What did it: "blockrow", "flex", "sdpa_mask", "packing" or "off".
        tokens: Of the prompt, or None where nobody could count them before the model did.
        allowed_pairs: Pairs of tokens that read each other, of `dense_pairs` where nothing is masked or left out; told
            also as `kept_pairs`.
        block_fraction: The share of blocks computed, of those without a mask; None: no mask was cut into blocks.
        mask_ms: Milliseconds for who reads whom, and its tables.
        prefill_s: Seconds until the model had read the prompt; None where it does not tell.
        kv_chunks_reused, kv_tokens_reused: Of chunks whose keys and values were kept from a prompt before.
        pruned_chunks: Chunks left out, or replaced by a line.
        tokens_before, tokens_after: Of the documents, all and as read.
        unknown_nodes: Documents that are no node of the graph.
        fallback_reason: Why it was not done as asked; None where it was.
    """

    strategy: str
    backend: str
    tokens: int | None = None
    chunks: int = 0
    max_hops: int = 0
    allowed_pairs: int = 0
    dense_pairs: int = 0
    block_fraction: float | None = None
    mask_ms: float = 0.0
    mask_cache_hit: bool = False
    prefill_s: float | None = None
    kv_chunks_reused: int = 0
    kv_tokens_reused: int = 0
    pruned_chunks: int = 0
    tokens_before: int | None = None
    tokens_after: int | None = None
    unknown_nodes: int = 0
    fallback_reason: str | None = None

    @classmethod
    def of_mask(cls, layout: SegmentLayout, backend: str, *, block_fraction: float, **more: Any) -> GasaStats:
        """Return what is known of a prompt that was masked by this layout; `more` are further fields."""
        return cls(
            strategy=layout.policy.mask_strategy,
            backend=backend,
            allowed_pairs=layout.allowed_pairs,
            block_fraction=block_fraction,
            **(_counts(layout) | more),
        )

    @classmethod
    def of_dense(cls, layout: SegmentLayout, reason: str | None, **more: Any) -> GasaStats:
        """Return what is known of a prompt that was laid out like this and not masked, because of `reason`."""
        return cls(
            strategy="dense",
            backend="off",
            allowed_pairs=layout.dense_pairs,
            fallback_reason=reason,
            **(_counts(layout) | more),
        )

    @property
    def pair_fraction(self) -> float:
        """Return which share of the pairs was kept; told also as `density`."""
        return self.allowed_pairs / self.dense_pairs if self.dense_pairs else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return the stats as JSON, under every name they are known by."""
        share = {"pair_fraction": self.pair_fraction, "density": self.pair_fraction}
        return asdict(self) | share | {"kept_pairs": self.allowed_pairs}


def _counts(layout: SegmentLayout) -> dict[str, Any]:
    tokens = sum(layout.segments[at].length for at in layout.chunks)
    return {
        "tokens": layout.n,
        "chunks": len(layout.chunks),
        "max_hops": layout.policy.max_hops,
        "dense_pairs": layout.dense_pairs,
        "tokens_before": tokens,
        "tokens_after": tokens,
    }
