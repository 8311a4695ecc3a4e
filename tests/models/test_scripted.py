"""Scripted models: every answer once and in order, counted, slow or broken as told, and loud when there are no more."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planloom.core.chat import LLMResponse, Message, ModelCall, ToolCall
from planloom.core.result import Usage
from planloom.errors import ConfigError, ModelError, ModelRefusedError, UnknownFieldError, UnknownModelError
from planloom.models.llm import LLM
from planloom.models.scripted import FunctionModel, ScriptedModel, register, unregister
from planloom.ports import Model
from planloom.testing.clock import ManualClock


def call(text: str = "hello") -> ModelCall:
    return ModelCall(messages=(Message("system", "Be brief."), Message("user", text)))


def answers_of(model: Model, *texts: str) -> list[LLMResponse]:
    async def main() -> list[LLMResponse]:
        return [await model.respond(call(text)) for text in texts]

    return asyncio.run(main())


def text_at(uri: str, *texts: str) -> list[str]:
    async def main() -> list[str]:
        llm = LLM.from_uri(uri)
        return [(await llm.generate(text)).text for text in texts]

    return asyncio.run(main())


def test_answers_come_once_and_in_order() -> None:
    model = ScriptedModel(["one", {"score": 1}, [1, None], 7])

    answers = answers_of(model, "a", "b", "c", "d")

    assert [answer.text for answer in answers] == ["one", '{"score": 1}', "[1, null]", "7"]
    assert [asked.messages[-1].content for asked in model.calls] == ["a", "b", "c", "d"]
    assert model.left == 0


def test_running_out_says_how_many_answers_there_were_and_what_was_asked() -> None:
    model = ScriptedModel(["one"])

    with pytest.raises(ConfigError, match=r"given 1 answer and is asked for one more: 'b'"):
        answers_of(model, "a", "b")


def test_a_model_without_answers_is_loud_even_if_it_may_repeat_the_last() -> None:
    with pytest.raises(ConfigError, match="given 0 answers"):
        answers_of(ScriptedModel([], repeat_last=True), "a")


def test_the_last_answer_repeats_only_when_asked_to() -> None:
    answers = answers_of(ScriptedModel(["one", "two"], repeat_last=True), "a", "b", "c", "d")

    assert [answer.text for answer in answers] == ["one", "two", "two", "two"]


def test_an_exception_among_the_answers_is_raised_and_the_next_call_gets_the_next() -> None:
    model = ScriptedModel([ModelRefusedError("no"), "yes"])

    with pytest.raises(ModelRefusedError):
        answers_of(model, "a")

    assert [answer.text for answer in answers_of(model, "b")] == ["yes"]


def test_calls_of_tools_are_answered_without_text() -> None:
    wish = ToolCall("1", "add", {"a": 1})

    first, second = answers_of(ScriptedModel([wish, [wish, wish]]), "a", "b")

    assert (first.text, first.tool_calls) == ("", (wish,))
    assert second.tool_calls == (wish, wish)


def test_a_whole_response_is_given_as_it_is() -> None:
    response = LLMResponse("hi", "openai", "gpt-4o", Usage(3, 4, 1), {"finish_reason": "stop"})

    assert answers_of(ScriptedModel([response]), "a") == [response]


def test_usage_is_an_estimate_of_what_was_said_unless_it_is_set() -> None:
    set_to = Usage(1000, 500, 1)

    (estimated,) = answers_of(ScriptedModel(["x" * 40]), "y" * 400)
    (exact,) = answers_of(ScriptedModel(["x"], usage=set_to), "y")

    assert estimated.usage == Usage(103, 10, requests=1)
    assert exact.usage == set_to


def test_a_function_sees_the_whole_call_and_may_be_async() -> None:
    async def slowly(asked: ModelCall) -> str:
        await asyncio.sleep(0)
        return asked.messages[-1].content.upper()

    model = FunctionModel(lambda asked: {"roles": [message.role for message in asked.messages]})

    assert [answer.text for answer in answers_of(model, "a")] == ['{"roles": ["system", "user"]}']
    assert [answer.text for answer in answers_of(FunctionModel(slowly), "a")] == ["A"]


@given(st.text(max_size=60))
def test_streamed_pieces_put_together_are_the_text(text: str) -> None:
    async def main() -> list[str | LLMResponse]:
        return [piece async for piece in ScriptedModel([text]).stream(call())]

    *pieces, last = asyncio.run(main())

    assert isinstance(last, LLMResponse)
    assert "".join(piece for piece in pieces if isinstance(piece, str)) == last.text == text
    assert len(pieces) == -(-len(text) // 8)


def test_calls_under_way_at_the_same_time_each_get_the_answer_of_their_turn() -> None:
    async def main() -> list[str]:
        gates = {str(number): asyncio.Event() for number in range(20)}
        model = ScriptedModel(list(gates), before=lambda asked: gates[asked.messages[-1].content].wait())
        asking = {text: asyncio.create_task(model.respond(call(text))) for text in gates}
        await asyncio.sleep(0)
        for text in reversed(gates):  # whoever asked last is answered first
            gates[text].set()
            await asking[text]
        return [(await one).text for one in asking.values()]

    assert asyncio.run(main()) == [str(number) for number in range(20)]


def test_latency_passes_on_the_clock_it_is_given() -> None:
    clock = ManualClock()

    async def main() -> tuple[bool, bool, str]:
        asking = asyncio.create_task(ScriptedModel(["one"], latency_s=5.0, clock=clock).respond(call()))
        await asyncio.sleep(0)
        clock.advance(4.9)
        await asyncio.sleep(0)
        early = asking.done()
        clock.advance(0.2)
        return early, asking.done(), (await asking).text

    assert asyncio.run(main()) == (False, False, "one")


def test_a_cancelled_call_leaves_no_timer_behind() -> None:
    clock = ManualClock()

    async def main() -> None:
        asking = asyncio.create_task(ScriptedModel(["one"], latency_s=5.0, clock=clock).respond(call()))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(main())

    assert clock.next_due is None


def test_a_scripted_model_is_known_to_cost_nothing() -> None:
    assert LLM.from_uri("scripted://echo").estimate_cost(1000, 500) == 0.0


# --- addresses --------------------------------------------------------------------------------


def test_echo_repeats_the_users_last_message() -> None:
    assert text_at("scripted://echo", "one", "two") == ["one", "two"]


def test_registered_answers_are_shared_by_all_who_ask_at_their_address() -> None:
    model = register("pair", ["one", "two"])
    try:
        texts = [*text_at("scripted://pair", "a"), *text_at("scripted://pair", "b")]
    finally:
        unregister("pair")

    assert texts == ["one", "two"]
    assert isinstance(model, ScriptedModel)
    assert len(model.calls) == 2


def test_a_function_or_a_model_can_be_registered_as_well() -> None:
    register("shout", lambda asked: asked.messages[-1].content.upper())
    register("mine", ScriptedModel(["three"]))
    try:
        texts = text_at("scripted://shout", "a") + text_at("scripted://mine", "b")
    finally:
        unregister("shout")
        unregister("mine")

    assert texts == ["A", "three"]


def test_an_unknown_name_is_an_error_that_knows_what_was_meant() -> None:
    register("receipts", ["one"])
    try:
        with pytest.raises(UnknownModelError, match="did you mean 'receipts'"):
            LLM.from_uri("scripted://receipt")
    finally:
        unregister("receipts")


@pytest.mark.parametrize("name", ["echo", "a/b", "answers.json"])
def test_a_name_that_means_something_else_cannot_be_registered(name: str) -> None:
    with pytest.raises(ConfigError):
        register(name, ["one"])


def file_with(folder: Path, answers: Any) -> Path:
    path = folder / "answers@1.json"
    path.write_text(answers if isinstance(answers, str) else json.dumps(answers), encoding="utf-8")
    return path


def test_answers_are_read_from_a_file(tmp_path: Path) -> None:
    path = file_with(tmp_path, ["one", {"score": 1}])

    assert text_at(f"scripted://{path}", "a", "b") == ["one", '{"score": 1}']


def test_a_file_can_repeat_its_last_answer(tmp_path: Path) -> None:
    path = file_with(tmp_path, ["one"])

    assert text_at(f"scripted://{path}?repeat_last=true", "a", "b") == ["one", "one"]


def test_a_file_can_hold_calls_of_tools_and_errors(tmp_path: Path) -> None:
    path = file_with(tmp_path, [{"$tool_calls": [{"name": "add", "arguments": {"a": 1}}]}, {"$error": "overloaded"}])

    async def main() -> tuple[ToolCall, ...]:
        llm = LLM.from_uri(f"scripted://{path}")
        answer = await llm.generate("a")
        with pytest.raises(ModelError, match="overloaded"):
            await llm.generate("b")
        return answer.tool_calls

    assert asyncio.run(main()) == (ToolCall("call-1", "add", {"a": 1}),)


@pytest.mark.parametrize(
    "content",
    ["secret: hunter2", '{"secret": "hunter2"}', "[]", '[{"$tool_calls": ["hunter2"]}]', '[{"$tool_calls": []}]'],
)
def test_a_file_that_holds_no_answers_is_refused_without_showing_what_it_holds(tmp_path: Path, content: str) -> None:
    path = file_with(tmp_path, content)

    with pytest.raises(ConfigError) as caught:
        LLM.from_uri(f"scripted://{path}")

    assert "hunter2" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.json"):
        LLM.from_uri(f"scripted://{tmp_path}/nothing.json")


def test_an_unknown_param_is_refused() -> None:
    with pytest.raises(UnknownFieldError, match="repeatlast"):
        LLM.from_uri("scripted://echo?repeatlast=true")
