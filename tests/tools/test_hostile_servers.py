"""MCP servers that mean ill: nothing hangs, nothing is left behind, nothing they say counts for more than it is."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from planloom import Engine, RunStatus
from planloom.errors import ArgumentsError, ConfigError, McpToolError, McpTrustError, NoAnswerError
from planloom.tools.mcp import McpServer
from planloom.tools.mcp_wire import MAX_MARKS, MAX_MESSAGE_BYTES, too_much
from tests.tools.mcp_servers import ServerFolder

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")]
PROGRAM = Path(__file__).with_name("hostile_server.py")
TOKEN = 'tok-"quoted"-0123456789/abc'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerFolder:
    monkeypatch.setenv("TOKEN_OF_OURS", TOKEN)
    return ServerFolder(tmp_path)


def hostile(folder: ServerFolder, *moods: str, **terms: Any) -> McpServer:
    env = {"SERVER_TOKEN": "TOKEN_OF_OURS"}
    args = (str(PROGRAM), str(folder.path), *moods)
    given: dict[str, Any] = {"command": sys.executable, "args": args, "env": env, "start_timeout_s": 20}
    return McpServer("calc", folder=folder.path, **given | terms)


def asked(folder: ServerFolder, *moods: str, **terms: Any) -> Any:
    """Return what its tool answers."""

    async def main() -> Any:
        async with hostile(folder, *moods, **terms) as server:
            tools = await server.load(trust_first=True)
            async with asyncio.timeout(20):
                return await tools[0].call({"text": "a"})

    try:
        return asyncio.run(main())
    finally:
        assert folder.alive() == []


@pytest.mark.parametrize(
    ("mood", "why"),
    [
        ("call-long-line", "over 16 MiB"),
        ("call-large", "over 16 MiB"),
        ("call-structures", "over 2,000,000 parts"),
        ("call-deep", "cannot be read"),
        ("call-asks", "does not read the answers"),
    ],
)
def test_what_is_too_much_ends_the_server_and_not_us(folder: ServerFolder, mood: str, why: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(NoAnswerError, match=why):
        asked(folder, mood)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


@pytest.mark.parametrize("mood", ["call-exit", "call-exit-with-child"])
def test_a_program_that_ends_in_a_call_is_found_gone_whoever_keeps_its_pipes(folder: ServerFolder, mood: str) -> None:
    began = time.monotonic()

    with pytest.raises(NoAnswerError, match="was gone"):
        asked(folder, mood)

    assert time.monotonic() - began < 15


@pytest.mark.parametrize("mood", ["start-child", "end-deaf"])
def test_what_a_program_started_and_what_does_not_listen_is_gone_with_it(folder: ServerFolder, mood: str) -> None:
    assert asked(folder, mood) == "done"


@pytest.mark.parametrize(
    ("mood", "why"),
    [
        ("start-never", "did not answer in 2 s"),
        ("start-exit", "cannot be used"),
        ("start-long-line", "over 16 MiB"),
        ("list-never", "did not list its tools in 2 s"),
        ("list-pages", "did not list its tools in 2 s"),
        ("list-many", "it lists 2000 tools"),
        ("list-twice", "lists 'do' twice"),
        ('list-name="a\\u0007b"', "no name for a tool"),
        ('list-name="../../do"', "no name for a tool"),
        ('list-name="do\\ndo"', "no name for a tool"),
        ('list-name=""', "no name for a tool"),
    ],
)
def test_a_server_that_cannot_be_used_is_refused_in_time(folder: ServerFolder, mood: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        asked(folder, mood, start_timeout_s=2 if "2 s" in why else 20)


def test_answers_to_other_calls_and_second_answers_are_nobodys(folder: ServerFolder) -> None:
    assert asked(folder, "call-noise") == "yours"


def test_lines_that_are_no_messages_are_passed_over(folder: ServerFolder) -> None:
    assert asked(folder, "call-bad-bytes", "call-tells") == "done"


@pytest.mark.parametrize("mood", ["call-never", "call-trickle"])
def test_a_call_that_is_never_answered_takes_no_longer_than_it_may(folder: ServerFolder, mood: str) -> None:
    async def main() -> None:
        async with hostile(folder, mood, timeout_s=0.5) as server:
            tools = await server.load(trust_first=True)
            async with Engine(tools=tools) as engine:
                result = await engine.run({"planloom": 1, "steps": [{"id": "a", "tool": "calc.do", "with": {}}]})
            assert result.status in (RunStatus.FAILED, RunStatus.WAITING)

    began = time.monotonic()
    asyncio.run(main())

    assert time.monotonic() - began < 20
    assert folder.alive() == []


def test_what_a_server_lists_anew_is_found_before_the_next_call(folder: ServerFolder) -> None:
    async def main() -> None:
        async with hostile(folder, "list-late-change", "call-exit") as server:
            tool = (await server.load(trust_first=True))[0]
            with pytest.raises(NoAnswerError):
                await tool.call({})
            with pytest.raises(McpTrustError, match="description of do changed"):
                await tool.call({})

    asyncio.run(main())
    assert len(folder.marks("calls")) == 1


def test_a_pattern_that_takes_for_ever_elsewhere_takes_no_time_here(folder: ServerFolder) -> None:
    async def main() -> None:
        async with hostile(folder, "list-pattern") as server:
            tool = (await server.load(trust_first=True))[0]
            began = time.monotonic()
            with pytest.raises(ArgumentsError):
                tool.validate({"text": "a" * 5_000 + "!"})
            assert time.monotonic() - began < 2

    asyncio.run(main())


def test_a_schema_that_is_a_circle_refuses_arguments_and_does_not_hang(folder: ServerFolder) -> None:
    with pytest.raises(ArgumentsError):
        asked(folder, "list-circle")


# --- secrets -----------------------------------------------------------------


def test_a_secret_in_an_answer_is_struck_out_however_it_is_quoted(folder: ServerFolder) -> None:
    told = str(asked(folder, "call-secret"))

    assert "[secret]" in told
    assert "0123456789" not in told


def test_a_secret_in_a_listing_is_neither_pinned_nor_told(folder: ServerFolder) -> None:
    async def main() -> list[Any]:
        async with hostile(folder, "list-secret") as server:
            return await server.load(trust_first=True)

    tool = asyncio.run(main())[0]

    assert tool.description == "Do it with [secret]."
    assert "0123456789" not in str(tool.schema)
    assert "0123456789" not in (folder.path / "planloom.mcp.lock").read_text()


@pytest.mark.parametrize("mood", ["call-secret-error", "call-secret-misshapen"])
def test_a_secret_in_an_error_is_struck_out_before_the_error_is_cut(
    folder: ServerFolder, mood: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="mcp")

    with pytest.raises(McpToolError) as caught:
        asked(folder, mood)

    assert "tok-" not in str(caught.value)
    assert "0123456789" not in caplog.text


def test_a_program_that_answers_with_an_error_of_its_own_is_not_taken_for_gone(folder: ServerFolder) -> None:
    with pytest.raises(McpToolError, match="xxx"):
        asked(folder, "call-secret-error")


def test_the_log_of_a_program_has_an_end_and_no_secrets(folder: ServerFolder) -> None:
    assert asked(folder, "call-stderr", log="server.log") == "done"

    log = folder.path / "server.log"
    assert log.stat().st_size < 17 * 2**20
    text = log.read_text(encoding="utf-8")
    assert text.startswith("[secret] [secret]")
    assert TOKEN not in text
    assert text.rstrip().endswith("no more of this is kept")


# --- nothing is left behind --------------------------------------------------


def test_fifty_broken_servers_leave_no_files_open(folder: ServerFolder) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def main() -> tuple[int, int]:
        async def once() -> None:
            async with hostile(folder, "call-exit") as server:
                tool = (await server.load(trust_first=True))[0]
                with pytest.raises(NoAnswerError):
                    await tool.call({})

        await once()
        before, tasks = opened(), len(asyncio.all_tasks())
        for _ in range(10):
            await asyncio.gather(*(once() for _ in range(5)))
        assert len(asyncio.all_tasks()) == tasks
        return before, opened()

    before, after = asyncio.run(main())

    assert after <= before + 2
    assert folder.alive() == []


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"x" * MAX_MESSAGE_BYTES, None),
        (b"x" * (MAX_MESSAGE_BYTES + 1), "it sent a message of over 16 MiB"),
        (b"," * MAX_MARKS, None),
        (b"[" * (MAX_MARKS + 1), "it sent a message of over 2,000,000 parts"),
    ],
)
def test_a_message_is_measured_before_it_is_read(message: bytes, expected: str | None) -> None:
    assert too_much(message) == expected
