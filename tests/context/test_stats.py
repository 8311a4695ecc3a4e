"""What is told of how documents were read."""

from __future__ import annotations

import json

from planloom.context.layout import Segment, build_layout
from planloom.context.stats import GasaStats
from planloom.plan.gasa import GasaPolicy
from tests.context.layouts import CHUNK, READER, SINK, graph_of

LAYOUT = build_layout(
    [Segment(SINK, 10), *(Segment(CHUNK, 100, node) for node in "abz"), Segment(READER, 20)],
    graph_of(("a", "b"), nodes="z"),
    GasaPolicy(max_hops=1),
)
NAMES = {
    "backend", "tokens", "chunks", "max_hops", "allowed_pairs", "dense_pairs", "pair_fraction", "block_fraction",
    "mask_ms", "mask_cache_hit", "prefill_s", "kv_chunks_reused", "kv_tokens_reused", "pruned_chunks", "tokens_before",
    "tokens_after", "unknown_nodes", "fallback_reason", "strategy", "density", "kept_pairs",
}  # fmt: skip


def test_a67_stats_of_a_mask_tell_hops_chunks_pairs_and_density() -> None:
    told = GasaStats.of_mask(LAYOUT, "blockrow", block_fraction=0.8, mask_cache_hit=True, unknown_nodes=2).to_dict()

    assert told.keys() == NAMES
    assert told["strategy"] == "binary"
    assert (told["backend"], told["tokens"], told["chunks"], told["max_hops"]) == ("blockrow", 330, 3, 1)
    assert told["kept_pairs"] == told["allowed_pairs"] == LAYOUT.allowed_pairs < LAYOUT.dense_pairs
    assert told["density"] == told["pair_fraction"] == LAYOUT.pair_fraction
    assert (told["tokens_before"], told["tokens_after"], told["unknown_nodes"]) == (300, 300, 2)
    assert told["mask_cache_hit"] is True
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_what_was_not_masked_says_so_and_why() -> None:
    told = GasaStats.of_dense(LAYOUT, "330 tokens are fewer than min_tokens 2048").to_dict()

    assert (told["strategy"], told["backend"]) == ("dense", "off")
    assert told["density"] == 1.0
    assert told["fallback_reason"] == "330 tokens are fewer than min_tokens 2048"


def test_nothing_read_is_nothing_left_out() -> None:
    assert GasaStats(strategy="dense", backend="off").to_dict()["density"] == 1.0
