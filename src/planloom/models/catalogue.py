"""Which model a plan means by `model:`: given ones first, then names of the settings, then any address.

Rule 1: a name stands for an address, never for another name.
Rule 2: what a plan writes is untrusted: it may name any model of any provider, but where a model is asked, with which
key, and which files are read or written is said where the operator says it, word for word.
Rule 3: only what was made here is closed here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from planloom.core.model_uri import ModelUri
from planloom.core.prices import ModelFacts, ModelPrice
from planloom.errors import UnknownModelError, suggestion
from planloom.models.llm import LLM
from planloom.models.local.place import names_a_path
from planloom.models.pricing import unpriced
from planloom.models.rates import RateLimit, RateLimits
from planloom.models.scripted import file_of
from planloom.models.uri import parse_uri, uri_for

if TYPE_CHECKING:
    from planloom.ports import Clock, Model

DEFAULT = "default"
VOUCH = "name this address below [models] in planloom.toml, or in models={…}, and write that name in the plan"
_OPERATORS = ("base_url", "download", "key_env", "price_in", "price_out", "rpm", "tpm")
"""Params that no plan may say."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
Listed = TypeVar("Listed")


class ListedPrice(Protocol):
    """A price as settings hold it; a `ModelPrice` is one too."""

    @property
    def input(self) -> float: ...
    @property
    def output(self) -> float: ...
    @property
    def cache_read(self) -> float | None: ...
    @property
    def cache_write(self) -> float | None: ...


class ListedRate(Protocol):
    """A rate as settings hold it; a `RateLimit` is one too."""

    @property
    def requests_per_minute(self) -> float | None: ...
    @property
    def tokens_per_minute(self) -> float | None: ...


class Models:
    """The models of one engine.

    Args:
        default: Address of what a plan calls "default".
        named: Address by name.
        given: Models by name, handed over in Python: an `LLM`, an address, or any `ports.Model`. They come first.
        prices: By a model's name here, its address, or its name at the provider; before every price list.
        rates: By the same.
        timeout_s: Seconds to wait for an answer, where neither the call nor the address says.
        max_answer_tokens: Most tokens of an answer, where neither the step nor the address says.
        clock: By which calls wait for their turn; None: real time, and one set of buckets for the whole process.
    """

    def __init__(
        self,
        *,
        default: str | None = None,
        named: Mapping[str, str] | None = None,
        given: Mapping[str, LLM | str | Model] | None = None,
        prices: Mapping[str, ListedPrice] | None = None,
        rates: Mapping[str, ListedRate] | None = None,
        timeout_s: float | None = None,
        max_answer_tokens: int = 4096,
        clock: Clock | None = None,
    ) -> None:
        self._given = dict(given or {})
        self._addresses: dict[str, str] = dict(named or {})
        if default is not None:
            self._addresses.setdefault(DEFAULT, default)
        self._addresses |= {name: one for name, one in self._given.items() if isinstance(one, str)}
        self._prices = {key: _as_price(price) for key, price in (prices or {}).items()}
        self._rates = {
            key: RateLimit(rate.requests_per_minute, rate.tokens_per_minute) for key, rate in (rates or {}).items()
        }
        self._timeout_s = timeout_s
        self._max_answer_tokens = max_answer_tokens
        self._buckets = None if clock is None else RateLimits(clock)
        self._by_ref: dict[str, LLM] = {}
        self._made: dict[str, LLM] = {}

    def names(self) -> list[str]:
        """Return the names that stand for a model here, sorted."""
        return sorted({*self._given, *self._addresses})

    def get(self, ref: str) -> LLM:
        """Return the model that a name or an address means; always the same one. Connects to nothing.

        Raises:
            UnknownModelError: There is none, or a plan may not say what this address says.
            ConfigError: A param is wrong, or an extra is not installed.
        """
        known = self._by_ref.get(ref)
        if known is None:
            known = self._by_ref[ref] = self._found(ref)
        return known

    def facts(self, ref: str, *, priced: bool) -> ModelFacts:
        """Return what a run is told about a model when it starts; if it needs no price, no list is read.

        Raises: as `get`.
        """
        llm = self.get(ref)
        known = llm.metadata if priced else unpriced(llm.model)
        most = llm.uri.params.get("max_tokens")
        if most is None:
            most = min(self._max_answer_tokens, known.max_tokens_per_request or self._max_answer_tokens)
        window = llm.uri.params.get("context_window", known.context_window)
        price = (self._of(self._prices, ref, llm.uri) or known.price) if priced else None
        return ModelFacts(
            str(llm.uri),
            provider=known.provider,
            name=known.name,
            price=price,
            max_tokens=int(most),
            context_window=None if window is None else int(window),
        )

    async def close(self) -> None:
        """Close every model made here; those that were given go on."""
        async with AsyncExitStack() as stack:
            for llm in self._made.values():
                stack.push_async_callback(llm.close)
        self._made.clear()
        self._by_ref.clear()

    # --- inside ---------------------------------------------------------------------------------

    def _found(self, ref: str) -> LLM:
        given = self._given.get(ref)
        if isinstance(given, LLM):
            return given
        if given is not None and not isinstance(given, str):
            return self._around(given, ref)
        address = self._addresses.get(ref)
        if address is not None:
            if "://" not in address:
                raise UnknownModelError(
                    f"the model {ref!r} stands for {address!r}, which is no address",
                    remedy=_with_address(address, f"give {ref!r} an address: scheme://name"),
                    model=ref,
                )
            return self._made_of(parse_uri(address), ref)
        if "://" not in ref:
            raise self._unknown(ref)
        uri = parse_uri(ref)
        if not self._is_operators(uri):
            _check_a_plan_may_say(uri)
        return self._made_of(uri, ref)

    def _is_operators(self, uri: ModelUri) -> bool:
        """Return whether the operator wrote this very address too, or gave the model that has it."""
        given = (str(one.uri) for one in self._given.values() if isinstance(one, LLM))
        return str(uri) in {*map(self._address, self._addresses), *given}

    def _around(self, model: Model, ref: str) -> LLM:
        """Return the face of a model that was given bare."""
        known = model.metadata
        scheme = known.provider.lower() if _SCHEME.fullmatch(known.provider) else "given"
        uri = ModelUri(scheme, known.name or ref, known.version)
        limit = self._of(self._rates, ref, uri)
        return LLM(model, uri, rates=self._buckets, limit=limit, timeout_s=self._timeout_s)

    def _made_of(self, uri: ModelUri, ref: str) -> LLM:
        """Return the model at an address, the same one for all names that mean it."""
        key = str(uri)
        if key not in self._made:
            limit = self._of(self._rates, ref, uri)
            self._made[key] = LLM.from_uri(uri, rates=self._buckets, limit=limit, timeout_s=self._timeout_s)
        return self._made[key]

    def _of(self, listed: Mapping[str, Listed], ref: str, uri: ModelUri) -> Listed | None:
        """Return what is listed for a model: by this name, another of its names, its address or its own name."""
        bare = replace(uri, params={})
        others = (name for name in self._addresses if self._address(name) == str(uri))
        keys = (ref, *others, str(uri), str(bare), f"{bare.name}@{bare.version}", bare.name)
        return next((listed[key] for key in keys if key in listed), None)

    def _address(self, name: str) -> str | None:
        """Return a named address as it is compared, or None if it is none."""
        try:
            return str(parse_uri(self._addresses[name]))
        except UnknownModelError:
            return None

    def _unknown(self, ref: str) -> UnknownModelError:
        if ref == DEFAULT:
            return UnknownModelError(
                "no default model is set: `default_model` in planloom.toml is missing",
                remedy='set default_model = "openai://gpt-4o-mini" or another address, or give models={"default": …}',
                model=ref,
            )
        remedy = suggestion(ref, self.names(), otherwise="write an address (scheme://name), or name one in `models`")
        return UnknownModelError(f"no model is called {ref!r}", remedy=_with_address(ref, remedy), model=ref)


def _with_address(name: str, remedy: str) -> str:
    """Return the remedy, and the address that was perhaps meant."""
    try:
        return f"{remedy}; or write {uri_for(name)}"
    except UnknownModelError:
        return remedy


def _check_a_plan_may_say(uri: ModelUri) -> None:
    """Refuse what would let whoever wrote the plan say where a prompt or a key is sent, or which file is opened."""
    named = [name for name in _OPERATORS if name in uri.params]
    if named:
        what = f"says {' and '.join(named)} of a model, which only who runs it may say"
    elif uri.scheme == "cassette" or (uri.scheme == "scripted" and file_of(uri).suffix == ".json"):
        what = "names a file that a model's answers are kept in, which only who runs it may name"
    elif uri.scheme in ("transformers", "huggingface") and names_a_path(uri):
        what = "names a folder that a model is read from, which only who runs it may name"
    else:
        return
    raise UnknownModelError(f"the plan {what}: {uri}", remedy=VOUCH)


def _as_price(listed: ListedPrice) -> ModelPrice:
    if isinstance(listed, ModelPrice):
        return listed
    return ModelPrice(listed.input, listed.output, listed.cache_read, listed.cache_write, source="settings")
