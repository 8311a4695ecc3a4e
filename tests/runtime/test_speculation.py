"""Running ahead through the engine: real models, tools and journals, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from planloom import Engine, MemoryJournal, RunResult
from planloom.core.chat import ModelCall
from planloom.core.prices import ModelPrice
from planloom.core.result import Usage
from planloom.journal.codec import encode
from planloom.models.scripted import FunctionModel, echo
from planloom.ports import Journal
from planloom.runtime.replay import diverges
from planloom.testing.clock import ManualClock
from planloom.testing.crash import CrashingJournal, Spoil
from planloom.testing.fakes import CallLog, fake_tool

T = TypeVar("T")
SPINS = 40
"""Turns of the loop after which nothing more happens by itself."""
WRITE_S = 0.001
"""Real seconds between looks at whether a disk has written."""
DRAFT_S, QUICK_S, SLOW_S = 1.0, 2.0, 10.0
USAGE = Usage(100, 10, 1)
PRICES = {"small": ModelPrice(1.0, 1.0), "quick": ModelPrice(20.0, 20.0), "slow": ModelPrice(100.0, 100.0)}


def answered(call: ModelCall) -> str:
    """Return what the models of these tests say: something else to every prompt."""
    return f"<{echo(call)}>"


class Models:
    """The models of one process, by what drafts are worth: `right` says what the others will."""

    def __init__(self, clock: ManualClock, *, right: bool) -> None:
        self.by_name = {
            "slow": FunctionModel(answered, latency_s=SLOW_S, clock=clock, usage=USAGE, price=PRICES["slow"]),
            "quick": FunctionModel(answered, latency_s=QUICK_S, clock=clock, usage=USAGE, price=PRICES["quick"]),
            "small": FunctionModel(
                answered if right else lambda call: "WRONG",
                latency_s=DRAFT_S,
                clock=clock,
                usage=USAGE,
                price=PRICES["small"],
            ),
        }

    def asked(self, name: str) -> list[str]:
        return [echo(call) for call in self.by_name[name].calls]


def step(step_id: str, model: str, prompt: str, **fields: Any) -> dict[str, Any]:
    speculate = {"draft": "small", "latency_weight": 1.0}
    return {"id": step_id, "model": model, "prompt": prompt, "speculate": speculate} | fields


def told(step_id: str) -> str:
    return f"${{{{ steps.{step_id}.output }}}}"


CHAIN = [step("a", "slow", "one"), step("b", "slow", told("a")), step("c", "slow", told("b"))]
WITH_TOOLS = [
    step("a", "slow", "one"),
    {"id": "look", "tool": "look", "with": {"text": told("a")}},
    {"id": "save", "tool": "save", "with": {"text": told("a")}},
    {"id": "end", "model": "quick", "prompt": f"{told('look')} {told('save')}"},
]


class Tools:
    """`look` changes nothing, `save` must not be done twice; when each was called, and with what."""

    def __init__(self, clock: ManualClock) -> None:
        self.log = CallLog()
        self.at: list[tuple[str, float]] = []
        begin = clock.now()

        def tool(name: str, effects: str) -> Any:
            async def work(text: str) -> str:
                self.at.append((name, clock.now() - begin))
                return f"{name}: {text}"

            return fake_tool(name, work, log=self.log, effects=effects)

        self.tools = [tool("look", "none"), tool("save", "once")]


async def driven(
    work: Awaitable[T], clock: ManualClock, engine: Engine, *, until: asyncio.Event | None = None
) -> T | None:
    """Let time pass whenever nothing else happens; return what the work comes to, None if it was cut short."""
    task = asyncio.ensure_future(work)
    for _ in range(1_000):
        await nothing_happens(task, engine, until)
        if task.done():
            return task.result()
        if until is not None and until.is_set():
            break
        if not clock.advance_to_next():
            await asyncio.sleep(WRITE_S)  # nobody waits for the clock: a thread is at work, e.g. taking the run
    task.cancel()
    await asyncio.wait([task])
    assert until is not None, "the run does not end"
    return None


async def nothing_happens(task: asyncio.Future[Any], engine: Engine, until: asyncio.Event | None) -> None:
    """Return once the loop has turned SPINS times and all the while everything was durable.

    A disk takes real time to write. Were the test's time to go on meanwhile, a run would hear of answers that are
    seconds apart before anything of the first is on record.
    """
    quiet = 0
    while quiet < SPINS:
        is_cut = task.done() or (until is not None and until.is_set())  # then what is not durable never will be
        writing = not is_cut and any(driver.behind for driver in engine._drivers.values())
        quiet = 0 if writing else quiet + 1
        await asyncio.sleep(WRITE_S if writing else 0)


class Came:
    """What one run came to."""

    def __init__(self, clock: ManualClock, *, right: bool) -> None:
        self.models = Models(clock, right=right)
        self.tools = Tools(clock)
        self.texts: list[str] = []
        self.took_s = 0.0
        self.result: RunResult

    def on_record(self, text: str) -> bool:
        return any(text in line for line in self.texts)


def ran(steps: list[dict[str, Any]], *, right: bool, journal: Any = None, **options: Any) -> Came:
    async def main() -> Came:
        clock = ManualClock()
        came, begin = Came(clock, right=right), clock.now()
        async with Engine(journal, models=came.models.by_name, tools=came.tools.tools, clock=clock) as engine:
            plan = {"planloom": 1, "steps": steps}
            result = await driven(engine.run(plan, run_id="r", track_cost=True, **options), clock, engine)
            assert result is not None
            came.result = result
            came.took_s = clock.now() - begin
            record = await engine.journal.read("r")
        came.texts = texts_of(record)
        assert diverges("r", record) is None
        return came

    return asyncio.run(main())


def texts_of(record: list[Any]) -> list[str]:
    """Return the events as the journal has them, the plan aside, with what is stored apart."""
    return [repr(encode(entry.event)) for entry in record[1:]]


def plain(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in one.items() if name != "speculate"} for one in steps]


def test_right_drafts_give_the_same_result_sooner_and_no_call_of_the_own_model_more() -> None:
    ahead, without = ran(CHAIN, right=True), ran(plain(CHAIN), right=True)

    assert ahead.result.output == without.result.output == "<<<one>>>"
    assert (without.took_s, ahead.took_s) == (3 * SLOW_S, SLOW_S + 2 * DRAFT_S)
    assert ahead.models.asked("slow") == ["one", "<one>", "<<one>>"]
    assert [part.attempts for part in ahead.result.steps] == [1, 1, 1]


def test_wrong_drafts_give_the_same_result_no_later(place: Any) -> None:
    ahead = ran(CHAIN, right=False, journal=place())

    assert ahead.result.output == "<<<one>>>"
    assert ahead.took_s == 3 * SLOW_S
    assert [text for text in ahead.models.asked("slow") if text != "WRONG"] == ["one", "<one>", "<<one>>"]
    assert "WRONG" in ahead.models.asked("slow")
    assert [part.attempts for part in ahead.result.steps] == [1, 1, 1]


def test_no_value_that_was_not_confirmed_is_on_record(place: Any) -> None:
    ahead = ran(WITH_TOOLS, right=False, journal=place())

    assert {"text": "WRONG"} in ahead.tools.log.of("look")
    assert ahead.on_record("look: <one>")
    assert not ahead.on_record("WRONG")


def test_what_changes_nothing_runs_ahead_and_what_has_an_effect_waits_for_the_answer() -> None:
    ahead = ran(WITH_TOOLS, right=True)

    assert ahead.tools.at == [("look", DRAFT_S), ("save", SLOW_S)]
    assert ahead.took_s == SLOW_S + QUICK_S
    assert ahead.result.output == "<look: <one> save: <one>>"


def test_a_tool_with_an_effect_never_sees_a_wrong_draft() -> None:
    ahead = ran(WITH_TOOLS, right=False)

    assert ahead.tools.log.of("save") == [{"text": "<one>"}]
    assert ahead.tools.log.of("look") == [{"text": "WRONG"}, {"text": "<one>"}]
    assert ahead.result.output == "<look: <one> save: <one>>"


def test_drafts_and_attempts_in_vain_are_in_what_the_run_cost() -> None:
    steps = [step("a", "slow", "one"), step("b", "quick", told("a"))]

    ahead = ran(steps, right=False)

    tokens = USAGE.total_tokens
    assert ahead.models.asked("quick") == ["WRONG", "<one>"]
    assert len(ahead.models.asked("small")) == 1
    assert (ahead.result.usage.requests, ahead.result.usage.total_tokens) == (4, 4 * tokens)
    assert ahead.result.cost_usd == pytest.approx((100.0 + 1.0 + 2 * 20.0) * tokens / 1_000_000)
    assert ahead.result.speculation is not None
    assert ahead.result.speculation["wasted_tokens"] == tokens
    assert ahead.result.speculation["wasted_cost_usd"] == pytest.approx(20.0 * tokens / 1_000_000)


def test_a_confirmed_attempt_is_paid_for_once() -> None:
    steps = [step("a", "slow", "one"), step("b", "quick", told("a"))]

    ahead = ran(steps, right=True)

    tokens = USAGE.total_tokens
    assert (ahead.result.usage.requests, ahead.result.usage.total_tokens) == (3, 3 * tokens)
    assert ahead.result.cost_usd == pytest.approx((100.0 + 1.0 + 20.0) * tokens / 1_000_000)
    assert ahead.result.step("b").cost_usd == pytest.approx(20.0 * tokens / 1_000_000)


def test_an_attempt_that_was_stopped_on_its_way_counts_as_one_that_was_asked() -> None:
    ahead = ran(CHAIN[:2], right=False)

    assert len(ahead.models.asked("slow")) == 3
    assert ahead.result.usage.requests == 4
    assert ahead.result.cost_usd is not None
    assert ahead.result.cost_usd > (2 * 100.0 + 1.0) * USAGE.total_tokens / 1_000_000


def test_a_draft_that_fails_changes_nothing() -> None:
    async def main() -> RunResult | None:
        clock = ManualClock()
        models = Models(clock, right=True).by_name
        models["small"] = FunctionModel(lambda call: RuntimeError("no such thing"), price=PRICES["small"])
        async with Engine(models=models, clock=clock) as engine:
            return await driven(engine.run({"planloom": 1, "steps": CHAIN}, run_id="r"), clock, engine)

    result = asyncio.run(main())

    assert result is not None
    assert (result.status.value, result.output) == ("success", "<<<one>>>")


def test_what_is_streamed_is_streamed_of_confirmed_inputs_only() -> None:
    steps = [step("a", "slow", "one"), {"id": "b", "model": "quick", "prompt": told("a"), "stream": True}]

    ahead = ran(steps, right=False)

    assert ahead.models.asked("quick") == ["<one>"]
    assert not ahead.on_record("WRONG")


def test_a_cancelled_run_leaves_nothing_under_way_that_ran_ahead() -> None:
    async def main() -> tuple[RunResult | None, float]:
        clock = ManualClock()
        begin, came = clock.now(), Came(clock, right=True)
        async with Engine(models=came.models.by_name, clock=clock) as engine:
            run = await engine.start({"planloom": 1, "steps": CHAIN}, run_id="r")
            tasks = []
            clock.call_at(begin + 2.5, lambda: tasks.append(asyncio.ensure_future(run.cancel())))
            result = await driven(engine.finish(run), clock, engine)
            await asyncio.gather(*tasks)
            record = await engine.journal.read("r")
        assert diverges("r", record) is None
        assert len(came.models.asked("slow")) == 3
        return result, clock.now() - begin

    result, took_s = asyncio.run(main())

    assert result is not None
    assert result.status.value == "cancelled"
    assert [part.status.value for part in result.steps] == ["cancelled", "skipped", "skipped"]
    assert took_s < SLOW_S


@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
@pytest.mark.parametrize("how", [Spoil.BEFORE, Spoil.AFTER])
@pytest.mark.parametrize("steps", [CHAIN, WITH_TOOLS], ids=["chain", "tools"])
def test_a_power_cut_at_any_write_leads_to_the_same_result(
    steps: list[dict[str, Any]], how: Spoil, right: bool
) -> None:
    async def undisturbed() -> tuple[Any, int]:
        journal = CrashingJournal(MemoryJournal())
        result, _ = await run_in(journal, lambda engine: engine.run(plan, run_id="r"), None)
        assert result is not None
        return outcome(result), journal.writes

    async def cut(at: int) -> Any:
        disk = MemoryJournal()
        journal = CrashingJournal(disk, at=at, how=how)
        ended, tools = await run_in(journal, begun, journal.stopped)
        assert ended is None
        result, more = await run_in(disk, resumed, None)
        assert result is not None
        record = await disk.read("r")
        assert diverges("r", record) is None
        assert not any("WRONG" in text for text in texts_of(record))
        saved = [*tools.log.of("save"), *more.log.of("save")]
        assert saved in ([], [{"text": "<one>"}]), saved
        return outcome(result)

    async def begun(engine: Engine) -> RunResult:
        # Not `run`: whoever stops waiting for that cancels the run, and here the power is cut.
        return await (await engine.start(plan, run_id="r")).result()

    async def resumed(engine: Engine) -> RunResult:
        run = await engine.resume("r")
        result = await run.result()
        if result.status.value != "waiting":
            return result
        # Its engine died while it was saving; a person knows that it was done.
        await run.resolve("save", "output", by="Ann", output="save: <one>")
        return await run.result()

    async def run_in(
        journal: Journal, what: Callable[[Engine], Awaitable[RunResult]], until: asyncio.Event | None
    ) -> tuple[RunResult | None, Tools]:
        clock = ManualClock()
        came = Came(clock, right=right)
        async with Engine(journal, models=came.models.by_name, tools=came.tools.tools, clock=clock) as engine:
            return await driven(what(engine), clock, engine, until=until), came.tools

    def outcome(result: RunResult) -> Any:
        return result.status.value, result.output, [(part.status.value, part.output) for part in result.steps]

    plan = {"planloom": 1, "steps": steps}
    expected, writes = asyncio.run(undisturbed())

    found = [asyncio.run(cut(at)) for at in range(2, writes + 1)]  # the first is the run itself

    assert [one for one in found if one != expected] == []
    assert writes > 5
