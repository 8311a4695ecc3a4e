"""The provider on this machine answers the providers' own clients, and refuses what the real ones refuse."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import errors as google_errors
from google.genai import types as google_types

from planloom.core.chat import Message, ToolCall, ToolSpec
from planloom.core.result import Usage
from planloom.testing.provider import (
    Drop,
    Failing,
    Garbage,
    Hang,
    ProviderServer,
    RecordedRequest,
    Reply,
    Slow,
    Status,
    Truncated,
)

ASKED = [{"role": "user", "content": "how are you"}]
USED = Usage(100, 20, 1, cache_read_tokens=40, cache_write_tokens=10)
WEATHER = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}
CLOSED = WEATHER | {"additionalProperties": False}
CALL = ToolCall("call_1", "weather", {"town": "Köln am Rhein"})


def openai_client(server: ProviderServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=server.openai_url, api_key="sk-secret", max_retries=0)


def anthropic_client(server: ProviderServer) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=server.anthropic_url, api_key="sk-secret", max_retries=0)


async def chat(server: ProviderServer, **said: Any) -> Any:
    async with openai_client(server) as client:
        return await client.chat.completions.create(**{"model": "gpt-4o-mini", "messages": ASKED} | said)


async def respond(server: ProviderServer, **said: Any) -> Any:
    async with openai_client(server) as client:
        return await client.responses.create(**{"model": "gpt-4o-mini", "input": "how are you"} | said)


async def message(server: ProviderServer, **said: Any) -> Any:
    async with anthropic_client(server) as client:
        return await client.messages.create(**{"model": "claude-haiku-4-5", "max_tokens": 99, "messages": ASKED} | said)


async def generate(server: ProviderServer, contents: Any = "how are you", **config: Any) -> Any:
    options = google_types.HttpOptions(base_url=server.google_url)
    async with genai.Client(api_key="sk-secret", http_options=options).aio as client:
        return await client.models.generate_content(
            model="gemini-2.5-flash", contents=contents, config=google_types.GenerateContentConfig(**config)
        )


EVERY_CLIENT = [chat, respond, message, generate]


def post(server: ProviderServer, path: str, body: Any, **headers: str) -> httpx2.Response:
    return httpx2.post(f"{server.url}{path}", json=body, headers={"authorization": "Bearer k"} | headers)


# --- answers ------------------------------------------------------------------------------------


def test_openai_chat_takes_an_answer_with_its_usage() -> None:
    with ProviderServer([Reply(text="fine, thanks", usage=USED, thinking_tokens=5)]) as server:
        answer = asyncio.run(chat(server))

    assert answer.choices[0].message.content == "fine, thanks"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (100, 20, 120)
    assert answer.usage.prompt_tokens_details.cached_tokens == 40
    assert answer.usage.completion_tokens_details.reasoning_tokens == 5


def test_openai_responses_takes_an_answer_with_its_usage() -> None:
    with ProviderServer([Reply(text="fine, thanks", usage=USED, thinking_tokens=5)]) as server:
        answer = asyncio.run(respond(server))

    assert answer.output_text == "fine, thanks"
    assert answer.status == "completed"
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (100, 20, 120)
    assert answer.usage.input_tokens_details.cached_tokens == 40
    assert answer.usage.output_tokens_details.reasoning_tokens == 5


def test_anthropic_takes_an_answer_and_counts_what_was_cached_apart() -> None:
    with ProviderServer([Reply(text="fine, thanks", usage=USED)]) as server:
        answer = asyncio.run(message(server))

    assert [block.text for block in answer.content] == ["fine, thanks"]
    assert answer.stop_reason == "end_turn"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (50, 20)
    assert (answer.usage.cache_read_input_tokens, answer.usage.cache_creation_input_tokens) == (40, 10)


def test_google_takes_an_answer_and_counts_thoughts_apart() -> None:
    with ProviderServer([Reply(text="fine, thanks", usage=USED, thinking_tokens=5)]) as server:
        answer = asyncio.run(generate(server))

    assert answer.text == "fine, thanks"
    assert answer.candidates[0].finish_reason == google_types.FinishReason.STOP
    usage = answer.usage_metadata
    assert (usage.prompt_token_count, usage.candidates_token_count, usage.thoughts_token_count) == (100, 15, 5)
    assert (usage.total_token_count, usage.cached_content_token_count) == (120, 40)


def test_without_a_usage_a_word_is_a_token() -> None:
    with ProviderServer(["fine, and you yourself"]) as server:
        answer = asyncio.run(chat(server))

    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 4)


def test_a_json_value_is_sent_as_text() -> None:
    with ProviderServer([{"mood": "gut, über alles"}, [1, 2]]) as server:
        first, second = asyncio.run(chat(server)), asyncio.run(message(server))

    assert json.loads(first.choices[0].message.content) == {"mood": "gut, über alles"}
    assert json.loads(second.content[0].text) == [1, 2]


def test_every_client_reads_tool_calls() -> None:
    tool = {"name": "weather", "description": "d", "parameters": WEATHER}
    declared = google_types.Tool(
        function_declarations=[google_types.FunctionDeclaration(name="weather", parameters_json_schema=WEATHER)]
    )
    no_calls = google_types.AutomaticFunctionCallingConfig(disable=True)

    with ProviderServer(lambda request: Reply(tool_calls=(CALL,))) as server:
        first = asyncio.run(chat(server, tools=[{"type": "function", "function": tool}]))
        second = asyncio.run(respond(server, tools=[{"type": "function", "strict": False, **tool}]))
        third = asyncio.run(message(server, tools=[{"name": "weather", "input_schema": WEATHER}]))
        fourth = asyncio.run(generate(server, tools=[declared], automatic_function_calling=no_calls))
        told = [request.tools for request in server.requests]

    called = first.choices[0].message.tool_calls[0]
    assert first.choices[0].finish_reason == "tool_calls"
    assert (called.id, called.function.name, json.loads(called.function.arguments)) == (
        "call_1",
        "weather",
        CALL.arguments,
    )
    assert (second.output[0].call_id, json.loads(second.output[0].arguments)) == ("call_1", CALL.arguments)
    assert third.stop_reason == "tool_use"
    assert (third.content[0].id, third.content[0].input) == ("call_1", CALL.arguments)
    assert [(part.name, part.args) for part in fourth.function_calls] == [("weather", CALL.arguments)]
    assert [[(tool.name, tool.parameters) for tool in tools] for tools in told] == [[("weather", WEATHER)]] * 4


def test_every_client_reads_an_answer_that_was_cut_off() -> None:
    with ProviderServer(lambda request: Reply(text="fine, tha", finish="length")) as server:
        first, second, third, fourth = (asyncio.run(ask(server)) for ask in EVERY_CLIENT)

    assert first.choices[0].finish_reason == "length"
    assert (second.status, second.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert third.stop_reason == "max_tokens"
    assert fourth.candidates[0].finish_reason == google_types.FinishReason.MAX_TOKENS


def test_every_client_reads_a_refusal() -> None:
    with ProviderServer(lambda request: Reply(text="I will not", finish="refusal")) as server:
        first, second, third, fourth = (asyncio.run(ask(server)) for ask in EVERY_CLIENT)

    assert (first.choices[0].message.refusal, first.choices[0].message.content) == ("I will not", None)
    assert second.output[0].content[0].refusal == "I will not"
    assert third.stop_reason == "refusal"
    assert fourth.candidates[0].finish_reason == google_types.FinishReason.SAFETY


def test_every_client_reads_that_a_filter_held_the_answer_back() -> None:
    with ProviderServer(lambda request: Reply(finish="filter")) as server:
        first, second, third, fourth = (asyncio.run(ask(server)) for ask in EVERY_CLIENT)

    assert first.choices[0].finish_reason == "content_filter"
    assert second.incomplete_details.reason == "content_filter"
    assert third.stop_reason == "refusal"
    assert fourth.prompt_feedback.block_reason == google_types.BlockedReason.PROHIBITED_CONTENT


def test_how_much_of_a_prediction_came_true_is_told() -> None:
    reply = Reply(text="a b c d", accepted_prediction_tokens=3, rejected_prediction_tokens=1)

    with ProviderServer([reply]) as server:
        answer = asyncio.run(chat(server, prediction={"type": "content", "content": "a b c e"}))
        asked = server.requests[0]

    details = answer.usage.completion_tokens_details
    assert (details.accepted_prediction_tokens, details.rejected_prediction_tokens) == (3, 1)
    assert asked.prediction == "a b c e"


# --- streams ------------------------------------------------------------------------------------

SAID = "  Grüße an 🌍,\n zwei\tdrei  "


def test_openai_chat_streams_and_tells_usage_only_when_asked() -> None:
    async def main(server: ProviderServer) -> list[Any]:
        async with openai_client(server) as client:
            asked: dict[str, Any] = {"model": "gpt-4o-mini", "messages": ASKED, "stream": True}
            plain = [chunk async for chunk in await client.chat.completions.create(**asked)]
            counted = await client.chat.completions.create(**asked, stream_options={"include_usage": True})
            return [plain, [chunk async for chunk in counted]]

    with ProviderServer([Reply(text=SAID, usage=USED), Reply(text=SAID, usage=USED)]) as server:
        plain, counted = asyncio.run(main(server))

    assert "".join(chunk.choices[0].delta.content or "" for chunk in plain) == SAID
    assert [chunk.choices[0].finish_reason for chunk in plain if chunk.choices[0].finish_reason] == ["stop"]
    assert [chunk.usage for chunk in plain if chunk.usage] == []
    assert counted[-1].choices == []
    assert counted[-1].usage.prompt_tokens_details.cached_tokens == 40


def test_openai_responses_streams() -> None:
    async def main(server: ProviderServer) -> Any:
        async with openai_client(server) as client, client.responses.stream(model="gpt-4o-mini", input="hi") as stream:
            said = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            return said, await stream.get_final_response()

    with ProviderServer([Reply(text=SAID, usage=USED, thinking_tokens=3)]) as server:
        said, whole = asyncio.run(main(server))

    assert len(said) > 3
    assert "".join(said) == whole.output_text == SAID
    assert whole.usage.total_tokens == 120


def test_anthropic_streams() -> None:
    async def main(server: ProviderServer) -> Any:
        async with (
            anthropic_client(server) as client,
            client.messages.stream(model="claude-haiku-4-5", max_tokens=99, messages=ASKED) as stream,
        ):
            return [text async for text in stream.text_stream], await stream.get_final_message()

    with ProviderServer([Reply(text=SAID, usage=USED)]) as server:
        said, whole = asyncio.run(main(server))

    assert len(said) > 3
    assert "".join(said) == whole.content[0].text == SAID
    assert (whole.usage.input_tokens, whole.usage.output_tokens, whole.usage.cache_read_input_tokens) == (50, 20, 40)


def test_google_streams() -> None:
    async def main(server: ProviderServer) -> list[Any]:
        options = google_types.HttpOptions(base_url=server.google_url)
        async with genai.Client(api_key="k", http_options=options).aio as client:
            stream = await client.models.generate_content_stream(model="gemini-2.5-flash", contents="hi")
            return [answer async for answer in stream]

    with ProviderServer([Reply(text=SAID, usage=USED)]) as server:
        answers = asyncio.run(main(server))

    assert len(answers) > 3
    assert "".join(answer.text or "" for answer in answers) == SAID
    assert answers[-1].candidates[0].finish_reason == google_types.FinishReason.STOP
    assert answers[-1].usage_metadata.total_token_count == 120


def test_tool_calls_come_in_pieces_of_their_arguments() -> None:
    tool = {"name": "weather", "parameters": WEATHER}

    async def main(server: ProviderServer) -> Any:
        async with openai_client(server) as client, anthropic_client(server) as other:
            async with client.chat.completions.stream(
                model="gpt-4o-mini", messages=ASKED, tools=[{"type": "function", "function": tool}]
            ) as stream:
                async for _ in stream:
                    pass
                first = await stream.get_final_completion()
            async with client.responses.stream(
                model="gpt-4o-mini", input="hi", tools=[{"type": "function", "strict": False, **tool}]
            ) as stream:
                second = await stream.get_final_response()
            async with other.messages.stream(
                model="claude-haiku-4-5",
                max_tokens=9,
                messages=ASKED,
                tools=[{"name": "weather", "input_schema": WEATHER}],
            ) as stream:
                third = await stream.get_final_message()
        return first, second, third

    with ProviderServer(lambda request: Reply(text="I look", tool_calls=(CALL,))) as server:
        first, second, third = asyncio.run(main(server))

    assert json.loads(first.choices[0].message.tool_calls[0].function.arguments) == CALL.arguments
    assert json.loads(second.output[1].arguments) == CALL.arguments
    assert third.content[1].input == CALL.arguments


# --- no answers ---------------------------------------------------------------------------------


def test_an_error_has_the_providers_own_form_and_says_how_long_to_wait() -> None:
    with ProviderServer(lambda request: Status(429, "too fast", retry_after=7)) as server:
        with pytest.raises(openai.RateLimitError) as first:
            asyncio.run(chat(server))
        with pytest.raises(openai.RateLimitError) as second:
            asyncio.run(respond(server))
        with pytest.raises(anthropic.RateLimitError) as third:
            asyncio.run(message(server))
        with pytest.raises(google_errors.ClientError) as fourth:
            asyncio.run(generate(server))

    waits = [raised.value.response.headers["retry-after"] for raised in (first, second, third)]
    assert waits == ["7", "7", "7"]
    assert first.value.type == "rate_limit_error"
    assert third.value.body["error"] == {"type": "rate_limit_error", "message": "too fast"}
    assert (fourth.value.code, fourth.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert fourth.value.details["error"]["details"][0]["retryDelay"] == "7s"
    assert "retry-after" not in fourth.value.response.headers


def test_a_server_error_and_a_web_page_are_errors_to_every_client() -> None:
    with ProviderServer(lambda request: Status(500)) as server:
        for ask in EVERY_CLIENT:
            with pytest.raises((openai.InternalServerError, anthropic.InternalServerError, google_errors.ServerError)):
                asyncio.run(ask(server))

    with ProviderServer([Garbage()]) as server:
        page = post(server, "/v1/chat/completions", {"model": "m", "messages": ASKED})
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "<html>" in page.text


def test_a_dropped_connection_gives_no_answer_at_all() -> None:
    with ProviderServer(lambda request: Drop()) as server:
        with pytest.raises(openai.APIConnectionError):
            asyncio.run(chat(server))

        assert server.count == 1


def pieces_until_the_end(server: ProviderServer) -> tuple[str, str]:
    """Return the text that a chat stream told, and how it ended."""

    async def main() -> tuple[str, str]:
        told = ""
        async with openai_client(server) as client:
            stream = await client.chat.completions.create(model="gpt-4o-mini", messages=ASKED, stream=True)
            try:
                async for chunk in stream:
                    told += chunk.choices[0].delta.content or ""
            except (openai.APIError, httpx2.HTTPError) as error:
                return told, type(error).__name__
        return told, "end"

    return asyncio.run(main())


def test_a_truncated_stream_tells_its_first_pieces_and_breaks() -> None:
    with ProviderServer([Truncated(after=2, reply="one two three")]) as server:
        told, end = pieces_until_the_end(server)

    assert told == "one two "
    assert end == "APIConnectionError"


def test_a_cleanly_truncated_stream_looks_whole_but_for_its_end() -> None:
    with ProviderServer([Truncated(after=2, reply="one two three", clean=True)]) as server:
        told, end = pieces_until_the_end(server)

    assert (told, end) == ("one two ", "end")


def test_a_failing_stream_tells_its_first_pieces_and_an_error() -> None:
    with ProviderServer([Failing(after=1, reply="one two three", message="Overloaded")]) as server:
        told, end = pieces_until_the_end(server)

    assert told == "one "
    assert end == "APIError"


def test_an_answer_in_one_piece_is_truncated_in_its_middle() -> None:
    with ProviderServer([Truncated(), Truncated(clean=True), Failing()]) as server:
        asked = {"model": "m", "messages": ASKED}
        with pytest.raises(httpx2.RemoteProtocolError):
            post(server, "/v1/chat/completions", asked)
        half = post(server, "/v1/chat/completions", asked)
        failed = post(server, "/v1/chat/completions", asked)

    assert half.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        half.json()
    assert failed.status_code == 500


def test_a_hanging_answer_ends_when_its_client_goes() -> None:
    async def main(server: ProviderServer) -> None:
        asking = asyncio.create_task(chat(server))
        await server.arrived(1)
        assert server.open_connections == 1
        asking.cancel()
        await server.closed()

    with ProviderServer([Hang()]) as server:
        asyncio.run(main(server))

        assert server.open_connections == 0


def test_a_stream_can_hang_after_some_pieces() -> None:
    async def main(server: ProviderServer) -> str:
        told = ""
        async with openai_client(server) as client:
            stream = await client.chat.completions.create(model="gpt-4o-mini", messages=ASKED, stream=True)
            try:
                async with asyncio.timeout(0.1):
                    async for chunk in stream:
                        told += chunk.choices[0].delta.content or ""
            except TimeoutError:
                await stream.close()
                return told
        return f"{told} and an end"

    with ProviderServer([Hang(after=2, reply="one two three")]) as server:
        assert asyncio.run(main(server)) == "one two "


def test_held_answers_come_when_they_are_released() -> None:
    async def main(server: ProviderServer) -> list[str]:
        asking = [asyncio.create_task(chat(server)) for _ in range(3)]
        await server.arrived(3)
        done_early, _ = await asyncio.wait(asking, timeout=0.05)
        server.release()
        answers = await asyncio.gather(*asking)
        assert done_early == set()
        return [answer.choices[0].message.content for answer in answers]

    with ProviderServer(["fine"] * 3) as server:
        server.hold()
        assert asyncio.run(main(server)) == ["fine"] * 3


def test_a_slow_answer_takes_its_time() -> None:
    with ProviderServer([Slow(0.05, "fine")]) as server:
        begun = time.monotonic()
        answer = post(server, "/v1/chat/completions", {"model": "m", "messages": ASKED})

    assert time.monotonic() - begun >= 0.05
    assert answer.json()["choices"][0]["message"]["content"] == "fine"


def test_a_stream_can_pause_before_each_piece() -> None:
    with ProviderServer([Reply(text="one two three", pause_s=0.03)]) as server:
        begun = time.monotonic()
        told, end = pieces_until_the_end(server)

    assert time.monotonic() - begun >= 0.09
    assert (told, end) == ("one two three", "end")


# --- what it was asked ---------------------------------------------------------------------------


def test_a_request_says_the_same_whatever_its_protocol() -> None:
    said = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "weather"}}]},
    ]
    said[1]["tool_calls"][0]["function"]["arguments"] = '{"town": "Bonn"}'
    chat_said = [{"role": "developer", "content": "be brief"}, *said]
    chat_said += [{"role": "tool", "tool_call_id": "c", "content": "rain"}]
    form = {"type": "json_schema", "json_schema": {"name": "w", "schema": CLOSED, "strict": True}}
    items = [
        {"role": "user", "content": "weather?"},
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": '{"town": "Bonn"}'},
        {"type": "function_call_output", "call_id": "c", "output": "rain"},
    ]
    blocks = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "weather", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "rain"}]},
    ]
    tool = {"name": "weather", "description": "d", "parameters": WEATHER}
    parts = [
        {"role": "user", "parts": [{"text": "weather?"}]},
        {"role": "model", "parts": [{"function_call": {"name": "weather", "args": {}}}]},
        {"role": "user", "parts": [{"function_response": {"name": "weather", "response": {"result": "rain"}}}]},
    ]
    declared = google_types.FunctionDeclaration(name="weather", description="d", parameters_json_schema=WEATHER)

    with ProviderServer(lambda request: "{}") as server:
        asyncio.run(
            chat(
                server,
                messages=chat_said,
                tools=[{"type": "function", "function": tool}],
                tool_choice={"type": "function", "function": {"name": "weather"}},
                response_format=form,
                max_completion_tokens=77,
                temperature=0.25,
                stop=["END"],
            )
        )
        asyncio.run(
            respond(
                server,
                instructions="be brief",
                input=items,
                tools=[{"type": "function", "strict": False, **tool}],
                tool_choice={"type": "function", "name": "weather"},
                text={"format": {"type": "json_schema", "name": "w", "schema": CLOSED, "strict": True}},
                max_output_tokens=77,
                temperature=0.25,
            )
        )
        asyncio.run(
            message(
                server,
                system="be brief",
                messages=blocks,
                tools=[{"name": "weather", "description": "d", "input_schema": WEATHER}],
                tool_choice={"type": "tool", "name": "weather"},
                output_config={"format": {"type": "json_schema", "schema": CLOSED}},
                max_tokens=77,
                stop_sequences=["END"],
                extra_body={"temperature": 0.25},
            )
        )
        asyncio.run(
            generate(
                server,
                parts,
                system_instruction="be brief",
                tools=[google_types.Tool(function_declarations=[declared])],
                tool_config={"function_calling_config": {"mode": "ANY", "allowed_function_names": ["weather"]}},
                automatic_function_calling={"disable": True},
                response_mime_type="application/json",
                response_json_schema=CLOSED,
                max_output_tokens=77,
                temperature=0.25,
                stop_sequences=["END"],
            )
        )
        requests = server.requests

    assert [request.problem for request in requests] == [None] * 4
    assert [request.protocol for request in requests] == ["openai-chat", "openai-responses", "anthropic", "google"]
    for request in requests:
        assert request.system == "be brief"
        assert request.prompt == "weather?"
        assert [m.role for m in request.messages] == ["system", "user", "assistant", "tool"]
        assert request.messages[3].name == "weather"
        assert "rain" in request.messages[3].content
        assert request.tools == (ToolSpec("weather", "d", WEATHER),)
        assert request.tool_choice == "weather"
        assert request.output_schema == CLOSED
        assert (request.max_tokens, request.temperature) == (77, 0.25)
        assert request.stop == (() if request.protocol == "openai-responses" else ("END",))


def test_a_key_is_never_on_record() -> None:
    with ProviderServer(lambda request: "fine") as server:
        for ask in EVERY_CLIENT:
            asyncio.run(ask(server))

        assert server.count == 4
        assert "sk-secret" not in repr(server.requests)
        assert "sk-secret" not in repr(vars(server))


def test_a_function_sees_the_request_it_answers() -> None:
    def answer(request: RecordedRequest) -> str:
        return f"{request.model} was asked {request.prompt!r}"

    with ProviderServer(answer) as server:
        said = asyncio.run(chat(server))

    assert said.choices[0].message.content == "gpt-4o-mini was asked 'how are you'"


def test_what_a_function_raises_is_raised_at_the_end() -> None:
    def answer(request: RecordedRequest) -> str:
        raise AssertionError("never asked that")

    server = ProviderServer(answer)
    server.__enter__()
    ask_and_be_left(server)

    with pytest.raises(AssertionError, match="never asked that"):
        server.__exit__(None, None, None)


def test_what_a_function_raises_is_noted_on_what_the_test_raises_itself() -> None:
    def answer(request: RecordedRequest) -> str:
        raise AssertionError("never asked that")

    server = ProviderServer(answer)
    server.__enter__()
    ask_and_be_left(server)
    failed = ValueError("the test failed")
    server.__exit__(ValueError, failed, None)

    assert "never asked that" in failed.__notes__[0]


def test_a_list_that_runs_out_is_an_error_at_the_end() -> None:
    server = ProviderServer(["fine"])
    server.__enter__()
    post(server, "/v1/chat/completions", {"model": "m", "messages": ASKED})
    ask_and_be_left(server)

    with pytest.raises(LookupError, match="request 2 came"):
        server.__exit__(None, None, None)


def test_an_answer_that_no_model_can_give_is_an_error_at_the_end() -> None:
    server = ProviderServer([42])  # type: ignore[list-item]
    server.__enter__()
    ask_and_be_left(server)

    with pytest.raises(TypeError, match="int is nothing"):
        server.__exit__(None, None, None)


# --- what it refuses ------------------------------------------------------------------------------

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CHAT_CALL = {
    "role": "assistant",
    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}


def strict(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"model": ""}, "model: field required"),
        ({"messages": []}, "messages: at least one"),
        ({"messages": "hi"}, "messages: a list is required"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "'robot' is none of"),
        ({"messages": [{"role": "user", "content": None}]}, "text or parts are required"),
        ({"messages": [{"role": "tool", "tool_call_id": "c", "content": "x"}]}, "must answer a preceding message"),
        ({"messages": [*ASKED, CHAT_CALL, *ASKED]}, "have no answer: c"),
        ({"messages": [*ASKED, CHAT_CALL]}, "have no answer: c"),
        ({"temperature": 2.5}, "between 0 and 2"),
        ({"max_tokens": 0}, "at least 1"),
        ({"maxtokens": 5}, "maxtokens: unknown field"),
        ({"model": "o3-mini", "max_tokens": 5}, "Use 'max_completion_tokens'"),
        ({"model": "gpt-5-mini", "temperature": 0.3}, "'temperature' does not support"),
        ({"stream_options": {"include_usage": True}}, "only allowed when 'stream'"),
        ({"tools": [TOOL | {"function": {"name": "a.b"}}]}, "does not fit"),
        ({"tools": [TOOL | {"function": {"name": "f", "parameters": {"type": "string"}}}]}, "'type: \"object\"'"),
        ({"tools": [TOOL], "tool_choice": "any"}, "none of auto, none, required"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "not among 'tools'"),
        ({"tool_choice": "auto"}, "only allowed when 'tools'"),
        ({"response_format": {"type": "json_object"}}, "the word 'json'"),
        ({"response_format": strict(WEATHER)}, "'additionalProperties' is required"),
        ({"response_format": strict(CLOSED | {"required": []})}, "'town' is missing"),
        ({"response_format": strict({"type": "array"})}, "'type: \"object\"'"),
        ({"response_format": strict(CLOSED) | {"type": "yaml"}}, "'yaml' is none of"),
        ({"prediction": {"type": "content", "content": "x"}, "max_completion_tokens": 9}, "not supported together"),
    ],
)
def test_openai_chat_refuses(body: dict[str, Any], says: str) -> None:
    with ProviderServer() as server:
        refused = post(server, "/v1/chat/completions", {"model": "gpt-4o", "messages": ASKED} | body)

        assert refused.status_code == 400
        assert says in refused.json()["error"]["message"]
        assert says in (server.requests[0].problem or "")


CALLED = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"input": ""}, "input: a list is required"),
        ({"input": []}, "input: at least one"),
        ({"input": [{"role": "robot", "content": "hi"}]}, "'robot' is none of"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "No tool call found"),
        ({"input": [CALLED]}, "No tool output found"),
        ({"input": [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]}, "none of output_text"),
        ({"messages": ASKED}, "messages: unknown field"),
        ({"stop": ["END"]}, "stop: unknown field"),
        ({"max_output_tokens": 8}, "at least 16"),
        ({"text": {"format": {"type": "json_object"}}}, "the word 'json'"),
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": WEATHER, "strict": True}}}, "additional"),
        ({"tools": [TOOL]}, "None does not fit"),
    ],
)
def test_openai_responses_refuses(body: dict[str, Any], says: str) -> None:
    with ProviderServer() as server:
        refused = post(server, "/v1/responses", {"model": "gpt-4o", "input": "hi"} | body)

        assert refused.status_code == 400
        assert says in refused.json()["error"]["message"]


USED_TOOL = {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "x"}]}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"messages": []}, "messages: at least one"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "'tool' is none of"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "first message must use the 'user' role"),
        ({"messages": [{"role": "user", "content": ""}]}, "must contain non-whitespace text"),
        ({"messages": [{"role": "user", "content": []}]}, "must have non-empty content"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "so "}]}, "trailing whitespace"),
        ({"messages": [*ASKED, USED_TOOL]}, "without tool_result blocks: c"),
        ({"messages": [*ASKED, USED_TOOL, *ASKED]}, "without tool_result blocks: c"),
        ({"messages": [*ASKED, RESULT]}, "unexpected tool_use_id"),
        ({"system": ""}, "system: text content blocks must be non-empty"),
        ({"temperature": 1.5}, "between 0 and 1"),
        ({"model": "claude-opus-4-8", "temperature": 0.3}, "temperature: not supported"),
        ({"frequency_penalty": 1}, "frequency_penalty: unknown field"),
        ({"tools": [{"name": "a b", "input_schema": WEATHER}]}, "does not fit"),
        ({"tools": [{"name": "f"}]}, "input_schema"),
        ({"tool_choice": {"type": "any"}}, "only be specified while providing tools"),
        ({"output_config": {"format": {"type": "json_schema", "schema": WEATHER}}}, "'additionalProperties'"),
    ],
)
def test_anthropic_refuses(body: dict[str, Any], says: str) -> None:
    asked = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": ASKED} | body
    headers = {"anthropic-version": "2026-10-21"}

    with ProviderServer() as server:
        refused = post(server, "/v1/messages", {k: v for k, v in asked.items() if v is not None}, **headers)

        assert refused.status_code == 400
        assert refused.json()["type"] == "error"
        assert says in refused.json()["error"]["message"]


FUNCTION_CALL = {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"contents": []}, "contents: at least one"),
        ({"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "valid role: user, model"),
        ({"contents": [{"role": "user", "parts": []}]}, "must not be empty"),
        ({"contents": [FUNCTION_CALL]}, "have no function response"),
        ({"contents": [FUNCTION_CALL, {"role": "user", "parts": [{"text": "x"}]}]}, "need as many"),
        ({"messages": ASKED}, "messages: unknown field"),
        ({"generationConfig": {"max_tokens": 5}}, "generationConfig.maxTokens: unknown field"),
        ({"generationConfig": {"responseJsonSchema": WEATHER}}, "needs responseMimeType"),
        ({"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, "without function_declarations"),
        ({"tools": [{"functionDeclarations": [{"name": "1 f"}]}]}, "does not fit"),
    ],
)
def test_google_refuses(body: dict[str, Any], says: str) -> None:
    path = "/v1beta/models/gemini-2.5-flash:generateContent"
    asked = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]} | body

    with ProviderServer() as server:
        refused = post(server, path, asked, **{"x-goog-api-key": "k"})

        assert refused.status_code == 400
        assert refused.json()["error"]["status"] == "INVALID_ARGUMENT"
        assert says in refused.json()["error"]["message"]


def test_it_takes_no_key_but_the_right_one_and_none_in_the_address() -> None:
    asked = {"model": "m", "messages": ASKED}

    with ProviderServer(["fine"], key="sk-right") as server:
        none = httpx2.post(f"{server.openai_url}/chat/completions", json=asked)
        wrong = post(server, "/v1/chat/completions", asked, authorization="Bearer sk-wrong")
        shown = post(server, "/v1/chat/completions?key=sk-right", asked, authorization="Bearer sk-right")
        right = post(server, "/v1/chat/completions", asked, authorization="Bearer sk-right")

        assert [answer.status_code for answer in (none, wrong, shown, right)] == [401, 401, 401, 200]
        assert server.count == 4
        assert "sk-right" not in repr(server.requests)


def test_what_is_no_request_at_all_is_refused_and_on_record() -> None:
    headers = {"authorization": "Bearer k"}

    with ProviderServer() as server:
        url = f"{server.openai_url}/chat/completions"
        refused = [
            httpx2.post(url, content=b"{", headers=headers),
            httpx2.post(url, content=b"[1]", headers=headers),
            httpx2.post(
                url, content=b'{"model": "m", "messages": [{"role": "user", "content": [1]}]}', headers=headers
            ),
            httpx2.post(f"{server.openai_url}/embeddings", content=b"{}", headers=headers),
            httpx2.get(url, headers=headers),
            post(server, "/v1/messages", {"model": "m", "max_tokens": 1, "messages": ASKED}),
        ]

        assert [answer.status_code for answer in refused] == [400, 400, 400, 404, 405, 400]
        assert all(request.problem for request in server.requests)
        assert refused[5].json()["error"]["message"] == "anthropic-version: header is required"


# --- its life -------------------------------------------------------------------------------------


def test_a_connection_is_used_again_and_counted() -> None:
    asked = {"model": "m", "messages": ASKED}

    with ProviderServer(["a", "b", "c"]) as server, httpx2.Client(headers={"authorization": "Bearer k"}) as client:
        for _ in range(2):
            client.post(f"{server.openai_url}/chat/completions", json=asked)
        once = server.connections
        post(server, "/v1/chat/completions", asked)

        assert (once, server.connections, server.most_open_connections) == (1, 2, 2)


def test_it_ends_at_once_and_leaves_nothing_behind() -> None:
    before = threading.active_count()
    with ProviderServer([Hang(), Slow(60)]) as server:
        port = int(server.url.rsplit(":", 1)[1])
        asking = [threading.Thread(target=ask_and_be_left, args=(server,)) for _ in range(2)]
        for thread in asking:
            thread.start()
        server.wait_until(lambda server: server.count == 2)
        begun = time.monotonic()

    took = time.monotonic() - begun
    for thread in asking:
        thread.join(5)

    assert took < 1
    assert server.open_connections == 0
    assert threading.active_count() == before
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def ask_and_be_left(server: ProviderServer) -> None:
    with pytest.raises(httpx2.HTTPError):
        post(server, "/v1/chat/completions", {"model": "m", "messages": ASKED})


def test_waiting_for_what_does_not_come_ends_with_an_error() -> None:
    with ProviderServer() as server, pytest.raises(TimeoutError, match="0 requests"):
        server.wait_until(lambda server: server.count > 0, timeout_s=0.01)


def test_a_conversation_on_record_is_made_of_plain_messages() -> None:
    with ProviderServer(["fine"]) as server:
        asyncio.run(chat(server, messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}]))

        assert server.requests[0].messages == (Message("user", "hi"),)
