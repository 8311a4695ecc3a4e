"""Plans whose steps are done by a real MCP server."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from planloom import Engine, RunResult, RunStatus
from planloom.core.chat import LLMResponse, ToolCall
from planloom.errors import InvalidPlanError, NotAllowedError, UnknownToolError
from planloom.testing.models import ScriptedModel
from planloom.tools.registry import llm_name
from tests.tools.mcp_servers import ServerFolder

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")]


@pytest.fixture
def folder(tmp_path: Path) -> ServerFolder:
    return ServerFolder(tmp_path)


def plan(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"planloom": 1, "name": "p", "steps": list(steps), **fields}


def run(folder: ServerFolder, plan: dict[str, Any], **terms: Any) -> RunResult:
    async def main() -> RunResult:
        async with Engine(tools=await folder.tools(**terms)) as engine:
            result = await engine.run(plan)
        assert folder.alive() == []  # here, and not only once the loop has ended, which takes all with it
        return result

    return asyncio.run(main())


def test_a_plan_uses_the_tools_of_a_server_and_the_engine_ends_it(folder: ServerFolder) -> None:
    result = run(
        folder,
        plan(
            {"id": "sum", "tool": "calc.add", "with": {"a": 1, "b": 2}},
            {"id": "told", "tool": "calc.say", "with": {"text": "it is ${{ steps.sum.output.sum }}"}},
        ),
    )

    assert (result.status, result.output) == (RunStatus.SUCCESS, "it is 3")
    assert len(folder.marks("pids")) == 1
    assert folder.alive() == []


def test_a_once_call_that_was_never_answered_waits_for_a_person_and_is_not_made_again(folder: ServerFolder) -> None:
    result = run(folder, plan({"id": "pay", "tool": "calc.die_once", "with": {}}))

    assert result.status is RunStatus.WAITING
    assert result.blockers()[0]["step"] == "pay"
    assert folder.marks("calls") == ["die_once {}"]


def test_a_once_call_inside_a_model_step_that_was_never_answered_is_not_made_again(folder: ServerFolder) -> None:
    name = llm_name("calc.die_once")
    wishes = [LLMResponse("", "here", "m", tool_calls=(ToolCall(f"c{number}", name, {}),)) for number in range(4)]
    model = ScriptedModel([one for wish in wishes for one in (wish, "done")])

    async def main() -> RunResult:
        async with Engine(tools=await folder.tools(), models={"m": model}) as engine:
            return await engine.run(plan({"id": "a", "model": "m", "prompt": "Pay.", "tools": ["calc.die_once"]}))

    result = asyncio.run(main())

    assert result.status is RunStatus.WAITING
    assert folder.marks("calls") == ["die_once {}"]


def test_a_call_that_may_be_made_again_is_made_again_by_a_server_started_anew(folder: ServerFolder) -> None:
    retry = {"max_attempts": 2, "initial_delay": 0.01}
    step = {"id": "look", "tool": "calc.die_once", "with": {}, "retry": retry}

    result = run(folder, plan(step), effects={"die_once": "none"})

    assert (result.status, result.output) == (RunStatus.SUCCESS, "survived")
    assert len(folder.marks("pids")) == 2
    assert folder.alive() == []


def test_a_call_that_takes_too_long_is_cancelled_at_the_server(folder: ServerFolder) -> None:
    result = run(folder, plan({"id": "slow", "tool": "calc.wait", "with": {"seconds": 600}}), timeout_s=0.5)

    assert result.status is RunStatus.FAILED
    assert "0.5 s" in str(result.error)
    assert folder.marks("cancelled") == ["wait"]
    assert folder.alive() == []


def test_a_result_that_is_not_as_the_server_declared_fails_the_step(folder: ServerFolder) -> None:
    result = run(folder, plan({"id": "lie", "tool": "calc.lie", "with": {}}))

    assert result.status is RunStatus.FAILED
    assert "does not fit its schema" in str(result.error)


def test_arguments_are_checked_against_the_servers_schema_before_a_run_exists(folder: ServerFolder) -> None:
    with pytest.raises(InvalidPlanError, match="has no parameter 'c'"):
        run(folder, plan({"id": "sum", "tool": "calc.add", "with": {"a": 1, "c": 2}}))

    assert folder.marks("calls") == []


@pytest.mark.parametrize("name", ["calc.say", "functions.calc.say", "tools.calc.say"])
def test_a28_no_spelling_leads_around_an_allowlist(folder: ServerFolder, name: str) -> None:
    async def main(*allow: str) -> None:
        async with Engine(tools=await folder.tools(), allow=allow) as engine:
            engine.check(plan({"id": "a", "tool": name, "with": {"text": "x"}}))

    with pytest.raises(NotAllowedError, match=r"'calc\.say'"):
        asyncio.run(main("calc.add"))
    asyncio.run(main("calc.*"))


def test_a28_a_tool_the_operator_does_not_take_does_not_exist(folder: ServerFolder) -> None:
    with pytest.raises(UnknownToolError):
        run(folder, plan({"id": "a", "tool": "calc.die", "with": {}}), allow=["add", "say"])


def test_engines_that_share_a_server_do_not_cut_off_each_others_calls(folder: ServerFolder) -> None:
    async def main() -> list[Any]:
        tools = await folder.tools()

        async def one(seconds: float) -> Any:
            async with Engine(tools=tools) as engine:
                step = {"id": "w", "tool": "calc.wait", "with": {"seconds": seconds}}
                return (await engine.run(plan(step))).output

        return await asyncio.gather(*(one(seconds) for seconds in (0.05, 0.2, 0.4)))

    assert asyncio.run(main()) == ["waited"] * 3
    assert folder.alive() == []
