"""The gate that keeps tests off real models: nothing leaves this machine, and what is here is reached as ever."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from planloom.errors import ConfigError
from planloom.models import guard
from planloom.models.llm import LLM
from planloom.testing import models
from planloom.testing.models import ScriptedModel, no_real_models
from planloom.testing.provider import ProviderServer, Reply

ELSEWHERE = [
    "https://api.openai.com/v1",
    "http://10.0.0.7:8000/v1",
    "http://127.0.0.1.example.com/v1",
    "http://localhost.example.com/v1",
    "http://127.0.0.1@api.openai.com/v1",
    "http://[2001:db8::1]/v1",
    "api.openai.com",
    "",
    "http://[broken/v1",
]
HERE = [
    "http://127.0.0.1:8000/v1",
    "http://127.9.9.9/v1",
    "http://localhost:11434",
    "http://LOCALHOST",
    "http://[::1]/v1",
]


@pytest.mark.parametrize("address", ELSEWHERE)
def test_another_machine_is_refused(address: str) -> None:
    with no_real_models(), pytest.raises(ConfigError, match="no model be reached"):
        guard.check(address)


@pytest.mark.parametrize("address", HERE)
def test_this_machine_is_not(address: str) -> None:
    with no_real_models():
        guard.check(address)


def test_the_gate_is_open_outside_and_stays_shut_until_the_outermost_block_ends() -> None:
    guard.check(ELSEWHERE[0])
    with no_real_models():
        with no_real_models():
            pass
        with pytest.raises(ConfigError):
            guard.check(ELSEWHERE[0])
    guard.check(ELSEWHERE[0])


def test_the_gate_is_shut_for_every_thread() -> None:
    refused: list[bool] = []

    def reach() -> None:
        try:
            guard.check(ELSEWHERE[0])
        except ConfigError:
            refused.append(True)

    with no_real_models():
        thread = threading.Thread(target=reach)
        thread.start()
        thread.join(5)

    assert refused == [True]


def test_a_refusal_shows_the_host_and_nothing_else_of_the_address() -> None:
    with no_real_models(), pytest.raises(ConfigError) as caught:
        guard.check("https://user:hunter2@api.example.com/v1?key=hunter2")

    assert "api.example.com" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("uri", ["openai://gpt-4o-mini", "anthropic://claude-haiku-4-5", "google://gemini-2.5-flash"])
def test_a_hosted_model_is_refused_before_a_socket_is_opened(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.setenv(name, "sk-nobody")
    opened: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: opened.append(address))

    async def main() -> None:
        with no_real_models():
            llm = LLM.from_uri(uri)
            with pytest.raises(ConfigError, match="no model be reached"):
                await llm.generate("hello")
            with pytest.raises(ConfigError, match="no model be reached"):
                async for _ in llm.stream("hello"):
                    pass

    asyncio.run(main())

    assert opened == []


@pytest.mark.slow
def test_a_provider_on_this_machine_is_reached_as_ever() -> None:
    async def main(server: ProviderServer) -> str:
        llm = LLM.from_uri(f"openai://gpt-4o-mini?base_url={server.openai_url}")
        try:
            return (await llm.generate("hello")).text
        finally:
            await llm.close()

    with no_real_models(), ProviderServer([Reply(text="hello yourself")]) as server:
        text = asyncio.run(main(server))

    assert text == "hello yourself"


def test_what_tests_need_is_in_one_place() -> None:
    assert [name for name in models.__all__ if not hasattr(models, name)] == []
    assert models.ScriptedModel is ScriptedModel
