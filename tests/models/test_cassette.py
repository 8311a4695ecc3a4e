"""Cassettes: recorded once, replayed for ever, loud about what is missing, and silent about every secret."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from planloom.core.chat import LLMResponse, Material, Message, ModelCall, Passage, ToolCall, ToolSpec
from planloom.core.result import Usage
from planloom.errors import ConfigError, ModelError, ModelRefusedError, UnknownFieldError
from planloom.models.llm import LLM
from planloom.models.scripted import FunctionModel, ScriptedModel, register, unregister
from planloom.plan.gasa import GasaPolicy
from planloom.testing.models import no_real_models
from planloom.testing.provider import ProviderServer, Reply


@pytest.fixture
def answering() -> Iterator[FunctionModel]:
    """Return the model at scripted://answering, which answers with the number of the call and what it was asked."""
    numbers = iter(range(1, 100))
    model = FunctionModel(lambda call: f"{next(numbers)}: {call.messages[-1].content}", usage=Usage(30, 12, 1, 5))
    register("answering", model)
    yield model
    unregister("answering")


def cassette(path: Path, mode: str, *, model: str = "scripted://answering") -> LLM:
    return LLM.from_uri(f"cassette://{path}?model={model}&mode={mode}")


def call(text: str, **settings: Any) -> ModelCall:
    return ModelCall(messages=(Message("user", text),), **settings)


def asked(llm: LLM, *calls: ModelCall) -> list[LLMResponse]:
    async def main() -> list[LLMResponse]:
        return [await llm.ask(each) for each in calls]

    return asyncio.run(main())


def streamed(llm: LLM, each: ModelCall) -> list[str | LLMResponse]:
    async def main() -> list[str | LLMResponse]:
        return [piece async for piece in llm.stream_call(each)]

    return asyncio.run(main())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_what_was_recorded_is_replayed_without_asking_the_model(tmp_path: Path, answering: FunctionModel) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    recorded = asked(cassette(path, "record"), call("a"), call("b"))

    replayed = asked(cassette(path, "replay"), call("b"), call("a"))

    assert replayed == recorded[::-1]
    assert replayed[1].usage == Usage(30, 12, 1, 5)
    assert len(answering.calls) == 2


def test_a_file_has_a_line_a_call_with_its_version_and_nothing_that_changes_by_itself(
    tmp_path: Path, answering: FunctionModel
) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    asked(cassette(one, "record"), call("a", temperature=0.0, timeout_s=5.0))
    answering._function = lambda call: f"1: {call.messages[-1].content}"
    asked(cassette(two, "record"), call("a", temperature=0.0, timeout_s=50.0))

    (line,) = lines(one)

    assert one.read_bytes() == two.read_bytes()
    assert line["v"] == 1
    assert line["request"] == {
        "model": "scripted://answering",
        "messages": [{"role": "user", "content": "a"}],
        "temperature": 0.0,
    }
    assert line["answer"]["text"] == "1: a"


@pytest.mark.parametrize(
    "other",
    [
        call("b"),
        call("a", temperature=0.1),
        call("a", max_tokens=5),
        call("a", output={"type": "object"}),
        call("a", tools=(ToolSpec("add", "Adds.", {"type": "object"}),)),
        call("a", json_mode=True),
        call("a", stop=("x",)),
        call("a", options={"seed": 1}),
        ModelCall(messages=(Message("system", "Be brief."), Message("user", "a"))),
        call("a", material=Material((Passage("n", "text"),), ({},), GasaPolicy())),
    ],
)
def test_any_difference_in_what_the_model_is_told_is_a_miss(
    tmp_path: Path, answering: FunctionModel, other: ModelCall
) -> None:
    path = tmp_path / "answers.jsonl"
    asked(cassette(path, "record"), call("a"))

    with pytest.raises(ModelError, match="holds no answer to this call"):
        asked(cassette(path, "replay"), other)

    assert len(answering.calls) == 1


@pytest.mark.parametrize(
    "other",
    [
        Material((Passage("n", "other"), Passage("m", "more")), ({1: 0}, {0: 0}), GasaPolicy()),
        Material((Passage("n", "text"), Passage("m", "more")), ({}, {}), GasaPolicy()),
        Material((Passage("n", "text"), Passage("m", "more")), ({1: 0}, {0: 0}), GasaPolicy(hop_mode="strict")),
    ],
    ids=["text", "mask", "policy"],
)
def test_other_documents_or_another_mask_are_another_call(
    tmp_path: Path, answering: FunctionModel, other: Material
) -> None:
    path = tmp_path / "answers.jsonl"
    first = Material((Passage("n", "text"), Passage("m", "more")), ({1: 0}, {0: 0}), GasaPolicy())
    asked(cassette(path, "record"), call("a", material=first))

    with pytest.raises(ModelError, match="holds no answer to this call"):
        asked(cassette(path, "replay"), call("a", material=other))

    assert asked(cassette(path, "replay"), call("a", material=first))[0].text == "1: a"


@pytest.mark.parametrize(
    "same",
    [
        call("a", timeout_s=7.0),
        call("a", options={"extra_headers": {"x-request": "7"}, "api_key": "sk-1"}),
        ModelCall(messages=(Message("user", "a", metadata={"at": 7}, message_id="m7"),)),
    ],
)
def test_how_a_call_is_sent_makes_no_difference(tmp_path: Path, answering: FunctionModel, same: ModelCall) -> None:
    path = tmp_path / "answers.jsonl"
    asked(cassette(path, "record"), call("a"))

    assert asked(cassette(path, "replay"), same)[0].text == "1: a"


@pytest.mark.slow
def test_a_recorded_provider_is_replayed_without_a_key_and_without_the_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "answers.jsonl"
    monkeypatch.setenv("A_PROVIDERS_KEY", "sk-a-providers-own-key")
    with ProviderServer([Reply(text="Paris.", usage=Usage(1000, 500, 1))]) as server:
        recorded = asked(
            cassette(
                path, "record", model=f"openai://gpt-4o-mini?base_url={server.openai_url}%26key_env=A_PROVIDERS_KEY"
            ),
            call("The capital of France?"),
        )
    monkeypatch.delenv("A_PROVIDERS_KEY")

    with no_real_models():
        replayed = asked(cassette(path, "replay", model="openai://gpt-4o-mini"), call("The capital of France?"))

    assert replayed == recorded
    assert replayed[0].usage == Usage(1000, 500, 1)
    assert "sk-a-providers" not in path.read_text(encoding="utf-8")


def test_where_the_model_is_asked_makes_no_difference_and_who_it_is_does(
    tmp_path: Path, answering: FunctionModel
) -> None:
    path = tmp_path / "answers.jsonl"
    asked(cassette(path, "record"), call("a"))

    assert asked(cassette(path, "replay", model="scripted://answering?rpm=100"), call("a"))[0].text == "1: a"
    with pytest.raises(ModelError, match=r"model from character"):
        asked(cassette(path, "replay", model="scripted://echo"), call("a"))


def test_a_miss_says_what_differs_from_the_nearest_recording_and_how_to_record(
    tmp_path: Path, answering: FunctionModel
) -> None:
    path = tmp_path / "answers.jsonl"
    asked(cassette(path, "record"), call("The capital of France?", temperature=0.2), call("Something else entirely"))

    with pytest.raises(ModelError) as caught:
        asked(cassette(path, "replay"), call("The capital of Norway?", temperature=0.2, max_tokens=9))

    told = caught.value.message
    assert "messages[0].content from character 16" in told
    assert "France?" in told
    assert "Norway?" in told
    assert "max_tokens (recorded without, asked 9)" in told
    assert "temperature" not in told
    assert "mode=record" in caught.value.remedy


def test_a_cassette_that_is_not_there_is_an_error_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no cassette") as caught:
        cassette(tmp_path / "answers.jsonl", "replay", model="scripted://echo")

    assert "mode=record" in caught.value.remedy


def test_several_recordings_of_one_call_come_in_order_and_then_again(tmp_path: Path, answering: FunctionModel) -> None:
    path = tmp_path / "answers.jsonl"
    asked(cassette(path, "record"), call("a"), call("a"), call("a"))

    replayed = asked(cassette(path, "replay"), *[call("a")] * 4)

    assert [answer.text for answer in replayed] == ["1: a", "2: a", "3: a", "1: a"]


def test_recording_again_replaces_and_keeps_the_order_of_the_file(tmp_path: Path, answering: FunctionModel) -> None:
    path = tmp_path / "answers.jsonl"
    asked(cassette(path, "record"), call("a"), call("b"))
    asked(cassette(path, "record"), call("a"))

    assert [line["answer"]["text"] for line in lines(path)] == ["3: a", "2: b"]
    assert [file.name for file in tmp_path.iterdir()] == ["answers.jsonl"]


def test_auto_asks_only_for_what_is_missing_samples_included(tmp_path: Path, answering: FunctionModel) -> None:
    path = tmp_path / "answers.jsonl"
    asked(cassette(path, "auto"), call("a"), call("a"))

    again = asked(cassette(path, "auto"), call("a"), call("b"), call("a"), call("a"))

    assert [answer.text for answer in again] == ["1: a", "3: b", "2: a", "4: a"]
    assert [line["answer"]["text"] for line in lines(path)] == ["1: a", "2: a", "3: b", "4: a"]


def test_a_streamed_call_is_replayed_in_the_pieces_it_came_in(tmp_path: Path, answering: FunctionModel) -> None:
    path = tmp_path / "answers.jsonl"
    recorded = streamed(cassette(path, "record"), call("a long enough question"))

    assert streamed(cassette(path, "replay"), call("a long enough question")) == recorded
    assert asked(cassette(path, "replay"), call("a long enough question")) == [recorded[-1]]
    assert len(recorded) > 3


def test_a_call_recorded_whole_can_be_replayed_streamed(tmp_path: Path, answering: FunctionModel) -> None:
    path = tmp_path / "answers.jsonl"
    (recorded,) = asked(cassette(path, "record"), call("a long enough question"))

    *pieces, last = streamed(cassette(path, "replay"), call("a long enough question"))

    assert "".join(map(str, pieces)) == recorded.text
    assert len(pieces) > 1
    assert last == recorded


def test_calls_of_tools_and_odd_characters_survive(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    wish = ToolCall("call-1", "add", {"text": "ü \ud800 \u2028 \n"})
    register("odd", ScriptedModel([wish, "ü \ud800 \u2028 \n"]))
    try:
        recorded = asked(cassette(path, "record", model="scripted://odd"), call("a"), call("\udfff"))
        replayed = asked(cassette(path, "replay", model="scripted://odd"), call("a"), call("\udfff"))
    finally:
        unregister("odd")

    assert replayed == recorded
    assert replayed[0].tool_calls == (wish,)


def test_an_answer_that_is_none_is_not_recorded(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    register("flaky", ScriptedModel([ModelRefusedError("no"), "yes"]))
    try:
        llm = cassette(path, "auto", model="scripted://flaky")
        with pytest.raises(ModelRefusedError):
            asked(llm, call("a"))
        asked(llm, call("a"))
    finally:
        unregister("flaky")

    assert [line["answer"]["text"] for line in lines(path)] == ["yes"]


def test_no_key_of_the_environment_is_anywhere_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = 'sk-"very"-secret-0123456789'
    monkeypatch.setenv("SOME_API_KEY", secret)
    path = tmp_path / "answers.jsonl"
    response = LLMResponse(f"your key is {secret}", "x", "y", Usage(1, 1, 1), {"x_api_key": secret, "echo": [secret]})
    register("leaky", ScriptedModel([response], repeat_last=True))
    leaking = call(f"my key is {secret}", options={"extra_headers": {"authorization": secret}, "user": secret})
    try:
        llm = cassette(path, "record", model="scripted://leaky")
        asked(llm, leaking)
        streamed(llm, leaking)
        with pytest.raises(ModelError) as caught:
            asked(cassette(path, "replay", model="scripted://leaky"), call(f"key {secret}"))
        replayed = asked(cassette(path, "replay", model="scripted://leaky"), leaking)
    finally:
        unregister("leaky")

    assert "very" not in path.read_text(encoding="utf-8")
    assert "very" not in str(caught.value)
    assert "authorization" not in path.read_text(encoding="utf-8")
    assert replayed


def test_models_that_share_a_file_lose_none_of_each_others_recordings(tmp_path: Path, answering: FunctionModel) -> None:
    path = tmp_path / "answers.jsonl"
    texts = [f"{place}-{number}" for place in "ab" for number in range(25)]

    async def main() -> None:
        one, two = cassette(path, "auto"), cassette(path, "record")
        await asyncio.gather(*((one if text[0] == "a" else two).ask(call(text)) for text in texts))

    asyncio.run(main())

    assert sorted(line["request"]["messages"][0]["content"] for line in lines(path)) == sorted(texts)
    assert len(asked(cassette(path, "replay"), *map(call, texts))) == 50


def test_a_file_that_was_changed_by_hand_is_read_again_and_written_on(tmp_path: Path, answering: FunctionModel) -> None:
    path = tmp_path / "answers.jsonl"
    first = cassette(path, "auto")
    asked(first, call("a"), call("b"))
    path.write_text(path.read_text(encoding="utf-8").splitlines()[0], encoding="utf-8")  # and no newline at its end

    asked(cassette(path, "auto"), call("c"))

    assert [line["answer"]["text"] for line in lines(path)] == ["1: a", "3: c"]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"v": 1}', '{"v": 1, "key": "k", "request": {}, "answer": {"text": "x"}}']
)
def test_a_damaged_line_is_named(tmp_path: Path, answering: FunctionModel, line: str) -> None:
    path = tmp_path / "answers.jsonl"
    asked(cassette(path, "record"), call("a"))
    path.write_text(f"{path.read_text(encoding='utf-8')}{line}\n", encoding="utf-8")

    with pytest.raises(ConfigError, match="line 2 of the cassette"):
        cassette(path, "replay")


def test_a_line_of_a_newer_version_is_not_guessed_at(tmp_path: Path, answering: FunctionModel) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"v": 2}\n', encoding="utf-8")

    with pytest.raises(ConfigError, match="version 2"):
        cassette(path, "replay")


def test_price_and_name_are_the_recorded_models(tmp_path: Path) -> None:
    uri = f"cassette://{tmp_path}/new.jsonl?model=openai://gpt-4o-mini&mode=auto"

    llm = LLM.from_uri(uri)

    assert (llm.metadata.provider, llm.metadata.name) == ("openai", "gpt-4o-mini")
    assert llm.estimate_cost(1000, 500) == 0.00045
    llm.ready()  # what is on the cassette needs no key


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("mode=replay", "does not say which model"),
        ("model=scripted://echo&mode=play", "mode"),
        ("model=cassette://x.jsonl", "records a cassette"),
        ("model=scripted://echo&modes=auto", "modes"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused(tmp_path: Path, query: str, error: str) -> None:
    with pytest.raises((ConfigError, UnknownFieldError), match=error):
        LLM.from_uri(f"cassette://{tmp_path}/new.jsonl?{query}")
