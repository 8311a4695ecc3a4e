"""One model on one event loop: its connection, and the asking. Imports pydantic-ai, so `hosted.py` imports it late.

Rule 1: every client is made here, with an address, a key and a time limit of our own: what client libraries read from
the environment goes to their provider's own host at most, and none of them tries again by itself.
Rule 2: a connection belongs to one event loop and is closed with it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import httpx2
from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.models import Model, StreamedResponse, create_async_httpx2_client
from pydantic_ai.profiles.openai import OpenAIModelProfile

from planloom.core.chat import LLMResponse, ModelCall
from planloom.errors import ModelError, ModelStreamError
from planloom.models.failures import CAUGHT, failure_of
from planloom.models.terms import Terms
from planloom.models.translate import Translated, answer_of, in_their_words, is_predicted, piece_of, usage_of
from planloom.models.warned import hearing, listen

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from pydantic_ai.providers import Provider

CONNECT_S = 10.0
"""Seconds to wait for a connection."""

# A stream that just ends is not a whole answer, whatever the server; every one of them says why it ends.
_WHOLE = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True)
# OpenAI takes a prediction with the old name of this field, and refuses the new one.
_PREDICTED = OpenAIModelProfile(
    openai_chat_streaming_requires_finish_reason=True, openai_chat_supports_max_completion_tokens=False
)
_NO_SCHEMA = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True, supports_json_schema_output=False)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is asked.

    Attributes:
        scheme: Of its address.
        name: As the provider calls it.
        is_own: It is the provider's own host, not another that speaks like it.
        takes_prediction: Text that its answer is likely to be makes it faster.
    """

    scheme: str
    name: str
    base_url: str
    is_own: bool
    takes_prediction: bool
    key: str = field(repr=False)
    timeout_s: float


class _Opened:
    """The responses that one streamed call opened. Not every client library closes those that it does not read on."""

    def __init__(self) -> None:
        self._responses: list[httpx2.Response] = []
        _opened.set(self._responses)

    def is_complete(self) -> None:
        """What is opened from here on is not of this call."""
        _opened.set(None)

    async def close(self) -> None:
        self.is_complete()
        for response in self._responses:
            await response.aclose()


_opened: ContextVar[list[httpx2.Response] | None] = ContextVar("opened responses", default=None)


async def _note_opened(response: httpx2.Response) -> None:
    responses = _opened.get()
    if responses is not None:
        responses.append(response)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A model as pydantic-ai asks it.

    Attributes:
        chat: The same model by chat completions, which take texts to stop at.
        predicted: The same model by chat completions, if it takes a prediction of its answer.
    """

    model: Model
    chat: Model
    predicted: Model | None = None

    async def respond(self, call: ModelCall, terms: Terms) -> LLMResponse:
        """Return the whole answer. Raises what `failures.failure_of` and `translate.answer_of` say."""
        model, asked = self._asked(call, terms)
        heard: list[str] = []
        try:
            with hearing(heard):
                response = await model_request(
                    model, asked.messages, model_settings=asked.settings, model_request_parameters=asked.parameters
                )
        except CAUGHT as error:
            failure = failure_of(error, terms)
        else:
            return _noted(answer_of(response, call, terms, streamed=False), asked, heard, terms)
        raise failure  # out here, so that it has no context: what was caught may show the key

    async def stream(self, call: ModelCall, terms: Terms) -> AsyncGenerator[str | LLMResponse, None]:
        """Yield the answer's text in pieces as it comes, then the whole answer, once, last."""
        model, asked = self._asked(call, terms)
        pieces: list[str] = []
        streamed: StreamedResponse | None = None
        failure: ModelError | None = None
        opened = _Opened()
        heard: list[str] = []
        try:
            async with AsyncExitStack() as stack:
                streaming = model_request_stream(
                    model, asked.messages, model_settings=asked.settings, model_request_parameters=asked.parameters
                )
                with hearing(heard):
                    streamed = await stack.enter_async_context(streaming)
                    events = aiter(streamed)
                opened.is_complete()
                while True:
                    with hearing(heard):
                        event = await anext(events, None)
                    if event is None:
                        break
                    if piece := piece_of(event):
                        pieces.append(piece)
                        yield piece
        except CAUGHT as error:
            failure = failure_of(error, terms, text_so_far="".join(pieces) if pieces else None)
        finally:
            await opened.close()
        if isinstance(failure, ModelStreamError) and streamed is not None:
            failure.usage = usage_of(streamed.get(), call, failure.text_so_far)
        if failure is not None:
            raise failure
        assert streamed is not None
        yield _noted(answer_of(streamed.get(), call, terms, streamed=True), asked, heard, terms)

    def _asked(self, call: ModelCall, terms: Terms) -> tuple[Model, Translated]:
        model = self.chat if call.stop else self.model
        if self.predicted is not None and is_predicted(call):
            model = self.predicted
        elif call.prediction is not None:
            call = replace(call, prediction=None)
        return model, in_their_words(call, model, terms)


def _noted(answer: LLMResponse, asked: Translated, heard: list[str], terms: Terms) -> LLMResponse:
    """Return the answer with what its model did not take, and what its client library warned of."""
    noted: dict[str, list[str]] = {}
    if asked.ignored:
        noted["ignored"] = list(asked.ignored)
    if heard:
        noted["warnings"] = [terms.shown(text) for text in heard]
    return replace(answer, metadata=answer.metadata | noted) if noted else answer


async def exchange(endpoint: Endpoint, forget: Callable[[], object]) -> AsyncGenerator[Exchange, None]:
    """Yield an exchange, once, and close its connections when the generator is closed or its event loop shuts down.

    It is a generator for the loop's sake: `asyncio.run` closes those that are under way before it closes the loop, so
    sockets are closed in the loop that opened them even if nobody thought of it.
    """
    timeout = httpx2.Timeout(endpoint.timeout_s, connect=min(CONNECT_S, endpoint.timeout_s))
    client = create_async_httpx2_client(timeout=timeout)
    client.event_hooks = {**client.event_hooks, "response": [_note_opened]}
    try:
        asked = _OPEN[endpoint.scheme](endpoint, client)
        listen()
        yield asked
    finally:
        forget()
        await client.aclose()


def _openai_client(endpoint: Endpoint, client: httpx2.AsyncClient) -> AsyncOpenAI:
    from openai import AsyncOpenAI  # an optional extra

    sdk = AsyncOpenAI(
        base_url=endpoint.base_url, api_key=endpoint.key, max_retries=0, timeout=client.timeout, http_client=client
    )
    if not endpoint.is_own:
        sdk.organization = sdk.project = None
        sdk._custom_headers = {}  # from OPENAI_CUSTOM_HEADERS: they may hold a key, and this is another's host
    return sdk


def _openai(endpoint: Endpoint, client: httpx2.AsyncClient) -> Exchange:
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel, OpenAIResponsesModelSettings
    from pydantic_ai.providers.openai import OpenAIProvider
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    sdk = _openai_client(endpoint, client)
    provider: Provider[AsyncOpenAI] = OpenAIProvider(openai_client=sdk)
    if not endpoint.is_own:
        provider = OpenAICompatibleProvider(endpoint.scheme, openai_client=sdk)
    chat = OpenAIChatModel(endpoint.name, provider=provider, profile=_WHOLE)
    predicted = None
    if endpoint.takes_prediction:
        predicted = OpenAIChatModel(endpoint.name, provider=provider, profile=_PREDICTED)
    if not endpoint.is_own:
        return Exchange(chat, chat, predicted)
    # Like chat completions, and unlike what responses do by themselves: nothing of a call is kept over there.
    settings = OpenAIResponsesModelSettings(openai_store=False)
    responses = OpenAIResponsesModel(endpoint.name, provider=provider, settings=settings)
    return Exchange(responses, chat, predicted)


def _ollama(endpoint: Endpoint, client: httpx2.AsyncClient) -> Exchange:
    from pydantic_ai.models.ollama import OllamaModel
    from pydantic_ai.providers.ollama import OllamaProvider

    # Ollama's cloud takes a schema and does not keep to it, so there it is said in words.
    is_cloud = endpoint.name.endswith("-cloud") or (httpx2.URL(endpoint.base_url).host or "").endswith("ollama.com")
    provider = OllamaProvider(openai_client=_openai_client(endpoint, client))
    model = OllamaModel(endpoint.name, provider=provider, profile=_NO_SCHEMA if is_cloud else _WHOLE)
    return Exchange(model, model)


def _vllm(endpoint: Endpoint, client: httpx2.AsyncClient) -> Exchange:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.vllm import VLLMProvider

    provider = VLLMProvider(openai_client=_openai_client(endpoint, client))
    model = OpenAIChatModel(endpoint.name, provider=provider, profile=_WHOLE)
    return Exchange(model, model)


def _anthropic(endpoint: Endpoint, client: httpx2.AsyncClient) -> Exchange:
    from anthropic import AsyncAnthropic  # an optional extra
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    sdk = AsyncAnthropic(
        base_url=endpoint.base_url, api_key=endpoint.key, max_retries=0, timeout=client.timeout, http_client=client
    )
    if not endpoint.is_own:
        sdk._custom_headers = {}  # see _openai_client
    _ = sdk.messages, sdk.beta.messages  # loads them, so that they are heard
    model = AnthropicModel(endpoint.name, provider=AnthropicProvider(anthropic_client=sdk))
    return Exchange(model, model)


def _google(endpoint: Endpoint, client: httpx2.AsyncClient) -> Exchange:
    from pydantic_ai.models.google import GoogleModel
    from pydantic_ai.providers.google import GoogleProvider

    provider = GoogleProvider(api_key=endpoint.key, base_url=endpoint.base_url, http_client=client)
    model = GoogleModel(endpoint.name, provider=provider)
    return Exchange(model, model)


_OPEN: dict[str, Callable[[Endpoint, httpx2.AsyncClient], Exchange]] = {
    "openai": _openai,
    "ollama": _ollama,
    "vllm": _vllm,
    "anthropic": _anthropic,
    "google": _google,
}
