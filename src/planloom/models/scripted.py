"""Models that answer what somebody wrote down, or what a function says: for tests, docs and examples. No network.

Rule 1: an answer is used once and in order; running out is an error and never an empty answer.
Rule 2: the answer of a call is settled when the call comes in: calls under way at the same time keep their order.
Rule 3: addresses: `scripted://echo` repeats the user's last message, `scripted://NAME` is what was registered under
that name, `scripted:///path/to/answers.json` reads a list of answers.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from planloom.core.asking import text_of
from planloom.core.chat import LLMResponse, ModelCall, ToolCall
from planloom.core.model_uri import LATEST
from planloom.core.result import Usage
from planloom.errors import ConfigError, ModelError, UnknownFieldError, UnknownModelError, suggestion
from planloom.models.llm import COMMON_PARAMS, estimated_tokens
from planloom.models.pricing import FREE
from planloom.ports import ModelMetadata

if TYPE_CHECKING:
    from planloom.core.model_uri import ModelUri
    from planloom.core.prices import ModelPrice
    from planloom.ports import Clock, Model

PIECE_CHARACTERS = 8
"""Length of a streamed piece."""
PROVIDER = "scripted"
ECHO = "echo"
CAPABILITIES = frozenset({"tools", "json_schema", "json", "streaming", "prediction"})

Answer = str | LLMResponse | ToolCall | Sequence[ToolCall] | BaseException | Any
"""Text; an exception, which is raised; calls of tools; a whole response, given as it is; anything else is answered as
JSON."""
Before = Callable[[ModelCall], Awaitable[object]]
"""Awaited before a call is answered: what it waits for is the model's latency."""


class FunctionModel:
    """A model that answers what a function says.

    Args:
        function: Takes the call, returns the answer; may be async; may raise.
        name: What the model is called.
        usage: What every call uses; None: an estimate by the length of what was said and answered.
        price: List price; nothing, unless a test is about money.
        latency_s: Seconds until it answers, by `clock`, or in real time if there is none.
        before: See `Before`.

    Attributes:
        calls: Every call so far, in the order they came in.
    """

    def __init__(
        self,
        function: Callable[[ModelCall], Answer | Awaitable[Answer]],
        *,
        name: str = "function",
        usage: Usage | None = None,
        price: ModelPrice | None = FREE,
        latency_s: float = 0.0,
        clock: Clock | None = None,
        before: Before | None = None,
    ) -> None:
        self.calls: list[ModelCall] = []
        self._function = function
        self._usage = usage
        self._latency_s = latency_s
        self._clock = clock
        self._before = before
        self._metadata = ModelMetadata(name, PROVIDER, capabilities=CAPABILITIES, price=price)

    @property
    def metadata(self) -> ModelMetadata:
        return self._metadata

    async def respond(self, call: ModelCall) -> LLMResponse:
        self.calls.append(call)
        if inspect.iscoroutinefunction(self._function):
            await self._let_wait(call)
            return self._response(await self._function(call), call)
        answer = self._function(call)
        await self._let_wait(call)
        return self._response(answer, call)

    async def stream(self, call: ModelCall) -> AsyncIterator[str | LLMResponse]:
        response = await self.respond(call)
        for start in range(0, len(response.text), PIECE_CHARACTERS):
            await asyncio.sleep(0)  # as a provider's pieces do, each comes by itself
            yield response.text[start : start + PIECE_CHARACTERS]
        yield response

    async def close(self) -> None:
        """There is nothing to let go of."""

    async def _let_wait(self, call: ModelCall) -> None:
        if self._before is not None:
            await self._before(call)
        if self._latency_s:
            await _pass(self._latency_s, self._clock)

    def _response(self, answer: Any, call: ModelCall) -> LLMResponse:
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, LLMResponse):
            return answer
        text, tool_calls = "", _tool_calls(answer)
        if not tool_calls:
            text = text_of(answer)
        said = sum(estimated_tokens(message.content) for message in call.messages)
        answered = estimated_tokens(text) + sum(estimated_tokens(text_of(one.arguments)) for one in tool_calls)
        usage = self._usage or Usage(max(1, said), max(1, answered), requests=1)
        finished = {"finish_reason": "tool_calls" if tool_calls else "stop"}
        return LLMResponse(text, PROVIDER, self._metadata.name, usage, finished, tool_calls)


class ScriptedModel:
    """A model that answers from a list, in order.

    Args:
        answers: See `Answer`.
        repeat_last: Give the last answer again and again, instead of failing when there are no more.
        name, options: As for `FunctionModel`.

    Attributes:
        calls: Every call so far, in the order they came in.
    """

    def __init__(
        self, answers: Iterable[Answer], *, name: str = "scripted", repeat_last: bool = False, **options: Any
    ) -> None:
        self._answers = [answers] if isinstance(answers, str) else list(answers)
        self._repeat_last = repeat_last
        self._given = 0
        self._lock = threading.Lock()  # engines of several threads may share a registered model
        self._model = FunctionModel(self._next, name=name, **options)
        self.calls = self._model.calls

    @property
    def metadata(self) -> ModelMetadata:
        return self._model.metadata

    @property
    def left(self) -> int:
        """Return how many answers were not given yet."""
        return max(0, len(self._answers) - self._given)

    async def respond(self, call: ModelCall) -> LLMResponse:
        return await self._model.respond(call)

    def stream(self, call: ModelCall) -> AsyncIterator[str | LLMResponse]:
        return self._model.stream(call)

    async def close(self) -> None:
        await self._model.close()

    def _next(self, call: ModelCall) -> Answer:
        count = len(self._answers)
        with self._lock:
            if self._given >= count and not (self._repeat_last and count):
                raise ConfigError(
                    f"the scripted model {self.metadata.name!r} was given {count} answer{'s' * (count != 1)} and is "
                    f"asked for one more: {echo(call)[:200]!r}",
                    remedy="give it an answer for every call, or repeat_last=True",
                )
            answer = self._answers[min(self._given, count - 1)]
            self._given += 1
        return answer


def echo(call: ModelCall) -> str:
    """Return the user's last message: what the model at `scripted://echo` answers."""
    said = [message.content for message in call.messages if message.role == "user"]
    return said[-1] if said else ""


# --- addresses --------------------------------------------------------------------------------

_registered: dict[str, Model] = {}


def register(
    name: str, answers: Model | Callable[[ModelCall], Any] | Iterable[Answer], *, repeat_last: bool = False
) -> Model:
    """Have `scripted://NAME` mean these answers, in this process, until `unregister`; return their model.

    Args:
        answers: A list of answers, a function of the call, or a model of any kind. Whoever asks at that address takes
            from the same list.
    """
    if name == ECHO or name.endswith(".json") or "/" in name:
        raise ConfigError(f"no answers can be registered as {name!r}", remedy="use a plain name")
    model: Model
    if hasattr(answers, "respond"):
        model = cast("Model", answers)
    elif callable(answers):
        model = FunctionModel(answers, name=name)
    else:
        model = ScriptedModel(answers, name=name, repeat_last=repeat_last)
    _registered[name] = model
    return model


def unregister(name: str) -> None:
    """Forget the answers of a name; nothing happens if there are none."""
    _registered.pop(name, None)


def model_of(uri: ModelUri) -> Model:
    """Return the model at a `scripted://` address.

    Raises:
        UnknownModelError: Nothing was registered under that name.
        UnknownFieldError: A param that does not exist.
        ConfigError: The file cannot be read.
    """
    unknown = sorted(uri.params.keys() - {*COMMON_PARAMS, "repeat_last"})
    if unknown:
        raise UnknownFieldError(
            f"scripted:// addresses have no param {unknown[0]!r}",
            remedy=suggestion(unknown[0], (*COMMON_PARAMS, "repeat_last")),
        )
    if uri.name == ECHO:
        return FunctionModel(echo, name=ECHO)
    path = file_of(uri)
    if path.suffix == ".json":
        return ScriptedModel(_read(path), name=path.name, repeat_last=uri.params.get("repeat_last") is True)
    if uri.name not in _registered:
        raise UnknownModelError(
            f"there is no scripted model {uri.name!r}",
            remedy=suggestion(uri.name, {*_registered, ECHO})
            + "; register answers with planloom.testing.models.register, or name a file that ends in .json",
        )
    return _registered[uri.name]


def file_of(uri: ModelUri) -> Path:
    """Return the file that an address names, relative to the folder the process runs in unless it begins with `/`."""
    if not uri.version:
        return Path(uri.name)
    return Path(uri.name) / uri.version if uri.version == LATEST else Path(f"{uri.name}@{uri.version}")


def _read(path: Path) -> list[Answer]:
    """Return the answers of a file: a list of texts, of values that are answered as JSON, and of the two forms
    ``{"$tool_calls": [{"name": …, "arguments": {…}}]}`` and ``{"$error": "what went wrong"}``.
    """
    remedy = 'write a JSON list of answers, e.g. ["yes", {"score": 1}]'
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the answers in {path} cannot be read: {error.strerror}", remedy=remedy) from error
    except (ValueError, RecursionError):  # its text stays out of the message: it may be any file at all
        raise ConfigError(f"{path} is no JSON", remedy=remedy) from None
    if not isinstance(told, list) or not told:
        raise ConfigError(f"{path} holds no list of answers", remedy=remedy)
    return [_told(answer, path) for answer in told]


def _told(answer: Any, path: Path) -> Answer:
    if not isinstance(answer, dict) or answer.keys() not in ({"$tool_calls"}, {"$error"}):
        return answer
    if "$error" in answer:
        return ModelError(text_of(answer["$error"]))
    wishes = answer["$tool_calls"]
    if not isinstance(wishes, list) or not wishes or not all(map(_is_wish, wishes)):
        raise ConfigError(f"{path}: $tool_calls is no list of calls", remedy='write {"name": …, "arguments": {…}}')
    return tuple(
        ToolCall(str(wish.get("id", f"call-{at}")), wish["name"], wish.get("arguments", {}))
        for at, wish in enumerate(wishes, start=1)
    )


def _is_wish(wish: Any) -> bool:
    return (
        isinstance(wish, dict)
        and isinstance(wish.get("name"), str)
        and isinstance(wish.get("arguments", {}), dict | str)
    )


# --- small parts ------------------------------------------------------------------------------


def _tool_calls(answer: Any) -> tuple[ToolCall, ...]:
    if isinstance(answer, ToolCall):
        return (answer,)
    if isinstance(answer, list | tuple) and answer and all(isinstance(one, ToolCall) for one in answer):
        return tuple(answer)
    return ()


async def _pass(seconds: float, clock: Clock | None) -> None:
    """Let time pass on a clock."""
    if clock is None:
        await asyncio.sleep(seconds)
        return
    passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not passed.done():
            passed.set_result(None)

    stop = clock.call_at(clock.now() + seconds, wake)
    try:
        await passed
    finally:
        stop()
