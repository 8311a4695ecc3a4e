"""Runs in which a failed step has its job done another way, with a model that writes the plan."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from planloom import Engine, MemoryJournal, RunStatus, tool
from planloom.core.asking import prompt_ceiling
from planloom.core.events import AttemptFailed, ReplanRequested, RunStarted, StepReplanned
from planloom.core.machine import RunMachine
from planloom.core.result import RunResult, Usage
from planloom.errors import PlanError
from planloom.models.llm import LLM
from planloom.models.scripted import FunctionModel
from planloom.models.uri import parse_uri
from planloom.runtime.replay import diverges
from planloom.testing.crash import CrashingJournal
from planloom.testing.fakes import fake_tool
from planloom.testing.models import ScriptedModel

PATIENCE_S = 5.0
OTHER_WAY = {
    "name": "other",
    "steps": [{"id": "ask", "tool": "web.mirror", "with": {"n": "${{ inputs.n }}"}}],
    "outputs": {"page": "${{ steps.ask.output }}"},
}
PRICED = "scripted://default?price_in=1&price_out=1"


def plan(**fields: Any) -> dict[str, Any]:
    return {
        "planloom": 1,
        "allow": ["web.*", "t"],
        "steps": [
            {"id": "get", "tool": "web.get", "with": {"n": 3}, "replan": {"max_steps": 3}},
            {"id": "after", "tool": "t", "with": {"n": "${{ steps.get.output.page }}"}},
        ],
    } | fields


def tool_that_says_much(name: str) -> Any:
    """Return a tool whose description and parameters are as long as a model is told of."""

    @tool(name, register=False, effects="none", description='"\n' * 600)
    def many(first_parameter_of_many: str, second_parameter_of_many: dict[str, list[str]], third: int = 0) -> None: ...

    return many


class Here:
    """Tools and a model, and what was asked of them."""

    def __init__(self, *answers: Any, usage: Usage | None = None) -> None:
        self.calls: list[str] = []
        self.given: list[Any] = []
        self.model = ScriptedModel([*answers], **({} if usage is None else {"usage": usage}))
        self.models = {"default": LLM(self.model, parse_uri(PRICED))}

    def engine(self, journal: Any = None, *, more: Iterable[Any] = (), **options: Any) -> Engine:
        def get(**args: Any) -> Any:
            self.calls.append("web.get")
            raise ConnectionError("503")

        def mirror(**args: Any) -> Any:
            self.calls.append("web.mirror")
            return args["n"] + 1

        def mail(**args: Any) -> Any:
            self.calls.append("mail.send")

        def last(**args: Any) -> Any:
            self.given.append(args)
            return args

        made = {"web.get": get, "web.mirror": mirror, "mail.send": mail, "t": last}
        tools = [fake_tool(name, do, effects="none") for name, do in made.items()]
        return Engine(journal, tools=[*tools, *more], models=self.models, **options)

    def run(self, document: dict[str, Any], **options: Any) -> RunResult:
        async def main() -> RunResult:
            async with asyncio.timeout(PATIENCE_S), self.engine(**options) as engine:
                return await engine.run(document)

        return asyncio.run(main())


def test_a_failed_step_is_replaced_and_what_depends_on_it_gets_the_output() -> None:
    here = Here(OTHER_WAY)

    result = here.run(plan())

    assert result.status is RunStatus.SUCCESS
    assert here.calls == ["web.get", "web.mirror"]
    assert here.given == [{"n": 4}]
    told = result.step("get")
    assert (told.attempts, [part.id for part in told.parts]) == (2, ["get/ask"])
    assert told.metadata is not None
    assert told.metadata["replan"]["model"].startswith("scripted://default")


@pytest.mark.parametrize("allow", [None, ["web.get", "web.mirror", "t", "mail.send"]], ids=["plan's", "the caller's"])
def test_a_tool_that_the_step_might_not_use_never_runs(allow: list[str] | None) -> None:
    evil = {"steps": [{"id": "x", "tool": "mail.send", "with": {}}]}
    here = Here(evil, evil)

    result = here.run(plan(), allow=allow)

    assert "mail.send" not in here.calls
    assert result.status is RunStatus.FAILED
    error = result.step("get").error
    assert error is not None
    assert error.startswith("ConnectionError: 503; no other plan: ")
    assert "mail.send" in error


def test_a_caller_who_allows_less_than_the_plan_has_the_last_word() -> None:
    here = Here(OTHER_WAY, OTHER_WAY)

    result = here.run(plan(), allow=["web.get", "t"])

    assert here.calls == ["web.get"]
    assert result.status is RunStatus.FAILED


def test_without_an_allowlist_a_tool_that_the_plan_does_not_name_is_refused() -> None:
    document = plan()
    del document["allow"]

    refused, named = Here(OTHER_WAY, OTHER_WAY), Here(OTHER_WAY)
    more = {"id": "never", "tool": "web.mirror", "with": {"n": 1}, "when": "false"}
    results = [refused.run(document), named.run(document | {"steps": [*document["steps"], more]})]

    assert [result.step("get").status.value for result in results] == ["failed", "completed"]
    assert refused.calls == ["web.get"]


def test_a_run_is_told_of_the_tools_that_a_plan_in_place_of_a_step_may_use_and_of_no_others() -> None:
    async def main() -> list[set[str]]:
        journal = MemoryJournal()
        bare = plan()
        bare["steps"][0] = {name: value for name, value in bare["steps"][0].items() if name != "replan"}
        async with here.engine(journal) as engine:
            for name, document in (("with", plan()), ("without", bare)):
                await engine.run(document, run_id=name)
        started = [(await journal.read(name))[0].event for name in ("with", "without")]
        return [set(event.tools) for event in started if isinstance(event, RunStarted)]

    here = Here(OTHER_WAY)

    assert asyncio.run(main()) == [{"t", "web.get", "web.mirror"}, {"t", "web.get"}]


@pytest.mark.parametrize("limit", [1_000, 15_000, 200_000])
def test_the_budget_holds_whatever_the_model_writes(limit: int) -> None:
    nonsense = {"steps": [{"id": "x", "tool": "shell"}]}
    asked: list[int] = []

    def answer(call: Any) -> Any:
        asked.append(1)
        return nonsense if len(asked) == 1 else OTHER_WAY

    here = Here()
    here.models = {"default": LLM(FunctionModel(answer), parse_uri(PRICED))}

    result = here.run(plan(limits={"max_total_tokens": limit, "max_total_cost_usd": 1.0}))

    assert result.usage.total_tokens <= limit
    assert result.cost_usd is not None
    assert result.cost_usd <= 1.0
    assert len(asked) == (0 if limit == 1_000 else 2)
    assert result.status is (RunStatus.FAILED if limit == 1_000 else RunStatus.SUCCESS)


@pytest.mark.parametrize("tools", [0, 40])
def test_what_is_set_aside_is_enough_for_what_the_model_is_told(tools: int) -> None:
    told = [tool_that_says_much(f"web.tool_{number}") for number in range(tools)]
    ceilings: list[int] = []

    def answer(call: Any) -> Any:
        ceilings.append(prompt_ceiling(call))
        return OTHER_WAY

    async def main() -> int | None:
        journal = MemoryJournal()
        async with asyncio.timeout(PATIENCE_S), here.engine(journal, more=told) as engine:
            run = await engine.start(plan(limits={"max_total_tokens": 10_000_000}), run_id="r")
            await engine.finish(run)
        machine = RunMachine("r")
        asked = []
        for entry in await journal.read("r"):
            machine.replay([entry.event])
            if isinstance(entry.event, ReplanRequested):
                asked.append(machine.state.nodes["get"].claim)
        return asked[0].tokens - 4096 if asked[0] else None

    here = Here()
    here.models = {"default": LLM(FunctionModel(answer), parse_uri(PRICED))}

    set_aside = asyncio.run(main())

    assert set_aside is not None
    assert ceilings[0] <= set_aside


def test_a_plan_that_a_crash_cuts_short_anywhere_comes_to_the_same() -> None:
    async def crashed_at(write: int | None) -> tuple[RunResult, int]:
        here = Here(*[OTHER_WAY] * 3)
        inner = MemoryJournal()
        journal = CrashingJournal(inner, at=write)
        engine = here.engine(journal)
        task = asyncio.create_task(engine.run(plan(), run_id="r"))
        stopped = asyncio.create_task(journal.stopped.wait())
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        await engine.close()
        stopped.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)
        async with here.engine(inner) as second:
            if not [row.run_id for row in await inner.runs(limit=10)]:
                await second.run(plan(), run_id="r")
            else:
                await second.finish(await second.resume("r"))
            result = await second.result_of("r")
            record = list(await inner.read("r"))
            assert diverges("r", record) is None
            kinds = [type(entry.event) for entry in record]
            assert kinds.count(ReplanRequested) == kinds.count(StepReplanned) == kinds.count(AttemptFailed) == 1
        return result, journal.writes

    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S * 4):
            whole, writes = await crashed_at(None)
            assert whole.status is RunStatus.SUCCESS
            assert writes > 3
            for write in range(1, writes + 1):
                result, _ = await crashed_at(write)
                assert (result.status, result.output) == (whole.status, whole.output), write

    asyncio.run(main())


def test_replan_is_refused_for_the_items_of_a_for_each_step() -> None:
    document = plan()
    document["steps"][0] |= {"for_each": [1, 2]}

    with pytest.raises(PlanError, match="'replan' and 'for_each'"):
        Here().run(document)
