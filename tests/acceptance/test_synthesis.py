"""Acceptance: the final answer of a plan, and one step over many items."""

from __future__ import annotations

import asyncio
from typing import Any

from planloom import Engine, RunResult, RunStatus, StepStatus
from planloom.core.chat import ModelCall
from planloom.models.scripted import FunctionModel
from planloom.testing.fakes import CallLog, fake_tool


def test_a23_a_final_synthesis_is_told_the_real_outputs_of_the_steps() -> None:
    asked: list[str] = []

    def answer(call: ModelCall) -> str:
        asked.append(call.messages[-1].content)
        return "summed up"

    plan = {
        "request_id": "trip",
        "steps": [
            {"id": "weather", "tool": "weather", "input": {"city": "Oslo"}},
            {"id": "hotel", "tool": "hotel", "input": {"near": "step:weather.place"}, "depends_on": ["weather"]},
        ],
        "final_synthesis": {"prompt_template": "Sum this up: {{steps}}", "meta": {"tone": "short"}},
    }
    tools = [
        fake_tool("weather", lambda city: {"place": f"{city} centre", "sky": "clear"}),
        fake_tool("hotel", lambda near: [f"hotel at {near}"]),
    ]

    async def main() -> Any:
        async with Engine(tools=tools, models={"default": FunctionModel(answer)}) as engine:
            return (await engine.run(plan)).output

    assert asyncio.run(main()) == "summed up"
    assert len(asked) == 1
    assert '{"place": "Oslo centre", "sky": "clear"}' in asked[0].replace('":"', '": "').replace('","', '", "')
    assert "hotel at Oslo centre" in asked[0]


def test_a23_a_step_over_many_items_stops_once_too_many_of_at_least_five_failed() -> None:
    log = CallLog()

    def flaky(n: int) -> int:
        if n % 2:
            raise RuntimeError(f"item {n} is odd")
        return n

    step = {
        "id": "each",
        "tool": "flaky",
        "for_each": list(range(50)),
        "with": {"n": "${{ item }}"},
        "on_item_error": "collect",
        "max_failure_rate": 0.3,
        "max_parallel": 1,
    }

    async def main() -> RunResult:
        async with Engine(tools=[fake_tool("flaky", flaky, log=log)]) as engine:
            return await engine.run({"planloom": 1, "steps": [step]})

    result = asyncio.run(main())

    assert result.status is RunStatus.FAILED
    assert len(log) == 5  # two of the first five are odd, which is more than 30 %
    assert result.steps[0].status is StepStatus.FAILED


def test_a23_a_lower_failure_rate_lets_every_item_be_tried() -> None:
    log = CallLog()

    def rarely(n: int) -> int:
        if n % 10 == 9:
            raise RuntimeError(f"item {n}")
        return n

    step = {
        "id": "each",
        "tool": "rarely",
        "for_each": list(range(50)),
        "with": {"n": "${{ item }}"},
        "on_item_error": "collect",
        "max_failure_rate": 0.3,
    }

    async def main() -> RunResult:
        async with Engine(tools=[fake_tool("rarely", rarely, log=log)]) as engine:
            return await engine.run({"planloom": 1, "steps": [step]})

    result = asyncio.run(main())

    assert result.status is RunStatus.PARTIAL
    assert len(log) == 50
    assert len(result.steps[0].errors) == 5


def test_a23_six_equal_questions_at_once_are_asked_once() -> None:
    asked = 0

    async def answer(call: ModelCall) -> str:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return "42"

    step = {"id": "ask", "model": "m", "prompt": "the same", "for_each": list(range(6)), "cache": True}

    async def main() -> RunResult:
        async with Engine(models={"m": FunctionModel(answer)}) as engine:
            return await engine.run({"planloom": 1, "steps": [step]})

    result = asyncio.run(main())

    assert result.output == ["42"] * 6
    assert asked == 1
    assert result.usage.requests == 1
