"""The picture of a mask: whose cells are shaded how, what it says in words, and how large it gets."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from random import Random

import pytest

from planloom.context.graph import DependencyGraph
from planloom.context.layout import Segment, SegmentKind, SegmentLayout, build_layout
from planloom.errors import ConfigError
from planloom.observe.mask_svg import MOST_LINES, mask_svg
from planloom.plan.gasa import GasaPolicy

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "</text><script>alert(1)</script>\x07 & \"'"


def graph_of(nodes: list[str], *edges: tuple[str, str]) -> DependencyGraph:
    graph = DependencyGraph()
    for node in nodes:
        graph.add_entity_node(node)
    for source, target in edges:
        graph.add_edge(source, target)
    return graph


def layout_of(nodes: list[str], *edges: tuple[str, str], max_hops: int = 2) -> SegmentLayout:
    chunks = [Segment(SegmentKind.CHUNK, 10, node) for node in nodes]
    segments = [Segment(SegmentKind.SINK, 5), *chunks, Segment(SegmentKind.READER, 7)]
    return build_layout(segments, graph_of(nodes, *edges), GasaPolicy(max_hops=max_hops))


CHAIN = layout_of(["a", "b", "c", "z"], ("a", "b"), ("b", "c"))


def cells_of(root: ElementTree.Element, size: float = 20) -> dict[tuple[str, str], set[tuple[int, int]]]:
    """Return the cells drawn, as (line, column), by what they are filled with; `size` of a cell, in pixels."""
    box = next(rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "pl-inset")
    left, top = float(box.get("x", "")), float(box.get("y", ""))
    found = {}
    for path in root.findall(f"{SVG}path"):
        cells = set()
        for x, y, wide in re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)", path.get("d", "")):
            line, column = round((float(y) - top) / size), round((float(x) - left) / size)
            cells |= {(line, column + step) for step in range(round(float(wide) / size))}
        found[path.get("class", ""), path.get("fill-opacity", "")] = cells
    return found


def words_of(root: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


def test_cells_are_shaded_by_hops() -> None:
    sink, a, b, c, z, reader = range(6)

    cells = cells_of(ElementTree.fromstring(mask_svg(CHAIN)))

    assert cells == {
        ("pl-fill-running", "1.0"): {(at, at) for at in range(6)},
        ("pl-fill-running", "0.72"): {(b, a), (c, b)},
        ("pl-fill-running", "0.5"): {(c, a)},
        ("pl-fill-pending", "0.35"): {(q, sink) for q in (a, b, c, z)} | {(reader, k) for k in range(5)},
    }


def test_every_shade_has_a_word_and_every_line_a_name() -> None:
    words = words_of(ElementTree.fromstring(mask_svg(CHAIN)))

    assert words == [
        "Who reads whom",
        f"52 tokens · 4 chunks · 2 hops · {CHAIN.pair_fraction:.1%} of the pairs",
        "sink", "a", "b", "c", "z", "reader",
        "read by all, or reads all", "itself, its own document, or no node of the graph", "1 hop", "2 hops",
    ]  # fmt: skip


def test_a_line_tells_what_it_reads() -> None:
    root = ElementTree.fromstring(mask_svg(CHAIN))

    line = next(group for group in root.iter(f"{SVG}g") if group.get("data-node") == "c")

    assert line[0].text == "c (chunk, 10 tokens)\nreads b (1 hop), a (2 hops)"
    assert "c (chunk, 10 tokens)\nreads b (1 hop), a (2 hops)" in (root[1].text or "")


@pytest.mark.parametrize("theme", ["auto", "light", "dark"])
def test_a_picture_is_well_formed_and_what_comes_from_outside_is_text(theme: str) -> None:
    text = mask_svg(layout_of([EVIL, "b"], (EVIL, "b")), theme=theme)

    root = ElementTree.fromstring(text)

    assert root.get("role") == "img"
    assert "<script" not in text
    assert any(word.startswith("</text>") for word in words_of(root))


def test_light_and_dark_follow_the_viewer_unless_told() -> None:
    assert "prefers-color-scheme:dark" in mask_svg(CHAIN)
    assert "prefers-color-scheme" not in mask_svg(CHAIN, theme="dark")
    with pytest.raises(ConfigError, match="no theme"):
        mask_svg(CHAIN, theme="drak")


def test_a_thousand_segments_share_lines_and_the_picture_stays_small() -> None:
    random = Random(1)
    nodes = [f"n{number}" for number in range(998)]
    edges = [(one, other) for one, other in (random.sample(nodes, 2) for _ in range(2000))]

    text = mask_svg(layout_of(nodes, *edges, max_hops=3))

    root = ElementTree.fromstring(text)
    assert len(text) < 400_000
    assert len(list(root.iter(f"{SVG}g"))) == MOST_LINES
    assert float(root.get("width", "")) < 900
    assert "And 900 segments more." in (root[1].text or "")
    cells = cells_of(root, size=6).values()
    assert len(set().union(*cells)) == sum(map(len, cells)) > MOST_LINES, "no cell has two shades"


def test_an_empty_prompt_has_a_picture_too() -> None:
    layout = build_layout((), None, GasaPolicy())

    assert ElementTree.fromstring(mask_svg(layout)).get("role") == "img"
