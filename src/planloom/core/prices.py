"""What a model costs and how large a call of it can get: pinned when a run starts, so that a deploy changes nothing.

Rule 1: unknown is None, never zero.
Rule 2: a ceiling is never too low: a budget trusts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from planloom.core.result import Usage

PER = 1_000_000
"""Prices are per million tokens."""


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """List price in US dollars per million tokens.

    Attributes:
        cache_read, cache_write: Of prompt tokens the provider kept; None: as `input`.
        tiers: ``(prompt_tokens, input, output)``: from more than so many prompt tokens on, these prices hold for all
            tokens of the call; ascending.
        per_request: Of each call, whatever its tokens.
        source: Where this stands, e.g. ``"genai-prices 0.2.3"``, ``"settings"``, ``"runs here"``.
    """

    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None
    tiers: tuple[tuple[int, float, float], ...] = ()
    per_request: float = 0.0
    source: str = ""

    def cost_usd(self, usage: Usage) -> float:
        """Return what one call with this usage cost; of a sum of several, if there are tiers, an upper bound."""
        price_in, price_out, factor = self.input, self.output, 1.0
        for above, tier_in, tier_out in self.tiers:
            if usage.input_tokens > above:
                factor = tier_in / self.input if self.input else 1.0
                price_in, price_out = tier_in, tier_out
        read, write = usage.cache_read_tokens, usage.cache_write_tokens
        price_read = price_in if self.cache_read is None else self.cache_read * factor
        price_write = price_in if self.cache_write is None else self.cache_write * factor
        fresh = max(0, usage.input_tokens - read - write)
        tokens = fresh * price_in + read * price_read + write * price_write + usage.output_tokens * price_out
        return tokens / PER + usage.requests * self.per_request

    def ceiling_usd(self, input_tokens: int, output_tokens: int) -> float:
        """Return the most that one call of at most so many tokens can cost."""
        cached = max(self.cache_read or 0.0, self.cache_write or 0.0)
        price_in, price_out = max(self.input, cached), self.output
        for above, tier_in, tier_out in self.tiers:
            if input_tokens > above:
                factor = tier_in / self.input if self.input else 1.0  # a tier moves the price of cached tokens too
                price_in, price_out = max(price_in, tier_in, cached * factor), max(price_out, tier_out)
        return (input_tokens * price_in + output_tokens * price_out) / PER + self.per_request


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a run was told about a model when it started.

    Attributes:
        uri: Its address, without anything secret.
        price: None: nobody knows it, or the run keeps no costs.
        max_tokens: Most tokens of an answer where the step says nothing.
        context_window: Tokens of prompt and answer together, or None.
    """

    uri: str
    provider: str = ""
    name: str = ""
    price: ModelPrice | None = None
    max_tokens: int = 4096
    context_window: int | None = None

    def to_dict(self) -> dict[str, Any]:
        told: dict[str, Any] = {"uri": self.uri, "provider": self.provider, "name": self.name}
        if self.price is not None:
            price = {name: getattr(self.price, name) for name in ModelPrice.__slots__}
            price["tiers"] = [list(tier) for tier in self.price.tiers]
            told["price"] = {name: value for name, value in price.items() if value is not None and value != []}
        return told | {"max_tokens": self.max_tokens, "context_window": self.context_window}

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> ModelFacts:
        """Return the facts of `to_dict`."""
        price = told.get("price")
        if price is not None:
            price = dict(price)
            tiers = tuple((int(above), float(i), float(o)) for above, i, o in price.get("tiers", ()))
            price = ModelPrice(**(price | {"tiers": tiers}))
        return cls(**(told | {"price": price}))
