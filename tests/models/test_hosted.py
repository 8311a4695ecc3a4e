"""Hosted models: what is known before a call, where a key goes, and how a provider's words become ours.

What goes over the wire is in `test_over_http.py`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import traceback
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from pydantic_ai import exceptions as theirs
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.usage import RequestUsage

from planloom.core.asking import ANSWER_AS_JSON
from planloom.core.chat import Message, ModelCall, ToolSpec
from planloom.core.result import Usage
from planloom.errors import (
    ConfigError,
    MissingKeyError,
    ModelError,
    ModelRefusedError,
    ModelStreamError,
    ModelTimeoutError,
    UnknownFieldError,
)
from planloom.models import hosted
from planloom.models.failures import failure_of
from planloom.models.hosted import PLACEHOLDER, HostedModel
from planloom.models.llm import LLM
from planloom.models.rates import RateLimits
from planloom.models.terms import MAX_TOLD, Terms
from planloom.models.translate import usage_of
from planloom.models.uri import parse_uri
from planloom.testing.models import no_real_models
from planloom.testing.provider import Failing, ProviderServer, RecordedRequest, Status

KEY = "sk-test-0123456789abcdefghij"
CALL = ModelCall(messages=(Message("system", "be brief"), Message("user", "hi")))
TERMS = Terms("openai://gpt-4o", "openai", "openai", KEY, "OPENAI_API_KEY", 30.0)
OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


def hosted_at(uri: str) -> HostedModel:
    return HostedModel(parse_uri(uri))


def asked(uri: str, call: ModelCall = CALL, answer: Any = "well") -> RecordedRequest:
    """Return what arrives at a server on this machine when the model at this address is asked."""
    with ProviderServer([answer]) as server:
        urls = {"openai": server.openai_url, "anthropic": server.anthropic_url, "google": server.google_url}
        llm = LLM.from_uri(uri.format(**urls), rates=RateLimits())
        asyncio.run(llm.ask(call))
        return server.requests[0]


# --- what is known before a call -----------------------------------------------------------------


@pytest.mark.slow
def test_nothing_heavy_is_imported_before_the_first_call() -> None:
    program = (
        "import sys, planloom\n"
        "from planloom.models.llm import LLM\n"
        "LLM.from_uri('openai://gpt-4o'); LLM.from_uri('anthropic://claude'); LLM.from_uri('google://gemini')\n"
        "print([name for name in ('pydantic_ai', 'openai', 'anthropic', 'google.genai', 'genai_prices', 'httpx2')"
        " if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_what_is_known_of_a_model_comes_from_the_list() -> None:
    known = hosted_at("openai://gpt-4o").metadata

    assert (known.name, known.provider, known.version) == ("gpt-4o", "openai", "")
    assert known.context_window == 128_000
    assert known.price is not None
    assert known.price.input > 0
    assert known.capabilities == {"tools", "json_schema", "json", "streaming", "prediction"}


@pytest.mark.parametrize("uri", ["openai://o3", "openai://gpt-5", "anthropic://claude-haiku-4-5", "vllm://gpt-4o"])
def test_only_models_that_take_a_prediction_say_so(uri: str) -> None:
    assert "prediction" not in hosted_at(uri).metadata.capabilities


def test_a_model_of_ones_own_server_has_no_list_price_by_its_name() -> None:
    assert hosted_at("openai://gpt-4o?base_url=http://127.0.0.1:9/v1").metadata.price is None


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("openai://gpt-4o@2024-08-06", "gpt-4o-2024-08-06"),
        ("openai://gpt-4o/latest", "gpt-4o"),
        ("anthropic://claude-sonnet-4-5?version=20250929", "claude-sonnet-4-5-20250929"),
        ("ollama://llama3@8b", "llama3:8b"),
        ("ollama://llama3/latest", "llama3:latest"),
        ("vllm://org/name", "org/name"),
    ],
)
def test_a_version_is_part_of_the_name_that_the_provider_knows(uri: str, name: str) -> None:
    assert hosted_at(uri).metadata.name == name


def test_a_param_that_does_not_exist_lists_those_that_do() -> None:
    with pytest.raises(UnknownFieldError, match=r"temperature.*max_tokens.*base_url.*key_env") as raised:
        LLM.from_uri("openai://gpt-4o?temprature=1")

    assert "did you mean 'temperature'?" in str(raised.value)


def test_an_extra_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = replace(hosted.HOSTS["openai"], package="no.such.package", adapter="no_such_adapter")
    monkeypatch.setitem(hosted.HOSTS, "openai", missing)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    llm = LLM.from_uri("openai://gpt-4o", rates=RateLimits())

    with pytest.raises(ConfigError, match=r"no\.such\.package") as before:
        llm.ready()
    with pytest.raises(ConfigError, match=r"no\.such\.package"):
        asyncio.run(llm.ask(CALL))

    assert before.value.remedy == "pip install 'planloom[openai]'"


def test_no_test_reaches_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    with no_real_models(), pytest.raises(ConfigError, match=r"api\.openai\.com"):
        asyncio.run(LLM.from_uri("openai://gpt-4o", rates=RateLimits()).ask(CALL))


# --- where a key goes ----------------------------------------------------------------------------


class Bearers(ProviderServer):
    """A server that takes one key only."""

    def __init__(self, key: str) -> None:
        super().__init__(["well"], key=key)


@pytest.mark.parametrize(
    "uri",
    [
        "openai://m?base_url={openai}",
        "ollama://m?base_url={openai}",
        "vllm://m?base_url={openai}",
        "anthropic://m?base_url={anthropic}",
        "google://m?base_url={google}",
    ],
)
def test_a_providers_own_key_goes_to_no_other_host(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GEMINI_API_KEY", "VLLM_API_KEY"):
        monkeypatch.setenv(name, KEY)

    with Bearers(PLACEHOLDER) as server:
        urls = {"openai": server.openai_url, "anthropic": server.anthropic_url, "google": server.google_url}
        answer = asyncio.run(LLM.from_uri(uri.format(**urls), rates=RateLimits()).ask(CALL))

    assert answer.text == "well"


def test_the_environment_says_neither_where_to_ask_nor_with_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("MY_KEY", KEY)

    with Bearers(KEY) as server:
        uri = f"openai://m?base_url={server.openai_url}&key_env=MY_KEY"
        answer = asyncio.run(LLM.from_uri(uri, rates=RateLimits()).ask(CALL))

    assert answer.text == "well"


@pytest.mark.parametrize(
    "uri", ["openai://m?base_url={openai}", "vllm://m?base_url={openai}", "anthropic://m?base_url={anthropic}"]
)
def test_nothing_that_the_environment_says_to_a_provider_goes_to_another_host(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "leaked")
    monkeypatch.setenv("OPENAI_ORG_ID", "leaked")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "leaked")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway-Key: leaked")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "X-Gateway-Key: leaked")

    request = asked(uri)

    assert [name for name, value in request.headers.items() if "leaked" in value] == []


def test_a_key_that_an_address_names_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("MY_KEY", "  ")

    with pytest.raises(MissingKeyError, match="MY_KEY"):
        hosted_at("openai://m?key_env=MY_KEY").ready()


def test_google_takes_either_of_its_two_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    with pytest.raises(MissingKeyError, match="GOOGLE_API_KEY"):
        hosted_at("google://gemini-2.5-flash").ready()

    monkeypatch.setenv("GEMINI_API_KEY", KEY)

    hosted_at("google://gemini-2.5-flash").ready()


def test_an_account_is_told_by_its_key_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE", KEY)
    monkeypatch.setenv("OTHER", f"{KEY}-2")

    accounts = [hosted_at(f"openai://m?key_env={name}").account for name in ("ONE", "ONE", "OTHER")]

    assert accounts[0] == accounts[1] != accounts[2]
    assert KEY not in accounts[0]


# --- what is asked in words ----------------------------------------------------------------------


def test_a_schema_that_is_no_object_is_said_in_words() -> None:
    schema = {"type": "array", "items": {"type": "integer"}}

    request = asked("openai://m?base_url={openai}", replace(CALL, output=schema), [1])

    assert request.output_schema is None
    assert not request.json_mode
    assert request.prompt == f"hi\n\n{ANSWER_AS_JSON}{json.dumps(schema)}"


def test_anthropic_is_told_in_words_of_an_object_with_free_keys() -> None:
    schema = {"type": "object", "additionalProperties": {"type": "integer"}}

    request = asked("anthropic://claude-haiku-4-5?base_url={anthropic}", replace(CALL, output=schema), {"a": 1})

    assert request.output_schema is None
    assert ANSWER_AS_JSON in request.prompt


def test_google_is_told_of_a_schema_in_words_where_there_are_tools() -> None:
    call = replace(CALL, output=OBJECT, tools=(ToolSpec("add", "adds", OBJECT),))

    request = asked("google://gemini-2.5-flash?base_url={google}", call, {"a": 1})

    assert request.output_schema is None
    assert ANSWER_AS_JSON in request.prompt


def test_what_openai_hosts_itself_is_not_kept_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    with ProviderServer(["well"]) as server:
        monkeypatch.setitem(hosted.HOSTS, "openai", replace(hosted.HOSTS["openai"], base_url=server.openai_url))
        asyncio.run(LLM.from_uri("openai://gpt-4o", rates=RateLimits()).ask(CALL))
        request = server.requests[0]

    assert request.protocol == "openai-responses"
    assert request.body["store"] is False


@pytest.mark.parametrize("more", [{"tools": (ToolSpec("add", "adds", OBJECT),)}, {"options": {"presence_penalty": 1}}])
def test_a_prediction_is_a_hint_and_left_out_where_no_provider_takes_it(more: dict[str, Any]) -> None:
    request = asked("openai://gpt-4o?base_url={openai}", replace(CALL, prediction="well", **more))

    assert request.prediction is None
    assert request.problem is None


def test_an_option_reaches_the_provider_and_an_unknown_one_is_an_error() -> None:
    uri = "openai://m?base_url={openai}"

    request = asked(uri, replace(CALL, options={"top_p": 0.5, "seed": 7}))
    with pytest.raises(UnknownFieldError, match="top_p"):
        asked(uri, replace(CALL, options={"extra_headers": {"authorization": "x"}}))

    assert (request.body["top_p"], request.body["seed"]) == (0.5, 7)


# --- a provider's words in ours ------------------------------------------------------------------


def http_error(status: int, **more: Any) -> theirs.ModelHTTPError:
    body = more.pop("body", {"error": {"message": "because"}})
    return theirs.ModelHTTPError(status, "gpt-4o", body, **more)


def test_an_http_error_keeps_status_wait_and_the_providers_own_words() -> None:
    failure = failure_of(http_error(503, headers={"retry-after-ms": "1500"}), TERMS)

    assert type(failure) is ModelError
    assert (failure.status_code, failure.retry_after_s) == (503, 1.5)
    assert str(failure) == "openai://gpt-4o answered 503: because"


def test_a61_a_key_that_is_refused_is_told_by_the_name_of_its_variable() -> None:
    failure = failure_of(http_error(401, body={"message": f"wrong key {KEY}"}), TERMS)

    assert "OPENAI_API_KEY" in failure.remedy
    assert KEY not in "".join(traceback.format_exception(failure))
    assert failure.__cause__ is None


def test_a_cause_is_kept_where_it_shows_no_key_but_without_the_frames_that_hold_it() -> None:
    try:
        raise http_error(500)
    except theirs.ModelHTTPError as error:
        failure = failure_of(error, TERMS)

    assert isinstance(failure.__cause__, theirs.ModelHTTPError)
    assert failure.__cause__.__traceback__ is None


def test_long_words_are_cut_and_made_printable() -> None:
    failure = failure_of(http_error(500, body="\x1b[31mred\n" + "x" * 10_000), TERMS)

    assert len(failure.message) < MAX_TOLD + 50
    assert failure.message.isprintable()


@pytest.mark.parametrize(
    "error",
    [
        http_error(400, provider_error_code="content_filter"),
        http_error(400, provider_error_code="content_policy_violation"),
        theirs.ModelHTTPError.for_category(theirs.ModelQuotaExceededError, status_code=429, model_name="gpt-4o"),
        theirs.ContentFilterError("no"),
        theirs.UserError("tools are not supported"),
    ],
)
def test_what_no_second_attempt_can_mend_is_a_refusal(error: Exception) -> None:
    failure = failure_of(error, TERMS)

    assert isinstance(failure, ModelRefusedError)
    assert failure.status_code == getattr(error, "status_code", None)


@pytest.mark.parametrize(
    "error",
    [
        theirs.ModelRequestTimeout("gpt-4o", 30.0),
        theirs.ModelTimeoutError("gpt-4o", "slow"),
        httpx2.ReadTimeout("slow"),
        TimeoutError("slow"),
    ],
)
def test_every_timeout_is_one_of_ours(error: Exception) -> None:
    assert isinstance(failure_of(error, TERMS), ModelTimeoutError)


@pytest.mark.parametrize(
    "error",
    [
        theirs.ModelConnectionError("gpt-4o", "Connection error."),
        httpx2.ConnectError("no route"),
        ConnectionResetError("reset"),
        theirs.UnexpectedModelBehavior("odd"),
        IndexError("list index out of range"),
        RecursionError("too deep"),
        RuntimeError("closed"),
    ],
)
def test_everything_else_may_be_tried_again(error: Exception) -> None:
    failure = failure_of(error, TERMS)

    assert type(failure) is ModelError
    assert failure.status_code is None


def test_a_connection_that_fails_tells_what_was_behind_it() -> None:
    error = theirs.ModelConnectionError("gpt-4o", "Connection error.")
    error.__cause__ = httpx2.ConnectError("nodename nor servname provided")

    assert "nodename nor servname provided" in str(failure_of(error, TERMS))


def test_a_failure_in_mid_stream_keeps_what_had_come() -> None:
    failure = failure_of(http_error(529), TERMS, text_so_far="half an ans")

    assert isinstance(failure, ModelStreamError)
    assert failure.text_so_far == "half an ans"
    assert failure.status_code == 529


@pytest.mark.parametrize(
    ("told", "finish", "usage"),
    [
        (RequestUsage(input_tokens=10, output_tokens=3), "stop", Usage(10, 3, 1)),
        (RequestUsage(input_tokens=10, output_tokens=0), "stop", Usage(10, 0, 1)),
        (RequestUsage(), "stop", Usage(11, 5, 1, estimated_tokens=16)),
        (RequestUsage(input_tokens=10, output_tokens=1), None, Usage(10, 5, 1, estimated_tokens=4)),
        (
            RequestUsage(input_tokens=10, output_tokens=3, cache_read_tokens=4, cache_write_tokens=2),
            "stop",
            Usage(10, 3, 1, 4, 2),
        ),
    ],
)
def test_tokens_that_the_provider_does_not_count_are_estimated_and_flagged(
    told: RequestUsage, finish: Any, usage: Usage
) -> None:
    parts = [TextPart("12345678"), ToolCallPart("add", {"a": 1})]
    response = ModelResponse(parts, usage=told, finish_reason=finish)

    assert usage_of(response, CALL, "12345678") == usage


# --- connections ---------------------------------------------------------------------------------


def test_a_failed_stream_leaves_nothing_that_the_end_of_the_loop_complains_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with ProviderServer([Failing(2)]) as server:
        llm = LLM.from_uri(f"google://gemini-2.5-flash?base_url={server.google_url}", rates=RateLimits())

        async def main() -> ModelError:
            with pytest.raises(ModelStreamError) as raised:
                async for _ in llm.stream_call(CALL):
                    pass
            return raised.value

        asyncio.run(main())

    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


def test_429_on_a_real_socket_holds_the_next_call_back() -> None:
    with ProviderServer([Status(429, retry_after=7)]) as server:
        rates = RateLimits()
        llm = LLM.from_uri(f"openai://m?base_url={server.openai_url}", rates=rates)
        waits: list[str | None] = []

        async def main() -> None:
            with pytest.raises(ModelError):
                await llm.ask(CALL)
            second = asyncio.create_task(llm.ask(CALL, on_wait=lambda reason, _: waits.append(reason)))
            while not waits:
                await asyncio.sleep(0)
            second.cancel()

        asyncio.run(main())

        assert server.count == 1
    assert waits == ["rate"] or waits == ["rate", None]
