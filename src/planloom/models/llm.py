"""`LLM`: the one face of a language model, whatever is behind it.

Rule 1: `ask` and `stream_call` are the only ways in: they wait for the provider's rates and ask once; whoever wants
a second try asks a second time.
Rule 2: making an `LLM` connects to nothing and needs no key; `ready` and the first call do.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from planloom.core.asking import estimated_tokens, text_of
from planloom.core.chat import LLMResponse, ModelCall
from planloom.core.model_uri import ModelUri, Param
from planloom.core.prices import ModelPrice
from planloom.core.result import Usage
from planloom.errors import ConfigError, ModelError, ModelStreamError, UnknownPriceError
from planloom.models.prompts import Prompt, call_of
from planloom.models.rates import OnWait, RateLimit, RateLimits
from planloom.models.schemes import open_model
from planloom.models.uri import checked, parse_uri, uri_for
from planloom.ports import Model, ModelMetadata

__all__ = [
    "COMMON_PARAMS",
    "LLM",
    "Asker",
    "Billed",
    "Counting",
    "OnWait",
    "Prepared",
    "ask_plainly",
    "estimated_tokens",
]

SHARED_RATES = RateLimits()
"""Of all models of the process that are given none of their own: a provider counts per account, not per object."""
TOO_MANY = 429
Piece = str | LLMResponse
AFTER_TOO_MANY_S = 1.0
"""Seconds to hold back after a 429 that does not say how long."""
MAX_PAUSE_S = 600.0
"""Seconds that one 429 can hold back the calls of others, whatever it says."""


class LLM:
    """A language model.

    Args:
        model: What answers.
        uri: Its address; its params are the defaults of every call.
        rates: Whose turn it is to ask; None: one for the whole process.
        limit: What the provider takes in a minute; None: what `rpm` and `tpm` in the address say.
        timeout_s: Seconds to wait for an answer where neither the call nor the address says; None: the model's own.
    """

    def __init__(
        self,
        model: Model,
        uri: ModelUri,
        *,
        rates: RateLimits | None = None,
        limit: RateLimit | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self.model = model
        self.uri = uri
        self.rates = SHARED_RATES if rates is None else rates
        self._params = _checked_params(uri)
        self._timeout_s = timeout_s
        self.limit = _limit_of(self._params) if limit is None else limit

    @classmethod
    def from_uri(
        cls,
        uri: str | ModelUri,
        *,
        rates: RateLimits | None = None,
        limit: RateLimit | None = None,
        timeout_s: float | None = None,
    ) -> LLM:
        """Return the model at an address, e.g. ``"openai://gpt-4o?temperature=0.2"``. Connects to nothing.

        Raises:
            UnknownModelError: It is no address, or no adapter and no plugin knows its scheme.
            ConfigError: A param is wrong, or an extra is not installed.
        """
        address = parse_uri(uri) if isinstance(uri, str) else checked(uri)
        _checked_params(address)
        return cls(open_model(address), address, rates=rates, limit=limit, timeout_s=timeout_s)

    @classmethod
    def of(cls, model: LLM | str | Model, provider: str | None = None) -> LLM:
        """Return the face of a model that is given by name, by URI, as an LLM (itself) or as a `ports.Model`.

        Raises:
            UnknownModelError: Nothing says whose model it is, or no adapter knows it.
            ConfigError: An extra is not installed.
        """
        if isinstance(model, LLM):
            return model
        if isinstance(model, str):
            return cls.create(provider, model)
        known = model.metadata
        return cls(model, ModelUri(known.provider, known.name, known.version))

    @classmethod
    def create(cls, provider: str | None, model_name: str, **params: Param) -> LLM:
        """Return a provider's model; without a provider, that of a well known name such as ``"gpt-4o"``."""
        address = parse_uri(uri_for(model_name, provider))
        return cls.from_uri(replace(address, params={**address.params, **params}))

    def __repr__(self) -> str:
        return f"LLM({str(self.uri)!r})"

    @property
    def metadata(self) -> ModelMetadata:
        """What is known of the model; prices and the context window that the address gives come first."""
        known = self.model.metadata
        if "price_in" in self._params:
            price = ModelPrice(self._params["price_in"], self._params["price_out"], source="address")
            known = replace(known, price=price)
        if "context_window" in self._params:
            known = replace(known, context_window=int(self._params["context_window"]))
        return known

    def get_metadata(self) -> ModelMetadata:
        return self.metadata

    def ready(self) -> None:
        """Do what can be done before the first call; connects to nothing.

        Raises:
            MissingKeyError: There is no key for the provider.
        """
        if isinstance(self.model, Prepared):
            self.model.ready()

    async def close(self) -> None:
        """Let go of connections; the model opens new ones if it is asked again."""
        await self.model.close()

    # --- asking ---------------------------------------------------------------------------------

    async def ask(self, call: ModelCall, *, on_wait: OnWait | None = None) -> LLMResponse:
        """Ask once, when it is this call's turn, and return the whole answer.

        Raises:
            ModelError: No answer, or none that can be used; `error.usage` tells what it cost where that is known.
            MissingKeyError: There is no key for the provider.
        """
        call, turn = self._with_defaults(call), self._turn()
        await turn.begin(call, on_wait)
        try:
            answer = await self.model.respond(call)
            turn.answered(answer)
        except ModelError as error:
            turn.failed(error)
            raise
        finally:
            turn.end()
        return answer

    async def stream_call(
        self, call: ModelCall, *, on_wait: OnWait | None = None
    ) -> AsyncGenerator[str | LLMResponse, None]:
        """Yield the answer's text in pieces as it comes, then the whole answer, once, last. Raises as `ask` does."""
        call, turn = self._with_defaults(call), self._turn()
        await turn.begin(call, on_wait)
        try:
            async with _closing(self.model.stream(call)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, LLMResponse):
                        turn.answered(piece)
                    yield piece
        except ModelError as error:
            turn.failed(error)
            raise
        finally:
            turn.end()

    async def generate(
        self,
        prompt: Prompt,
        max_tokens: int | None = None,
        temperature: float | None = None,
        functions: Sequence[Mapping[str, Any]] | None = None,
        function_call: str | Mapping[str, Any] | None = None,
        json_mode: bool = False,
        **options: Any,
    ) -> LLMResponse:
        """Return the answer to a prompt or a conversation; see `prompts.call_of` for what may be given.

        Raises:
            UnknownFieldError: A keyword that does not exist; the message lists those that do.
            ModelError: As `ask`.
        """
        return await self.ask(
            call_of(
                prompt,
                max_tokens=max_tokens,
                temperature=temperature,
                functions=functions,
                function_call=function_call,
                json_mode=json_mode,
                **options,
            )
        )

    async def stream(
        self, prompt: Prompt, max_tokens: int | None = None, temperature: float | None = None, **options: Any
    ) -> AsyncGenerator[str, None]:
        """Yield the text of the answer as it comes. Takes what `generate` takes, and raises what it raises."""
        call = call_of(prompt, max_tokens=max_tokens, temperature=temperature, **options)
        async with aclosing(self.stream_call(call)) as pieces:
            async for piece in pieces:
                if isinstance(piece, str):
                    yield piece

    # --- estimates ------------------------------------------------------------------------------

    def estimate_tokens(self, text: str) -> int:
        """Return how many tokens a text is, where the model has its tokenizer here.

        Else about how many: a quarter of its UTF-8 bytes, at least one a word. That is neither exact nor a bound: for
        what a call may cost at most, see `core.asking.prompt_ceiling`.
        """
        return self.model.count(text) if isinstance(self.model, Counting) else estimated_tokens(text)

    def estimate_cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return what a call with so many tokens costs, in US dollars.

        Raises:
            UnknownPriceError: Nobody knows the model's price.
        """
        price = self.metadata.price
        if price is None:
            raise UnknownPriceError(
                f"nobody knows what {self.uri} costs",
                remedy="give price_in= and price_out= in its address, in US dollars per million tokens",
            )
        return price.cost_usd(Usage(prompt_tokens, completion_tokens, requests=1))

    # --- inside ---------------------------------------------------------------------------------

    def _with_defaults(self, call: ModelCall) -> ModelCall:
        """Return the call with the address's params where it says nothing itself."""
        temperature, most = self._params.get("temperature"), self._params.get("max_tokens")
        return replace(
            call,
            temperature=temperature if call.temperature is None else call.temperature,
            max_tokens=int(most) if call.max_tokens is None and most is not None else call.max_tokens,
            timeout_s=self._params.get("timeout", self._timeout_s) if call.timeout_s is None else call.timeout_s,
        )

    def _turn(self) -> _Turn:
        if isinstance(self.model, Billed):
            return _Turn(self.rates, self.model.account, self.limit)
        known = self.model.metadata
        return _Turn(self.rates, f"{known.provider} {known.name}", self.limit)


Asker = Callable[[LLM, ModelCall], Awaitable[LLMResponse]]
"""How verification and agents ask, so that whoever calls them can count."""


async def ask_plainly(llm: LLM, call: ModelCall) -> LLMResponse:
    """The `Asker` that does nothing but ask."""
    return await llm.ask(call)


@runtime_checkable
class Prepared(Protocol):
    """A model that can tell before the first call that it will not work."""

    def ready(self) -> None:
        """Raise MissingKeyError or ConfigError if it cannot be asked."""
        ...


@runtime_checkable
class Counting(Protocol):
    """A model whose tokenizer is on this machine."""

    def count(self, text: str) -> int:
        """Return how many tokens a text is, by itself."""
        ...


@runtime_checkable
class Speculating(Protocol):
    """A model that checks many tokens in one pass: a call's options `speculate` and `draft` say whose."""

    @property
    def uri(self) -> ModelUri:
        """Return its own address, by which it can draft for another."""
        ...

    async def unfit_draft(self, draft: Model) -> str | None:
        """Return why another model cannot say tokens for this one to check, or None if it can."""
        ...


@runtime_checkable
class Billed(Protocol):
    """A model whose provider counts its calls per account."""

    @property
    def account(self) -> str:
        """Return a name for what the provider counts calls by; nothing secret in it."""
        ...


class _Turn:
    """One call's turn with its provider: admitted, then settled with what it really used."""

    def __init__(self, rates: RateLimits, key: str, limit: RateLimit | None) -> None:
        self._rates = rates
        self._key = key
        self._limit = limit
        self._reserved = self._used = 0

    async def begin(self, call: ModelCall, on_wait: OnWait | None) -> None:
        said = sum(estimated_tokens(message.content) for message in call.messages)
        said += sum(estimated_tokens(tool.description + text_of(tool.parameters)) for tool in call.tools)
        if call.material is not None:
            said += sum(estimated_tokens(passage.text) for passage in call.material.passages)
        # Until it is known better, everything was used: a call cut short has been billed all the same.
        self._reserved = self._used = said + (call.max_tokens or 0)
        await self._rates.admit(self._key, self._reserved, self._limit, on_wait=on_wait)

    def answered(self, answer: LLMResponse) -> None:
        self._used = answer.usage.total_tokens

    def failed(self, error: ModelError) -> None:
        usage = getattr(error, "usage", None)
        if isinstance(usage, Usage):
            self._used = usage.total_tokens
        elif error.status_code is not None and not isinstance(error, ModelStreamError):
            self._used = 0
        if error.status_code == TOO_MANY:
            told = AFTER_TOO_MANY_S if error.retry_after_s is None else error.retry_after_s
            self._rates.pause(self._key, min(told, MAX_PAUSE_S))

    def end(self) -> None:
        self._rates.settle(self._key, self._reserved, self._used)


@asynccontextmanager
async def _closing(pieces: AsyncIterator[Piece]) -> AsyncGenerator[AsyncIterator[Piece], None]:
    """Close a stream at the end if it is a generator: its connection must not wait for the garbage collector."""
    try:
        yield pieces
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


_NUMBERS = {
    "temperature": (0.0, 2.0),
    "max_tokens": (1, 10_000_000),
    "timeout": (0.001, 86_400.0),
    "price_in": (0.0, 1e6),
    "price_out": (0.0, 1e6),
    "rpm": (0.001, 1e9),
    "tpm": (0.001, 1e12),
    "context_window": (1, 1_000_000_000),
}
"""Params that hold for models of every scheme, and their bounds."""
COMMON_PARAMS = tuple(_NUMBERS)


def _checked_params(uri: ModelUri) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, (least, most) in _NUMBERS.items():
        value = uri.params.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise ConfigError(f"{name} of {uri} is {value!r}", remedy=f"give a number from {least} to {most}")
        if isinstance(least, int) and not isinstance(value, int):
            raise ConfigError(f"{name} of {uri} is {value!r}", remedy="give a whole number")
        found[name] = value
    if ("price_in" in found) != ("price_out" in found):
        raise ConfigError(f"{uri} gives one price of two", remedy="give both price_in= and price_out=")
    return found


def _limit_of(params: Mapping[str, float]) -> RateLimit | None:
    if "rpm" not in params and "tpm" not in params:
        return None
    return RateLimit(requests_per_minute=params.get("rpm"), tokens_per_minute=params.get("tpm"))
