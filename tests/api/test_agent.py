"""Agent: every door leads to what it says, with the agent's model, tools and documents."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from planloom.api.agent import Agent, AgentConfig
from planloom.api.executor import ExecutorConfig
from planloom.core.prices import ModelPrice
from planloom.core.result import Usage
from planloom.errors import ConfigError, ModelError, UnknownFieldError
from planloom.models.scripted import FunctionModel, ScriptedModel, echo, register, unregister
from planloom.testing.fakes import fake_tool

ECHO = AgentConfig(model_uri="scripted://echo")


def test_a69_an_answer_is_a_dict_with_its_text_and_what_it_took() -> None:
    model = ScriptedModel(["Because."], usage=Usage(12, 3, requests=1), price=ModelPrice(1.0, 2.0))

    answer = asyncio.run(Agent(ECHO, model=model).execute("Why?"))

    assert answer["text"] == "Because."
    assert answer["usage"]["total_tokens"] == 15
    assert answer["cost"] == pytest.approx(18e-6)
    assert answer["metadata"]["provider"] == "scripted"


def test_run_answers_outside_of_an_event_loop_and_refuses_inside() -> None:
    agent = Agent(ECHO)

    async def inside() -> None:
        agent.run("Why?")

    assert agent.run("Say this.")["text"] == "Say this."
    with pytest.raises(ConfigError, match="execute"):
        asyncio.run(inside())


def test_every_question_is_asked_with_the_documents_that_were_added() -> None:
    agent = Agent(ECHO)
    agent.add_document("The tower is 330 m tall.")
    agent.add_documents([{"title": "Town", "content": "It stands in Paris."}])

    one = agent.run("How tall?", documents=["It was built in 1889."])["text"]
    other = agent.run("Where?")["text"]

    assert all(part in one for part in ("330 m", "Paris", "1889", "How tall?"))
    assert "1889" not in other
    assert "330 m" in other
    assert len(agent.documents) == 2


def test_documents_are_found_again_by_what_they_are_about() -> None:
    agent = Agent(ECHO)
    agent.add_documents([{"id": "tower", "content": "It stands in Paris."}, {"id": "bridge", "content": "In London."}])

    found = agent.retrieve("What is there in Paris?")

    assert [one.id for one in found] == ["tower"]


def test_what_is_no_document_is_refused_when_it_is_added() -> None:
    agent = Agent(ECHO)

    with pytest.raises(ConfigError, match="document"):
        agent.add_document(7)
    with pytest.raises(ConfigError, match="document 2"):
        agent.add_documents(["fine", {"words": "not so"}])
    assert agent.documents == ()


def test_its_settings_reach_the_model() -> None:
    model = FunctionModel(echo)
    config = AgentConfig(model_uri="scripted://echo", system="Be brief.", executor=ExecutorConfig(max_tokens=7))

    Agent(config, model=model).run("Why?", temperature=0.1)

    call = model.calls[0]
    assert (call.messages[0].content, call.max_tokens, call.temperature) == ("Be brief.", 7, 0.1)


def test_what_the_model_raises_is_raised() -> None:
    error = ModelError("overloaded")

    with pytest.raises(ModelError) as raised:
        Agent(ECHO, model=ScriptedModel([error])).run("Why?")

    assert raised.value is error


def test_an_unknown_key_is_an_error_that_lists_the_keys_there_are() -> None:
    with pytest.raises(UnknownFieldError, match="model_uri"):
        AgentConfig(model="openai://gpt-4")
    with pytest.raises(ConfigError, match="model_uri"):
        AgentConfig()


def test_a_plan_is_written_by_its_model_and_carried_out_with_its_tools_and_its_model() -> None:
    plan = {
        "planloom": 1,
        "name": "greet",
        "steps": [
            {"id": "name", "tool": "people.name"},
            {"id": "greet", "model": "default", "prompt": "Greet ${{ steps.name.output }}."},
        ],
    }
    model = ScriptedModel([plan, "Hello, Ada!"])
    agent = Agent(ECHO, model=model, tools=[fake_tool("people.name", lambda: "Ada", description="The name.")])

    async def main() -> tuple[Any, dict[str, Any]]:
        made = await agent.plan("Greet whoever it is.")
        return made, await agent.execute_plan(made)

    made, result = asyncio.run(main())

    assert [step.id for step in made.steps] == ["name", "greet"]
    assert (result["status"], result["result"]) == ("success", "Hello, Ada!")
    assert "Greet Ada." in model.calls[1].messages[-1].content


def test_another_model_plans_and_another_judges_where_they_are_named() -> None:
    names = ("relevance", "accuracy", "completeness", "clarity")
    judged = {"scores": dict.fromkeys(names, 0.9), "critique": "good", "suggestions": []}
    planner = register("planner", [{"planloom": 1, "steps": [{"id": "a", "model": "default", "prompt": "Go."}]}])
    judge = register("judge", [judged])
    own = ScriptedModel([])
    config = AgentConfig(
        model_uri="scripted://echo", planner_model_uri="scripted://planner", judge_model_uri="scripted://judge"
    )
    agent = Agent(config, model=own, tools=[])

    async def main() -> float | None:
        await agent.plan("Go.")
        return (await agent.judge_output("It went.", "Go.")).overall_score

    try:
        score = asyncio.run(main())
    finally:
        unregister("planner")
        unregister("judge")

    assert score == pytest.approx(0.9)
    assert isinstance(planner, ScriptedModel)
    assert isinstance(judge, ScriptedModel)
    assert (len(planner.calls), len(judge.calls), len(own.calls)) == (1, 1, 0)


def test_its_own_model_judges_by_the_rubric_given() -> None:
    model = ScriptedModel([{"scores": {"style": 0.2}, "critique": "dull", "suggestions": ["shorter"]}])

    judgement = asyncio.run(Agent(ECHO, model=model).judge_output("It went.", "Go.", {"style": 1.0}))

    assert (judgement.passed, judgement.critique) == (False, "dull")
