"""A70, execution: the founding page's own programs run, against a provider on this machine.

Rule 1: the programs are the page's, line by line (`test_seeds.py` compares them); only their imports are changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from planloom.models import hosted
from planloom.testing.provider import ProviderServer, RecordedRequest
from tests.acceptance.founding import run

ANSWER = "AI that gets better at getting better."

BASIC = """
    from saplings.executor import Executor, ExecutorConfig
    from saplings.core.model_adapter import LLM
    import asyncio

    # Create a model
    model = LLM.from_uri("openai://gpt-4")

    # Create an executor configuration
    config = ExecutorConfig(
        max_tokens=2048,
        temperature=0.7,
        verification_strategy="judge",
    )

    # Create an executor
    executor = Executor(
        model=model,
        config=config,
    )

    # Execute a task
    async def main():
        result = await executor.execute(
            prompt="Explain the concept of self-improving AI",
        )

        print(f"Result: {result.text}")
        print(f"Token usage: {result.usage}")

    # Run the async function
    asyncio.run(main())
"""
AGENT = """
    from saplings import Agent, AgentConfig
    import asyncio

    # Create agent
    agent = Agent(AgentConfig(model_uri="openai://gpt-4"))

    # Execute a task
    async def main():
        result = await agent.execute(
            prompt="Explain the concept of self-improving AI",
        )

        print(f"Result: {result['text']}")

    # Run the async function
    asyncio.run(main())
"""
SPECULATIVE = """
    from saplings.executor import SpeculativeExecutor, ExecutorConfig
    from saplings.core.model_adapter import LLM
    import asyncio

    # Create models
    draft_model = LLM.from_uri("openai://gpt-3.5-turbo")
    verify_model = LLM.from_uri("openai://gpt-4")

    # Create an executor configuration
    config = ExecutorConfig(
        max_tokens=2048,
        temperature=0.7,
        enable_speculative=True,
    )

    # Create a speculative executor
    executor = SpeculativeExecutor(
        draft_model=draft_model,
        verify_model=verify_model,
        config=config,
    )

    # Execute a task with speculative execution
    async def main():
        result = await executor.execute(
            prompt="Explain the concept of self-improving AI",
        )

        print(f"Result: {result.text}")
        print(f"Token usage: {result.usage}")
        print(f"Speculative efficiency: {result.metadata.get('speculative_efficiency', 0)}")

    # Run the async function
    asyncio.run(main())
"""
VERIFICATION = """
    from saplings.executor import Executor, ExecutorConfig, VerificationFlow
    from saplings.core.model_adapter import LLM
    import asyncio

    # Create models
    model = LLM.from_uri("openai://gpt-4")
    verify_model = LLM.from_uri("openai://gpt-4")

    # Create an executor configuration
    config = ExecutorConfig(
        max_tokens=2048,
        temperature=0.7,
        verification_strategy="model",
    )

    # Create an executor
    executor = Executor(
        model=model,
        config=config,
    )

    # Create a verification flow
    verification_flow = VerificationFlow(
        model=verify_model,
        strategy="model",
    )

    # Execute a task with verification
    async def main():
        result = await executor.execute(
            prompt="Explain the concept of self-improving AI",
        )

        # Verify the result
        verification_result = await verification_flow.verify(
            prompt="Explain the concept of self-improving AI",
            output=result.text,
        )

        print(f"Result: {result.text}")
        print(f"Verification result: {verification_result.is_valid}")
        print(f"Verification feedback: {verification_result.feedback}")

    # Run the async function
    asyncio.run(main())
"""

GASA = """
    from saplings.executor import Executor, ExecutorConfig
    from saplings.gasa import GASAConfig
    from saplings.core.model_adapter import LLM
    from saplings.memory import DependencyGraph
    import asyncio

    # Create a model
    model = LLM.from_uri("openai://gpt-4")

    # Create a dependency graph
    graph = DependencyGraph()

    # Add nodes and edges to the graph
    # ...

    # Create a GASA configuration
    gasa_config = GASAConfig(
        max_hops=2,
        mask_strategy="binary",
        cache_masks=True,
    )

    # Create an executor configuration
    executor_config = ExecutorConfig(
        enable_gasa=True,
        max_tokens=2048,
        temperature=0.7,
    )

    # Create an executor with GASA
    executor = Executor(
        model=model,
        config=executor_config,
        gasa_config=gasa_config,
        dependency_graph=graph,
    )

    # Execute a task with GASA
    async def main():
        documents = [...]  # List of documents
        result = await executor.execute(
            prompt="Summarize these documents:",
            documents=documents,
        )

        print(f"Result: {result.text}")
        print(f"Token usage: {result.usage}")
        print(f"GASA stats: {result.metadata.get('gasa_stats', {})}")

    # Run the async function
    asyncio.run(main())
"""


PROGRAMS = {0: BASIC, 1: AGENT, 2: SPECULATIVE, 3: VERIFICATION, 4: GASA}
"""By their place on the page."""


def answer_to(request: RecordedRequest) -> Any:
    """Answer the question, and any request for a verdict by its form."""
    said = json.dumps(request.body)
    if "is_valid" in said:
        return {"is_valid": True, "score": 0.9, "reason": "It explains the concept."}
    if "critique" in said:
        names = ("relevance", "accuracy", "completeness", "clarity")
        return {"scores": dict.fromkeys(names, 0.9), "critique": "It is sound.", "suggestions": []}
    return ANSWER


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProviderServer]:
    with ProviderServer(answer_to) as server:
        # The page says only openai://gpt-4, and no variable of the environment sends a key to another host.
        monkeypatch.setitem(hosted.HOSTS, "openai", replace(hosted.HOSTS["openai"], base_url=server.openai_url))
        monkeypatch.setenv("OPENAI_API_KEY", "sk-for-a-test")
        yield server


@pytest.mark.slow
def test_a70_basic_usage_answers_and_is_judged(provider: ProviderServer, capsys: pytest.CaptureFixture[str]) -> None:
    run(BASIC)

    shown = capsys.readouterr().out
    assert f"Result: {ANSWER}\n" in shown
    assert "Token usage: Usage(input_tokens=" in shown
    asked, judged = provider.requests
    assert (asked.model, asked.max_tokens, asked.temperature) == ("gpt-4", 2048, 0.7)
    assert ANSWER in judged.prompt


@pytest.mark.slow
def test_a70_an_agent_answers(provider: ProviderServer, capsys: pytest.CaptureFixture[str]) -> None:
    run(AGENT)

    assert f"Result: {ANSWER}\n" in capsys.readouterr().out
    assert provider.count == 1


@pytest.mark.slow
def test_a70_speculative_execution_never_changes_the_answer_without_leave(
    provider: ProviderServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run(SPECULATIVE)

    shown = capsys.readouterr().out
    assert f"Result: {ANSWER}\n" in shown
    assert "Speculative efficiency: 0.0\n" in shown
    assert [request.model for request in provider.requests] == ["gpt-4"]


@pytest.mark.slow
def test_a70_a_verification_flow_judges_what_an_executor_answered(
    provider: ProviderServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run(VERIFICATION)

    shown = capsys.readouterr().out
    assert "Verification result: True\n" in shown
    assert "Verification feedback: It explains the concept.\n" in shown
    assert provider.count == 3


@pytest.mark.slow
def test_a70_documents_are_read_along_a_graph(provider: ProviderServer, capsys: pytest.CaptureFixture[str]) -> None:
    run(GASA)

    shown = capsys.readouterr().out
    assert f"Result: {ANSWER}\n" in shown
    assert "'fallback_reason': 'there are no documents'" in shown, "the page leaves them to its reader"


@pytest.mark.slow
def test_a70_documents_that_a_reader_puts_in_reach_the_model(
    provider: ProviderServer, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = '[{"id": "a", "content": "Tea is from China."}, {"id": "b", "content": "So is silk."}]'
    edges = 'for name in "ab": graph.add_document_node({"id": name})\n    graph.add_edge("b", "a")'

    run(GASA.replace("[...]", documents).replace("# Add nodes and edges to the graph", edges))

    shown = capsys.readouterr().out
    [asked] = provider.requests
    places = [asked.prompt.index(text) for text in ("Tea is from China.", "So is silk.", "Summarize these documents:")]
    assert places == sorted(places)
    assert "'strategy': 'prompt_composer'" in shown
    assert "'unknown_nodes': 0" in shown
