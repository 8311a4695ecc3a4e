"""What a test has the provider answer, and what the provider was asked: the same words for every protocol.

Rule 1: tokens are counted as `core.result.Usage` counts them, the cached part included; each protocol tells them its
own way.
Rule 2: a record of a request never holds a key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from planloom.core.chat import Message, ToolCall, ToolSpec
from planloom.core.result import Usage

Finish = Literal["stop", "length", "refusal", "filter"]
"""Why an answer ends: it is whole, `max_tokens` cut it off, the model would not, the provider's filter would not."""

_SOME_WORDS = "one two three four five six seven eight"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRequest:
    """One request as it came in, and what it says whatever its protocol.

    Attributes:
        number: 1 for the first that the server got.
        protocol: "openai-chat", "openai-responses", "anthropic", "google"; "" for an address nobody serves.
        path: Without the query.
        body: The JSON that was sent; {} where it was none.
        headers: In lower case; what holds a key says only that it does.
        at: Seconds since the epoch.
        problem: Why the provider refused it; None where it was sound.
        messages: Oldest first, instructions as system messages.
        tool_choice: "auto", "none", "required", or the one tool that must be called.
        output_schema: JSON Schema the answer is to fit, asked for natively.
        json_mode: The answer must be JSON of whatever form.
    """

    number: int = 0
    protocol: str = ""
    path: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    at: float = 0.0
    problem: str | None = None
    model: str = ""
    stream: bool = False
    messages: tuple[Message, ...] = ()
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str = "auto"
    output_schema: dict[str, Any] | None = None
    json_mode: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    prediction: str | None = None

    @property
    def system(self) -> str:
        """Return the instructions, one a line."""
        return "\n".join(message.content for message in self.messages if message.role == "system")

    @property
    def prompt(self) -> str:
        """Return what the user said last."""
        return next((message.content for message in reversed(self.messages) if message.role == "user"), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer of a model.

    Attributes:
        text: What it says; with `finish="refusal"`, why it would not.
        tool_calls: What it wants called; arguments that are text are sent as they are, JSON or not.
        usage: Tokens; None: a token a word.
        thinking_tokens: How many of the output tokens went on thought.
        accepted_prediction_tokens, rejected_prediction_tokens: Of the output tokens; None: nothing is said of it.
        pause_s: Seconds before each piece of it, where it is streamed.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish: Finish = "stop"
    usage: Usage | None = None
    thinking_tokens: int = 0
    accepted_prediction_tokens: int | None = None
    rejected_prediction_tokens: int | None = None
    pause_s: float = 0.0

    def usage_for(self, request: RecordedRequest) -> Usage:
        """Return the tokens the answer is billed with."""
        if self.usage is not None:
            return self.usage
        said = [message.content for message in request.messages]
        answered = [self.text, *(arguments_text(call) for call in self.tool_calls)]
        return Usage(words(*said), words(*answered), 1)


@dataclass(frozen=True, slots=True)
class Status:
    """An error in the provider's own form, e.g. ``Status(429, retry_after=7)``.

    Attributes:
        retry_after: Seconds, or a date as HTTP writes it; None: the header is left out.
    """

    code: int
    message: str = "the server was told to answer so"
    retry_after: float | str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Garbage:
    """A web page where JSON should be, as a proxy sends one."""

    code: int = 200


@dataclass(frozen=True, slots=True)
class Truncated:
    """A stream that ends after so many pieces; an answer that is not streamed ends in the middle.

    Attributes:
        after: Pieces of the answer that still come through.
        clean: The connection is ended in good order, and only the answer's own end is missing.
    """

    after: int = 2
    reply: Answer = _SOME_WORDS
    clean: bool = False


@dataclass(frozen=True, slots=True)
class Failing:
    """A stream that tells of an error after so many pieces; an answer that is not streamed is that error alone."""

    after: int = 2
    reply: Answer = _SOME_WORDS
    message: str = "Overloaded"


@dataclass(frozen=True, slots=True)
class Slow:
    """An answer that takes its time. Prefer `ProviderServer.hold`, which needs no time."""

    seconds: float
    then: Answer = _SOME_WORDS


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer until the client goes away; with `after`, a stream that stops after so many pieces."""

    after: int | None = None
    reply: Answer = _SOME_WORDS


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection is closed without an answer."""


Answer = str | dict[str, Any] | list[Any] | Reply | Status | Garbage | Truncated | Failing | Slow | Hang | Drop
"""Text, a JSON value, a whole answer, or one of the ways to get none."""


def reply_of(answer: Answer) -> Reply:
    """Return what a model says: text and JSON values are replies in short."""
    if isinstance(answer, Reply):
        return answer
    if isinstance(answer, str):
        return Reply(text=answer)
    if isinstance(answer, dict | list):
        return Reply(text=json.dumps(answer, ensure_ascii=False))
    raise TypeError(f"{type(answer).__name__} is nothing that a model says")


def arguments_text(call: ToolCall) -> str:
    """Return a call's arguments as text."""
    return call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments, ensure_ascii=False)


def words(*texts: str) -> int:
    return sum(len(text.split()) for text in texts)
