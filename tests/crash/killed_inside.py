"""The process that is killed: `killed_inside.py FOLDER` starts run r, or takes it up, and goes on to its end.

Its agents and programs act on an `InnerWorld` that is a file: a line of JSON in calls.log for each call and question,
before anything else is done about it. What each step comes to undisturbed stands in outputs.json, for the person who is
asked.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from planloom import Engine, RunStatus
from planloom.errors import RunNotFoundError
from tests.crash.inner_shapes import Asked, InnerWorld, agent, code
from tests.crash.shapes import Done

MOMENT_S = 0.003
RETRY = {"max_attempts": 99, "initial_delay": 0.005, "max_delay": 0.01}
"""Each new process finds the model failing once more."""
PLAN: dict[str, Any] = {
    "planloom": 1,
    "name": "killed",
    "steps": [
        agent("each", "pure 1${{ item }}, pay ${{ item }}", for_each=[1, 2, 3], max_parallel=2),
        {
            "id": "sub",
            "plan": {"name": "inner", "steps": [agent("do", "put 4, pay 5, shaky 6 | lose 7, pay 8", retry=RETRY)]},
        },
        code("program", "return pay(n=pay(n=pure(n=1)))", "pure", "pay"),
        {"id": "free", "agent": "free", "prompt": "look"},
        {"id": "paid", "agent": "paid", "prompt": "buy", "needs": ["free"]},
        {"id": "end", "tool": "pay", "with": {"n": "${{ len(steps.each.output) }}"}},
    ],
}


class Written(list[Any]):
    """A list that is a file, too."""

    def __init__(self, path: Path, kind: type[Any]) -> None:
        super().__init__()
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for name, fields in map(json.loads, lines):
            if name == kind.__name__:
                super().append(kind(**fields))

    def append(self, one: Any) -> None:
        line = json.dumps([type(one).__name__, asdict(one)]) + "\n"
        log = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(log, line.encode())
        finally:
            os.close(log)
        super().append(one)


def world_of(folder: Path) -> InnerWorld:
    """Return the world as it is in a folder."""
    log, outputs = folder / "calls.log", folder / "outputs.json"
    expected = json.loads(outputs.read_text(encoding="utf-8")) if outputs.exists() else {}
    return InnerWorld(log=Written(log, Done), asked=Written(log, Asked), expected=expected, moment_s=MOMENT_S)


async def main(folder: Path) -> None:
    world = world_of(folder)
    async with Engine(folder / "runs.db", **world.parts()) as engine:
        world.disk = engine.journal
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        try:
            run = await engine.resume("r")
        except RunNotFoundError:
            run = await engine.start(PLAN, run_id="r")
        result = await run.result()
        while result.status is RunStatus.WAITING:
            for step in result.blocked:
                found = await world.looked_up(step.id)
                await run.resolve(step.id, "retry" if found is None else "output", by="whoever looked", output=found)
            result = await run.result()
    if world.unrecorded:
        sys.exit(f"not on record when it began: {world.unrecorded}")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
