"""Texts are found by their words, the same ones in the same order every time."""

from __future__ import annotations

import random
import time
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planloom.context.lexical import LexicalIndex, terms
from planloom.context.vectors import embedded, fused, likeness
from planloom.errors import ConfigError

WORDS = st.sampled_from(["graph", "node", "edge", "token", "mask", "the", "größe", "東京都"])


def test_the_text_that_says_it_most_often_in_the_fewest_words_comes_first() -> None:
    index = LexicalIndex(["a mask of blocks and of much else besides", "mask, mask", "no word of it"])

    assert [place for place, _ in index.best("mask")] == [1, 0]


def test_a_rare_word_counts_more_than_a_common_one() -> None:
    index = LexicalIndex(["the plan fails", "the plan runs", "the plan waits", "the journal fails"])

    assert index.best("plan journal")[0][0] == 3


def test_of_texts_that_say_it_once_the_shorter_comes_first() -> None:
    index = LexicalIndex(["mask of blocks beside much else that it has to say", "mask of blocks", "neither"])

    assert [place for place, _ in index.best("mask")] == [1, 0]


def test_a_word_asked_for_many_times_is_not_asked_for_more() -> None:
    index = LexicalIndex(["plan", "mask", "mask"])

    assert index.scores("plan mask mask mask") == index.scores("plan mask")


def test_a_text_that_shares_nothing_is_not_found() -> None:
    index = LexicalIndex(["mask of a graph", ""])

    assert index.scores("quaternion") == {}
    assert index.scores("the of and") == {}
    assert index.scores("") == {}


def test_equal_texts_are_found_in_the_order_in_which_they_were_given() -> None:
    index = LexicalIndex(["same words"] * 5)

    found = index.best("words", limit=4)

    assert [place for place, _ in found] == [0, 1, 2, 3]
    assert len({score for _, score in found}) == 1


def test_only_the_places_asked_for_are_scored() -> None:
    index = LexicalIndex(["mask", "mask", "mask"])

    assert sorted(index.scores("mask", among={0, 2})) == [0, 2]


def test_a_text_may_be_given_as_words_that_count_differently() -> None:
    index = LexicalIndex([terms("mail", 0.5) | terms("now", 3.0), terms("mail", 3.0) | terms("now", 0.5)])

    assert index.best("mail")[0][0] == 1


@given(texts=st.lists(st.lists(WORDS, max_size=8).map(" ".join), max_size=8), query=st.lists(WORDS, max_size=4))
def test_scores_are_shares_of_texts_that_have_one_of_the_words(texts: list[str], query: list[str]) -> None:
    asked = terms(" ".join(query))

    scores = LexicalIndex(texts).scores(" ".join(query))

    assert all(0 < score < 1 for score in scores.values())
    assert set(scores) == {place for place, text in enumerate(texts) if asked.keys() & terms(text).keys()}


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("def load_plan(): ...", "load plans"),
        ("class SqliteJournal", "sqlite journal"),
        ("東京都に住んでいます", "東京"),
        ("re\u0301sume\u0301", "résumé"),
        ("résumé", "re\u0301sume\u0301"),
    ],
    ids=["snake", "humps", "no spaces", "parted accents in the text", "parted accents in the query"],
)
def test_words_are_found_however_they_are_written(text: str, query: str) -> None:
    assert list(LexicalIndex([text, "something else"]).scores(query)) == [0]


def test_an_index_of_nothing_finds_nothing() -> None:
    assert LexicalIndex([]).best("mask") == []
    assert len(LexicalIndex(["a", "b"])) == 2


@pytest.mark.slow
def test_2000_chunks_of_100_words_are_indexed_within_a_second_and_asked_within_5_ms() -> None:
    chance = random.Random(1)
    vocabulary = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 10))) for _ in range(8000)]
    usual = [1 / rank for rank in range(1, 8001)]
    texts = [" ".join(chance.choices(vocabulary, usual, k=100)) for _ in range(2000)]
    queries = [" ".join(chance.choices(vocabulary, usual, k=12)) for _ in range(20)]

    begun = time.process_time()
    index = LexicalIndex(texts)
    indexed_s = time.process_time() - begun
    asked_s = []
    for query in queries:
        begun = time.process_time()
        index.best(query)
        asked_s.append(time.process_time() - begun)

    assert indexed_s < 1
    assert median(asked_s) < 0.005


def test_what_is_first_in_both_orders_is_first_in_the_fused_one() -> None:
    scores = fused(["a", "b", "c"], ["a", "c"])

    assert sorted(scores, key=lambda one: -scores[one]) == ["a", "c", "b"]
    assert scores["a"] == pytest.approx(60 / 61)


def test_vectors_come_back_with_length_1_and_zeros_as_they_are() -> None:
    assert embedded(lambda _: [[3.0, 4.0], [0.0, 0.0]], ["a", "b"]) == [[0.6, 0.8], [0.0, 0.0]]
    assert embedded(lambda _: [], []) == []


def test_vectors_of_two_embeddings_are_not_compared() -> None:
    with pytest.raises(ConfigError, match="vectors of 1 and of 2 numbers"):
        likeness([1.0, 0.0], [1.0])
