"""Hosted models end to end: `LLM.from_uri` over real sockets, against every protocol that they speak."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import traceback
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from planloom.core.chat import LLMResponse, Message, ModelCall, ToolCall, ToolSpec
from planloom.core.result import Usage
from planloom.errors import (
    MissingKeyError,
    ModelError,
    ModelRefusedError,
    ModelStreamError,
    ModelTimeoutError,
    ModelTruncatedError,
)
from planloom.executors.classify import kind_of
from planloom.models import hosted
from planloom.models.llm import LLM
from planloom.models.rates import RateLimits
from planloom.plan.policy import FailureKind
from planloom.testing.provider import (
    Answer,
    Drop,
    Failing,
    Garbage,
    Hang,
    ProviderServer,
    RecordedRequest,
    Reply,
    Status,
    Truncated,
)

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "sk-test-0123456789abcdefghij"
SAID = "Grüße an 🌍,\n zwei  drei\tvier"
USED = Usage(100, 20, 1, cache_read_tokens=40)
ASKED = ModelCall(messages=(Message("user", "how are you"),))
WEATHER = {
    "type": "object",
    "properties": {"town": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["town", "days"],
    "additionalProperties": False,
}
TOOL = ToolSpec("weather", "Tells the weather.", WEATHER)
CALL = ToolCall("call_1", "weather", {"town": "Köln", "days": 2})


@pytest.fixture(scope="session", autouse=True)
def libraries() -> None:
    """Import what hosted models need, so that no test's time is spent on it."""
    for name in ("openai", "anthropic", "google.genai", "planloom.models.exchange"):
        import_module(name)


@dataclass(frozen=True, slots=True)
class Door:
    """A protocol, and how a model that speaks it is addressed.

    Attributes:
        uri: With the place for the server's address.
    """

    protocol: str
    uri: str
    open: Callable[[ProviderServer, str], LLM]

    def llm(self, server: ProviderServer, more: str = "") -> LLM:
        return self.open(server, more)


@pytest.fixture(params=["openai-chat", "openai-responses", "anthropic", "google"])
def door(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Door:
    monkeypatch.setenv("TEST_KEY", KEY)
    return door_to(request.param, monkeypatch)


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Door:
    monkeypatch.setenv("TEST_KEY", KEY)
    return door_to("openai-chat", monkeypatch)


def door_to(protocol: str, monkeypatch: pytest.MonkeyPatch) -> Door:
    def open_llm(server: ProviderServer, more: str) -> LLM:
        if protocol == "openai-responses":  # spoken with OpenAI's own host only: for this test it lives here
            here = replace(hosted.HOSTS["openai"], base_url=server.openai_url)
            monkeypatch.setitem(hosted.HOSTS, "openai", here)
        return LLM.from_uri(uri.format(server=server) + more, rates=RateLimits())

    uri = {
        "openai-chat": "openai://gpt-4o-mini?base_url={server.openai_url}&key_env=TEST_KEY",
        "openai-responses": "openai://gpt-4o-mini?key_env=TEST_KEY",
        "anthropic": "anthropic://claude-haiku-4-5?base_url={server.anthropic_url}&key_env=TEST_KEY",
        "google": "google://gemini-2.5-flash?base_url={server.google_url}&key_env=TEST_KEY",
    }[protocol]
    return Door(protocol, uri, open_llm)


def asked(llm: LLM, call: ModelCall = ASKED) -> LLMResponse:
    """Ask once, on an event loop of its own."""

    async def main() -> LLMResponse:
        async with asyncio.timeout(10):
            return await llm.ask(call)

    return asyncio.run(main())


def streamed(llm: LLM, call: ModelCall = ASKED) -> tuple[list[str], LLMResponse]:
    async def main() -> list[str | LLMResponse]:
        async with asyncio.timeout(10):
            return [piece async for piece in llm.stream_call(call)]

    *pieces, whole = asyncio.run(main())
    assert isinstance(whole, LLMResponse)
    return [piece for piece in pieces if isinstance(piece, str)], whole


WAYS: dict[str, Callable[..., Any]] = {"whole": asked, "stream": streamed}


@pytest.fixture(params=sorted(WAYS))
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Both ways to ask: for the whole answer, and for a stream of it."""
    return WAYS[request.param]


def serving(*answers: Answer) -> ProviderServer:
    return ProviderServer(answers, key=KEY)


# --- answers ------------------------------------------------------------------------------------


def test_an_answer_comes_with_its_text_and_its_usage(door: Door) -> None:
    with serving(Reply(text=SAID, usage=USED)) as server:
        answer = asked(door.llm(server))

        assert [request.protocol for request in server.requests] == [door.protocol]
    assert answer.text == SAID
    assert answer.usage == USED
    assert answer.provider == door.protocol.split("-")[0]
    assert answer.model_name == server.requests[0].model
    assert answer.tool_calls == ()
    assert answer.metadata["finish_reason"] == "stop"


def test_a69_the_pieces_of_a_stream_are_the_text_and_the_last_thing_is_the_whole_answer(door: Door) -> None:
    with serving(Reply(text=SAID, usage=USED), Reply(text=SAID, usage=USED)) as server:
        llm = door.llm(server)
        pieces, whole = streamed(llm)
        at_once = asked(llm)

        # Anthropic's library asks for a stream whenever an answer might take long.
        assert [request.stream for request in server.requests] == [True, door.protocol == "anthropic"]
    assert len(pieces) > 3
    assert "".join(pieces) == whole.text == at_once.text == SAID
    assert whole.usage == at_once.usage == USED
    assert whole.metadata["finish_reason"] == at_once.metadata["finish_reason"]


def test_thoughts_are_paid_for_as_answer(door: Door) -> None:
    with serving(Reply(text="fine", usage=USED, thinking_tokens=15)) as server:
        answer = asked(door.llm(server))

    assert answer.usage == USED


def test_written_to_the_cache_counts_as_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    used = Usage(100, 20, 1, cache_read_tokens=40, cache_write_tokens=30)

    with serving(Reply(text="fine", usage=used)) as server:
        answer = asked(door_to("anthropic", monkeypatch).llm(server))

    assert answer.usage == used


def test_a60_what_a_call_says_arrives_on_the_wire(door: Door, ask: Callable[..., Any]) -> None:
    conversation = (
        Message("system", "Be brief."),
        Message("user", "one"),
        Message("assistant", "two"),
        Message("user", "three"),
    )

    with serving("four") as server:
        ask(door.llm(server), ModelCall(messages=conversation, max_tokens=77, temperature=0.33))
        request = server.requests[0]

    assert (request.max_tokens, request.temperature) == (77, 0.33)
    assert request.system == "Be brief."
    assert [(message.role, message.content) for message in request.messages if message.role != "system"] == [
        ("user", "one"),
        ("assistant", "two"),
        ("user", "three"),
    ]


def test_a60_what_an_address_says_holds_for_every_call_that_does_not_say_otherwise(door: Door) -> None:
    with serving("fine", "fine") as server:
        llm = door.llm(server, "&max_tokens=77&temperature=0.33")
        asked(llm)
        asked(llm, replace(ASKED, max_tokens=55, temperature=0.5))

        assert [(r.max_tokens, r.temperature) for r in server.requests] == [(77, 0.33), (55, 0.5)]


def test_texts_that_end_an_answer_arrive_on_the_wire(door: Door) -> None:
    with serving("fine") as server:
        asked(door.llm(server), replace(ASKED, stop=("END", "STOP")))

        assert server.requests[0].stop == ("END", "STOP")


@pytest.mark.slow
def test_a_long_answer_comes_whole(door: Door) -> None:
    text = "wörter " * 3_000

    with serving(text, text) as server:
        llm = door.llm(server)

        assert asked(llm).text == text
        assert "".join(streamed(llm)[0]) == text


def test_text_that_no_provider_can_be_sent_is_mended_and_not_an_error(door: Door) -> None:
    with serving("fine") as server:
        asked(door.llm(server), ModelCall(messages=(Message("user", "a \ud800 b \x00 c"),)))

        assert server.requests[0].prompt.startswith("a ")


# --- form ---------------------------------------------------------------------------------------


def test_a_schema_is_asked_for_natively(door: Door, ask: Callable[..., Any]) -> None:
    with serving(CALL.arguments) as server:
        got = ask(door.llm(server), replace(ASKED, output=WEATHER))
        request = server.requests[0]

    answer = got if isinstance(got, LLMResponse) else got[1]
    assert json.loads(answer.text) == CALL.arguments
    assert request.output_schema is not None
    assert request.output_schema["properties"].keys() == WEATHER["properties"].keys()
    assert request.problem is None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"town": {"type": "string"}}},
        {"type": "object", "properties": {"a": {"type": "object", "additionalProperties": {"type": "integer"}}}},
        {"type": "object"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "string", "enum": ["yes", "no"]},
        {"anyOf": [{"type": "object", "properties": {"a": {"type": "string"}}}, {"type": "null"}]},
        {
            "$defs": {"p": {"type": "object", "properties": {"x": {"type": "integer", "minimum": 1}}}},
            "$ref": "#/$defs/p",
        },
    ],
    ids=["optional", "free keys", "any object", "array", "enum", "union", "reference"],
)
def test_a_schema_of_any_form_is_asked_for_in_some_way_that_the_provider_takes(door: Door, schema: Any) -> None:
    with serving(Reply(text='"yes"')) as server:
        asked(door.llm(server), replace(ASKED, output=schema))
        request = server.requests[0]

    assert request.problem is None
    assert request.output_schema is not None or "json" in request.prompt.lower()


def test_json_of_whatever_form_is_asked_for_in_a_way_that_the_provider_takes(door: Door) -> None:
    with serving({"a": 1}) as server:
        answer = asked(door.llm(server), replace(ASKED, json_mode=True))
        request = server.requests[0]

    assert json.loads(answer.text) == {"a": 1}
    assert request.problem is None
    assert request.json_mode or "json" in request.prompt.lower()


def test_a_prediction_is_sent_and_what_came_of_it_is_told(chat: Door) -> None:
    reply = Reply(text="a b c d", accepted_prediction_tokens=3, rejected_prediction_tokens=1)

    with serving(reply) as server:
        answer = asked(chat.llm(server), replace(ASKED, prediction="a b c e"))

        assert server.requests[0].prediction == "a b c e"
    assert answer.metadata["accepted_prediction_tokens"] == 3
    assert answer.metadata["rejected_prediction_tokens"] == 1


def test_a_prediction_goes_together_with_a_limit_of_tokens(chat: Door) -> None:
    with serving("a b c d") as server:
        asked(chat.llm(server), replace(ASKED, prediction="a b c e", max_tokens=77))

        assert (server.requests[0].prediction, server.requests[0].max_tokens) == ("a b c e", 77)


# --- tools --------------------------------------------------------------------------------------


def test_tools_are_offered_called_and_answered(door: Door, ask: Callable[..., Any]) -> None:
    with serving(Reply(text="I look.", tool_calls=(CALL,), usage=USED), "Rain.") as server:
        llm = door.llm(server)
        got = ask(llm, replace(ASKED, tools=(TOOL,)))
        first = got if isinstance(got, LLMResponse) else got[1]
        said = Message("assistant", first.text, tool_calls=first.tool_calls)
        told = Message("tool", '{"sky": "grey"}', tool_call_id=first.tool_calls[0].id, name="weather")
        last = asked(llm, ModelCall(messages=(*ASKED.messages, said, told), tools=(TOOL,)))
        offered, answered = server.requests

    assert [(call.name, call.arguments) for call in first.tool_calls] == [("weather", CALL.arguments)]
    assert first.text == "I look."
    assert first.usage == USED
    assert first.function_call == {"name": "weather", "arguments": CALL.arguments}
    assert [(tool.name, tool.description) for tool in offered.tools] == [("weather", "Tells the weather.")]
    assert offered.tools[0].parameters["properties"].keys() == WEATHER["properties"].keys()
    assert [message.role for message in answered.messages] == ["user", "assistant", "tool"]
    assert "grey" in answered.messages[2].content
    assert last.text == "Rain."


def test_several_tools_are_called_at_once_and_answered_in_any_order(door: Door) -> None:
    calls = (CALL, ToolCall("call_2", "weather", {"town": "Bonn", "days": 1}))

    with serving(Reply(tool_calls=calls), "Rain.") as server:
        llm = door.llm(server)
        first = asked(llm, replace(ASKED, tools=(TOOL,)))
        told = [
            Message("tool", call.arguments["town"], tool_call_id=call.id, name="weather")  # type: ignore[index]
            for call in first.tool_calls
        ]
        said = Message("assistant", tool_calls=first.tool_calls)
        asked(llm, ModelCall(messages=(*ASKED.messages, said, *reversed(told)), tools=(TOOL,)))
        answered = server.requests[1]

    assert [call.arguments for call in first.tool_calls] == [call.arguments for call in calls]
    assert answered.problem is None
    assert sorted(m.content[-6:-2] if door.protocol == "google" else m.content for m in answered.messages[-2:]) == [
        "Bonn",
        "Köln",
    ]


@pytest.mark.parametrize("choice", ["auto", "none", "required", "weather"])
def test_which_tool_must_be_called_arrives_on_the_wire(door: Door, choice: str) -> None:
    other = replace(TOOL, name="other")

    with serving("fine") as server:
        asked(door.llm(server), replace(ASKED, tools=(TOOL, other), tool_choice=choice))
        request = server.requests[0]

    assert request.problem is None
    if choice == "none":
        assert request.tool_choice == "none" or request.tools == ()
    elif choice == "weather":
        # Some providers are told to call one, and are given no other.
        assert request.tool_choice == "weather" or (request.tool_choice, len(request.tools)) == ("required", 1)
    else:
        assert request.tool_choice == choice


@pytest.mark.parametrize("protocol", ["openai-chat", "openai-responses"])
def test_arguments_that_are_no_json_come_as_the_model_wrote_them(
    protocol: str, monkeypatch: pytest.MonkeyPatch, ask: Callable[..., Any]
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    broken = ToolCall("call_1", "weather", '{"town": "Kö')

    with serving(Reply(tool_calls=(broken,))) as server:
        got = ask(door_to(protocol, monkeypatch).llm(server), replace(ASKED, tools=(TOOL,)))

    answer = got if isinstance(got, LLMResponse) else got[1]
    assert answer.tool_calls[0].arguments == '{"town": "Kö'


# --- no answer ----------------------------------------------------------------------------------


def failed(ask: Callable[..., Any], llm: LLM, call: ModelCall = ASKED) -> ModelError:
    with pytest.raises(ModelError) as raised:
        ask(llm, call)
    return raised.value


def test_429_tells_how_long_to_wait_and_one_ask_is_one_request(door: Door, ask: Callable[..., Any]) -> None:
    with serving(Status(429, "too fast", retry_after=7)) as server:
        error = failed(ask, door.llm(server))

        assert server.count == 1
    assert error.status_code == 429
    assert error.retry_after_s == 7
    assert "too fast" in str(error)
    assert kind_of(error) is FailureKind.ERROR


@pytest.mark.parametrize("status", [500, 502, 503, 529, 408, 409])
def test_a_server_that_fails_may_be_asked_again_but_not_by_the_adapter(
    door: Door, ask: Callable[..., Any], status: int
) -> None:
    with serving(Status(status)) as server:
        error = failed(ask, door.llm(server))

        assert server.count == 1
    assert error.status_code == status
    assert kind_of(error) is (FailureKind.REFUSED if status == 409 else FailureKind.ERROR)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_no_second_attempt_can_mend_is_told_as_such(door: Door, status: int) -> None:
    with serving(Status(status, "no such luck")) as server:
        error = failed(asked, door.llm(server))

        assert server.count == 1
    assert error.status_code == status
    assert "no such luck" in str(error)
    assert kind_of(error) is FailureKind.REFUSED


def test_a_web_page_is_no_answer(door: Door, ask: Callable[..., Any]) -> None:
    with serving(Garbage()) as server:
        error = failed(ask, door.llm(server))

        assert server.count == 1
    assert kind_of(error) is FailureKind.ERROR


def test_a_web_page_of_a_gateway_that_fails_keeps_its_status(door: Door) -> None:
    with serving(Garbage(502)) as server:
        error = failed(asked, door.llm(server))

    assert error.status_code == 502
    assert kind_of(error) is FailureKind.ERROR
    assert len(str(error)) < 1000


@pytest.mark.parametrize("finish", ["refusal", "filter"])
def test_a_refusal_is_an_error_that_says_what_it_cost(door: Door, ask: Callable[..., Any], finish: Any) -> None:
    with serving(Reply(text="I will not.", finish=finish, usage=Usage(30, 4, 1))) as server:
        error = failed(ask, door.llm(server))

    assert isinstance(error, ModelRefusedError)
    assert kind_of(error) is FailureKind.REFUSED
    assert error.usage == Usage(30, 4, 1)


def test_an_answer_that_was_cut_off_is_an_error_that_says_what_it_cost(door: Door, ask: Callable[..., Any]) -> None:
    with serving(Reply(text="fine, tha", finish="length", usage=USED)) as server:
        error = failed(ask, door.llm(server), replace(ASKED, max_tokens=20))

    assert isinstance(error, ModelTruncatedError)
    assert kind_of(error) is FailureKind.REFUSED
    assert error.usage == USED


def test_an_answer_of_nothing_at_all_is_an_answer(door: Door, ask: Callable[..., Any]) -> None:
    with serving(Reply(text="", usage=Usage(5, 0, 1))) as server:
        got = ask(door.llm(server))

    answer = got if isinstance(got, LLMResponse) else got[1]
    assert (answer.text, answer.usage) == ("", Usage(5, 0, 1))


@pytest.mark.parametrize(
    "end", [Truncated(after=2), Truncated(after=2, clean=True), Failing(after=2)], ids=["cut", "short", "error"]
)
def test_a_stream_that_dies_is_an_error_and_what_it_cost_is_estimated(door: Door, end: Answer) -> None:
    pieces: list[str] = []

    async def main(llm: LLM) -> None:
        async for piece in llm.stream_call(ASKED):
            assert isinstance(piece, str), "half an answer was given out as a whole one"
            pieces.append(piece)

    with serving(end) as server, pytest.raises(ModelStreamError) as raised:
        asyncio.run(main(door.llm(server)))

    assert server.count == 1
    assert "".join(pieces) == "one two "
    assert raised.value.text_so_far == "one two "
    assert raised.value.usage is not None
    assert raised.value.usage.output_tokens >= 2
    assert raised.value.usage.input_tokens > 0
    if door.protocol != "google":  # which counts as it goes; from the others nothing final has come
        assert raised.value.usage.estimated_tokens > 0
    assert kind_of(raised.value) is FailureKind.ERROR


def test_half_an_answer_is_no_answer(door: Door) -> None:
    with serving(Truncated(), Truncated(clean=True)) as server:
        llm = door.llm(server)
        errors = [failed(asked, llm), failed(asked, llm)]

        assert server.count == 2
    assert [kind_of(error) for error in errors] == [FailureKind.ERROR] * 2


def test_a_dropped_connection_is_an_error_and_not_asked_again(door: Door, ask: Callable[..., Any]) -> None:
    with serving(Drop()) as server:
        error = failed(ask, door.llm(server))

        assert server.count == 1
    assert error.status_code is None
    assert kind_of(error) is FailureKind.ERROR


def test_a_connection_dropped_while_it_lay_idle_is_an_error_that_may_be_tried_again(door: Door) -> None:
    async def main(llm: LLM, server: ProviderServer) -> tuple[LLMResponse, ModelError]:
        first = await llm.ask(ASKED)
        with pytest.raises(ModelError) as raised:
            await llm.ask(ASKED)
        second = await llm.ask(ASKED)
        assert second.text == "again"
        return first, raised.value

    with serving("fine", Drop(), "again") as server:
        _, error = asyncio.run(main(door.llm(server), server))

        assert server.count == 3
    assert kind_of(error) is FailureKind.ERROR


def test_a_server_that_is_not_there_is_an_error(door: Door) -> None:
    with serving() as server:
        llm = door.llm(server)

    error = failed(asked, llm)

    assert kind_of(error) is FailureKind.ERROR
    assert "reached" in str(error)


@pytest.mark.parametrize("hang", [Hang(), Hang(after=0), Hang(after=2)], ids=["silent", "begun", "midway"])
def test_an_answer_that_does_not_come_is_a_timeout(door: Door, ask: Callable[..., Any], hang: Hang) -> None:
    with serving(hang) as server:
        begun = time.monotonic()
        error = failed(ask, door.llm(server), replace(ASKED, timeout_s=0.1))
        took = time.monotonic() - begun
        server.wait_until(lambda server: server.open_connections == 0)

        assert server.count == 1
    assert isinstance(error, TimeoutError | ModelStreamError)
    assert took < 2
    if ask is asked or hang.after != 2:
        assert isinstance(error, ModelTimeoutError)
        assert kind_of(error) is FailureKind.TIMEOUT


@pytest.mark.slow
def test_a_stream_that_trickles_takes_no_longer_than_it_may(door: Door) -> None:
    async def main(llm: LLM) -> None:
        async with asyncio.timeout(5):
            async for _ in llm.stream_call(replace(ASKED, timeout_s=0.4)):
                pass

    with serving(Reply(text="one two three four " * 20, pause_s=0.1)) as server:
        with pytest.raises((ModelTimeoutError, ModelStreamError)) as raised:
            asyncio.run(main(door.llm(server)))
        server.wait_until(lambda server: server.open_connections == 0)

    assert isinstance(raised.value, ModelError)


def test_the_timeout_of_an_address_holds(door: Door) -> None:
    with serving(Hang()) as server:
        error = failed(asked, door.llm(server, "&timeout=0.1"))

    assert isinstance(error, ModelTimeoutError)


# --- keys ---------------------------------------------------------------------------------------


def test_a61_without_a_key_nothing_is_sent(
    door: Door, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_KEY")

    with serving() as server:
        llm = door.llm(server)
        with pytest.raises(MissingKeyError, match="TEST_KEY"):
            llm.ready()
        with pytest.raises(MissingKeyError, match="TEST_KEY"):
            ask(llm)

        assert (server.count, server.connections) == (0, 0)


def test_a61_a_key_that_is_set_later_is_found(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_KEY")

    with serving("fine") as server:
        llm = door.llm(server)
        monkeypatch.setenv("TEST_KEY", KEY)
        llm.ready()

        assert asked(llm).text == "fine"


def test_the_right_key_is_sent_and_a_wrong_one_is_told(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-another-0123456789")

    with serving() as server:
        error = failed(asked, door.llm(server))

        assert server.requests[0].problem == "no key, or not the right one"
    assert error.status_code == 401
    assert "TEST_KEY" in str(error)
    assert kind_of(error) is FailureKind.REFUSED


@pytest.mark.parametrize(
    "answer",
    [
        Status(401, f"Incorrect API key provided: {KEY}. You can find yours at the provider's."),
        Status(500, f"cannot route {KEY[:12]}***"),
        Status(429, KEY, retry_after=1),
        Garbage(),
        Garbage(500),
        Drop(),
        Hang(),
        Truncated(),
        Failing(after=1, message=f"the key {KEY} is overloaded"),
        Reply(text=f"your key is {KEY}", finish="refusal"),
        Reply(finish="length"),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_a_key_is_in_no_text_of_an_error(door: Door, ask: Callable[..., Any], answer: Answer) -> None:
    with serving(answer) as server:
        llm = door.llm(server)
        error = failed(ask, llm, replace(ASKED, timeout_s=0.1 if isinstance(answer, Hang) else 10))

    told = [str(error), repr(error), json.dumps(error.to_dict(), default=repr), repr(llm), str(llm.uri), repr(llm.uri)]
    told += [repr(llm.metadata), "".join(traceback.format_exception(error))]
    assert [text for text in told if KEY in text] == []


def test_a_key_is_not_where_a_debugger_or_a_log_would_first_look(chat: Door) -> None:
    with serving("fine") as server:
        llm = chat.llm(server)
        asked(llm)

    assert KEY not in repr(vars(llm)) + repr(vars(llm.model))


# --- connections --------------------------------------------------------------------------------


def test_a_cancelled_call_closes_its_connection(door: Door) -> None:
    async def main(llm: LLM, server: ProviderServer) -> None:
        asking = asyncio.create_task(llm.ask(ASKED))
        await server.arrived(1)
        assert server.open_connections == 1
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await server.closed()

    with serving(Hang()) as server:
        asyncio.run(main(door.llm(server), server))

        assert server.count == 1


def test_a_cancelled_stream_closes_its_connection(door: Door) -> None:
    async def main(llm: LLM, server: ProviderServer) -> list[Any]:
        pieces: list[Any] = []
        begun = asyncio.Event()

        async def listen() -> None:
            async for piece in llm.stream_call(ASKED):
                pieces.append(piece)
                begun.set()

        listening = asyncio.create_task(listen())
        await begun.wait()
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
        await server.closed()
        return pieces

    with serving(Hang(after=2)) as server:
        pieces = asyncio.run(main(door.llm(server), server))

    assert pieces[0] == "one "


def test_a_stream_that_nobody_wants_to_the_end_closes_its_connection(door: Door) -> None:
    async def main(llm: LLM, server: ProviderServer) -> None:
        stream = llm.stream_call(ASKED)
        assert await anext(stream) == "one "
        await stream.aclose()
        await server.closed()

    with serving(Hang(after=2)) as server:
        asyncio.run(main(door.llm(server), server))


def test_one_model_is_asked_on_one_event_loop_after_another(door: Door) -> None:
    with serving("one", "two", "three") as server:
        llm = door.llm(server)
        texts = [asked(llm).text for _ in range(3)]
        server.wait_until(lambda server: server.open_connections == 0)

        assert server.connections == 3
    assert texts == ["one", "two", "three"]


def test_one_model_is_asked_on_two_event_loops_at_once(door: Door) -> None:
    texts: list[str] = []

    with ProviderServer(lambda request: "fine") as server:
        llm = door.llm(server)
        server.hold()
        asking = [threading.Thread(target=lambda: texts.append(asked(llm).text)) for _ in range(3)]
        for thread in asking:
            thread.start()
        server.wait_until(lambda server: server.count == 3)
        server.release()
        for thread in asking:
            thread.join(10)

    assert texts == ["fine"] * 3


def test_a_connection_is_used_again_until_the_model_is_closed(door: Door) -> None:
    async def main(llm: LLM, server: ProviderServer) -> None:
        for _ in range(3):
            await llm.ask(ASKED)
        assert (server.connections, server.open_connections) == (1, 1)
        await llm.close()
        await server.closed()
        await llm.ask(ASKED)
        assert server.connections == 2

    with ProviderServer(lambda request: "fine") as server:
        asyncio.run(main(door.llm(server), server))


@pytest.mark.slow
def test_fifty_calls_at_once_are_all_answered_over_a_bounded_number_of_connections(door: Door) -> None:
    def echo(request: RecordedRequest) -> Answer:
        return request.prompt

    async def main(llm: LLM) -> list[str]:
        calls = [ModelCall(messages=(Message("user", f"call {n}"),)) for n in range(50)]
        async with asyncio.timeout(20):
            first = await asyncio.gather(*(llm.ask(call) for call in calls))
            again = await asyncio.gather(*(llm.ask(call) for call in calls))
        return [answer.text for answer in (*first, *again)]

    with ProviderServer(echo) as server:
        texts = asyncio.run(main(door.llm(server)))

        assert server.count == 100
        assert server.connections <= 50
    assert texts == [f"call {n}" for n in range(50)] * 2


@pytest.mark.parametrize("scheme", ["ollama", "vllm"])
def test_a_server_of_ones_own_is_asked_without_a_key(scheme: str) -> None:
    with ProviderServer([Reply(text="fine", usage=USED), Reply(text="fine", usage=USED)]) as server:
        llm = LLM.from_uri(f"{scheme}://llama3:8b?base_url={server.openai_url}", rates=RateLimits())
        llm.ready()
        answer = asked(llm, replace(ASKED, max_tokens=77, temperature=0.33))
        pieces, _ = streamed(llm)
        first = server.requests[0]

    assert (answer.text, "".join(pieces)) == ("fine", "fine")
    assert answer.usage == USED
    assert answer.provider == scheme
    assert (first.model, first.max_tokens, first.temperature) == ("llama3:8b", 77, 0.33)


@pytest.mark.parametrize("status", [308, 418])
def test_a_status_that_nobody_expects_is_one_of_our_errors(door: Door, ask: Callable[..., Any], status: int) -> None:
    with serving(Status(status)) as server:
        error = failed(ask, door.llm(server))

        assert server.count == 1
    assert kind_of(error) in (FailureKind.REFUSED, FailureKind.ERROR)


def test_a_key_is_not_carried_to_where_a_server_points(door: Door) -> None:
    with serving() as elsewhere:
        away = {path: f"{elsewhere.url}{path}" for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages")}
        google = "/v1beta/models/gemini-2.5-flash:generateContent"
        away[google] = f"{elsewhere.url}{google}"
        with ProviderServer(lambda request: Status(307, headers={"location": away[request.path]}), key=KEY) as server:
            failed(asked, door.llm(server))

            assert (server.count, elsewhere.count) == (1, 0)


def test_a_call_whose_tool_has_no_name_is_left_to_the_caller(chat: Door) -> None:
    with serving(Reply(tool_calls=(replace(CALL, name=""),))) as server:
        answer = asked(chat.llm(server), replace(ASKED, tools=(TOOL,)))

    assert answer.tool_calls[0].name == ""
