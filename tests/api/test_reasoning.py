"""ReasoningAgent: sync and async, alone and many at once, in a web application, with memory and with forms."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, field_validator

from planloom.agents.memory import AgentMemory
from planloom.agents.reasoning import Reasoner
from planloom.agents.roster import AgentRegistry
from planloom.api.agent_factory import create_agent, create_gemma_agent, tools_of
from planloom.api.reasoning import AgentResponse, ReasoningAgent
from planloom.api.shared_state import SharedState
from planloom.core.chat import Message, ModelCall
from planloom.core.result import Usage
from planloom.errors import ArgumentsError, ConfigError, ModelError, OutputError
from planloom.journal.memory import MemoryJournal
from planloom.models.llm import LLM
from planloom.plan.policy import Effects
from planloom.testing.models import FunctionModel, ScriptedModel
from planloom.testing.provider import ProviderServer, Reply
from planloom.tools.standard import get_default_tools

PLAN = {"has_sufficient_info": True, "reasoning": "add", "tasks": [{"description": "add them", "tool_name": "add"}]}
ARGUMENTS = {"a": 42, "b": 17}
DONE = {"is_complete": True, "reasoning": "done", "missing_steps": [], "next_action": None}
ANSWERS = [PLAN, ARGUMENTS, DONE]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def phase(call: ModelCall) -> str:
    text = call.messages[-1].content
    return "plan" if "Plan what" in text else "arguments" if "Write the arguments" in text else "check"


def always(call: ModelCall) -> Any:
    """Answer as ANSWERS do, whoever asks first."""
    return {"plan": PLAN, "arguments": ARGUMENTS, "check": DONE}[phase(call)]


def agent(answers: Sequence[Any] = ANSWERS, **options: Any) -> ReasoningAgent:
    return create_agent(ScriptedModel(answers), [add], **options)


# --- one task ---------------------------------------------------------------------------------


def test_a39_run_works_in_a_plain_script() -> None:
    response = agent().run("42 + 17?")

    assert isinstance(response, AgentResponse)
    assert response.result == 59
    assert response.metrics.llm_calls == 3
    assert response.execution_history[0]["tool"] == "add"
    assert response.completion_status["is_complete"]
    assert response.to_dict()["metrics"]["success_rate"] == 1.0


def test_a39_run_inside_a_running_loop_is_a_clear_error() -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match=r"arun"):
            agent().run("42 + 17?")

    asyncio.run(main())


def test_a39_arun_works_in_one_event_loop_after_the_other() -> None:
    one = create_agent(FunctionModel(always), [add])

    results = [asyncio.run(one.arun("42 + 17?", return_metrics=False)) for _ in range(2)]

    assert results == [59, 59]
    assert one.run("42 + 17?", return_metrics=False) == 59


@pytest.mark.slow
def test_a39_a_hosted_model_is_asked_in_one_event_loop_after_the_other() -> None:
    def answer(request: Any) -> Reply:
        return Reply(
            text=json.dumps({"Plan what": PLAN, "Write the": ARGUMENTS, "Look at": DONE}[_word(request.prompt)])
        )

    with ProviderServer(answer) as server:
        one = create_gemma_agent(server.openai_url, api_key="sk-any", tools=[add], temperature=0.1)

        results = [one.run("42 + 17?", return_metrics=False) for _ in range(2)]

    assert results == [59, 59]
    assert {request.temperature for request in server.requests} == {0.1}
    assert {request.model for request in server.requests} == {"gemma3:27b"}


def _word(text: str) -> str:
    return next(word for word in ("Plan what", "Write the", "Look at") if word in text)


def test_a40_without_metrics_the_result_comes_bare() -> None:
    assert agent().run("42 + 17?", return_metrics=False) == 59


@pytest.mark.parametrize("bare", [True, False])
def test_a40_not_enough_to_go_on_is_a_response_like_any_other(bare: bool) -> None:
    one = agent([{"has_sufficient_info": False, "reasoning": "which numbers?", "tasks": []}])

    response = one.run("add them", return_metrics=not bare)

    if bare:
        assert response == "which numbers?"
    else:
        assert isinstance(response, AgentResponse)
        assert (response.result, response.metrics.task_completed) == ("which numbers?", False)


def test_a40_two_iterations_that_complete_nothing_are_told_as_such() -> None:
    response = agent([PLAN, ARGUMENTS, DONE | {"is_complete": False}] * 2, max_iterations=2).run("more")

    assert not response.metrics.task_completed
    assert response.metrics.total_iterations == 2


def test_a40_tasks_at_the_same_time_keep_metrics_of_their_own() -> None:
    def answer(call: ModelCall) -> Any:
        wanted = int(call.messages[1].content.split()[-1])
        tasks = [{"description": f"task {place}", "tool_name": "add"} for place in range(wanted)]
        found = {"plan": PLAN | {"tasks": tasks}, "arguments": ARGUMENTS, "check": DONE | {"answer": f"did {wanted}"}}
        return found[phase(call)]

    one = create_agent(FunctionModel(answer, usage=Usage(10, 5, 1)), [add])

    async def main() -> list[AgentResponse]:
        return await asyncio.gather(*(one.arun(f"do {count}") for count in (1, 2, 3)))

    responses = asyncio.run(main())

    assert [one.result for one in responses] == ["did 1", "did 2", "did 3"]
    assert [one.metrics.tool_executions for one in responses] == [1, 2, 3]
    assert [one.metrics.llm_calls for one in responses] == [3, 4, 5]
    assert [one.metrics.total_tokens for one in responses] == [45, 60, 75]


def test_a_models_own_error_is_raised_as_it_is() -> None:
    error = ModelError("down for maintenance")

    with pytest.raises(ModelError) as caught:
        agent([PLAN, error]).run("x")

    assert caught.value is error


def test_a49_an_answer_that_never_fits_is_an_error_of_the_output() -> None:
    with pytest.raises(OutputError, match="asked twice"):
        agent([*ANSWERS, "prose", "more prose"], output_schema={"type": "object"}).run("x")


# --- many at once -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a47_a_thousand_tasks_keep_to_their_limit_and_their_order() -> None:
    now = peak = 0

    async def answer(call: ModelCall) -> Any:
        nonlocal now, peak
        now += 1
        peak = max(peak, now)
        await asyncio.sleep(0)
        now -= 1
        number = int(call.messages[1].content.split()[-1])
        if phase(call) == "plan" and number == 500:
            raise ModelError("this one fails")
        return {"plan": {"has_sufficient_info": True, "tasks": []}, "check": DONE | {"answer": f"{number}"}}[
            "plan" if phase(call) == "plan" else "check"
        ]

    one = create_agent(FunctionModel(answer))

    results = asyncio.run(
        one.arun_many(
            (f"task {number}" for number in range(1_000)), limit=5, return_metrics=False, return_exceptions=True
        )
    )

    assert peak == 5
    assert isinstance(results[500], ModelError)
    assert [result for place, result in enumerate(results) if place != 500] == [
        str(number) for number in range(1_000) if number != 500
    ]


def test_a47_without_return_exceptions_the_first_failure_stops_the_others() -> None:
    asked: list[str] = []

    async def answer(call: ModelCall) -> Any:
        task = call.messages[1].content
        asked.append(task)
        if task.endswith("0"):
            raise ModelError("down")
        await asyncio.Event().wait()

    one = create_agent(FunctionModel(answer))

    with pytest.raises(ModelError, match="down"):
        one.run_many([f"task {number}" for number in range(10)], limit=3)
    assert len(asked) <= 4


def test_a_limit_that_lets_nothing_begin_is_refused() -> None:
    with pytest.raises(ConfigError, match="limit=0"):
        agent().run_many(["x"], limit=0)


# --- the event loop ---------------------------------------------------------------------------

USER: ContextVar[str] = ContextVar("user", default="nobody")


def nap(a: int, b: int) -> str:
    """Sleep, then tell who asked and where."""
    time.sleep(0.5)
    return f"{USER.get()} in {threading.current_thread().name}"


def napping() -> ReasoningAgent:
    return create_agent(FunctionModel(always), {"add": nap})


@pytest.mark.slow
@pytest.mark.timing
def test_a38_a_sync_tool_does_not_hold_up_the_event_loop() -> None:
    one = napping()
    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.01)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    async def main() -> Any:
        await one.arun("warm up")
        ticking = asyncio.create_task(tick())
        USER.set("ada")
        result = await one.arun("42 + 17?", return_metrics=False)
        ticking.cancel()
        return result

    result = asyncio.run(main())

    assert result.startswith("ada in planloom-tool")
    assert len(gaps) > 20
    assert max(gaps) < 0.05


@pytest.mark.slow
@pytest.mark.timing
def test_a38_twenty_requests_to_a_web_application_take_as_long_as_one() -> None:
    app, one = FastAPI(), napping()

    @app.post("/agent/query")
    async def query(question: str) -> dict[str, Any]:
        USER.set(question)
        response = await one.arun(question, return_metrics=True)
        return {"result": response.result, "metrics": response.metrics.to_dict()}

    async def main() -> tuple[float, list[Any]]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
            await client.post("/agent/query", params={"question": "warm up"})
            began_at = time.perf_counter()
            asking = (client.post("/agent/query", params={"question": f"user {place}"}) for place in range(20))
            replies = await asyncio.gather(*asking)
            return time.perf_counter() - began_at, [reply.json() for reply in replies]

    wall_s, replies = asyncio.run(main())

    assert [reply["result"].partition(" in ")[0] for reply in replies] == [f"user {place}" for place in range(20)]
    assert all(reply["metrics"]["tool_executions"] == 1 for reply in replies)
    assert wall_s < 1.5


# --- what it keeps ----------------------------------------------------------------------------


def direct(*texts: str) -> list[Any]:
    """Return answers to tasks that need no tool."""
    found: list[Any] = []
    for text in texts:
        found += [{"has_sufficient_info": True, "tasks": []}, text, DONE]
    return found


def test_nothing_is_kept_from_one_task_to_the_next_unless_memory_is_asked_for() -> None:
    model = ScriptedModel(direct("hello Ada", "nobody"))
    one = create_agent(model)

    one.run("I am Ada")
    one.run("who am I?")

    assert not any("I am Ada" in message.content for message in model.calls[3].messages)
    assert one.memory is None


def test_with_memory_a_task_is_told_what_was_said_before() -> None:
    model = ScriptedModel(direct("hello Ada", "you are Ada"))
    one = create_agent(model, enable_memory=True)

    one.run("I am Ada")
    one.run("who am I?")

    assert [message.content for message in model.calls[3].messages[1:3]] == ["I am Ada", "hello Ada"]
    assert one.memory is not None
    assert [message.role for message in one.memory.messages] == ["user", "assistant"] * 2


def test_a49_what_a_task_is_told_of_before_keeps_to_its_budget_with_one_summary() -> None:
    model = ScriptedModel(direct(*["word " * 200] * 4))
    summed_up: list[int] = []

    async def summarise(messages: list[Message]) -> str:
        summed_up.append(len(messages))
        return "much was said"

    one = create_agent(model, enable_memory=True, max_context_tokens=600, summarise=summarise)

    for number in range(4):
        one.run(f"task {number}")

    assert len(summed_up) == 1
    assert "much was said" in model.calls[9].messages[1].content
    told = [sum(len(one.content) for one in model.calls[place].messages[1:-2]) for place in (3, 6, 9)]
    assert max(told) <= 600 * 4 + 200


def test_a_result_goes_into_the_state_under_its_key() -> None:
    plain: dict[str, Any] = {}
    shared = SharedState()

    agent(output_key="sum", state=plain).run("x")
    agent(output_key="sum", state=shared).run("x")
    own = agent(output_key="sum")
    own.run("x")

    assert (plain["sum"], shared.get("sum"), own.state) == (59, 59, {"sum": 59})
    with pytest.raises(ConfigError, match="state is a list"):
        agent(output_key="sum", state=[])


def test_verbose_tells_the_log_what_was_done(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "planloom.agent"):
        agent(verbose=True).run("x")
        agent().run("x")

    assert sum("add them with add: completed" in record.getMessage() for record in caplog.records) == 1


def test_a_task_on_record_is_not_done_again() -> None:
    model, journal = ScriptedModel(ANSWERS), MemoryJournal()
    one = create_agent(model, [add], journal=journal)

    first = one.run("42 + 17?", run_id="r1")
    second = one.run("42 + 17?", run_id="r1")

    assert (first.result, first.metrics.llm_calls) == (second.result, second.metrics.llm_calls) == (59, 3)
    assert len(model.calls) == 3
    with pytest.raises(ConfigError, match="another task"):
        one.run("another", run_id="r1")
    with pytest.raises(ConfigError, match="no journal"):
        agent().run("x", run_id="r1")


# --- forms ------------------------------------------------------------------------------------


class Question(BaseModel):
    first: int
    second: int


class Sum(BaseModel):
    total: int


def test_pydantic_models_are_the_form_of_tasks_and_results() -> None:
    model = ScriptedModel([*ANSWERS, {"total": 59}])
    one = create_agent(model, [add], input_schema=Question, output_schema=Sum)

    response = one.run({"first": 42, "second": 17})

    assert response.result == Sum(total=59)
    assert response.to_dict()["result"] == {"total": 59}
    assert '"first": 42' in model.calls[0].messages[1].content
    with pytest.raises(ArgumentsError, match="Question"):
        one.run({"first": "x"})


def test_a_task_that_does_not_fit_a_json_schema_is_an_error_before_the_model_is_asked() -> None:
    model = ScriptedModel(ANSWERS)
    one = create_agent(model, input_schema={"type": "object"})

    with pytest.raises(ArgumentsError, match="does not fit its schema"):
        one.run("text")
    assert model.calls == []


# --- tools ------------------------------------------------------------------------------------


class AddArguments(BaseModel):
    a: int
    b: int


class Foreign:
    """A tool as other frameworks have them."""

    name = "add"
    description = "Add two numbers."
    args_schema = AddArguments
    effects = "none"

    def run(self, tool_input: dict[str, Any]) -> Any:
        return tool_input["a"] + tool_input["b"]


class AsyncForeign(Foreign):
    async def arun(self, tool_input: dict[str, Any]) -> Any:
        return self.run(tool_input)


@pytest.mark.parametrize("tools", [[add], add, {"add": add}, [Foreign()], Foreign(), [AsyncForeign()], tools_of([add])])
def test_tools_come_in_every_form(tools: Any) -> None:
    one = create_agent(ScriptedModel(ANSWERS), tools)

    assert one.run("42 + 17?", return_metrics=False) == 59


def test_a_foreign_tool_keeps_its_description_schema_and_effects() -> None:
    (made,) = tools_of([AsyncForeign()])

    assert (made.name, made.description, made.effects, made.is_async) == ("add", "Add two numbers.", Effects.NONE, True)
    assert set(made.schema["properties"]) == {"a", "b"}


def test_the_standard_tools_are_tools_of_an_agent() -> None:
    one = create_agent(ScriptedModel(ANSWERS), get_default_tools())

    assert one.definition.tools is not None
    assert len(one.definition.tools) == len(get_default_tools())


# --- making one -------------------------------------------------------------------------------


def test_an_agent_can_be_registered_for_plans() -> None:
    one = agent(name="adder")

    assert AgentRegistry([one]).definition("adder") is one.definition


def test_what_reaches_every_call_of_the_model() -> None:
    model = ScriptedModel(ANSWERS)

    create_agent(model, [add], temperature=0.1, max_tokens=99, top_p=0.5, options={"seed": 7}, system="Be brief.").run(
        "x"
    )

    assert {(call.temperature, call.max_tokens) for call in model.calls} == {(0.1, 99)}
    assert all(call.options == {"top_p": 0.5, "seed": 7} for call in model.calls)
    assert all(call.messages[0].content.startswith("Be brief.") for call in model.calls)


def test_the_gemma_agent_has_the_settings_of_its_name() -> None:
    one = create_gemma_agent()

    assert isinstance(one.definition, Reasoner)
    assert isinstance(one.definition.model, LLM)
    assert str(one.definition.model.uri).startswith("openai://gemma3:27b?base_url=")
    assert (one.definition.temperature, one.definition.max_iterations) == (0.7, 10)


def test_a_key_is_sent_and_shown_nowhere() -> None:
    key = "sk-very-secret-key"
    with ProviderServer([Reply(text=json.dumps({"has_sufficient_info": False, "reasoning": "?"}))], key=key) as server:
        one = create_gemma_agent(server.openai_url, api_key=key)
        response = one.run("x")

    assert response.result == "?"
    assert key not in f"{one!r} {one.definition.model!r} {vars(one.definition.model)} {response!r}"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"top_k": 40}, "top_k"),
        ({"memory_backend": "vector"}, "enable_memory"),
        ({"memory": AgentMemory()}, "enable_memory"),
        ({"enable_memory": True, "memory": AgentMemory(), "memory_backend": "vector"}, "memory= alone"),
        ({"input_schema": 7}, "no schema"),
        ({"max_iterations": 0}, "max_iterations"),
    ],
)
def test_what_cannot_be_done_is_an_error_when_the_agent_is_made(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        create_gemma_agent(**options)


class Even(BaseModel):
    total: int

    @field_validator("total")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("it is odd")
        return value


def test_a_result_that_only_its_form_refuses_is_an_error_of_the_output() -> None:
    one = create_agent(ScriptedModel([*ANSWERS, {"total": 59}]), [add], output_schema=Even)

    with pytest.raises(OutputError, match="the result is no Even: total: Value error, it is odd"):
        one.run("42 + 17?")
