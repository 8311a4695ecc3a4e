"""`planloom serve` as a process: how it begins, what survives its end, what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from planloom.cli.main import main
from planloom.cli.mcp_serving import listening_on

TOOLS = """
import os, time
from planloom import tool

@tool(effects="none")
def echo(x: str) -> str:
    return x

@tool(effects="none")
async def until_there(path: str) -> str:
    import asyncio
    while not os.path.exists(path):
        await asyncio.sleep(0.02)
    return "there"
"""
WAITS = {"steps": [{"id": "a", "tool": "until_there", "with": {"path": "mark"}}]}
COMMAND = [sys.executable, "-m", "planloom", "serve", "--port", "0", "--tools", "tools.py", "--journal", "runs.db"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tools.py").write_text(TOOLS)
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "hi.yaml").write_text('steps: [{id: a, tool: echo, with: {x: "hi"}}]')
    return tmp_path


class Process:
    """A server, and where it listens."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"{self.url}{path}", data, {"content-type": "application/json", **headers})
        try:
            with urllib.request.urlopen(asked, timeout=20) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def until(self, run_id: str, status: str) -> Any:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found = self.ask(f"/v1/runs/{run_id}")[1]
            if found.get("status") == status:
                return found
            time.sleep(0.02)
        raise AssertionError(f"run {run_id} is not {status}: {found}")


@contextmanager
def serving(folder: Path, *options: str, **variables: str) -> Iterator[Process]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PLANLOOM_")}
    process = subprocess.Popen(
        [*COMMAND, *options], cwd=folder, text=True, stderr=subprocess.PIPE, env=environment | variables
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            found = re.search(r"listening on (http://\S+)", line)
            if found:
                break
        else:
            raise AssertionError("it ended before it listened")
        yield Process(process, found[1])
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def called(folder: Path, *words: str) -> tuple[int, str]:
    """Run a command that ends by itself, in this process; return its exit code and what it told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        answer = CliRunner().invoke(main, list(words))
    return answer.exit_code, answer.output


@pytest.mark.slow
def test_it_listens_on_this_machine_only_and_runs_plans_by_name(folder: Path) -> None:
    with serving(folder, "--plans", "plans") as server:
        status, told = server.ask("/v1/runs", {"name": "hi"})
        found = server.until(told["run_id"], "success")

    assert server.url.startswith("http://127.0.0.1:")
    assert status == 201
    assert found["result"] == "hi"


@pytest.mark.slow
def test_told_to_end_it_ends_at_once_and_the_next_one_goes_on_with_its_runs(folder: Path) -> None:
    with serving(folder) as server:
        run_id = server.ask("/v1/runs", {"plan": WAITS})[1]["run_id"]
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        code = server.process.wait(timeout=20)
        took = time.monotonic() - began
    (folder / "mark").touch()
    with serving(folder) as server:
        found = server.until(run_id, "success")

    assert code == 0
    assert took < 4
    assert found["result"] == "there"


@pytest.mark.slow
def test_killed_before_it_answers_it_knows_the_key_when_it_is_back(folder: Path) -> None:
    with serving(folder) as server:
        first = server.ask("/v1/runs", {"plan": WAITS}, **{"Idempotency-Key": "k"})[1]
        server.process.kill()
    (folder / "mark").touch()
    with serving(folder) as server:
        status, again = server.ask("/v1/runs", {"plan": WAITS}, **{"Idempotency-Key": "k"})
        server.until(first["run_id"], "success")
        runs = server.ask("/v1/runs")[1]["runs"]

    assert (status, again["run_id"]) == (200, first["run_id"])
    assert len(runs) == 1


@pytest.mark.slow
def test_the_settings_file_says_who_may_use_it(folder: Path) -> None:
    (folder / "planloom.toml").write_text(
        'tools = ["tools.py"]\n[server]\nplans = ["plans"]\n[server.tokens.ops]\nenv = "OPS_TOKEN"\nscopes = ["read"]\n'
    )
    token = "a-token-for-the-operators"
    with serving(folder, OPS_TOKEN=token) as server:
        without, _ = server.ask("/v1/plans")
        status, told = server.ask("/v1/plans", authorization=f"Bearer {token}")
        refused, _ = server.ask("/v1/runs", {"name": "hi"}, authorization=f"Bearer {token}")

    assert (without, status, refused) == (401, 200, 403)
    assert [one["name"] for one in told["plans"]] == ["hi"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_is_sent_in_two_parts_does_not_wait_for_the_first_to_be_acknowledged(host: str) -> None:
    async def main() -> None:
        at_once: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def visited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found = writer.get_extra_info("socket")
            at_once.set_result(found.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listening = listening_on(host, 0)
        port = listening.getsockname()[1]
        async with await asyncio.start_server(visited, sock=listening):
            _, writer = await asyncio.open_connection(host, port)
            assert await at_once
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())


def test_a_public_address_without_tokens_is_refused(folder: Path) -> None:
    code, told = called(folder, "serve", "--host", "0.0.0.0")

    assert code == 7
    assert "no token" in told


def test_wrong_settings_and_missing_tokens_are_told(folder: Path) -> None:
    (folder / "planloom.toml").write_text("[server]\nprot = 1\n")
    assert "prot" in called(folder, "serve")[1]
    (folder / "planloom.toml").write_text('[server.tokens.a]\nenv = "NOT_THERE_AT_ALL"\nscopes = ["read"]\n')
    assert "NOT_THERE_AT_ALL" in called(folder, "serve", "--port", "0")[1]


def test_without_the_extra_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, told = called(folder, "serve")

    assert code == 7
    assert "planloom[server]" in told


def test_the_program_and_the_package_do_not_load_the_server() -> None:
    wanted = "fastapi", "uvicorn", "planloom.server"
    asked = f"import sys, planloom.cli.main; print([one for one in sys.modules if one.startswith({wanted})])"

    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout

    assert told.strip() == "[]"
