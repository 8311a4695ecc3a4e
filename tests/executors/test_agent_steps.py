"""Agent steps of plans: what they ask, may use and cost, what is on record, and what is asked for after a crash."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from planloom import Engine, RunResult, StepStatus, execute_plan
from planloom.agents.memory import AgentMemory
from planloom.agents.reasoning import Reasoner
from planloom.agents.roster import AgentRegistry
from planloom.core.chat import Message, ModelCall
from planloom.core.events import CallEnded, CallStarted
from planloom.core.prices import ModelPrice
from planloom.core.result import RunStatus, Usage
from planloom.errors import AgentNotFoundError, NotAllowedError
from planloom.journal.memory import MemoryJournal
from planloom.plan.policy import Effects, ResourceLimits
from planloom.runtime.settings import AgentSetting, Settings
from planloom.testing.clock import ManualClock
from planloom.testing.models import FunctionModel, ScriptedModel
from planloom.tools.registry import ToolRegistry
from planloom.tools.tool import Tool

PLAN = {"has_sufficient_info": True, "reasoning": "add", "tasks": [{"description": "add them", "tool_name": "add"}]}
ARGUMENTS = {"a": 42, "b": 17}
DONE = {"is_complete": True, "reasoning": "done", "missing_steps": [], "next_action": None}
STEP = {"id": "sum", "agent": "adder", "prompt": "42 + 17?"}


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def tools(effects: str | None = "none", function: Any = add) -> ToolRegistry:
    return ToolRegistry([Tool.from_function(function, name="add", effects=effects)])


def plan(*steps: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    return {"planloom": 1, "name": "p", "steps": list(steps) or [STEP], **fields}


def adder(answers: Any = (PLAN, ARGUMENTS, DONE), **fields: Any) -> Reasoner:
    given: dict[str, Any] = {"name": "adder", "model": ScriptedModel(answers), "tools": tools()} | fields
    return Reasoner(**given)


def run(document: Any, *agents: Any, inputs: Any = None, **options: Any) -> RunResult:
    limits = options.pop("limits", None)
    allow = options.pop("run_allow", None)

    async def main() -> RunResult:
        async with Engine(**{"tools": (), "agents": agents} | options) as engine:
            return await engine.run(document, inputs, limits=limits, allow=allow)

    return asyncio.run(main())


def test_a23_an_agent_step_passes_validation_and_runs() -> None:
    result = run(
        plan(STEP, {"id": "next", "tool": "add", "with": {"a": "${{ steps.sum.output }}", "b": 1}}),
        adder(),
        tools=tools(),
    )

    assert result.status is RunStatus.SUCCESS
    assert result.output == 60
    step = result.step("sum")
    assert step.metadata is not None
    assert step.metadata["metrics"]["llm_calls"] == 3
    assert step.metadata["execution_history"][0]["result"] == 59
    assert step.metadata["completion_status"]["is_complete"]
    assert (result.tool_calls, step.usage and step.usage.requests) == (2, 3)


def test_a23_an_agent_step_runs_through_execute_plan() -> None:
    result = asyncio.run(execute_plan(plan(), tools=(), agents=[adder()]))

    assert result["result"] == 59


def test_an_agent_that_is_not_here_is_a_problem_of_the_plan() -> None:
    with pytest.raises(AgentNotFoundError, match="did you mean 'adder'") as caught:
        run(plan({"id": "sum", "agent": "addr", "prompt": "x"}), adder())

    assert caught.value.step == "sum"


def test_a_task_step_is_done_by_the_agent_called_default() -> None:
    model = ScriptedModel([{"has_sufficient_info": True, "tasks": []}, "sent", DONE])

    result = run(plan({"id": "t", "task": "Tell Ada that it rains."}), Reasoner(name="default", model=model))

    assert result.output == "sent"
    assert "Tell Ada that it rains." in model.calls[0].messages[-2].content


def test_agents_of_the_settings_have_the_engines_models_and_tools() -> None:
    settings = Settings(
        agents={"adder": AgentSetting(model="fast", tools=("add",), temperature=0.1, system="Be brief.")}
    )
    model = ScriptedModel([PLAN, ARGUMENTS, DONE])

    result = run(plan(), settings=settings, tools=tools(), models={"fast": model})

    assert result.output == 59
    assert {call.temperature for call in model.calls} == {0.1}
    assert model.calls[0].messages[0].content.startswith("Be brief.")


def test_what_an_agent_is_given_besides_its_prompt_is_told_and_memory_comes_before() -> None:
    model = ScriptedModel([{"has_sufficient_info": False, "reasoning": "?"}])
    step = STEP | {
        "with": {"city": "Oslo", "memory": [{"role": "user", "content": "I am Ada"}]},
        "system": "Step says.",
    }

    run(plan(step), adder(model=model, system="Agent says."))

    first, *_, memory, task, _ask = model.calls[0].messages
    assert first.content.startswith("Agent says.\n\nStep says.")
    assert memory.content == "I am Ada"
    assert "42 + 17?" in task.content
    assert "city:\nOslo" in task.content
    assert "memory" not in task.content


def test_a_task_that_is_not_completed_fails_its_step_and_is_not_tried_again() -> None:
    model = ScriptedModel([{"has_sufficient_info": False, "reasoning": "which numbers?"}])

    result = run(plan(STEP | {"retry": {"max_attempts": 3}}), adder(model=model))

    step = result.step("sum")
    assert (step.status, step.attempts) == (StepStatus.FAILED, 1)
    assert "which numbers?" in (step.error or "")
    assert step.output is None


def test_the_output_of_a_step_fits_the_steps_own_schema() -> None:
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}

    result = run(plan(STEP | {"output": schema}), adder([PLAN, ARGUMENTS, DONE, "59", {"sum": 59}]))

    assert result.output == {"sum": 59}


def test_input_that_does_not_fit_the_agents_schema_fails_before_its_model_is_asked() -> None:
    model = ScriptedModel([PLAN])
    step = {"id": "sum", "agent": "adder", "with": {"input": {"a": "x"}}}
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}

    result = run(plan(step), adder(model=model, input_schema=schema))

    assert "does not fit its schema" in (result.error or "")
    assert model.calls == []


# --- what it may use --------------------------------------------------------------------------


def two() -> ToolRegistry:
    def double(a: int) -> int:
        """Double a number."""
        return 2 * a

    return ToolRegistry([Tool.from_function(add, effects="none"), Tool.from_function(double, effects="none")])


@pytest.mark.parametrize(
    ("fields", "options", "known"),
    [
        ({}, {}, {"add", "double"}),
        ({"agent": {"name": "adder", "tools": ["add"]}}, {}, {"add"}),
        ({"tools": ["double"]}, {}, {"double"}),
        ({"tools": ["double"], "agent": {"name": "adder", "tools": ["add", "double"]}}, {}, {"double"}),
        ({}, {"run_allow": ["add"], "tools": tools()}, {"add"}),
        ({}, {"allow": [], "tools": tools()}, set()),
    ],
)
def test_an_agents_own_tools_are_narrowed_by_step_plan_and_caller(
    fields: dict[str, Any], options: dict[str, Any], known: set[str]
) -> None:
    model = ScriptedModel([{"has_sufficient_info": True, "tasks": []}, "x", DONE])

    result = run(plan(STEP | fields), adder(model=model, tools=two()), **options)

    assert result.status is RunStatus.SUCCESS, result.error
    asked = model.calls[0].messages[-1].content
    assert {name for name in ("add", "double") if f"- {name}(" in asked} == known


def test_a_tool_outside_an_allowlist_is_not_called_however_often_the_model_asks() -> None:
    called: list[int] = []

    def spy(a: int, b: int) -> int:
        """Add two numbers."""
        called.append(a)
        return a + b

    agent = adder([PLAN, DONE | {"is_complete": False}] * 2, tools=tools(function=spy), max_iterations=2)

    result = run(plan(allow=[]), agent)

    assert called == []
    assert "there is no tool 'add'" in (result.error or "")


def test_a_step_cannot_give_an_agent_tools_it_does_not_have() -> None:
    with pytest.raises(NotAllowedError, match="none of its own"):
        run(plan({"id": "sum", "agent": {"name": "adder", "tools": ["rm"]}, "prompt": "x"}), adder())


def test_an_agent_without_tools_of_its_own_has_those_its_step_names() -> None:
    result = run(plan(STEP | {"tools": ["add"]}), adder(tools=None), tools=tools())

    assert result.output == 59


# --- what it costs ----------------------------------------------------------------------------


def test_every_answer_and_every_tool_call_is_counted_and_paid_for() -> None:
    price = ModelPrice(1.0, 2.0, source="test")
    model = ScriptedModel([PLAN, ARGUMENTS, DONE], usage=Usage(1_000, 500, 1), price=price)
    paid = ToolRegistry([Tool.from_function(add, effects="none", cost_per_call=0.5)])

    result = run(plan(), adder(model=model, tools=paid))

    assert result.cost_usd == pytest.approx(3 * 0.002 + 0.5)
    assert result.usage == Usage(3_000, 1_500, 3)
    assert result.tool_calls == 1


def test_no_call_is_made_that_passes_a_limit() -> None:
    again = [PLAN, ARGUMENTS, DONE | {"is_complete": False}]
    model = ScriptedModel(again * 10)

    result = run(plan(), adder(model=model), limits=ResourceLimits(max_tool_calls=2, max_total_cost_usd=None))

    assert result.status is RunStatus.LIMIT_EXCEEDED
    assert result.exceeded_limits == ("max_tool_calls",)
    assert result.tool_calls == 2


# --- what is on record ------------------------------------------------------------------------


@dataclass
class Killed:
    """An engine that is let go of at a given call, and a second one that takes its run up."""

    answers: Mapping[str, Any]
    effects: str = "none"

    def __post_init__(self) -> None:
        self.asked: list[str] = []
        self.added: list[int] = []
        self.stop_at = ""
        self.reached = asyncio.Event()

    def answer(self, call: ModelCall) -> Any:
        text = call.messages[-1].content
        return next(value for word, value in self.answers.items() if word in text)

    async def respond(self, call: ModelCall) -> Any:
        text = call.messages[-1].content
        word = next(word for word in self.answers if word in text)
        self.asked.append(word)
        await self.wait_at(word)
        return self.answers[word]

    async def add(self, a: int, b: int) -> int:
        """Add two numbers."""
        self.added.append(a)
        await self.wait_at("tool")
        return a + b

    async def wait_at(self, what: str) -> None:
        if self.stop_at == what:
            self.stop_at = ""
            self.reached.set()
            await asyncio.Event().wait()

    async def through(self, stop_at: str) -> tuple[RunResult, list[Any]]:
        self.stop_at, journal = stop_at, MemoryJournal()
        agent = adder(model=FunctionModel(self.respond), tools=tools(self.effects, self.add))
        async with Engine(journal, tools=(), agents=[agent]) as first:
            await first.start(plan(), run_id="r")
            await self.reached.wait()
        async with Engine(journal, tools=(), agents=[agent]) as second:
            result = await second.finish(await second.resume("r"))
        return result, [one.event for one in await journal.read("r")]


ANSWERS = {"Plan what": PLAN, "Write the arguments": ARGUMENTS, "completed?": DONE}


@pytest.mark.parametrize("stop_at", ["Plan what", "Write the arguments", "tool", "completed?"])
def test_an_attempt_after_a_crash_asks_only_for_what_is_missing(stop_at: str) -> None:
    killed = Killed(ANSWERS)

    result, events = asyncio.run(killed.through(stop_at))

    assert result.output == 59
    assert killed.asked == sorted([*ANSWERS, *([stop_at] if stop_at in ANSWERS else [])], key=list(ANSWERS).index)
    assert len(killed.added) == (2 if stop_at == "tool" else 1)
    assert [one.kind for one in events if isinstance(one, CallEnded)] == ["model", "model", "tool", "model"]
    assert result.step("sum").metadata["metrics"]["llm_calls"] == 3  # type: ignore[index]  # an agent's has it


def test_a_once_tool_is_on_record_before_it_is_called_and_its_unknown_outcome_waits_for_a_person() -> None:
    killed = Killed(ANSWERS, effects="once")

    result, events = asyncio.run(killed.through("tool"))

    assert result.status is RunStatus.WAITING
    assert killed.added == [42]
    assert [one.name for one in events if isinstance(one, CallStarted)] == ["add"]


def test_a_once_tool_that_was_called_is_not_called_again_after_a_crash() -> None:
    killed = Killed(ANSWERS, effects="once")

    result, _ = asyncio.run(killed.through("completed?"))

    assert result.output == 59
    assert killed.added == [42]


def test_a_failed_attempt_is_tried_again_and_pays_for_no_answer_twice() -> None:
    model = ScriptedModel([PLAN, ARGUMENTS, ConnectionError("down"), DONE])
    step = STEP | {"retry": {"max_attempts": 2, "initial_delay": 0, "jitter": False}}

    result = run(plan(step), adder(model=model))

    assert result.output == 59
    assert result.step("sum").attempts == 2
    assert len(model.calls) == 4
    assert result.tool_calls == 1


def test_answers_of_no_use_are_asked_for_again_by_the_next_attempt() -> None:
    model = ScriptedModel([PLAN, ARGUMENTS, "prose", "more prose", DONE])
    step = STEP | {"retry": {"max_attempts": 2, "initial_delay": 0, "jitter": False}}

    result = run(plan(step), adder(model=model))

    assert result.output == 59
    assert len(model.calls) == 5


def test_a_once_tool_that_raises_is_not_called_so_again() -> None:
    called: list[int] = []

    def broken(a: int, b: int) -> int:
        """Add two numbers."""
        called.append(a)
        raise ConnectionError("who knows")

    agent = adder([PLAN, ARGUMENTS, DONE | {"is_complete": False}] * 2, tools=tools("once", broken), max_iterations=2)

    result = run(plan(), agent)

    assert called == [42]
    assert "not called again" in (result.error or "")


# --- agents of another kind -------------------------------------------------------------------


class Stepper:
    async def run_step(self, request: Any, context: dict[str, Any]) -> Any:
        memory = context["memory"]
        assert isinstance(memory, AgentMemory)
        return {"request": request, "said": [one.content for one in memory.messages], "more": context["metadata"]}


class Runner:
    def run(self, value: Any) -> Any:
        return f"{value} in {threading.current_thread().name}"


class Answer(BaseModel):
    text: str


class Asker:
    async def arun(self, value: Any) -> Any:
        return Answer(text=value)


async def caller(value: Any) -> Any:
    return Message("assistant", f"called with {value}")


def plain(value: Any) -> Any:
    return [value, threading.current_thread() is not threading.main_thread()]


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        (Asker(), {"text": "x"}),
        (plain, ["x", True]),
        (lambda value: value * 2, "xx"),
    ],
)
def test_an_agent_of_another_kind_is_asked_in_its_own_way(agent: Any, expected: Any) -> None:
    result = run(plan({"id": "a", "agent": "other", "prompt": "x"}), agents={"other": agent})

    assert result.output == expected


def test_a_sync_agent_runs_in_a_thread_of_the_pool_and_messages_come_as_json() -> None:
    agents = {"runner": Runner(), "caller": caller}

    result = run(
        plan({"id": "a", "agent": "runner", "prompt": "x"}, {"id": "b", "agent": "caller", "prompt": "y"}),
        agents=agents,
    )

    assert result.output["a"].endswith("planloom-tool")
    assert result.output["b"]["content"] == "called with y"


def test_an_agent_with_run_step_is_told_memory_and_metadata() -> None:
    memory = AgentMemory([Message("user", "before")]).to_dict()
    step = {"id": "a", "agent": "s", "with": {"input": {"q": 1}, "memory": memory, "metadata": {"from": "me"}}}

    result = run(plan(step), agents={"s": Stepper()})

    assert result.output == {"request": {"q": 1}, "said": ["before"], "more": {"from": "me"}}


def test_an_agent_of_another_kind_that_returns_no_json_fails_its_step() -> None:
    result = run(plan({"id": "a", "agent": "o", "prompt": "x"}), agents={"o": lambda _value: object()})

    assert "no JSON form" in (result.error or "")


def test_an_agent_of_another_kind_is_not_tried_again_unless_it_says_it_may_be() -> None:
    class Flaky:
        def __init__(self, effects: Effects | None) -> None:
            self.effects = effects
            self.calls = 0

        async def arun(self, value: Any) -> Any:
            self.calls += 1
            raise ConnectionError("down")

    retried, not_retried = Flaky(Effects.IDEMPOTENT), Flaky(None)
    step = {"id": "a", "agent": "o", "prompt": "x", "retry": {"max_attempts": 2, "initial_delay": 0}}

    run(plan(step | {"effects": "idempotent"}), agents={"o": retried})
    run(plan({name: value for name, value in step.items() if name != "retry"}), agents={"o": not_retried})

    assert (retried.calls, not_retried.calls) == (2, 1)


def test_an_agent_of_another_kind_cannot_have_its_tools_narrowed() -> None:
    result = run(
        plan({"id": "a", "agent": {"name": "o", "tools": ["add"]}, "prompt": "x"}), agents={"o": plain}, tools=tools()
    )

    assert "cannot be narrowed" in (result.error or "")


def test_two_agents_do_not_share_what_is_cached() -> None:
    def cached(name: str) -> dict[str, Any]:
        return {"id": name, "agent": name, "prompt": "x", "effects": "none", "cache": True}

    class One:
        effects = Effects.NONE

        async def arun(self, value: Any) -> Any:
            return "one"

    class Two(One):
        async def arun(self, value: Any) -> Any:
            return "two"

    result = run(
        plan(cached("a"), cached("b") | {"needs": ["a"]}), agents={"a": One(), "b": Two()}, clock=ManualClock()
    )

    assert (result.step("a").output, result.step("b").output) == ("one", "two")
    assert isinstance(AgentRegistry({"a": One()}), AgentRegistry)


@pytest.mark.parametrize("is_own", [True, False])
def test_a_tool_that_an_agents_model_may_not_use_is_not_called_and_the_denial_is_on_record(is_own: bool) -> None:
    called: list[str] = []

    def secrets() -> str:
        """Return what is none of its business."""
        called.append("secrets")
        return "hunter2"

    secret = Tool.from_function(secrets, name="users.passwords", effects="none")
    wish = PLAN | {"tasks": [{"description": "look", "tool_name": "functions.users.passwords"}]}
    own = [*tools(), secret] if is_own else [*tools()]
    agent = adder((wish, DONE | {"answer": "none"}), tools=ToolRegistry(own))

    async def main() -> tuple[RunResult, list[Any]]:
        async with Engine(tools=[*tools(), secret], agents=[agent]) as engine:
            result = await engine.run(plan(), allow=["add"], run_id="r")
            return result, [entry.event for entry in await engine.journal.read("r")]

    result, entries = asyncio.run(main())

    assert called == []
    assert result.status is RunStatus.SUCCESS
    assert result.tool_calls == 0
    (denied,) = [one for one in entries if isinstance(one, CallEnded) and one.error is not None]
    assert (denied.name, denied.kind, denied.error_types[0]) == ("users.passwords", "tool", "NotAllowedError")
    assert "may not use tool 'users.passwords'" in str(denied.error)
