"""List prices: the ones genai-prices would bill, to the last digit, or none at all."""

from __future__ import annotations

import socket
import subprocess
import sys
from datetime import UTC, datetime

import genai_prices
import pytest
from genai_prices.data import providers
from hypothesis import given
from hypothesis import strategies as st

from planloom.core.prices import ModelPrice
from planloom.core.result import Usage
from planloom.models.pricing import price_of

MODELS = [(provider.id, model.id) for provider in providers for model in provider.models]
MOMENT = datetime(2026, 7, 1, 12, tzinfo=UTC)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Return the usage of one call, its cached tokens among those of its prompt, sometimes past every tier."""
    read, write = draw(st.integers(0, 300_000)), draw(st.integers(0, 300_000))
    fresh = draw(st.integers(0, 600_000))
    return Usage(read + write + fresh, draw(st.integers(0, 100_000)), 1, read, write)


def billed_usd(provider: str, model: str, usage: Usage) -> float:
    counted = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )
    price = genai_prices.calc_price(counted, model, provider_id=provider, genai_request_timestamp=MOMENT)
    return float(price.total_price)


def test_a21_a_call_of_gpt_4o_mini_costs_what_its_list_price_says() -> None:
    price = price_of("openai", "gpt-4o-mini")

    assert price is not None
    assert price.cost_usd(Usage(1000, 500, 1)) == 0.00045
    assert price.source == f"genai-prices {genai_prices.__version__}"


@given(st.sampled_from(MODELS), usages())
def test_a_price_is_what_genai_prices_would_bill(model: tuple[str, str], usage: Usage) -> None:
    price = price_of(*model, at=MOMENT.timestamp())

    if price is not None:
        assert price.cost_usd(usage) == pytest.approx(billed_usd(*model, usage), rel=1e-12, abs=1e-15)


def test_nearly_every_model_that_people_name_has_a_price() -> None:
    wanted = [
        ("openai", "gpt-4o"),
        ("openai", "gpt-4.1-mini"),
        ("openai", "gpt-5"),
        ("anthropic", "claude-sonnet-4-5"),
        ("anthropic", "claude-haiku-4-5"),
        ("google", "gemini-2.5-flash"),
        ("google", "gemini-2.5-pro"),
        ("mistral", "mistral-large-latest"),
        ("groq", "llama-3.3-70b-versatile"),
    ]

    assert [name for name in wanted if price_of(*name) is None] == []


def prices() -> st.SearchStrategy[ModelPrice]:
    """Return prices of any shape, cheaper and dearer caches and tiers among them."""
    usd = st.floats(0, 500)
    tiers = st.lists(st.tuples(st.integers(0, 500_000), usd, usd), max_size=3, unique_by=lambda tier: tier[0])
    return st.builds(
        ModelPrice,
        usd,
        usd,
        cache_read=st.none() | usd,
        cache_write=st.none() | usd,
        tiers=tiers.map(lambda found: tuple(sorted(found))),
        per_request=st.floats(0, 1),
    )


def listed() -> st.SearchStrategy[ModelPrice]:
    """Return the prices on the list."""
    known = [price for model in MODELS if (price := price_of(*model, at=MOMENT.timestamp())) is not None]
    return st.sampled_from(known)


@given(prices() | listed(), usages(), st.integers(0, 50_000), st.integers(0, 50_000))
def test_no_call_below_a_ceiling_costs_more_than_the_ceiling(
    price: ModelPrice, usage: Usage, spare_in: int, spare_out: int
) -> None:
    tokens_in, tokens_out = usage.input_tokens, usage.output_tokens
    # What a call costs is linear in each kind of token, so the dearest is at a corner.
    corners = [
        Usage(tokens_in, tokens_out, 1),
        Usage(tokens_in, tokens_out, 1, cache_read_tokens=tokens_in),
        Usage(tokens_in, tokens_out, 1, cache_write_tokens=tokens_in),
    ]

    ceiling = price.ceiling_usd(tokens_in + spare_in, tokens_out + spare_out)

    assert max(price.cost_usd(each) for each in [usage, *corners]) <= ceiling * (1 + 1e-12)


@pytest.mark.parametrize("provider", ["ollama", "vllm", "transformers", "scripted"])
def test_a_model_that_runs_here_is_known_to_be_free(provider: str) -> None:
    price = price_of(provider, "anything")

    assert price == ModelPrice(0.0, 0.0, source="runs here")


@pytest.mark.parametrize(
    ("provider", "name", "why"),
    [
        ("openai", "no-such-model", "nobody knows it"),
        ("nobody", "gpt-4o", "nobody knows its provider"),
        ("openai-lookalike", "gpt-4o", "a provider that only sounds like another"),
        ("openai", "text-embedding-3-small", "answers have no price"),
        ("openai", "whisper-1", "billed by the hour"),
        ("openai", "tts-1", "billed by the letter"),
        ("perplexity", "sonar-deep-research", "reasoning and searches are billed apart"),
        ("deepseek", "deepseek-chat", "the price changes with the hour"),
        ("openrouter", "google/gemini-2.5-pro", "a tier that leaves the price of cached tokens as it is"),
    ],
)
def test_a_price_that_cannot_be_told_exactly_is_none(provider: str, name: str, why: str) -> None:
    assert price_of(provider, name) is None, why


def test_each_request_is_billed_where_the_list_says_so() -> None:
    price = price_of("perplexity", "sonar-pro")

    assert price is not None
    assert price.per_request == pytest.approx(0.014)


def test_a_price_holds_from_its_day_on() -> None:
    before = price_of("openai", "o3", at=datetime(2025, 6, 1, tzinfo=UTC).timestamp())
    after = price_of("openai", "o3", at=datetime(2025, 7, 1, tzinfo=UTC).timestamp())

    assert (before and before.input, after and after.input) == (10.0, 2.0)


def test_a_model_asked_elsewhere_costs_what_that_place_asks() -> None:
    here = price_of("openai", "llama-3.3-70b-versatile", base_url="https://api.groq.com/openai/v1")
    nowhere = price_of("openai", "gpt-4o", base_url="http://127.0.0.1:8000/v1")

    assert here == price_of("groq", "llama-3.3-70b-versatile")
    assert here is not None
    assert nowhere is None
    assert price_of("openai", "sonar-deep-research", base_url="https://api.perplexity.ai") is None


def test_a_price_list_set_by_somebody_else_in_the_process_changes_nothing() -> None:
    from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot

    set_custom_snapshot(DataSnapshot(providers=[], from_auto_update=True))
    try:
        price = price_of("openai", "gpt-4o-mini")
    finally:
        set_custom_snapshot(None)

    assert price is not None


def test_prices_never_come_from_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)

    assert price_of("anthropic", "claude-haiku-4-5") is not None


@pytest.mark.slow
def test_prices_are_read_only_when_one_is_asked_for() -> None:
    code = "import sys, planloom.models.pricing; sys.exit('genai_prices' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], check=False)

    assert done.returncode == 0
