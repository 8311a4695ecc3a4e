"""A model that a test scripts, and keeps what it was asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from planloom.core.chat import LLMResponse, ModelCall
from planloom.core.prices import ModelPrice
from planloom.core.result import Usage
from planloom.models.llm import LLM
from planloom.models.uri import parse_uri
from planloom.ports import ModelMetadata

Answer = str | dict[str, Any] | BaseException
ONE_CALL = Usage(10, 5, 1)


class Answers:
    """A `ports.Model` that gives its answers in order, the last again and again; or those of a function.

    Attributes:
        calls: What it was asked.
    """

    def __init__(
        self, *answers: Answer, function: Callable[[ModelCall], Answer] | None = None, price: ModelPrice | None = None
    ) -> None:
        self._answers = answers
        self._function = function
        self.calls: list[ModelCall] = []
        self.metadata = ModelMetadata("answers", "scripted", price=price)

    async def respond(self, call: ModelCall) -> LLMResponse:
        self.calls.append(call)
        at = min(len(self.calls), len(self._answers)) - 1
        answer = self._function(call) if self._function is not None else self._answers[at]
        if isinstance(answer, BaseException):
            raise answer
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return LLMResponse(text, "scripted", "answers", ONE_CALL)

    async def stream(self, call: ModelCall) -> AsyncIterator[str | LLMResponse]:
        response = await self.respond(call)
        yield response.text
        yield response

    async def close(self) -> None:
        pass


def llm(*answers: Answer, price: ModelPrice | None = None) -> LLM:
    """Return a model that gives these answers."""
    return asked(Answers(*answers, price=price))


def asked(model: Answers) -> LLM:
    return LLM(model, parse_uri("scripted://answers"))


def scored(*scores: float, critique: str = "too short", suggestions: Iterable[str] = ("say more",)) -> dict[str, Any]:
    """Return what a judge says by the general rubric; one score stands for all four."""
    names = ("relevance", "accuracy", "completeness", "clarity")
    given = scores if len(scores) == len(names) else scores * len(names)
    return {
        "scores": dict(zip(names, given, strict=True)),
        "critique": critique,
        "suggestions": list(suggestions),
    }


def said(is_valid: bool, score: float, reason: str = "because") -> dict[str, Any]:
    """Return what a model says that only says yes or no."""
    return {"is_valid": is_valid, "score": score, "reason": reason}
