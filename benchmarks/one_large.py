"""One large plan in a process of its own: `python -m benchmarks.one_large SHAPE COUNT SMALL_COUNT` prints JSON.

A process of its own, because the most memory it ever used is one number per process.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.plans import Needs, chain, fan_out, layered, pass_on, plan_of
from benchmarks.timing import cpu_s, timed
from planloom import Engine

WIDTH = 100
SHAPES: dict[str, Callable[[int], Needs]] = {
    "layered": lambda count: layered(count // WIDTH, WIDTH),
    "chain": chain,
    "fan-in": fan_out,
}
PASSES = 3


def peak_mb() -> float:
    """Return the most memory this process ever held, in MB of 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # what `getrusage` says on Linux may be what the parent had
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


async def run_once(needs: Needs) -> tuple[float, float]:
    """Return the seconds of making and checking the plan, and of running it."""
    async with Engine(tools=[pass_on]) as engine:
        with timed(cpu_s) as building:
            plan = plan_of(needs, tool="bench.pass_on")
            engine.check(plan)
        with timed(cpu_s) as running:
            result = await engine.run(plan)
        assert result.status == "success"
    return building.seconds, running.seconds


async def main(shape: str, count: int, small_count: int) -> dict[str, float]:
    before_mb = peak_mb()
    needs = SHAPES[shape](small_count)
    small = [await run_once(needs) for _ in range(PASSES + 1)][1:]
    del needs
    gc.collect()
    large = [await run_once(SHAPES[shape](count)) for _ in range(PASSES if count < 100_000 else 1)]
    return {
        "before_mb": before_mb,
        "peak_mb": peak_mb(),
        "building_s": min(building for building, _ in large),
        "running_s": min(running for _, running in large),
        "small_running_s": min(running for _, running in small),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
