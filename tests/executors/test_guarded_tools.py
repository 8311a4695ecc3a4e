"""Tools that are spared: a breaker that opens after failures, a rate that calls wait for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from planloom import Engine, NotDoneError, RunResult, Settings, Tool
from planloom.core.chat import ToolCall
from planloom.core.events import AttemptWaiting, CircuitChanged
from planloom.errors import ArgumentsError, CircuitOpenError, ConfigError, HttpStatusError
from planloom.executors.wrap.breaker import CircuitBreaker, CircuitState
from planloom.executors.wrap.guarded import Guards
from planloom.testing.clock import ManualClock
from planloom.testing.fakes import CallLog, fake_tool
from planloom.testing.models import FunctionModel, ScriptedModel
from planloom.tools.registry import ToolRegistry
from planloom.tools.sparing import BreakerPolicy, breaker_of
from tests.executors.attempts import Books, asking

SPINS = 30
"""Turns of the loop after which nothing more happens by itself."""


class Noting(Books):
    """Keeps what is noted."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.noted: list[Any] = []

    def note(self, fact: Any) -> None:
        self.noted.append(fact)

    async def record(self, fact: Any) -> bool:
        self.noted.append(fact)
        return True


class Guarded:
    """A breaker of three failures and 30 seconds, and calls that do what the test says."""

    def __init__(self) -> None:
        self.clock = ManualClock(0.0)
        self.breaker = CircuitBreaker("t", BreakerPolicy(), self.clock)
        self.context = Noting(self.clock)
        self.calls = 0

    async def call(self, answer: Any = None, *, is_whole: bool = True, **fields: Any) -> Any:
        async def begin() -> Any:
            self.calls += 1
            found = await answer if hasattr(answer, "__await__") else answer
            if isinstance(found, BaseException):
                raise found
            return found

        return await self.breaker.around(begin, asking(**fields), self.context, is_whole=is_whole)

    async def fail(self, times: int = 1, error: BaseException | None = None) -> None:
        error = error or ConnectionError("no")
        for _ in range(times):
            with pytest.raises(type(error)):
                await self.call(error)

    def states(self) -> list[str]:
        return [fact.state for fact in self.context.noted]


def run(steps: list[dict[str, Any]], tools: list[Tool], **options: Any) -> tuple[RunResult, list[Any]]:
    """Run a plan on a clock that goes on whenever nothing else happens; return the result and the run's events."""
    clock = options.setdefault("clock", ManualClock())

    async def main() -> tuple[RunResult, list[Any]]:
        async with Engine(tools=tools, **options) as engine:
            doing = asyncio.ensure_future(engine.run({"planloom": 1, "fail_fast": False, "steps": steps}, run_id="r"))
            while not doing.done():
                for _ in range(SPINS):
                    await asyncio.sleep(0)
                clock.advance_to_next()
            return doing.result(), [entry.event for entry in await engine.journal.read("r")]

    return asyncio.run(main())


def of(kind: type[Any], events: list[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


# --- the breaker --------------------------------------------------------------------------------


def test_a24_after_three_failures_the_fourth_call_is_refused_at_once_and_the_tool_not_called() -> None:
    async def main() -> None:
        guarded = Guarded()
        await guarded.fail(3)
        begin = time.process_time()  # of this process alone: others have theirs

        with pytest.raises(CircuitOpenError, match="'t' failed 3 times in a row and was not called") as refused:
            await guarded.call()

        assert time.process_time() - begin < 0.005
        assert guarded.calls == 3
        assert (refused.value.until, refused.value.retry_after_s) == (30.0, 30.0)

    asyncio.run(main())


def test_a24_after_its_time_exactly_one_call_tries_it_and_its_success_closes_the_breaker() -> None:
    async def main() -> None:
        guarded = Guarded()
        await guarded.fail(3)
        guarded.clock.advance(30)
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        probe = asyncio.ensure_future(guarded.call(answer))
        await asyncio.sleep(0)

        for _ in range(5):
            with pytest.raises(CircuitOpenError, match="one call is trying it now"):
                await guarded.call()
        answer.set_result("well again")

        assert await probe == "well again"
        assert await guarded.call("and again") == "and again"
        assert guarded.calls == 5
        assert guarded.states() == ["open", "half_open", "closed"]

    asyncio.run(main())


def test_a_failed_try_opens_it_again_for_as_long() -> None:
    async def main() -> None:
        guarded = Guarded()
        await guarded.fail(3)
        guarded.clock.advance(30)

        await guarded.fail()

        with pytest.raises(CircuitOpenError) as refused:
            await guarded.call()
        assert refused.value.until == 60.0
        assert guarded.states() == ["open", "half_open", "open"]

    asyncio.run(main())


def test_every_move_is_noted_with_the_attempt_that_caused_it() -> None:
    async def main() -> None:
        guarded = Guarded()
        await guarded.fail(3)
        guarded.clock.advance(31)
        await guarded.call("fine")

        assert guarded.context.noted == [
            CircuitChanged("a", 1, 1, "t", "open", 0.0, 3, 30.0),
            CircuitChanged("a", 1, 1, "t", "half_open", 31.0, 3),
            CircuitChanged("a", 1, 1, "t", "closed", 31.0),
        ]

    asyncio.run(main())


def test_a_success_in_between_begins_the_count_anew() -> None:
    async def main() -> None:
        guarded = Guarded()

        await guarded.fail(2)
        await guarded.call()
        await guarded.fail(2)

        assert guarded.breaker.state is CircuitState.CLOSED

    asyncio.run(main())


@pytest.mark.parametrize(
    "error",
    [ConnectionError("x"), TimeoutError("x"), TypeError("x"), HttpStatusError("x", status_code=503), SystemExit(1)],
    ids=["error", "timeout", "bug", "503", "exit"],
)
def test_what_the_tool_does_wrong_counts(error: BaseException) -> None:
    async def main() -> None:
        guarded = Guarded()

        await guarded.fail(3, error)

        assert guarded.breaker.state is CircuitState.OPEN

    asyncio.run(main())


@pytest.mark.parametrize(
    "error",
    [ArgumentsError("x"), HttpStatusError("x", status_code=404), asyncio.CancelledError()],
    ids=["arguments", "404", "cancelled"],
)
def test_what_the_caller_does_wrong_does_not_count(error: BaseException) -> None:
    async def main() -> None:
        guarded = Guarded()

        await guarded.fail(9, error)

        assert guarded.breaker.state is CircuitState.CLOSED

    asyncio.run(main())


def test_an_answer_that_refuses_what_was_asked_shows_that_the_tool_works_again() -> None:
    async def main() -> None:
        guarded = Guarded()
        await guarded.fail(3)
        guarded.clock.advance(30)

        await guarded.fail(1, HttpStatusError("no such page", status_code=404))

        assert guarded.breaker.state is CircuitState.CLOSED

    asyncio.run(main())


def test_an_attempt_that_ran_out_of_time_in_the_tool_counts_and_one_that_was_asked_to_stop_does_not() -> None:
    async def main() -> None:
        for is_whole, stopping, expected in ((True, False, "open"), (True, True, "closed"), (False, False, "closed")):
            guarded = Guarded()
            guarded.context.stopping = stopping
            for _ in range(3):
                with pytest.raises(asyncio.CancelledError):
                    await guarded.call(asyncio.CancelledError(), is_whole=is_whole, deadline_at=0.0)

            assert guarded.breaker.state.value == expected

    asyncio.run(main())


def test_a_try_that_is_cancelled_makes_way_for_the_next_call() -> None:
    async def main() -> None:
        guarded = Guarded()
        await guarded.fail(3)
        guarded.clock.advance(30)
        probe = asyncio.ensure_future(guarded.call(asyncio.get_running_loop().create_future()))
        await asyncio.sleep(0)
        probe.cancel()
        await asyncio.wait([probe])

        assert await guarded.call("fine") == "fine"
        assert guarded.breaker.state is CircuitState.CLOSED

    asyncio.run(main())


def test_a_try_that_never_answers_is_followed_by_another_after_as_long_and_changes_nothing_late() -> None:
    async def main() -> None:
        guarded = Guarded()
        await guarded.fail(3)
        guarded.clock.advance(30)
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        stuck = asyncio.ensure_future(guarded.call(answer))
        await asyncio.sleep(0)
        guarded.clock.advance(30)
        await guarded.fail()

        answer.set_result("late")
        await stuck

        assert guarded.breaker.state is CircuitState.OPEN

    asyncio.run(main())


def test_what_was_begun_before_it_opened_does_not_close_it() -> None:
    async def main() -> None:
        guarded = Guarded()
        answers = [asyncio.get_running_loop().create_future() for _ in range(6)]
        calls = [asyncio.ensure_future(guarded.call(answer)) for answer in answers]
        await asyncio.sleep(0)

        for answer in answers[:5]:
            answer.set_exception(ConnectionError("no"))
        answers[5].set_result("late")
        await asyncio.gather(*calls, return_exceptions=True)

        assert guarded.states() == ["open"]
        assert guarded.context.noted[0].failures == 3

    asyncio.run(main())


# --- through the engine -------------------------------------------------------------------------


def flaky(name: str, failures: int, log: CallLog, **declared: Any) -> Tool:
    return fake_tool(name, [*[ConnectionError("down")] * failures, "fine"], log=log, **declared)


def test_a24_a_breaker_opens_for_its_own_tool_only_and_every_move_is_on_record() -> None:
    log = CallLog()
    steps = [{"id": f"s{n}", "tool": "bad", "needs": [f"s{n - 1}"] if n else []} for n in range(5)]
    steps = [step | {"join": "all_done"} for step in steps]
    steps += [{"id": f"o{n}", "tool": "other", "needs": ["s4"], "join": "all_done"} for n in range(2)]

    result, events = run(
        steps, [flaky("bad", 9, log, breaker=True), flaky("other", 0, log, breaker=True)], clock=ManualClock()
    )

    assert len(log.of("bad")) == 3
    assert [result.step(f"o{n}").output for n in range(2)] == ["fine", "fine"]
    assert [result.step(f"s{n}").error_kind for n in (2, 3, 4)] == ["error", "not_done", "not_done"]
    assert [(fact.step, fact.state, fact.failures) for fact in of(CircuitChanged, events)] == [("s2", "open", 3)]


def test_a_step_with_retries_waits_until_an_open_breaker_lets_it_through_also_where_it_must_not_run_twice() -> None:
    log, clock = CallLog(), ManualClock()
    begin = clock.now()
    steps = [{"id": f"s{n}", "tool": "bad", "with": {"n": n}} for n in range(3)]
    retried = {"id": "b", "tool": "bad", "retry": {"max_attempts": 2}, "needs": ["s0", "s1", "s2"], "join": "all_done"}

    result, _ = run([*steps, retried], [flaky("bad", 3, log, breaker=True, effects="once")], clock=clock)

    assert result.step("b").output == "fine"
    assert len(log) == 4
    assert clock.now() - begin == pytest.approx(30, abs=0.1)


def test_a_breaker_holds_for_tools_that_models_call_too() -> None:
    log = CallLog()
    model = ScriptedModel([ToolCall("1", "bad", {})] * 5)
    steps = [
        {"id": f"s{n}", "model": "m", "prompt": "p", "tools": ["bad"], "needs": [f"s{n - 1}"] if n else []}
        for n in range(5)
    ]
    steps = [step | {"join": "all_done"} for step in steps]

    result, events = run(steps, [flaky("bad", 9, log, breaker=True)], models={"m": model})

    assert len(log) == 3
    assert "was not called" in str(result.step("s4").error)
    assert [fact.state for fact in of(CircuitChanged, events)] == ["open"]


def test_settings_give_a_tool_a_breaker_and_a_rate_of_their_own() -> None:
    log, clock = CallLog(), ManualClock()
    begin = clock.now()
    settings = Settings.model_validate({"breakers": {"web.*": {"failures": 1}}, "tool_rates": {"mail.send": 1}})
    steps = [{"id": f"s{n}", "tool": "web.get", "needs": [f"s{n - 1}"] if n else []} for n in range(3)]
    steps = [step | {"join": "all_done"} for step in steps]
    steps += [{"id": f"m{n}", "tool": "mail.send"} for n in range(3)]

    run(steps, [flaky("web.get", 9, log), flaky("mail.send", 0, log)], settings=settings, clock=clock)

    assert (len(log.of("web.get")), len(log.of("mail.send"))) == (1, 3)
    assert clock.now() - begin == pytest.approx(2)


@pytest.mark.parametrize("setting", [{"breakers": {"web.gte": {}}}, {"tool_rates": {"web.gte": 2}}])
def test_settings_that_name_a_tool_that_is_not_there_are_refused_with_the_closest_name(setting: Any) -> None:
    settings = Settings.model_validate(setting)

    with pytest.raises(ConfigError, match=r"names 'web\.gte'.*\n.*did you mean 'web\.get'"):
        Engine(tools=[flaky("web.get", 0, CallLog())], settings=settings)


def test_settings_may_spare_a_family_of_which_there_is_no_tool_here() -> None:
    Engine(tools=[flaky("web.get", 0, CallLog())], settings=Settings.model_validate({"tool_rates": {"mail.*": 2}}))


def test_a_tool_that_was_not_done_after_others_were_is_no_reason_to_do_those_again() -> None:
    log = CallLog()
    tools = [
        fake_tool("save", log=log, effects="once"),
        fake_tool("look", [NotDoneError("nothing was sent")], log=log),
    ]
    model = ScriptedModel([ToolCall("1", "save", {}), ToolCall("2", "look", {}), "done"])
    step = {"id": "a", "model": "m", "prompt": "p", "tools": ["save", "look"], "retry": {"max_attempts": 3}}

    result, _ = run([step], tools, models={"m": model})

    assert result.status.value == "failed"
    assert len(log.of("save")) == 1


def test_a_tool_that_only_an_agent_has_is_spared_likewise() -> None:
    guards = Guards(ToolRegistry(), ManualClock())
    spared, plain = fake_tool("t", breaker=True), fake_tool("t")

    again = fake_tool("t", breaker=True)

    assert guards.of(plain) is None
    assert guards.of(spared) is not None
    assert guards.of(spared) is guards.of(again)


# --- the rate -----------------------------------------------------------------------------------


@pytest.mark.parametrize("with_model", [False, True], ids=["tool steps", "calls of models"])
def test_a24_25_calls_at_ten_a_second_take_a_second_and_a_half(with_model: bool) -> None:
    log, clock = CallLog(), ManualClock()
    begin = clock.now()
    if with_model:
        models: dict[str, Any] = {
            "m": FunctionModel(lambda call: "done" if len(call.messages) > 1 else ToolCall("1", "t", {}))
        }
        steps = [{"id": f"s{n}", "model": "m", "prompt": "p", "tools": ["t"]} for n in range(25)]
    else:
        models = {}
        steps = [{"id": f"s{n}", "tool": "t"} for n in range(25)]

    result, events = run(steps, [fake_tool("t", ["fine"], log=log, rate_per_second=10)], models=models, clock=clock)

    assert result.status.value == "success"
    assert len(log) == 25
    assert clock.now() - begin == pytest.approx(1.5)
    waits = [fact for fact in of(AttemptWaiting, events) if fact.reason is not None]
    assert [fact.reason for fact in waits] == ["rate"] * 15
    assert [round(fact.until - begin, 6) for fact in waits] == [round(n / 10, 6) for n in range(1, 16)]


def test_the_time_a_tool_has_begins_when_its_turn_has_come() -> None:
    clock = ManualClock()
    steps = [{"id": f"s{n}", "tool": "t"} for n in range(3)]

    result, _ = run(steps, [fake_tool("t", ["fine"], rate_per_second=1, timeout_seconds=0.5)], clock=clock)

    assert result.status.value == "success"


def test_a_call_that_is_stopped_while_it_waits_for_its_turn_takes_nothing_from_the_others() -> None:
    log, clock = CallLog(), ManualClock()
    begin = clock.now()
    tool = fake_tool("t", ["fine"], log=log, rate_per_second=1)

    async def main() -> None:
        plan = {"planloom": 1, "steps": [{"id": "a", "tool": "t"}]}
        async with Engine(tools=[tool], clock=clock) as engine:
            await engine.run(plan)
            doomed, other = await engine.start(plan), await engine.start(plan)
            for _ in range(SPINS):
                await asyncio.sleep(0)
            await doomed.cancel()
            assert (await doomed.result()).status.value == "cancelled"
            clock.advance(1)
            assert (await other.result()).status.value == "success"

    asyncio.run(main())

    assert len(log) == 2
    assert clock.now() - begin == pytest.approx(1)


# --- how it is declared -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, BreakerPolicy()), (False, None), ({"failures": 5}, BreakerPolicy(failures=5))],
)
def test_a_breaker_is_asked_for_in_as_few_words_as_possible(value: Any, expected: BreakerPolicy | None) -> None:
    assert breaker_of(value) == expected


@pytest.mark.parametrize("make", [lambda: breaker_of({"failures": 0}), lambda: breaker_of("yes")])
def test_a_breaker_that_makes_no_sense_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match="breaker="):
        make()


@pytest.mark.parametrize("rate", [0, -1, float("inf"), "fast"])
def test_a_rate_that_makes_no_sense_is_refused(rate: Any) -> None:
    with pytest.raises(ConfigError, match="rate_per_second"):
        fake_tool("t", rate_per_second=rate)
