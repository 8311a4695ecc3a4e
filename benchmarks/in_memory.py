"""What a step costs in memory, beside hand-written asyncio with graphlib and a task per step.

A plan is made, checked and compiled once and runs often; so it has run before in the rows with a budget, and what comes
once has rows of its own. The reference builds its `TopologicalSorter` anew each time, because that is how they work.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from opentelemetry.trace import NoOpTracer, Tracer

from benchmarks.by_hand import dataflow
from benchmarks.plans import Needs, chain, fan_out, five_steps, pass_on, plan_of
from benchmarks.rows import Budget, Row
from benchmarks.timing import Scale, cpu_s, in_turns, timed
from planloom import Engine, RunResult

BESIDE = "asyncio + graphlib by hand"
WHY = {
    "chain": "the reference neither checks, limits, records nor times what it does",
    "fan-out": "the reference neither checks, limits, records nor times what it does, and its tasks are cheapest here",
    "runs": "a run of five steps pays for a driver, a record, a ledger and a result of its own",
}


async def measure(scale: Scale, folder: Path) -> list[Row]:
    """Return the rows for a chain, a fan-out and many runs at once, and what comes once per plan."""
    count = scale.of(1_000)
    return [
        await _row(f"in memory, chain of {count:,}", chain(count), 1, scale, WHY["chain"]),
        await _row(f"in memory, fan-out of {count:,}", fan_out(count), 1, scale, WHY["fan-out"]),
        await _row(f"in memory, {count:,} runs of five steps at once", five_steps(), count, scale, WHY["runs"]),
        *await _first_run(count, scale),
        await _telemetry(count, scale),
    ]


async def _telemetry(count: int, scale: Scale) -> Row:
    """Return what telling every step as spans costs, beside a run that nobody asks to tell."""
    plan = plan_of(chain(count), tool="bench.pass_on")

    async def took(telemetry: Tracer | None) -> float:
        async with Engine(tools=[pass_on], telemetry=telemetry) as engine:
            engine.check(plan)
            with timed(cpu_s) as time:
                await engine.run(plan)
                await engine.close()  # the last spans are told after the run
        return time.seconds

    off_s, on_s = map(min, await in_turns(lambda: took(None), lambda: took(NoOpTracer()), rounds=scale.rounds(5)))
    what = f"in memory, chain of {count:,}, told as spans"
    return Row(what, "µs/step", on_s * 1e6 / count, off_s * 1e6 / count, "the same without telemetry")


async def _row(what: str, needs: Needs, runs: int, scale: Scale, why: str) -> Row:
    plan = plan_of(needs, tool="bench.pass_on")
    functions = dict.fromkeys(needs, pass_on)
    wanted = await dataflow(needs, functions)
    end = wanted[next(reversed(needs))]

    async def by_hand() -> float:
        with timed(cpu_s) as took:
            found = await asyncio.gather(*[dataflow(needs, functions) for _ in range(runs)])
        assert found == [wanted] * runs
        return took.seconds

    async def ours() -> float:
        async with Engine(tools=[pass_on]) as engine:
            engine.check(plan)
            with timed(cpu_s) as took:
                found: list[RunResult] = await asyncio.gather(*[engine.run(plan) for _ in range(runs)])
        assert all(result.output == end for result in found)
        return took.seconds

    by_hand_s, ours_s = map(min, await in_turns(by_hand, ours, rounds=scale.rounds(9)))
    per_step = 1e6 / (len(needs) * runs)
    return Row(what, "µs/step", ours_s * per_step, by_hand_s * per_step, BESIDE, Budget(2.0, 1.0, why=why))


async def _first_run(count: int, scale: Scale) -> list[Row]:
    """Return what making and checking a plan costs, once, and its first run, which works out what later ones know."""
    needs = chain(count)
    functions = dict.fromkeys(needs, pass_on)
    building: list[float] = []

    async def by_hand() -> float:
        with timed(cpu_s) as took:
            await dataflow(needs, functions)
        return took.seconds

    async def ours() -> float:
        async with Engine(tools=[pass_on]) as engine:
            with timed(cpu_s) as took:
                plan = plan_of(needs, tool="bench.pass_on")
                engine.check(plan)
            building.append(took.seconds)
            with timed(cpu_s) as took:
                result = await engine.run(plan)
        assert result.output == count
        return took.seconds

    by_hand_s, ours_s = map(min, await in_turns(by_hand, ours, rounds=scale.rounds(9)))
    per_step = 1e6 / count
    return [
        Row(f"making and checking a plan of {count:,}, once", "µs/step", min(building) * per_step),
        Row(f"in memory, chain of {count:,}, first run", "µs/step", ours_s * per_step, by_hand_s * per_step, BESIDE),
    ]
