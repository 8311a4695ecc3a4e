"""What a model does not take, and what its client library warns of, goes with the answer and nowhere else."""

from __future__ import annotations

import asyncio
import warnings
from importlib import import_module
from typing import Any

import pytest

from planloom.core.chat import LLMResponse, Message, ModelCall
from planloom.models.llm import LLM
from planloom.models.rates import RateLimits
from planloom.models.warned import hearing, listen
from planloom.testing.provider import ProviderServer

WARM = ModelCall(messages=(Message("user", "hello"),), temperature=0.33, max_tokens=77)
O3, OPUS = "openai://o3-mini", "anthropic://claude-opus-4-8"


@pytest.fixture(scope="session", autouse=True)
def libraries() -> None:
    """Import what hosted models need, so that no test's time is spent on it."""
    for name in ("openai", "anthropic", "google.genai", "planloom.models.exchange"):
        import_module(name)


def answered(uri: str, *, streamed: bool, call: ModelCall = WARM) -> tuple[LLMResponse, float | None]:
    """Return the answer, and the temperature that the server was told. Every warning is an error here."""

    async def main(server: ProviderServer) -> LLMResponse:
        place = server.openai_url if uri.startswith("openai") else server.anthropic_url
        llm = LLM.from_uri(f"{uri}?base_url={place}", rates=RateLimits())
        try:
            if not streamed:
                return await llm.ask(call)
            pieces: list[Any] = [piece async for piece in llm.stream_call(call)]
            assert "".join(pieces[:-1]) == "fine"
            return pieces[-1]  # type: ignore[no-any-return]
        finally:
            await llm.close()

    with ProviderServer(lambda request: "fine") as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = asyncio.run(main(server))
        (request,) = server.requests
        return answer, request.temperature


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("uri", [O3, OPUS])
def test_a_temperature_that_a_model_does_not_take_is_left_out_and_named(uri: str, streamed: bool) -> None:
    answer, temperature = answered(uri, streamed=streamed)

    assert (answer.text, temperature) == ("fine", None)
    assert answer.metadata["ignored"] == ["temperature"]
    assert "warnings" not in answer.metadata


def test_a_model_that_takes_a_temperature_is_told_it() -> None:
    answer, temperature = answered("openai://gpt-4o-mini", streamed=False)

    assert temperature == 0.33
    assert "ignored" not in answer.metadata


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_what_a_library_warns_of_goes_with_the_answer(streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("anthropic.resources.beta.messages.messages")
    monkeypatch.setitem(module.DEPRECATED_MODELS, "claude-haiku-4-5", "the day after tomorrow")

    answer, _ = answered("anthropic://claude-haiku-4-5", streamed=streamed)

    (warning,) = answer.metadata["warnings"]
    assert "the day after tomorrow" in warning


def test_whoever_uses_a_library_beside_us_is_warned_as_ever() -> None:
    library = import_module("pydantic_ai.models.google")
    listen()
    theirs = library.warnings
    heard: list[str] = []

    with hearing(heard):
        theirs.warn("first", UserWarning, stacklevel=2)
        theirs.warn("first", UserWarning, stacklevel=2)

    assert heard == ["first"]
    with pytest.warns(UserWarning, match="second") as caught:
        theirs.warn("second", UserWarning, stacklevel=1)
    assert caught[0].filename == __file__
