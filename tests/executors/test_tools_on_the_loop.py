"""Tools that use the event loop they run on: context variables, tasks, nested runs, cancellation."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import anyio
import pytest

from planloom import Engine, RunResult, StepStatus, Tool
from tests.executors.tools import PATIENCE_S, fine, made

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


def test_context_variables_reach_every_tool_and_leak_to_no_other_step_or_run() -> None:
    async def async_tool(name: str) -> list[str]:
        before = WHO.get()
        WHO.set(name)
        await asyncio.sleep(0)
        return [before, WHO.get()]

    def sync_tool(name: str) -> list[str]:
        before = WHO.get()
        WHO.set(name)
        return [before, WHO.get()]

    async def one_run(engine: Engine, who: str) -> RunResult:
        WHO.set(who)
        steps = [
            {"id": f"s{n}", "tool": ("async_tool", "sync_tool")[n % 2], "with": {"name": f"{who}-{n}"}}
            for n in range(8)
        ]
        steps += [{"id": f"t{n}", "tool": "async_tool", "needs": [f"s{n}"], "with": {"name": "x"}} for n in range(8)]
        return await engine.run({"planloom": 1, "steps": steps})

    async def main() -> list[RunResult]:
        tools = [Tool.from_function(one, effects="none") for one in (async_tool, sync_tool)]
        async with Engine(tools=tools) as engine:
            runs = [asyncio.create_task(one_run(engine, who)) for who in ("alice", "bob", "carol")]
            found = await asyncio.gather(*runs)
            assert WHO.get() == "nobody"
            return list(found)

    for who, result in zip(("alice", "bob", "carol"), asyncio.run(main()), strict=True):
        for step in result.steps:
            assert step.output[0] == who, step.id
            assert step.output[1] in (f"{who}-{step.id[1:]}", "x")


def test_a_task_that_a_tool_leaves_behind_goes_on_and_is_nobody_s_step() -> None:
    later: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0.02)
        later.append("done")

    async def bad() -> str:
        later_task.append(asyncio.create_task(work()))
        return "back at once"

    later_task: list[asyncio.Task[None]] = []

    async def main() -> RunResult:
        async with Engine(tools=[made(bad), fine]) as engine:
            result = await engine.run({"planloom": 1, "steps": [{"id": "bad", "tool": "bad"}]})
            assert later == []
            await later_task[0]
        return result

    assert asyncio.run(main()).output == "back at once"
    assert later == ["done"]


def test_a_tool_may_start_runs_of_its_own_on_the_same_engine() -> None:
    async def main() -> RunResult:
        async def nested(value: int) -> Any:
            inner = {
                "planloom": 1,
                "steps": [{"id": f"i{n}", "tool": "fine", "with": {"value": n}} for n in range(value)],
            }
            run = await engine.start(inner)
            return (await engine.finish(run)).output

        plan = {
            "planloom": 1,
            "steps": [{"id": f"n{n}", "tool": "nested", "with": {"value": 3}} for n in range(5)]
            + [{"id": "one", "tool": "fine"}],
        }
        async with (
            asyncio.timeout(PATIENCE_S),
            Engine(tools=[Tool.from_function(nested, effects="none"), fine]) as engine,
        ):
            return await engine.run(plan)

    result = asyncio.run(main())

    assert result.status.value == "success"
    assert result.step("n0").output == {"i0": 0, "i1": 1, "i2": 2}


def test_a_tool_may_cancel_its_own_run() -> None:
    async def main() -> RunResult:
        async def stop() -> str:
            await run.cancel(by="a tool of its own")
            return "I have spoken"

        tools = [Tool.from_function(stop, effects="none"), fine]
        plan = {
            "planloom": 1,
            "steps": [{"id": "stop", "tool": "stop"}, {"id": "after", "tool": "fine", "needs": ["stop"]}],
        }
        async with asyncio.timeout(PATIENCE_S), Engine(tools=tools) as engine:
            run = await engine.start(plan)
            return await engine.finish(run)

    result = asyncio.run(main())

    assert result.status.value == "cancelled"
    assert result.step("after").status is StepStatus.SKIPPED


def test_timeouts_task_groups_and_anyio_scopes_work_inside_tools() -> None:
    async def timeouts() -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005):
                await asyncio.sleep(1)
        return "timeout"

    async def groups() -> str:
        async def fails() -> None:
            raise ValueError("one of the group")

        with pytest.raises(ExceptionGroup):  # noqa: PT012 - leaving the group is what raises
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                group.create_task(asyncio.sleep(1))
        return "group"

    async def scopes() -> str:
        with anyio.move_on_after(0.005) as scope:
            await anyio.sleep(1)
        assert scope.cancelled_caught
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 1)
            group.cancel_scope.cancel()
        return "scope"

    async def main() -> RunResult:
        tools = [Tool.from_function(one, effects="none") for one in (timeouts, groups, scopes)]
        names = [one.name for one in tools]
        steps = [{"id": f"{name}_{n}", "tool": name} for n in range(4) for name in names]
        steps += [{"id": f"end_{n}", "tool": names[n % 3], "needs": [f"{names[n % 3]}_0"]} for n in range(9)]
        async with asyncio.timeout(PATIENCE_S), Engine(tools=tools) as engine:
            return await engine.run({"planloom": 1, "steps": steps})

    result = asyncio.run(main())

    assert [step.error for step in result.steps if step.error] == []
    assert result.steps_completed == 21


def test_equal_cached_steps_that_are_stopped_together_are_not_called_again() -> None:
    calls: list[int] = []

    async def slow() -> None:
        calls.append(1)
        await asyncio.Event().wait()

    async def main() -> RunResult:
        plan = {"planloom": 1, "steps": [{"id": name, "tool": "slow", "cache": True} for name in ("a", "b", "c")]}
        async with asyncio.timeout(PATIENCE_S), Engine(tools=[Tool.from_function(slow, effects="none")]) as engine:
            run = await engine.start(plan)
            await asyncio.sleep(0.02)
            await run.cancel()
            return await engine.finish(run)

    result = asyncio.run(main())

    assert result.status.value == "cancelled"
    assert calls == [1]


def test_a23_where_the_first_of_equal_cached_steps_is_stopped_another_takes_its_place() -> None:
    calls: list[int] = []
    go_on = asyncio.Event()

    async def slow() -> str:
        calls.append(1)
        await go_on.wait()
        return "done"

    async def main() -> list[RunResult]:
        plan = {"planloom": 1, "steps": [{"id": "a", "tool": "slow", "cache": True}]}
        async with asyncio.timeout(PATIENCE_S), Engine(tools=[Tool.from_function(slow, effects="none")]) as engine:
            runs = [await engine.start(plan) for _ in range(6)]
            await asyncio.sleep(0.02)
            await runs[0].cancel()
            await runs[0].result()
            await asyncio.sleep(0.02)
            go_on.set()
            return [await engine.finish(run) for run in runs]

    results = asyncio.run(main())

    assert [result.status.value for result in results] == ["cancelled", *["success"] * 5]
    assert len(calls) == 2
