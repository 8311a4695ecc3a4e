"""What packing along a graph finds, on a small corpus: counts, so the same everywhere."""

from __future__ import annotations

import pytest

from benchmarks.packing import CLEAN, NOISE, NOISY, Corpus, at_share, corpus_of, found, tokens_until_found, walk
from planloom.context.packing import by_score, in_turns, ranked

BUDGET = 1_500


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return corpus_of(600, 60, seed=7)


def recall(corpus: Corpus, lost: float, made_up: float, *, budget: int = BUDGET) -> int:
    """Return for how many questions all evidence is in the budget."""
    graph = corpus.graph(lost, made_up, seed=3)
    around = {node: graph.get_neighbors(node, direction="both") for node in graph.nodes}
    pieces = [corpus.pieces(number, around) for number in range(len(corpus.questions))]
    return sum(
        found(asked, in_turns(walk(one), one, budget)) for asked, one in zip(corpus.questions, pieces, strict=True)
    )


def recall_by_score(corpus: Corpus, *, budget: int = BUDGET) -> int:
    pieces = [corpus.pieces(number, {one.id: [] for one in corpus.documents}) for number in range(len(corpus.scores))]
    return sum(found(asked, by_score(one, budget)) for asked, one in zip(corpus.questions, pieces, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "times"), [(CLEAN, 2), (NOISY, 1.6)], ids=["clean", "noisy"])
def test_p1_evidence_is_found_more_often_than_by_score_alone(corpus: Corpus, name: str, times: float) -> None:
    assert recall(corpus, *NOISE[name]) >= times * recall_by_score(corpus) > 0


@pytest.mark.slow
def test_p1_a_clean_graph_needs_a_quarter_of_the_tokens_for_most_questions(corpus: Corpus) -> None:
    graph = corpus.graph(0, 0, seed=3)
    around = {node: graph.get_neighbors(node, direction="both") for node in graph.nodes}
    ours, plain = [], []

    for number, asked in enumerate(corpus.questions):
        pieces = corpus.pieces(number, around)
        everything = in_turns(walk(pieces), pieces, 2 * sum(corpus.sizes))
        ours.append(tokens_until_found(asked, everything, corpus.sizes))
        plain.append(tokens_until_found(asked, ranked(pieces.scores), corpus.sizes))

    assert 4 * at_share(ours, 0.8) <= at_share(plain, 0.8)


@pytest.mark.slow
def test_p2_a_graph_that_is_wrong_throughout_costs_at_most_twice_the_tokens(corpus: Corpus) -> None:
    assert recall(corpus, 1.0, 3.0, budget=2 * BUDGET) >= recall_by_score(corpus)
