"""Where the pieces of a prompt stand and who reads whom, against the definition, pair by pair."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from planloom.context.layout import Segment, SegmentLayout, build_layout, layout_of
from planloom.context.near import near_of
from planloom.core.chat import Material, Passage
from planloom.errors import ConfigError
from planloom.plan.gasa import GasaPolicy
from tests.context.layouts import CHUNK, READER, SINK, cells_by_definition, graph_of, random_layout, reads_by_definition

CHAIN = graph_of(("a", "b"), ("b", "c"), nodes="z")
SEGMENTS = (Segment(SINK, 3), *(Segment(CHUNK, 4, node) for node in "abcz"), Segment(READER, 1), Segment(READER, 5))


def test_a64_who_reads_whom_in_a_prompt() -> None:
    layout = build_layout(SEGMENTS, CHAIN, GasaPolicy(max_hops=1))

    read = [{at for at in range(7) if row >> at & 1} for row in layout.rows]

    sink, a, b, c, z, summary, question = range(7)
    assert read[sink] == {sink}
    assert read[a] == {sink, a}
    assert read[b] == {sink, a, b}
    assert read[c] == {sink, b, c}
    assert read[z] == {sink, z}
    assert read[summary] == {sink, a, b, c, z, summary}
    assert read[question] == set(range(7))


def test_a64_two_hops_read_one_farther() -> None:
    layout = build_layout(SEGMENTS, CHAIN, GasaPolicy(max_hops=2))

    assert [layout.hops(3, at) for at in range(5)] == [0, 2, 1, 0, -1]
    assert layout.hops(1, 3) == -1, "nobody reads what comes later"


def test_rows_and_pairs_are_those_of_the_definition_on_two_hundred_random_prompts() -> None:
    for seed in range(200):
        layout, graph = random_layout(Random(seed), most_tokens=6)
        cells = cells_by_definition(layout, graph)

        places = range(len(layout.segments))
        for q in places:
            assert [layout.hops(q, k) for k in places[: q + 1]] == [
                reads_by_definition(layout, graph, q, k) for k in places[: q + 1]
            ], seed
        assert layout.allowed_pairs == sum(cell > 0 for row in cells for cell in row), seed
        assert layout.dense_pairs == sum(range(layout.n + 1))
        for q, (start, end) in enumerate(zip(layout.starts, layout.ends, strict=True)):
            before = {k for first, after in layout.reads(q) for k in range(first, after)}
            assert all({k for k in range(start) if cells[token][k]} == before for token in range(start, end)), seed


def test_a67_spans_are_exact_for_repeated_empty_and_strange_chunks() -> None:
    same, emoji = Segment(CHUNK, 4, "same"), Segment(CHUNK, 2, "日本 🗾")
    segments = (Segment(SINK, 3), same, Segment(CHUNK, 0, "missing"), same, emoji, Segment(READER, 5))

    layout = build_layout(segments, None, GasaPolicy())

    assert layout.spans() == (
        (0, 3, None), (3, 7, "same"), (7, 7, "missing"), (7, 11, "same"), (11, 13, "日本 🗾"), (13, 18, None),
    )  # fmt: skip
    assert [layout.segment_at(token) for token in (0, 2, 3, 6, 7, 12, 17, 18, 99)] == [0, 0, 1, 1, 3, 4, 5, 6, 6]


def test_what_is_past_the_end_reads_everything() -> None:
    layout = build_layout(SEGMENTS, CHAIN, GasaPolicy(max_hops=1))

    grown = layout.grown(layout.n + 7)

    assert grown.n == layout.n + 7
    assert grown.reads(len(SEGMENTS)) == ((0, layout.n),)
    assert grown.rows[: len(SEGMENTS)] == layout.rows
    assert layout.grown(layout.n) is layout


def test_without_a_mask_everything_before_is_read() -> None:
    layout = build_layout(SEGMENTS, CHAIN, GasaPolicy(max_hops=0)).without_mask()

    assert layout.allowed_pairs == layout.dense_pairs
    assert layout.pair_fraction == 1.0
    assert layout.nodes == (None, "a", "b", "c", "z", None, None)


def test_a_layout_can_be_cut_to_fewer_hops() -> None:
    layout = build_layout(SEGMENTS, CHAIN, GasaPolicy(max_hops=2))

    assert layout.within(1).rows == build_layout(SEGMENTS, CHAIN, GasaPolicy(max_hops=1)).rows
    assert [row.bit_count() for row in layout.within(-1).rows[1:5]] == [2, 2, 2, 2]


def test_positions_run_through_or_start_again_with_every_chunk() -> None:
    chunks = (Segment(CHUNK, 3, "a"), Segment(CHUNK, 1, "b"))
    segments = (Segment(SINK, 2), *chunks, Segment(READER, 1), Segment(READER, 2))

    assert build_layout(segments, None, GasaPolicy()).positions() == (0, 1, 2, 3, 4, 5, 6, 7, 8)
    assert build_layout(segments, None, GasaPolicy(positions="parallel")).positions() == (0, 1, 2, 3, 4, 2, 5, 6, 7)


def test_what_touches_is_read_as_one_range_even_across_an_empty_chunk() -> None:
    segments = (*(Segment(CHUNK, length, node) for length, node in ((4, "a"), (0, "z"), (4, "b"), (4, "c"))),)

    layout = build_layout(segments, CHAIN, GasaPolicy(max_hops=2))

    assert layout.near[3] == {0: 2, 2: 1}
    assert layout.reads(3) == ((0, 8),)
    assert [list(row) for row in layout.block_tables(3).full_idx] == [[], [0], [0, 1], [0, 1, 2]]


def test_kinds_are_part_of_the_key_even_where_masks_are_equal() -> None:
    one, other = (build_layout([Segment(kind, 9)], None, GasaPolicy()) for kind in (SINK, READER))

    assert one.rows == other.rows
    assert one.key() != other.key()


def test_a_layout_of_a_calls_documents_is_that_of_its_segments() -> None:
    policy = GasaPolicy(max_hops=1)
    passages = tuple(Passage(node, node) for node in "abcz")
    material = Material(passages, near_of([*"abcz"], [*"abcz"], CHAIN, policy).near, policy)

    layout = layout_of(material, [4, 4, 4, 4], 3, [1, 5])

    assert layout == build_layout(SEGMENTS, CHAIN, policy)
    assert layout_of(material, [4, 4, 4, 4], 0, 5).kinds == (CHUNK,) * 4 + (READER,)


def test_a_length_for_each_passage_is_needed() -> None:
    material = Material((Passage("a", "a"),), ({},), GasaPolicy())

    with pytest.raises(ConfigError, match="1 passages, 2 lengths"):
        layout_of(material, [4, 4], 0, 0)


def test_documents_may_be_named_apart_from_nodes() -> None:
    segments = (Segment(CHUNK, 4, "a#0"), Segment(CHUNK, 4, "z#0"), Segment(CHUNK, 4, "a#1"))

    layout = build_layout(segments, CHAIN, GasaPolicy(), documents=["a", "z", "a"])

    assert layout.near == ({}, {}, {0: 0})


def test_the_scope_of_the_reader_masks_nothing() -> None:
    near_a = GasaPolicy(max_hops=1, reader_scope="hops", anchors=("a",))

    layout = build_layout(SEGMENTS, CHAIN, near_a)

    assert layout.rows == build_layout(SEGMENTS, CHAIN, GasaPolicy(max_hops=1)).rows


def test_a_layout_comes_back_from_json() -> None:
    for seed in range(50):
        layout, _ = random_layout(Random(seed))

        assert SegmentLayout.from_dict(json.loads(json.dumps(layout.to_dict()))) == layout


WRONG: dict[str, Any] = {
    "a reader before a chunk": {"segments": [["reader", 1, None], ["chunk", 1, "a"]], "near": [[], []]},
    "no such kind": {"segments": [["middle", 1, None]], "near": [[]]},
    "a length below zero": {"segments": [["chunk", -1, "a"]], "near": [[]]},
    "a length that is no number": {"segments": [["chunk", "9", "a"]], "near": [[]]},
    "too many tokens": {"segments": [["chunk", 2**31, "a"]], "near": [[]]},
    "a later chunk": {"segments": [["chunk", 1, "a"], ["chunk", 1, "b"]], "near": [[[1, 1]], []]},
    "no chunk": {"segments": [["sink", 1, None], ["chunk", 1, "b"]], "near": [[], [[0, 1]]]},
    "a reader by the graph": {"segments": [["chunk", 1, "a"], ["reader", 1, None]], "near": [[], [[0, 1]]]},
    "hops below zero": {"segments": [["chunk", 1, "a"], ["chunk", 1, "b"]], "near": [[], [[0, -1]]]},
    "hops beyond a byte": {"segments": [["chunk", 1, "a"], ["chunk", 1, "b"]], "near": [[], [[0, 999]]]},
    "half a chunk": {"segments": [["chunk", 1, "a"], ["chunk", 1, "b"]], "near": [[], [[0.0, 1]]]},
    "a node that is no text": {"segments": [["chunk", 1, ["a"]]], "near": [[]]},
    "too few rows": {"segments": [["chunk", 1, "a"]], "near": []},
    "rows of something else": {"segments": [["chunk", 1, "a"]], "near": [7]},
    "no segments": {"near": []},
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_layout_is_refused(what: str) -> None:
    told = {"policy": {}} | WRONG[what]

    with pytest.raises(ConfigError):
        SegmentLayout.from_dict(told)


def test_a_policy_that_is_none_makes_no_layout() -> None:
    with pytest.raises(ConfigError, match="this is no layout"):
        SegmentLayout.from_dict({"segments": [], "near": [], "policy": {"max_hops": -1}})


def test_an_empty_prompt_is_a_layout_too() -> None:
    layout = build_layout((), None, GasaPolicy())

    assert (layout.n, layout.allowed_pairs, layout.pair_fraction) == (0, 0, 1.0)
    assert layout.block_tables().blocks == 0
