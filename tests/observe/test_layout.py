from __future__ import annotations

import random
from itertools import pairwise
from time import process_time

import pytest

from planloom.observe.layout import Layout, layered, levels_of, spread

CARD = (180.0, 60.0)


def random_edges(count: int, *, span: int, degree: int) -> list[tuple[int, int]]:
    dice = random.Random(7)
    found = {(dice.randrange(max(0, box - span), box), box) for box in range(1, count) for _ in range(degree)}
    return sorted(found)


def boxes_overlap(layout: Layout) -> bool:
    rows: dict[int, list[tuple[float, float, float]]] = {}
    for place in layout.places:
        rows.setdefault(round(place.y), []).append((place.x, place.x + place.width, place.y))
    return any(left[1] > right[0] + 0.01 for row in rows.values() for left, right in pairwise(sorted(row)))


def straight_crossings(layout: Layout, edges: list[tuple[int, int]]) -> int:
    lines = [(layout.places[a].middle, layout.places[b].middle, layout.places[a].level) for a, b in edges]
    return sum(
        (one[0] - other[0]) * (one[1] - other[1]) < 0
        for index, one in enumerate(lines)
        for other in lines[:index]
        if one[2] == other[2]
    )


def test_a_level_is_one_below_the_lowest_box_it_depends_on() -> None:
    assert levels_of(5, [(0, 1), (1, 2), (0, 3), (2, 4), (3, 4)]) == [0, 1, 2, 1, 3]


def test_full_levels_push_boxes_down_and_never_above_what_they_depend_on() -> None:
    edges = [(0, box) for box in range(1, 11)] + [(box, 11) for box in range(1, 11)]

    levels = levels_of(12, edges, max_per_level=4)

    assert max(levels.count(level) for level in levels) <= 4
    assert all(levels[source] < levels[target] for source, target in edges)


def test_a_circle_is_still_given_levels_and_routes() -> None:
    edges = [(0, 1), (1, 2), (2, 0), (2, 3), (1, 1)]

    layout = layered([CARD] * 4, edges)

    assert levels_of(4, edges) == [0, 1, 2, 3]
    assert [len(route) > 0 for route in layout.routes] == [True, True, True, True, False]


def test_crossings_that_can_be_avoided_are_avoided() -> None:
    edges = [(0, 5), (1, 4), (2, 3)]

    layout = layered([CARD] * 7, [*edges, (3, 6), (4, 6), (5, 6)])

    assert straight_crossings(layout, edges) == 0


def test_boxes_never_overlap_and_lie_inside_the_picture() -> None:
    edges = random_edges(80, span=12, degree=2)
    sizes = [(100.0 + 37 * (box % 5), 40.0 + 11 * (box % 3)) for box in range(80)]

    layout = layered(sizes, edges)

    assert not boxes_overlap(layout)
    assert min(place.x for place in layout.places) >= 0
    assert max(place.x + place.width for place in layout.places) <= layout.width + 0.01
    assert max(place.bottom for place in layout.places) <= layout.height + 0.01
    assert all(0 <= x <= layout.width + 0.01 for route in layout.routes for x, _ in route)


def test_a_long_edge_passes_no_box() -> None:
    edges = [(0, 1), (1, 2), (2, 3), (0, 3)]

    layout = layered([CARD] * 4, edges)

    passing = layout.routes[3][2:-2]
    assert len(passing) == 4
    for x, _ in passing:
        assert all(not place.x <= x <= place.x + place.width for place in layout.places[1:3])


def test_a_chain_is_drawn_as_a_straight_line() -> None:
    layout = layered([CARD] * 6, [(box, box + 1) for box in range(5)])

    assert {round(place.middle, 6) for place in layout.places} == {90.0}


def test_parents_stand_over_the_middle_of_their_children() -> None:
    layout = layered([CARD] * 4, [(0, 1), (0, 2), (0, 3)])

    assert layout.places[0].middle == pytest.approx(layout.places[2].middle)


def test_parts_that_nothing_connects_do_not_lie_on_each_other() -> None:
    layout = layered([CARD] * 30, [(0, 1), (2, 3)])

    corners = [(place.x, place.y) for place in layout.places]
    assert len(set(corners)) == 30
    assert not boxes_overlap(layout)
    assert layout.width < 4 * layout.height < 16 * layout.width


def test_the_same_graph_gives_the_same_picture() -> None:
    edges = random_edges(60, span=10, degree=2)

    assert layered([CARD] * 60, edges) == layered([CARD] * 60, edges)


def test_nothing_is_laid_out_as_nothing() -> None:
    assert layered([], []) == Layout(0.0, 0.0, (), ())


def test_spread_keeps_gaps_and_moves_no_more_than_it_must() -> None:
    assert spread([0.0, 0.0, 10.0], [1.0, 1.0, 1.0], [4.0, 4.0]) == [-2.0, 2.0, 10.0]
    assert spread([0.0, 0.0], [3.0, 1.0], [4.0]) == [-1.0, 3.0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "edges",
    [
        random_edges(1_000, span=60, degree=2),
        random_edges(1_000, span=1_000, degree=4),
        [(box, box + 1) for box in range(999)],
        [(0, box) for box in range(1, 999)] + [(box, 999) for box in range(1, 999)],
    ],
    ids=["layered", "tangled", "chain", "fan"],
)
def test_a_thousand_boxes_take_less_than_half_a_second(edges: list[tuple[int, int]]) -> None:
    begin = process_time()  # not the wall clock: other tests may run beside this one

    layered([CARD] * 1_000, edges, max_per_level=50)

    assert process_time() - begin < 0.5
