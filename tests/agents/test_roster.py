"""AgentRegistry: agents by name, and what a run is told of them."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

import pytest

from planloom.agents.reasoning import Reasoner
from planloom.agents.roster import AgentRegistry
from planloom.errors import AgentNotFoundError, ConfigError, PlanError
from planloom.models.llm import LLM
from planloom.plan.policy import Effects
from planloom.testing.models import ScriptedModel
from planloom.tools.registry import ToolRegistry


class Greeter:
    effects = "none"

    async def run_step(self, request: Any, context: dict[str, Any]) -> str:
        return f"hello {request}"


async def planner(value: Any) -> Any:
    return value


def test_agents_go_by_their_own_name_or_the_one_they_are_given() -> None:
    registry = AgentRegistry()

    registry.register(Greeter())
    registry.register(planner)
    registry.register(Reasoner(name="writer", model="scripted://echo"))
    registry.register(Greeter(), "Second")

    assert registry.names() == ["Greeter", "planner", "writer", "Second"]
    assert set(registry.all()) == set(registry.names())
    assert registry.unregister("Second").effects == "none"
    assert "Second" not in registry


def test_a54_an_unknown_agent_is_an_error_with_suggestions() -> None:
    registry = AgentRegistry({"Planner": planner, "Writer": planner})

    with pytest.raises(AgentNotFoundError, match="did you mean 'Planner'") as caught:
        registry.get("Plannr")

    assert caught.value.suggestions[0] == "Planner"
    assert isinstance(caught.value, PlanError)
    assert caught.value.to_dict()["suggestions"] == ["Planner"]


def test_a54_a_registered_agent_is_there_after_a_collection() -> None:
    registry = AgentRegistry()
    registry.register(Greeter(), "g")

    gc.collect()

    assert isinstance(registry.get("g"), Greeter)


def test_a_name_means_one_agent_until_it_is_replaced_in_so_many_words() -> None:
    registry = AgentRegistry({"a": planner})

    with pytest.raises(ConfigError, match="already"):
        registry.register(Greeter(), "a")
    registry.register(Greeter(), "a", replace=True)

    assert isinstance(registry.get("a"), Greeter)


def test_what_cannot_be_asked_is_no_agent() -> None:
    with pytest.raises(ConfigError, match="no agent"):
        AgentRegistry().register(7, "seven")


def test_facts_of_a_reasoner_tell_its_model_and_that_thinking_has_no_effect() -> None:
    model = ScriptedModel(["x"])
    registry = AgentRegistry(
        [Reasoner(name="own", model=model), Reasoner(name="shared", model="fast"), Reasoner(name="far", model="x://y")]
    )

    facts = {name: registry.facts(name) for name in registry}

    assert (facts["own"].model, facts["own"].effects) == ("agent:own", Effects.NONE)
    assert facts["shared"].model == "fast"
    assert registry.models() == {"agent:own": model, "agent:far": "x://y"}
    assert registry.model_of("shared") == "fast"


def test_facts_of_another_kind_of_agent_tell_what_it_declares() -> None:
    registry = AgentRegistry({"greeter": Greeter(), "planner": planner})

    assert registry.facts("greeter").effects is Effects.NONE
    assert registry.facts("planner").effects is None
    assert registry.facts("planner").model is None
    assert registry.model_of("planner") is None
    assert len(registry.facts("planner").digest) == 64


def test_whatever_changes_how_a_reasoner_works_changes_its_digest() -> None:
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    model = LLM.from_uri("scripted://echo")
    made = [
        Reasoner(name="a", model=model),
        Reasoner(name="a", model="scripted://other"),
        Reasoner(name="a", model=model, system="be brief"),
        Reasoner(name="a", model=model, temperature=0.1),
        Reasoner(name="a", model=model, tools=ToolRegistry([add])),
        Reasoner(name="a", model=model, output_schema={"type": "string"}),
    ]

    assert len({one.digest for one in made}) == len(made)
    assert Reasoner(name="a", model=model).digest == made[0].digest


def test_something_with_a_definition_is_what_it_defines() -> None:
    @dataclass
    class Wrapped:
        definition: Reasoner

        def run(self, value: Any) -> Any:
            return value

    definition = Reasoner(name="inner", model="scripted://echo")
    registry = AgentRegistry({"w": Wrapped(definition)})

    assert registry.definition("w") is definition
    assert registry.facts("w").model == "agent:w"


@pytest.mark.parametrize(
    "wrong",
    [{"name": ""}, {"max_iterations": 0}, {"temperature": 3}, {"max_tokens": True}, {"output_schema": {"type": 7}}],
)
def test_a_definition_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Reasoner(**{"name": "a", "model": "scripted://echo"} | wrong)
