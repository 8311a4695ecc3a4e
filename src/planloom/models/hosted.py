"""Models behind an HTTP interface: OpenAI, Anthropic, Google, Ollama, vLLM, and whatever speaks like OpenAI.

Rule 1: making one imports no client library, opens nothing and needs no key; `ready` looks for the key, the first
call does the rest.
Rule 2: a call is one request: no retries here and none in the client libraries.
Rule 3: a provider's own key goes to that provider's own host only. With `base_url` a key is sent if `key_env` names
one, else a placeholder.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from planloom import masking
from planloom.core.chat import LLMResponse, ModelCall
from planloom.errors import ConfigError, MissingKeyError, UnknownFieldError, suggestion
from planloom.models import guard
from planloom.models.llm import COMMON_PARAMS
from planloom.models.pricing import context_window_of, price_of
from planloom.models.terms import LEAST_KEY, Terms
from planloom.ports import ModelMetadata

if TYPE_CHECKING:
    from planloom.core.model_uri import ModelUri
    from planloom.models.exchange import Exchange

TIMEOUT_S = 300.0
"""Seconds to wait for an answer where neither the call nor the address says."""
PLACEHOLDER = "no-key"
"""Sent where a server of one's own asks for no key: client libraries insist on one."""
_PREDICTABLE = re.compile(r"gpt-4o|gpt-4\.1")
"""Models of OpenAI that take a prediction of their answer; the others refuse a call that brings one."""
PARAMS = (*COMMON_PARAMS, "base_url", "key_env")


@dataclass(frozen=True, slots=True)
class Host:
    """One scheme's provider.

    Attributes:
        extra: Of planloom, that brings its client library.
        package: The client library.
        adapter: The module of pydantic-ai that uses it.
        key_envs: Where its key is looked for, in this order; () if it needs none.
        family: Whose options it takes, see `translate.OPTIONS`.
        version_sign: Between a model's name and its version.
    """

    extra: str
    package: str
    adapter: str
    base_url: str
    key_envs: tuple[str, ...]
    family: str
    version_sign: str = "-"


def _like_openai(base_url: str, key_envs: tuple[str, ...] = (), version_sign: str = "-") -> Host:
    return Host("openai", "openai", "pydantic_ai.models.openai", base_url, key_envs, "openai", version_sign)


HOSTS = {
    "openai": _like_openai("https://api.openai.com/v1", ("OPENAI_API_KEY",)),
    "anthropic": Host(
        "anthropic",
        "anthropic",
        "pydantic_ai.models.anthropic",
        "https://api.anthropic.com",
        ("ANTHROPIC_API_KEY",),
        "anthropic",
    ),
    "google": Host(
        "google",
        "google.genai",
        "pydantic_ai.models.google",
        "https://generativelanguage.googleapis.com",
        ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
        "google",
    ),
    "ollama": _like_openai("http://localhost:11434/v1", version_sign=":"),
    "vllm": _like_openai("http://localhost:8000/v1"),
}


def model_of(uri: ModelUri) -> HostedModel:
    """Return the model at this address.

    Raises:
        UnknownFieldError: A param that hosted models do not have.
        ConfigError: The extra of planloom that it needs is not installed.
    """
    for name in uri.params:
        if name not in PARAMS:
            raise UnknownFieldError(
                f"{uri.scheme}:// models have no param {name!r}; there are {', '.join(PARAMS)}",
                remedy=suggestion(name, PARAMS),
            )
    return HostedModel(uri)


class HostedModel:
    """A model of one provider.

    Args:
        key: Sent in place of what the environment says, and kept out of everything that goes on record.
    """

    def __init__(self, uri: ModelUri, *, key: str | None = None) -> None:
        self._uri = uri
        self._given_key = key
        self._host = HOSTS[uri.scheme]
        self._base_url = str(uri.params.get("base_url") or self._host.base_url)
        self._is_own = "base_url" not in uri.params
        self._timeout_s = float(uri.params.get("timeout", TIMEOUT_S))
        self._open: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[AsyncGenerator[Exchange, None], Exchange]] = (
            WeakKeyDictionary()
        )

    @cached_property
    def metadata(self) -> ModelMetadata:
        base_url = None if self._is_own else self._base_url
        return replace(
            self.unpriced,
            context_window=context_window_of(self._uri.scheme, self._name, base_url=base_url),
            price=price_of(self._uri.scheme, self._name, base_url=base_url),
        )

    @property
    def unpriced(self) -> ModelMetadata:
        """Return the metadata without what the price list says: reading that takes a fifth of a second."""
        return ModelMetadata(
            name=self._name,
            provider=self._uri.scheme,
            version=self._uri.version,
            capabilities=self._capabilities(),
        )

    @property
    def account(self) -> str:
        """Return what the provider counts calls by: server, model and key, the key as its SHA-256."""
        key, _ = self._key()
        owner = hashlib.sha256(key.encode()).hexdigest() if key else "nobody"
        return f"{self._uri.scheme} {self._base_url} {self._name} {owner}"

    def ready(self) -> None:
        """See that it can be asked.

        Raises:
            MissingKeyError: There is no key for its provider.
            ConfigError: The extra that it needs is not installed.
        """
        self._check_installed()
        self._checked_key()

    async def respond(self, call: ModelCall) -> LLMResponse:
        """Return the whole answer."""
        terms = self._terms(call)
        exchange = await self._exchange(terms.key)
        return await exchange.respond(call, terms)

    async def stream(self, call: ModelCall) -> AsyncGenerator[str | LLMResponse, None]:
        """Yield the answer's text in pieces as it comes, then the whole answer, once, last."""
        terms = self._terms(call)
        exchange = await self._exchange(terms.key)
        async with aclosing(exchange.stream(call, terms)) as pieces:
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        """Close the connection of the running event loop; those of others are closed with them."""
        opened = self._open.pop(asyncio.get_running_loop(), None)
        if opened is not None:
            await opened[0].aclose()

    # --- inside ---------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        """Return the model's name as its provider calls it, version and all."""
        uri = self._uri
        is_named = uri.version and (uri.version != "latest" or uri.scheme == "ollama")
        return f"{uri.name}{self._host.version_sign}{uri.version}" if is_named else uri.name

    def _capabilities(self) -> frozenset[str]:
        always = {"tools", "json_schema", "json", "streaming"}
        return frozenset(always | {"prediction"} if self._takes_prediction else always)

    @property
    def _takes_prediction(self) -> bool:
        return self._uri.scheme == "openai" and _PREDICTABLE.match(self._uri.name) is not None

    def _key(self) -> tuple[str, str]:
        """Return the key, "" if there is none, and the variable it came from or should have come from."""
        if self._given_key:
            return self._given_key, ""
        named = self._uri.params.get("key_env")
        names = (str(named),) if named is not None else self._host.key_envs if self._is_own else ()
        found = next((name for name in names if os.environ.get(name, "").strip()), names[0] if names else "")
        return os.environ.get(found, "").strip(), found

    def _checked_key(self) -> tuple[str, str]:
        """Return the key that is to be sent, and the variable it came from."""
        key, key_env = self._key()
        if not key and key_env:
            raise MissingKeyError(
                f"there is no key for {self._uri}: the environment variable {key_env} is not set",
                remedy=f"set {key_env}, or name another variable in the address: key_env=NAME",
                key_env=key_env,
            )
        if len(key) >= LEAST_KEY:
            masking.declare({key_env or f"the key of {self._uri}": key})
        return key or PLACEHOLDER, key_env

    def _check_installed(self) -> None:
        try:
            is_here = find_spec(self._host.package) is not None
        except ModuleNotFoundError:  # the package around it is not there
            is_here = False
        if not is_here:
            raise ConfigError(
                f"{self._uri.scheme}:// models need the package {self._host.package}, which is not installed",
                remedy=f"pip install 'planloom[{self._host.extra}]'",
            )

    def _terms(self, call: ModelCall) -> Terms:
        key, key_env = self._checked_key()
        timeout_s = self._timeout_s if call.timeout_s is None else call.timeout_s
        return Terms(str(self._uri), self._uri.scheme, self._host.family, key, key_env, timeout_s)

    async def _exchange(self, key: str) -> Exchange:
        """Return what asks the model on the running event loop."""
        guard.check(self._base_url)
        if self._host.adapter not in sys.modules:
            self._check_installed()
            await asyncio.to_thread(import_module, self._host.adapter)  # a second's work: nothing else should wait
        from planloom.models.exchange import Endpoint, exchange  # late: it imports pydantic-ai, 50 MB

        loop = asyncio.get_running_loop()
        opened = self._open.get(loop)
        if opened is None:
            endpoint = Endpoint(
                scheme=self._uri.scheme,
                name=self._name,
                base_url=self._base_url,
                is_own=self._is_own,
                takes_prediction=self._takes_prediction,
                key=key,
                timeout_s=self._timeout_s,
            )
            generator = exchange(endpoint, lambda: self._open.pop(loop, None))
            opened = self._open[loop] = generator, await anext(generator)  # which does not wait for anything
        return opened[1]
