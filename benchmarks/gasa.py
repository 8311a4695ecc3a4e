"""What leaving out pairs of tokens brings: attention alone, a whole prompt, and where nothing can be left out.

Rule 1: everything is a ratio beside dense causal attention, measured in turns in the same process on one thread.
Rule 2: of several rounds the least counts: whatever else the machine does only adds.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.rows import Budget, Row
from benchmarks.timing import Arm, Scale, cpu_s, in_turns
from planloom.context.graph import DependencyGraph
from planloom.context.layout import Segment, SegmentKind, SegmentLayout, build_layout
from planloom.plan.gasa import GasaPolicy

CHUNK, SINK, READER = 512, 32, 64
HEADS, KEY_HEADS, HEAD_DIM, LAYERS, HIDDEN = 8, 2, 64, 4, 512
"""Four heads share keys and values, as in the models that are used today."""
OF_IDEAL = 0.6
OF_SAVING = 0.7
TIMES_AT_16K = 2.2
SLOWER = 1.03
Prepared = Callable[[], Any]


async def measure(scale: Scale, folder: Path) -> list[Row]:
    """Return the rows of goals S2, S3 and S4; none where torch is not installed."""
    if find_spec("torch") is None or find_spec("transformers") is None:
        return []
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            return [*await attention(scale), *await prefill(scale), *await never_slower(scale)]
    finally:
        torch.set_num_threads(threads)


async def attention(scale: Scale) -> list[Row]:
    """Return attention by runs beside dense attention times the share of pairs, which would be ideal."""
    rows = []
    for thousand in (8, 16):
        layouts = {hops: layout_of(thousand * 1024, scale, GasaPolicy(max_hops=hops)) for hops in (1, 2)}
        calls = [dense_call(layouts[1].n), *(sparse_call(layout) for layout in layouts.values())]
        dense, *found = await least(*calls, rounds=scale.rounds(3))
        for (hops, layout), seconds in zip(layouts.items(), found, strict=True):
            rows.append(
                Row(
                    f"attention under a layout, {thousand}k tokens, {hops} hop{'s' * (hops > 1)}",
                    "ms",
                    1e3 * seconds,
                    1e3 * dense * layout.pair_fraction,
                    f"dense ({1e3 * dense:.0f} ms) × its {layout.pair_fraction:.3f} of the pairs",
                    Budget(None if scale.tiny else 1 / OF_IDEAL, front=False),
                )
            )
    return rows


async def prefill(scale: Scale) -> list[Row]:
    """Return a whole prompt beside the same without a mask, and beside what could be saved."""
    rows = []
    model = random_model(scale)
    for thousand in (8, 16):
        layout = layout_of(thousand * 1024, scale, GasaPolicy(max_hops=1))
        calls = (prompt_call(model, layout.n), prompt_call(model, layout.n, layout), dense_call(layout.n))
        dense, sparse, alone = await least(*calls, rounds=scale.rounds(1 if thousand == 16 else 2))
        could, had = LAYERS * alone * (1 - layout.pair_fraction), max(dense - sparse, 1e-3 * dense)
        at_16k = None if scale.tiny or thousand != 16 else 1 / TIMES_AT_16K
        saved = None if scale.tiny else 1 / OF_SAVING
        named = f"prompt of {thousand}k tokens"
        rows += [
            Row(f"{named} under a layout", "s", sparse, dense, "the same, dense", Budget(at_16k)),
            Row(f"{named}, saving there is", "s", could, had, "saving had", Budget(saved, front=False)),
        ]
    return rows


async def never_slower(scale: Scale) -> list[Row]:
    """Return prompts at which `auto` can save nothing, beside the same without a layout."""
    model = random_model(scale)
    cases = {
        "a complete graph": (2048, GasaPolicy(max_hops=64, min_tokens=0)),
        "two hops of few": (2048, GasaPolicy(max_hops=2, min_tokens=0)),
        "a short prompt": (512, GasaPolicy(max_hops=0)),
    }
    rows = []
    for name, (tokens, policy) in cases.items():
        layout = layout_of(tokens, scale, policy, joined=True)
        calls = (prompt_call(model, layout.n), auto_call(model, layout))
        dense, auto = await least(*calls, rounds=scale.rounds(7))
        limit = Budget(None if scale.tiny else SLOWER, front=False)
        rows.append(Row(f"`auto` with {name}", "ms", 1e3 * auto, 1e3 * dense, "dense", limit))
    return rows


def layout_of(
    tokens: int, scale: Scale, policy: GasaPolicy, *, joined: bool = False, chunk: int = CHUNK
) -> SegmentLayout:
    """Return a layout of about so many tokens, in chunks over a random graph of mean degree 2.

    Args:
        joined: Whether every chunk depends on the one before it, too, so that nothing is out of reach of many hops.
        chunk: Tokens of each chunk.
    """
    size = 32 if scale.tiny else chunk
    count = max(2, (tokens // 16 if scale.tiny else tokens) // size)
    drawn = Random(count)
    graph = DependencyGraph()
    names = [f"chunk {at}" for at in range(count)]
    for name in names:
        graph.add_entity_node(name)
    for _ in range(count):
        a, b = drawn.sample(names, 2)
        graph.add_edge(a, b)
    for a, b in zip(names[1:], names, strict=False) if joined else ():
        graph.add_edge(a, b)
    chunks = [Segment(SegmentKind.CHUNK, size, name) for name in names]
    ends = Segment(SegmentKind.SINK, SINK), Segment(SegmentKind.READER, READER)
    return build_layout([ends[0], *chunks, ends[1]], graph, policy)


def random_model(scale: Scale) -> Any:
    """Return a Llama of random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden = 64 if scale.tiny else HIDDEN
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=1 << 17,
    )
    return LlamaForCausalLM(config).eval()


def dense_call(tokens: int) -> Prepared:
    import torch

    query, key, value = _tensors(tokens)
    attend = torch.nn.functional.scaled_dot_product_attention
    return lambda: attend(query, key, value, is_causal=True, enable_gqa=True)


def sparse_call(layout: SegmentLayout) -> Prepared:
    from planloom.context.attention.blockrow import by_runs
    from planloom.context.attention.runs import runs_of

    query, key, value = _tensors(layout.n)
    return lambda: by_runs(query, key, value, runs_of(layout, 0, layout.n), scale=None)


def prompt_call(model: Any, tokens: int, layout: SegmentLayout | None = None) -> Prepared:
    """Return a call that reads a random prompt, under the layout if there is one."""
    import torch

    from planloom.context.attention.apply import apply

    ids = torch.randint(256, (1, tokens))

    def read() -> Any:
        with apply(model, layout) if layout is not None else nullcontext():
            return model(ids, use_cache=True, logits_to_keep=1)

    return read


def auto_call(model: Any, layout: SegmentLayout) -> Prepared:
    """Return a call that first decides whether the layout pays, from its segments on, as `backend: auto` does."""
    from planloom.context.attention.shape import shape_of
    from planloom.context.saving import reason_against

    masked, plain = prompt_call(model, layout.n, layout), prompt_call(model, layout.n)

    def read() -> Any:
        made = SegmentLayout(layout.segments, layout.near, layout.policy)
        fraction = made.block_tables().block_fraction
        against = reason_against(made.n, shape_of(model.config), fraction, made.policy)
        return plain() if against else masked()

    return read


async def least(*calls: Prepared, rounds: int) -> list[float]:
    """Return the fewest CPU seconds that each call took: tensors leave no garbage, so none is collected before."""
    return [min(seconds) for seconds in await in_turns(*map(_arm, calls), rounds=rounds)]


def _tensors(tokens: int) -> Any:
    import torch

    return [torch.randn(1, heads, tokens, HEAD_DIM) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]


def _arm(call: Prepared) -> Arm:
    async def run() -> float:
        started = cpu_s()
        call()
        return cpu_s() - started

    return run
