"""A run's state as people read it."""

from __future__ import annotations

import json

import pytest

from planloom.core.events import ToolFacts
from planloom.core.result import RunStatus, SkipReason, StepResult, StepStatus, Usage
from planloom.plan.policy import Effects, FailureKind, ResourceLimits
from tests.core.driving import TOOLS, Drive, plan, tool, usage

S = StepStatus


def test_a20_the_measures_of_a_fork() -> None:
    drive = Drive(plan(tool("a"), tool("b", "a"), tool("c", "a"), tool("d", "b", "c")), at=100.0)

    drive.after(0.2).ok("a")
    drive.after(0.1).ok("c")
    drive.after(0.05).ok("b")
    drive.after(0.1).ok("d", "end")

    result = drive.result
    assert result.latency_ms == pytest.approx(450)
    assert result.speedup == pytest.approx(0.55 / 0.45)
    assert result.parallel_efficiency == pytest.approx(0.55 / 0.45 / 2)
    assert result.critical_path_ms == pytest.approx(450)
    assert result.scheduler_overhead_ms == pytest.approx(0)
    assert result.steps_completed == 4
    assert (result.started_at, result.ended_at) == (100.0, pytest.approx(100.45))


def test_a20_a_serial_plan_has_efficiency_one() -> None:
    drive = Drive(plan(tool("a"), tool("b", "a")))
    drive.after(1).ok("a")
    drive.after(2).ok("b")

    assert drive.result.parallel_efficiency == 1.0
    assert drive.result.speedup == 1.0


def test_a20_an_empty_plan_has_measures_too() -> None:
    result = Drive(plan()).result

    assert (result.status, result.output, result.parallel_efficiency) == (RunStatus.SUCCESS, None, 1.0)
    assert (result.speedup, result.critical_path_ms, result.steps_completed) == (1.0, 0.0, 0)


def test_waiting_for_a_slot_is_overhead() -> None:
    drive = Drive(plan(tool("a"), tool("b"), limits={"max_concurrent": 1}))
    drive.after(1).ok("a")
    drive.after(1).ok("b")

    assert drive.result.critical_path_ms == 1_000
    assert drive.result.scheduler_overhead_ms == 1_000


def test_waits_and_containers_count_from_begin_to_end_on_the_path() -> None:
    sub = {"steps": [tool("x")]}
    drive = Drive(plan({"id": "w", "wait": 5}, {"id": "sub", "plan": sub, "needs": ["w"]}))
    drive.fire("w")
    drive.after(2).ok("sub/x")

    assert drive.result.critical_path_ms == 7_000


def test_how_a_running_step_stands() -> None:
    drive = Drive(plan(tool("a"), tool("b"), tool("c", "b"), limits={"max_concurrent": 1}), at=3.0)

    a, b, c = drive.result.steps

    assert b == StepResult("b", "tool", "t", S.RUNNING, attempts=1, started_at=3.0)
    assert (a.status, c.status) == (S.READY, S.PENDING)
    assert drive.result.status is RunStatus.RUNNING
    assert drive.result.output is None


def test_how_a_step_stands_that_waits_for_its_retry() -> None:
    drive = Drive(plan(tool("a", retry={"jitter": False})))
    drive.after(2).fail("a")

    (a,) = drive.result.steps
    assert a == StepResult("a", "tool", "t", S.READY, attempts=1, started_at=0.0, busy_s=2.0, waiting="retry")


def test_how_a_completed_step_stands() -> None:
    tools = TOOLS | {"t": ToolFacts("d", Effects.NONE, cost_per_call_usd=0.5)}
    drive = Drive(plan(tool("a", retry={"jitter": False})), tools=tools)
    drive.after(2).fail("a", usage=usage(3))
    drive.fire("a")
    drive.after(1).ok("a", {"x": 1}, usage=usage(4), cost_usd=0.25)

    (a,) = drive.result.steps
    assert a == StepResult(
        "a",
        "tool",
        "t",
        S.COMPLETED,
        {"x": 1},
        attempts=2,
        cost_usd=0.75,
        usage=Usage(7, 0, 2),
        started_at=0.0,
        ended_at=4.0,
        busy_s=3.0,
    )


def test_how_failed_and_skipped_steps_stand() -> None:
    drive = Drive(plan(tool("a", on_error="skip"), tool("b"), tool("c", "b"), fail_fast=False))
    drive.fail("a", error="first")
    drive.fail("b", FailureKind.REFUSED, "second")

    a, b, c = drive.result.steps
    assert (a.status, a.error, a.error_kind, a.skip_reason) == (S.SKIPPED, "first", "error", SkipReason.ON_ERROR_SKIP)
    assert (b.status, b.error, b.error_kind, b.skip_reason) == (S.FAILED, "second", "refused", None)
    assert (c.status, c.error, c.skip_reason, c.started_at) == (S.SKIPPED, None, SkipReason.UPSTREAM_FAILED, None)


def test_the_parts_of_maps_and_sub_plans_stand_inside_them() -> None:
    tools = TOOLS | {"t": ToolFacts("d", Effects.NONE, cost_per_call_usd=0.5)}
    sub = {"id": "sub", "plan": {"steps": [tool("m", for_each=[1, 2])]}}
    drive = Drive(plan(sub), tools=tools)
    drive.finish()

    (told,) = drive.result.steps
    (inner,) = told.parts
    assert (told.id, told.kind, told.width, told.cost_usd) == ("sub", "plan", None, 1.0)
    assert (inner.id, inner.width, inner.cost_usd) == ("sub/m", 2, 1.0)
    assert [(item.id, item.cost_usd) for item in inner.parts] == [("sub/m[0]", 0.5), ("sub/m[1]", 0.5)]


def test_steps_that_wait_for_a_person_are_found_wherever_they_are() -> None:
    sub = {"steps": [{"id": "ask", "approve": "Go ${{ item }}?", "for_each": [1, 2]}]}
    drive = Drive(plan({"id": "x", "approve": "First?"}, {"id": "sub", "plan": sub}, {"id": "y", "approve": "Last?"}))

    assert [step.id for step in drive.result.blocked] == ["x", "sub/ask[0]", "sub/ask[1]", "y"]


def test_limits_that_nothing_can_hold_are_named() -> None:
    asked = ResourceLimits(max_memory_mb=10, max_cpu_percent=10, max_tool_calls=3)

    assert Drive(plan(tool("a")), limits=asked).result.limits_not_enforced == ("max_memory_mb", "max_cpu_percent")
    assert Drive(plan(tool("a")), limits=ResourceLimits()).result.limits_not_enforced == ()
    assert Drive(plan(tool("a"))).result.limits_not_enforced == ()
    told = {"t": ToolFacts("d", memory_mb=1, cpu_percent=1)}
    assert Drive(plan(tool("a")), limits=asked, tools=told).result.limits_not_enforced == ()


def test_a_result_is_json_and_finds_its_steps() -> None:
    drive = Drive(plan(tool("a"), tool("m", for_each=[1, 2], on_item_error="collect"), {"id": "ask", "approve": "Go?"}))
    drive.fail("m[0]")
    drive.ok("m[1]", usage=usage(1))
    drive.ok("a")

    told = drive.result.to_dict()

    assert json.loads(json.dumps(told)) == told
    assert told["status"] == "waiting"
    assert [step["status"] for step in told["steps"]] == ["completed", "completed", "running"]
    assert told["steps"][1]["errors"] == [{"index": 0, "error": "no", "kind": "error"}]
    assert drive.result.step("m").width == 2
    with pytest.raises(KeyError):
        drive.result.step("zzz")


def test_what_is_told_is_a_copy() -> None:
    drive = Drive(plan(tool("a"), tool("b", "a")))
    drive.ok("a", {"x": [1]})

    drive.result.step("a").output["x"].append(2)

    assert drive.machine.state.nodes["a"].output == {"x": [1]}


@pytest.mark.parametrize("restarts", [0, 1, 3])
def test_a_run_that_goes_on_tells_the_time_it_was_worked_on(restarts: int) -> None:
    drive = Drive(plan(tool("a"), tool("b", "a")))
    drive.after(2).ok("a")
    for _ in range(restarts):
        drive.after(100).restart()
    drive.after(1).cancel()

    assert drive.result.active_s == 3.0


def test_the_steps_of_a_result_are_a_sequence_like_any_other() -> None:
    drive = Drive(plan(tool("a"), tool("b")))
    drive.finish()
    one, other = drive.result.steps, drive.result.steps

    assert one == other
    assert one == tuple(other)
    assert one != ()
    assert one != [*other]
    assert repr(one) == repr(tuple(other))
    assert len({Drive(plan()).result.steps, Drive(plan()).result.steps}) == 1
    assert [step.id for step in one[1:]] == ["b"]
    assert len(one) == 2
    assert one[0] in one
