"""Clients of `planloom mcp` that mean ill, or come in crowds."""

from __future__ import annotations

import asyncio
import sys
import time
import urllib.error
import urllib.request
from typing import Any

import pytest
from mcp import MCPError

from cli.conftest import Folder
from cli.test_mcp import TOKEN, over_http, over_stdio

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="real processes")]

INITIALIZE = (
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},'
    b'"clientInfo":{"name":"c","version":"1"}}}'
)


def posted(url: str, body: bytes = INITIALIZE, **headers: str) -> int:
    """Return the status that a request comes to."""
    told = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **headers}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, told), timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:  # it hung up on what we were still sending
        return 413


def test_over_http_neither_other_hosts_nor_pages_of_others_nor_endless_bodies_are_served(folder: Folder) -> None:
    folder.plan("echo.json", {"id": "e", "tool": "t.echo", "with": {"value": "hello"}})
    mine = {"Authorization": f"Bearer {TOKEN}"}

    with over_http(folder, "echo.json") as url:
        assert posted(url, **mine) == 200
        assert posted(url) == 401
        assert posted(url, Authorization="Bearer ") == 401
        assert posted(url, Authorization=TOKEN) == 401
        assert posted(url, Authorization=f"bearer {TOKEN}x") == 401
        assert posted(url, Host="evil.example") == 401  # without a token nobody even learns which hosts are served
        assert posted(url, **mine, Host="evil.example") in (403, 421)
        assert posted(url, **mine, Origin="http://evil.example") == 403
        assert posted(url, b"x" * 20_000_000, **mine) in (400, 413)
        assert posted(url, b"{" * 100_000, **mine) == 400
        assert posted(url, **mine) == 200


def test_fifty_calls_at_once_are_fifty_runs_and_a_storm_of_cancellations_leaves_none_running(folder: Folder) -> None:
    folder.plan("slow.json", {"id": "w", "tool": "t.wait", "with": {"seconds": 600}})
    folder.plan(
        "echo.json",
        {"id": "e", "tool": "t.echo", "with": {"value": "${{ inputs.text }}"}},
        inputs={"text": {"type": "string"}},
        outputs="${{ steps.e.output }}",
    )

    async def main() -> list[Any]:
        async with over_stdio(folder, "slow.json", "echo.json") as client:
            slow = [asyncio.ensure_future(client.call_tool("slow", {})) for _ in range(25)]
            quick = await asyncio.gather(*(client.call_tool("echo", {"text": str(n)}) for n in range(50)))
            for task in slow:
                task.cancel()
            await asyncio.wait(slow)
            assert not (await client.call_tool("echo", {"text": "still here"})).is_error
            return [one.structured_content["output"] for one in quick]

    assert asyncio.run(main()) == [str(n) for n in range(50)]
    rows = folder.call("--json", "list", "--limit", "100").value
    assert {row["status"] for row in rows} == {"success", "cancelled"}
    assert len([row for row in rows if row["status"] == "cancelled"]) == 25


def test_wrong_calls_are_errors_and_the_next_one_is_served(folder: Folder) -> None:
    folder.plan(
        "echo.json",
        {"id": "e", "tool": "t.echo", "with": {"value": "${{ inputs.text }}"}},
        inputs={"text": {"type": "string"}},
        outputs="${{ steps.e.output }}",
    )
    deep: Any = "x"
    for _ in range(150):
        deep = [deep]

    async def main() -> None:
        async with over_stdio(folder, "echo.json") as client:
            for name in ("no-such", "", "../echo", "functions.echo"):
                with pytest.raises(MCPError):
                    await client.call_tool(name, {})
            wrongs: list[dict[str, Any]] = [{}, {"text": 1}, {"text": deep}, {"text": "x", "more": 1}, {"": ""}]
            for wrong in wrongs:
                answer = await client.call_tool("echo", wrong)
                assert answer.is_error
                assert len(str(answer.content)) < 5_000
            large = await client.call_tool("echo", {"text": "x" * 5_000_000})
            assert large.is_error or large.structured_content["output"] == "x" * 5_000_000
            assert (await client.call_tool("echo", {"text": "ok"})).structured_content["output"] == "ok"

    asyncio.run(main())


def test_a_client_that_goes_away_in_the_middle_leaves_no_run_running(folder: Folder) -> None:
    folder.plan("slow.json", {"id": "w", "tool": "t.wait", "with": {"seconds": 600}})

    async def main() -> None:
        async with over_stdio(folder, "slow.json") as client:
            calls = [asyncio.ensure_future(client.call_tool("slow", {})) for _ in range(3)]
            await asyncio.wait(calls, timeout=1.5)

    asyncio.run(main())

    until = time.monotonic() + 10
    rows = folder.call("--json", "list").value
    while {row["status"] for row in rows} != {"cancelled"} and time.monotonic() < until:
        rows = folder.call("--json", "list").value
    assert [row["status"] for row in rows] == ["cancelled"] * 3
