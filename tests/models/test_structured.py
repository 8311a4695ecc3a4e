"""Answers that must be values: nothing but JSON counts, one second chance, and a clear word if that fails too."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planloom.core.asking import RE_ASK_TOKENS, prompt_ceiling
from planloom.core.chat import LLMResponse, Message, ModelCall
from planloom.core.result import Usage
from planloom.errors import ModelRefusedError, OutputError
from planloom.models.structured import answer_value, ask_for_value, problems_of

CATEGORY = {
    "type": "object",
    "properties": {"category": {"enum": ["food", "travel"]}},
    "required": ["category"],
    "additionalProperties": False,
}
CALL = ModelCall(messages=(Message("user", "What is it?"),), output=CATEGORY, max_tokens=100)


class Talk:
    """Answers in order, and keeps what was asked."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = list(answers)
        self.calls: list[ModelCall] = []

    async def ask(self, call: ModelCall) -> LLMResponse:
        self.calls.append(call)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return LLMResponse(answer, "scripted", "gpt", Usage(10, 5, 1))


def asked(talk: Talk, call: ModelCall = CALL) -> tuple[Any, LLMResponse]:
    return asyncio.run(ask_for_value(talk.ask, call))


SCALARS = st.none() | st.booleans() | st.integers() | st.text()


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6))
def test_a_value_is_read_bare_and_in_a_fence(value: Any) -> None:
    text = json.dumps(value, indent=1)

    assert answer_value(f"\n {text}\n") == value
    assert answer_value(f"```json\n{text}\n```\n") == value
    assert answer_value(f"```\n{text}```") == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "food",
        'Here it is: {"category": "food"}',
        '{"category": "food"} I hope this helps.',
        'Sure!\n```json\n{"category": "food"}\n```',
        '```json\n{"category": "food"}\n```\n```json\n{"category": "travel"}\n```',
        '```python\n{"category": "food"}\n```',
        "{'category': 'food'}",
        '{"total": NaN}',
        '{"total": -Infinity}',
        "[" * 100_000,
        "1" * 5_000,
    ],
    ids=lambda text: text[:30],
)
def test_whatever_is_not_json_alone_is_refused(text: str) -> None:
    with pytest.raises(OutputError):
        answer_value(text)


def test_problems_say_where_and_what_and_end_after_ten() -> None:
    many = {"type": "array", "items": {"type": "string"}}

    assert problems_of({"category": "toys"}, CATEGORY) == ["category: 'toys' is not one of ['food', 'travel']"]
    assert problems_of({"category": "food"}, CATEGORY) == []
    assert len(problems_of(list(range(50)), many)) == 10


def test_a_good_answer_is_asked_for_once() -> None:
    talk = Talk('{"category": "food"}')

    value, answer = asked(talk)

    assert value == {"category": "food"}
    assert answer.text == '{"category": "food"}'
    assert talk.calls == [CALL]


def test_a_bad_answer_is_asked_for_again_with_what_is_wrong_with_it() -> None:
    talk = Talk('{"category": "toys"}', '{"category": "food"}')

    value, answer = asked(talk)

    assert value == {"category": "food"}
    assert answer.text == '{"category": "food"}'
    first, said, told = talk.calls[1].messages
    assert first == CALL.messages[0]
    assert said == Message("assistant", '{"category": "toys"}')
    assert told.role == "user"
    assert "category: 'toys' is not one of ['food', 'travel']" in told.content
    assert talk.calls[1].output == CATEGORY
    assert talk.calls[1].max_tokens == 100


def test_a_second_bad_answer_fails_and_says_what_was_answered() -> None:
    talk = Talk("food", "It is food. " + "x" * 500)

    with pytest.raises(OutputError) as caught:
        asked(talk)

    assert len(talk.calls) == 2
    assert "It is food." in caught.value.message
    assert "x" * 201 not in caught.value.message
    assert "no JSON" in caught.value.message
    assert caught.value.remedy


def test_a_refusal_is_no_answer_to_mend() -> None:
    talk = Talk(ModelRefusedError("no"))

    with pytest.raises(ModelRefusedError):
        asked(talk)

    assert len(talk.calls) == 1


def test_a_broken_second_answer_is_raised_as_it_comes() -> None:
    talk = Talk("food", ModelRefusedError("no"))

    with pytest.raises(ModelRefusedError):
        asked(talk)


def test_an_answer_that_only_wants_tools_called_is_no_value() -> None:
    talk = Talk("", '{"category": "food"}')

    value, _ = asked(talk)

    assert value == {"category": "food"}
    assert "empty" in talk.calls[1].messages[-1].content
    assert all(message.content for message in talk.calls[1].messages)


@given(st.text(min_size=1, max_size=300), st.integers(1, 60))
def test_being_told_what_was_wrong_takes_no_more_than_a_budget_sets_aside_for_it(name: str, count: int) -> None:
    schema = {"type": "object", "required": [f"{name}{number}" for number in range(count)]}
    call = ModelCall(messages=(Message("user", "?"),), output=schema)
    talk = Talk("{}", "{}")

    with pytest.raises(OutputError):
        asked(talk, call)

    first, second = talk.calls
    added = prompt_ceiling(second) - prompt_ceiling(first) - len("{}")
    assert 0 < added <= RE_ASK_TOKENS


@pytest.mark.parametrize(
    "text",
    ['{"category": "\\ud800"}', '{"\\ud800": 1}', '{"n": ' + "9" * 4300 + "}", '{"n": ' + "[" * 201 + "]" * 201 + "}"],
    ids=["half a surrogate", "half a surrogate as a key", "a number of 4,300 digits", "201 levels"],
)
def test_what_json_can_say_and_no_step_could_hand_on_is_asked_for_again(text: str) -> None:
    talk = Talk(text, '{"category": "food"}')

    value, _ = asked(talk, ModelCall(messages=CALL.messages, output={"type": "object"}))

    assert value == {"category": "food"}
    assert len(talk.calls) == 2
