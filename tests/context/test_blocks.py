"""Block tables against every pair of tokens; how small they stay for long prompts."""

from __future__ import annotations

import tracemalloc
from array import array
from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from planloom.context.blocks import BlockTables, bit_runs
from planloom.context.layout import Segment, SegmentLayout, build_layout
from planloom.plan.gasa import GasaPolicy
from tests.context.layouts import CHUNK, READER, SINK, cells_by_definition, graph_of, random_layout


def tables_by_hand(cells: list[list[int]], size: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return (in part, as a whole) by looking at every pair of tokens."""
    n = len(cells)
    part: list[list[int]] = []
    whole: list[list[int]] = []
    for q in range(0, n, size):
        rows = cells[q : q + size]
        part.append([])
        whole.append([])
        for k in range(0, q + 1, size):
            block = [cell for row in rows for cell in row[k : k + size]]
            if k < q and all(block):
                whole[-1].append(k // size)
            elif any(block):
                part[-1].append(k // size)
    return part, whole


def check_tables(tables: BlockTables, cells: list[list[int]]) -> None:
    part, whole = tables_by_hand(cells, tables.block_size)
    assert [list(row) for row in tables.kv_idx] == part
    assert [list(row) for row in tables.full_idx] == whole
    assert list(tables.kv_num) == [len(row) for row in part]
    assert list(tables.full_num) == [len(row) for row in whole]
    causal = len(part) * (len(part) + 1) / 2
    assert tables.block_fraction == (sum(map(len, part + whole)) / causal if causal else 1.0)


def test_block_tables_are_those_of_every_pair_of_tokens_on_two_hundred_random_prompts() -> None:
    full = 0
    for seed in range(200):
        random = Random(seed)
        layout, graph = random_layout(random, most_tokens=12)
        tables = layout.block_tables(random.choice([1, 2, 3, 4, 8, 16, 128]))

        check_tables(tables, cells_by_definition(layout, graph))

        full += sum(tables.full_num)
    assert full > 1000, "a test of empty tables says nothing"


@st.composite
def any_layout(draw: st.DrawFn) -> SegmentLayout:
    """Return a layout whose chunks read any earlier ones, by no graph at all."""
    lengths = st.integers(0, 7)
    kinds = [*[SINK] * draw(st.integers(0, 2)), *[CHUNK] * draw(st.integers(0, 6)), *[READER] * draw(st.integers(0, 2))]
    chunks = [at for at, kind in enumerate(kinds) if kind is CHUNK]
    near: list[dict[int, int]] = [{} for _ in kinds]
    for at in chunks:
        near[at] = {other: draw(st.integers(0, 3)) for other in chunks if other < at and draw(st.booleans())}
    return SegmentLayout(tuple(Segment(kind, draw(lengths)) for kind in kinds), tuple(near), GasaPolicy())


@given(any_layout(), st.integers(1, 9))
def test_block_tables_are_those_of_any_rows(layout: SegmentLayout, block_size: int) -> None:
    of = [at for at, segment in enumerate(layout.segments) for _ in range(segment.length)]
    cells = [[int(k <= q and layout.rows[of[q]] >> of[k] & 1) for k in range(layout.n)] for q in range(layout.n)]

    tables = layout.block_tables(block_size)

    check_tables(tables, cells)


def test_no_block_on_the_diagonal_is_full() -> None:
    tables = build_layout([Segment(READER, 1000)], None, GasaPolicy()).block_tables(100)

    assert [list(row) for row in tables.kv_idx] == [[block] for block in range(10)]
    assert [list(row) for row in tables.full_idx] == [list(range(block)) for block in range(10)]
    assert tables.block_fraction == 1.0


def test_padded_tables_have_a_row_of_every_block() -> None:
    tables = BlockTables(16, 40, (array("i", [0]), array("i", [0, 1]), array("i")), (array("i"),) * 3)

    assert tables.padded("kv") == array("i", [0, 0, 0, 0, 1, 0, 0, 0, 0])
    assert tables.padded("full") == array("i", bytes(36))


@given(st.integers(0, 2**90))
def test_runs_of_bits_put_together_are_the_bits(bits: int) -> None:
    runs = list(bit_runs(bits))

    assert sum((1 << after) - (1 << first) for first, after in runs) == bits
    assert all(after < first for (_, after), (first, _) in pairwise(runs))


def test_s1_tables_of_a_long_prompt_stay_small() -> None:
    random = Random(3)
    names = [f"n{number}" for number in range(64)]
    graph = graph_of(*((one, other) for one, other in (random.sample(names, 2) for _ in names)), nodes=names)
    chunks = [Segment(CHUNK, 512, name) for name in names]
    tracemalloc.start()

    layout = build_layout([Segment(SINK, 64), *chunks, Segment(READER, 64)], graph, GasaPolicy())
    tables = layout.block_tables()
    _, peak_bytes = tracemalloc.get_traced_memory()

    tracemalloc.stop()
    assert layout.n == 32_896
    assert tables.blocks == 257
    assert layout.allowed_pairs < layout.dense_pairs / 4
    assert tables.block_fraction < 0.4
    assert peak_bytes < 4_000_000
