"""`transformers://`: a model in this process, by Hugging Face transformers. Imports neither torch nor transformers.

Rule 1: making one reads no weights; `ready` looks whether the files are there, the first call reads them.
Rule 2: what the model does, it does in a thread of its own, one answer after the other; the event loop goes on.
Rule 3: whoever stops waiting stops the model before its next token, and goes on only once it has stopped.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import aclosing, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from planloom.context.attention.refusals import leaks
from planloom.core.chat import LLMResponse, ModelCall
from planloom.core.result import Usage
from planloom.errors import ConfigError
from planloom.models.local.place import (
    check_installed,
    config_of,
    draft_of,
    place_of,
    speculate_of,
    window_of,
)
from planloom.models.local.terms import LocalTerms
from planloom.models.pricing import FREE
from planloom.ports import Model, ModelMetadata

if TYPE_CHECKING:
    from planloom.core.model_uri import ModelUri
    from planloom.models.local.weights import Weights

PROVIDER = "transformers"
ALWAYS = frozenset({"streaming", "logits", "prediction"})
MASKS = "attention_mask"

Answer = Callable[["Weights", ModelCall, LocalTerms], LLMResponse]


def model_of(uri: ModelUri) -> TransformersModel:
    """Return the model at this address. Reads no weights.

    Raises:
        ConfigError: The extra `transformers` is not installed, or a param is wrong.
        UnknownFieldError: A param that these models do not have.
    """
    check_installed(uri.scheme)
    return TransformersModel(uri)


class TransformersModel:
    """A model in this process; a `ports.Model`.

    Args:
        uri: ``transformers:///path/to/folder`` or ``transformers://org/name``, see `place.PARAMS`.
    """

    def __init__(self, uri: ModelUri) -> None:
        self._uri = uri
        self._place = place_of(uri)
        self._draft = draft_of(uri, self._place)
        self._speculate = speculate_of(uri)
        self._weights: Weights | None = None
        self._metadata: ModelMetadata | None = None

    def __repr__(self) -> str:
        return f"TransformersModel({str(self._uri)!r})"

    @property
    def uri(self) -> ModelUri:
        return self._uri

    @property
    def metadata(self) -> ModelMetadata:
        """What its config says; less, while its files are not here."""
        if self._metadata is None:
            try:
                config = config_of(self._place.folder)
            except ConfigError:
                return self._told(ALWAYS, None)
            masks = {MASKS} if _takes_masks(config) else set()
            self._metadata = self._told(ALWAYS | masks, window_of(config))
        return self._metadata

    def ready(self) -> None:
        """See that its files are there, those of its draft too.

        Raises:
            ConfigError: Something is missing.
        """
        check_installed(self._uri.scheme)
        self._place.check()
        if self._draft is not None:
            self._draft.check()

    def count(self, text: str) -> int:
        """Return how many tokens a text is, by itself; reads no weights.

        Raises:
            ConfigError: Its tokenizer is not here.
        """
        from planloom.models.local.prompt import count, tokenizer_of  # late: it imports transformers

        return count(tokenizer_of(self._place.fetched()), text)

    async def unfit_draft(self, draft: Model) -> str | None:
        """Return why another model cannot draft tokens for this one, or None if it can."""
        if not isinstance(draft, TransformersModel):
            return f"{draft.metadata.provider} {draft.metadata.name} does not run in this process"
        return await asyncio.to_thread(self._unlike, draft)

    async def respond(self, call: ModelCall) -> LLMResponse:
        """Return the whole answer."""
        async with aclosing(self.stream(call)) as pieces:
            async for piece in pieces:
                if isinstance(piece, LLMResponse):
                    return piece
        raise AssertionError("a stream ends with its answer or raises")

    async def stream(self, call: ModelCall) -> AsyncGenerator[str | LLMResponse, None]:
        """Yield the answer's text in pieces as it comes, then the whole answer, once, last."""
        stop, ear = threading.Event(), _Ear()
        terms = self._terms(call, stop, ear)
        weights, answer = await asyncio.to_thread(self._opened)  # importing torch takes seconds
        answered = weights.thread.submit(answer, weights, call, terms)
        answered.add_done_callback(lambda _: ear.hear(None))
        try:
            while (piece := await _next(ear, answered, terms)) is not None:
                yield piece
            yield answered.result()
        finally:
            stop.set()
            await _ended(answered, ear)

    async def close(self) -> None:
        """Free its memory; the next call reads it again."""
        weights, self._weights = self._weights, None
        if weights is not None:
            weights.let_go(self)

    # --- inside ---------------------------------------------------------------------------------

    def _told(self, capabilities: frozenset[str], window: int | None) -> ModelMetadata:
        uri = self._uri
        return ModelMetadata(uri.name, PROVIDER, uri.version, capabilities, context_window=window, price=FREE)

    def _terms(self, call: ModelCall, stop: threading.Event, ear: _Ear) -> LocalTerms:
        said = self._uri.params.get("timeout") if call.timeout_s is None else call.timeout_s
        timeout_s = None if said is None else float(said)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return LocalTerms(self._uri, self._place, self._speculate, stop.is_set, deadline, timeout_s, ear.hear)

    def _opened(self) -> tuple[Weights, Answer]:
        """Return what is asked, and what asks it."""
        check_installed(self._uri.scheme)
        from planloom.models.local.answer import answer  # late, both: they import torch
        from planloom.models.local.weights import weights_of

        if self._weights is None:
            self._weights = weights_of(self._place, self)
        return self._weights, answer

    def _unlike(self, draft: TransformersModel) -> str | None:
        from planloom.models.local.prompt import tokenizer_of, unlike_tokens  # late: it imports transformers

        try:
            return unlike_tokens(tokenizer_of(self._place.fetched()), tokenizer_of(draft._place.fetched()))
        except ConfigError:  # that is a failure of the call, or of the draft in it
            return None


class _Ear:
    """Carries what the model's thread says to the event loop that asked."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[str | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def hear(self, piece: str | None) -> None:
        """Take a piece of the answer, or None once there is no more; from any thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self.said.put_nowait, piece)


async def _next(ear: _Ear, answered: Future[LLMResponse], terms: LocalTerms) -> str | None:
    """Return the next piece, or None once the answer is whole.

    Raises:
        ModelTimeoutError: Its turn did not come in time; once it has come, the thread keeps the time itself.
    """
    try:
        async with asyncio.timeout(terms.left_s):
            return await ear.said.get()
    except TimeoutError:
        if answered.cancel():
            raise terms.late(Usage()) from None
    return await ear.said.get()


async def _ended(answered: Future[LLMResponse], ear: _Ear) -> None:
    """Wait until the thread has stopped, whoever cancels the waiting; cancelled all the same in the end."""
    answered.cancel()
    cancelled: asyncio.CancelledError | None = None
    while not answered.done():
        try:
            await ear.said.get()
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _takes_masks(config: dict[str, Any]) -> bool:
    """Return whether attention can be masked, as far as config.json says; the model itself is asked when it runs."""
    return "text_config" not in config and leaks(SimpleNamespace(**config)) is None
