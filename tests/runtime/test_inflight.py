"""What is said of a run in flight before a deploy is what `resume` then does, however things have changed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from planloom import Engine, MemoryJournal, Plan, RunStatus, Step
from planloom.core.events import Event, OutcomeUnknown, RunResumed, RunStarted, StepDispatched, StepExpanded
from planloom.errors import ConfigError, JournalError, MissingKeyError, NoSandboxError, PlanError, PlanloomError
from planloom.plan.load import load_plan
from planloom.runtime.inflight import InFlight, Outlook, Weight
from planloom.runtime.people import answer_fact
from planloom.runtime.replay import replayed
from planloom.runtime.settings import Settings
from planloom.tools.tool import Tool

FIRST = {"id": "a", "tool": "first"}
ASK = {"id": "ok", "approve": "Go on?", "needs": ["a"]}
ECHO = "scripted://echo"


def last(**more: Any) -> dict[str, Any]:
    return {"id": "b", "tool": "last", "needs": ["ok"], "with": {"n": 2}} | more


def plan(*steps: dict[str, Any], **head: Any) -> dict[str, Any]:
    return {"planloom": 1, "steps": list(steps)} | head


def tool(function: Any, name: str = "last", **declared: Any) -> Tool:
    return Tool.from_function(function, name=name, **{"effects": "none"} | declared)


async def takes_number(n: int) -> int:
    """Return the number."""
    return n


async def takes_text(n: str) -> str:
    """Return the text."""
    return n


async def takes_number_or_more(n: int, more: str = "") -> int:
    """Return the number."""
    return n


async def takes_two(n: int, m: int) -> int:
    """Return a sum."""
    return n + m


BEFORE = (tool(takes_number, "first"), tool(takes_number))
FIRST_TAKES_ONE = plan({**FIRST, "with": {"n": 1}}, ASK, last())


@dataclass
class Deploy:
    """What is here after a deploy, and what must be said of a run, and come of it."""

    verdict: Outlook
    comes_to: RunStatus | type[Exception]
    says: str = ""
    plan: dict[str, Any] = field(default_factory=lambda: FIRST_TAKES_ONE)
    before: Sequence[Tool] = BEFORE
    tools: Sequence[Tool] = BEFORE
    asks: str = "ok"
    begun: dict[str, Any] = field(default_factory=dict)
    then: dict[str, Any] = field(default_factory=dict)


SUCCESS, FAILED, PARTIAL = RunStatus.SUCCESS, RunStatus.FAILED, RunStatus.PARTIAL
GOES, BUT, CANNOT = Outlook.GOES_ON, Outlook.GOES_ON_BUT, Outlook.CANNOT
ONE_TOOL = BEFORE[1:]
FIRST_ONLY = BEFORE[:1]
INSIDE = {"id": "b", "needs": ["ok"], "plan": plan({"id": "x", "tool": "last", "with": {"n": 2}})}
SUB = plan({**FIRST, "with": {"n": 1}}, ASK, INSIDE)
BEGUN = plan({"id": "s", "plan": FIRST_TAKES_ONE})
LATER = plan({**FIRST, "with": {"n": 1}}, ASK, {"id": "c", "tool": "first", "needs": ["ok"], "with": {"n": 3}},
             last(needs=[], **{"with": {"n": "${{ steps.c.output }}"}}))  # fmt: skip
MODEL = plan({**FIRST, "with": {"n": 1}}, ASK, {"id": "b", "model": "m", "prompt": "Say it", "needs": ["ok"]})
AGENT = plan({**FIRST, "with": {"n": 1}}, ASK, {"id": "b", "agent": "clerk", "prompt": "Do it", "needs": ["ok"]})
CODE = plan({**FIRST, "with": {"n": 1}}, ASK, {"id": "b", "code": "1 + 1", "needs": ["ok"]})
EACH = plan({**FIRST, "with": {"n": 1}}, ASK, last(for_each=[1, 2], **{"with": {"n": "${{ item }}"}}))


class NoPlace:
    """A sandbox that this machine has not what it takes for."""

    def missing(self) -> NoSandboxError | None:
        return NoSandboxError("there is no sandbox here", remedy="install it")

    async def run(self, *args: Any, **options: Any) -> Any:
        raise NoSandboxError("there is no sandbox here", remedy="install it")


def model(uri: str, price: float | None = None) -> dict[str, Any]:
    prices = {} if price is None else {"m": {"input": price, "output": price}}
    return {"settings": Settings.model_validate({"models": {"m": uri}, "prices": prices})}


class Clerk:
    def __call__(self, text: str) -> str:
        return "done"


class OtherClerk(Clerk):
    """Does it otherwise."""


DEPLOYS = {
    "nothing changed": Deploy(GOES, SUCCESS),
    "the tool of a step that has ended is gone": Deploy(GOES, SUCCESS, tools=ONE_TOOL),
    "the tool of a step that is left is gone": Deploy(
        CANNOT, ConfigError, "tools that are not here: last", tools=FIRST_ONLY
    ),
    "a tool inside a sub-plan that has not begun is gone": Deploy(
        CANNOT, ConfigError, "tools that are not here: last", SUB, tools=FIRST_ONLY
    ),
    "a tool inside a sub-plan is gone, and its step has ended": Deploy(
        GOES, SUCCESS, plan=BEGUN, tools=ONE_TOOL, asks="s/ok"
    ),
    "a tool inside a sub-plan is gone, and its step has not": Deploy(
        CANNOT, ConfigError, "tools that are not here: last", BEGUN, tools=FIRST_ONLY, asks="s/ok"
    ),
    "a parameter more, inside a sub-plan that has begun": Deploy(
        CANNOT, FAILED, "m: is missing", BEGUN, tools=(*FIRST_ONLY, tool(takes_two)), asks="s/ok"
    ),
    "a parameter more, which may be left out": Deploy(
        BUT, SUCCESS, "what the step gives to it still fits", tools=(*FIRST_ONLY, tool(takes_number_or_more))
    ),
    "a parameter more, which may not": Deploy(CANNOT, FAILED, "m: is missing", tools=(*FIRST_ONLY, tool(takes_two))),
    "a parameter of another type": Deploy(
        CANNOT, FAILED, "should be a valid string", tools=(*FIRST_ONLY, tool(takes_text))
    ),
    "a parameter of another type, of a step that may fail": Deploy(
        BUT, PARTIAL, "should be a valid string", plan(FIRST | {"with": {"n": 1}}, ASK, last(on_error="continue")),
        tools=(*FIRST_ONLY, tool(takes_text)),
    ),
    "a parameter of another type, for a value that is not known yet": Deploy(
        BUT, FAILED, "is not known yet", LATER, tools=(*FIRST_ONLY, tool(takes_text))
    ),
    "a parameter of another type, inside a sub-plan that has not begun": Deploy(
        CANNOT, FAILED, "n", SUB, tools=(*FIRST_ONLY, tool(takes_text))
    ),
    "a parameter of another type, for items that are not on record": Deploy(
        BUT, FAILED, "is not known yet", EACH, tools=(*FIRST_ONLY, tool(takes_text))
    ),
    "another version": Deploy(BUT, SUCCESS, "another version", tools=(*FIRST_ONLY, tool(takes_number, version="2"))),
    "stricter effects": Deploy(
        BUT, SUCCESS, "may still call it again", tools=(*FIRST_ONLY, tool(takes_number, effects="once"))
    ),
    "laxer effects": Deploy(
        BUT, SUCCESS, "goes by what it was told", before=(*FIRST_ONLY, tool(takes_number, effects="once"))
    ),
    "a tool that is not allowed any more": Deploy(BUT, SUCCESS, "keeps what it was allowed", then={"allow": ["first"]}),
    "a name of a model that is gone": Deploy(BUT, SUCCESS, "this one asks scripted://echo", MODEL, begun=model(ECHO)),
    "a name of a model that stands for another": Deploy(
        BUT, SUCCESS, "'m' stands for scripted://echo?price_in=1&price_out=1 now", MODEL, begun=model(ECHO), then=model("scripted://echo?price_in=1&price_out=1")
    ),
    "a model at another price": Deploy(
        BUT, SUCCESS, "the price of model 'm' is another one", MODEL, begun=model(ECHO, 1), then=model(ECHO, 2)
    ),
    "an agent that is another one": Deploy(
        BUT, SUCCESS, "agent 'clerk' is another one", AGENT,
        begun={"agents": {"clerk": Clerk()}}, then={"agents": {"clerk": OtherClerk()}},
    ),
    "an agent that is gone": Deploy(
        CANNOT, ConfigError, "agents that are not here: clerk", AGENT, begun={"agents": {"clerk": Clerk()}}
    ),
    "a sandbox that is not here": Deploy(
        CANNOT, FAILED, "there is no sandbox here", CODE, then={"sandboxes": {"monty": NoPlace()}}
    ),
}  # fmt: skip


async def begun(case: Deploy) -> MemoryJournal:
    """Return the journal of a run that waits for a yes after its first step."""
    journal = MemoryJournal()
    async with Engine(journal, tools=list(case.before), **case.begun) as engine:
        run = await engine.start(case.plan, run_id="r")
        assert (await run.result()).status is RunStatus.WAITING
    state = replayed("r", await journal.read("r")).state
    await journal.post("r", answer_fact(state, case.asks, by="me", approved=True, output=None, at=0.0))
    return journal


@pytest.mark.parametrize("name", DEPLOYS)
def test_what_is_said_before_a_deploy_is_what_resume_does(name: str) -> None:
    case = DEPLOYS[name]

    async def main() -> None:
        journal = await begun(case)
        before = list(await journal.read("r"))
        async with Engine(journal, tools=list(case.tools), **case.then) as engine:
            found = await engine.in_flight("r")
            untouched = list(await journal.read("r"))
            comes_to = await what_comes(engine)

        assert found.verdict is case.verdict, found.findings
        assert case.says in "\n".join(one.words for one in found.findings)
        assert untouched == before
        if isinstance(case.comes_to, RunStatus):
            assert comes_to is case.comes_to
        else:
            assert isinstance(comes_to, case.comes_to)
            assert str(comes_to.args[0]) in [one.words for one in found.findings if one.weight is Weight.STOPS]

    asyncio.run(main())


async def what_comes(engine: Engine) -> RunStatus | PlanloomError:
    try:
        return (await engine.finish(await engine.resume("r"))).status
    except PlanloomError as error:
        return error


def test_a_key_that_is_missing_keeps_a_run_from_being_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "openai://gpt-4o-mini?key_env=KEY_OF_A_TEST"

    async def main() -> None:
        monkeypatch.setenv("KEY_OF_A_TEST", "secret")
        journal = await begun(Deploy(GOES, SUCCESS, plan=MODEL, begun=model(uri)))
        monkeypatch.delenv("KEY_OF_A_TEST")
        async with Engine(journal, tools=list(BEFORE), **model(uri)) as engine:
            found = await engine.in_flight("r")
            comes_to = await what_comes(engine)

        assert found.verdict is CANNOT
        assert isinstance(comes_to, MissingKeyError)
        assert [one.words for one in found.findings] == [comes_to.message]

    asyncio.run(main())


# --- the record itself ---


async def kept(*events: Event) -> MemoryJournal:
    """Return a journal with a run of these events on record."""
    journal = MemoryJournal()
    writer = await journal.create("r", lambda seq, error: None)
    writer.append(events, [0] * len(events))
    await writer.flush()
    await writer.close()
    return journal


def started(document: dict[str, Any], *tools: Tool) -> RunStarted:
    return RunStarted(load_plan(document), {}, 1.0, tools={one.name: one.facts for one in tools})


async def said_and_done(journal: MemoryJournal, *tools: Tool) -> tuple[InFlight, RunStatus | PlanloomError]:
    async with Engine(journal, tools=list(tools)) as engine:
        return await engine.in_flight("r"), await what_comes(engine)


def test_a_step_that_was_under_way_and_may_run_again_is_held_against_the_tool_of_now() -> None:
    async def main() -> None:
        document = plan({"id": "b", "tool": "last", "with": {"n": 2}})
        events = (started(document, BEFORE[1]), StepDispatched("b", 1, 1, 1.0))

        said, done = await said_and_done(await kept(*events), tool(takes_text))
        fits, goes = await said_and_done(await kept(*events), tool(takes_number_or_more))

        assert (said.verdict, done) == (CANNOT, FAILED)
        assert (fits.verdict, goes) == (BUT, SUCCESS)
        assert said.left == ("b",)

    asyncio.run(main())


def test_a_step_whose_outcome_is_unknown_waits_for_a_person_whatever_its_tool_is() -> None:
    async def main() -> None:
        before = tool(takes_number, effects="once")
        document = plan({"id": "b", "tool": "last", "with": {"n": 2}})
        events = (StepDispatched("b", 1, 1, 1.0), RunResumed(2, 2.0), OutcomeUnknown("b", 1, 2.0))
        journal = await kept(started(document, before), *events)

        said, done = await said_and_done(journal, tool(takes_text, effects="once"))

        assert (said.verdict, done) == (BUT, RunStatus.WAITING)
        assert [one.remedy for one in said.findings] == ["resolve the step with --output or --fail"]

    asyncio.run(main())


def test_items_are_told_of_once_each_way_they_fail() -> None:
    async def main() -> None:
        document = plan(last(needs=[], for_each=[1, 2, 3], on_item_error="collect", **{"with": {"n": "${{ item }}"}}))
        under_way = [StepDispatched(f"b[{at}]", 1, 1, 1.0) for at in range(3)]
        journal = await kept(started(document, BEFORE[1]), StepExpanded("b", [1, 2, 3], 1.0), *under_way)

        said, done = await said_and_done(journal, tool(takes_text))

        assert said.verdict is BUT
        assert [(one.weight, one.step, one.is_borne) for one in said.findings] == [
            (Weight.FAILS, f"b[{at}]", True) for at in range(3)
        ]
        assert done in (FAILED, PARTIAL)

    asyncio.run(main())


def test_where_the_heart_decides_otherwise_than_recorded_the_record_counts() -> None:
    async def main() -> None:
        document = plan({"id": "a", "tool": "first", "with": {"n": 1}}, last(needs=[]))
        journal = await kept(started(document, *BEFORE), StepDispatched("b", 1, 1, 1.0), StepDispatched("a", 1, 1, 1.0))

        said, done = await said_and_done(journal, *BEFORE)

        assert (said.verdict, done) == (BUT, SUCCESS)
        assert [(one.about, one.words) for one in said.findings] == [
            ("decision", "at event 2 this planloom would decide StepDispatched, and StepDispatched is on record; "
             "the record counts")
        ]  # fmt: skip

    asyncio.run(main())


def test_a_plan_that_is_none_to_this_planloom_is_said_and_refused() -> None:
    async def main() -> None:
        recorded = replace(started(plan()), plan=Plan(steps=(Step(id="a", tool="last", when="1 +"),)))

        said, done = await said_and_done(await kept(recorded), *BEFORE)

        assert said.verdict is CANNOT
        assert isinstance(done, PlanError)
        assert [one.words for one in said.findings] == [done.message]

    asyncio.run(main())


def test_a_run_whose_plan_cannot_be_read_keeps_no_other_from_being_recovered(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        recorded = replace(started(plan()), plan=Plan(steps=(Step(id="a", tool="last", when="1 +"),)))
        async with Engine(await kept(recorded), tools=list(BEFORE)) as engine:
            assert await engine.recover() == []

    asyncio.run(main())

    assert "run r is not recovered" in caplog.text


def test_a_damaged_record_is_said_and_refused(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "runs.db"
        async with Engine(path, tools=list(BEFORE)) as engine:
            await (await engine.start(FIRST_TAKES_ONE, run_id="r")).result()
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE events SET body = replace(body, '\"a\"', '\"c\"') WHERE seq = 2")

        async with Engine(path, tools=list(BEFORE)) as engine:
            said = await engine.in_flight("r")
            done = await what_comes(engine)

        assert said.verdict is CANNOT
        assert isinstance(done, JournalError)
        assert [one.words for one in said.findings] == [done.message]

    asyncio.run(main())
