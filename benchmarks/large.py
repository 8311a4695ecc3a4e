"""Large plans: memory, and whether a step costs what it costs in a small plan.

A large plan may well run once, so its first run stands beside that of a small plan, and its second beside the second.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.one_large import WIDTH
from benchmarks.rows import Budget, Row
from benchmarks.timing import Scale

ROOT = Path(__file__).resolve().parent.parent
SMALL = 1_000
WHY_MB = "every step keeps its plan entry, its compiled form, its state and its two events"
WHY_FLAT = (
    "much of it is the garbage collector, which walks all that the run has made each time that has grown by a quarter"
)


async def measure(scale: Scale, folder: Path) -> list[Row]:
    """Return the rows for 100,000 steps in layers, and for chain and fan-in of 10,000."""
    small = SMALL if not scale.tiny else 2 * WIDTH
    rows = _layered(100_000 if not scale.tiny else 4 * WIDTH, small)
    for shape in ("chain", "fan-in"):
        count = scale.of(10_000)
        found = run_apart(shape, count, small)
        rows += [
            _seconds(f"{shape} of {count:,}, making and checking", found["building_s"], limit_s=1.0),
            _seconds(f"{shape} of {count:,}, first run", found["first_s"], limit_s=3.0),
            _flat(f"{shape} of {count:,}, a step", found, "step_us", small, front=False),
        ]
    return rows


def _layered(count: int, small: int) -> list[Row]:
    found = run_apart("layered", count, small)
    what = f"plan of {count:,} ({count // WIDTH:,} × {WIDTH})"
    return [
        Row(f"{what}, peak memory", "MB", found["peak_mb"], budget=Budget(400.0, 150.0, of="ours", why=WHY_MB)),
        Row(f"{what}, memory of Python and imports in that", "MB", found["before_mb"]),
        Row(f"{what}, making and checking", "µs/step", found["building_s"] * 1e6 / count),
        _flat(f"{what}, a step of the first run", found, "first_step_us", small),
        _flat(f"{what}, a step", found, "step_us", small),
    ]


def _seconds(what: str, took_s: float, *, limit_s: float) -> Row:
    return Row(what, "s", took_s, budget=Budget(limit_s, of="ours", front=False))


def _flat(what: str, found: dict[str, float], name: str, small: int, *, front: bool = True) -> Row:
    budget = Budget(1.3, why=WHY_FLAT, front=front)
    return Row(what, "µs/step", found[name], found[f"small_{name}"], f"same shape, {small:,} steps", budget)


def run_apart(shape: str, count: int, small: int) -> dict[str, float]:
    """Return what `one_large` measured in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.one_large", shape, str(count), str(small)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found
