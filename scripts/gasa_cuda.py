"""What GASA does on a GPU: exactness, attention beside flash attention, and whole prompts. Writes docs/gasa_cuda.md.

Run `python -m scripts.gasa_cuda` in a checkout, where torch sees a GPU. Without one it says so and ends well; with
`--check` it then runs the same at a small scale on the CPU, uncompiled, and writes nothing.

Rule 1: a part that fails is a row that says so: what others found is not lost.
Rule 2: every speed is beside dense attention of the same machine, in the same process, in turns.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

PAGE = Path(__file__).resolve().parent.parent / "docs" / "gasa_cuda.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
HEADS, KEY_HEADS, HEAD_DIM, HIDDEN, INNER = 32, 8, 128, 4096, 14336
OF_IDEAL = 0.6


class Found(NamedTuple):
    """A row of the table."""

    goal: str
    what: str
    found: str
    wanted: str
    met: bool | None


class Place(NamedTuple):
    """Where and how large everything is.

    Attributes:
        lengths: Tokens of prompts.
        chunks: Tokens of chunks.
        tries: How often each thing is timed.
    """

    device: str
    small: bool
    lengths: tuple[int, ...]
    chunks: tuple[int, ...]
    tries: int


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.gasa_cuda", description=__doc__)
    parser.add_argument("--check", action="store_true", help="without a GPU, run everything small on the CPU")
    parser.add_argument("--quick", action="store_true", help="prompts of 16k and 32k tokens only")
    asked = parser.parse_args(arguments)
    try:
        import torch
    except ModuleNotFoundError:
        print("torch is not installed: pip install 'planloom[transformers]'")
        return 0
    if torch.cuda.is_available():
        lengths = (16_384, 32_768) if asked.quick else (16_384, 32_768, 65_536, 131_072)
        place = Place("cuda", False, lengths, (512, 1024), 5)
    elif asked.check:
        place = Place("cpu", True, (512,), (64,), 1)
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
    else:
        print("there is no GPU that torch can see: nothing was measured (--check runs the logic on the CPU)")
        return 0
    rows = list(_all_of(place))
    page = f"{_machine(place)}\n\n{_table(rows)}"
    print(page)
    if not place.small:
        text = PAGE.read_text(encoding="utf-8")
        head, _, rest = text.partition(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n{page}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
        print(f"written to {PAGE}")
    return 1 if any(row.met is False for row in rows) else 0


def _all_of(place: Place) -> Iterator[Found]:
    for part in (exactness, kernels, recompiles, prompts, kept_chunks):
        try:
            for row in part(place):
                print(f"  {row.goal} {row.what}: {row.found} (wanted: {row.wanted})", file=sys.stderr, flush=True)
                yield row
        except Exception as error:  # noqa: BLE001 - an hour of measuring is not lost because its last part fails
            yield Found("", part.__name__, f"failed: {type(error).__name__}: {str(error)[:200]}", "", False)


def exactness(place: Place) -> Iterator[Found]:
    """Yield E1 to E4: of the kernels, and of whole small models."""
    import torch

    for dtype, most in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        name = str(dtype).removeprefix("torch.")
        with torch.no_grad():
            worst = max(_against_the_definition(place, dtype, seed) for seed in range(5 if place.small else 200))
            whole = _complete_against_dense(place, dtype)
        yield Found("E2", f"flex beside an explicit mask, {name}", f"{worst:.1e}", f"<= {most:.0e}", worst <= most)
        yield Found(
            "E1", f"flex over a complete graph beside dense, {name}", f"{whole:.1e}", f"<= {most:.0e}", whole <= most
        )
    for architecture in ("llama",) if place.small else ("llama", "qwen2", "qwen3", "mistral", "gpt2"):
        yield from _whole_model(place, architecture)


def kernels(place: Place) -> Iterator[Found]:
    """Yield S6: flex beside flash attention, as a share of what the blocks left out would save."""
    import torch

    from benchmarks.gasa import layout_of
    from benchmarks.timing import Scale
    from planloom.context.attention import flex
    from planloom.plan.gasa import GasaPolicy

    dtype = torch.float32 if place.small else torch.bfloat16
    for length in place.lengths:
        for chunk in place.chunks:
            for hops in (0, 1, 2):
                layout = layout_of(length, Scale(), GasaPolicy(max_hops=hops), chunk=chunk)
                query, key, value = _tensors(place, layout.n, dtype)
                packed, exact = (flex.blocks_of(layout, layout.n, place.device, bucketed=on) for on in (True, False))
                dense, sparse, unpadded = _in_turns(
                    place,
                    lambda q=query, k=key, v=value: _flash(q, k, v),
                    lambda q=query, k=key, v=value, b=packed: flex.by_blocks(q, k, v, b, scale=None),
                    lambda q=query, k=key, v=value, b=exact: flex.by_blocks(q, k, v, b, scale=None),
                )
                ideal = dense * layout.block_tables(128).block_fraction
                told = (
                    f"{dense / sparse:.2f}x ({1e3 * dense:.1f} -> {1e3 * sparse:.1f} ms), {ideal / sparse:.2f} of ideal"
                )
                told += f"; without buckets {ideal / unpadded:.2f}"
                met = None if place.small else ideal / sparse >= OF_IDEAL
                yield Found("S6", f"attention, {length:,} tokens, chunks of {chunk}, {hops} hops", told, ">= 0.60", met)


def recompiles(place: Place) -> Iterator[Found]:
    """Yield S6: how often the kernel is compiled for prompts of many lengths, in buckets and without."""
    import torch
    from torch._dynamo.utils import counters

    from benchmarks.gasa import layout_of
    from benchmarks.timing import Scale
    from planloom.context.attention import flex
    from planloom.plan.gasa import GasaPolicy

    least = place.lengths[0]
    lengths = [least + extra for extra in (1_200, 1_800, 2_600, 4_000)] if not place.small else [least, least + 64]
    dtype = torch.float32 if place.small else torch.bfloat16
    for bucketed in (True, False):
        before = counters["stats"]["unique_graphs"]
        padded, first, again = set(), [], []
        for length in lengths:
            layout = layout_of(length, Scale(), GasaPolicy(max_hops=1), chunk=place.chunks[0])
            query, key, value = _tensors(place, layout.n, dtype)
            blocks = flex.blocks_of(layout, layout.n, place.device, bucketed=bucketed)
            padded.add(blocks.padded)
            for seconds in (first, again):
                seconds.append(
                    _timed(place, lambda q=query, k=key, v=value, b=blocks: flex.by_blocks(q, k, v, b, scale=None))
                )
        made = counters["stats"]["unique_graphs"] - before
        named = "in buckets" if bucketed else "without buckets"
        told = f"{made} compiled for {len(padded)} padded lengths; "
        told += f"first {max(first):.2f} s, again {1e3 * median(again):.1f} ms"
        wanted = "<= 1 a bucket" if bucketed else ""
        met = made <= len(padded) if bucketed and not place.small else None
        yield Found("S6", f"{len(lengths)} lengths {named}", told, wanted, met)


def prompts(place: Place) -> Iterator[Found]:
    """Yield whole prompts through a random model of the shape of one with eight billion weights, four layers of it."""
    import torch

    from benchmarks.gasa import layout_of
    from benchmarks.timing import Scale
    from planloom.context.attention.apply import apply
    from planloom.plan.gasa import GasaPolicy

    model = _large(place)
    with torch.no_grad():
        for length in place.lengths:
            layout = layout_of(length, Scale(), GasaPolicy(max_hops=1), chunk=place.chunks[0])
            ids = torch.randint(256, (1, layout.n), device=place.device)

            def read(ids: Any = ids, layout: Any = None) -> Any:
                with apply(model, layout) if layout is not None else nullcontext():
                    return model(ids, use_cache=True, logits_to_keep=1).logits

            dense, sparse = _in_turns(place, read, lambda read=read, layout=layout: read(layout=layout))
            told = f"{dense / sparse:.2f}x ({1e3 * dense:.0f} -> {1e3 * sparse:.0f} ms)"
            yield Found("", f"prompt of {length:,} tokens, 1 hop", told, "", None)


def kept_chunks(place: Place) -> Iterator[Found]:
    """Yield the time to the first token when the keys and values of all chunks are kept."""
    import torch

    from benchmarks.gasa import layout_of
    from benchmarks.timing import Scale
    from planloom.context.attention.chunk_kv import ChunkKVStore
    from planloom.context.attention.prefill import prefill
    from planloom.plan.gasa import ChunkKVConfig, GasaPolicy

    model = _large(place)
    store = ChunkKVStore(ChunkKVConfig(max_bytes=32 << 30))
    policy = GasaPolicy(max_hops=0, positions="parallel")
    with torch.no_grad():
        for length in place.lengths:
            layout = layout_of(length, Scale(), policy, chunk=place.chunks[0])
            ids = torch.randint(256, (1, layout.n), device=place.device)
            prefill(model, ids, layout, store, identity="random")
            dense, kept = _in_turns(
                place,
                lambda ids=ids: model(ids, use_cache=True, logits_to_keep=1).logits,
                lambda ids=ids, layout=layout: prefill(model, ids, layout, store, identity="random").logits,
            )
            store.clear()
            told = f"{dense / kept:.1f}x ({1e3 * dense:.0f} -> {1e3 * kept:.0f} ms)"
            yield Found("S5", f"first token of {length:,}, all chunks kept", told, "", None)


def _against_the_definition(place: Place, dtype: Any, seed: int) -> float:
    from planloom.context.attention import flex, sdpa_mask
    from tests.local.layouts import draw

    drawn = draw(seed, chunks=(2, 8), tokens=(0, 40 if place.small else 400))
    layout = drawn.layout
    query, key, value = _tensors(place, layout.n, dtype, heads=(4, 2), head_dim=32)
    read = flex.by_blocks(query, key, value, flex.blocks_of(layout, layout.n, place.device), scale=0.2)
    exact = (tensor.float() for tensor in (query, key, value))
    explicit = sdpa_mask.by_mask(*exact, sdpa_mask.score_bias(layout, 0, layout.n), scale=0.2)
    return float((read.float() - explicit).abs().max())


def _complete_against_dense(place: Place, dtype: Any) -> float:
    from torch.nn import functional

    from planloom.context.attention import flex
    from tests.local.layouts import complete

    layout = complete([100, 60, 140] if place.small else [1000, 600, 1400])
    query, key, value = _tensors(place, layout.n, dtype, heads=(4, 2), head_dim=32)
    read = flex.by_blocks(query, key, value, flex.blocks_of(layout, layout.n, place.device), scale=None)
    dense = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return float((read.float() - dense.transpose(1, 2).float()).abs().max())


def _whole_model(place: Place, architecture: str) -> Iterator[Found]:
    """Yield E3 and E4 of a small random model in float32."""
    import torch

    from planloom.context.attention.apply import apply
    from planloom.plan.gasa import GasaPolicy
    from tests.local.layouts import joined
    from tests.local.tiny import tiny, tokens

    model = tiny(architecture).to(place.device)
    layout = joined([150, 140, 160], [(1, 0)], policy=GasaPolicy(max_hops=1))
    ids = tokens(layout.n).to(place.device)
    other = ids.clone()
    first, last = layout.starts[1], layout.ends[1]
    other[0, first:last] = tokens(last - first, seed=9).to(place.device)
    with torch.no_grad(), apply(model, layout):
        apart = (model(ids).logits - model(other).logits).abs().amax(-1)[0]
        whole = model(ids).logits
        begun = model(ids[:, :-3], use_cache=True)
        rest = model(ids[:, -3:], past_key_values=begun.past_key_values).logits
    reached = float(apart[layout.starts[2] : layout.ends[2]].max())
    unreached = float(apart[layout.starts[3] : layout.ends[3]].max())
    given = model.get_input_embeddings()(ids).detach().requires_grad_()
    with apply(model, layout):
        model(inputs_embeds=given).logits[:, layout.starts[3] : layout.ends[3]].square().sum().backward()
    slope = float(given.grad[:, first:last].abs().max())
    exact = unreached == 0.0 and slope == 0.0 and reached > 0
    told = f"unreachable {unreached}, gradient {slope}; reachable {reached:.1e}"
    yield Found("E3", f"{architecture}: a changed chunk", told, "0.0, 0.0; > 0", exact)
    off = float((whole[:, -3:] - rest).abs().max() / whole.abs().max())
    yield Found("E4", f"{architecture}: cached beside read again", f"{off:.1e}", "<= 1e-4", off <= 1e-4)
    written: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 16, "do_sample": False}
    dense = model.generate(ids, **written)
    with apply(model, layout):
        alone = model.generate(ids, **written)
        assisted = model.generate(ids, assistant_model=tiny(architecture, seed=4).to(place.device), **written)
    same, differs = torch.equal(alone, assisted), not torch.equal(alone, dense)
    told = f"assisted {'equal' if same else 'DIFFERS'}; dense {'differs' if differs else 'EQUAL'}"
    yield Found("E4", f"{architecture}: tokens written", told, "assisted equal; dense differs", same and differs)


def _large(place: Place) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, inner = (64, 128) if place.small else (HIDDEN, INNER)
    heads, key_heads = (4, 2) if place.small else (HEADS, KEY_HEADS)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=2 if place.small else 4,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=1 << 18,
    )
    model = LlamaForCausalLM(config).eval()
    return model.to(place.device, torch.float32 if place.small else torch.bfloat16)


def _tensors(
    place: Place, tokens: int, dtype: Any, *, heads: tuple[int, int] | None = None, head_dim: int | None = None
) -> Any:
    import torch

    asked, kept = heads or ((4, 2) if place.small else (HEADS, KEY_HEADS))
    wide = head_dim or (32 if place.small else HEAD_DIM)
    return [torch.randn(1, count, tokens, wide, device=place.device, dtype=dtype) for count in (asked, kept, kept)]


def _flash(query: Any, key: Any, value: Any) -> Any:
    from torch.nn import functional
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


def _in_turns(place: Place, *calls: Callable[[], Any]) -> list[float]:
    """Return the median seconds of each call; the first turn, which compiles, does not count."""
    found: list[list[float]] = [[] for _ in calls]
    for number in range(place.tries + 1):
        for call, seconds in zip(calls, found, strict=True):
            took = _timed(place, call)
            if number:
                seconds.append(took)
    return [median(seconds) for seconds in found]


def _timed(place: Place, call: Callable[[], Any]) -> float:
    import torch

    def wait() -> None:
        if place.device == "cuda":
            torch.cuda.synchronize()

    with torch.no_grad():
        wait()
        started = time.perf_counter()
        call()
        wait()
        return time.perf_counter() - started


def _machine(place: Place) -> str:
    import torch
    import transformers

    named = torch.cuda.get_device_name() if place.device == "cuda" else "no GPU: the CPU, small and uncompiled"
    today = time.strftime("%Y-%m-%d")
    return f"On {named}; torch {torch.__version__}, transformers {transformers.__version__}, {today}."


def _table(rows: Sequence[Found]) -> str:
    said = {True: "met", False: "NOT MET", None: ""}
    lines = [f"| {row.goal} | {row.what} | {row.found} | {row.wanted} | {said[row.met]} |" for row in rows]
    return "\n".join(["| goal | what | found | wanted | |", "| --- | --- | --- | --- | --- |", *lines])


if __name__ == "__main__":
    raise SystemExit(main())
