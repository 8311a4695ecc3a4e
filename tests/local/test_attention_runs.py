"""Attention by runs, by blocks and by small masks, beside one explicit mask of tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from planloom.context.attention import blockrow, flex, sdpa_mask
from planloom.context.attention.runs import runs_of
from planloom.plan.gasa import GasaPolicy
from tests.local.layouts import Drawn, chain, complete, draw

HEADS, KEY_HEADS, HEAD_DIM = 4, 2, 16
RANDOM = 200
NEAR = {"atol": 1e-5, "rtol": 0}

uncompiled = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.mark.slow
@pytest.mark.parametrize(("piece", "long"), [(256, 8192), (5, 8192), (5, 9)])
def test_e2_two_hundred_random_layouts_read_what_the_definition_says(
    piece: int, long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockrow, "PIECE", piece)
    monkeypatch.setattr(blockrow, "LONG", long)
    for seed in range(RANDOM):
        drawn = draw(seed)
        query, key, value = _tensors(drawn.layout.n, seed)

        read = blockrow.by_runs(query, key, value, runs_of(drawn.layout, 0, drawn.layout.n), scale=0.3)

        torch.testing.assert_close(read, _explicit(drawn, query, key, value), **NEAR)


def test_e2_small_masks_read_the_same_where_the_kernel_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockrow, "FUSED", False)
    monkeypatch.setattr(blockrow, "ROWS", 5)
    for seed in range(RANDOM):
        drawn = draw(seed)
        query, key, value = _tensors(drawn.layout.n, seed)

        read = blockrow.by_runs(query, key, value, runs_of(drawn.layout, 0, drawn.layout.n), scale=0.3)

        torch.testing.assert_close(read, _explicit(drawn, query, key, value), **NEAR)


def test_the_oracle_is_the_definition() -> None:
    for seed in range(RANDOM):
        drawn = draw(seed)

        bias = sdpa_mask.score_bias(drawn.layout, 0, drawn.layout.n)

        assert torch.equal(bias, drawn.bias())


def test_pairs_are_counted_exactly() -> None:
    for seed in range(RANDOM):
        drawn = draw(seed)

        told = drawn.layout.allowed_pairs

        assert told == int((drawn.bias() > float("-inf")).sum())


@uncompiled
@pytest.mark.slow
def test_e2_blocks_read_what_the_definition_says() -> None:
    for seed in range(24):
        drawn = draw(seed, chunks=(2, 8), tokens=(0, 40))
        query, key, value = _tensors(drawn.layout.n, seed)

        blocks = flex.blocks_of(drawn.layout, drawn.layout.n, "cpu")
        read = flex.by_blocks(query, key, value, blocks, scale=0.3)

        torch.testing.assert_close(read, _explicit(drawn, query, key, value), **NEAR)


@uncompiled
@pytest.mark.slow
@pytest.mark.parametrize("bucketed", [True, False])
def test_e1_blocks_of_a_complete_graph_are_plain_causal_attention(bucketed: bool) -> None:
    layout = complete([40, 33, 50], policy=GasaPolicy(block_size=16))
    query, key, value = _tensors(layout.n, 1)

    read = flex.by_blocks(query, key, value, flex.blocks_of(layout, layout.n, "cpu", bucketed=bucketed), scale=None)

    torch.testing.assert_close(read, _causal(query, key, value), **NEAR)


def test_e1_a_complete_graph_is_one_run_and_the_same_bits() -> None:
    layout = complete([40, 33, 0, 50])
    query, key, value = _tensors(layout.n, 1)

    runs = runs_of(layout, 0, layout.n)
    read = blockrow.by_runs(query, key, value, runs, scale=None)

    assert [(run.start, run.stop, run.groups) for run in runs] == [(0, layout.n, ())]
    assert torch.equal(read, _causal(query, key, value))


@pytest.mark.parametrize("fused", [True, False])
def test_queries_in_pieces_read_what_they_read_at_once(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockrow, "FUSED", fused and blockrow.FUSED)
    for seed in range(50):
        drawn = draw(seed)
        n = drawn.layout.n + 3
        query, key, value = _tensors(n, seed)
        whole = blockrow.by_runs(query, key, value, runs_of(drawn.layout, 0, n), scale=0.3)
        for start, stop in ((0, n // 3), (n // 3, 2 * n // 3), (2 * n // 3, n)):
            if start == stop:
                continue
            keys, values = key[:, :, :stop], value[:, :, :stop]

            piece = blockrow.by_runs(
                query[:, :, start:stop], keys, values, runs_of(drawn.layout, start, stop), scale=0.3
            )

            torch.testing.assert_close(piece, whole[:, start:stop], **NEAR)


def test_a_piece_that_is_a_chunk_alone_does_not_begin_at_the_first_key() -> None:
    layout = chain([8, 8, 8], sink=0, policy=GasaPolicy(max_hops=0))
    query, key, value = _tensors(layout.n, 2)
    whole = blockrow.by_runs(query, key, value, runs_of(layout, 0, layout.n), scale=None)

    piece = blockrow.by_runs(query[:, :, 8:16], key[:, :, :16], value[:, :, :16], runs_of(layout, 8, 16), scale=None)

    torch.testing.assert_close(piece, whole[:, 8:16], **NEAR)


def test_what_stands_behind_the_layout_reads_all() -> None:
    layout = chain([8, 8, 8], reader=0, policy=GasaPolicy(max_hops=0))

    runs = runs_of(layout, 0, layout.n + 5)

    assert [(group.spans, group.bias) for group in runs[-1].groups] == [(((0, layout.n),), 0.0)]


def test_softness_lowers_each_hop_by_its_own_amount() -> None:
    layout = chain([8, 8, 8], policy=GasaPolicy(max_hops=2, mask_strategy="soft", soft_bias=0.5))

    third = runs_of(layout, 0, layout.n)[2]

    assert [(group.spans, group.bias) for group in third.groups] == [
        (((0, 4),), 0.0),
        (((12, 20),), -0.5),
        (((4, 12),), -1.0),
    ]


def test_half_precision_is_merged_in_full() -> None:
    drawn = draw(7, chunks=(4, 4), tokens=(20, 30), policy=GasaPolicy(max_hops=1))
    query, key, value = _tensors(drawn.layout.n, 7)
    exact = _explicit(drawn, query, key, value)

    short = (tensor.bfloat16() for tensor in (query, key, value))
    read = blockrow.by_runs(*short, runs_of(drawn.layout, 0, drawn.layout.n), scale=0.3)

    assert read.dtype is torch.bfloat16
    torch.testing.assert_close(read.float(), exact, atol=0.03, rtol=0)


def test_lengths_are_padded_to_few_buckets_of_whole_blocks() -> None:
    padded = {flex.bucket(length, 128) for length in range(1, 8193)}

    assert padded == {128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192}
    assert all(length <= flex.bucket(length, 128) for length in range(1, 8193))


def _explicit(drawn: Drawn, query: Any, key: Any, value: Any) -> Any:
    key, value = key.repeat_interleave(2, dim=1), value.repeat_interleave(2, dim=1)
    bias = drawn.bias()[None, None]
    read = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=0.3)
    return read.transpose(1, 2)


def _causal(query: Any, key: Any, value: Any) -> Any:
    read = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return read.transpose(1, 2)


def _tensors(tokens: int, seed: int) -> tuple[Any, Any, Any]:
    drawn = torch.Generator().manual_seed(seed)
    shapes = ((1, HEADS, tokens, HEAD_DIM), (1, KEY_HEADS, tokens, HEAD_DIM), (1, KEY_HEADS, tokens, HEAD_DIM))
    query, key, value = (torch.randn(shape, generator=drawn) for shape in shapes)
    return query, key, value
