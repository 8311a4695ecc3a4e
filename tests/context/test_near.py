"""Which passage may read which, and in what order passages stand."""

from __future__ import annotations

from random import Random

import pytest

from planloom.context.near import near_of, ordered
from planloom.errors import ConfigError
from planloom.plan.gasa import GasaPolicy
from tests.context.layouts import graph_of, hops_by_walking, random_graph

CHAIN = graph_of(("a", "b"), ("b", "c"), nodes="z")
ABCZ = ["a", "b", "c", "z"]


@pytest.mark.parametrize(
    ("max_hops", "expected"),
    [
        (0, ({}, {}, {}, {})),
        (1, ({1: 1}, {0: 1, 2: 1}, {1: 1}, {})),
        (2, ({1: 1, 2: 2}, {0: 1, 2: 1}, {1: 1, 0: 2}, {})),
    ],
)
def test_a64_passages_read_each_other_as_far_as_the_hops_go(
    max_hops: int, expected: tuple[dict[int, int], ...]
) -> None:
    policy = GasaPolicy(max_hops=max_hops)

    found = near_of(ABCZ, ABCZ, CHAIN, policy)

    assert found.near == expected
    assert found.unknown == 0


def test_a64_the_direction_of_an_edge_does_not_matter() -> None:
    turned = graph_of(("b", "a"), ("c", "b"), nodes="z")

    assert near_of(ABCZ, ABCZ, turned, GasaPolicy()) == near_of(ABCZ, ABCZ, CHAIN, GasaPolicy())


def test_a64_an_entity_on_the_way_counts_a_hop_on_either_side() -> None:
    graph = graph_of(("a", "person"), ("c", "person"))

    assert near_of(["a", "c"], ["a", "c"], graph, GasaPolicy(max_hops=1)).near == ({}, {})
    assert near_of(["a", "c"], ["a", "c"], graph, GasaPolicy(max_hops=2)).near == ({1: 2}, {0: 2})


def test_only_what_a_passage_depends_on_is_read_where_the_direction_says_so() -> None:
    policy = GasaPolicy(max_hops=2, direction="dependencies")

    assert near_of(ABCZ, ABCZ, CHAIN, policy).near == ({1: 1, 2: 2}, {2: 1}, {}, {})


@pytest.mark.parametrize("direction", ["both", "dependencies"])
def test_a64_hops_are_those_of_a_search_by_hand_on_two_hundred_random_graphs(direction: str) -> None:
    for seed in range(200):
        random = Random(seed)
        graph = random_graph(random, random.randint(1, 10))
        nodes = [random.choice(list(graph.nodes)) for _ in range(random.randint(1, 12))]
        policy = GasaPolicy.model_validate({"max_hops": random.randint(0, 4), "direction": direction})
        far = {node: hops_by_walking(graph, node, direction) for node in nodes}

        found = near_of(nodes, [None] * len(nodes), graph, policy)

        for place, row in enumerate(found.near):
            away = {other: far[nodes[place]].get(node, 99) for other, node in enumerate(nodes) if other != place}
            assert row == {other: hops for other, hops in away.items() if hops <= policy.max_hops}, seed


def test_passages_of_one_document_are_no_hop_apart_whatever_the_graph_says() -> None:
    nodes = ["far", "doc#0", "doc#1"]
    graph = graph_of(("doc#0", "far"), nodes="x")

    found = near_of(nodes, ["far", "doc", "doc"], graph, GasaPolicy(max_hops=1, unknown_nodes="isolate"))

    assert found.near == ({1: 1}, {0: 1, 2: 0}, {1: 0})


def test_a_passage_stands_where_its_document_stands_in_the_graph() -> None:
    found = near_of(["a#3", "b#0"], ["a", "b"], CHAIN, GasaPolicy(max_hops=1))

    assert found == near_of(["a", "b"], ["a", "b"], CHAIN, GasaPolicy(max_hops=1))


@pytest.mark.parametrize(
    ("unknown_nodes", "expected"),
    [("dense", ({1: 0}, {0: 0, 2: 0}, {1: 0})), ("isolate", ({}, {}, {}))],
)
def test_a_document_that_the_graph_does_not_know_is_dense_or_isolated_and_counted(
    unknown_nodes: str, expected: tuple[dict[int, int], ...]
) -> None:
    policy = GasaPolicy.model_validate({"max_hops": 1, "unknown_nodes": unknown_nodes})

    found = near_of(["a", "who", "c"], ["a", "who", "c"], CHAIN, policy)

    assert found.near == expected
    assert found.unknown == 1


def test_without_a_graph_nothing_is_cut_off_and_every_document_counts_as_unknown() -> None:
    found = near_of(["a", "a", None], ["a", "a", None], None, GasaPolicy())

    assert found.near == ({1: 0, 2: 0}, {0: 0, 2: 0}, {0: 0, 1: 0})
    assert found.unknown == 2


def test_nodes_without_a_document_each_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 nodes and 1 documents"):
        near_of(["a", "b"], ["a"], None, GasaPolicy())


def test_dependencies_stand_first_and_a_document_stays_together() -> None:
    nodes = ["a#0", "z", "b", "a#1", "c"]
    documents = ["a", "z", "b", "a", "c"]

    order = ordered(nodes, documents, CHAIN, GasaPolicy())

    assert [nodes[place] for place in order] == ["c", "b", "a#0", "a#1", "z"]


def test_a_document_stands_after_all_that_any_piece_of_it_depends_on() -> None:
    graph = graph_of(("a#1", "b"), nodes=["a#0"])
    nodes = ["a#0", "a#1", "b"]

    order = ordered(nodes, ["a", "a", "b"], graph, GasaPolicy())

    assert order == (2, 0, 1)


def test_what_the_graph_does_not_know_stands_last_by_name() -> None:
    nodes = ["who", "a", "elder", "c"]

    order = ordered(nodes, nodes, CHAIN, GasaPolicy())

    assert [nodes[place] for place in order] == ["c", "a", "elder", "who"]


def test_the_best_stand_at_both_ends_where_edges_are_asked_for() -> None:
    order = ordered(ABCZ, ABCZ, CHAIN, GasaPolicy(order="edges"), scores=[0.1, 0.9, 0.5, 0.7])

    assert order == (1, 2, 0, 3)


def test_edges_need_a_score_for_each_passage() -> None:
    with pytest.raises(ConfigError, match="needs a score"):
        ordered(ABCZ, ABCZ, CHAIN, GasaPolicy(order="edges"), scores=[0.1])


def test_the_order_given_is_kept_where_that_is_asked_for() -> None:
    assert ordered(ABCZ, ABCZ, CHAIN, GasaPolicy(order="given")) == (0, 1, 2, 3)


def test_the_order_does_not_hang_on_the_order_given() -> None:
    names = sorted(random_graph(Random(5), 10).nodes)
    graph = random_graph(Random(5), 10)
    shuffled = Random(1).sample(names, len(names))

    first = [names[place] for place in ordered(names, names, graph, GasaPolicy())]
    second = [shuffled[place] for place in ordered(shuffled, shuffled, graph, GasaPolicy())]

    assert first == second
