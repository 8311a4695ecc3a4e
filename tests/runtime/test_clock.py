"""What time means: moments and seconds, when the machine sleeps, when its clock is set, and across engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from planloom import Engine, MemoryJournal, RunResult, RunStatus, ToolContext, tool
from planloom.core.events import ApprovalAnswered, AttemptFailed, OutputStreamed, StepDispatched
from planloom.errors import ConfigError
from planloom.ports import Recorded
from planloom.runtime import posted
from planloom.runtime.clock import JUMP_S, LoopClock, RunClock, moved
from planloom.runtime.run import Run
from planloom.testing.clock import NOON, ManualClock
from planloom.testing.history.check import check_history

HOUR_S = 3_600.0
YEAR_S = 365 * 24 * HOUR_S


@dataclass
class Machine:
    """A machine with a wall clock that can be set, and a counter that stands still while it sleeps."""

    wall_s: float = NOON
    counted_s: float = 5.0

    def clock(self) -> LoopClock:
        return LoopClock(wall=lambda: self.wall_s, monotonic=lambda: self.counted_s)

    def works(self, seconds: float) -> None:
        self.wall_s += seconds
        self.counted_s += seconds


def plan(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"planloom": 1, "name": "p", "steps": list(steps), **fields}


# --- the engine's clock -----------------------------------------------------------------------


def test_between_two_looks_time_passes_as_the_counter_says_whatever_is_done_to_the_wall_clock() -> None:
    machine = Machine()
    clock = machine.clock()

    machine.works(10)
    machine.wall_s += HOUR_S
    forward = clock.now()
    machine.wall_s -= 9 * HOUR_S
    machine.works(10)

    assert (forward, clock.now()) == (NOON + 10, NOON + 20)


@pytest.mark.parametrize(("set_by_s", "caught_up_s"), [(HOUR_S, HOUR_S), (-HOUR_S, 0.0), (JUMP_S / 2, 0.0), (0.0, 0.0)])
def test_a_look_at_the_wall_clock_goes_ahead_with_it_and_never_back(set_by_s: float, caught_up_s: float) -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall_s += set_by_s

    told_s = clock.catch_up()

    assert (told_s, clock.now()) == (caught_up_s, NOON + caught_up_s)
    assert clock.catch_up() == 0.0


def test_a_clock_set_back_and_right_again_was_never_behind() -> None:
    machine = Machine()
    clock = machine.clock()

    told = []
    for set_by_s in (-HOUR_S, HOUR_S):
        machine.wall_s += set_by_s
        machine.works(60)
        told += [clock.catch_up(), clock.now()]

    assert told == [0.0, NOON + 60, 0.0, NOON + 120]


# --- the time of a run ------------------------------------------------------------------------


def test_a_runs_time_goes_on_from_its_record_and_stays_where_it_was_when_the_engines_comes_closer() -> None:
    engine = ManualClock()
    run, called = RunClock(engine), []
    run.not_before(NOON + 100)
    run.not_before(NOON + 40)

    run.call_at(NOON + 130, lambda: called.append(engine.now()))
    engine.advance(30)
    before = run.now()
    engine.advance(60)
    run.caught_up(60)
    at_60 = run.now(), run.ahead_s
    engine.advance(60)
    run.caught_up(60)

    assert called == [NOON + 30]
    assert before == NOON + 130
    assert at_60 == (NOON + 130, 40)
    assert (run.now(), run.ahead_s) == (NOON + 150, 0)


def test_a_fact_is_moved_with_all_its_times() -> None:
    fact = AttemptFailed("a", 1, 1, "error", "no", NOON, NOON + 2)  # type: ignore[arg-type]

    late = moved(fact, 10)

    assert isinstance(late, AttemptFailed)
    assert (late.started_at, late.at, late.error) == (NOON + 10, NOON + 12, "no")


# --- a machine that sleeps, or whose clock is set, in the middle of runs ----------------------


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posted, "POLL_S", 0.01)


async def on(machine: Machine, jump: Callable[[Machine], None], steps: dict[str, Any], **fields: Any) -> RunResult:
    """Run a plan, and have the machine jump once the run has begun to wait."""
    async with Engine(clock=machine.clock(), tools=[]) as engine:
        run = await engine.start(plan(steps, **fields), run_id="r")
        await asyncio.sleep(0.02)
        jump(machine)
        async with asyncio.timeout(5):
            result = await run.result()
        assert check_history(await engine.journal.read("r")) == []
    return result


def slept(machine: Machine) -> None:
    machine.wall_s += HOUR_S


@pytest.mark.usefixtures("looking")
@pytest.mark.parametrize("wait", [HOUR_S, {"until": "2025-10-09T09:53:20+00:00"}])
def test_a_wait_is_over_when_its_moment_came_while_the_machine_slept(wait: Any) -> None:
    result = asyncio.run(on(Machine(), slept, {"id": "w", "wait": wait}))

    assert result.status is RunStatus.SUCCESS
    assert result.step("w").ended_at == NOON + HOUR_S


@pytest.mark.usefixtures("looking")
def test_an_approval_expires_while_the_machine_sleeps() -> None:
    approve = {"message": "Pay?", "expires_seconds": HOUR_S}

    async def main() -> RunResult:
        machine = Machine()
        async with Engine(clock=machine.clock(), tools=[]) as engine:
            run = await engine.start(plan({"id": "ok", "approve": approve}), run_id="r")
            assert (await run.result()).status is RunStatus.WAITING
            slept(machine)
            async with asyncio.timeout(5):
                while (result := await run.result()).status is RunStatus.WAITING:
                    await asyncio.sleep(0.005)
        return result

    result = asyncio.run(main())

    assert result.status is RunStatus.FAILED
    assert result.step("ok").ended_at == NOON + HOUR_S


@pytest.mark.usefixtures("looking")
def test_limits_count_the_seconds_in_which_the_machine_was_awake() -> None:
    async def main() -> RunResult:
        machine, go_on = Machine(), asyncio.Event()

        @tool(name="work", effects="once")
        async def work() -> str:
            """Work through a sleep of the machine."""
            await go_on.wait()
            return "done"

        async with Engine(clock=machine.clock(), tools=[work]) as engine:
            inner = {"name": "inner", "steps": [{"id": "b", "tool": "work", "attempt_timeout": 60}]}
            steps = [
                {"id": "a", "tool": "work", "attempt_timeout": 60},
                {"id": "sub", "plan": inner, "timeout_seconds": 90},
                {"id": "after", "tool": "work", "needs": ["a", "sub"], "timeout_seconds": 60},
            ]
            run = await engine.start(plan(*steps, limits={"timeout_seconds": 120}), run_id="r")
            await asyncio.sleep(0.02)
            slept(machine)
            await asyncio.sleep(0.05)
            go_on.set()
            result = await run.result()
            assert check_history(await engine.journal.read("r")) == []
        return result

    result = asyncio.run(main())

    assert result.status is RunStatus.SUCCESS, result.steps
    assert (result.step("a").ended_at or 0) >= NOON + HOUR_S


# --- records by other clocks ------------------------------------------------------------------


class Told:
    """A tool that says when it was called, and how long it has."""

    def __init__(self) -> None:
        self.left_s: list[float | None] = []

    def tools(self, clock: ManualClock) -> list[Any]:
        @tool(name="tell", effects="once")
        async def tell(context: ToolContext) -> None:
            """Say how many seconds are left."""
            self.left_s.append(None if context.deadline_at is None else context.deadline_at - clock.now())

        return [tell]


DO = {"id": "do", "tool": "tell", "needs": ["w"], "attempt_timeout": 30}


async def left(journal: MemoryJournal, clock: ManualClock, step: dict[str, Any], *, run_id: str = "r") -> None:
    """Leave a run on record that has waited for 100 s, by an engine that is gone."""
    async with Engine(journal, clock=clock, tools=Told().tools(clock)) as engine:
        await engine.start(plan(step, DO), run_id=run_id)
        for _ in range(20):
            await asyncio.sleep(0)
        clock.advance(100)


async def ended(run: Run, clock: ManualClock, *, within_s: float) -> RunResult:
    """Let time pass, a second at a time, until the run has ended."""
    waiting = asyncio.ensure_future(run.result())
    end = clock.now() + within_s
    while True:
        for _ in range(20):
            await asyncio.sleep(0)
        if waiting.done():
            return waiting.result()
        assert clock.now() < end, "it is not over yet"
        clock.advance(1)


def times(record: list[Recorded]) -> list[float]:
    return [entry.event.at for entry in record]


@pytest.mark.parametrize("behind_s", [-YEAR_S, -3 * HOUR_S, -1.0, 0.0, 500.0])
def test_a_wait_lasts_as_long_as_was_said_also_where_the_next_engines_clock_is_behind(behind_s: float) -> None:
    """What went by since the last event on record counts as far as the clocks tell, and no less than nothing."""

    async def main() -> tuple[RunResult, list[Recorded], float, Told]:
        journal, first, told = MemoryJournal(), ManualClock(), Told()
        await left(journal, first, {"id": "w", "wait": 600})
        second = ManualClock(NOON + 100 + behind_s)
        async with Engine(journal, clock=second, tools=told.tools(second)) as engine:
            result = await ended(await engine.resume("r"), second, within_s=700)
        return result, await journal.read("r"), second.now() - (NOON + 100 + behind_s), told

    result, record, took_s, told = asyncio.run(main())

    assert result.status is RunStatus.SUCCESS
    assert took_s == pytest.approx(max(0.0, 600 - max(0.0, 100 + behind_s)), abs=1.1)
    assert told.left_s == [pytest.approx(30, abs=1.1)]
    assert times(record) == sorted(times(record))
    assert check_history(record) == []


@pytest.mark.parametrize("wait", [600, {"until": "2025-10-09T09:03:20+00:00"}])
def test_a_wait_that_came_to_its_end_while_no_engine_was_there_is_over_at_once(wait: Any) -> None:
    async def main() -> tuple[RunResult, list[Recorded]]:
        journal, second = MemoryJournal(), ManualClock(NOON + HOUR_S)
        await left(journal, ManualClock(), {"id": "w", "wait": wait})
        async with Engine(journal, clock=second, tools=Told().tools(second)) as engine:
            run = await engine.resume("r")
            second.advance(0)
            result = await run.result()
        return result, await journal.read("r")

    result, record = asyncio.run(main())

    assert result.status is RunStatus.SUCCESS
    assert times(record)[-1] == NOON + HOUR_S
    assert check_history(record) == []


def test_an_approval_that_expired_while_no_engine_was_there_takes_no_answer_any_more() -> None:
    """Neither one that was left in the meantime, nor one given to the next engine before it looks at its timers."""

    async def main() -> RunResult:
        journal, second = MemoryJournal(), ManualClock(NOON + HOUR_S)
        approve = {"message": "Pay?", "expires_seconds": 600}
        await left(journal, ManualClock(), {"id": "w", "approve": approve})
        await journal.post("r", ApprovalAnswered("w", True, "ann", NOON + 700))
        async with Engine(journal, clock=second, tools=Told().tools(second)) as engine:
            run = await engine.resume("r")
            with pytest.raises(ConfigError, match="expired 3000 s ago"):
                await run.approve("w", by="bob")
            second.advance(0)
            return await run.result()

    result = asyncio.run(main())

    assert result.status is RunStatus.FAILED
    assert result.step("w").error == "nobody answered in time"
    assert result.step("do").status == "skipped"


def test_a_record_from_the_future_moves_the_time_of_no_other_run() -> None:
    """One of an engine whose clock was a year ahead; its own time goes on from there, at the speed of everybody's."""

    async def main() -> tuple[RunResult, RunResult, list[Recorded], list[Recorded], Told, float]:
        journal, ahead, told = MemoryJournal(), ManualClock(NOON + YEAR_S), Told()
        await left(journal, ahead, {"id": "w", "wait": 600}, run_id="future")
        here = ManualClock()
        async with Engine(journal, clock=here, tools=told.tools(here)) as engine:
            other = await engine.start(plan({"id": "w", "wait": 300}, DO), run_id="other")
            (future,) = await engine.recover()
            other_result = await ended(other, here, within_s=301.5)
            took_s = here.now() - NOON
            future_result = await ended(future, here, within_s=301.5)
        return other_result, future_result, await journal.read("other"), await journal.read("future"), told, took_s

    other, future, record, future_record, told, took_s = asyncio.run(main())

    assert (other.status, future.status) == (RunStatus.SUCCESS, RunStatus.SUCCESS)
    assert took_s == pytest.approx(300, abs=1.1)
    assert max(times(record)) < NOON + 302
    assert min(times(future_record)) == NOON + YEAR_S
    assert told.left_s == [pytest.approx(30, abs=1.1)] * 2
    for one in (record, future_record):
        assert times(one) == sorted(times(one))
        assert check_history(one) == []


def test_an_attempt_of_a_record_from_the_future_has_all_of_its_time_and_no_more() -> None:
    """It is told when it must have ended by the clock of its engine, and its answer is on record by that of its run."""

    async def main() -> tuple[RunResult, list[Recorded]]:
        journal, ahead = MemoryJournal(), ManualClock(NOON + YEAR_S)
        await left(journal, ahead, {"id": "w", "wait": 600})
        here = ManualClock()

        @tool(name="tell", effects="once")
        async def tell() -> None:
            """Never end."""
            await asyncio.Event().wait()

        async with Engine(journal, clock=here, tools=[tell]) as engine:
            result = await ended(await engine.resume("r"), here, within_s=650)
        return result, await journal.read("r")

    result, record = asyncio.run(main())

    (began,) = (entry.event.at for entry in record if isinstance(entry.event, StepDispatched))
    (failed,) = (entry.event for entry in record if isinstance(entry.event, AttemptFailed))
    assert result.status is RunStatus.FAILED
    assert failed.kind == "timeout"
    assert (failed.started_at, failed.at) == (pytest.approx(began), pytest.approx(began + 30))
    assert check_history(record) == []


def test_what_was_on_its_way_while_something_else_was_heard_is_not_on_record_as_earlier() -> None:
    async def main() -> list[Recorded]:
        clock, go_on = ManualClock(), asyncio.Event()

        @tool(name="work", effects="none")
        async def work() -> None:
            """Wait for a sign."""
            await go_on.wait()

        async with Engine(clock=clock, tools=[work]) as engine:
            run = await engine.start(plan({"id": "a", "tool": "work"}), run_id="r")
            driver = engine._drivers["r"]
            driver.deliver(OutputStreamed("a", 1, 1, "late", NOON + 9))
            driver.deliver(OutputStreamed("a", 1, 1, "early", NOON + 8))
            go_on.set()
            await run.result()
            return await engine.journal.read("r")

    record = asyncio.run(main())

    assert [event.text for event in (entry.event for entry in record) if isinstance(event, OutputStreamed)] == [
        "late",
        "early",
    ]
    assert times(record) == sorted(times(record))
