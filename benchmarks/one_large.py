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
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Ran:
    """Seconds of making and checking a plan, of its first run and of the next, and the memory after the first."""

    building_s: float
    first_s: float
    again_s: float
    peak_mb: float


async def run_twice(needs: Needs) -> Ran:
    async with Engine(tools=[pass_on]) as engine:
        with timed(cpu_s) as building:
            plan = plan_of(needs, tool="bench.pass_on")
            engine.check(plan)
        with timed(cpu_s) as first:
            result = await engine.run(plan)
        peak = peak_mb()
        with timed(cpu_s) as again:
            same = await engine.run(plan)
        assert result.status == same.status == "success"
    return Ran(building.seconds, first.seconds, again.seconds, peak)


async def main(shape: str, count: int, small_count: int) -> dict[str, float]:
    before_mb = peak_mb()
    needs = SHAPES[shape](small_count)
    small = [await run_twice(needs) for _ in range(PASSES + 1)][1:]
    del needs
    gc.collect()
    large = [await run_twice(SHAPES[shape](count)) for _ in range(PASSES if count < 100_000 else 1)]
    return {
        "before_mb": before_mb,
        "peak_mb": large[0].peak_mb,
        "building_s": min(ran.building_s for ran in large),
        "first_s": min(ran.first_s for ran in large),
        "first_step_us": min(ran.first_s for ran in large) * 1e6 / count,
        "step_us": min(ran.again_s for ran in large) * 1e6 / count,
        "small_first_step_us": min(ran.first_s for ran in small) * 1e6 / small_count,
        "small_step_us": min(ran.again_s for ran in small) * 1e6 / small_count,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
