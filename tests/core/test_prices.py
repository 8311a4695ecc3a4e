"""What a call costs, to the cent, and what it can cost at most."""

from __future__ import annotations

import pytest

from planloom.core.prices import PER, ModelFacts, ModelPrice
from planloom.core.result import Usage

TIERED = ModelPrice(2.0, 10.0, tiers=((100, 4.0, 15.0), (1_000, 8.0, 20.0)))
CACHED = ModelPrice(2.0, 10.0, cache_read=0.5, cache_write=3.0, tiers=((100, 4.0, 15.0),), per_request=0.25)


@pytest.mark.parametrize(
    ("price", "usage", "per_million"),
    [
        (ModelPrice(2.0, 10.0), Usage(30, 4), 30 * 2 + 4 * 10),
        (ModelPrice(2.0, 10.0), Usage(30, 4, cache_read_tokens=10, cache_write_tokens=5), 30 * 2 + 4 * 10),
        (TIERED, Usage(100, 4), 100 * 2 + 4 * 10),
        (TIERED, Usage(101, 4), 101 * 4 + 4 * 15),
        (TIERED, Usage(1_000, 4), 1_000 * 4 + 4 * 15),
        (TIERED, Usage(1_001, 4), 1_001 * 8 + 4 * 20),
        (CACHED, Usage(50, 4, cache_read_tokens=10, cache_write_tokens=5), 35 * 2 + 10 * 0.5 + 5 * 3 + 4 * 10),
        (CACHED, Usage(150, 4, cache_read_tokens=10, cache_write_tokens=5), 135 * 4 + 10 * 1 + 5 * 6 + 4 * 15),
        (CACHED, Usage(5, 0, cache_read_tokens=10), 10 * 0.5),
        (CACHED, Usage(0, 0, requests=3), 0.75 * PER),
        (ModelPrice(0.0, 1.0, cache_read=2.0, tiers=((1, 5.0, 6.0),)), Usage(4, 1, cache_read_tokens=3), 5 + 6 + 6),
    ],
    ids=[
        "plain",
        "cache as input",
        "at",
        "above",
        "at two",
        "above two",
        "cached",
        "tiered",
        "odd",
        "requests",
        "free",
    ],
)
def test_a_call_costs_what_its_tokens_cost(price: ModelPrice, usage: Usage, per_million: float) -> None:
    assert price.cost_usd(usage) == pytest.approx(per_million / PER)


@pytest.mark.parametrize(
    ("price", "tokens", "per_million"),
    [
        (ModelPrice(2.0, 10.0), (30, 4), 30 * 2 + 4 * 10),
        (TIERED, (100, 4), 100 * 2 + 4 * 10),
        (TIERED, (101, 4), 101 * 4 + 4 * 15),
        (TIERED, (1_001, 4), 1_001 * 8 + 4 * 20),
        (ModelPrice(4.0, 9.0, tiers=((10, 2.0, 3.0),)), (11, 1), 11 * 4 + 9),
        (ModelPrice(2.0, 10.0, cache_read=5.0), (30, 4), 30 * 5 + 4 * 10),
        (CACHED, (30, 4), 0.25 * PER + 30 * 3 + 4 * 10),
        (CACHED, (101, 4), 0.25 * PER + 101 * 6 + 4 * 15),
        (ModelPrice(0.0, 1.0, cache_write=3.0, tiers=((1, 2.0, 1.0),)), (4, 1), 4 * 3 + 1),
    ],
    ids=["plain", "at", "above", "above two", "cheaper tier", "dear cache", "cached", "tiered", "free"],
)
def test_a_ceiling_takes_the_dearest_of_what_may_be_charged(
    price: ModelPrice, tokens: tuple[int, int], per_million: float
) -> None:
    assert price.ceiling_usd(*tokens) == pytest.approx(per_million / PER)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        (
            ModelFacts("a://b", "a", "b", CACHED, 7, 9),
            {
                "uri": "a://b",
                "provider": "a",
                "name": "b",
                "price": {
                    "input": 2.0,
                    "output": 10.0,
                    "cache_read": 0.5,
                    "cache_write": 3.0,
                    "tiers": [[100, 4.0, 15.0]],
                    "per_request": 0.25,
                    "source": "",
                },
                "max_tokens": 7,
                "context_window": 9,
            },
        ),
        (
            ModelFacts("a://b", price=ModelPrice(1.0, 2.0)),
            {
                "uri": "a://b",
                "provider": "",
                "name": "",
                "price": {"input": 1.0, "output": 2.0, "per_request": 0.0, "source": ""},
                "max_tokens": 4096,
                "context_window": None,
            },
        ),
        (
            ModelFacts("a://b"),
            {"uri": "a://b", "provider": "", "name": "", "max_tokens": 4096, "context_window": None},
        ),
    ],
    ids=["everything", "plain", "no price"],
)
def test_facts_of_a_model_come_back_as_they_were_told(facts: ModelFacts, told: dict[str, object]) -> None:
    assert facts.to_dict() == told
    assert ModelFacts.from_dict(facts.to_dict()) == facts


def test_tiers_come_back_as_numbers_of_their_kinds() -> None:
    facts = ModelFacts.from_dict({"uri": "a://b", "price": {"input": 1, "output": 2, "tiers": [[100.0, 4, 15]]}})

    assert facts.price is not None
    assert [tuple(map(type, tier)) for tier in facts.price.tiers] == [(int, float, float)]
