"""Whether a mask pays: how much of a model's work on a prompt is attention, and how much of that would go.

Rule 1: what is predicted is work, not time; what the time was is measured, and told in `gasa_stats`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planloom.plan.gasa import GasaPolicy


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the work of a model depends on.

    Attributes:
        heads: Heads of queries; those of keys and values may be fewer.
        head_dim: Numbers in one head.
        parameters: Weights that every token is multiplied with: all but the embeddings.
    """

    layers: int
    heads: int
    head_dim: int
    parameters: int


def attention_share(n_tokens: int, shape: ModelShape) -> float:
    """Return which share of the work on a prompt of so many tokens is attention, 0 to 1, without a mask."""
    attention = 2 * n_tokens * shape.layers * shape.heads * shape.head_dim
    return attention / (attention + 2 * shape.parameters) if attention else 0.0


def predicted_saving(n_tokens: int, shape: ModelShape, block_fraction: float) -> float:
    """Return which share of the work a mask saves, 0 to 1, that leaves this share of the blocks to compute."""
    return attention_share(n_tokens, shape) * (1 - block_fraction)


def reason_against(n_tokens: int, shape: ModelShape, block_fraction: float, policy: GasaPolicy) -> str | None:
    """Return why `backend: auto` masks nothing here, for `gasa_stats`; None where it pays."""
    if n_tokens < policy.min_tokens:
        return f"{n_tokens} tokens are fewer than min_tokens {policy.min_tokens}"
    saving = predicted_saving(n_tokens, shape, block_fraction)
    if saving < policy.min_saving:
        return f"a mask would save {saving:.1%} of the work, less than min_saving {policy.min_saving:.1%}"
    return None
