"""How soon a local model's first token comes when its documents' keys and values are kept, beside reading all anew.

A random Llama (4 layers of 512), 16 chunks of 512 tokens each and a question of 64; one thread, CPU seconds. What is
read anew is read without a mask, as transformers does it. Without torch there are no rows.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.rows import Budget, Row
from benchmarks.timing import Arm, Scale, cpu_s, in_turns, timed

CHUNKS, TOKENS, SINK, QUESTION = 16, 8192, 64, 64
VOCABULARY = 2048
BESIDE = "reading it all, dense"
S5 = Budget(limit=0.1, stretch=0.05, front=False)
"""All kept: the first token comes at least ten times sooner."""


async def measure(scale: Scale, folder: Path) -> list[Row]:
    """Return seconds to the first token: all chunks kept, all kept from other places, and one of them changed."""
    if find_spec("torch") is None or find_spec("transformers") is None:
        return []
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return await _rows(scale)
    finally:
        torch.set_num_threads(threads)


async def _rows(scale: Scale) -> list[Row]:
    tokens = scale.of(TOKENS, 16 * CHUNKS)
    ids = _ids(tokens + QUESTION)
    model = _llama(tokens + 2 * QUESTION, scale)
    layout = _layout(_lengths(tokens - SINK), _in_a_row(1))
    store = _store_with(model, ids, layout)
    kept, changed = (_asked(model, prompt, layout, store) for prompt in (lambda: ids, _changing(ids, layout)))
    arms = [_dense(model, ids), kept, _moved(model, ids, tokens), changed]
    dense_s, kept_s, moved_s, changed_s = map(min, await in_turns(*arms, rounds=scale.rounds(2)))
    what = f"first token after {tokens:,} tokens of documents"
    return [
        Row(f"{what}, all kept", "s", kept_s, dense_s, BESIDE, S5),
        Row(f"{what}, all kept elsewhere", "s", moved_s, dense_s, BESIDE, S5),
        Row(f"{what}, one of {CHUNKS} changed", "s", changed_s, dense_s, BESIDE),
    ]


def _ids(count: int) -> list[int]:
    drawn = Random(5)
    return [drawn.randrange(VOCABULARY) for _ in range(count)]


def _llama(longest: int, scale: Scale) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    hidden = 64 if scale.tiny else 512
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=hidden,
            intermediate_size=4 * hidden,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=8,
            max_position_embeddings=longest,
        )
    ).eval()


def _layout(lengths: list[int], near: list[dict[int, int]], **changed: Any) -> Any:
    """Return the layout of these chunks; `near` counts segments, of which the instructions are the first."""
    from planloom.context.layout import Segment, SegmentKind, SegmentLayout
    from planloom.plan.gasa import ChunkKVConfig, GasaPolicy

    policy = GasaPolicy(max_hops=1, chunk_kv=ChunkKVConfig(max_bytes=1 << 32), **changed)
    chunks = [Segment(SegmentKind.CHUNK, one, f"chunk {at}") for at, one in enumerate(lengths)]
    segments = (Segment(SegmentKind.SINK, SINK), *chunks, Segment(SegmentKind.READER, QUESTION))
    return SegmentLayout(segments, ({}, *near, {}), policy)


def _in_a_row(first: int) -> list[dict[int, int]]:
    """Return who reads whom where each chunk reads the one before it; `first`: the segment of the first."""
    return [{first + at - 1: 1} if at else {} for at in range(CHUNKS)]


def _lengths(tokens: int) -> list[int]:
    length = tokens // CHUNKS
    return [length] * (CHUNKS - 1) + [tokens - length * (CHUNKS - 1)]


def _dense(model: Any, ids: list[int]) -> Arm:
    import torch

    async def arm() -> float:
        with timed(cpu_s) as took, torch.no_grad():
            model(input_ids=torch.tensor([ids]), logits_to_keep=1)
        return took.seconds

    return arm


def _moved(model: Any, ids: list[int], tokens: int) -> Arm:
    """Return the arm in which another piece stands before what was kept; with `positions: parallel`, so it may."""
    lengths, near = _lengths(tokens - 2 * SINK), _in_a_row(1)
    without = [*ids[:SINK], *ids[2 * SINK :]]
    store = _store_with(model, without, _layout(lengths, near, positions="parallel"))
    return _asked(model, lambda: ids, _layout([SINK, *lengths], [{}, *_in_a_row(2)], positions="parallel"), store)


def _changing(ids: list[int], layout: Any) -> Callable[[], list[int]]:
    """Return what gives the prompt with another last chunk each time."""
    drawn = Random(6)

    def changed() -> list[int]:
        new = list(ids)
        new[layout.starts[CHUNKS]] = drawn.randrange(VOCABULARY)
        return new

    return changed


def _store_with(model: Any, ids: list[int], layout: Any) -> Any:
    """Return a store that holds the chunks of this prompt."""
    from planloom.context.attention.chunk_kv import ChunkKVStore
    from planloom.context.attention.prefill import prefill

    store = ChunkKVStore(layout.policy.chunk_kv)
    prefill(model, ids, layout, store, identity="random")
    return store


def _asked(model: Any, prompt: Callable[[], list[int]], layout: Any, store: Any) -> Arm:
    from planloom.context.attention.prefill import prefill

    async def arm() -> float:
        ids = prompt()
        with timed(cpu_s) as took:
            found = prefill(model, ids, layout, store, identity="random")
        assert found.counts.kv_chunks_reused >= CHUNKS - 1
        return took.seconds

    return arm
