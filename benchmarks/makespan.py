"""How long a layered plan of sleeping steps takes from begin to end, beside hand-written dataflow."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.by_hand import dataflow, level_by_level
from benchmarks.plans import layered, plan_of
from benchmarks.rows import Budget, Row
from benchmarks.timing import Scale, in_turns, timed, wall_s
from planloom import Engine, tool

MEDIAN_S = 0.010
SIGMA = 0.8
"""Of the logarithm: one sleep in twenty takes four times the median."""


@tool(name="bench.nap", effects="none", register=False)
async def nap(seconds: float, x: int = 0) -> int:
    await asyncio.sleep(seconds)
    return x + 1


async def measure(scale: Scale, folder: Path) -> list[Row]:
    """Return the makespan, and what waiting for whole levels would cost on the same plan."""
    layers, width = scale.of(100), scale.of(20)
    needs = layered(layers, width)
    random = Random(11)
    sleeps = {step: MEDIAN_S * random.lognormvariate(0, SIGMA) for step in needs}
    functions = {step: partial(nap, seconds=seconds) for step, seconds in sleeps.items()}
    plan = plan_of(needs, tool="bench.nap", given={step: {"seconds": seconds} for step, seconds in sleeps.items()})

    async def by_hand() -> float:
        with timed(wall_s) as took:
            await dataflow(needs, functions)
        return took.seconds

    async def by_levels() -> float:
        with timed(wall_s) as took:
            await level_by_level(needs, functions)
        return took.seconds

    async def ours() -> float:
        async with Engine(tools=[nap]) as engine:
            engine.check(plan)
            with timed(wall_s) as took:
                result = await engine.run(plan)
        assert result.steps[-1].output == layers
        return took.seconds

    hand_s, ours_s = map(median, await in_turns(by_hand, ours, rounds=scale.rounds(5)))
    levels_s = await by_levels()
    shape = f"layered plan, {layers} × {width}"
    return [
        Row(f"{shape}, begin to end", "s", ours_s, hand_s, "dataflow by hand", Budget(1.03, 1.01)),
        Row(f"{shape}, level by level instead", "s", levels_s, hand_s, "dataflow by hand"),
    ]
