"""The dependency graph: who is how far from whom, in what order, along which ways, and what is refused."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any, Literal

import pytest

from planloom.context.document import Document
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


def test_a64_the_direction_of_an_edge_changes_no_distance() -> None:
    for seed in range(50):
        graph = any_graph(seed)
        turned = DependencyGraph()
        for node in graph.nodes.values():
            (turned.add_entity_node if node.kind == "entity" else turned.add_document_node)(node.id)
        for edge in graph.edges:
            turned.add_edge(edge.dst, edge.src, edge.relationship_type)

        assert [turned.hops(node, 3) for node in graph.nodes] == [graph.hops(node, 3) for node in graph.nodes]


def test_a64_an_entity_on_the_way_counts_one_hop() -> None:
    graph = DependencyGraph()
    graph.add_document_node("a")
    graph.add_document_node("b")
    graph.add_entity_node({"id": "topic", "name": "What both are about"})
    graph.add_edge("a", "topic", "mentions")
    graph.add_edge("b", "topic", "mentions")

    assert graph.hops("a", 1) == {"a": 0, "topic": 1}
    assert graph.hops("a", 2) == {"a": 0, "topic": 1, "b": 2}
    assert graph.hop_rows(["a", "b"], 1) == [{0: 0}, {1: 0}]
    assert graph.hop_rows(["a", "b"], 2) == [{0: 0, 1: 2}, {0: 2, 1: 0}]


def test_dependencies_are_followed_from_a_node_to_what_it_depends_on_only() -> None:
    assert chain().hops("b", 5, "dependencies") == {"b": 0, "c": 1}


def test_rows_of_hops_go_by_place_and_a_node_nobody_knows_reaches_itself() -> None:
    rows = chain().hop_rows(["c", "a", "unknown", "c"], 2)

    assert rows == [{0: 0, 3: 0, 1: 2}, {1: 0, 0: 2, 3: 2}, {2: 0}, {0: 0, 3: 0, 1: 2}]


def test_what_is_depended_on_goes_first_and_ties_go_by_id() -> None:
    graph = chain()

    assert graph.topological(["z", "a", "b", "c"]) == ["c", "b", "a", "z"]
    assert graph.topological(["z", "c", "unknown", "c"]) == ["c", "unknown", "z"]


def test_an_order_counts_dependencies_through_nodes_that_are_not_asked_for() -> None:
    graph = chain()
    graph.add_document_node("0")
    graph.add_edge("0", "z")

    assert graph.topological(["a", "c"]) == ["c", "a"]
    assert graph.topological(["0", "1"]) == ["0", "1"]


def test_an_order_breaks_circles_by_id() -> None:
    graph = chain()
    graph.add_edge("c", "a")
    graph.add_edge("z", "a")
    graph.add_document_node("0")
    graph.add_edge("b", "0")

    assert graph.topological("zcba0") == ["0", "a", "b", "c", "z"]


def test_every_order_puts_dependencies_first_and_does_not_depend_on_how_it_was_asked() -> None:
    for seed in range(100):
        graph = any_graph(seed)
        names = sorted(graph.nodes)
        below = {name: graph.hops(name, 99, "dependencies").keys() - {name} for name in names}

        order = graph.topological(names)

        assert sorted(order) == names
        assert graph.topological(reversed(names)) == order
        for place, name in enumerate(order):
            assert {other for other in below[name] if name not in below[other]} <= set(order[:place])


def test_an_order_of_some_is_the_lowest_ids_first_of_all_right_orders() -> None:
    for seed in range(60):
        graph = any_graph(seed)
        some = sorted(graph.nodes)[:5]
        below = {name: graph.hops(name, 99, "dependencies").keys() for name in some}
        if any(one != other and one in below[other] and other in below[one] for one in some for other in some):
            continue
        right = [
            order
            for order in permutations(some)
            if all(other not in below[one] for place, one in enumerate(order) for other in order[place + 1 :])
        ]

        assert graph.topological(some) == list(min(right))


def test_parts_hold_together_also_through_nodes_that_are_not_asked_for() -> None:
    graph = chain()

    assert graph.components(["z", "c", "a", "unknown"]) == [["a", "c"], ["unknown"], ["z"]]


@pytest.mark.slow
def test_a_chain_of_twenty_thousand_is_a_graph_like_any_other() -> None:
    graph = DependencyGraph()
    names = [f"{number:06}" for number in range(20_000)]
    for name in names:
        graph.add_document_node(name)
    for one, other in pairwise(names):
        graph.add_edge(one, other)

    assert graph.topological(names) == names[::-1]
    assert graph.components(names) == [names]
    assert len(graph.hops(names[0], 20_000)) == 20_000


def test_ways_come_shortest_first_and_visit_no_node_twice() -> None:
    graph = DependencyGraph()
    for node in "abcd":
        graph.add_document_node(node)
    for src, dst in ("ab", "bd", "ac", "cd", "bc", "ad"):
        graph.add_edge(src, dst)

    assert graph.find_paths("a", "d") == [
        ["a", "d"],
        ["a", "b", "d"],
        ["a", "c", "d"],
        ["a", "b", "c", "d"],
        ["a", "c", "b", "d"],
    ]
    assert graph.find_paths("a", "d", max_hops=2) == [["a", "d"], ["a", "b", "d"], ["a", "c", "d"]]
    assert graph.find_paths("a", "d", direction="dependencies")[-1] == ["a", "b", "c", "d"]
    assert graph.find_paths("d", "a", direction="dependencies") == []
    assert graph.find_paths("a", "d", limit=2) == [["a", "d"], ["a", "b", "d"]]
    assert graph.find_paths("a", "a") == [["a"]]


def all_ways(links: dict[str, set[str]], path: list[str], dst: str, max_hops: int) -> list[list[str]]:
    if path[-1] == dst:
        return [path]
    if len(path) > max_hops:
        return []
    return [way for one in links[path[-1]] if one not in path for way in all_ways(links, [*path, one], dst, max_hops)]


def test_ways_equal_all_that_a_walk_finds() -> None:
    for seed in range(60):
        graph = any_graph(seed)
        names = sorted(graph.nodes)
        for direction, side in (("both", "both"), ("dependencies", "outgoing")):
            links = {name: set(graph.get_neighbors(name, direction=side)) for name in names}
            by_hand = sorted(all_ways(links, [names[0]], names[-1], 4), key=lambda way: (len(way), way))

            assert graph.find_paths(names[0], names[-1], 4, direction=direction, limit=10_000) == by_hand


def test_ways_through_a_dense_graph_end_at_the_limit() -> None:
    graph = DependencyGraph()
    names = [f"{number:02}" for number in range(60)]
    for name in (*names, "apart"):
        graph.add_document_node(name)
    for one in names:
        for other in names:
            if one < other:
                graph.add_edge(one, other)
    graph.add_document_node("end")
    graph.add_edge("00", "end")

    assert len(graph.find_paths("00", "59", max_hops=50, limit=30)) == 30
    assert graph.find_paths("05", "end", max_hops=50, limit=3) == [
        ["05", "00", "end"],
        *(["05", between, "00", "end"] for between in ("01", "02")),
    ]
    assert graph.find_paths("00", "apart", max_hops=50) == []


def test_neighbours_go_by_type_and_direction() -> None:
    graph = chain()
    graph.add_edge("b", "z", "cites")

    assert graph.get_neighbors("b") == ["c", "z"]
    assert graph.get_neighbors("b", ["cites"]) == graph.get_neighbors("b", "cites") == ["z"]
    assert graph.get_neighbors("b", direction="incoming") == ["a"]
    assert graph.get_neighbors("b", ["depends_on"], "both") == ["a", "c"]
    assert graph.get_neighbors("b", []) == []


def test_a_part_of_a_graph_has_the_nodes_near_some_and_all_edges_between_them() -> None:
    graph = chain()
    graph.add_document_node("d")
    graph.add_edge("c", "d")
    graph.add_edge("a", "c", "cites")

    part = graph.get_subgraph(["a"])

    assert sorted(part.nodes) == ["a", "b", "c"]
    assert [edge.key for edge in part.edges] == [
        ("a", "b", "depends_on"),
        ("a", "c", "cites"),
        ("b", "c", "depends_on"),
    ]
    assert sorted(graph.get_subgraph(["d"], max_hops=0).nodes) == ["d"]
    part.add_edge("c", "a")
    assert "a" not in graph.hops("c", 1, "dependencies")


def test_an_edge_of_the_same_type_between_the_same_nodes_is_replaced() -> None:
    graph = chain()

    graph.add_edge("a", "b", weight=0.5, metadata={"line": 3})
    graph.add_edge("a", "b", "cites")

    assert [(edge.relationship_type, edge.weight) for edge in graph.edges if edge.src == "a"] == [
        ("cites", 1.0),
        ("depends_on", 0.5),
    ]


@pytest.mark.parametrize(
    ("edge", "told"),
    [
        ({"src": "a", "dst": "a"}, "from a node to itself"),
        ({"src": "a", "dst": "aa"}, "no node 'aa'"),
        ({"src": "a", "dst": ""}, "a node's id is ''"),
        ({"src": "a", "dst": 3}, "a node's id is 3"),
        ({"src": "a", "dst": "b", "weight": -1}, "weight -1.0"),
        ({"src": "a", "dst": "b", "weight": float("nan")}, "weight nan"),
        ({"src": "a", "dst": "b", "weight": 10**400}, "weight inf"),
        ({"src": "a", "dst": "b", "weight": True}, "weight True"),
        ({"src": "a", "dst": "b", "weight": "1"}, "weight '1'"),
        ({"src": "a", "dst": "b", "relationship_type": ""}, "relationship_type ''"),
        ({"src": "a", "dst": "b", "relationship_type": "\ud800"}, "half of a character"),
        ({"src": "a", "dst": "b", "metadata": {"x": object()}}, "metadata"),
        ({"src": "a", "dst": "b", "metadata": [1]}, "metadata"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_edge_that_is_none_is_refused_and_the_graph_stays_as_it_was(edge: dict[str, Any], told: str) -> None:
    graph = chain()

    with pytest.raises(ConfigError) as raised:
        graph.add_edge(**edge)

    assert told in raised.value.message
    assert raised.value.remedy
    assert graph == chain()


def test_a_node_is_an_id_a_dict_or_what_has_an_id() -> None:
    graph = DependencyGraph()

    ids = [
        graph.add_document_node("plain"),
        graph.add_document_node({"id": "dict", "title": "A dict"}),
        graph.add_document_node(Document("doc", "text", {"title": "A document", "secret": 1})),
        graph.add_entity_node({"id": "entity", "name": "Something", "metadata": {"kind": "place"}}),
    ]

    assert ids == ["plain", "dict", "doc", "entity"]
    assert [node.title for node in graph.nodes.values()] == ["", "A dict", "A document", "Something"]
    assert [node.metadata for node in graph.nodes.values()] == [{}, {}, {}, {"kind": "place"}]


@pytest.mark.parametrize(
    "node", [None, 3, "", {}, {"title": "t"}, {"id": "n", "title": 3}, {"id": "\udc80"}], ids=range(7)
)
def test_a_node_that_is_none_is_refused(node: object) -> None:
    with pytest.raises(ConfigError):
        DependencyGraph().add_document_node(node)


def test_no_node_is_a_document_and_an_entity() -> None:
    graph = chain()

    with pytest.raises(ConfigError, match="'a' is there"):
        graph.add_entity_node("a")

    assert graph == chain()


@pytest.mark.parametrize(
    "ask",
    [
        lambda graph: graph.hops("aa", 1),
        lambda graph: graph.get_neighbors("aa"),
        lambda graph: graph.get_subgraph(["aa"]),
        lambda graph: graph.find_paths("a", "aa"),
        lambda graph: graph.hops("a", 1, "sideways"),
        lambda graph: graph.get_neighbors("a", direction="sideways"),
    ],
    ids=range(6),
)
def test_what_is_asked_of_no_node_or_in_no_direction_is_refused(ask: Callable[[DependencyGraph], object]) -> None:
    with pytest.raises(ConfigError):
        ask(chain())


def test_graphs_are_equal_and_written_alike_in_whatever_order_they_were_made() -> None:
    other = DependencyGraph()
    for node in "zcba":
        other.add_document_node(node)
    other.add_edge("b", "c")
    other.add_edge("a", "b")

    assert other == chain()
    assert json.dumps(other.to_dict()) == json.dumps(chain().to_dict())
    assert other != any_graph(3)
    assert chain() != "a graph"


def test_a_graph_read_again_is_equal(tmp_path: Path) -> None:
    for seed in range(20):
        graph = any_graph(seed)
        graph.add_entity_node({"id": "ü \u2028", "title": "t", "metadata": {"deep": [{"x": None}]}})
        graph.add_edge("ü \u2028", "n0", "is about", 0.25, {"n": 1})

        graph.save(tmp_path / "graph.json")

        assert DependencyGraph.from_dict(json.loads(json.dumps(graph.to_dict()))) == graph
        assert DependencyGraph.load(tmp_path / "graph.json") == graph
        assert [path.name for path in tmp_path.iterdir()] == ["graph.json"]


def test_a_graph_can_load_another_into_itself(tmp_path: Path) -> None:
    chain().save(tmp_path / "graph.json")
    graph = DependencyGraph()
    graph.add_entity_node("e")

    graph.load(tmp_path / "graph.json")

    assert sorted(graph.nodes) == ["a", "b", "c", "e", "z"]
    assert graph.hops("a", 9) == {"a": 0, "b": 1, "c": 2}


def test_graphs_that_do_not_go_together_are_not_half_joined() -> None:
    graph = DependencyGraph()
    graph.add_entity_node("z")

    with pytest.raises(ConfigError, match="'z' is a document in one graph"):
        graph.update(chain())

    assert list(graph.nodes) == ["z"]


NODES = [{"id": "a"}, {"id": "b"}]


@pytest.mark.parametrize(
    ("told", "where"),
    [
        ([], "it: "),
        (None, "it: "),
        ({}, "version: "),
        ({"version": 2, "nodes": []}, "version: "),
        ({"version": 1}, "nodes: "),
        ({"version": 1, "nodes": {}}, "nodes: "),
        ({"version": 1, "nodes": [], "extra": 1}, "extra: "),
        ({"version": 1, "nodes": ["a"]}, "nodes[0]: "),
        ({"version": 1, "nodes": [{"id": 1}]}, "nodes[0].id: "),
        ({"version": 1, "nodes": [{"id": ""}]}, "nodes[0].id: "),
        ({"version": 1, "nodes": [{"id": "a", "kind": "thing"}]}, "nodes[0].kind: "),
        ({"version": 1, "nodes": [{"id": "a"}, {"id": "a"}]}, "nodes[1]: the id 'a' stands twice"),
        ({"version": 1, "nodes": NODES, "edges": [{"src": "a"}]}, "edges[0].dst: "),
        ({"version": 1, "nodes": NODES, "edges": [{"src": "a", "dst": "a"}]}, "edges[0]: "),
        ({"version": 1, "nodes": NODES, "edges": [{"src": "a", "dst": "c"}]}, "edges[0]: the graph has no node 'c'"),
        ({"version": 1, "nodes": NODES, "edges": [{"src": "a", "dst": "b", "weight": -1}]}, "edges[0].weight: "),
        ({"version": 1, "nodes": NODES, "edges": [{"src": "a", "dst": "b", "weight": "1"}]}, "edges[0].weight: "),
        ({"version": 1, "nodes": NODES, "edges": [{"src": "a", "dst": "b", "metadata": {"x": 1j}}]}, "edges[0]: "),
        ({"version": 1, "nodes": NODES, "edges": [{"src": "a", "dst": "b", 3: 4}]}, "edges[0]"),
    ],
    ids=range(19),
)
def test_what_is_no_graph_is_refused_with_its_place(told: Any, where: str) -> None:
    with pytest.raises(ConfigError) as raised:
        DependencyGraph.from_dict(told)

    assert where in raised.value.message
    assert raised.value.remedy


ODD: tuple[Any, ...] = (
    None, True, -1, 10**400, float("nan"), float("inf"), "", "a", "\ud800", "\x1b[2J", [], [[]], {}, {"": 1},
    {3: 4}, {None: 1}, {("a",): 1}, b"a", object(), 1j, {1}, [1, "a"], {"id": "a"}, {"a": {"b": object()}},
)  # fmt: skip


def spoiled(value: Any, dice: random.Random) -> Any:
    """Return a value with one thing in it put wrong."""
    if isinstance(value, dict) and value and dice.random() < 0.9:
        key = dice.choice(list(value))
        match dice.randrange(6):
            case 0:
                return {name: held for name, held in value.items() if name != key}
            case 1:
                return value | {dice.choice(("x", 3, None, "\udc80", "\x1b")): 1}
            case _:
                return value | {key: spoiled(value[key], dice)}
    if isinstance(value, list) and value and dice.random() < 0.9:
        place = dice.randrange(len(value))
        again = dice.choice(([], [value[place]]))
        return [*value[:place], spoiled(value[place], dice), *again, *value[place + 1 :]]
    return dice.choice(ODD)


def test_whatever_is_wrong_with_a_graph_it_is_told_or_it_is_a_graph() -> None:
    dice = random.Random(7)
    graph = any_graph(4)
    graph.add_entity_node({"id": "e", "metadata": {"deep": [{"x": 1}]}})
    told: list[str] = []
    for _ in range(1_000):
        try:
            made = DependencyGraph.from_dict(spoiled(graph.to_dict(), dice))
        except ConfigError as error:
            told.append(error.message)
        else:
            assert DependencyGraph.from_dict(json.loads(json.dumps(made.to_dict()))) == made

    assert 500 < len(told) < 1_000
    assert [one for one in told if not one.isprintable()] == []


@pytest.mark.parametrize(
    "held",
    [
        b"",
        b"\xff",
        b"[",
        b"[" * 100_000,
        b'{"version": NaN}',
        b'{"version": 1, "nodes": [{"id": "\\ud800"}]}',
        b"1" * 5_000,
    ],
    ids=range(7),
)
def test_a_file_that_is_no_graph_is_refused_by_its_name(tmp_path: Path, held: bytes) -> None:
    path = tmp_path / "graph.json"
    path.write_bytes(held)

    with pytest.raises(ConfigError, match=r"graph\.json"):
        DependencyGraph.load(path)


def test_a_file_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "graph.json", tmp_path, "nul\0"):
        with pytest.raises(ConfigError):
            DependencyGraph.load(path)
        with pytest.raises(ConfigError):
            chain().save(path)


@pytest.mark.timing
@pytest.mark.parametrize("direction", ["both", "dependencies"])
def test_rows_of_a_thousand_nodes_take_less_than_fifty_ms(direction: Literal["both", "dependencies"]) -> None:
    dice = random.Random(1)
    graph = DependencyGraph()
    names = [f"{number:03}" for number in range(1_000)]
    for name in names:
        graph.add_document_node(name)
    for name in names:
        for other in dice.sample(names, 2 if direction == "both" else 4):
            if other != name:
                graph.add_edge(name, other)

    took = []
    for _ in range(5):
        began = time.perf_counter()
        graph.hop_rows(names, 2, direction)
        took.append(time.perf_counter() - began)

    assert min(took) < 0.05
