"""Attention run by run, without a mask of tokens: the backend on a CPU, and what others fall back to.

Rule 1: each piece of a run is a causal call over itself and an unmasked call for each group of what it reads before;
the answers are merged by their log-sum-exp, which is exact. What a run does not read is not touched at all.
Rule 2: the kernel that tells its log-sum-exp is private to torch and has no gradient through it: where it is missing,
answers otherwise than it should, or a gradient is asked for, the same is done with small masks (`by_masks`).
Rule 3: a run that reads nothing before itself and is the whole prompt is plain causal attention, the same bits.
Rule 4: every call has at least one key: the kernel divides by their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planloom.context.attention.runs import Span, Stretch

ROWS = 512
"""Queries of a run whose mask is made at a time."""
PIECE = 256
"""Queries of a run that go at once: of a causal call torch's kernel computes up to 512 scores a query for nothing."""
LONG = 8192
"""Queries of a run that all go at once: of so many it is little."""


def by_runs(query: Any, key: Any, value: Any, runs: Sequence[Stretch], *, scale: float | None) -> Any:
    """Return what the queries read.

    Args:
        query: Of shape (1, heads, queries, head_dim); the last query stands at the last key.
        key, value: Of shape (1, key heads, keys, head_dim).
        runs: Of exactly these queries and keys.
        scale: Of the scores; None: one over the root of head_dim.

    Returns:
        A tensor of shape (1, queries, heads, head_dim).
    """
    if len(runs) == 1 and not runs[0].groups and runs[0].start == 0:
        return _dense(query, key, value, scale)
    if not (FUSED and query.device.type == "cpu") or _needs_gradient(query, key, value):
        return by_masks(query, key, value, runs, scale=scale)
    shift = key.shape[2] - query.shape[2]
    read = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
    for run in runs:
        size = PIECE if run.stop - run.start < LONG else run.stop - run.start
        for first in range(run.start, run.stop, size):
            after = min(first + size, run.stop)
            rows, own = slice(first - shift, after - shift), slice(first, after)
            asked = query[:, :, rows]
            found, weight = _call(asked, key[:, :, own], value[:, :, own], causal=True, scale=scale)
            for spans, bias in _before(run, first):
                more, its = _call(asked, _taken(key, spans), _taken(value, spans), causal=False, scale=scale)
                found, weight = _merged(found, weight, more, its + bias if bias else its)
            read[:, rows] = found.transpose(1, 2)
    return read


def _before(run: Stretch, first: int) -> Iterator[tuple[tuple[Span, ...], float]]:
    """Yield what the queries of a run from `first` on read before that, a call's keys at a time.

    Long spans each have a call, so that no key is copied; short ones go together, for a call costs more than a copy.
    """
    if first > run.start and not run.groups:
        yield ((run.start, first),), 0.0
    for place, group in enumerate(run.groups):
        spans = group.spans
        if first > run.start and not place:
            if group.bias:
                yield ((run.start, first),), 0.0
            elif spans[-1][1] == run.start:
                spans = (*spans[:-1], (spans[-1][0], first))
            else:
                spans = (*spans, (run.start, first))
        if sum(end - start for start, end in spans) < PIECE * len(spans):
            yield spans, group.bias
        else:
            yield from (((span,), group.bias) for span in spans)


def by_masks(query: Any, key: Any, value: Any, runs: Sequence[Stretch], *, scale: float | None) -> Any:
    """Return the same as `by_runs`, on any device and with gradients: each run over the keys it reads, masked."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    shift = key.shape[2] - query.shape[2]
    read = []
    for run in runs:
        for first in range(run.start, run.stop, ROWS):
            after = min(first + ROWS, run.stop)
            spans = [span for group in run.groups for span in group.spans] + [(run.start, after)]
            read.append(
                functional.scaled_dot_product_attention(
                    query[:, :, first - shift : after - shift],
                    _taken(key, spans),
                    _taken(value, spans),
                    attn_mask=_small_mask(query, run, first, after),
                    scale=scale,
                )
            )
    return torch.cat(read, dim=2).transpose(1, 2).contiguous()


def _small_mask(query: Any, run: Stretch, first: int, after: int) -> Any:
    """Return what is added to the scores of queries `first` to `after`: of the groups' keys, then of the run's own."""
    biases = [
        torch.full((after - first, end - start), group.bias, dtype=query.dtype, device=query.device)
        for group in run.groups
        for start, end in group.spans
    ]
    own = torch.full((after - first, after - run.start), float("-inf"), dtype=query.dtype, device=query.device)
    return torch.cat([*biases, own.triu(first - run.start + 1)], dim=1)


def _dense(query: Any, key: Any, value: Any, scale: float | None) -> Any:
    shared = query.shape[1] != key.shape[1]
    read = functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=shared)
    return read.transpose(1, 2).contiguous()


def _taken(whole: Any, spans: Sequence[Span]) -> Any:
    parts = [whole[:, :, start:end] for start, end in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _call(query: Any, key: Any, value: Any, *, causal: bool, scale: float | None) -> tuple[Any, Any]:
    """Return what is read, and the log-sum-exp of the scores, of shape (1, heads, queries)."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(  # type: ignore[no-any-return]
        query, key, value, 0.0, causal, scale=scale
    )


def _merged(found: Any, weight: Any, more: Any, its: Any) -> tuple[Any, Any]:
    """Return what is read from two sets of keys together, and its log-sum-exp."""
    share = torch.sigmoid(its - weight).unsqueeze(-1)
    return found.float().lerp_(more.float(), share), torch.logaddexp(weight, its)


def _needs_gradient(*tensors: Any) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _fused_kernel_works() -> bool:
    """Return whether the private kernel is there, shares key heads, and tells the log-sum-exp that we merge by."""
    drawn = torch.Generator().manual_seed(0)
    query, key = torch.randn(1, 4, 5, 16, generator=drawn), torch.randn(1, 2, 7, 16, generator=drawn)
    try:
        read, weight = _call(query, key, key, causal=False, scale=0.3)
        own, _ = _call(query[:, :, :5], key[:, :, :5], key[:, :, :5], causal=True, scale=0.3)
    except (AttributeError, RuntimeError, TypeError):
        return False
    wide = key.repeat_interleave(2, dim=1)
    scores = query @ wide.transpose(-1, -2) * 0.3
    causal = functional.scaled_dot_product_attention(query, wide[:, :, :5], wide[:, :, :5], is_causal=True, scale=0.3)
    return bool(
        weight.shape == (1, 4, 5)
        and torch.allclose(weight, scores.logsumexp(-1), atol=1e-5)
        and torch.allclose(read, scores.softmax(-1) @ wide, atol=1e-5)
        and torch.allclose(own, causal, atol=1e-5)
    )


FUSED = _fused_kernel_works()
"""Whether torch's kernel for CPUs that tells its log-sum-exp can be used here."""
