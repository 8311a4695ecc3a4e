"""What a model is told, to the byte, and how large it can get."""

from __future__ import annotations

import json
from typing import Any

import pytest

from planloom.core import asking
from planloom.core.asking import ANSWER_AS_JSON, PER_MESSAGE, messages_of, prompt_ceiling, step_ceiling, task_of
from planloom.core.chat import Message, ModelCall, ToolCall, ToolSpec
from planloom.plan.model import Plan, Step

SCHEMA = {"type": "object", "title": "é"}


def step(**fields: Any) -> Step:
    return Plan.from_dict({"name": "p", "steps": [{"id": "s", **fields}]}).steps[0]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"prompt": "why?"}, [("user", "why?")]),
        ({"prompt": "why?", "system": "be short"}, [("system", "be short"), ("user", "why?")]),
        ({"prompt": "why?", "system": ""}, [("user", "why?")]),
        ({"prompt": {"a": "é"}, "system": 7}, [("system", "7"), ("user", '{"a": "é"}')]),
        ({"prompt": "why?", "n": 1, "text": "t"}, [("user", "why?\n\nn:\n1\n\ntext:\nt")]),
        ({"text": "t"}, [("user", "text:\nt")]),
        ({"prompt": "", "n": [1]}, [("user", "n:\n[1]")]),
        ({}, [("user", "")]),
    ],
    ids=["prompt", "system", "no system", "values", "with", "with alone", "empty prompt", "nothing"],
)
def test_a_model_is_told_system_then_prompt_then_what_is_given(
    args: dict[str, Any], told: list[tuple[str, str]]
) -> None:
    assert messages_of(args) == tuple(Message(role, content) for role, content in told)


@pytest.mark.parametrize(
    ("fields", "args", "told"),
    [
        ({"model": "m", "prompt": "x"}, {"prompt": "why?", "system": "short"}, "short\n\nwhy?"),
        ({"agent": "a", "prompt": "x"}, {"prompt": "why?"}, "why?"),
        ({"tool": "t"}, {"n": 1}, 'A call of the tool t.\n\nArguments:\n{"n": 1}'),
        ({"tool": "t", "description": "Look."}, {}, "Look.\n\nA call of the tool t."),
        ({"code": {"source": "1 + 1"}}, {}, "The result of this code:\n1 + 1"),
        ({"task": "Tidy up."}, {}, "Tidy up."),
        ({"wait": 1}, {}, ""),
    ],
    ids=["model", "agent", "tool", "described", "code", "task", "wait"],
)
def test_a_judge_is_told_what_the_step_was_to_do(fields: dict[str, Any], args: dict[str, Any], told: str) -> None:
    assert task_of(step(**fields), args) == told


def test_the_size_of_text_is_its_size_in_utf_8() -> None:
    sizes = [asking.size_bytes(text) for text in ("", "abc", "é", "€", "\ud800", "a€")]

    assert sizes == [0, 3, 2, 3, 3, 4]


def call(**fields: Any) -> ModelCall:
    return ModelCall(messages=fields.pop("messages", ()), **fields)


def test_the_ceiling_of_a_prompt_is_every_byte_in_it_and_what_a_format_adds() -> None:
    wish = ToolCall("id", "look", {"q": "é"})
    tool = ToolSpec("look", "Looks.", {"type": "object", "title": "é"})
    told = (Message("user", "why €?"), Message("assistant", "", tool_calls=(wish, wish)))

    assert prompt_ceiling(call()) == PER_MESSAGE
    assert prompt_ceiling(call(messages=told)) == PER_MESSAGE * 5 + 8 + 2 * (4 + 11)
    assert prompt_ceiling(call(tools=(tool,))) == PER_MESSAGE * 2 + 4 + 6 + 33
    assert prompt_ceiling(call(prediction="seen")) == PER_MESSAGE + 4


def test_a_schema_counts_twice_with_the_words_that_ask_for_it() -> None:
    told = PER_MESSAGE + len(ANSWER_AS_JSON) + len(json.dumps(SCHEMA, ensure_ascii=False).encode())

    assert asking.schema_ceiling(SCHEMA) == told
    assert prompt_ceiling(call(output=SCHEMA)) == PER_MESSAGE + 2 * told


def test_the_ceiling_of_a_step_is_that_of_its_first_call_and_of_its_tools() -> None:
    plain, shaped = step(model="m", prompt="x"), step(model="m", prompt="x", output={"type": "object"})
    told = call(messages=(Message("user", "why?"),), output={"type": "object"})

    assert step_ceiling(plain, {"prompt": "why?"}) == 2 * PER_MESSAGE + 4
    assert step_ceiling(plain, {"prompt": "why?"}, tool_bytes=100) == 2 * PER_MESSAGE + 104
    assert step_ceiling(shaped, {"prompt": "why?"}) == prompt_ceiling(told)
