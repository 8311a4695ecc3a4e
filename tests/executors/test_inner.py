"""Calls inside an attempt: on record before and after, given again and not made again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from planloom.core.chat import LLMResponse, Message, ModelCall, ToolCall
from planloom.core.commands import RunStep
from planloom.core.events import CallEnded, CallStarted
from planloom.core.result import Usage
from planloom.errors import InnerCallError, NotDoneError, OutputError
from planloom.executors.inner import MODEL, TOOL, Inner
from planloom.plan.policy import Effects
from planloom.ports import AttemptContext
from tests.executors.attempts import Books, asking


def giving(value: Any, made: list[Any] | None = None) -> Callable[[AttemptContext], Awaitable[Any]]:
    async def call(counted: AttemptContext) -> Any:
        if made is not None:
            made.append(value)
        if isinstance(value, BaseException):
            raise value
        return value

    return call


def again(request: RunStep, books: Books) -> RunStep:
    """Return the request of the next attempt, with what the first put on record."""
    ended = {fact.key: fact for fact in books.noted if isinstance(fact, CallEnded)}
    return replace(request, attempt=2, recorded=ended)


def test_a_call_without_effects_is_on_record_once_it_has_ended() -> None:
    books = Books()
    inner = Inner(asking(), books)

    async def call(counted: AttemptContext) -> Any:
        counted.report_usage(Usage(10, 5, 1))
        counted.report_usd(0.25)
        counted.report_call()
        return {"found": (1, 2)}

    output = asyncio.run(inner.once("k", call, name="find", kind=TOOL))

    assert output == {"found": [1, 2]}
    (ended,) = books.noted
    assert isinstance(ended, CallEnded)
    assert (ended.key, ended.name, ended.kind, ended.output) == ("k", "find", "tool", {"found": [1, 2]})
    assert (ended.usage, ended.cost_usd, ended.tool_calls, ended.error) == (Usage(10, 5, 1), 0.25, 1, None)
    assert (books.reported_usage, books.reported_usd, books.reported_calls) == (Usage(10, 5, 1), 0.25, 1)


def test_a_call_with_an_effect_is_on_record_before_it_is_made() -> None:
    books = Books()
    seen: list[Any] = []

    async def call(counted: AttemptContext) -> Any:
        seen.extend(books.noted)
        return 1

    asyncio.run(Inner(asking(), books).once("k", call, name="pay", kind=TOOL, effects=Effects.ONCE))

    (started,) = seen
    assert isinstance(started, CallStarted)
    assert (started.key, started.effects) == ("k", Effects.ONCE)


def test_a_call_is_not_made_once_the_run_has_no_use_for_the_attempt() -> None:
    books, made = Books(), list[Any]()
    books.is_useless = True

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Inner(asking(), books).once("k", giving(1, made), name="pay", kind=TOOL, effects=Effects.ONCE))

    assert made == []


def test_a_later_attempt_is_given_what_the_call_came_to() -> None:
    books, made, request = Books(), list[Any](), asking()
    asyncio.run(Inner(request, books).once("k", giving({"a": [1]}, made), name="find", kind=TOOL))
    later = Books()

    output = asyncio.run(Inner(again(request, books), later).once("k", giving(2, made), name="find", kind=TOOL))
    output["a"].append(2)

    assert made == [{"a": [1]}]
    assert later.noted == []
    (ended,) = books.noted
    assert isinstance(ended, CallEnded)
    assert ended.output == {"a": [1]}


def test_what_is_no_json_is_a_failed_call() -> None:
    books = Books()

    with pytest.raises(OutputError):
        asyncio.run(Inner(asking(), books).once("k", giving(object()), name="find", kind=TOOL))

    (ended,) = books.noted
    assert isinstance(ended, CallEnded)
    assert ended.error_types[0] == "OutputError"


def outcome_again(error: Exception, *, kind: str = TOOL, effects: Effects, followed: bool) -> Any:
    """Return what a later attempt's call comes to after this failure: 7 if it is made again, else the error."""
    books, request = Books(), asking()

    async def first() -> None:
        inner = Inner(request, books)
        with pytest.raises(type(error)):
            await inner.once("k", giving(error), name="t", kind=kind, effects=effects)
        if followed:
            await inner.once("next", giving(1), name="t", kind=TOOL)

    asyncio.run(first())
    inner = Inner(again(request, books), Books())
    try:
        return asyncio.run(inner.once("k", giving(7), name="t", kind=kind, effects=effects))
    except InnerCallError as told:
        return told


@pytest.mark.parametrize("effects", [Effects.NONE, Effects.IDEMPOTENT])
def test_a_failure_that_the_attempt_went_on_after_is_told_again(effects: Effects) -> None:
    told = outcome_again(ValueError("no"), effects=effects, followed=True)

    assert isinstance(told, InnerCallError)
    assert (str(told), told.is_unknown) == ("ValueError: no", False)


@pytest.mark.parametrize("effects", [Effects.NONE, Effects.IDEMPOTENT])
def test_a_failure_that_the_attempt_ended_in_is_tried_again(effects: Effects) -> None:
    assert outcome_again(ValueError("no"), effects=effects, followed=False) == 7


@pytest.mark.parametrize("followed", [True, False])
def test_a_once_call_that_failed_is_never_made_again(followed: bool) -> None:
    told = outcome_again(ValueError("no"), effects=Effects.ONCE, followed=followed)

    assert isinstance(told, InnerCallError)
    assert told.is_unknown


def test_a_once_call_that_says_nothing_happened_is_tried_again() -> None:
    assert outcome_again(NotDoneError("busy"), effects=Effects.ONCE, followed=False) == 7


@pytest.mark.parametrize("followed", [True, False])
def test_a_model_that_gave_no_answer_is_asked_again(followed: bool) -> None:
    assert outcome_again(ValueError("503"), kind=MODEL, effects=Effects.NONE, followed=followed) == 7


def test_an_answer_of_no_use_is_asked_for_again() -> None:
    books, request = Books(), asking()

    async def first() -> None:
        inner = Inner(request, books)
        await inner.once("k", giving("prose"), name="m", kind=MODEL)
        inner.void("k", "m", "no JSON")

    asyncio.run(first())

    assert asyncio.run(Inner(again(request, books), Books()).once("k", giving(7), name="m", kind=MODEL)) == 7


def test_a_key_is_what_is_asked_and_how_often_it_was() -> None:
    call = ModelCall(messages=(Message("user", "hello"),), temperature=0.1)
    inner, later = Inner(asking(), Books()), Inner(asking(), Books())

    first, second = inner.key(MODEL, "m", call), inner.key(MODEL, "m", call)
    others = [
        inner.key(MODEL, "m", replace(call, temperature=0.2)),
        inner.key(MODEL, "n", call),
        inner.key(TOOL, "m", {"a": 1}),
    ]

    assert len({first, second, *others}) == 5
    assert later.key(TOOL, "m", {"a": 1}) == others[2]
    assert later.key(MODEL, "m", call) == first
    assert first.startswith("model/m/")
    assert first.endswith("/1")


def test_what_is_asked_for_another_answer_of_the_attempt_is_another_call() -> None:
    first, second = Inner(asking(), Books()), Inner(replace(asking(), answer=2), Books())

    keys = {inner.key(TOOL, "find", {"a": 1}) for inner in (first, second)}

    assert len(keys) == 2


def test_an_answer_goes_to_json_and_back_without_loss() -> None:
    answer = LLMResponse(
        "hi",
        "openai",
        "gpt",
        Usage(1, 2, 1, 3, 4, 5),
        {"finish_reason": "stop"},
        (ToolCall("1", "add", {"a": 1}), ToolCall("2", "add", "no json")),
    )

    assert LLMResponse.from_dict(answer.to_dict()) == answer
    assert LLMResponse.from_dict(LLMResponse("x", "p", "m").to_dict()) == LLMResponse("x", "p", "m")
