"""How long a fresh process takes until planloom is there, beside a bare Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import median

from benchmarks.rows import Budget, Row
from benchmarks.timing import Arm, Scale, in_turns, wall_s

BESIDE = "python -c pass"
LIMIT = Budget(150.0, 80.0, of="ours", why="what it imports takes longer")
COMMANDS: dict[str, list[str]] = {
    "import planloom": [sys.executable, "-c", "import planloom"],
    "planloom --help": [str(Path(sys.executable).with_name("planloom")), "--help"],
    "import planloom, and touch Engine and Plan": [sys.executable, "-c", "from planloom import Engine, Plan"],
}


async def measure(scale: Scale, folder: Path) -> list[Row]:
    """Return milliseconds from start to exit, the median of ten of each."""
    arms = [_process([sys.executable, "-c", "pass"], folder), *(_process(found, folder) for found in COMMANDS.values())]
    bare_ms, *found_ms = (median(seconds) * 1e3 for seconds in await in_turns(*arms, rounds=scale.rounds(10)))
    return [
        Row(what, "ms", took, bare_ms, BESIDE, LIMIT if "touch" not in what else None)
        for what, took in zip(COMMANDS, found_ms, strict=True)
    ]


def _process(command: list[str], folder: Path) -> Arm:
    async def arm() -> float:
        started = wall_s()
        subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=True)
        return wall_s() - started

    return arm
