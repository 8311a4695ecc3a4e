"""What a `StepExecutor` is given and cannot take, and what agents return that is no answer: told, never passed on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from planloom import StepExecutor, ValidationError
from planloom.api.step_plan import AgentTerms, KnownPlans, StepPlan
from planloom.errors import ConfigError
from planloom.plan.policy import NO_RETRY


async def later(value: Any) -> dict[str, Any]:
    return {"said": value}


def hands_on(value: Any) -> Any:
    return later(value)


class HandsOn:
    def run(self, value: Any) -> Any:
        return later(value)


def generates(value: Any) -> Iterator[Any]:
    yield value


def returns_an_error(_: Any) -> Any:
    return ValueError("it went wrong")


AGENTS = {"later": later, "hands_on": hands_on, "HandsOn": HandsOn()}
AGENTS |= {"generates": generates, "returns_an_error": returns_an_error}


def asked(name: Any, metadata: Any = None, memory: Any = None) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        async with StepExecutor(AGENTS, debug=True) as executor:
            return await executor.execute_agent_step(name, "hello", memory, metadata)

    return asyncio.run(main())


@pytest.mark.parametrize("name", ["later", "hands_on", "HandsOn"])
def test_what_a_function_hands_on_from_an_async_one_is_waited_for(name: str) -> None:
    answer = asked(name)

    assert answer == {"said": "hello"}


@pytest.mark.parametrize("name", ["generates", "returns_an_error"])
def test_what_is_no_answer_is_an_error_and_never_its_text(name: str) -> None:
    answer = asked(name)

    assert answer["error_type"] == "internal_error"


@pytest.mark.parametrize("timeout", ["5", 0, -1, True, 10**400, 1e300])
def test_a_time_limit_that_no_clock_can_count_is_refused(timeout: Any) -> None:
    with pytest.raises(ValidationError, match="is no time limit"):
        asked("later", {"timeout": timeout})


@pytest.mark.parametrize("name", [None, 1, ["later"], {}])
def test_a_name_that_is_no_text_is_refused(name: Any) -> None:
    with pytest.raises(ValidationError, match="is no name of an agent"):
        asked(name)


def test_a_memory_of_what_are_no_messages_is_refused() -> None:
    with pytest.raises(ConfigError, match="a int is no message"):
        asked("later", memory=[1, 2])


@pytest.mark.parametrize("context", [5, {"timeout": "x"}, {"timeout": 0}, {"timeout": -1}, {"allow": 5}])
def test_a_context_of_tool_calls_that_cannot_be_read_is_refused(context: Any) -> None:
    called: list[int] = []

    async def main() -> None:
        async with StepExecutor({}) as executor:
            executor.register_tool("note", lambda a: called.append(a))
            await executor.execute_tool_calls([{"name": "note", "arguments": {"a": 1}}], context)

    with pytest.raises(ValidationError):
        asyncio.run(main())
    assert not called


@pytest.mark.parametrize("bad", [{"priority": "high"}, {"agent_name": ["z"]}, {"agent_name": None}, {"memory": [1]}])
def test_a_request_of_a_batch_that_cannot_be_read_costs_itself_only(bad: dict[str, Any]) -> None:
    good = {"agent_name": "later", "request": "hello"}

    async def main() -> list[Any]:
        async with StepExecutor(AGENTS) as executor:
            return await executor.execute_batch([good | bad, good])

    wrong, right = asyncio.run(main())

    assert wrong["error_type"] == "invalid_request"
    assert right == {"said": "hello"}


@pytest.mark.parametrize("most", [0, -1, True, "x", 1.5])
def test_a_batch_that_could_not_begin_is_refused(most: Any) -> None:
    async def main() -> None:
        async with StepExecutor(AGENTS) as executor:
            await executor.execute_batch([{"agent_name": "later"}], max_concurrent=most)

    with pytest.raises(ValidationError, match="lets nothing begin"):
        asyncio.run(main())


def test_a_name_that_no_plan_could_write_is_refused_where_it_is_given() -> None:
    with pytest.raises(ConfigError, match="looks like a reference"):
        StepExecutor({"${{ inputs.x }}": later})


def test_steps_of_one_shape_are_one_plan_whatever_they_are_given() -> None:
    known = KnownPlans()

    def plan(name: str, request: str, timeout_s: float = 5.0) -> Any:
        made = StepPlan(known=known, retry=NO_RETRY)
        made.add_agent(name, {"input": request}, AgentTerms(timeout_s=timeout_s))
        assert made.inputs == {"agent_1": {"input": request}}
        return made.plan()

    first = plan("a", "one")

    assert plan("a", "two") is first
    assert plan("b", "one") is not first
    assert plan("a", "one", timeout_s=6.0) is not first


def test_no_more_plans_are_remembered_than_there_is_room_for() -> None:
    known = KnownPlans()

    for seconds in range(1, 400):
        made = StepPlan(known=known, retry=NO_RETRY)
        made.add_agent("a", {"input": 1}, AgentTerms(timeout_s=seconds))
        made.plan()

    assert len(known._plans) == 128
