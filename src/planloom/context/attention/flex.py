"""Attention by blocks through torch's FlexAttention: the backend on CUDA.

Rule 1: the tables of blocks come from the layout; nothing of tokens squared is made. A full block is computed without
a mask, a partial one under `mask_mod`, and the others not at all.
Rule 2: compiled once for each bucket of lengths: prompts are padded up to it, and rows of padding have no blocks. Every
bucket has a code object of its own, because torch gives up compiling, silently, what came in too many shapes.
Rule 3: on a CPU it runs uncompiled, only so that it can be tested there: it then makes all the scores.
Rule 4: there are no tables for gradients; whoever needs one goes by runs (`blockrow.by_masks`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

if TYPE_CHECKING:
    from collections.abc import Callable

    from planloom.context.layout import SegmentLayout

KERNEL_BLOCK = 128
"""What the sizes of blocks are multiples of on CUDA, so that the kernel's tiles fit into them."""
TOKENS_A_SEGMENT = 64
"""On average at least so many; a prompt of shorter ones has tables of its own size, and is compiled for them."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A layout as the kernel takes it.

    Attributes:
        length: Tokens of the prompt.
        padded: Tokens with padding; what the kernel is compiled for.
        segments: Rows of the tables of segments, padding included; also compiled for.
        mask: Of torch, with its `mask_mod`.
        score_mod: What it does to a score; None: nothing.
    """

    length: int
    padded: int
    segments: int
    mask: Any
    score_mod: Callable[..., Any] | None


def bucket(length: int, block_size: int) -> int:
    """Return the length that a prompt is padded to: a power of two or one and a half of one, in whole blocks."""
    power = 1 << max(length - 1, 1).bit_length()
    size = power * 3 // 4 if length <= power * 3 // 4 else power
    return -(-size // block_size) * block_size


def blocks_of(layout: SegmentLayout, length: int, device: Any, *, bucketed: bool = True) -> Blocks:
    """Return the tables for a whole prompt of `length` tokens, which are at least the layout's."""
    layout = layout.grown(length)
    size = layout.policy.block_size
    if torch.device(device).type == "cuda":
        size = -(-size // KERNEL_BLOCK) * KERNEL_BLOCK
    padded = bucket(length, size) if bucketed else -(-length // size) * size
    segments = max(16, padded // TOKENS_A_SEGMENT, 1 << len(layout.segments).bit_length())
    tables = layout.block_tables(size)
    rows = padded // size
    of = _segment_of_each_token(layout, padded, segments).to(device)
    soft = layout.policy.mask_strategy == "soft"
    mask = BlockMask.from_kv_blocks(
        _counts(tables.kv_num, rows).to(device),
        _indices(tables.padded("kv"), tables.blocks, rows).to(device),
        _counts(tables.full_num, rows).to(device),
        _indices(tables.padded("full"), tables.blocks, rows).to(device),
        BLOCK_SIZE=(size, size),
        mask_mod=_mask_mod(of, _allowed(layout, segments).to(device)),
        seq_lengths=(padded, padded),
        compute_q_blocks=False,
    )
    score_mod = _score_mod(of, _bias(layout, segments).to(device)) if soft else None
    return Blocks(length, padded, segments, mask, score_mod)


def by_blocks(query: Any, key: Any, value: Any, blocks: Blocks, *, scale: float | None) -> Any:
    """Return what the queries of a whole prompt read, of shape (1, queries, heads, head_dim).

    Args:
        query: Of shape (1, heads, tokens, head_dim).
        key, value: Of shape (1, key heads, tokens, head_dim).
        scale: Of the scores; None: one over the root of head_dim.
    """
    more = blocks.padded - blocks.length
    if more:
        query, key, value = (functional.pad(tensor, (0, 0, 0, more)) for tensor in (query, key, value))
    shared = query.shape[1] != key.shape[1]
    kernel = _flex
    if query.device.type == "cuda":
        shape = (query.shape[1], key.shape[1], query.shape[3], query.dtype, blocks.padded, blocks.segments)
        kernel = _compiled((*shape, query.device.index, blocks.score_mod is None))
    read = kernel(query, key, value, blocks.score_mod, blocks.mask, scale, shared)
    return read[:, :, : blocks.length].transpose(1, 2).contiguous()


def _flex(query: Any, key: Any, value: Any, score_mod: Any, mask: Any, scale: Any, shared: Any) -> Any:
    return flex_attention(query, key, value, score_mod=score_mod, block_mask=mask, scale=scale, enable_gqa=shared)


@cache
def _compiled(shape: tuple[Any, ...]) -> Callable[..., Any]:
    """Return the kernel for one shape of heads, type and lengths."""
    own = FunctionType(_flex.__code__.replace(co_name=f"flex_{abs(hash(shape))}"), _flex.__globals__)
    compiled: Callable[..., Any] = torch.compile(own, fullgraph=True, dynamic=False)
    return compiled


def _mask_mod(of: Any, allowed: Any) -> Callable[..., Any]:
    def mask_mod(_batch: Any, _head: Any, q: Any, k: Any) -> Any:
        return (q >= k) & allowed[of[q], of[k]]

    return mask_mod


def _score_mod(of: Any, bias: Any) -> Callable[..., Any]:
    def score_mod(score: Any, _batch: Any, _head: Any, q: Any, k: Any) -> Any:
        return score + bias[of[q], of[k]]

    return score_mod


def _segment_of_each_token(layout: SegmentLayout, padded: int, segments: int) -> Any:
    """Return the segment of each token; padding is of the last one, which nothing reads and which reads nothing."""
    lengths = torch.tensor([segment.length for segment in layout.segments])
    of = torch.full((padded,), segments - 1, dtype=torch.int32)
    of[: layout.n] = torch.arange(len(layout.segments), dtype=torch.int32).repeat_interleave(lengths)
    return of


def _allowed(layout: SegmentLayout, segments: int) -> Any:
    """Return which segment reads which."""
    wide = -(-segments // 8)
    packed = bytearray().join(row.to_bytes(wide, "little") for row in layout.rows)
    bits = torch.frombuffer(packed, dtype=torch.uint8).view(len(layout.rows), wide, 1) >> torch.arange(8) & 1
    allowed = torch.zeros(segments, segments, dtype=torch.bool)
    allowed[: len(layout.rows)] = bits.flatten(1)[:, :segments].bool()
    return allowed


def _bias(layout: SegmentLayout, segments: int) -> Any:
    """Return what is added to the scores of one segment over another."""
    bias = torch.zeros(segments, segments, dtype=torch.float32)
    for at, row in enumerate(layout.near):
        for other, hops in row.items():
            bias[at, other] = -layout.policy.soft_bias * hops
    return bias


def _counts(numbers: Any, rows: int) -> Any:
    counts = torch.zeros(1, 1, rows, dtype=torch.int32)
    if len(numbers):
        counts[0, 0, : len(numbers)] = torch.frombuffer(numbers, dtype=torch.int32)
    return counts


def _indices(numbers: Any, blocks: int, rows: int) -> Any:
    indices = torch.zeros(1, 1, rows, rows, dtype=torch.int32)
    if len(numbers):
        indices[0, 0, :blocks, :blocks] = torch.frombuffer(numbers, dtype=torch.int32).view(blocks, blocks)
    return indices
