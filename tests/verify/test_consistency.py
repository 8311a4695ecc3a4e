"""Do several answers say the same?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planloom.verify.consistency import agreement, canonical


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Paris", " paris.\n"),
        ("a  b\tc", "A B C"),
        ("\u00e9", "e\u0301"),
        ({"a": 1, "b": [2]}, {"b": [2.0], "a": 1.0}),
        ('{"a": 1}', '{ "a" : 1 }'),
        ('{"a": 1}', {"a": 1}),
        (1, 1.0),
    ],
)
def test_answers_that_say_the_same_are_one(one: Any, other: Any) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Paris", "Paris!"), ("1", 1), (True, 1), (None, "null"), ([1, 2], [2, 1]), ({"a": "x"}, {"a": "X"}), ("", None)],
)
def test_answers_that_differ_are_two(one: Any, other: Any) -> None:
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize("text", ["[" * 5_000, "[" * 150_000, "[1e999]", "[" + "9" * 5_000 + "]", '{"a": NaN}'])
def test_text_that_only_looks_like_json_is_compared_as_text(text: str) -> None:
    assert canonical(text).startswith("text:")


def test_a_majority_is_more_than_half() -> None:
    assert agreement(["a", "b", "a", "c", "a"]).is_majority
    assert not agreement(["a", "b", "a", "c"]).is_majority
    assert not agreement([]).is_majority


def test_failed_samples_were_asked_for_and_agree_with_nobody() -> None:
    found = agreement(["a", "a"], total=4)

    assert (found.place, found.votes, found.total, found.is_majority) == (0, 2, 4, False)


def test_what_is_no_json_agrees_with_nobody() -> None:
    found = agreement([{1}, object(), object(), "a"])

    assert (found.votes, found.total) == (1, 4)


def test_the_answer_given_is_the_first_of_those_that_agree() -> None:
    found = agreement(["b", " a", "A.", "a"])

    assert found.place == 1


@given(st.lists(st.sampled_from("abc"), max_size=9))
def test_a_majority_does_not_depend_on_the_order(answers: list[str]) -> None:
    winner = next((one for one in "abc" if answers.count(one) * 2 > len(answers)), None)

    found = agreement(answers)

    assert found.is_majority == (winner is not None)
    if winner is not None and found.place is not None:
        assert answers[found.place] == winner
