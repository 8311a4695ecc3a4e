"""How long a program in a sandbox takes that does nothing, calls tools, or has fifteen others beside it.

A sandbox that is not here has no rows.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.rows import Row
from benchmarks.timing import Arm, Scale, in_turns, wall_s
from planloom.core.code import Program, SandboxLimits
from planloom.errors import NoSandboxError
from planloom.ports import SandboxBackend
from planloom.sandbox.sandbox import BACKENDS, backend_of

BESIDE = "python -I -S -c pass"
LIMITS = SandboxLimits(cpu_percent=None, wall_s=30)
AT_ONCE = 16
CALLS = 100


async def measure(scale: Scale, folder: Path) -> list[Row]:
    """Return milliseconds from the call to the result, the median of ten of each."""
    rows: list[Row] = []
    for name in BACKENDS:
        backend = backend_of(name)
        try:
            await backend.run(Program("1"))  # looks at the machine once
        except NoSandboxError:
            continue
        calls = scale.of(CALLS)
        arms = [_bare(folder), _alone(backend), _calling(backend, calls), _together(backend)]
        bare_ms, alone_ms, calling_ms, together_ms = (
            median(seconds) * 1e3 for seconds in await in_turns(*arms, rounds=scale.rounds(10))
        )
        rows += [
            Row(f"a program in {name}", "ms", alone_ms, bare_ms, BESIDE),
            Row(f"a tool called from {name}", "ms", max(1e-3, calling_ms - alone_ms) / calls),
            Row(f"a program in {name}, {AT_ONCE} at once", "ms", together_ms / AT_ONCE, alone_ms, "one alone"),
        ]
    return rows


def _bare(folder: Path) -> Arm:
    async def arm() -> float:
        begun_at = wall_s()
        subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], cwd=folder, check=True)
        return wall_s() - begun_at

    return arm


def _alone(backend: SandboxBackend) -> Arm:
    return _run(backend, [Program("6 * 7", limits=LIMITS)])


def _together(backend: SandboxBackend) -> Arm:
    return _run(backend, [Program("6 * 7", limits=LIMITS)] * AT_ONCE)


def _calling(backend: SandboxBackend, calls: int) -> Arm:
    async def echo(args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Any:
        return args[0]

    return _run(backend, [Program(f"for i in range({calls}): echo(i)", tools={"echo": echo}, limits=LIMITS)])


def _run(backend: SandboxBackend, programs: list[Program]) -> Arm:
    async def arm() -> float:
        begun_at = wall_s()
        results = await asyncio.gather(*map(backend.run, programs))
        took_s = wall_s() - begun_at
        for result in results:
            if not result.success:
                raise RuntimeError(result.error)
        return took_s

    return arm
