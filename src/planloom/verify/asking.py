"""How a model is asked for a verdict: once, coldly, in a closed form, with what is judged fenced off.

Rule 1: only the judge's own answer is read, never the judged text.
Rule 2: every call goes through the caller's `Asker`, so that whoever pays can count and refuse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from planloom.core.asking import JUDGE_TOKENS
from planloom.core.chat import LLMResponse, Message, ModelCall
from planloom.core.result import Usage
from planloom.errors import ModelError, ModelTimeoutError, VerificationError
from planloom.models.llm import LLM
from planloom.models.structured import ask_for_value
from planloom.verify.fence import DATA_ONLY, fenced

if TYPE_CHECKING:
    from planloom.models.llm import Asker

MAX_WORDS = 4_000
"""Characters that are kept of what a judge says in words."""


def llm_of(model: LLM | str) -> LLM:
    """Return the model, or the one of that URI."""
    return LLM.from_uri(model) if isinstance(model, str) else model


class CountedAsker:
    """Asks as another asker does, and adds up what it took.

    Attributes:
        usage: Tokens of every call so far.
    """

    def __init__(self, ask: Asker) -> None:
        self._ask = ask
        self.usage = Usage()

    async def __call__(self, llm: LLM, call: ModelCall) -> LLMResponse:
        try:
            response = await self._ask(llm, call)
        except ModelError as error:
            used = getattr(error, "usage", None)
            if isinstance(used, Usage):
                self.usage += used
            raise
        self.usage += response.usage
        return response


async def ask_for_verdict(
    llm: LLM,
    told: str,
    texts: Mapping[str, str],
    schema: Mapping[str, Any],
    *,
    ask: Asker,
    timeout_s: float | None = None,
) -> dict[str, Any]:
    """Return what the judge says of these texts, an object of this schema.

    Args:
        told: What it shall do.
        texts: What it shall judge, by name; untrusted.

    Raises:
        ModelError: It gave no answer, or none of this schema.
        ModelTimeoutError: It took longer than `timeout_s`.
    """
    call = ModelCall(
        messages=(Message("system", f"{told}\n\n{DATA_ONLY}"), Message("user", fenced(texts))),
        max_tokens=JUDGE_TOKENS,
        temperature=0.0,
        output=dict(schema),
        timeout_s=timeout_s,
    )
    scope = asyncio.timeout(timeout_s)
    try:
        async with scope:
            said, _ = await ask_for_value(partial(ask, llm), call)
    except TimeoutError as error:
        if scope.expired():
            raise ModelTimeoutError(f"the judge gave no answer within {timeout_s} s") from error
        raise
    if not isinstance(said, dict):
        raise VerificationError("the judge's answer is no object")
    return said


def closed_schema(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def score_of(value: object, name: str) -> float:
    """Return a score; looked at once more, because nothing else stands between it and a pass.

    Raises:
        VerificationError: It is missing, no number, or not between 0 and 1.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:  # NaN is neither
        return float(value)
    raise VerificationError(f"the judge's score of {name!r} is no number from 0 to 1")


def words_of(said: object) -> str:
    """Return what a judge says in words, cut to a length one can keep."""
    text = said if isinstance(said, str) else ""
    return text if len(text) <= MAX_WORDS else f"{text[: MAX_WORDS - 1]}…"
