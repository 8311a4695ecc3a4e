"""What of an MCP server is approved, and what an operator says of one."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from planloom.errors import ConfigError, McpTrustError, UnknownFieldError
from planloom.tools.mcp import McpServer
from planloom.tools.mcp_listing import MAX_DESCRIPTION, MAX_TOOLS, Change, ListedTool, changes, check_listing
from planloom.tools.mcp_pins import PINS_FILE, read_pins, write_pins
from tests.tools.mcp_servers import ServerFolder

ADD = ListedTool("add", "Add.", {"type": "object"})
SAY = ListedTool("say", "Say.", {"type": "object"}, {"type": "string"})


@pytest.fixture
def folder(tmp_path: Path) -> ServerFolder:
    return ServerFolder(tmp_path)


async def loaded(folder: ServerFolder, *, trust_first: bool = False, **terms: Any) -> list[str]:
    async with folder.server(**terms) as server:
        return [tool.name for tool in await server.load(trust_first=trust_first)]


@pytest.mark.slow
def test_a_server_that_nobody_approved_is_refused(folder: ServerFolder) -> None:
    with pytest.raises(McpTrustError, match="add is new") as refused:
        asyncio.run(loaded(folder))

    assert refused.value.facts["changes"][0] == {"tool": "add", "what": "new"}
    assert "planloom mcp trust calc" in refused.value.remedy
    assert not (folder.path / PINS_FILE).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mood", "words"), [("changed", "description of add changed"), ("more", "wipe is new")], ids=["changed", "more"]
)
def test_what_changed_since_is_refused_until_it_is_approved(folder: ServerFolder, mood: str, words: str) -> None:
    asyncio.run(loaded(folder, trust_first=True))
    folder.lists(mood)

    with pytest.raises(McpTrustError, match=words):
        asyncio.run(loaded(folder, trust_first=True))

    async def approve() -> list[Change]:
        async with folder.server() as server:
            return await server.trust()

    assert [str(change) for change in asyncio.run(approve())] == [words]
    assert "calc.add" in asyncio.run(loaded(folder))


@pytest.mark.slow
def test_a_tool_that_is_gone_is_no_reason_to_refuse_the_others(folder: ServerFolder) -> None:
    asyncio.run(loaded(folder, trust_first=True))
    folder.lists("less")

    assert "calc.say" in asyncio.run(loaded(folder))


@pytest.mark.slow
def test_tools_that_the_operator_does_not_take_are_neither_looked_at_nor_there(folder: ServerFolder) -> None:
    asyncio.run(loaded(folder, trust_first=True, allow=["say"]))
    folder.lists("more")

    assert asyncio.run(loaded(folder, allow=["say"])) == ["calc.say"]
    assert list(read_pins(folder.path / PINS_FILE)["calc"]) == ["say"]
    with pytest.raises(ConfigError, match=r"'sya'.*no such tool"):
        asyncio.run(loaded(folder, allow=["sya"]))


def test_every_kind_of_change_is_named() -> None:
    approved = {tool.name: tool.pin for tool in (ADD, SAY)}
    other = ListedTool("add", "Sum.", {"type": "object", "required": ["a"]}, {"type": "number"}, reads_only=True)

    found = changes(approved, [ListedTool("new", "", {}), other])

    assert [(one.tool, one.what) for one in found] == [
        ("new", "new"),
        ("add", "description"),
        ("add", "parameters"),
        ("add", "result"),
        ("add", "effects"),
        ("say", "gone"),
    ]
    assert changes(approved, [ADD, SAY]) == []


def test_the_file_is_written_whole_and_keeps_the_other_servers(tmp_path: Path) -> None:
    path = tmp_path / PINS_FILE
    write_pins(path, "one", {"add": ADD.pin})
    path.chmod(0o600)
    write_pins(path, "two", {"say": SAY.pin})

    assert read_pins(path) == {"one": {"add": ADD.pin}, "two": {"say": SAY.pin}}
    assert json.loads(path.read_text(encoding="utf-8"))["planloom_mcp"] == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == [PINS_FILE]


@pytest.mark.parametrize("text", ["", "[]", '{"planloom_mcp": 2}', '{"servers": {"a": {"b": {}}}}'])
def test_a_damaged_file_approves_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / PINS_FILE
    path.write_text(text, encoding="utf-8")

    with pytest.raises(ConfigError, match="no record of approved MCP tools"):
        read_pins(path)
    with pytest.raises(ConfigError):
        write_pins(path, "one", {})
    assert path.read_text(encoding="utf-8") == text


def test_a_listing_out_of_all_measure_is_refused() -> None:
    for listed in (
        [ListedTool(str(place), "", {}) for place in range(MAX_TOOLS + 1)],
        [ADD, ADD],
        [ListedTool("a", "x" * (MAX_DESCRIPTION + 1), {})],
        [ListedTool("a", "", {"description": "x" * 300_000})],
    ):
        with pytest.raises(ConfigError, match="is not used"):
            check_listing("calc", listed)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({}, "either `command` or `url`"),
        ({"command": "a", "url": "https://b"}, "either `command` or `url`"),
        ({"url": "https://b", "args": ["x"]}, "`args` does not go with `url`"),
        ({"command": "a", "token_env": "T"}, "`token_env` does not go with `command`"),
        ({"url": "ftp://b"}, "no http:// or https://"),
        ({"url": "https://me:pass1234@b"}, "holds a password"),
        ({"url": "http://example.org/mcp", "token_env": "T"}, "in the clear"),
        ({"command": "a", "env": {"TOKEN": "sk-not-a-name"}}, "no name of an environment variable"),
        ({"command": "a", "effects": "twice"}, "effects"),
    ],
)
def test_terms_that_cannot_be_are_refused_without_showing_a_secret(terms: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        McpServer("calc", **terms)

    assert "pass1234" not in str(refused.value)
    assert "sk-not" not in str(refused.value)


def test_a_word_that_does_not_exist_is_named() -> None:
    with pytest.raises(UnknownFieldError, match="'comand'") as refused:
        McpServer("calc", comand=sys.executable)

    assert "command" in refused.value.remedy


@pytest.mark.parametrize("name", ["functions", "tools", "a.b", "", "a b", "é"])
def test_no_server_can_take_a_name_that_leads_around_an_allowlist(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be called"):
        McpServer(name, command="a")


def test_a_tool_whose_name_cannot_be_a_name_here_is_refused(folder: ServerFolder) -> None:
    with pytest.raises(ConfigError, match="no name for a tool"):
        folder.server()._tool(ListedTool("two words", "", {"type": "object"}))
