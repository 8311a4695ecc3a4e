"""What a tool step gives its tool and takes from it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from planloom import Engine, NotDoneError, Plan, RunResult, Step, Tool, ToolContext
from planloom.core.events import RunStarted
from planloom.errors import HttpStatusError
from planloom.testing.clock import ManualClock
from planloom.testing.fakes import CallLog, fake_tool


def run(plan: Any, tools: list[Any], inputs: dict[str, Any] | None = None, **options: Any) -> RunResult:
    async def main() -> RunResult:
        async with asyncio.timeout(5), Engine(tools=tools, **options) as engine:
            return await engine.run(plan, inputs, run_id="r")

    return asyncio.run(main())


def test_a_tool_is_told_which_attempt_of_which_step_calls_it() -> None:
    seen: list[ToolContext] = []

    async def look(context: ToolContext) -> None:
        seen.append(context)
        if len(seen) == 1:
            raise ConnectionError("once more")

    steps = [
        {"id": "a", "tool": "look", "retry": {"initial_delay": 0}, "timeout_seconds": 50},
        {"id": "each", "tool": "look", "for_each": [1, 2], "needs": ["a"], "idempotency_key": "k-${{ item }}"},
    ]
    clock = time.time()
    run({"planloom": 1, "steps": steps}, [Tool.from_function(look, effects="none")])

    told = [(context.run_id, context.step, context.attempt, context.idempotency_key) for context in seen]
    assert told == [("r", "a", 1, "r/a"), ("r", "a", 2, "r/a"), ("r", "each[0]", 1, "k-1"), ("r", "each[1]", 1, "k-2")]
    assert seen[0].deadline_at == seen[1].deadline_at
    assert seen[0].deadline_at is not None
    assert 45 < seen[0].deadline_at - clock < 55
    assert seen[2].deadline_at is None


def test_a_sync_tool_can_ask_whether_it_was_given_up() -> None:
    noticed: list[bool] = []

    def work(context: ToolContext) -> None:
        end = time.monotonic() + 3
        while time.monotonic() < end and not context.cancelled():
            time.sleep(0.005)
        noticed.append(context.cancelled())

    result = run(
        {"planloom": 1, "steps": [{"id": "a", "tool": "work", "attempt_timeout": 0.05}]},
        [Tool.from_function(work, effects="none")],
    )
    end = time.monotonic() + 3
    while not noticed and time.monotonic() < end:
        time.sleep(0.005)

    assert result.step("a").status.value == "timed_out"
    assert noticed == [True]


def test_the_smallest_of_all_time_limits_wins() -> None:
    async def slow() -> None:
        await asyncio.sleep(5)

    for fields, declared in (
        ({"attempt_timeout": 0.03, "timeout_seconds": 4}, 4),
        ({"attempt_timeout": 4, "timeout_seconds": 0.03}, 4),
        ({"attempt_timeout": 4, "timeout_seconds": 4}, 0.03),
    ):
        tool = fake_tool("slow", slow, timeout_seconds=declared)
        result = run({"planloom": 1, "steps": [{"id": "a", "tool": "slow", **fields}]}, [tool])

        assert result.step("a").status.value == "timed_out"
        assert result.latency_ms < 1_000


def test_a_step_s_time_bounds_all_its_attempts_and_the_waits_between_them() -> None:
    log = CallLog()

    async def main() -> RunResult:
        clock = ManualClock()
        retry = {"max_attempts": 50, "initial_delay": 10, "exponential_base": 1, "jitter": False}
        plan = {"planloom": 1, "steps": [{"id": "a", "tool": "t", "retry": retry, "timeout_seconds": 35}]}
        async with Engine(tools=[fake_tool("t", [ConnectionError("no")], log=log)], clock=clock) as engine:
            started = await engine.start(plan)
            waiter = asyncio.create_task(started.result())
            while not waiter.done():
                for _ in range(30):
                    await asyncio.sleep(0)
                clock.advance_to_next()
            return waiter.result()

    result = asyncio.run(main())

    assert len(log) == 4  # at 0, 10, 20 and 30 seconds
    assert result.status.value == "failed"
    assert "no" in (result.step("a").error or "")


@pytest.mark.parametrize(
    ("error", "effects", "attempts"),
    [
        (ConnectionError(), "none", 3),
        (ConnectionError(), "idempotent", 3),
        (ConnectionError(), "once", 1),
        (NotDoneError("not yet"), "once", 3),
        (TypeError(), "none", 1),
        (HttpStatusError("gone", status_code=404), "none", 1),
        (HttpStatusError("busy", status_code=503), "none", 3),
        (HttpStatusError("slow down", status_code=429), "none", 3),
        (TimeoutError(), "none", 3),
        (SystemExit(1), "none", 1),
    ],
    ids=str,
)
def test_what_is_tried_again_and_what_is_not(error: BaseException, effects: str, attempts: int) -> None:
    log = CallLog()
    plan = {"planloom": 1, "steps": [{"id": "a", "tool": "t", "retry": {"max_attempts": 3, "initial_delay": 0}}]}

    result = run(plan, [fake_tool("t", [error], log=log, effects=effects)])

    assert len(log) == attempts
    assert result.status.value == "failed"


def test_the_server_s_own_wait_wins_over_the_policy_s() -> None:
    async def main() -> list[float]:
        clock = ManualClock()
        began = clock.now()
        busy = HttpStatusError("busy", status_code=429, retry_after_s=7)
        plan = {"planloom": 1, "steps": [{"id": "a", "tool": "t", "retry": {"initial_delay": 1}}]}
        async with Engine(tools=[fake_tool("t", [busy, "done"])], clock=clock) as engine:
            started = await engine.start(plan)
            for _ in range(30):
                await asyncio.sleep(0)
            due = clock.next_due
            assert due is not None
            clock.advance_to_next()
            assert (await started.result()).status.value == "success"
            return [due - began]

    # `retry_after_s` is the name of planloom's own error; libraries say `retry_after` or give the header.
    assert asyncio.run(main()) == [7.0]


def test_a_result_that_does_not_fit_the_tool_s_or_the_step_s_schema_is_an_output_failure() -> None:
    number = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    plan = {
        "planloom": 1,
        "fail_fast": False,
        "steps": [
            {"id": "tool", "tool": "declared"},
            {"id": "step", "tool": "free", "output": number},
            {"id": "good", "tool": "free", "output": {"type": "object"}},
        ],
    }
    tools = [fake_tool("declared", lambda: {"n": "x"}, output_schema=number), fake_tool("free", lambda: {"m": 1})]

    result = run(plan, tools)

    assert [step.error_kind for step in result.steps] == ["output", "output", None]
    assert "n" in (result.step("tool").error or "")
    assert result.step("tool").output is None


def test_a_tool_outside_the_allowlist_of_the_run_is_not_called_whoever_checked_the_plan() -> None:
    """The check before the run is the first line; the executor is the second, for a record that came from elsewhere."""
    log = CallLog()
    plan = Plan(steps=(Step(id="a", tool="t"),))

    async def main() -> RunResult:
        async with Engine(tools=[fake_tool("t", log=log), fake_tool("other")], allow=["t"]) as engine:
            checked = engine._checks.of(plan, None)
            started = RunStarted(checked.plan, {}, 0.0, tools=checked.tools, allow=("other",))
            return await engine.finish(await engine._begin("r", started))

    result = asyncio.run(main())

    assert len(log) == 0
    assert result.step("a").error_kind == "not_allowed"


def test_six_equal_cached_steps_at_once_make_one_call_and_each_gets_a_copy_of_its_own() -> None:
    log = CallLog()

    async def slow(n: int) -> list[int]:
        await asyncio.sleep(0.01)
        return [n]

    async def spoil(value: list[int]) -> list[int]:
        value.append(0)
        return value

    steps = [{"id": f"s{n}", "tool": "slow", "cache": True, "with": {"n": 1}} for n in range(6)]
    steps += [{"id": f"t{n}", "tool": "spoil", "with": {"value": f"${{{{ steps.s{n}.output }}}}"}} for n in range(6)]
    result = run({"planloom": 1, "steps": steps}, [fake_tool("slow", slow, log=log), fake_tool("spoil", spoil)])

    assert len(log) == 1
    assert [result.step(f"s{n}").output for n in range(6)] == [[1]] * 6
    assert [result.step(f"t{n}").output for n in range(6)] == [[1, 0]] * 6


def test_a23_where_the_first_of_equal_cached_steps_fails_the_others_are_done_all_the_same() -> None:
    log, go_on = CallLog(), asyncio.Event()

    async def once_down() -> str:
        if len(log) == 1:
            await go_on.wait()
            raise ConnectionError("a bad moment")
        return "fine"

    async def main() -> RunResult:
        steps = [{"id": f"s{n}", "tool": "t", "cache": True} for n in range(6)]
        async with asyncio.timeout(5), Engine(tools=[fake_tool("t", once_down, log=log)]) as engine:
            run = await engine.start({"planloom": 1, "fail_fast": False, "steps": steps})
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(log) == 1
            go_on.set()
            return await engine.finish(run)

    result = asyncio.run(main())

    assert [step.output for step in result.steps] == [None, *["fine"] * 5]
    assert result.steps[0].error_kind == "error"
    assert len(log) == 2


def test_a_time_limit_of_the_first_of_equal_cached_steps_is_no_limit_of_the_others() -> None:
    log = CallLog()

    async def slow() -> str:
        await asyncio.sleep(0.05)
        return "done"

    steps = [{"id": "a", "tool": "t", "cache": True, "attempt_timeout": 0.01}, {"id": "b", "tool": "t", "cache": True}]
    result = run({"planloom": 1, "fail_fast": False, "steps": steps}, [fake_tool("t", slow, log=log)])

    assert [step.status.value for step in result.steps] == ["timed_out", "completed"]
    assert len(log) == 2


def test_a_cached_result_ends_with_its_time() -> None:
    log = CallLog()

    async def main() -> None:
        clock = ManualClock()
        plan = {"planloom": 1, "steps": [{"id": "a", "tool": "t", "cache": {"ttl_seconds": 60}}]}
        async with Engine(tools=[fake_tool("t", log=log)], clock=clock) as engine:
            for wait in (0, 59, 2):
                clock.advance(wait)
                await engine.run(plan)

    asyncio.run(main())

    assert len(log) == 2
