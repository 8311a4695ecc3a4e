"""How a journal grows with what steps return: bytes on disk beside bytes of output, and whether that is O(N)."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from benchmarks.plans import chain, plan_of
from benchmarks.rows import Budget, Row
from benchmarks.timing import Scale
from planloom import Engine, tool

SIZES_KB = (1, 10, 100)
ALLOWED_TIMES = 1.2
ALLOWED_BYTES = 1_000
"""A journal may grow by `ALLOWED_TIMES` the payload and so many bytes per step."""


@tool(name="bench.write", effects="none", register=False)
async def write(size: int, seed: int, x: str = "") -> str:
    """Return text that no other step returns, and that says nothing of what came before."""
    return Random(seed).randbytes(size // 2).hex()[: size - 2]


async def measure(scale: Scale, folder: Path) -> list[Row]:
    """Return bytes per step by size of the output, and a long chain beside a short one."""
    count, short = scale.of(1_000), scale.of(250)
    rows = []
    for kb in SIZES_KB:
        size = kb * 1_000
        limit = Budget(ALLOWED_TIMES * size + ALLOWED_BYTES, of="ours", front=kb != SIZES_KB[1])
        found = await bytes_per_step(count, size, folder)
        rows.append(Row(f"journal of {count:,} steps with {kb} KB each", "B/step", found, size, "payload", limit))
    size = SIZES_KB[1] * 1_000
    brief = await bytes_per_step(short, size, folder)
    beside = f"same, {short:,} steps"
    rows.append(Row("journal, growth with the number of steps", "B/step", rows[1].ours, brief, beside, Budget(1.1)))
    return rows


async def bytes_per_step(count: int, size: int, folder: Path) -> float:
    """Return the bytes of the journal's files after a chain whose every step returns `size` bytes of JSON."""
    place = folder / f"{count}-{size}"
    place.mkdir()
    needs = chain(count)
    given = {step: {"size": size, "seed": number} for number, step in enumerate(needs)}
    async with Engine(place / "runs.db", tools=[write]) as engine:
        result = await engine.run(plan_of(needs, tool="bench.write", given=given))
    assert len(json.dumps(result.output)) == size
    return sum(file.stat().st_size for file in place.iterdir()) / count
