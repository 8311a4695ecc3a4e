"""`planloom agent` and `planloom submit`, as processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from planloom import ClusterClient, load_plan
from planloom.journal.postgres.journal import PostgresJournal
from tests.cluster.hands import Hand, ended
from tests.cluster.servers import Nats, Postgres, comes, until

TOOLS = '''
from planloom import tool

@tool(effects="none")
def add(n: int) -> int:
    """Add one."""
    return n + 1

@tool(effects="once")
def pay(n: int) -> int:
    """Pay."""
    return n + 1
'''
PLAN = """
planloom: 1
name: chain
inputs: {n: {type: integer}}
steps:
  - {id: a, tool: add, with: {n: "${{ inputs.n }}"}}
  - {id: b, tool: pay, with: {n: "${{ steps.a.output }}"}}
"""


def planloom(*args: str, folder: Path, **options: Any) -> subprocess.Popen[str]:
    """Start a command in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "planloom", *args],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        **options,
    )


@contextmanager
def project(folder: Path, dsn: str, nats: Nats) -> Iterator[Path]:
    """Make a project of a cluster in a folder."""
    (folder / "tools.py").write_text(TOOLS)
    (folder / "plan.yaml").write_text(PLAN)
    (folder / "planloom.toml").write_text(
        f'tools = ["tools.py"]\njournal = "{dsn}"\n[cluster]\nnats = "{nats.url}"\nlease_s = 2\ncheck_s = 2\n'
    )
    yield folder


@contextmanager
def agent_process(folder: Path, *args: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start an agent and wait until it is ready; yield it, and what it said until then."""
    process = planloom("agent", *args, folder=folder)
    said = ""
    try:
        assert process.stderr is not None
        for line in process.stderr:
            said += line
            if "is ready" in line:
                break
        else:
            raise AssertionError(f"it ended: {said}")
        yield process, said
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def test_a_run_is_submitted_from_the_command_line_and_its_result_is_printed(
    tmp_path: Path, postgres: str, nats: Nats
) -> None:
    async def main(folder: Path) -> tuple[int, str, str]:
        async with Hand(nats.url, lambda request: request.args["n"] + 1):
            process = planloom("submit", "plan.yaml", "--input", "n=1", "--wait", folder=folder)
            out, err = await asyncio.to_thread(process.communicate, timeout=60)
            return process.returncode, out, err

    with project(tmp_path, postgres, nats) as folder, agent_process(folder):
        code, out, err = asyncio.run(main(folder))

    assert code == 0, err
    assert out.strip() == "3"


def test_an_agent_that_is_told_to_go_sees_to_what_came_and_tells_how_it_does(
    tmp_path: Path, postgres: str, nats: Nats
) -> None:
    with project(tmp_path, postgres, nats) as folder, agent_process(folder, "--metrics-port", "0") as (process, said):
        address = next(word for word in said.split() if word.endswith("/metrics"))
        told = urllib.request.urlopen(address, timeout=10).read().decode()
        health = urllib.request.urlopen(address.replace("metrics", "healthz"), timeout=10).read()
        process.send_signal(signal.SIGTERM)
        until(lambda: process.poll() is not None, what="its end")

        assert "planloom_cluster_turns_failed_total 0" in told
        assert 'planloom_cluster_commands_waiting{capability="main",place=""} 0' in told
        assert health == b"ready\n"
        assert process.returncode == 0


def test_an_agent_waits_for_a_database_that_is_not_there_yet(
    tmp_path: Path, postgres_server: Postgres, nats: Nats
) -> None:
    dsn = postgres_server.database()
    with project(tmp_path, dsn, nats) as folder:
        postgres_server.kill()
        process = planloom("agent", folder=folder)
        try:
            assert process.stderr is not None
            first = process.stderr.readline()
            postgres_server.start()
            ready = next((line for line in process.stderr if "is ready" in line), None)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    assert "it waits" in first
    assert "cannot be reached" in first
    assert ready is not None


def test_a35_an_agent_that_is_killed_is_not_missed(tmp_path: Path, postgres: str, nats: Nats) -> None:
    async def main(folder: Path, victim: subprocess.Popen[str]) -> None:
        journal = PostgresJournal(postgres)
        go_on = asyncio.Event()

        async def slow(request: Any) -> Any:
            await go_on.wait()
            return request.args["n"] + 1

        async with Hand(nats.url, slow) as hand:
            process = planloom("submit", "plan.yaml", "--input", "n=1", "--run-id", "r", "--json", folder=folder)
            out, err = await asyncio.to_thread(process.communicate, timeout=60)
            assert json.loads(out) == {"run_id": "r"}, err
            await comes(lambda: hand.made[("r", "a")] == 1)
            os.killpg(victim.pid, signal.SIGKILL)
            with agent_process(folder):
                go_on.set()
                result = await ended(journal, "r")

            assert result.output == 3
            assert hand.made == {("r", "a"): 1, ("r", "b"): 1}
        await journal.close()

    with project(tmp_path, postgres, nats) as folder, agent_process(folder) as (victim, _):
        asyncio.run(main(folder, victim))


def test_an_agent_that_is_told_to_go_in_the_middle_of_many_runs_holds_up_none(
    tmp_path: Path, postgres: str, nats: Nats
) -> None:
    async def main(folder: Path, first: subprocess.Popen[str]) -> None:
        journal = PostgresJournal(postgres)

        async def takes_a_moment(request: Any) -> Any:
            await asyncio.sleep(0.05)
            return request.args["n"] + 1

        async with Hand(nats.url, takes_a_moment) as hand, ClusterClient(nats.url) as client:
            plan = load_plan(folder / "plan.yaml")
            for number in range(40):
                await client.submit(plan, {"n": number}, run_id=f"r{number}")
                if number == 20:
                    first.send_signal(signal.SIGTERM)
            await comes(lambda: first.poll() is not None)
            for number in range(40):
                assert (await ended(journal, f"r{number}")).output == number + 2
            assert first.returncode == 0
            assert {made for made, times in hand.made.items() if times > 1} == set()
        await journal.close()

    with project(tmp_path, postgres, nats) as folder, agent_process(folder) as (first, _), agent_process(folder):
        asyncio.run(main(folder, first))
