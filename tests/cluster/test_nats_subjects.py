"""Names as tokens of subjects."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planloom.errors import ConfigError, ProtocolError
from planloom.transport.nats import subjects


@given(st.text(max_size=40))
def test_every_name_has_one_safe_token_that_gives_it_back(name: str) -> None:
    written = subjects.token(name)

    assert re.fullmatch(r"[A-Za-z0-9_=-]+", written)
    assert subjects.untoken(written) == name


@given(st.text(min_size=1, max_size=400), st.text(min_size=1, max_size=400))
def test_two_names_never_share_a_token(one: str, other: str) -> None:
    assert (subjects.token(one) == subjects.token(other)) == (one == other)


def test_a_very_long_name_is_cut_and_told_apart_by_its_digest() -> None:
    one, other = subjects.token("x" * 5000 + "a"), subjects.token("x" * 5000 + "b")

    assert one != other
    assert len(one) <= subjects.MAX_TOKEN
    with pytest.raises(ProtocolError, match="no token"):
        subjects.untoken(one)


@pytest.mark.parametrize("written", ["", "a.b", "*", ">", "a b", "=4", "=zz"])
def test_what_is_no_token_is_refused(written: str) -> None:
    with pytest.raises(ProtocolError, match="no token"):
        subjects.untoken(written)


@pytest.mark.parametrize("name", [">", "*", "mail.>", "a.b.c", "mail users", "ü", ""])
def test_no_name_reaches_beyond_its_place_in_a_subject(name: str) -> None:
    assert subjects.command("mail", "", "r", name, 1, 0).count(".") == 6
    assert subjects.outcome(name, "r", "s", 1, 0).count(".") == 5


def test_two_pairs_of_capability_and_place_never_share_a_consumer() -> None:
    names = ["a", "a-b", "b-c", "a-b-c", "any", "a-any", "w-a"]
    places = ["", "b-c=d", "c=d", "any-c=d"]

    consumers = {subjects.consumer(name, place) for name, place in product(names, places)}

    assert len(consumers) == len(names) * len(places)


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), max_size=3))
def test_labels_are_a_place_and_back(labels: dict[str, str]) -> None:
    assert subjects.labels_of_place(subjects.place_of_labels(labels)) == labels


def test_a_worker_is_at_every_place_that_its_labels_cover_and_anywhere_last() -> None:
    assert subjects.places_of({"region": "eu", "gpu": "yes"}) == ["gpu=yes,region=eu", "gpu=yes", "region=eu", ""]
    with pytest.raises(ConfigError, match="32 places"):
        subjects.places_of(dict.fromkeys("abcde", "1"))
