"""Chunks' keys and values used again: exactly what encoding them anew would give, or not at all."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from planloom.context.attention.apply import apply
from planloom.context.attention.chunk_kv import ChunkKV, ChunkKVStore
from planloom.context.attention.encodings import layered
from planloom.context.attention.kv_keys import Maker, maker_of, model_identity
from planloom.context.attention.prefill import prefill, prepared_cache
from planloom.context.attention.rope import rotation_of
from planloom.context.layout import Segment, SegmentKind, SegmentLayout, build_layout
from planloom.errors import ConfigError
from planloom.plan.gasa import ChunkKVConfig, GasaPolicy
from tests.local.tiny import ARCHITECTURES, VOCABULARY, shared, tiny, tokens

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SINK, CHUNK, READER = SegmentKind.SINK, SegmentKind.CHUNK, SegmentKind.READER
ROOM = ChunkKVConfig(max_bytes=1 << 28)
EXACT = 1e-5
"""Of the largest logit, or of 1: tiny models are made with wide weights."""
ROTARY = tuple(name for name in ARCHITECTURES if name != "gpt2")
Near = dict[int, dict[int, int]]
"""By place among the chunks."""


def policy(**changed: Any) -> GasaPolicy:
    return GasaPolicy.model_validate({"chunk_kv": ROOM, "max_hops": 1, **changed})


def laid_out(
    lengths: tuple[int, ...], near: Near | None = None, *, sink: int = 0, reader: int = 6, **changed: Any
) -> SegmentLayout:
    """Return a layout of chunks of these lengths; `near` counts places among the chunks."""
    chunks = [Segment(CHUNK, length, f"c{at}") for at, length in enumerate(lengths)]
    rows = [{other + 1: away for other, away in (near or {}).get(at, {}).items()} for at in range(len(lengths))]
    return SegmentLayout((Segment(SINK, sink), *chunks, Segment(READER, reader)), ({}, *rows, {}), policy(**changed))


def prompt(*pieces: int, seed: int = 0) -> list[list[int]]:
    """Return random pieces of these lengths."""
    drawn = random.Random(seed)
    return [[drawn.randrange(1, VOCABULARY) for _ in range(length)] for length in pieces]


def joined(pieces: list[list[int]]) -> list[int]:
    return [token for piece in pieces for token in piece]


def masked_logits(model: Any, ids: list[int], layout: SegmentLayout) -> Any:
    """Return what the model says after the prompt, read in one pass under its mask."""
    with torch.no_grad(), apply(model, layout):
        given = {"input_ids": torch.tensor([ids]), "position_ids": torch.tensor([layout.positions()])}
        return model(**given, use_cache=True).logits[:, -1]


def off(found: Any, wanted: Any) -> float:
    return float((found - wanted).abs().max() / max(1.0, float(wanted.abs().max())))


def written(model: Any, ids: list[int], layout: SegmentLayout, store: ChunkKVStore | None, **how: Any) -> list[int]:
    prepared = prepared_cache(model, ids, layout, layout.policy, store)
    with prepared.over(model):
        found = model.generate(**prepared.inputs, max_new_tokens=16, do_sample=False, **how)
    return list(map(int, found[0]))


# --- keys ---------------------------------------------------------------------------------------


def keys_of(layout: SegmentLayout, ids: list[int], *, reach: int = 1000) -> list[str]:
    plan = layered(layout, ids, Maker("m", reach, layout.policy.mask_strategy == "soft"))
    return [plan.encodings[at].key for at in plan.last]


CHAIN: Near = {1: {0: 1}, 2: {1: 1}}


def test_a_changed_ancestor_changes_the_key_however_far_behind_it_stands() -> None:
    layout = laid_out((5, 5, 5, 5), CHAIN, sink=3)
    pieces = prompt(3, 5, 5, 5, 5, 6)

    before = keys_of(layout, joined(pieces))
    pieces[1][2] += 1
    after = keys_of(layout, joined(pieces))

    same = [one == other for one, other in zip(before, after, strict=True)]
    assert same == [True, False, False, False, True]  # the instructions, the chain from its changed end on, the fourth


def test_changed_instructions_change_the_key_of_every_chunk() -> None:
    layout = laid_out((5, 5), sink=3)
    pieces = prompt(3, 5, 5, 6)

    before = keys_of(layout, joined(pieces))
    pieces[0][0] += 1
    after = keys_of(layout, joined(pieces))

    assert not set(before) & set(after)


def test_another_edge_between_two_ancestors_changes_the_key() -> None:
    ids = joined(prompt(5, 5, 5, 6))

    apart = keys_of(laid_out((5, 5, 5), {2: {0: 1, 1: 1}}), ids)
    linked = keys_of(laid_out((5, 5, 5), {1: {0: 1}, 2: {0: 1, 1: 1}}), ids)

    assert apart[0] == linked[0]
    assert apart[2] != linked[2]


def test_the_order_of_ancestors_is_in_the_key() -> None:
    one, other, last, question = prompt(5, 5, 5, 6)
    layout = laid_out((5, 5, 5), {2: {0: 1, 1: 1}})

    assert keys_of(layout, one + other + last + question)[2] != keys_of(layout, other + one + last + question)[2]


def test_how_far_an_ancestor_stands_away_is_in_the_key() -> None:
    one, between, last = prompt(5, 4, 5)

    touching = keys_of(laid_out((5, 5), {1: {0: 1}}, reader=0), one + last)
    apart = keys_of(laid_out((5, 4, 5), {2: {0: 1}}, reader=0), one + between + last)

    assert touching[1] != apart[2]


def test_hops_are_in_the_key_where_they_change_scores() -> None:
    ids = joined(prompt(5, 5, 6))
    near, far = {1: {0: 1}}, {1: {0: 2}}

    assert keys_of(laid_out((5, 5), near), ids) == keys_of(laid_out((5, 5), far), ids)
    soft = [keys_of(laid_out((5, 5), row, mask_strategy="soft"), ids) for row in (near, far)]
    assert soft[0][1] != soft[1][1]


@pytest.mark.parametrize(("unknown", "same"), [("dense", [False] * 3), ("isolate", [False, True, True])])
def test_what_no_graph_knows_reads_all_before_it_and_so_does_its_key(unknown: str, same: list[bool]) -> None:
    chunks = [Segment(CHUNK, 5, f"c{at}") for at in range(3)]
    layout = build_layout([*chunks, Segment(READER, 6)], None, policy(unknown_nodes=unknown))
    pieces = prompt(5, 5, 5, 6)

    before = keys_of(layout, joined(pieces))
    pieces[0][0] += 1
    after = keys_of(layout, joined(pieces))

    assert [one == other for one, other in zip(before, after, strict=True)] == same


def test_where_keys_cannot_be_moved_the_place_is_in_the_key() -> None:
    one, two, question = prompt(5, 5, 6)
    layout = laid_out((5, 5))

    assert keys_of(layout, one + two + question)[0] == keys_of(layout, two + one + question)[1]
    fixed = [keys_of(layout, ids, reach=9) for ids in (one + two + question, two + one + question)]
    assert fixed[0][0] != fixed[1][1]


@pytest.mark.parametrize(
    "changed",
    [{"positions": "parallel"}, {"mask_strategy": "soft"}, {"chunk_kv": ChunkKVConfig(dtype="bfloat16")}],
    ids=["positions", "bias", "kept numbers"],
)
def test_what_changes_every_chunk_is_in_every_key(llama: Any, changed: dict[str, Any]) -> None:
    assert maker_of(llama, "m", laid_out((5,))).facts != maker_of(llama, "m", laid_out((5,), **changed)).facts


def test_the_strength_of_the_bias_is_in_every_key(llama: Any) -> None:
    weak, strong = (laid_out((5,), mask_strategy="soft", soft_bias=bias) for bias in (1.0, 2.0))

    assert maker_of(llama, "m", weak).facts != maker_of(llama, "m", strong).facts


def test_what_says_only_what_is_masked_and_computed_how_is_in_no_key(llama: Any) -> None:
    plain = maker_of(llama, "m", laid_out((5,)))

    for changed in ({"hop_mode": "strict"}, {"max_hops": 3}, {"backend": "sdpa_mask"}, {"block_size": 64}):
        assert maker_of(llama, "m", laid_out((5,), **changed)) == plain


def test_another_model_another_format_and_other_frequencies_are_other_keys(llama: Any) -> None:
    turned = tiny("llama", rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    halves = [tiny("llama").to(dtype) for dtype in (torch.bfloat16, torch.float16)]

    layout = laid_out((5,))
    facts = {maker_of(model, "m", layout).facts for model in (llama, turned, *halves)}

    assert len({*facts, maker_of(llama, "n", layout).facts}) == 5


def test_a_model_is_known_by_its_weights() -> None:
    one, same, other = tiny("llama"), tiny("llama"), tiny("llama")
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight[3, 4] += 1e-3

    known = model_identity(one, "m")

    assert model_identity(same, "m") == known
    assert model_identity(other, "m") != known
    assert model_identity(one, "n") != known


def test_weights_that_change_in_place_are_seen() -> None:
    model = tiny("llama")
    before = model_identity(model, "m")

    with torch.no_grad():
        model.model.layers[0].self_attn.k_proj.weight[0, 0] += 1e-3

    assert model_identity(model, "m") != before


def test_a_model_from_a_folder_is_known_by_its_files(llama: Any, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1234")
    before = model_identity(llama, "m", folder=tmp_path)

    weights.write_bytes(b"12345")

    assert model_identity(llama, "m", folder=tmp_path) != before


# --- the store ----------------------------------------------------------------------------------


def kv(tokens_: int, fill: float = 0.0) -> ChunkKV:
    """Return two layers of one head of four numbers: 64 bytes a token."""
    side = tuple(torch.full((1, 1, tokens_, 4), fill) for _ in range(2))
    return ChunkKV(side, side, 0)


def test_the_store_never_holds_a_byte_more_than_it_may() -> None:
    store = ChunkKVStore(ChunkKVConfig(max_bytes=640))
    drawn = random.Random(1)

    for number in range(200):
        store.put(str(drawn.randrange(20)), kv(drawn.randint(1, 12), number))
        held = sum(chunk.size_bytes for chunk in store._kept.values())
        assert store.counts.kept_bytes == held <= 640


def test_a_chunk_that_fills_the_store_is_kept_and_one_byte_more_is_not() -> None:
    store = ChunkKVStore(ChunkKVConfig(max_bytes=640))

    store.put("fits", kv(10))
    store.put("too large", kv(11))

    assert "fits" in store
    assert "too large" not in store
    assert (store.counts.refused, store.counts.evicted) == (1, 0)


def test_what_was_used_longest_ago_goes_first() -> None:
    store = ChunkKVStore(ChunkKVConfig(max_bytes=3 * 64))
    for name in "abc":
        store.put(name, kv(1))

    store.get("a")
    store.put("d", kv(1))

    assert [name for name in "abcd" if name in store] == ["a", "c", "d"]
    assert (store.counts.hits, store.counts.misses, store.counts.evicted) == (1, 0, 1)


class Hesitant(ChunkKV):
    """Lets other threads go first whenever its size is asked for, which is in the middle of everything."""

    @property
    def size_bytes(self) -> int:  # type: ignore[override]
        time.sleep(0)
        return 64 * self.tokens


def test_a_store_used_from_many_threads_keeps_its_counts() -> None:
    store = ChunkKVStore(ChunkKVConfig(max_bytes=10 * 64))

    def use(seed: int) -> None:
        drawn = random.Random(seed)
        for _ in range(40):
            key = str(drawn.randrange(30))
            if store.get(key) is None:
                made = kv(drawn.randint(1, 3))
                store.put(key, Hesitant(made.keys, made.values, 0))

    in_threads(lambda: use(1), lambda: use(2), lambda: use(3), lambda: use(4))

    counts = store.counts
    assert counts.hits + counts.misses == 4 * 40
    assert counts.kept_bytes == sum(chunk.size_bytes for chunk in store._kept.values()) <= 10 * 64


def in_threads(*tasks: Callable[[], None]) -> None:
    """Do all at once; what one of them raises, this does."""
    with ThreadPoolExecutor(len(tasks)) as pool:
        for done in [pool.submit(task) for task in tasks]:
            done.result()


def test_what_is_kept_owns_its_memory() -> None:
    model = tiny("llama", num_attention_heads=1, num_key_value_heads=1, hidden_size=16)  # One head: slices are whole.
    layout = laid_out((5, 5), sink=3)
    store = ChunkKVStore(ROOM)

    prefill(model, joined(prompt(3, 5, 5, 6)), layout, store)

    for chunk in store._kept.values():
        for side in (*chunk.keys, *chunk.values):
            assert side.untyped_storage().nbytes() == side.numel() * side.element_size()


# --- E5: used again, it is exact -------------------------------------------------------------------


def drawn_layout(drawn: random.Random, **changed: Any) -> SegmentLayout:
    count = drawn.randint(2, 7)
    lengths = tuple(drawn.randint(1, 24) for _ in range(count))
    near = {at: {other: drawn.randint(0, 2) for other in range(at) if drawn.random() < 0.4} for at in range(count)}
    return laid_out(lengths, near, sink=drawn.choice((0, 0, 1, 9)), reader=drawn.randint(1, 12), **changed)


def changed_piece(drawn: random.Random, layout: SegmentLayout, pieces: list[list[int]]) -> int:
    """Put another word into one chunk, and return which segment that is."""
    place = drawn.choice(layout.chunks)
    pieces[place][0] = pieces[place][0] % (VOCABULARY - 1) + 1
    return place


def behind(layout: SegmentLayout, place: int) -> set[int]:
    """Return the chunks that read this one, directly or through others, and itself."""
    found = {place}
    for at in layout.chunks:
        if found & set(layout.near[at]):
            found.add(at)
    return found


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("mask_strategy", ["binary", "soft"])
def test_e5_a_prompt_of_kept_chunks_says_what_it_says_read_anew(seed: int, mask_strategy: str) -> None:
    drawn = random.Random(seed)
    model = shared(ARCHITECTURES[seed % len(ARCHITECTURES)])
    positions = drawn.choice(("global", "parallel"))
    layout = drawn_layout(drawn, mask_strategy=mask_strategy, positions=positions)
    pieces = prompt(*(segment.length for segment in layout.segments), seed=seed)
    store = ChunkKVStore(ROOM)
    wanted = masked_logits(model, joined(pieces), layout)

    cold, warm = (prefill(model, joined(pieces), layout, store) for _ in range(2))
    place = changed_piece(drawn, layout, pieces)
    changed = prefill(model, joined(pieces), layout, store)

    assert off(cold.logits, wanted) <= EXACT
    assert off(warm.logits, wanted) <= EXACT
    assert warm.counts.kv_chunks_reused == len(layout.chunks)
    assert warm.counts.tokens_encoded == 0
    assert changed.counts.kv_chunks_reused == len(layout.chunks) - len(behind(layout, place))
    assert off(changed.logits, masked_logits(model, joined(pieces), layout)) <= EXACT


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("positions", ["global", "parallel"])
def test_e5_the_same_tokens_are_written_over_kept_chunks(architecture: str, positions: str) -> None:
    model, draft = shared(architecture), tiny(architecture, seed=7)
    layout = laid_out((20, 16, 24), CHAIN, sink=8, positions=positions)
    ids = joined(prompt(8, 20, 16, 24, 6))
    store = ChunkKVStore(ROOM)
    with apply(model, layout):
        given = torch.tensor([ids])
        more = {"position_ids": torch.tensor([layout.positions()]), "attention_mask": torch.ones_like(given)}
        wanted = list(map(int, model.generate(given, **more, max_new_tokens=16, do_sample=False)[0]))

    cold, warm = (written(model, ids, layout, store) for _ in range(2))
    looked_up = written(model, ids, layout, store, prompt_lookup_num_tokens=4)
    assisted = written(model, ids, layout, store, assistant_model=draft)

    assert cold == warm == looked_up == assisted == wanted
    assert store.counts.kept_chunks == 4


def test_e5_a_changed_ancestor_must_miss(llama: Any) -> None:
    layout = laid_out((12, 12, 12, 12), CHAIN, sink=4)
    pieces = prompt(4, 12, 12, 12, 12, 6)
    store = ChunkKVStore(ROOM)
    before = prefill(llama, joined(pieces), layout, store)
    pieces[1][3] = pieces[1][3] % (VOCABULARY - 1) + 1

    after = prefill(llama, joined(pieces), layout, store)

    assert (after.counts.kv_chunks_reused, after.counts.kv_tokens_reused) == (1, 12)  # the one out of the chain
    assert off(after.logits, masked_logits(llama, joined(pieces), layout)) <= EXACT
    assert off(after.logits, before.logits) > EXACT


@pytest.mark.parametrize("architecture", ROTARY)
@pytest.mark.parametrize("rope", ["default", "linear", "llama3"])
def test_e5_without_instructions_chunks_and_what_they_read_move_exactly(architecture: str, rope: str) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "default": {},
        "linear": {"factor": 4.0},
        "llama3": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 512,
        },
    }
    parameters = {"rope_type": rope, "rope_theta": 10000.0, **kinds[rope]}
    model = shared(architecture) if rope == "default" else tiny(architecture, rope_parameters=parameters)
    first, second, third, new, question = prompt(20, 16, 24, 190, 6)
    store = ChunkKVStore(ROOM)
    prefill(model, first + second + third + question, laid_out((20, 16, 24), {1: {0: 1}}), store)
    layout = laid_out((190, 24, 20, 16), {3: {2: 1}})  # the pair still stands together, the third in front of it
    ids = new + third + first + second + question

    moved = prefill(model, ids, layout, store)

    assert (moved.counts.kv_chunks_reused, moved.counts.chunks_moved) == (3, 3)
    assert off(moved.logits, masked_logits(model, ids, layout)) <= EXACT
    assert written(model, ids, layout, store) == written(model, ids, layout, None)


def test_e5_a_chunk_is_not_moved_where_the_models_own_positions_are_rounded(llama: Any) -> None:
    rotation = rotation_of(llama)
    assert rotation is not None
    one, two, new, question = prompt(20, 16, rotation.reach, 6)
    store = ChunkKVStore(ROOM)
    prefill(llama, one + two + question, laid_out((20, 16)), store)
    layout = laid_out((rotation.reach, 20, 16))

    moved, again = (prefill(llama, new + one + two + question, layout, store) for _ in range(2))

    assert moved.counts.kv_chunks_reused == 0
    assert (again.counts.kv_chunks_reused, again.counts.chunks_moved) == (3, 0)


@pytest.mark.parametrize("architecture", ROTARY)
def test_e5_a_chunk_moved_as_far_as_any_is_exact_for_who_reads_nothing_else(architecture: str) -> None:
    model = tiny(architecture, max_position_embeddings=70_000)
    rotation = rotation_of(model)
    assert rotation is not None
    chunk, question = prompt(30, 8, seed=3)
    far = torch.arange(38)[None] + rotation.reach - 30
    here, there = (_alone(model, chunk, first) for first in (0, rotation.reach - 30))
    for layer in here.layers:
        layer.keys = rotation.moved(layer.keys, torch.arange(30), far[0, :30])

    with torch.no_grad():  # the question reads nothing but the chunk that was moved
        given = {"input_ids": torch.tensor([question]), "position_ids": far[:, 30:]}
        found, wanted = (model(**given, past_key_values=cache).logits[:, -1] for cache in (here, there))

    assert off(found, wanted) <= EXACT


def _alone(model: Any, ids: list[int], first: int) -> Any:
    with torch.no_grad():
        given = {"input_ids": torch.tensor([ids]), "position_ids": torch.arange(len(ids))[None] + first}
        return model(**given, use_cache=True).past_key_values


def test_e5_with_instructions_a_chunk_that_moved_is_encoded_anew(llama: Any) -> None:
    sink, one, two, question = prompt(8, 20, 16, 6)
    store = ChunkKVStore(ROOM)
    prefill(llama, sink + one + two + question, laid_out((20, 16), sink=8), store)

    swapped = prefill(llama, sink + two + one + question, laid_out((16, 20), sink=8), store)

    assert swapped.counts.kv_chunks_reused == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_e5_with_parallel_positions_a_chunk_may_stand_anywhere(architecture: str) -> None:
    model = shared(architecture)
    sink, one, two, new, question = prompt(8, 20, 16, 11, 6)
    store = ChunkKVStore(ROOM)
    prefill(model, sink + one + two + question, laid_out((20, 16), sink=8, positions="parallel"), store)
    layout = laid_out((11, 16, 20), sink=8, positions="parallel")
    ids = sink + new + two + one + question

    swapped = prefill(model, ids, layout, store)

    assert (swapped.counts.kv_chunks_reused, swapped.counts.chunks_moved) == (2, 0)
    assert off(swapped.logits, masked_logits(model, ids, layout)) <= EXACT


def test_learned_positions_are_used_again_at_the_same_place_only() -> None:
    model = shared("gpt2")
    one, two, question = prompt(20, 16, 6)
    store = ChunkKVStore(ROOM)
    prefill(model, one + two + question, laid_out((20, 16)), store)

    swapped = prefill(model, two + one + question, laid_out((16, 20)), store)
    same = prefill(model, one + two + question, laid_out((20, 16)), store)

    assert rotation_of(model) is None
    assert (swapped.counts.kv_chunks_reused, same.counts.kv_chunks_reused) == (0, 2)


def test_a_model_with_layers_without_positions_is_not_moved() -> None:
    model = tiny("llama")
    model.model.layers[1].self_attn.register_forward_pre_hook(_without_positions, with_kwargs=True)

    assert rotation_of(model) is None


def _without_positions(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    cos, sin = named["position_embeddings"]
    return given, {**named, "position_embeddings": (torch.ones_like(cos), torch.zeros_like(sin))}


def test_half_precision_is_used_again_at_the_same_place_only() -> None:
    model = tiny("llama").to(torch.bfloat16)
    one, two, question = prompt(20, 16, 6)
    layout = laid_out((20, 16))
    store = ChunkKVStore(ROOM)
    cold = prefill(model, one + two + question, layout, store)

    warm = prefill(model, one + two + question, layout, store)
    swapped = prefill(model, two + one + question, laid_out((16, 20)), store)

    assert torch.equal(cold.logits, warm.logits)
    assert (warm.counts.kv_chunks_reused, swapped.counts.kv_chunks_reused) == (2, 0)


SCALED: dict[str, dict[str, Any]] = {
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 1024},
    "dynamic": {"factor": 4.0},
    "longrope": {
        "factor": 4.0,
        "original_max_position_embeddings": 1024,
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
    },
}


@pytest.mark.parametrize("kind", sorted(SCALED))
def test_positions_that_depend_on_the_length_are_refused_by_name(kind: str) -> None:
    model = tiny("llama", rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **SCALED[kind]})
    layout = laid_out((12, 12), sink=4)
    ids = joined(prompt(4, 12, 12, 6))
    store = ChunkKVStore(ROOM)

    found = [prefill(model, ids, layout, store) for _ in range(2)][1]

    assert found.counts.refused is not None
    assert kind in found.counts.refused
    assert (found.counts.kv_chunks_reused, store.counts.kept_chunks) == (0, 0)
    assert off(found.logits, masked_logits(model, ids, layout)) <= EXACT


def test_only_what_changed_is_read_through_the_model(llama: Any) -> None:
    layout = laid_out((12, 14, 16, 18), CHAIN, sink=40)
    pieces = prompt(40, 12, 14, 16, 18, 6)
    store = ChunkKVStore(ROOM)
    cold = prefill(llama, joined(pieces), layout, store)
    pieces[2][0] = pieces[2][0] % (VOCABULARY - 1) + 1

    after = prefill(llama, joined(pieces), layout, store)

    assert cold.counts.tokens_encoded == 100
    assert after.counts.tokens_encoded == 14 + 16  # the changed one, and the one behind it


def test_a_store_too_small_for_the_prompt_changes_no_answer(llama: Any) -> None:
    layout = laid_out((12, 12, 12, 12), CHAIN, sink=4)
    ids = joined(prompt(4, 12, 12, 12, 12, 6))
    wanted = masked_logits(llama, ids, layout)
    store = ChunkKVStore(ChunkKVConfig(max_bytes=2 * 12 * 3 * 2 * 2 * 16 * 4))  # of two chunks

    found = [prefill(llama, ids, layout, store) for _ in range(3)]

    assert all(off(one.logits, wanted) <= EXACT for one in found)
    assert store.counts.evicted > 0
    assert store.counts.kept_bytes <= store.config.max_bytes


def test_numbers_kept_smaller_answer_the_same_from_the_store_and_anew(llama: Any) -> None:
    small = ChunkKVConfig(max_bytes=1 << 28, dtype="bfloat16")
    layout = laid_out((12, 12), {1: {0: 1}}, sink=4, chunk_kv=small)
    ids = joined(prompt(4, 12, 12, 6))
    store, large = ChunkKVStore(small), ChunkKVStore(ROOM)

    cold, warm = (prefill(llama, ids, layout, store) for _ in range(2))
    prefill(llama, ids, laid_out((12, 12), {1: {0: 1}}, sink=4), large)

    assert torch.equal(cold.logits, warm.logits)
    assert 2 * store.counts.kept_bytes == large.counts.kept_bytes


def test_two_threads_share_a_store(llama: Any) -> None:
    layout = laid_out((20, 20, 20), CHAIN, sink=8)
    prompts = [joined(prompt(8, 20, 20, 20, 6, seed=seed)) for seed in (1, 2)]
    wanted = [masked_logits(llama, ids, layout) for ids in prompts]
    store = ChunkKVStore(ROOM)
    wrong: list[float] = []

    def ask(which: int) -> None:
        for turn in range(10):
            at = (which + turn) % 2
            wrong.append(off(prefill(llama, prompts[at], layout, store).logits, wanted[at]))

    in_threads(lambda: ask(0), lambda: ask(1))

    assert len(wrong) == 20
    assert max(wrong) <= EXACT


def test_another_policy_than_the_layouts_masks_as_it_is_kept(llama: Any) -> None:
    binary, soft = (laid_out((12, 12), {1: {0: 2}}, sink=4, mask_strategy=kind) for kind in ("binary", "soft"))
    ids = joined(prompt(4, 12, 12, 6))

    found, wanted = (prepared_cache(llama, ids, one, soft.policy, ChunkKVStore(ROOM)).cache for one in (binary, soft))

    assert torch.equal(found.layers[-1].keys, wanted.layers[-1].keys)


def test_a_prompt_without_a_question_is_refused(llama: Any) -> None:
    with pytest.raises(ConfigError, match="before the question"):
        prefill(llama, joined(prompt(5, 5)), laid_out((5, 5), reader=0), None)


def test_a_model_that_is_being_trained_is_refused() -> None:
    model = tiny("llama").train()

    with pytest.raises(ConfigError, match="trained"):
        prefill(model, joined(prompt(5, 6)), laid_out((5,)), ChunkKVStore(ROOM))


def test_several_prompts_at_a_time_are_refused(llama: Any) -> None:
    with pytest.raises(ConfigError, match="one prompt at a time"):
        prefill(llama, tokens(11).expand(2, -1), laid_out((5,)), None)


def test_an_empty_segment_is_nothing(llama: Any) -> None:
    layout = laid_out((5, 0, 7), {2: {0: 1, 1: 1}}, sink=0)
    ids = joined(prompt(5, 0, 7, 6))

    found = prefill(llama, ids, layout, ChunkKVStore(ROOM))

    assert off(found.logits, masked_logits(llama, ids, layout)) <= EXACT


def test_a_prompt_of_a_question_only_is_read_plainly(llama: Any) -> None:
    layout = replace(laid_out((), reader=6), segments=(Segment(READER, 6),), near=({},))
    ids = joined(prompt(6))

    found = prefill(llama, ids, layout, ChunkKVStore(ROOM))

    with torch.no_grad():
        assert off(found.logits, llama(torch.tensor([ids])).logits[:, -1]) <= EXACT
