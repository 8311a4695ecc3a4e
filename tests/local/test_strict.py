"""A limit of hops that holds for the whole model: what is farther has no influence at all, in however many layers."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from planloom.context.attention.apply import apply
from planloom.context.attention.chunk_kv import ChunkKVStore
from planloom.context.attention.encoder import Encoder
from planloom.context.attention.prefill import (
    UNKEPT,
    cannot_go_in_rounds,
    placed,
    plan_of,
    prefill,
    prepared_cache,
    strict_prefill,
)
from planloom.context.layout import Segment, SegmentKind, SegmentLayout
from planloom.errors import ConfigError
from planloom.plan.gasa import ChunkKVConfig, GasaPolicy
from tests.local.tiny import ARCHITECTURES, VOCABULARY, shared, tiny

SINK, CHUNK, READER = SegmentKind.SINK, SegmentKind.CHUNK, SegmentKind.READER
ROOM = ChunkKVConfig(max_bytes=1 << 28)
LENGTH = 4
LAYERS = 4
Rows = list[dict[int, int]]
"""For each chunk the places of the chunks before it that it may read, and how far away they are."""


def laid_out(rows: Rows, *, sink: int = 3, length: int = LENGTH, **changed: Any) -> SegmentLayout:
    near = [{other + 1: away for other, away in row.items()} for row in rows]
    chunks = [Segment(CHUNK, length, f"c{at}") for at in range(len(rows))]
    policy = GasaPolicy.model_validate({"hop_mode": "strict", **changed})
    return SegmentLayout((Segment(SINK, sink), *chunks, Segment(READER, 5)), ({}, *near, {}), policy)


def chain(count: int, max_hops: int) -> Rows:
    return [{other: at - other for other in range(at) if at - other <= max_hops} for at in range(count)]


def prompt(layout: SegmentLayout, seed: int = 0) -> list[int]:
    drawn = random.Random(seed)
    return [drawn.randrange(1, VOCABULARY) for _ in range(layout.n)]


def deep(architecture: str = "llama") -> Any:
    """Return a model of four layers: a limit of each layer's own would reach four times as far."""
    return tiny(architecture, **({"n_layer": LAYERS} if architecture == "gpt2" else {"num_hidden_layers": LAYERS}))


def read_by_question(model: Any, ids: list[int], layout: SegmentLayout) -> list[Any]:
    """Return keys and values of each chunk, as the question reads them: all layers in one row of numbers."""
    found = prepared_cache(model, ids, layout, layout.policy, None)
    spans = [(layout.starts[at], layout.ends[at]) for at in layout.chunks]
    sides = [torch.cat((layer.keys, layer.values), dim=-1) for layer in found.cache.layers]
    return [torch.stack([side[0, :, start:end] for side in sides]) for start, end in spans]


def influence(model: Any, layout: SegmentLayout) -> dict[tuple[int, int], float]:
    """Return by how much chunk j changes when a word of chunk i does, for each (i, j)."""
    ids = prompt(layout)
    before = read_by_question(model, ids, layout)
    found = {}
    for place, at in enumerate(layout.chunks):
        changed = list(ids)
        changed[layout.starts[at]] = changed[layout.starts[at]] % (VOCABULARY - 1) + 1
        after = read_by_question(model, changed, layout)
        for other, (one, two) in enumerate(zip(before, after, strict=True)):
            found[place, other] = float((one - two).abs().max())
    return found


def reached(rows: Rows) -> set[tuple[int, int]]:
    """Return the pairs (i, j) where j may hold something of i."""
    return {(other, at) for at, row in enumerate(rows) for other in (*row, at)}


@pytest.mark.parametrize("max_hops", [0, 1, 2])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_e3_a_chunk_holds_what_is_within_the_limit_and_nothing_beyond(architecture: str, max_hops: int) -> None:
    rows = chain(6, max_hops)
    model = deep(architecture)

    found = influence(model, laid_out(rows, max_hops=max_hops))

    assert {pair for pair, by in found.items() if by != 0.0} == reached(rows)


def test_e3_in_one_pass_the_same_limit_reaches_farther_with_each_layer() -> None:
    rows = chain(6, 1)

    found = influence(deep(), laid_out(rows, max_hops=1, hop_mode="layered"))

    # Keys and values of the last of four layers come out of three layers of attention, so one hop became three.
    assert {pair for pair, by in found.items() if by != 0.0} == reached(chain(6, LAYERS - 1))


@pytest.mark.parametrize("max_hops", [1, 2])
def test_e3_no_gradient_comes_from_beyond_the_limit(max_hops: int) -> None:
    rows = chain(5, max_hops)
    layout = laid_out(rows, max_hops=max_hops)
    ids = torch.arange(1, layout.n + 1)[None]  # each word once: the gradient of its row is that of its place
    model = deep()
    plan = plan_of(ids, layout, UNKEPT)
    found = Encoder.of(model, ids, layout, None).filled(plan)
    chunks = [chunk for chunk, _ in placed(plan, found)][1:]

    for at, chunk in enumerate(chunks):
        said = sum((one.double() ** 2).sum() for one in (*chunk.keys, *chunk.values))
        (by_word,) = torch.autograd.grad(said, model.model.embed_tokens.weight, retain_graph=True)
        for other, place in enumerate(layout.chunks):
            pull = by_word[layout.starts[place] + 1 : layout.ends[place] + 1].abs().max()
            assert bool(pull > 0) == (other in (*rows[at], at))


@pytest.mark.parametrize("seed", range(6))
def test_e3_on_random_graphs_influence_is_what_the_hops_say(seed: int) -> None:
    drawn = random.Random(seed)
    count, max_hops = drawn.randint(4, 7), drawn.randint(1, 3)
    far = _distances(drawn, count)
    rows = [{other: far[at][other] for other in range(at) if far[at][other] <= max_hops} for at in range(count)]
    model = shared(ARCHITECTURES[seed % len(ARCHITECTURES)])

    found = influence(model, laid_out(rows, sink=drawn.choice((0, 3)), max_hops=max_hops))

    assert {pair for pair, by in found.items() if by != 0.0} == reached(rows)


def _distances(drawn: random.Random, count: int) -> list[list[int]]:
    """Return hops in a random graph of chunks and as many nodes without text; chunks first."""
    nodes = 2 * count
    links = [{other for other in range(nodes) if drawn.random() < 0.15} for _ in range(nodes)]
    for node in range(nodes):
        for other in links[node]:
            links[other].add(node)
    found = []
    for start in range(count):
        away, edge = {start: 0}, [start]
        for node in edge:
            for other in sorted(links[node] - away.keys()):
                away[other] = away[node] + 1
                edge.append(other)
        found.append([away.get(other, 99) for other in range(count)])
    return found


def test_a_chunk_is_reached_where_no_chunk_stands_on_the_path_between() -> None:
    rows: Rows = [{}, {0: 2}]

    found = influence(deep(), laid_out(rows, max_hops=2))

    assert found[0, 1] > 0


def test_chunks_of_one_document_read_each_other_also_without_hops() -> None:
    rows: Rows = [{}, {0: 0}, {}]

    found = influence(deep(), laid_out(rows, max_hops=0))

    assert {pair for pair, by in found.items() if by != 0.0} == {(0, 0), (0, 1), (1, 1), (2, 2)}


def test_the_question_reads_chunks_as_they_were_in_the_last_round() -> None:
    model = deep()
    layout = laid_out(chain(3, 1), max_hops=1)
    ids = prompt(layout)

    filled = strict_prefill(model, ids, layout)
    given = torch.tensor([ids])
    with torch.no_grad(), apply(model, layout.within(-1)):
        alone = model(given, use_cache=True).past_key_values
    with torch.no_grad():
        # by hand: the second chunk over the first as it is alone, the third over the second as it is alone
        second = _over(model, layout, given, alone, read=1, place=2)
        third = _over(model, layout, given, alone, read=2, place=3)

    for layer, by_hand in enumerate(alone.layers):
        keys = filled.cache.layers[layer].keys
        assert torch.allclose(keys[..., :7, :], by_hand.keys[..., :7, :], atol=1e-5)
        assert torch.allclose(keys[..., 7:11, :], second.layers[layer].keys[..., -4:, :], atol=1e-5)
        assert torch.allclose(keys[..., 11:15, :], third.layers[layer].keys[..., -4:, :], atol=1e-5)
        assert keys.shape[-2] == layout.n


def _over(model: Any, layout: SegmentLayout, ids: Any, alone: Any, *, read: int, place: int) -> Any:
    """Return the cache of a chunk encoded over the instructions and another, both as they are alone."""
    from transformers import DynamicCache

    keep = [*range(3), *range(layout.starts[read], layout.ends[read])]
    cache = DynamicCache(config=model.config)
    for at, layer in enumerate(alone.layers):
        cache.update(layer.keys[..., keep, :], layer.values[..., keep, :], at)
    own = torch.arange(layout.starts[place], layout.ends[place])[None]
    model.base_model(input_ids=ids[:, own[0]], position_ids=own, past_key_values=cache, use_cache=True)
    return cache


def test_with_no_hops_both_modes_are_one() -> None:
    model = shared("llama")
    strict, layered = (laid_out([{}, {}, {}], max_hops=0, hop_mode=mode) for mode in ("strict", "layered"))
    ids = prompt(strict)

    found = [prefill(model, ids, layout, None).logits for layout in (strict, layered)]

    assert torch.equal(*found)


# --- rounds and the store ----------------------------------------------------------------------


def kept(max_hops: int, rows: Rows) -> SegmentLayout:
    return laid_out(rows, max_hops=max_hops, chunk_kv=ROOM)


def test_rounds_are_kept_and_the_next_question_reads_no_chunk_again() -> None:
    model, layout, store = shared("llama"), kept(2, chain(4, 2)), ChunkKVStore(ROOM)
    ids = prompt(layout)
    cold = strict_prefill(model, ids, layout, store)
    ids[-5:] = [1, 2, 3, 4, 5]

    warm = strict_prefill(model, ids, layout, store)

    anew = strict_prefill(model, ids, layout)
    assert cold.counts.tokens_encoded == 3 + 6 * LENGTH  # once the first and the last, twice the two between
    assert (warm.counts.tokens_encoded, warm.counts.kv_chunks_reused, warm.counts.rounds) == (0, 4, 2)
    assert torch.allclose(warm.logits, anew.logits, atol=1e-5)


def test_a_changed_chunk_is_read_again_with_those_that_it_reaches_and_no_others() -> None:
    model, layout, store = shared("llama"), kept(1, chain(6, 1)), ChunkKVStore(ROOM)
    ids = prompt(layout)
    strict_prefill(model, ids, layout, store)
    ids[layout.starts[2]] = ids[layout.starts[2]] % (VOCABULARY - 1) + 1  # of the second chunk

    after = strict_prefill(model, ids, layout, store)

    anew = strict_prefill(model, ids, layout)
    assert after.counts.kv_chunks_reused == 4
    assert after.counts.tokens_encoded == 3 + 3 * LENGTH  # it alone, it over the first, and the third over it
    assert torch.allclose(after.logits, anew.logits, atol=1e-5)


def test_round_0_is_kept_by_the_chunk_alone() -> None:
    model, store = shared("llama"), ChunkKVStore(ROOM)
    linked, apart = kept(1, chain(3, 1)), kept(1, [{}, {}, {}])
    ids = prompt(linked)
    strict_prefill(model, ids, linked, store)

    other_graph = strict_prefill(model, ids, apart, store)
    no_rounds = prefill(model, ids, laid_out([{}, {}, {}], max_hops=0, hop_mode="layered", chunk_kv=ROOM), store)

    assert other_graph.counts.kv_chunks_reused == 2  # nobody reads the last one, so it was never encoded alone
    assert (no_rounds.counts.kv_chunks_reused, no_rounds.counts.tokens_encoded) == (3, 0)


def test_what_no_round_changes_and_what_nobody_reads_is_encoded_once() -> None:
    layout = laid_out([{}, {}, {1: 1}, {}], max_hops=3)

    found = strict_prefill(shared("llama"), prompt(layout), layout)

    assert found.counts.rounds == 3
    assert found.counts.tokens_encoded == 3 + 4 * LENGTH


# --- going on from there -------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("positions", ["global", "parallel"])
def test_generating_goes_on_over_the_last_round_assisted_or_not(architecture: str, positions: str) -> None:
    model, draft = shared(architecture), tiny(architecture, seed=7)
    layout = laid_out(chain(4, 1), max_hops=1, length=9, positions=positions)
    ids = prompt(layout)
    written = []

    for how in ({}, {"prompt_lookup_num_tokens": 4}, {"assistant_model": draft}):
        prepared = prepared_cache(model, ids, layout, layout.policy, None)
        with prepared.over(model):
            found = model.generate(**prepared.inputs, max_new_tokens=14, do_sample=False, **how)
        written.append(list(map(int, found[0])))

    assert written == [_by_hand(model, ids, layout, 14)] * 3


def _by_hand(model: Any, ids: list[int], layout: SegmentLayout, count: int) -> list[int]:
    """Return what the model writes, one token after the other, without `generate`."""
    filled = strict_prefill(model, ids, layout)
    said, position = list(ids), layout.positions()[-1]
    logits = filled.logits
    for _ in range(count):
        said.append(int(logits.argmax()))
        position += 1
        with torch.no_grad():
            given = {"input_ids": torch.tensor([said[-1:]]), "position_ids": torch.tensor([[position]])}
            logits = model(**given, past_key_values=filled.cache, use_cache=True).logits[:, -1]
    return said


def test_soft_bias_counts_in_rounds_too() -> None:
    model = shared("llama")
    far = laid_out([{}, {0: 2}], max_hops=2)
    ids = prompt(far)

    found = [
        strict_prefill(model, ids, laid_out([{}, {0: 2}], max_hops=2, mask_strategy=kind, soft_bias=9.0)).cache
        for kind in ("binary", "soft")
    ]
    alone = strict_prefill(model, ids, laid_out([{}, {}], max_hops=2)).cache

    binary, soft = (float((one.layers[-1].keys - alone.layers[-1].keys).abs().max()) for one in found)
    assert 0 < soft < 0.01 * binary  # eighteen below: next to nothing, but something


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_depend_on_the_length_cannot_go_in_rounds(kind: str) -> None:
    scaled: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    if kind == "longrope":
        factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
        scaled |= {"original_max_position_embeddings": 1024, **factors}
    model = tiny("llama", rope_parameters=scaled)
    layout = laid_out(chain(3, 1), max_hops=1)

    with pytest.raises(ConfigError, match=kind):
        strict_prefill(model, prompt(layout), layout)

    assert kind in (cannot_go_in_rounds(model.config) or "")
