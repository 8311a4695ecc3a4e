"""Random prompts, and what reads what in them worked out pair by pair, straight from the definition."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from planloom.context.graph import DependencyGraph
from planloom.context.layout import Segment, SegmentKind, SegmentLayout, build_layout
from planloom.plan.gasa import GasaPolicy

SINK, CHUNK, READER = SegmentKind.SINK, SegmentKind.CHUNK, SegmentKind.READER


def graph_of(*edges: tuple[str, str], nodes: Iterable[str] = ()) -> DependencyGraph:
    """Return the graph of these edges, (what depends, on what), and of nodes that have none."""
    graph = DependencyGraph()
    for node in dict.fromkeys([*nodes, *(end for edge in edges for end in edge)]):
        graph.add_entity_node(node)
    for source, target in edges:
        graph.add_edge(source, target)
    return graph


def random_graph(random: Random, count: int) -> DependencyGraph:
    names = [f"n{number}" for number in range(count)]
    pairs = [(random.choice(names), random.choice(names)) for _ in range(random.randint(0, 2 * count))]
    return graph_of(*((source, target) for source, target in pairs if source != target), nodes=names)


def random_layout(random: Random, *, most_tokens: int = 40) -> tuple[SegmentLayout, DependencyGraph]:
    """Return a layout of up to fifteen segments, some empty, some unknown to the graph, some of one document."""
    graph = random_graph(random, random.randint(1, 8))
    policy = GasaPolicy(
        max_hops=random.randint(0, 3),
        direction=random.choice(["both", "dependencies"]),
        unknown_nodes=random.choice(["dense", "isolate"]),
        mask_strategy=random.choice(["binary", "soft"]),
    )
    names = [*graph.nodes, "stranger", "stranger", None]
    segments = [
        *(Segment(SINK, random.randint(0, most_tokens)) for _ in range(random.randint(0, 2))),
        *(Segment(CHUNK, random.randint(0, most_tokens), random.choice(names)) for _ in range(random.randint(0, 10))),
        *(Segment(READER, random.randint(0, most_tokens)) for _ in range(random.randint(0, 3))),
    ]
    return build_layout(segments, graph, policy), graph


def hops_by_walking(graph: DependencyGraph, start: str, direction: str) -> dict[str, int]:
    """Return how far every node is, one wave after the other."""
    found, wave, away = {start: 0}, {start}, 0
    while wave:
        away += 1
        forth = {edge.dst for edge in graph.edges if edge.src in wave}
        back = {edge.src for edge in graph.edges if edge.dst in wave} if direction == "both" else set()
        wave = (forth | back) - found.keys()
        found |= dict.fromkeys(wave, away)
    return found


def reads_by_definition(layout: SegmentLayout, graph: DependencyGraph, q: int, k: int) -> int:
    """Return over how many hops segment q reads segment k, -1 if it does not; k <= q."""
    kinds, nodes, policy = layout.kinds, layout.nodes, layout.policy
    if k == q or kinds[k] is SINK or kinds[q] is READER:
        return 0
    if kinds[q] is SINK or kinds[k] is READER:
        return -1
    one, other = nodes[q], nodes[k]
    if one is not None and one == other:
        return 0
    if one is None or other is None or one not in graph or other not in graph:
        return 0 if policy.unknown_nodes == "dense" else -1
    away = hops_by_walking(graph, one, policy.direction).get(other, -1)
    return away if away <= policy.max_hops else -1


def cells_by_definition(layout: SegmentLayout, graph: DependencyGraph) -> list[list[int]]:
    """Return for each pair of tokens 0, or hops + 1."""
    of = [at for at, segment in enumerate(layout.segments) for _ in range(segment.length)]
    known = {
        (q, k): reads_by_definition(layout, graph, q, k) + 1 for q in range(len(layout.segments)) for k in range(q + 1)
    }
    return [[known[of[q], of[k]] if k <= q else 0 for k in range(layout.n)] for q in range(layout.n)]
