"""What a model costs at list price, from the snapshot that genai-prices brings along: offline, dated, never guessed.

Rule 1: never the network: the snapshot changes when the package is updated, and at no other time.
Rule 2: a price that `ModelPrice` cannot tell exactly is None, never something near it: a budget would trust it.
Rule 3: the standard tier: what a call asks for on top (priority, an hour's cache, a web search) is not in here.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from planloom.core.prices import ModelPrice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genai_prices import types

    from planloom.ports import Model, ModelMetadata

RUNS_HERE = frozenset({"ollama", "vllm", "transformers", "scripted"})
"""Providers that are machines of one's own: nobody sends a bill for a token."""
FREE = ModelPrice(0.0, 0.0, source="runs here")

_PROVIDER_IDS = {"xai": "x-ai", "grok": "x-ai", "moonshot": "moonshotai", "bedrock": "aws", "google-gla": "google"}
"""Names of providers that genai-prices has under another one."""
_TOLD = frozenset({"input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "requests_kcount"})
"""Prices that a `ModelPrice` holds."""
_NOT_IN_TEXT = ("audio", "image", "video", "document", "annotated_document")
"""Prices of what no call of ours sends or gets."""
_ONLY_IF_ASKED = frozenset({"web_searches_kcount", "storage_searches_kcount", "cache_write_1h_mtok"})
_SEARCHES_UNASKED = frozenset({"perplexity"})


def price_of(provider: str, name: str, *, base_url: str | None = None, at: float | None = None) -> ModelPrice | None:
    """Return the list price of a model, or None where nobody knows it or it cannot be told exactly.

    Args:
        provider: As in `ModelMetadata.provider`.
        name: As the provider bills it, e.g. ``"gpt-4o-mini"``.
        base_url: Where the model is asked, if not at its provider's own address; then the address says whose price it
            is, since anybody may serve anything under any name.
        at: Seconds since the epoch, for prices that change on a known day; None: now.
    """
    if provider in RUNS_HERE:
        return FREE
    billing = _billing(provider, base_url)
    model = None if billing is None else _model(billing, name)
    if billing is None or model is None:
        return None
    moment = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    return _told(model, billing.id, moment)


def context_window_of(provider: str, name: str, *, base_url: str | None = None) -> int | None:
    """Return the tokens of prompt and answer that a model takes together, or None where nobody knows."""
    billing = None if provider in RUNS_HERE else _billing(provider, base_url)
    model = None if billing is None else _model(billing, name)
    return None if model is None else model.context_window


def _billing(provider: str, base_url: str | None) -> types.Provider | None:
    """Return whose price list holds."""
    providers = _providers()
    if base_url is None:
        return providers.get(_PROVIDER_IDS.get(provider, provider))
    return next((one for one in providers.values() if _serves(one, base_url)), None)


def _model(billing: types.Provider, name: str) -> types.ModelInfo | None:
    return billing.find_model(name, all_providers=list(_providers().values()))


def _serves(provider: types.Provider, base_url: str) -> bool:
    return re.match(provider.api_pattern, base_url) is not None


@lru_cache(maxsize=1)
def _providers() -> Mapping[str, types.Provider]:
    from genai_prices.data import providers  # 0.2 s and 10 MB that only a priced run pays for

    return {provider.id: provider for provider in providers}


@lru_cache(maxsize=1)
def _source() -> str:
    from genai_prices import __version__

    return f"genai-prices {__version__}"


def _told(model: types.ModelInfo, provider: str, moment: datetime) -> ModelPrice | None:
    """Return the model's price in our shape, or None if it has a part that our shape cannot tell."""
    from genai_prices import types

    if not isinstance(model.prices, types.ModelPrice) and any(
        isinstance(one.constraint, types.TimeOfDateConstraint) for one in model.prices
    ):
        return None  # it changes with the hour, and a run's price is pinned when it starts
    prices = model.get_prices(moment)
    units = {unit: price for unit, price in vars(prices).items() if price is not None and not unit.startswith("_")}
    if "input_mtok" not in units or "output_mtok" not in units:
        return None
    if any(_is_incurred(unit, provider) for unit in units.keys() - _TOLD):
        return None
    return _in_tiers({unit: _steps(price) for unit, price in units.items() if unit in _TOLD})


def _is_incurred(unit: str, provider: str) -> bool:
    """Return True if a call with a text and an answer in text may be billed by this unit."""
    if unit in _ONLY_IF_ASKED:
        return provider in _SEARCHES_UNASKED and unit != "cache_write_1h_mtok"
    what = unit.removeprefix("input_").removeprefix("output_").removeprefix("cache_")
    return not what.startswith(_NOT_IN_TEXT)


@runtime_checkable
class LookedUp(Protocol):
    """A model whose price has to be looked up; it can tell the rest without."""

    @property
    def unpriced(self) -> ModelMetadata:
        """Return its metadata, without what the price list says."""
        ...


def unpriced(model: Model) -> ModelMetadata:
    """Return what is known of a model without looking anything up."""
    return model.unpriced if isinstance(model, LookedUp) else model.metadata


Steps = dict[int, Decimal]
"""Price by the number of prompt tokens above which it holds; -1 for the price of the smallest calls."""


def _steps(price: Any) -> Steps:
    if isinstance(price, Decimal):
        return {-1: price}
    return {-1: price.base} | {tier.start: tier.price for tier in price.tiers}


def _at(steps: Steps, above: int) -> Decimal:
    return steps[max(start for start in steps if start <= above)]


def _in_tiers(units: dict[str, Steps]) -> ModelPrice | None:
    """Return the price, or None if a tier moves the price of cached tokens by another factor than of fresh ones."""
    fresh, output = units["input_mtok"], units["output_mtok"]
    read, write = units.get("cache_read_mtok"), units.get("cache_write_mtok")
    request = units.get("requests_kcount", {-1: Decimal(0)})
    starts = sorted({start for steps in units.values() for start in steps} - {-1})
    for start in starts:
        for cached in (steps for steps in (read, write) if steps is not None):
            is_free_at_first = fresh[-1] == 0 != _at(fresh, start)
            if is_free_at_first or _at(cached, start) * fresh[-1] != cached[-1] * _at(fresh, start):
                return None
    if len(request) > 1:
        return None
    return ModelPrice(
        float(fresh[-1]),
        float(output[-1]),
        cache_read=None if read is None else float(read[-1]),
        cache_write=None if write is None else float(write[-1]),
        tiers=tuple((start, float(_at(fresh, start)), float(_at(output, start))) for start in starts),
        per_request=float(request[-1]) / 1000,
        source=_source(),
    )
