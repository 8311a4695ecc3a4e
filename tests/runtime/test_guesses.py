"""What an engine learns about drafts from run to run."""

from __future__ import annotations

import asyncio

from planloom import Engine, RunResult
from planloom.core.chat import ModelCall
from planloom.models.scripted import FunctionModel

PLAN = {
    "planloom": 1,
    "steps": [
        {"id": "first", "model": "strong", "prompt": "${{ inputs.q }}", "speculate": {"draft": "weak"}},
        {"id": "second", "model": "strong", "prompt": "${{ steps.first.output }}"},
    ],
    "inputs": {"q": {"type": "string"}},
}


def test_a_draft_that_is_always_wrong_is_asked_no_more_and_one_that_is_right_goes_on_being_asked() -> None:
    drafted: list[str] = []

    async def strong(call: ModelCall) -> str:
        while len(drafted) < len(done) + 1 and not done:  # the first run has its draft before its answer
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        return "strong " + call.messages[-1].content

    def answering(right: bool) -> FunctionModel:
        def weak(call: ModelCall) -> str:
            drafted.append(call.messages[-1].content)
            return ("strong " if right else "weak ") + call.messages[-1].content

        return FunctionModel(weak)

    async def runs(right: bool) -> list[RunResult]:
        async with Engine(models={"strong": FunctionModel(strong), "weak": answering(right)}) as engine:
            for number in range(6):
                done.append(await engine.run(PLAN, {"q": f"q{number}"}))
        return done

    done: list[RunResult] = []
    wrong = asyncio.run(runs(False))
    asked_when_wrong = len(drafted)
    drafted.clear()
    done = []
    right = asyncio.run(runs(True))

    assert {result.output for result in wrong} == {result.output for result in right}
    assert asked_when_wrong < 4
    assert len(drafted) == 6
    assert wrong[0].speculation is not None
    assert wrong[0].speculation["misses"] == 1
    assert right[-1].speculation is not None
    assert right[-1].speculation["hits"] == 1
