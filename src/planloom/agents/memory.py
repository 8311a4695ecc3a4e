"""AgentMemory: what was said so far, oldest first, and how much of it a model is told.

Rule 1: what `context` gives never passes its token budget, whatever was added and whoever summarises.
Rule 2: what no longer fits is summed up once; the summary is kept until more of it no longer fits.
Rule 3: a copy shares nothing that can change with what it was made from.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from operator import mul
from typing import Any, Literal

from planloom.context.lexical import terms
from planloom.context.vectors import Embed
from planloom.core.asking import text_of
from planloom.core.chat import ROLES, Message, ToolCall
from planloom.errors import ConfigError, suggestion
from planloom.models.llm import estimated_tokens
from planloom.models.prompts import messages_from
from planloom.plan.values import as_json

Backend = Literal["in_memory", "vector"]
BACKENDS = ("in_memory", "vector")
PER_MESSAGE = 4
"""Tokens that count for a message besides its text."""
KEPT_SHARE = 0.5
"""Of the budget, how much the newest messages keep when older ones are summed up: what is free takes the next ones."""
SUMMED_UP = "Summary of what was said before:\n"
CUT = " …"
Summarise = Callable[[list[Message]], str]
"""Messages in, what matters of them out; the first may be the summary that was made before."""


@dataclass(frozen=True, slots=True)
class _Summary:
    """What stands for the first so many messages."""

    text: str
    covers: int


class AgentMemory:
    """A conversation.

    Args:
        messages: What was said; dicts as providers take them are read.
        backend: How `search` finds: "in_memory" by words, "vector" by the likeness of embeddings.
        embed: Of "vector": texts in, a vector for each out.
        count: How many tokens a text is; None: an estimate.
    """

    def __init__(
        self,
        messages: Iterable[Message | Mapping[str, Any]] = (),
        *,
        backend: Backend = "in_memory",
        embed: Embed | None = None,
        count: Callable[[str], int] | None = None,
    ) -> None:
        if backend not in BACKENDS:
            raise ConfigError(f"memory has no backend {backend!r}", remedy=suggestion(str(backend), BACKENDS))
        if (backend == "vector") != (embed is not None):
            raise ConfigError(
                "memory of the backend 'vector' searches by embeddings, and no other does",
                remedy="give backend='vector' and embed= together: a function from texts to vectors",
            )
        self.backend: Backend = backend
        self._embed = embed
        self._count = count or estimated_tokens
        self._messages: list[Message] = []
        self._vectors: dict[str, list[float]] = {}
        """By text: each is embedded once."""
        self._summary: _Summary | None = None
        self._summing: asyncio.Future[None] | None = None
        """Done when the summary that somebody waits for is."""
        for message in messages:
            self.add_message(message)

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def messages(self) -> tuple[Message, ...]:
        """What was said, oldest first."""
        return tuple(self._messages)

    def copy(self) -> AgentMemory:
        """Return a memory of its own that holds the same."""
        twin = AgentMemory(backend=self.backend, embed=self._embed, count=self._count)
        twin._messages = [deepcopy(message) for message in self._messages]
        twin._vectors = dict(self._vectors)
        twin._summary = self._summary
        return twin

    # --- adding ---------------------------------------------------------------------------------

    def add_message(self, message: Message | Mapping[str, Any] | str, content: str | None = None) -> Message:
        """Add a message, or what somebody in a role says; return it.

        Args:
            message: A message, a dict as providers take it, or, with `content`, a role.

        Raises:
            ConfigError: It is none of these, or the role does not exist.
        """
        if isinstance(message, str):
            if content is None:
                raise ConfigError("a message is a role and what it says", remedy="add_message('user', 'text')")
            message = Message(message, content)
        elif content is not None:
            raise ConfigError("a message says what it says already", remedy="leave `content` out")
        added = _read(message)
        self._messages.append(added)
        return added

    def add_tool_result(self, result: Any, *, name: str | None = None, tool_call_id: str | None = None) -> Message:
        """Add what a tool came to; return its message.

        Args:
            result: Any JSON value; of a dict with "tool_name" that name is the tool's.

        Raises:
            OutputError: It has no JSON form.
        """
        told = as_json(result, where="tool result")
        if name is None and isinstance(told, dict) and isinstance(told.get("tool_name"), str):
            name = told["tool_name"]
        return self.add_message(Message("tool", text_of(told), tool_call_id=tool_call_id, name=name))

    def add_exchange(self, asked: Any, answered: Any) -> None:
        """Add what somebody asked and what was answered, one right after the other; values are added as JSON text."""
        self.add_message("user", text_of(as_json(asked, where="question")))
        self.add_message("assistant", text_of(as_json(answered, where="answer")))

    def clear(self) -> None:
        """Forget everything."""
        self._messages = []
        self._vectors.clear()
        self._summary = None

    # --- reading --------------------------------------------------------------------------------

    def get_hash(self) -> str:
        """Return the SHA-256 of what was said in its order, 64 hex digits; the same in every process.

        Names that a store gave to messages (`message_id`) do not count.
        """
        told = [{name: value for name, value in one.items() if name != "message_id"} for one in self._told()]
        return sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def search(self, query: str, limit: int = 5) -> list[Message]:
        """Return the messages that are most about a text, best first; of equals the newer first.

        A message that shares nothing with the text is not found.
        """
        scores = self._alike(query) if self._embed is not None else self._sharing(query)
        found = sorted((place for place, score in scores.items() if score > 0), key=lambda at: (-scores[at], -at))
        return [self._messages[place] for place in found[: max(0, limit)]]

    def context(self, max_tokens: int, summarise: Summarise | None = None) -> list[Message]:
        """Return what a model is to be told, within a budget: the newest messages, and a summary of the rest.

        Args:
            max_tokens: Most tokens of all of it, by this memory's own count.
            summarise: Sums up what does not fit; None: it is left out.
        """
        rest = self._overflow(max_tokens) if summarise is not None else None
        if rest is not None and summarise is not None:
            self._sum_up(rest, summarise(self._to_sum_up(rest)))
        return self._within(max_tokens)

    async def acontext(
        self, max_tokens: int, summarise: Callable[[list[Message]], Awaitable[str]] | None = None
    ) -> list[Message]:
        """Do as `context`, with a summary that has to be waited for, e.g. a model's.

        Of several who ask at once, one waits for the summary, and the others for that one.
        """
        if summarise is None:
            return self._within(max_tokens)
        while self._summing is not None and self._summing.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([self._summing])
        rest = self._overflow(max_tokens)
        if rest is not None:
            said, before = self._messages, self._summary
            summing = asyncio.get_running_loop().create_future()
            self._summing = summing
            try:
                text = await summarise(self._to_sum_up(rest))
            finally:
                self._summing = None
                summing.set_result(None)
            if self._messages is said and self._summary is before:  # else all was forgotten meanwhile
                self._sum_up(rest, text)
        return self._within(max_tokens)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON; `from_dict` gives an equal memory back."""
        summary = None if self._summary is None else {"text": self._summary.text, "covers": self._summary.covers}
        return {"backend": self.backend, "messages": self._told(), "summary": summary}

    @classmethod
    def from_dict(
        cls, told: Mapping[str, Any], *, embed: Embed | None = None, count: Callable[[str], int] | None = None
    ) -> AgentMemory:
        """Return the memory of `to_dict`.

        Args:
            embed: Of a memory by vectors: functions are not written down. Without it, such a memory finds by words.

        Raises:
            ConfigError: It is none.
        """
        messages = told.get("messages", ())
        if not isinstance(messages, Sequence) or isinstance(messages, str):
            raise ConfigError("this is no memory: it has no list of messages", remedy="give what `to_dict` returned")
        backend: Backend = "vector" if embed is not None else "in_memory"
        memory = cls(map(_message_of, messages), backend=backend, embed=embed, count=count)
        summary = told.get("summary")
        if isinstance(summary, Mapping):
            memory._summary = _Summary(str(summary["text"]), min(int(summary["covers"]), len(memory)))
        return memory

    # --- inside ---------------------------------------------------------------------------------

    def _told(self) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = as_json(self._messages, where="memory")
        return told

    def _tokens(self, message: Message) -> int:
        wishes = sum(self._count(f"{wish.name} {text_of(wish.arguments)}") for wish in message.tool_calls)
        return PER_MESSAGE + self._count(message.content) + wishes

    def _fitting(self, budget: float, first: int) -> int:
        """Return from which message on all of them fit into the budget; none before `first`."""
        place = len(self._messages)
        while place > first:
            budget -= self._tokens(self._messages[place - 1])
            if budget < 0:
                break
            place -= 1
        return place

    def _covered(self) -> int:
        return 0 if self._summary is None else self._summary.covers

    def _overflow(self, max_tokens: int) -> int | None:
        """Return up to which message is to be summed up anew, or None while everything fits."""
        covered = self._covered()
        spent = 0 if self._summary is None else self._tokens(self._summed_up(self._summary.text))
        if self._fitting(max_tokens - spent, covered) <= covered:
            return None
        return self._fitting(max_tokens * KEPT_SHARE, covered)

    def _to_sum_up(self, upto: int) -> list[Message]:
        before = [] if self._summary is None else [self._summed_up(self._summary.text)]
        return [*before, *self._messages[self._covered() : upto]]

    def _sum_up(self, upto: int, text: str) -> None:
        self._summary = _Summary(text, upto)

    @staticmethod
    def _summed_up(text: str) -> Message:
        return Message("system", f"{SUMMED_UP}{text}")

    def _within(self, max_tokens: int) -> list[Message]:
        """Return the newest messages that fit, after the summary cut to what is left."""
        covered = self._covered()
        summary = None if self._summary is None else self._summed_up(self._summary.text)
        if summary is not None:
            newest = self._fitting(max_tokens * KEPT_SHARE, covered)
            left = max_tokens - sum(map(self._tokens, self._messages[newest:]))
            summary = self._cut(summary, left)
            left = max_tokens - (self._tokens(summary) if summary is not None else 0)
            newest = self._fitting(left, covered)
        else:
            newest = self._fitting(max_tokens, covered)
        kept = self._messages[newest:]
        if not kept and self._messages and summary is None:
            cut = self._cut(self._messages[-1], max_tokens)
            kept = [] if cut is None else [cut]
        return kept if summary is None else [summary, *kept]

    def _cut(self, message: Message, budget: int) -> Message | None:
        """Return the message, its text cut at the end to fit into the budget; None if nothing of it fits."""
        if self._tokens(message) <= budget:
            return message
        least, most = 0, len(message.content)
        while least < most:
            middle = (least + most + 1) // 2
            if PER_MESSAGE + self._count(message.content[:middle] + CUT) <= budget:
                least = middle
            else:
                most = middle - 1
        return Message(message.role, message.content[:least] + CUT) if least else None

    def _sharing(self, query: str) -> dict[int, float]:
        """Return by place how much of the text's words a message has, rare ones counting more."""
        said = [terms(f"{one.name or ''} {one.content}") for one in self._messages]
        scores: dict[int, float] = {}
        for word, asked in terms(query).items():
            having = [place for place, words in enumerate(said) if word in words]
            idf = math.log1p(len(said) / len(having)) if having else 0.0
            for place in having:
                scores[place] = scores.get(place, 0.0) + asked * idf / math.sqrt(sum(said[place].values()))
        return scores

    def _alike(self, query: str) -> dict[int, float]:
        """Return by place the cosine of a message and the text."""
        vectors = self._embedded([query, *(one.content for one in self._messages)])
        asked = vectors[0]
        return {place: sum(map(mul, asked, vector)) for place, vector in enumerate(vectors[1:])}

    def _embedded(self, texts: list[str]) -> list[list[float]]:
        assert self._embed is not None
        missing = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        made = [[float(number) for number in vector] for vector in self._embed(missing)] if missing else []
        lengths = {len(vector) for vector in (*self._vectors.values(), *made)}
        if len(made) != len(missing) or len(lengths) != 1 or not all(map(math.isfinite, chain(*made))):
            raise ConfigError(
                "`embed` gave something else than a vector for each text, all of one length",
                remedy="give one vector of finite numbers for each text",
            )
        known = self._vectors | {text: _unit(vector) for text, vector in zip(missing, made, strict=True)}
        said = {message.content for message in self._messages}
        self._vectors = {text: vector for text, vector in known.items() if text in said}
        return [known[text] for text in texts]


def _read(message: Message | Mapping[str, Any]) -> Message:
    if not isinstance(message, Message | Mapping):
        raise ConfigError(
            f"a {type(message).__name__} is no message", remedy="give a Message, or a dict of role and content"
        )
    if isinstance(message, Message):
        if message.role not in ROLES:
            raise ConfigError(f"no message has the role {message.role!r}", remedy=f"use one of: {', '.join(ROLES)}")
        return message
    if "message_id" in message or "metadata" in message:
        return _message_of(message)
    return messages_from([message])[0]


def _message_of(told: Message | Mapping[str, Any]) -> Message:
    """Return the message of its fields as JSON."""
    if isinstance(told, Message):
        return told
    calls = told.get("tool_calls") or ()
    read = messages_from([{**told, "tool_calls": [_plain(one) for one in calls]}])[0]
    return Message(
        read.role,
        read.content,
        read.tool_calls,
        told.get("tool_call_id"),
        told.get("name"),
        dict(told.get("metadata") or {}),
        told.get("message_id"),
    )


def _plain(call: Any) -> Any:
    if isinstance(call, Mapping) and isinstance(call.get("arguments"), str) and "function" not in call:
        return ToolCall(str(call.get("id")), str(call.get("name")), call["arguments"])  # text that was no JSON stays so
    return call


def _unit(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    return [number / length for number in vector] if length else vector
