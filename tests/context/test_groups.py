"""Passages in groups: parts of a graph, windows, all at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planloom.context.graph import DependencyGraph
from planloom.context.groups import groups_of, near_in, parted, put_back
from planloom.core.chat import Passage
from planloom.errors import ConfigError
from planloom.plan.gasa import GasaPolicy

POLICY = GasaPolicy()


def graph_of(nodes: str, *edges: str) -> DependencyGraph:
    graph = DependencyGraph()
    for node in nodes:
        graph.add_document_node(node)
    for edge in edges:
        graph.add_edge(edge[0], edge[1])
    return graph


def passages_of(nodes: str, *, size: int = 1) -> list[Passage]:
    return [Passage(node, "x" * size) for node in nodes]


@pytest.mark.parametrize("strategy", ["dense", "prompt_composer", "shadow_model"])
def test_a66_what_is_read_at_once_is_one_group_whose_mask_is_full(strategy: str) -> None:
    groups = groups_of(strategy, passages_of("abc"), graph_of("abc"), POLICY, len, 1)

    assert groups == ((0, 1, 2),)
    assert near_in(groups) == ({1: 0, 2: 0}, {0: 0, 2: 0}, {0: 0, 1: 0})


def test_a66_windows_are_filled_in_order_and_read_only_themselves() -> None:
    groups = groups_of("windowed", passages_of("abcde", size=4), graph_of("abcde", "ae"), POLICY, len, 9)

    assert groups == ((0, 1), (2, 3), (4,))
    assert near_in(groups) == ({1: 0}, {0: 0}, {3: 0}, {2: 0}, {})


def test_a66_each_connected_part_is_a_group_and_reads_only_itself() -> None:
    groups = groups_of("block_diagonal", passages_of("abcde"), graph_of("abcde", "ac", "ed"), POLICY, len, None)

    assert groups == ((0, 2), (1,), (3, 4))
    assert near_in(groups) == ({2: 0}, {}, {0: 0}, {4: 0}, {3: 0})


def test_a_part_that_is_too_large_is_cut_into_windows() -> None:
    groups = groups_of("block_diagonal", passages_of("abcd", size=4), graph_of("abcd", "ac", "cd"), POLICY, len, 8)

    assert groups == ((0, 2), (3,), (1,))


def test_a_passage_larger_than_a_window_has_one_of_its_own() -> None:
    passages = [Passage("a", "x"), Passage("b", "x" * 9), Passage("c", "x")]

    assert groups_of("windowed", passages, None, POLICY, len, 5) == ((0,), (1,), (2,))


def test_a_way_through_what_is_not_read_connects() -> None:
    groups = groups_of("block_diagonal", passages_of("ac"), graph_of("abc", "ab", "bc"), POLICY, len, None)

    assert groups == ((0, 1),)


def test_passages_of_one_document_stay_together_though_their_nodes_are_apart() -> None:
    groups = groups_of(
        "block_diagonal", passages_of("abc"), graph_of("abc"), POLICY, len, None, documents=["one", "two", "one"]
    )

    assert groups == ((0, 2), (1,))


@pytest.mark.parametrize(("unknown", "groups"), [("dense", ((0,), (1, 2))), ("isolate", ((0,), (1,), (2,)))])
def test_what_the_graph_does_not_know_is_one_part_or_each_its_own(
    unknown: str, groups: tuple[tuple[int, ...], ...]
) -> None:
    policy = GasaPolicy.model_validate({"unknown_nodes": unknown})

    assert groups_of("block_diagonal", passages_of("ayz"), graph_of("a"), policy, len, None) == groups


def test_no_passages_are_no_groups() -> None:
    assert [groups_of(name, [], None, POLICY, len, 5) for name in ("dense", "windowed", "block_diagonal")] == [()] * 3


def test_a_strategy_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError, match=r"use one of: block_diagonal, windowed, dense"):
        groups_of("diagonal", passages_of("a"), None, POLICY, len, None)


@given(
    st.text("abcdefyz", max_size=14),
    st.lists(st.text("abcdef", min_size=2, max_size=2).filter(lambda edge: edge[0] != edge[1]), max_size=5),
    st.lists(st.integers(1, 9), min_size=14, max_size=14),
    st.sampled_from(["block_diagonal", "windowed", "dense"]),
    st.one_of(st.none(), st.integers(1, 20)),
)
def test_a66_taken_apart_and_put_back_is_what_it_was(
    nodes: str, edges: list[str], sizes: list[int], strategy: str, budget: int | None
) -> None:
    passages = [Passage(node, "x" * size) for node, size in zip(nodes, sizes, strict=False)]

    groups = groups_of(strategy, passages, graph_of("abcdef", *edges), POLICY, len, budget)

    assert put_back(groups, parted(groups, passages)) == passages
    assert all(list(group) == sorted(group) for group in groups)
    if budget is not None and strategy != "dense":
        assert all(sum(len(passages[at].text) for at in group) <= budget for group in groups if len(group) > 1)
