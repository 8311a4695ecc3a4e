"""Choosing pieces for a budget, on plain lists."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from planloom.context.packing import (
    Pieces,
    along_graph,
    best_first,
    by_score,
    fitting,
    found_by_score,
    in_turns,
    ranked,
    seeds_of,
)


def pieces_of(scores: list[float], edges: list[tuple[int, int]], sizes: list[int] | None = None) -> Pieces:
    """Return pieces at nodes "0", "1", …; an edge may end at a node at which nothing stands."""
    around: dict[str, list[str]] = {}
    for one, other in edges:
        around.setdefault(str(one), []).append(str(other))
        around.setdefault(str(other), []).append(str(one))
    names = [str(place) for place in range(len(scores))]
    return Pieces(scores, sizes or [1] * len(scores), names, lambda node: around.get(node, ()))


@st.composite
def any_pieces(draw: st.DrawFn, sizes: st.SearchStrategy[int] | None = None) -> Pieces:
    """Draw pieces, several at a node now and then, and any graph at all over them."""
    scores = draw(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9]), min_size=1, max_size=20))
    count = len(scores)
    ends = st.integers(0, count + 2)
    found = pieces_of(
        scores,
        draw(st.lists(st.tuples(ends, ends), max_size=40)),
        [draw(sizes) for _ in scores] if sizes is not None else None,
    )
    return replace(found, nodes=[draw(st.sampled_from([node, "0"])) for node in found.nodes])


def test_a_piece_passes_on_half_of_its_priority() -> None:
    # 0 leads to 1 (0.0 + 0.45) and on to 2 (0.2 + 0.225); 3 has 0.44 of its own.
    pieces = pieces_of([0.9, 0.0, 0.2, 0.44], [(0, 1), (1, 2)])

    assert list(best_first(pieces, [0, 3], max_hops=2)) == [0, 1, 3, 2]


def test_no_piece_further_than_max_hops_is_reached() -> None:
    pieces = pieces_of([0.9, 0.0, 0.0, 0.0], [(0, 1), (1, 2), (2, 3)])

    assert [list(best_first(pieces, [0], max_hops=hops)) for hops in range(3)] == [[0], [0, 1], [0, 1, 2]]


def test_a_node_reached_again_in_fewer_hops_leads_further() -> None:
    # 3 is first reached over 1 and 2, whose scores are high, then over 4 in two hops; only so is 5 three hops away.
    pieces = pieces_of([0.9, 0.9, 0.9, 0.0, 0.0, 0.0], [(0, 1), (1, 2), (2, 3), (0, 4), (4, 3), (3, 5)])

    assert set(best_first(pieces, [0], max_hops=3)) == {0, 1, 2, 3, 4, 5}


def test_a_node_at_which_nothing_stands_is_walked_through_and_counts_a_hop() -> None:
    pieces = pieces_of([0.9, 0.0], [(0, 7), (7, 1)])

    assert list(best_first(pieces, [0], max_hops=2)) == [0, 1]
    assert list(best_first(pieces, [0], max_hops=1)) == [0]


def test_pieces_of_one_node_are_no_hop_apart() -> None:
    pieces = replace(pieces_of([0.9, 0.0, 0.1], []), nodes=["a", "a", "b"])

    assert list(best_first(pieces, [0], max_hops=0)) == [0, 1]


def test_an_anchor_comes_first_though_the_question_hardly_names_it() -> None:
    pieces = pieces_of([0.9, 0.1, 0.1], [(1, 2)])

    assert list(best_first(pieces, [0], max_hops=1, anchors=["1"])) == [1, 0, 2]


def test_a_search_begins_with_the_five_best_that_score_at_all() -> None:
    assert seeds_of([0.1, 0.6, 0.0, 0.2, 0.3, 0.4, 0.5]) == [1, 6, 5, 4, 3]
    assert seeds_of([0.0, 0.2, 0.0]) == [1]


def test_what_does_not_fit_is_passed_over() -> None:
    assert fitting([0, 1, 2, 1], [5, 9, 3], 8) == [0, 2]


def test_where_the_graph_ends_the_scores_go_on() -> None:
    pieces = pieces_of([0.9, 0.1, 0.5, 0.2], [(0, 1)])

    assert along_graph(best_first(pieces, [0], 1), pieces, 3) == [0, 1, 2]


def test_turns_alternate_between_graph_and_scores() -> None:
    pieces = pieces_of([0.9, 0.0, 0.8, 0.0, 0.7], [(0, 1), (1, 3)])

    assert in_turns(best_first(pieces, [0], 2), pieces, 5) == [0, 2, 1, 4, 3]


@given(any_pieces(), st.integers(0, 3), st.integers(1, 15))
def test_p2_with_any_graph_turns_find_in_twice_the_budget_what_scores_find(
    pieces: Pieces, max_hops: int, budget: int
) -> None:
    walk = best_first(pieces, seeds_of(pieces.scores), max_hops)

    found = in_turns(walk, pieces, 2 * budget)

    assert {place for place in by_score(pieces, budget) if pieces.scores[place] > 0} <= set(found)


@given(any_pieces(st.integers(1, 9)), st.integers(0, 3), st.integers(1, 60))
def test_p2_holds_for_pieces_of_different_sizes_up_to_the_first_that_does_not_fit(
    pieces: Pieces, max_hops: int, budget: int
) -> None:
    walk = best_first(pieces, seeds_of(pieces.scores), max_hops)

    found = in_turns(walk, pieces, 2 * budget)

    assert set(found_by_score(pieces, budget)) <= set(found)


def test_the_best_piece_is_not_given_up_for_a_small_one_that_is_set_aside() -> None:
    pieces = pieces_of([0.9, 0.1, 0.1], [], sizes=[7, 4, 4])

    assert in_turns(best_first(pieces, [0], 2), pieces, 8) == [0]


def test_room_is_kept_for_what_scores_find_though_the_graph_leads_to_something_larger() -> None:
    pieces = pieces_of([0.9, 0.2, 0.1, 0.0], [(0, 3)], sizes=[1, 2, 2, 6])

    assert in_turns(best_first(pieces, [0, 1, 2], 2), pieces, 10) == [0, 1, 2]


def test_what_the_graph_leads_to_comes_before_what_nothing_speaks_for() -> None:
    pieces = pieces_of([0.9, 0.0, 0.0, 0.0, 0.0, 0.0], [(0, 5), (5, 4), (4, 3)])

    assert in_turns(best_first(pieces, [0], 3), pieces, 4) == [0, 5, 4, 3]


@given(any_pieces(st.integers(1, 9)), st.integers(0, 3), st.integers(1, 60))
def test_no_choice_passes_the_budget_or_leaves_out_what_fits(pieces: Pieces, max_hops: int, budget: int) -> None:
    seeds = seeds_of(pieces.scores)
    choices = [
        in_turns(best_first(pieces, seeds, max_hops), pieces, budget),
        along_graph(best_first(pieces, seeds, max_hops), pieces, budget),
        by_score(pieces, budget),
    ]

    for found in choices:
        left = budget - sum(pieces.sizes[place] for place in found)
        assert left >= 0
        assert len(set(found)) == len(found)
        assert all(pieces.sizes[place] > left for place in range(len(pieces.sizes)) if place not in found)


@given(any_pieces(), st.integers(0, 3))
def test_best_first_reaches_exactly_what_is_within_max_hops(pieces: Pieces, max_hops: int) -> None:
    seeds = seeds_of(pieces.scores)
    reach = {pieces.nodes[place] for place in seeds}
    for _ in range(max_hops):
        reach |= {other for node in reach for other in pieces.neighbours(node)}

    found = list(best_first(pieces, seeds, max_hops))

    assert sorted(found) == [place for place, node in enumerate(pieces.nodes) if node in reach]


def test_equal_scores_are_ranked_by_place() -> None:
    assert ranked([0.5, 0.9, 0.5]) == [1, 0, 2]
