"""Running ahead keeps to the run's limits: what is wasted counts, and real work goes first."""

from __future__ import annotations

import asyncio

import pytest

from planloom import Engine, MemoryJournal, ResourceLimits, RunResult, RunStatus
from planloom.core.chat import ModelCall
from planloom.core.prices import ModelPrice
from planloom.models.scripted import FunctionModel
from planloom.runtime.replay import diverges

PRICE = ModelPrice(1_000.0, 1_000.0, source="test")


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def models(right: str) -> dict[str, FunctionModel]:
    """Return a slow strong model and a quick weak one that is right for the steps whose prompt's length says so."""

    async def strong(call: ModelCall) -> str:
        await turns(30)
        return call.messages[-1].content + "."

    async def weak(call: ModelCall) -> str:
        await turns(3)
        text = call.messages[-1].content
        return text + "." if str(len(text) % 2) in right else text + "?"

    return {"strong": FunctionModel(strong, price=PRICE), "weak": FunctionModel(weak, price=PRICE)}


def chain(length: int) -> dict[str, object]:
    steps: list[dict[str, object]] = []
    for number in range(length):
        prompt = "q" if number == 0 else f"${{{{ steps.s{number - 1}.output }}}}"
        step = {"id": f"s{number}", "model": "strong", "prompt": prompt, "max_tokens": 20, "speculate": "weak"}
        steps.append(step)
    return {"planloom": 1, "steps": steps}


def ran(limits: ResourceLimits | None, right: str) -> tuple[RunResult, object]:
    async def main() -> tuple[RunResult, object]:
        journal = MemoryJournal()
        async with Engine(journal, models=models(right)) as engine:
            result = await engine.run(chain(6), limits=limits, run_id="r")
        return result, diverges("r", await journal.read("r"))

    return asyncio.run(main())


@pytest.mark.parametrize("right", ["", "0", "1", "01"])
@pytest.mark.parametrize("dollars", [0.05, 0.2, 0.3, 0.5, 1.0, 5.0])
def test_a_run_that_runs_ahead_never_costs_more_than_its_limit(dollars: float, right: str) -> None:
    limits = ResourceLimits(max_total_cost_usd=dollars, max_concurrent=None, timeout_seconds=None)

    result, divergence = ran(limits, right)

    assert result.cost_usd is not None
    assert result.cost_usd <= dollars + 1e-9
    if dollars >= 5:
        assert result.status is RunStatus.SUCCESS
    elif result.status is not RunStatus.SUCCESS:
        assert result.exceeded_limits == ("max_total_cost_usd",)
    assert divergence is None


@pytest.mark.parametrize("right", ["", "0", "01"])
@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_real_work_takes_the_slots_of_what_runs_ahead(at_once: int, right: str) -> None:
    limits = ResourceLimits(max_concurrent=at_once, timeout_seconds=None, max_total_cost_usd=None)

    result, divergence = ran(limits, right)

    assert result.status is RunStatus.SUCCESS
    assert result.output == "q......"
    assert divergence is None
