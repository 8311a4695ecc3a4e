"""What doing an agent's step again would do: a tool that may be called only once is, whatever its step says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from planloom import Engine, Reasoner, RetryConfig, StepExecutor, ToolRegistry
from planloom.agents.roster import AgentRegistry
from planloom.core.result import RunResult
from planloom.errors import PlanError
from planloom.plan.policy import Effects
from planloom.testing.models import ScriptedModel
from planloom.tools.tool import Tool

TASKS = [{"description": "send it", "tool_name": "send"}]
PLAN = {"has_sufficient_info": True, "tasks": TASKS}
ANSWERS = [PLAN, {"to": "ann"}, {"is_complete": True, "answer": "sent"}]


class Post:
    """A tool that hangs when it is called for the first time."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send(self, to: str) -> str:
        self.sent.append(to)
        if len(self.sent) == 1:
            await asyncio.Event().wait()
        return "ok"

    def agent(self, effects: str | None = "once", answers: Any = ANSWERS) -> Reasoner:
        tools = ToolRegistry([Tool.from_function(self.send, name="send", effects=effects)])
        return Reasoner(name="clerk", model=ScriptedModel(answers * 3), tools=tools)


class Foreign:
    def __init__(self, effects: str | None = None) -> None:
        self.effects = effects
        self.asked = 0

    async def arun(self, value: Any) -> int:
        self.asked += 1
        return self.asked


def run(agents: Any, *steps: dict[str, Any]) -> RunResult:
    async def main() -> RunResult:
        async with Engine(tools=(), agents=agents) as engine:
            return await engine.run({"planloom": 1, "name": "p", "steps": list(steps)})

    return asyncio.run(main())


def step(name: str = "s", **fields: Any) -> dict[str, Any]:
    return {"id": name, "agent": "clerk", "prompt": "send it", **fields}


def test_a_once_tool_that_hangs_is_not_called_again_by_a_step_executor() -> None:
    post = Post()

    async def main() -> dict[str, Any]:
        again = RetryConfig(max_attempts=3, initial_delay=0)
        async with StepExecutor([post.agent()], again, timeout_seconds=0.05) as executor:
            return await executor.execute_agent_step("clerk", "send it")

    answer = asyncio.run(main())

    assert answer["error_type"] == "timeout"
    assert post.sent == ["ann"]


@pytest.mark.parametrize("effects", ["none", "idempotent"])
def test_a_plan_cannot_say_that_an_agent_does_less_than_its_tools_do(effects: str) -> None:
    with pytest.raises(PlanError, match="agent 'clerk' with its tools declares 'once'"):
        run([Post().agent()], step(effects=effects))


def test_a_plan_cannot_say_that_an_agent_does_less_than_it_says_itself() -> None:
    with pytest.raises(PlanError, match="declares 'once'"):
        run({"clerk": Foreign("once")}, step(effects="none"))


def test_who_registers_an_agent_knows_what_it_does() -> None:
    agents = AgentRegistry()
    agents.register(Foreign("once"), "clerk", effects="none")

    result = run(agents, step("a", cache=True), step("b", cache=True, needs=["a"]))

    assert [one.output for one in result.steps] == [1, 1]
    assert agents.facts("clerk").effects is Effects.NONE
    assert agents.with_others({"other": Foreign()}).facts("clerk").effects is Effects.NONE


def test_what_was_said_of_an_agent_goes_with_it() -> None:
    agents = AgentRegistry()
    agents.register(Foreign("once"), "clerk", effects="none")

    agents.register(Foreign("once"), "clerk", replace=True)

    assert agents.facts("clerk").effects is Effects.ONCE


def test_an_agent_that_declares_no_effects_can_be_reused() -> None:
    agent = Foreign("none")

    result = run({"clerk": agent}, step("a", cache=True), step("b", cache=True, needs=["a"]))

    assert [one.output for one in result.steps] == [1, 1]
    assert agent.asked == 1


@pytest.mark.parametrize(
    "agent",
    [Foreign(), Foreign("once"), Foreign("idempotent"), Post().agent()],
    ids=["silent", "once", "idempotent", "reasoner"],
)
@pytest.mark.parametrize(
    "field", [{"cache": True}, {"verify": {"strategy": "basic", "refinement": "retry"}}], ids=["cache", "verify"]
)
def test_an_agent_that_may_change_something_is_not_done_again_for_the_sake_of_it(agent: Any, field: Any) -> None:
    with pytest.raises(PlanError, match=r"its effects are '(once|idempotent)'"):
        run({"clerk": agent}, step(**field))


def test_a_reasoning_agent_whose_tools_change_nothing_can_be_reused() -> None:
    post = Post()
    post.sent.append("before")

    result = run([post.agent("none")], step("a", cache=True), step("b", cache=True, needs=["a"]))

    assert [one.output for one in result.steps] == ["sent", "sent"]
    assert post.sent == ["before", "ann"]


def test_a_step_that_leaves_out_what_changes_something_can_be_reused() -> None:
    agent = Post().agent(answers=[{"has_sufficient_info": True, "tasks": []}, "hello", {"is_complete": True}])

    result = run([agent], step("a", cache=True, agent={"name": "clerk", "tools": []}))

    assert result.output == "hello"
