"""What workers cannot have is told before a run exists, with what to do about it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from planloom import Engine, tool
from planloom.errors import PlanError
from planloom.models.scripted import ScriptedModel
from planloom.runtime.workers import on_workers
from planloom.tools.load import load_tools
from planloom.transport.pool import WorkerPool
from planloom.verify.checks import ValidatorRegistry
from tests.transport.workplace import TOOLS, plan, pool_of, step, until

ASKS = {"id": "ask", "model": "mine", "prompt": "What?"}


class Writer:
    """An agent given in Python."""

    async def arun(self, value: Any) -> str:
        return str(value)


@tool(name="w.only_here", effects="none")
def only_here() -> int:
    """Return one."""
    return 1


def own() -> ValidatorRegistry:
    validators = ValidatorRegistry()
    validators.register("mine", lambda answer, prompt: True)
    return validators


def options() -> dict[str, Any]:
    return {"models": {"mine": ScriptedModel("yes")}, "agents": {"writer": Writer()}, "validators": own(), "tools": []}


STEPS = {
    "model 'mine'": ASKS,
    "agent 'writer'": {"id": "write", "agent": "writer", "prompt": "Write."},
    "validator 'mine'": {"id": "v", "tool": "w.add", "with": {"a": 1, "b": 2}}
    | {"verify": {"strategy": "validator", "validators": ["mine"]}},
}


@pytest.mark.parametrize("what", STEPS)
def test_what_was_given_in_python_is_refused_for_steps_that_workers_do(what: str) -> None:
    async def main() -> None:
        pool = WorkerPool(0, 1)
        given = options() | {"tools": load_tools(TOOLS)}
        async with (
            pool,
            Engine(**given, transport=on_workers(pool)) as far,
            Engine(**given, transport=on_workers(pool, here=("model", "agent", "tool"))) as near,
        ):
            with pytest.raises(PlanError, match=f"{what} was given to this engine in Python") as refused:
                await far.start(plan(STEPS[what]))

            assert "on_workers(pool, here=(" in refused.value.remedy
            assert pool.size == 0
            near.check(plan(STEPS[what]))

    asyncio.run(main())


@pytest.mark.slow
def test_a_tool_that_no_worker_has_is_refused_before_anything_is_done() -> None:
    async def main() -> None:
        async with pool_of(1, 1) as pool, Engine(tools=[only_here], transport=on_workers(pool)) as engine:
            engine.check(plan(step("a", "w.only_here")))  # nobody knows yet

            await until(lambda: pool.idle)

            with pytest.raises(PlanError, match=r"no worker has tool 'w\.only_here'"):
                engine.check(plan(step("a", "w.only_here")))

    asyncio.run(main())
