"""Answers that must be values: read as JSON, held against their schema, asked for again once if they do not fit.

Rule 1: an answer is JSON and nothing else, bare or in one fence; a value is never picked out of prose.
Rule 2: the model is told what is wrong in our words, cut short; it is asked a second time and never a third.
Rule 3: a refusal, a cut-off or a broken stream is raised as it comes: there is no answer to mend.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, NoReturn

from planloom.core.chat import LLMResponse, Message, ModelCall
from planloom.errors import OutputError
from planloom.plan.schemas import value_problems
from planloom.plan.values import as_json

MAX_TOLD_BYTES = 1_500
"""Of what a model is told about its answer; below `core.asking.RE_ASK_TOKENS`, which a budget sets aside for it."""
MAX_SHOWN = 200
"""Characters of a bad answer that an error shows."""
MAX_PROBLEMS = 10
NO_TEXT = "(no text)"
"""What stands for an empty answer when it is told back: providers refuse messages without content."""

_FENCE = re.compile(r"```(?:json|JSON)?[ \t]*\r?\n(?P<inside>.*)```", re.DOTALL)


def answer_value(text: str) -> Any:
    """Return the value that an answer is.

    Raises:
        OutputError: It is no JSON, or not JSON alone.
    """
    bare = text.strip()
    fenced = _FENCE.fullmatch(bare)
    try:
        return json.loads(fenced["inside"] if fenced else bare, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if bare else "it is empty"
        why = f"the answer is no JSON: {error.msg} ({where})"
    except RecursionError:
        why = "the answer is no JSON that anybody can read: it is nested too deep"
    except ValueError as error:  # a number of thousands of digits, or one of the constants that JSON does not have
        why = f"the answer is no JSON: {error}"
    raise OutputError(why, remedy="answer with one JSON value and with nothing else")


def problems_of(value: Any, schema: dict[str, Any]) -> list[str]:
    """Return each way in which a value does not fit a schema, in one sentence; the first ten."""
    return [told for _, told in value_problems(value, schema)[:MAX_PROBLEMS]]


async def ask_for_value(ask: Callable[[ModelCall], Awaitable[LLMResponse]], call: ModelCall) -> tuple[Any, LLMResponse]:
    """Return the value a model answers with, and the answer it stood in.

    Args:
        ask: Asks once, and counts what it cost: it is called a second time if the first answer is no such value.
        call: Its `output` is the schema of the value.

    Raises:
        OutputError: Neither answer is a value of this schema.
        ModelError: The model gave no answer.
    """
    assert call.output is not None, "a value is asked for by its schema"
    answer = await ask(call)
    value, problems = _read(answer.text, call.output)
    if not problems:
        return value, answer
    told = _cut("\n".join(f"- {problem}" for problem in problems), MAX_TOLD_BYTES)
    again = (
        Message("assistant", answer.text or NO_TEXT),
        Message("user", f"That answer cannot be used:\n{told}\nAnswer again, with nothing but the JSON value."),
    )
    answer = await ask(replace(call, messages=call.messages + again))
    value, problems = _read(answer.text, call.output)
    if not problems:
        return value, answer
    raise OutputError(
        f"{answer.model_name or 'the model'} did not answer with a value of its schema, asked twice: "
        f"{'; '.join(problems)}; it answered {_shown(answer.text)}",
        remedy="say in the prompt what the value looks like, make the schema simpler, or ask another model",
        problems=problems,
    )


def _read(text: str, schema: dict[str, Any]) -> tuple[Any, list[str]]:
    """Return the value and what is wrong with it."""
    try:
        value = as_json(answer_value(text), where="the answer")  # JSON can say what no step could hand on
    except OutputError as error:
        return None, [error.message]
    return value, problems_of(value, schema)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")


def _cut(text: str, most_bytes: int) -> str:
    whole = text.encode("utf-8", "replace")
    return text if len(whole) <= most_bytes else whole[:most_bytes].decode("utf-8", "ignore") + " …"


def _shown(text: str) -> str:
    return repr(text) if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]!r} …"
