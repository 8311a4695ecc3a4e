"""Tools of a real MCP server in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planloom.errors import (
    ArgumentsError,
    ConfigError,
    McpToolError,
    McpTrustError,
    MissingKeyError,
    NoAnswerError,
    NotDoneError,
)
from planloom.plan.policy import Effects
from planloom.tools.context import ToolContext
from planloom.tools.mcp_listing import ListedTool
from planloom.tools.registry import ToolRegistry
from tests.tools.mcp_servers import PROGRAM, ServerFolder, call

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")]
TOKEN = "tok-0123456789abcdef"


@pytest.fixture
def folder(tmp_path: Path) -> ServerFolder:
    return ServerFolder(tmp_path)


def test_the_tools_of_a_server_are_tools_like_any_other(folder: ServerFolder) -> None:
    async def main() -> Any:
        async with folder.server() as server:
            return await server.load(trust_first=True)

    tools = {tool.name: tool for tool in asyncio.run(main())}

    add = tools["calc.add"]
    assert add.description == "Add two numbers."
    assert add.schema["required"] == ["a", "b"]
    assert add.output_schema is not None
    assert (add.type, add.timeout_seconds) == ("mcp", 60.0)
    with pytest.raises(ArgumentsError, match=r"'b' is|b: is missing"):
        add.validate({"a": 1})


def test_a_tool_has_effects_that_happen_once_whatever_its_server_says_of_it(folder: ServerFolder) -> None:
    async def effects(**terms: Any) -> dict[str, Effects | None]:
        async with folder.server(**terms) as server:
            return {tool.name: tool.effects for tool in await server.load(trust_first=True)}

    plain = asyncio.run(effects())
    believed = asyncio.run(effects(trust_annotations=True))
    told = asyncio.run(effects(trust_annotations=True, effects={"add": "idempotent", "say": "none"}))
    all_of_them = asyncio.run(effects(effects={"*": "none", "wait": "once"}))

    assert set(plain.values()) == {Effects.ONCE}
    assert (believed["calc.add"], believed["calc.say"]) == (Effects.NONE, Effects.ONCE)
    assert (told["calc.add"], told["calc.say"], told["calc.wait"]) == (Effects.IDEMPOTENT, Effects.NONE, Effects.ONCE)
    assert (all_of_them["calc.say"], all_of_them["calc.wait"]) == (Effects.NONE, Effects.ONCE)


def test_what_passes_through_a_server_s_tools_is_what_its_operator_says(folder: ServerFolder) -> None:
    async def main() -> Any:
        async with folder.server(source=["mcp"], tools={"say": {"source": "inbox", "needs_approval": True}}) as server:
            tools = {tool.name: tool for tool in await server.load(trust_first=True)}
        async with folder.server(tools={"sya": {"source": "inbox"}}) as server:
            with pytest.raises(ConfigError, match="`tools` of MCP server 'calc' names 'sya'"):
                await server.load(trust_first=True)
        return tools

    tools = asyncio.run(main())

    assert (tools["calc.add"].source, tools["calc.add"].needs_approval) == (("mcp",), False)
    assert (tools["calc.say"].source, tools["calc.say"].needs_approval) == (("inbox",), True)


def test_answers_are_json_and_errors_are_errors(folder: ServerFolder) -> None:
    async def main() -> None:
        async with folder.server() as server:
            tools = ToolRegistry(await server.load(trust_first=True))
            assert await call(tools, "add", a=1, b=2) == {"sum": 3}
            assert await call(tools, "say", text='{"a": 1}') == '{"a": 1}'
            text, picture = await call(tools, "picture")
            assert text == {"type": "text", "text": "see:"}
            assert (picture["mime_type"], picture["size_bytes"]) == ("image/png", 5)
            assert "data" not in picture
            with pytest.raises(McpToolError, match="no such account"):
                await call(tools, "fail", text="no such account")

    asyncio.run(main())


def test_twenty_calls_at_once_go_through_one_process_and_each_gets_its_own_answer(folder: ServerFolder) -> None:
    async def main() -> list[Any]:
        tools = await folder.tools()
        try:
            return await asyncio.gather(*(call(tools, "add", a=place, b=0) for place in range(20)))
        finally:
            await tools.aclose()

    assert asyncio.run(main()) == [{"sum": place} for place in range(20)]
    assert len(folder.marks("pids")) == 1
    assert folder.alive() == []


def test_a_server_that_dies_in_the_middle_leaves_an_unknown_outcome_and_is_started_again_for_the_next_call(
    folder: ServerFolder,
) -> None:
    async def main() -> Any:
        tools = await folder.tools()
        try:
            with pytest.raises(NoAnswerError, match=r"'calc\.die'"):
                await call(tools, "die")
            assert folder.marks("calls") == ["die {}"]
            return await call(tools, "say", text="again")
        finally:
            await tools.aclose()

    assert asyncio.run(main()) == "again"
    assert len(folder.marks("pids")) == 2
    assert folder.alive() == []


def test_a_server_that_died_between_two_calls_is_not_a_lost_call(folder: ServerFolder) -> None:
    async def main() -> Any:
        async with folder.server() as server:
            tools = ToolRegistry(await server.load(trust_first=True))
            os.kill(int(folder.marks("pids")[0]), signal.SIGKILL)
            session = server._at_this_loop().session
            while session is not None and session.is_alive:
                await asyncio.sleep(0.01)
            return await call(tools, "say", text="second")

    assert asyncio.run(main()) == "second"
    assert len(folder.marks("pids")) == 2


def test_a_server_that_cannot_be_started_again_is_not_called(folder: ServerFolder) -> None:
    program = folder.path / "server.py"
    program.write_text(PROGRAM.read_text(encoding="utf-8"), encoding="utf-8")

    async def main() -> None:
        tools = await folder.tools(args=(str(program), str(folder.path)))
        with pytest.raises(NoAnswerError):
            await call(tools, "die")
        program.unlink()
        with pytest.raises(NotDoneError, match="cannot be used"):
            await call(tools, "say", text="lost")
        await tools.aclose()

    asyncio.run(main())
    assert folder.marks("calls") == ["die {}"]


def test_a_cancelled_call_is_cancelled_at_the_server_too(folder: ServerFolder) -> None:
    async def main() -> None:
        tools = await folder.tools()
        calling = asyncio.create_task(call(tools, "wait", seconds=600))
        await folder.marked("calls")
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert await folder.marked("cancelled") == ["wait"]
        assert await call(tools, "say", text="still here") == "still here"
        await tools.aclose()

    asyncio.run(main())
    assert len(folder.marks("pids")) == 1
    assert folder.alive() == []


def test_a_loop_that_ends_takes_the_process_with_it_even_if_nobody_closed_anything(folder: ServerFolder) -> None:
    async def main() -> None:
        tools = await folder.tools()
        asyncio.create_task(call(tools, "wait", seconds=600))  # noqa: RUF006
        await folder.marked("calls")

    asyncio.run(main())

    assert len(folder.marks("pids")) == 1
    assert folder.alive() == []


def test_tools_loaded_in_one_loop_can_be_called_in_the_next(folder: ServerFolder) -> None:
    tools = asyncio.run(folder.tools())

    async def main() -> Any:
        try:
            return await call(tools, "add", a=2, b=2)
        finally:
            await tools.aclose()

    assert asyncio.run(main()) == {"sum": 4}
    assert folder.alive() == []


def test_letting_go_waits_for_the_calls_of_others_and_never_cuts_them_off(folder: ServerFolder) -> None:
    async def main() -> Any:
        tools = await folder.tools()
        calling = asyncio.create_task(call(tools, "wait", seconds=0.3))
        await folder.marked("calls")
        await tools.aclose()
        answer = await calling
        await tools.aclose()
        return answer

    assert asyncio.run(main()) == "waited"
    assert folder.alive() == []


def test_a_held_server_outlives_whoever_lets_go_of_it(folder: ServerFolder) -> None:
    async def main() -> None:
        from planloom.tools.registry import ToolRegistry

        async with folder.server() as server:
            tools = ToolRegistry(await server.load(trust_first=True))
            await tools.aclose()
            assert await call(tools, "say", text="x") == "x"
        assert folder.alive() == []

    asyncio.run(main())
    assert len(folder.marks("pids")) == 1


def test_a_program_that_says_nothing_is_given_up_and_not_left_behind(folder: ServerFolder) -> None:
    silent = "import os, time; open('pids', 'w').write(str(os.getpid())); time.sleep(600)"

    async def main() -> None:
        server = folder.server(args=("-c", silent), start_timeout_s=1.5)
        with pytest.raises(ConfigError, match=r"did not answer in 1\.5 s"):
            await server.load()

    asyncio.run(main())
    assert len(folder.marks("pids")) == 1
    assert folder.alive() == []


def test_a_program_that_does_not_exist_is_named(folder: ServerFolder) -> None:
    with pytest.raises(ConfigError, match=r"'no-such-program'.*there is no such program"):
        asyncio.run(folder.server(command="no-such-program", args=()).load())


def test_a_secret_is_named_in_the_settings_and_seen_nowhere(
    folder: ServerFolder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALC_TOKEN", TOKEN)
    monkeypatch.setenv("HIDDEN", "not passed on")

    async def main() -> tuple[Any, str]:
        server = folder.server(env={"SERVER_TOKEN": "CALC_TOKEN"})
        async with server:
            tools = ToolRegistry(await server.load(trust_first=True))
            with pytest.raises(McpToolError) as failed:
                await call(tools, "fail", text=f"bad token {TOKEN}")
            return await call(tools, "secret"), f"{failed.value}{failed.value.to_dict()}{server!r}{server.terms!r}"

    answer, shown = asyncio.run(main())

    assert answer == "the token is [secret] and HIDDEN is None"
    assert TOKEN not in shown + "".join(capfd.readouterr())


def test_a_variable_that_is_not_set_is_named_before_anything_starts(folder: ServerFolder) -> None:
    with pytest.raises(MissingKeyError, match="NO_SUCH_VARIABLE"):
        asyncio.run(folder.server(env=["NO_SUCH_VARIABLE"]).load())

    assert folder.marks("pids") == []


def test_the_key_of_the_attempt_reaches_the_server(folder: ServerFolder) -> None:
    async def main() -> Any:
        tools = await folder.tools()
        try:
            return await tools.get("calc.key").call({}, ToolContext(idempotency_key="run-1/pay"))
        finally:
            await tools.aclose()

    assert asyncio.run(main()) == "run-1/pay"


def test_what_the_program_writes_to_stderr_goes_where_the_operator_says(folder: ServerFolder) -> None:
    loud = f"import sys; print('starting up', file=sys.stderr); sys.argv = [{str(PROGRAM)!r}, {str(folder.path)!r}]"
    script = f"{loud}; import runpy; runpy.run_path({str(PROGRAM)!r}, run_name='__main__')"

    asyncio.run(folder.server(args=("-c", script), log="calc.log").load(trust_first=True))

    assert "starting up" in (folder.path / "calc.log").read_text(encoding="utf-8")


def test_a_server_over_http_is_asked_with_its_token(folder: ServerFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALC_TOKEN", TOKEN)
    environment = os.environ | {"SERVER_TOKEN": TOKEN}
    with subprocess.Popen([sys.executable, str(PROGRAM), str(folder.path), "0"], env=environment) as process:

        async def main() -> tuple[Any, Any]:
            url = f"http://127.0.0.1:{(await folder.marked('port'))[0]}/mcp"
            with pytest.raises(ConfigError, match="cannot be used"):
                await folder.server(url=url).load(trust_first=True)
            tools = await folder.tools(url=url, token_env="CALC_TOKEN")
            found = await asyncio.gather(call(tools, "add", a=1, b=1), call(tools, "say", text=TOKEN))
            process.kill()
            with pytest.raises((NoAnswerError, NotDoneError)):
                await call(tools, "say", text="gone")
            await tools.aclose()
            return found[0], found[1]

        assert asyncio.run(main()) == ({"sum": 2}, "[secret]")


def test_what_changed_while_the_server_was_away_is_found_before_the_next_call(folder: ServerFolder) -> None:
    async def main() -> None:
        tools = await folder.tools()
        folder.lists("changed")
        with pytest.raises(NoAnswerError):
            await call(tools, "die")
        with pytest.raises(McpTrustError, match="description of add changed"):
            await call(tools, "add", a=1, b=1)
        await tools.aclose()

    asyncio.run(main())
    assert folder.marks("calls") == ["die {}"]
    assert folder.alive() == []


def test_arguments_may_have_any_name(folder: ServerFolder) -> None:
    tool = folder.server()._tool(ListedTool("odd", "", {"type": "object", "properties": {"self": {}, "a b": {}}}))

    assert tool.validate({"self": 1, "a b": 2}) == {"self": 1, "a b": 2}
    assert json.dumps(tool.bind({"self": 1}, ToolContext()), default=str).startswith('{"self": 1')
