"""What a mask costs before a model has seen a token: hop search, layout, block tables, and the memory they take.

Chunks of 512 tokens whose graph has as many edges as chunks: on average each is tied to two others. Nothing is cached;
one thread.
"""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from random import Random

from benchmarks.rows import Budget, Row
from benchmarks.timing import Scale, cpu_s, timed
from planloom.context.blocks import BlockTables
from planloom.context.graph import DependencyGraph
from planloom.context.layout import Segment, SegmentKind, build_layout
from planloom.plan.gasa import GasaPolicy

CHUNK, AROUND = 512, 64
"""Tokens of a chunk, and of the instructions before and the question after them."""
MOST_MS = {32: 25.0, 128: 150.0}
"""By prompt, in thousands of tokens."""
MOST_MB = 64.0
POLICY = GasaPolicy()
PASSES = 15


async def measure(scale: Scale, folder: Path) -> list[Row]:
    """Return milliseconds by size of the prompt, and the peak of memory of the largest."""
    rows = []
    for thousands, most_ms in MOST_MS.items():
        count = scale.of(thousands * 1024 // CHUNK)
        segments, graph = prompt(count)
        took = min(_seconds(segments, graph) for _ in range(scale.rounds(PASSES)))
        budget = Budget(most_ms, of="ours", front=False)
        rows.append(Row(f"a mask and its tables, {thousands}k tokens", "ms", took * 1e3, budget=budget))
    tracemalloc.start()
    try:
        mask_of(segments, graph)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    budget = Budget(MOST_MB, of="ours", front=False)
    return [*rows, Row("memory for the mask of 128k tokens", "MB", peak_bytes / 1e6, budget=budget)]


def prompt(count: int) -> tuple[list[Segment], DependencyGraph]:
    """Return a prompt of so many chunks, and what ties them."""
    random = Random(count)
    names = [f"chunk {number}" for number in range(count)]
    graph = DependencyGraph()
    for name in names:
        graph.add_entity_node(name)
    for _ in names:
        source, target = random.sample(names, 2)
        graph.add_edge(source, target)
    chunks = [Segment(SegmentKind.CHUNK, CHUNK, name) for name in names]
    return [Segment(SegmentKind.SINK, AROUND), *chunks, Segment(SegmentKind.READER, AROUND)], graph


def mask_of(segments: list[Segment], graph: DependencyGraph) -> tuple[BlockTables, int, str]:
    """Return all that is worked out for a call: its tables, how many pairs they leave, and what they are kept by."""
    layout = build_layout(segments, graph, POLICY)
    tables = layout.block_tables()
    tables.padded("kv")
    tables.padded("full")
    return tables, layout.allowed_pairs, layout.key()


def _seconds(segments: list[Segment], graph: DependencyGraph) -> float:
    with timed(cpu_s) as took:
        mask_of(segments, graph)
    return took.seconds
