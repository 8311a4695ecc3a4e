"""The dependency graph: who is how far from whom, in what order, along which ways, and what is refused."""

from __future__ import annotations

import random
from typing import Literal

import pytest

from planloom.context.graph import DependencyGraph
from planloom.errors import ConfigError


def chain() -> DependencyGraph:
    """a depends on b, b on c; z stands alone."""
    graph = DependencyGraph()
    for node in "abcz":
        graph.add_document_node(node)
    graph.add_edge("a", "b")
    graph.add_edge("b", "c")
    return graph


def any_graph(seed: int) -> DependencyGraph:
    dice = random.Random(seed)
    names = [f"n{number}" for number in range(dice.randint(1, 12))]
    graph = DependencyGraph()
    for name in names:
        if dice.random() < 0.8:
            graph.add_document_node(name)
        else:
            graph.add_entity_node(name)
    for _ in range(dice.randint(0, 2 * len(names)) if len(names) > 1 else 0):
        graph.add_edge(*dice.sample(names, 2), dice.choice(("links_to", "imports")))
    return graph


def hops_by_hand(
    graph: DependencyGraph, start: str, max_hops: int, direction: Literal["both", "dependencies"]
) -> dict[str, int]:
    pairs = {(edge.src, edge.dst) for edge in graph.edges}
    if direction == "both":
        pairs |= {(dst, src) for src, dst in pairs}
    away = {start: 0}
    for hop in range(1, max_hops + 1):
        away |= {dst: hop for src, dst in pairs if away.get(src) == hop - 1 and dst not in away}
    return away


def test_a64_hops_are_counted_along_edges_in_either_direction() -> None:
    graph = chain()

    one = {node: set(graph.hops(node, 1)) - {node} for node in "abcz"}
    two = {node: set(graph.hops(node, 2)) - {node} for node in "abcz"}

    assert one == {"a": {"b"}, "b": {"a", "c"}, "c": {"b"}, "z": set()}
    assert two == {"a": {"b", "c"}, "b": {"a", "c"}, "c": {"a", "b"}, "z": set()}


@pytest.mark.parametrize("direction", ["both", "dependencies"])
def test_a64_hops_equal_a_search_by_hand_on_200_random_graphs(direction: Literal["both", "dependencies"]) -> None:
    for seed in range(200):
        graph = any_graph(seed)
        names = sorted(graph.nodes)
        for max_hops in range(5):
            by_hand = [hops_by_hand(graph, name, max_hops, direction) for name in names]

            assert [graph.hops(name, max_hops, direction) for name in names] == by_hand
            assert graph.hop_rows(names, max_hops, direction) == [
                {names.index(node): away for node, away in row.items()} for row in by_hand
            ]
