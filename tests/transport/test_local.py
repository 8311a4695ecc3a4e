"""The local lane: every attempt is answered exactly once, none waits for no reason, and nothing outlives its end."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planloom import Effects, Engine, Step
from planloom.core.commands import RunStep
from planloom.core.events import AttemptFailed, AttemptSucceeded, CallEnded, CallStarted
from planloom.core.result import StepOutcome
from planloom.executors.attempt import Attempts
from planloom.plan.policy import FailureKind
from planloom.ports import AttemptContext
from planloom.runtime.clock import LoopClock
from planloom.testing.clock import ManualClock
from planloom.testing.fakes import fake_tool
from planloom.transport import local
from planloom.transport.local import GRACE_S, SLICE_S, LocalLane, LocalTransport

Work = Callable[[RunStep, AttemptContext], Awaitable[Any]]
STEP = Step(id="s", tool="t")


def request(key: str, *, attempt: int = 1, epoch: int = 1, deadline_at: float | None = None) -> RunStep:
    return RunStep("r", key, STEP, attempt, epoch, {}, Effects.NONE, False, key, deadline_at)


@dataclass
class Place:
    """A transport whose attempts do what the test says, and everything they were answered with."""

    work: Work
    clock: Any = field(default_factory=LoopClock)
    answers: list[AttemptSucceeded | AttemptFailed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.transport = LocalTransport(Attempts(self), self.clock)

    async def execute(self, request: RunStep, context: AttemptContext) -> StepOutcome:
        return StepOutcome(await self.work(request, context))

    def lane(self) -> LocalLane:
        return self.transport.lane()

    def deliver(self, fact: Any) -> None:
        self.answers.append(fact)

    async def record(self, fact: Any) -> bool:
        self.answers.append(fact)
        return True

    async def answered(self, count: int) -> list[AttemptSucceeded | AttemptFailed]:
        async with asyncio.timeout(10):
            while len(self.answers) < count:
                await asyncio.sleep(0)
        return self.answers


def tasks_alive() -> int:
    return len(asyncio.all_tasks()) - 1


@pytest.mark.parametrize("count", [1, 2, 3, 64, 500])
def test_attempts_that_do_not_wait_are_made_in_the_order_they_came(count: int) -> None:
    made: list[str] = []

    async def work(request: RunStep, context: AttemptContext) -> None:
        made.append(request.key)

    async def main() -> None:
        place = Place(work)
        lane = place.lane()
        for n in range(count):
            lane.submit(request(str(n)), place.deliver, place.record)
        await place.answered(count)
        await place.transport.close()

    asyncio.run(main())

    assert made == [str(n) for n in range(count)]


def test_attempts_that_wait_are_begun_in_the_order_they_came_and_side_by_side() -> None:
    begun: list[str] = []

    async def main() -> None:
        gate = asyncio.Event()

        async def work(request: RunStep, context: AttemptContext) -> None:
            begun.append(request.key)
            await gate.wait()

        place = Place(work)
        lane = place.lane()
        for n in range(200):
            lane.submit(request(str(n)), place.deliver, place.record)
        for _ in range(200):
            await asyncio.sleep(0)
        assert begun == [str(n) for n in range(200)]
        assert place.answers == []
        gate.set()
        await place.answered(200)
        await place.transport.close()

    asyncio.run(main())


def test_a_wide_plan_is_under_way_within_a_few_turns_of_the_loop() -> None:
    async def main() -> int:
        gate = asyncio.Event()
        begun = 0

        async def work(request: RunStep, context: AttemptContext) -> None:
            nonlocal begun
            begun += 1
            await gate.wait()

        place = Place(work)
        lane = place.lane()
        for n in range(256):
            lane.submit(request(str(n)), place.deliver, place.record)
        turns = 0
        while begun < 256:
            turns += 1
            await asyncio.sleep(0)
        gate.set()
        await place.answered(256)
        await place.transport.close()
        return turns

    assert asyncio.run(main()) < 40


def test_submitting_an_attempt_twice_makes_it_once() -> None:
    made: list[str] = []

    async def work(request: RunStep, context: AttemptContext) -> None:
        made.append(request.key)
        await asyncio.sleep(0)

    async def main() -> None:
        place = Place(work)
        lane = place.lane()
        lane.submit(request("a"), place.deliver, place.record)
        lane.submit(request("a"), place.deliver, place.record)
        await asyncio.sleep(0)
        lane.submit(request("a"), place.deliver, place.record)
        await place.answered(1)
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(place.answers) == 1
        lane.submit(request("a", attempt=2), place.deliver, place.record)
        await place.answered(2)
        await place.transport.close()

    asyncio.run(main())

    assert made == ["a", "a"]


ACTS = ("return", "turns", "waits", "raises", "swallows")


@dataclass(frozen=True)
class Plan:
    """What one attempt does, when it is submitted, and when it is stopped, all in turns of the loop."""

    act: str
    turns: int
    submit_at: int
    stop_at: int | None
    again: bool


plans = st.builds(
    Plan,
    act=st.sampled_from(ACTS),
    turns=st.integers(0, 6),
    submit_at=st.integers(0, 12),
    stop_at=st.none() | st.integers(0, 25),
    again=st.booleans(),
)


@given(st.lists(plans, min_size=1, max_size=24))
def test_whatever_attempts_do_and_whenever_they_are_stopped_each_is_answered_once(given_plans: list[Plan]) -> None:
    async def main() -> None:
        clock = ManualClock()
        stopped_first: list[str] = []
        begun: Counter[str] = Counter()

        async def work(request: RunStep, context: AttemptContext) -> str:
            plan = given_plans[int(request.key)]
            begun[request.key] += 1
            if context.stopping:
                stopped_first.append(request.key)
            match plan.act:
                case "turns":
                    for _ in range(plan.turns):
                        await asyncio.sleep(0)
                case "waits":
                    await asyncio.Event().wait()
                case "raises":
                    await asyncio.sleep(0)
                    raise ValueError("no")
                case "swallows":
                    for _ in range(plan.turns):
                        with suppress(asyncio.CancelledError):
                            await asyncio.sleep(0)
                case _:
                    pass
            return request.key

        place = Place(work, clock)
        lane = place.lane()
        for turn in range(27):
            for n, plan in enumerate(given_plans):
                if plan.submit_at == turn:
                    lane.submit(request(str(n)), place.deliver, place.record)
                if plan.stop_at == turn:
                    lane.stop("r", str(n))
                    if plan.again:
                        lane.stop("r", str(n))
            await asyncio.sleep(0)
        for n, plan in enumerate(given_plans):
            if plan.act == "waits":
                lane.stop("r", str(n))
        await place.answered(len(given_plans))
        for _ in range(30):
            await asyncio.sleep(0)
        clock.advance(10 * GRACE_S)
        for _ in range(30):
            await asyncio.sleep(0)

        assert Counter(fact.step for fact in place.answers) == {str(n): 1 for n in range(len(given_plans))}
        assert stopped_first == [], "begun although it had been asked to stop"
        assert max(begun.values(), default=0) <= 1
        for fact in place.answers:
            plan = given_plans[int(fact.step)]
            stoppable = plan.stop_at is not None or plan.act == "waits"
            if isinstance(fact, AttemptSucceeded):
                assert plan.act != "raises"
            elif plan.act != "raises" or fact.kind is FailureKind.CANCELLED:
                assert fact.kind is FailureKind.CANCELLED
                assert stoppable
        lane.close()
        await place.transport.close()
        for _ in range(3):
            await asyncio.sleep(0)
        assert tasks_alive() == 0

    asyncio.run(main())


def stop_cases() -> list[tuple[str, int]]:
    return [("before it begins", 0), ("while it waits", 3)]


@pytest.mark.parametrize(("_name", "turns"), stop_cases())
@pytest.mark.parametrize("times", [1, 2])
def test_a_stopped_attempt_answers_once_that_it_was_cancelled(_name: str, turns: int, times: int) -> None:
    begun: list[str] = []

    async def work(request: RunStep, context: AttemptContext) -> None:
        begun.append(request.key)
        await asyncio.Event().wait()

    async def main() -> None:
        place = Place(work, ManualClock())
        lane = place.lane()
        lane.submit(request("a"), place.deliver, place.record)
        for _ in range(turns):
            await asyncio.sleep(0)
        for _ in range(times):
            lane.stop("r", "a")
        await place.answered(1)
        lane.stop("r", "a")
        lane.submit(request("b"), place.deliver, place.record)
        for _ in range(5):
            await asyncio.sleep(0)
        assert "b" in begun, "the worker of a stopped attempt is good for the next"
        assert len(place.answers) == 1
        await place.transport.close()
        return

    asyncio.run(main())
    assert begun == (["a", "b"] if turns else ["b"])


def test_an_attempt_stopped_in_the_turn_in_which_it_finishes_is_answered_once() -> None:
    async def main() -> None:
        place: Place

        async def work(request: RunStep, context: AttemptContext) -> str:
            await asyncio.sleep(0)
            lane.stop("r", request.key)  # as a step that cancels its own run
            return "done"

        place = Place(work, ManualClock())
        lane = place.lane()
        for n in range(20):
            lane.submit(request(str(n)), place.deliver, place.record)
        await place.answered(20)
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(place.answers) == 20
        assert all(isinstance(fact, AttemptSucceeded) for fact in place.answers)
        await place.transport.close()

    asyncio.run(main())


def test_an_attempt_that_swallows_cancellation_is_given_up_after_its_grace_and_its_late_result_dropped() -> None:
    async def main() -> None:
        clock, release = ManualClock(), asyncio.Event()

        async def work(request: RunStep, context: AttemptContext) -> str:
            while not release.is_set():
                with suppress(asyncio.CancelledError):
                    await release.wait()
            return "late"

        place = Place(work, clock)
        lane = place.lane()
        lane.submit(request("a"), place.deliver, place.record)
        await asyncio.sleep(0)
        lane.stop("r", "a")
        for _ in range(5):
            await asyncio.sleep(0)
        clock.advance(GRACE_S * 0.9)
        assert place.answers == []
        clock.advance(GRACE_S * 0.2)
        assert [(type(fact), fact.abandoned) for fact in place.answers] == [(AttemptFailed, True)]  # type: ignore[union-attr]
        lane.submit(request("a", attempt=2), place.deliver, place.record)
        lane.submit(request("b"), place.deliver, place.record)
        release.set()
        await place.answered(3)
        for _ in range(5):
            await asyncio.sleep(0)
        assert [(fact.step, fact.attempt) for fact in place.answers] == [("a", 1), ("a", 2), ("b", 1)]
        await place.transport.close()

    asyncio.run(main())


VAR: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="clean")


def test_a_worker_whose_step_changed_the_context_makes_no_further_attempt() -> None:
    seen: list[str] = []

    async def work(request: RunStep, context: AttemptContext) -> None:
        seen.append(VAR.get())
        if int(request.key) % 3 == 0:
            VAR.set(f"dirty {request.key}")
        if int(request.key) % 5 == 0:
            await asyncio.sleep(0)

    async def main() -> None:
        place = Place(work)
        lane = place.lane()
        for n in range(50):
            lane.submit(request(str(n)), place.deliver, place.record)
        await place.answered(50)
        assert VAR.get() == "clean"
        await place.transport.close()

    asyncio.run(main())

    assert seen == ["clean"] * 50


def test_each_caller_s_context_has_a_lane_of_its_own_and_equal_ones_share() -> None:
    async def main() -> None:
        async def work(request: RunStep, context: AttemptContext) -> str:
            return VAR.get()

        place = Place(work)
        first, same = place.lane(), place.lane()
        VAR.set("another")
        other = place.lane()
        assert first is same
        assert first is not other
        first.submit(request("a"), place.deliver, place.record)
        other.submit(request("b"), place.deliver, place.record)
        await place.answered(2)
        assert {fact.step: fact.output for fact in place.answers if isinstance(fact, AttemptSucceeded)} == {
            "a": "clean",
            "b": "another",
        }
        await place.transport.close()

    asyncio.run(main())


def test_close_ends_everything_and_waits_for_it() -> None:
    async def main() -> None:
        ended: list[str] = []

        async def work(request: RunStep, context: AttemptContext) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                for _ in range(3):
                    await asyncio.sleep(0)
                ended.append(request.key)

        place = Place(work)
        lane = place.lane()
        for n in range(30):
            lane.submit(request(str(n)), place.deliver, place.record)
        for _ in range(40):
            await asyncio.sleep(0)
        await place.transport.close()
        assert len(ended) == 30
        assert tasks_alive() == 0
        assert place.answers == []

    asyncio.run(main())


def test_an_engine_that_closed_has_waited_for_the_clean_up_of_its_tools() -> None:
    """`Transport.close` stops everything and waits for it; nothing is alive after."""
    ended: list[int] = []

    async def work(n: int) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.02)
            ended.append(n)

    async def main() -> None:
        plan = {"planloom": 1, "steps": [{"id": f"s{n}", "tool": "work", "with": {"n": n}} for n in range(5)]}
        async with Engine(tools=[fake_tool("work", work)]) as engine:
            await engine.start(plan)
            await asyncio.sleep(0.02)
        assert sorted(ended) == [0, 1, 2, 3, 4]
        assert tasks_alive() == 0

    asyncio.run(main())


def test_thousands_of_steps_that_do_nothing_leave_the_loop_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """All workers of a lane share a slice, two at most, in a turn; here a look at the clock takes a tenth of one."""
    looks = itertools.count()
    make = local.LocalLane.__init__

    def make_with_slow_looks(lane: local.LocalLane, *parts: Any) -> None:
        make(lane, *parts)
        lane._time = lambda: next(looks) * SLICE_S / 10

    monkeypatch.setattr(local.LocalLane, "__init__", make_with_slow_looks)
    made = 0

    async def nothing(**args: Any) -> None:
        nonlocal made
        made += 1

    async def main() -> int:
        most, before, running = 0, 0, True

        async def tick() -> None:
            nonlocal most, before
            while running:
                await asyncio.sleep(0)
                most, before = max(most, made - before), made

        steps = [{"id": str(n), "tool": "t", "needs": [str(n - 1)] if n % 2 else []} for n in range(3_000)]
        async with Engine(tools=[fake_tool("t", nothing)]) as engine:
            run = await engine.start({"planloom": 1, "steps": steps})
            before = made
            ticker = asyncio.create_task(tick())
            assert (await run.result()).status.value == "success"
            running = False
            await ticker
        return most

    assert 1 <= asyncio.run(main()) <= 25


def test_context_variables_whose_values_cannot_be_compared_harm_nobody() -> None:
    class Incomparable:
        def __eq__(self, other: object) -> bool:
            raise ValueError("the truth value of this is ambiguous")

        __hash__ = object.__hash__

    variable: contextvars.ContextVar[Incomparable] = contextvars.ContextVar("incomparable")

    async def main() -> list[Any]:
        gate = asyncio.Event()

        async def one(**args: Any) -> bool:
            await gate.wait()
            return variable.get(None) is not None

        async with Engine(tools=[fake_tool("one", one)]) as engine:
            runs = []
            for value in (Incomparable(), Incomparable()):
                variable.set(value)
                runs.append(await engine.start({"planloom": 1, "steps": [{"id": "a", "tool": "one"}]}))
            gate.set()
            return [(await run.result()).output for run in runs]

    assert asyncio.run(main()) == [True, True]


def test_a_stopped_attempt_still_tells_of_a_call_that_has_ended_and_begins_no_other() -> None:
    told: list[bool] = []

    async def work(request: RunStep, context: AttemptContext) -> None:
        place = (request.key, request.attempt, request.epoch, "call", "send")
        try:
            await asyncio.Event().wait()
        finally:
            told.append(await context.record(CallEnded(*place, "tool", 1, 0.0, 0.0)))
            told.append(await context.record(CallStarted(*place, 0.0)))

    async def main() -> list[type[Any]]:
        place = Place(work, ManualClock())
        lane = place.lane()
        lane.submit(request("a"), place.deliver, place.record)
        await asyncio.sleep(0)
        lane.stop("r", "a")
        await place.answered(2)
        await place.transport.close()
        return [type(answer) for answer in place.answers]

    assert asyncio.run(main()) == [CallEnded, AttemptFailed]
    assert told == [False, False]
