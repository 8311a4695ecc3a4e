"""Attention under one explicit mask of tokens: the oracle that the other backends are tested against.

Rule 1: it is written from the definition, pair by pair, and shares nothing with the backends it judges.
Rule 2: it holds queries times keys numbers and saves nothing: it is slower than no mask at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from planloom.context.layout import SegmentLayout


def score_bias(layout: SegmentLayout, start: int, stop: int) -> Any:
    """Return what is added to the scores of queries `start` to before `stop` over `stop` keys."""
    layout = layout.grown(stop)
    fall = layout.policy.soft_bias if layout.policy.mask_strategy == "soft" else 0.0
    count = len(layout.segments)
    between = torch.full((count, count), float("-inf"), dtype=torch.float32)
    for q in range(count):
        for k in range(q + 1):
            hops = layout.hops(q, k)
            if hops >= 0:
                between[q, k] = -fall * hops
    lengths = torch.tensor([segment.length for segment in layout.segments])
    of = torch.arange(count).repeat_interleave(lengths)[:stop]
    tokens = torch.arange(stop)
    bias = between[of[start:]][:, of]
    return bias.masked_fill(tokens[None, :] > tokens[start:, None], float("-inf"))


def by_mask(query: Any, key: Any, value: Any, bias: Any, *, scale: float | None) -> Any:
    """Return what the queries read, of shape (1, queries, heads, head_dim).

    Args:
        bias: Of `score_bias`, on any device.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    mask = bias.to(device=query.device, dtype=query.dtype)[None, None]
    read = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    return read.transpose(1, 2).contiguous()
