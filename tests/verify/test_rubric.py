"""What an answer is scored by."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planloom.errors import ConfigError
from planloom.verify.rubric import MAX_DIMENSIONS, TEMPLATES, Dimension, Rubric


def test_the_overall_score_is_the_weighted_mean() -> None:
    rubric = Rubric.of({"accuracy": 3, "clarity": 1})

    assert rubric.overall({"accuracy": 1.0, "clarity": 0.2}) == 0.8


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=8), st.floats(0.01, 1e6), min_size=1, max_size=12),
    st.floats(0, 1),
)
def test_equal_scores_are_the_overall_score_whatever_the_weights(weights: dict[str, float], score: float) -> None:
    rubric = Rubric.of(weights)

    assert rubric.overall(dict.fromkeys(weights, score)) == round(score, 9)


def test_without_a_rubric_the_general_one_counts_all_alike() -> None:
    rubric = Rubric.of(None)

    assert rubric.names == ("relevance", "accuracy", "completeness", "clarity")
    assert {dimension.weight for dimension in rubric.dimensions} == {1.0}


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_template_says_what_a_full_score_means(name: str) -> None:
    assert Rubric.of(name) is TEMPLATES[name]
    assert all(dimension.description for dimension in TEMPLATES[name].dimensions)


def test_an_unknown_template_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'summary'"):
        Rubric.of("sumary")


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"a": -1},
        {"a": 0, "b": 0},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": True},
        {"a": "1"},
        {" ": 1},
        {"é" * 31: 1},
        {str(number): 1 for number in range(MAX_DIMENSIONS + 1)},
    ],
)
def test_weights_that_cannot_be_counted_are_refused(weights: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        Rubric.of(weights)


def test_a_dimension_stands_in_a_rubric_once() -> None:
    with pytest.raises(ConfigError, match="twice"):
        Rubric("own", (Dimension("a"), Dimension("a")))
