"""The loop of a reasoning agent, without an engine: what it asks, what it does, what it counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from planloom.agents.metrics import AgentMetrics
from planloom.agents.reasoning import Reasoner
from planloom.agents.thinking import NOT_AGAIN, Thought, think
from planloom.core.asking import AGENT_BYTES, HISTORY_BYTES, prompt_ceiling
from planloom.core.chat import LLMResponse, Message, ModelCall
from planloom.core.result import Usage
from planloom.errors import ArgumentsError, InnerCallError, OutputError
from planloom.models.llm import LLM
from planloom.testing.models import ScriptedModel
from planloom.tools.registry import ToolRegistry

PLAN = {"has_sufficient_info": True, "reasoning": "add", "tasks": [{"description": "add them", "tool_name": "add"}]}
ARGUMENTS = {"a": 42, "b": 17}
DONE = {"is_complete": True, "reasoning": "done", "missing_steps": [], "next_action": None}
NOT_DONE = {"is_complete": False, "reasoning": "more", "missing_steps": ["double it"], "next_action": "double it"}


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def fail(a: int) -> int:
    """Fail."""
    raise ValueError(f"no {a}")


TOOLS = ToolRegistry([add, fail])


class Script:
    """A model's answers and the tools' calls, as a test looks at them."""

    def __init__(self, answers: Sequence[Any], *, unknown: bool = False) -> None:
        self.model = ScriptedModel(answers, usage=Usage(10, 5, 1))
        self.called: list[tuple[str, dict[str, Any]]] = []
        self._unknown = unknown

    async def ask(self, call: ModelCall) -> LLMResponse:
        return await LLM.of(self.model).ask(call)

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
        TOOLS.get(name).validate(arguments)
        self.called.append((name, arguments))
        try:
            return TOOLS.get(name).call(arguments)
        except ValueError as error:
            raise InnerCallError(str(error), is_unknown=self._unknown) from error

    def run(self, task: str = "42 + 17?", memory: Sequence[Message] = (), **agent: Any) -> Thought:
        given: dict[str, Any] = {"name": "a", "model": self.model, "tools": TOOLS} | agent
        definition = Reasoner(**given)
        return asyncio.run(think(definition, task, ask=self.ask, call_tool=self.call_tool, memory=memory))

    def said(self, place: int) -> str:
        return "\n".join(message.content for message in self.model.calls[place].messages)


def test_a40_one_tool_takes_three_answers_and_its_result_is_the_result() -> None:
    script = Script([PLAN, ARGUMENTS, DONE])

    thought = script.run()

    metrics = thought.metrics
    assert thought.result == 59
    assert (metrics.llm_calls, metrics.reasoning_calls, metrics.tool_executions) == (3, 1, 1)
    assert (metrics.successful_tool_calls, metrics.failed_tool_calls, metrics.completion_checks) == (1, 0, 1)
    assert (metrics.iterations_to_completion, metrics.total_iterations, metrics.task_completed) == (1, 1, True)
    assert metrics.to_dict()["avg_tokens_per_llm_call"] == 15
    assert metrics.to_dict()["success_rate"] == 1.0
    assert (metrics.total_input_tokens, metrics.total_output_tokens, metrics.total_tokens) == (30, 15, 45)
    assert thought.completion_status["is_complete"]
    assert thought.execution_history == [
        {
            "iteration": 1,
            "task": "add them",
            "tool": "add",
            "arguments": ARGUMENTS,
            "status": "completed",
            "result": 59,
            "error": None,
        }
    ]
    assert AgentMetrics.from_dict(metrics.to_dict()) == metrics


def test_an_answer_that_comes_with_the_check_is_the_result_without_another_call() -> None:
    script = Script([PLAN, ARGUMENTS, DONE | {"answer": "It is 59."}])

    thought = script.run()

    assert thought.result == "It is 59."
    assert thought.metrics.llm_calls == 3


def test_several_results_are_put_together_by_one_more_call() -> None:
    two = PLAN | {"tasks": [*PLAN["tasks"], {"description": "say it", "tool_name": None}]}  # type: ignore[misc]  # a list
    script = Script([two, ARGUMENTS, "fifty-nine", DONE, "It is 59, fifty-nine."])

    thought = script.run()

    assert thought.result == "It is 59, fifty-nine."
    assert [entry["result"] for entry in thought.execution_history] == [59, "fifty-nine"]
    assert thought.metrics.tool_executions == 1
    assert thought.metrics.llm_calls == 5


@pytest.mark.parametrize("word", [None, "", "none", "null"])
def test_a_task_without_a_tool_is_answered_by_the_model(word: str | None) -> None:
    plan = {"has_sufficient_info": True, "tasks": [{"description": "greet", "tool_name": word}]}
    script = Script([plan, "hello", DONE])

    thought = script.run()

    assert thought.result == "hello"
    assert thought.metrics.tool_executions == 0
    assert thought.metrics.success_rate is None


def test_a_plan_without_tasks_is_one_to_answer_the_whole_task() -> None:
    script = Script([{"has_sufficient_info": True, "tasks": []}, "hello", DONE])

    assert script.run("greet me").result == "hello"
    assert "greet me" in script.said(1)


def test_a40_a_tool_that_raises_is_a_failed_entry_and_the_agent_goes_on() -> None:
    failing = PLAN | {"tasks": [{"description": "try", "tool_name": "fail"}]}
    script = Script([failing, {"a": 1}, NOT_DONE, PLAN, ARGUMENTS, DONE])

    thought = script.run()

    first, second = thought.execution_history
    assert (first["status"], first["error"], first["result"]) == ("failed", "no 1", None)
    assert second["status"] == "completed"
    assert thought.result == 59
    assert (thought.metrics.failed_tool_calls, thought.metrics.successful_tool_calls) == (1, 1)
    assert thought.metrics.success_rate == 0.5
    assert thought.metrics.iterations_to_completion == 2
    assert "no 1" in script.said(3)
    assert "double it" in script.said(3)


def test_a40_not_enough_to_go_on_is_said_and_not_completed() -> None:
    script = Script([{"has_sufficient_info": False, "reasoning": "which city?", "tasks": []}])

    thought = script.run("the weather?")

    assert thought.result == "which city?"
    assert not thought.metrics.task_completed
    assert thought.metrics.iterations_to_completion is None
    assert thought.completion_status == {
        "is_complete": False,
        "reasoning": "which city?",
        "missing_steps": [],
        "next_action": None,
    }
    assert thought.metrics.llm_calls == 1


def test_a40_what_is_no_json_is_asked_for_again_once() -> None:
    script = Script(["let me think", PLAN, ARGUMENTS, DONE])

    thought = script.run()

    assert thought.result == 59
    assert (thought.metrics.llm_calls, thought.metrics.reasoning_calls) == (4, 1)


def test_a40_what_is_no_json_twice_is_an_error() -> None:
    script = Script(["let me think", "still thinking", PLAN])

    with pytest.raises(OutputError, match="asked twice"):
        script.run()
    assert script.model.left == 1


def test_a40_a_task_that_is_never_completed_ends_with_its_iterations() -> None:
    script = Script([PLAN, ARGUMENTS, NOT_DONE] * 2 + ["one too many"])

    thought = script.run(max_iterations=2)

    assert not thought.metrics.task_completed
    assert thought.metrics.total_iterations == 2
    assert thought.metrics.iterations_to_completion is None
    assert thought.result == 59
    assert script.model.left == 1


def test_a40_the_temperature_reaches_every_call() -> None:
    two = PLAN | {"tasks": [*PLAN["tasks"], {"description": "say it", "tool_name": None}]}  # type: ignore[misc]  # a list
    script = Script([two, ARGUMENTS, "fifty-nine", DONE, "all"])

    script.run(temperature=0.1, max_tokens=77, options={"top_p": 0.5})

    told = [(call.temperature, call.max_tokens, call.options) for call in script.model.calls]
    assert told == [(0.1, 77, {"top_p": 0.5})] * 5


def test_a_tool_that_the_agent_does_not_have_is_not_called_and_the_model_is_told() -> None:
    wrong = PLAN | {"tasks": [{"description": "add", "tool_name": "ad"}]}
    script = Script([wrong, NOT_DONE, PLAN, ARGUMENTS, DONE])

    thought = script.run()

    assert script.called == [("add", ARGUMENTS)]
    assert "did you mean 'add'" in thought.execution_history[0]["error"]
    assert thought.metrics.tool_executions == 1
    assert thought.metrics.failed_tool_calls == 1


def test_arguments_that_do_not_fit_are_asked_for_again_once_and_then_the_task_failed() -> None:
    script = Script([PLAN, {"a": "x"}, {"b": 1}, NOT_DONE, PLAN, {"a": "x", "b": 1}, ARGUMENTS, DONE])

    thought = script.run()

    assert [entry["status"] for entry in thought.execution_history] == ["failed", "completed"]
    assert script.called == [("add", ARGUMENTS)]


def test_arguments_that_the_tool_itself_refuses_are_a_failed_entry() -> None:
    async def refuse(name: str, arguments: dict[str, Any]) -> Any:
        raise ArgumentsError("a is too large")

    script = Script([PLAN, ARGUMENTS, DONE, "nothing"])
    definition = Reasoner(name="a", model=script.model, tools=TOOLS)

    thought = asyncio.run(think(definition, "x", ask=script.ask, call_tool=refuse))

    assert thought.execution_history[0]["error"] == "a is too large"
    assert thought.metrics.tool_executions == 0


def test_a_call_whose_outcome_is_unknown_is_not_made_again_with_the_same_arguments() -> None:
    failing = PLAN | {"tasks": [{"description": "try", "tool_name": "fail"}]}
    script = Script(
        [failing, {"a": 1}, NOT_DONE, failing, {"a": 1}, NOT_DONE, failing, {"a": 2}, DONE, "end"], unknown=True
    )

    thought = script.run()

    assert script.called == [("fail", {"a": 1}), ("fail", {"a": 2})]
    assert thought.execution_history[1]["error"] == NOT_AGAIN
    assert "not called so again" in script.said(3)


def test_a49_a_result_that_does_not_fit_the_schema_is_asked_for_again_once() -> None:
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}

    mended = Script([PLAN, ARGUMENTS, DONE, {"sum": "many"}, {"sum": 59}])
    broken = Script([PLAN, ARGUMENTS, DONE, {"sum": "many"}, "none", {"sum": 59}])

    assert mended.run(output_schema=schema).result == {"sum": 59}
    with pytest.raises(OutputError, match="asked twice"):
        broken.run(output_schema=schema)
    assert broken.model.left == 1


def test_a_tools_result_that_fits_the_schema_is_the_result() -> None:
    script = Script([PLAN, ARGUMENTS, DONE])

    assert script.run(output_schema={"type": "integer"}).result == 59
    assert script.model.left == 0


def test_what_was_said_before_is_told_without_what_providers_refuse() -> None:
    script = Script([{"has_sufficient_info": True}, "Ada", DONE])
    memory = [
        Message("user", "I am Ada"),
        Message("system", "Summary"),
        Message("tool", "42", tool_call_id="c", name="count"),
        Message("assistant", ""),
    ]

    script.run("who am I?", memory, system="Be brief.")

    said = script.model.calls[0].messages
    assert [message.role for message in said] == ["system", "system", "user", "user", "assistant", "user", "user"]
    assert said[0].content.startswith("Be brief.")
    assert all(message.content and not message.tool_calls for message in said)


def test_what_it_says_by_itself_stays_within_what_budgets_set_aside() -> None:
    long = "é" * 20_000
    plan = {"has_sufficient_info": True, "tasks": [{"description": long, "tool_name": None}] * 8}
    status = NOT_DONE | {"missing_steps": [long] * 9}
    script = Script([plan, *[long] * 8, status, plan, *[long] * 8, DONE, "end"])

    script.run("short")

    sizes = [prompt_ceiling(call) for call in script.model.calls]
    assert max(sizes) <= AGENT_BYTES + HISTORY_BYTES + 1_000


def test_the_same_answers_give_the_same_history_and_the_same_questions() -> None:
    answers = [PLAN, ARGUMENTS, NOT_DONE, PLAN, ARGUMENTS, DONE, "end"]
    first, second = Script(answers), Script(answers)

    assert json.dumps(first.run().execution_history) == json.dumps(second.run().execution_history)
    assert first.model.calls == second.model.calls
