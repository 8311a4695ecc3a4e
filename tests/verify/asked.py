"""Models that judge as a test tells them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from planloom.core.result import Usage
from planloom.models.llm import LLM
from planloom.models.scripted import ScriptedModel
from planloom.models.uri import parse_uri

if TYPE_CHECKING:
    from planloom.core.chat import ModelCall
    from planloom.ports import Model

ONE_CALL = Usage(10, 5, 1)


def scripted(*answers: Any, **options: Any) -> ScriptedModel:
    """Return a model that gives these answers in order, the last again and again; each takes ONE_CALL."""
    return ScriptedModel(answers, repeat_last=True, **({"usage": ONE_CALL, "price": None} | options))


def asked(model: Model) -> LLM:
    return LLM(model, parse_uri("scripted://answers"))


def llm(*answers: Any, **options: Any) -> LLM:
    return asked(scripted(*answers, **options))


async def never(call: ModelCall) -> None:
    """Wait until cancelled: the latency of a model that is stuck."""
    await asyncio.Event().wait()


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
