"""Masks made before: found again where the prompt hangs together alike, and only there."""

from __future__ import annotations

from functools import partial
from threading import Barrier, Thread

import pytest

from planloom.context.graph import DependencyGraph
from planloom.context.layout import Segment, SegmentLayout, build_layout
from planloom.context.mask_cache import MaskCache
from planloom.plan.gasa import GasaPolicy
from tests.context.layouts import CHUNK, READER, SINK, graph_of

LENGTHS = (3, 40, 40, 40, 9)


def layout(
    graph: DependencyGraph | None = None,
    *,
    nodes: str = "abc",
    lengths: tuple[int, ...] = LENGTHS,
    policy: GasaPolicy | None = None,
) -> SegmentLayout:
    chunks = [Segment(CHUNK, length, node) for length, node in zip(lengths[1:-1], nodes, strict=True)]
    segments = [Segment(SINK, lengths[0]), *chunks, Segment(READER, lengths[-1])]
    return build_layout(segments, graph or graph_of(("a", "b"), nodes="abc"), policy or GasaPolicy(block_size=16))


def test_a67_the_second_of_two_equal_prompts_is_a_hit() -> None:
    cache = MaskCache(8)

    first, first_hit = cache.tables(layout())
    second, second_hit = cache.tables(layout())

    assert (first_hit, second_hit) == (False, True)
    assert second is first
    assert (cache.hits, cache.misses) == (1, 1)


def test_a67_another_edge_is_a_miss_and_another_mask() -> None:
    cache = MaskCache(8)
    first, _ = cache.tables(layout())

    second, hit = cache.tables(layout(graph_of(("a", "b"), ("b", "c"), nodes="abc")))

    assert not hit
    assert second != first


def test_what_is_called_otherwise_and_hangs_together_alike_is_a_hit() -> None:
    cache = MaskCache(8)
    cache.tables(layout())

    _, hit = cache.tables(layout(graph_of(("x", "y"), nodes="xyz"), nodes="xyz"))

    assert hit


@pytest.mark.parametrize(
    "other",
    [
        layout(lengths=(3, 41, 39, 40, 9)),
        layout(policy=GasaPolicy(block_size=32)),
        layout(policy=GasaPolicy(block_size=16, hop_mode="strict")),
        layout(policy=GasaPolicy(block_size=16, mask_strategy="soft")),
        layout(policy=GasaPolicy(block_size=16, max_hops=0)),
        layout().without_mask(),
    ],
    ids=["lengths", "block size", "hop mode", "soft", "hops", "kinds"],
)
def test_whatever_makes_a_mask_differ_is_a_miss(other: SegmentLayout) -> None:
    cache = MaskCache(8)
    cache.tables(layout())

    _, hit = cache.tables(other)

    assert not hit


def test_hops_matter_where_scores_fall_with_them() -> None:
    near = GasaPolicy(mask_strategy="soft", max_hops=2)
    direct, by_way = graph_of(("a", "b"), ("b", "c"), ("a", "c")), graph_of(("a", "b"), ("b", "c"))

    assert layout(direct, policy=near).rows == layout(by_way, policy=near).rows
    assert layout(direct, policy=near).key() != layout(by_way, policy=near).key()
    binary = GasaPolicy(max_hops=2)
    assert layout(direct, policy=binary).key() == layout(by_way, policy=binary).key()


def test_how_much_scores_fall_matters_too() -> None:
    one, other = (GasaPolicy(mask_strategy="soft", soft_bias=bias) for bias in (1.0, 2.0))

    assert layout(policy=one).key() != layout(policy=other).key()


def test_the_longest_unused_goes_first() -> None:
    cache = MaskCache(2)
    cache.get("one", lambda: 1)
    cache.get("two", lambda: 2)
    cache.get("one", lambda: 0)

    cache.get("three", lambda: 3)

    assert len(cache) == 2
    assert cache.get("one", lambda: 0) == (1, True)
    assert cache.get("two", lambda: 22) == (22, False)


def test_a_cache_of_no_size_keeps_nothing() -> None:
    cache = MaskCache(0)

    assert [cache.get("one", lambda: 1) for _ in range(2)] == [(1, False), (1, False)]
    assert len(cache) == 0


def test_many_threads_use_one_cache() -> None:
    cache, start = MaskCache(3), Barrier(8)
    wrong: list[object] = []

    def use() -> None:
        start.wait()
        for turn in range(2000):
            key = f"{turn % 5}"
            made, _ = cache.get(key, partial(str, key))
            if made != key:
                wrong.append(made)

    threads = [Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong
    assert cache.hits + cache.misses == 16_000
    assert len(cache) == 3
