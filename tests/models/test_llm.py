"""The one face of a model: defaults of its address, the forms a prompt may have, turns, estimates and plugins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest

from planloom import plugins
from planloom.core.chat import LLMResponse, Message, ModelCall, ToolCall, ToolSpec
from planloom.core.model_uri import ModelUri
from planloom.core.prices import ModelPrice
from planloom.core.result import Usage
from planloom.errors import (
    ConfigError,
    MissingKeyError,
    ModelError,
    UnknownFieldError,
    UnknownModelError,
    UnknownPriceError,
)
from planloom.models.llm import LLM, ask_plainly
from planloom.models.rates import RateLimit, RateLimits
from planloom.models.schemes import BUILT_IN
from planloom.models.scripted import FunctionModel
from planloom.testing.clock import ManualClock

ADD = {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}


def llm_of(model: Any, params: dict[str, Any] | None = None, **more: Any) -> LLM:
    return LLM(model, ModelUri("test", "model", params=params or {}), rates=more.pop("rates", RateLimits()), **more)


def echo(**more: Any) -> FunctionModel:
    return FunctionModel(lambda call: call.messages[-1].content, **more)


# --- made from an address ------------------------------------------------------------------------


def test_a61_an_unknown_scheme_lists_those_there_are() -> None:
    with pytest.raises(UnknownModelError) as raised:
        LLM.from_uri("opennai://x")

    assert all(f"{scheme}://" in str(raised.value) for scheme in BUILT_IN)
    assert "did you mean 'openai'?" in str(raised.value)
    assert raised.value.facts["schemes"] == sorted(BUILT_IN)


def test_a61_without_a_key_nothing_happens_before_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    llm = LLM.from_uri("openai://gpt-4")

    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY") as told:
        llm.ready()
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY"):
        asyncio.run(llm.generate("hi"))

    assert "key_env=" in told.value.remedy


def test_a_model_is_made_from_provider_and_name() -> None:
    llm = LLM.create("openai", "gpt-4o", temperature=0.5, max_tokens=7)

    assert str(llm.uri) == "openai://gpt-4o?temperature=0.5&max_tokens=7"
    assert repr(llm) == "LLM('openai://gpt-4o?temperature=0.5&max_tokens=7')"
    assert str(LLM.create(None, "claude-sonnet-4-6").uri) == "anthropic://claude-sonnet-4-6"


def test_a_key_is_not_taken_as_a_param() -> None:
    with pytest.raises(UnknownModelError, match="key_env=NAME") as raised:
        LLM.create("openai", "gpt-4o", api_key="sk-0123456789")

    assert "sk-0123456789" not in str(raised.value)


@pytest.mark.parametrize(
    "params",
    [
        "temperature=hot",
        "temperature=3",
        "temperature=true",
        "max_tokens=0",
        "max_tokens=1.5",
        "timeout=0",
        "timeout=soon",
        "rpm=0",
        "tpm=-1",
        "price_in=1",
        "price_out=1",
        "price_in=-1&price_out=1",
        "context_window=0",
    ],
)
def test_a_param_that_cannot_be_is_an_error(params: str) -> None:
    with pytest.raises(ConfigError, match=params.partition("=")[0].partition("_")[0]):
        LLM.from_uri(f"openai://gpt-4?{params}")


# --- asking --------------------------------------------------------------------------------------


def test_a60_the_params_of_an_address_are_the_defaults_of_every_call() -> None:
    model = echo()
    llm = llm_of(model, {"temperature": 0.2, "max_tokens": 77, "timeout": 9})

    asyncio.run(llm.generate("hi"))
    asyncio.run(llm.generate("hi", max_tokens=5, temperature=0.0, timeout_s=1.0))

    assert [(call.temperature, call.max_tokens, call.timeout_s) for call in model.calls] == [
        (0.2, 77, 9),
        (0.0, 5, 1.0),
    ]


def test_a_prompt_is_text_or_a_conversation_in_the_form_of_any_provider() -> None:
    model = echo()
    llm = llm_of(model)
    said = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
                {"id": "c2", "type": "function", "function": {"name": "add", "arguments": "{broken"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "function_call": {"name": "add", "arguments": {"a": 3}}},
        {"role": "function", "name": "add", "content": "4"},
        Message("user", "bye"),
    ]

    asyncio.run(llm.generate("hi"))
    asyncio.run(llm.generate(said))
    asyncio.run(llm.generate(Message("user", "alone")))

    assert model.calls[0].messages == (Message("user", "hi"),)
    assert model.calls[1].messages == (
        Message("system", "be brief"),
        Message("user", "ab"),
        Message(
            "assistant", "", tool_calls=(ToolCall("c1", "add", {"a": 1}), ToolCall("c2", "add", "{broken")), name=None
        ),
        Message("tool", "2", tool_call_id="c1"),
        Message("assistant", "", tool_calls=(ToolCall("add", "add", {"a": 3}),)),
        Message("tool", "4", tool_call_id="add", name="add"),
        Message("user", "bye"),
    )
    assert model.calls[2].messages == (Message("user", "alone"),)


@pytest.mark.parametrize(
    "prompt",
    [
        [],
        [{"role": "robot", "content": "x"}],
        [{"content": "x"}],
        ["text"],
        [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
        [{"role": "user", "content": 7}],
    ],
)
def test_a_prompt_that_cannot_be_read_is_an_error_and_nothing_is_asked(prompt: Any) -> None:
    model = echo()

    with pytest.raises(ConfigError) as raised:
        asyncio.run(llm_of(model).generate(prompt))

    assert raised.value.remedy
    assert model.calls == []


def test_functions_are_tools_by_their_older_name() -> None:
    model = echo()
    llm = llm_of(model)

    asyncio.run(llm.generate("hi", functions=[ADD], function_call={"name": "add"}))
    asyncio.run(llm.generate("hi", tools=[{"type": "function", "function": ADD}], tool_choice="required"))
    asyncio.run(llm.generate("hi", tools=[ToolSpec("add", "adds", ADD["parameters"])], function_call="none"))  # type: ignore[arg-type]

    wanted = (ToolSpec("add", "adds", ADD["parameters"]),)  # type: ignore[arg-type]
    assert [call.tools for call in model.calls] == [wanted, wanted, wanted]
    assert [call.tool_choice for call in model.calls] == ["add", "required", "none"]


def test_everything_else_that_may_be_said_reaches_the_model() -> None:
    model = echo()
    schema = {"type": "object"}

    asyncio.run(
        llm_of(model).generate("hi", json_mode=True, output=schema, prediction="p", stop="END", options={"top_p": 0.5})
    )

    call = model.calls[0]
    assert (call.json_mode, call.output, call.prediction) == (True, schema, "p")
    assert (call.stop, call.options) == (("END",), {"top_p": 0.5})


def test_a_keyword_that_does_not_exist_lists_those_that_do() -> None:
    model = echo()

    with pytest.raises(UnknownFieldError, match=r"max_tokens.*tool_choice") as raised:
        asyncio.run(llm_of(model).generate("hi", temprature=1))

    assert "did you mean 'temperature'?" in str(raised.value)
    assert model.calls == []


def test_a_stream_is_text_only_and_a_streamed_call_ends_with_the_whole_answer() -> None:
    llm = llm_of(FunctionModel(lambda _: "one two three four"))

    async def main() -> tuple[list[str], list[Any]]:
        texts = [piece async for piece in llm.stream("hi", max_tokens=9)]
        pieces = [piece async for piece in llm.stream_call(ModelCall(messages=(Message("user", "hi"),)))]
        return texts, pieces

    texts, pieces = asyncio.run(main())

    assert "".join(texts) == "one two three four"
    assert texts == pieces[:-1]
    assert isinstance(pieces[-1], LLMResponse)


def test_a_stream_that_is_left_is_closed_at_once() -> None:
    closed: list[str] = []

    class Endless(FunctionModel):
        async def stream(self, call: ModelCall) -> AsyncGenerator[str | LLMResponse, None]:
            try:
                while True:
                    yield "more "
            finally:
                closed.append("closed")

    async def main() -> list[str]:
        pieces = llm_of(Endless(lambda _: "")).stream("hi")
        async for _ in pieces:
            break
        await pieces.aclose()
        return list(closed)

    assert asyncio.run(main()) == ["closed"]


def test_asking_plainly_is_asking() -> None:
    answer = asyncio.run(ask_plainly(llm_of(echo()), ModelCall(messages=(Message("user", "hi"),))))

    assert answer.text == "hi"


# --- turns ---------------------------------------------------------------------------------------


class Noting(RateLimits):
    """Rates that note what they are told."""

    def __init__(self) -> None:
        super().__init__(ManualClock())
        self.admitted: list[tuple[str, float, RateLimit | None]] = []
        self.settled: list[tuple[float, float]] = []
        self.paused: list[float] = []

    async def admit(self, key: str, tokens: float, limit: RateLimit | None, on_wait: Any = None) -> None:
        self.admitted.append((key, tokens, limit))
        await super().admit(key, tokens, limit, on_wait)

    def settle(self, key: str, reserved: float, used: float) -> None:
        self.settled.append((reserved, used))
        super().settle(key, reserved, used)

    def pause(self, key: str, seconds: float) -> None:
        self.paused.append(seconds)
        super().pause(key, seconds)


def test_a_call_is_admitted_with_what_it_may_use_and_settled_with_what_it_used() -> None:
    rates = Noting()
    llm = llm_of(echo(usage=Usage(30, 12, 1)), {"rpm": 60, "tpm": 6000}, rates=rates)

    asyncio.run(llm.generate("12345678", max_tokens=50))

    assert rates.admitted == [("scripted function", 52, RateLimit(60, 6000))]
    assert rates.settled == [(52, 42)]


@pytest.mark.parametrize(
    ("error", "used"),
    [
        (ModelError("no", status_code=500), 0),
        (ModelError("billed", status_code=None), 51),
        (ValueError("a bug"), 51),
    ],
)
def test_a_call_that_fails_is_settled_too(error: Exception, used: int) -> None:
    rates = Noting()
    llm = llm_of(FunctionModel(lambda _: error), rates=rates)

    with pytest.raises(type(error)):
        asyncio.run(llm.generate("hi", max_tokens=50))

    assert rates.settled == [(51, used)]


def test_an_error_that_says_what_it_was_billed_is_settled_with_that() -> None:
    rates = Noting()
    error = ModelError("refused")
    error.usage = Usage(3, 4, 1)

    with pytest.raises(ModelError):
        asyncio.run(llm_of(FunctionModel(lambda _: error), rates=rates).generate("hi", max_tokens=50))

    assert rates.settled == [(51, 7)]


@pytest.mark.parametrize(("told", "paused"), [(7.0, 7.0), (None, 1.0), (1e9, 600.0)])
def test_429_holds_back_whoever_asks_the_same_provider_next(told: float | None, paused: float) -> None:
    clock = ManualClock()
    rates = RateLimits(clock)
    answers = iter([ModelError("slow down", status_code=429, retry_after_s=told), "well"])
    llm = llm_of(FunctionModel(lambda _: next(answers)), rates=rates)
    waits: list[tuple[str | None, float | None]] = []

    async def main() -> str:
        with pytest.raises(ModelError):
            await llm.generate("one")
        call = ModelCall(messages=(Message("user", "two"),))
        second = asyncio.create_task(llm.ask(call, on_wait=lambda reason, until: waits.append((reason, until))))
        began = clock.now()
        while not waits:
            await asyncio.sleep(0)
        clock.advance(paused - 0.01)
        await asyncio.sleep(0)
        assert not second.done()
        clock.advance(0.02)
        answer = await second
        assert waits == [("rate", pytest.approx(began + paused)), (None, None)]
        return answer.text

    assert asyncio.run(main()) == "well"


def test_models_that_are_given_no_rates_of_their_own_share_those_of_the_process() -> None:
    uri = ModelUri("test", "model")

    assert LLM(echo(), uri).rates is LLM(echo(), uri).rates


# --- what is known, and estimates ----------------------------------------------------------------


def test_the_address_knows_better_than_the_list() -> None:
    llm = llm_of(echo(price=None), {"price_in": 1.5, "price_out": 6, "context_window": 1000})

    known = llm.get_metadata()

    assert known.price == ModelPrice(1.5, 6, source="address")
    assert (known.cost_per_1k_tokens_input, known.cost_per_1k_tokens_output) == (0.0015, 0.006)
    assert known.context_window == 1000
    assert llm.estimate_cost(1000, 500) == pytest.approx(0.0045)


def test_a_price_that_nobody_knows_is_an_error_and_not_zero() -> None:
    with pytest.raises(UnknownPriceError, match="price_in="):
        llm_of(echo(price=None)).estimate_cost(1, 1)


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("a", 1), ("a b c d", 4), ("abcdefgh", 2), ("abcdefghi", 3), ("🌍🌍", 2)]
)
def test_tokens_are_estimated_by_bytes_and_at_least_by_words(text: str, tokens: int) -> None:
    assert llm_of(echo()).estimate_tokens(text) == tokens


# --- plugins -------------------------------------------------------------------------------------


class Parrots:
    """A plugin that brings parrot://."""

    @plugins.hook
    def planloom_model(self, uri: ModelUri) -> FunctionModel | None:
        return FunctionModel(lambda _: f"{uri.name} squawks") if uri.scheme in ("parrot", "openai") else None

    @plugins.hook
    def planloom_model_schemes(self) -> dict[str, str]:
        return {"parrot": "repeats its name"}


@pytest.fixture
def parrots() -> Iterator[Parrots]:
    plugin = Parrots()
    plugins.register(plugin, name="parrots")
    yield plugin
    plugins.unregister(plugin)


@pytest.mark.usefixtures("parrots")
def test_a61_a_plugin_brings_models_of_its_scheme() -> None:
    answer = asyncio.run(LLM.from_uri("parrot://polly?temperature=1").generate("hi"))

    assert answer.text == "polly squawks"


@pytest.mark.usefixtures("parrots")
def test_a61_the_schemes_of_plugins_are_listed_too() -> None:
    with pytest.raises(UnknownModelError, match="parrot:// repeats its name"):
        LLM.from_uri("foo://x")


@pytest.mark.usefixtures("parrots")
def test_a_plugin_stands_in_for_no_scheme_of_ours() -> None:
    assert not isinstance(LLM.from_uri("openai://gpt-4").model, FunctionModel)


def test_a_plugin_is_gone_when_it_is_unregistered(parrots: Parrots) -> None:
    plugins.unregister(parrots)

    with pytest.raises(UnknownModelError):
        LLM.from_uri("parrot://polly")


def test_a_plugin_is_registered_once(parrots: Parrots) -> None:
    with pytest.raises(ConfigError, match="parrots"):
        plugins.register(parrots, name="parrots")

    assert plugins.model_schemes() == {"parrot": "repeats its name"}


def test_a_hook_that_does_not_exist_is_an_error() -> None:
    class Misspelt:
        @plugins.hook
        def planloom_modle(self, uri: ModelUri) -> None:
            """Nobody calls this."""

    with pytest.raises(ConfigError, match="planloom_modle"):
        plugins.register(Misspelt(), name="misspelt")

    well_spelt = Parrots()
    plugins.register(well_spelt, name="misspelt")  # the name is free again
    plugins.unregister(well_spelt)
