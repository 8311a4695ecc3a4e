"""`planloom serve` killed again and again while many submit: what was accepted is there, once, and ends.

What was answered stands with the submitters; what the tools really did, in the log that they write; what is said to
have happened, in the journal. The three must agree. PLANLOOM_KILLS says how often, PLANLOOM_SEED when.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from planloom import SqliteJournal
from planloom.testing.history.check import judged
from planloom.testing.history.tool_log import read_tool_log

KILLS = max(3, int(os.environ.get("PLANLOOM_KILLS", "20")) // 4)
SEED = int(os.environ.get("PLANLOOM_SEED", "1"))
SUBMITTERS = 6
PATIENCE_S = 60.0
TOOLS = """
import json, os
from planloom import ToolContext, tool

@tool(effects="none")
async def look(n: int) -> int:
    return n

@tool(effects="once")
async def pay(n: int, context: ToolContext) -> int:
    line = {"run": context.run_id, "step": context.step, "attempt": context.attempt, "tool": "pay"}
    log = os.open("calls.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, (json.dumps(line | {"key": context.idempotency_key}) + "\\n").encode())
    os.close(log)
    return n
"""
CONFIG = """
tools = ["tools.py"]
[server]
plans = ["plans"]
requests_per_minute = 1e9
max_active_runs = 8
"""
PLAN = """
name: pays
inputs: {n: {type: integer}}
steps:
  - {id: look, tool: look, with: {n: "${{ inputs.n }}"}}
  - {id: pay, tool: pay, with: {n: "${{ steps.look.output }}"}}
"""


@dataclass
class Answered:
    """What submitters were told: each key's run, and how often they were turned away."""

    runs: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=dict)
    sent: set[str] = field(default_factory=set)
    refused: int = 0

    def take(self, key: str, answer: httpx.Response) -> None:
        """Note what a submission was answered: a run, the same as before, or when to come again."""
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) > 0
            self.refused += 1
            return
        assert answer.status_code in ((200,) if key in self.runs else (200, 201)), answer.text
        run_id = answer.json()["run_id"]
        assert self.runs.setdefault(key, run_id) == run_id


@contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Serve from a folder; the process is dead at the end."""
    command = [sys.executable, "-m", "planloom", "serve", "--no-page", "--port", "0", "--journal", "runs.db"]
    with (folder / "told.txt").open("wb") as told:
        process = subprocess.Popen(command, cwd=folder, stderr=told)
    try:
        until_s = time.monotonic() + PATIENCE_S
        while not (found := re.search(r"listening on (http://\S+)", (folder / "told.txt").read_text())):
            assert process.poll() is None, (folder / "told.txt").read_text()
            assert time.monotonic() < until_s
            time.sleep(0.01)
        yield process, found[1]
    finally:
        process.kill()
        process.wait()


async def submitting(client: httpx.AsyncClient, numbers: Iterator[int], answered: Answered) -> None:
    """Submit until the server is gone."""
    while True:
        number = next(numbers)
        key = f"key {number}"
        answered.inputs[key] = number
        answered.sent.add(key)
        try:
            answer = await client.post(
                "/v1/runs", json={"name": "pays", "inputs": {"n": number}}, headers={"Idempotency-Key": key}
            )
        except httpx.HTTPError:
            return
        answered.take(key, answer)


async def one_life(folder: Path, life_s: float, numbers: Iterator[int], answered: Answered) -> None:
    """Serve, have many submit, and kill the server in the middle of it."""
    with serving(folder) as (process, url):
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
            submitters = [asyncio.create_task(submitting(client, numbers, answered)) for _ in range(SUBMITTERS)]
            await asyncio.sleep(life_s)
            process.kill()
            await asyncio.gather(*submitters)


async def last_life(folder: Path, answered: Answered) -> dict[str, dict[str, Any]]:
    """Serve once more; ask again under every key, see every run end, and return all that there are."""
    with serving(folder) as (_, url):
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
            for key in sorted(answered.sent):
                sent = {"name": "pays", "inputs": {"n": answered.inputs[key]}}
                async with asyncio.timeout(PATIENCE_S):
                    while True:
                        answer = await client.post("/v1/runs", json=sent, headers={"Idempotency-Key": key})
                        answered.take(key, answer)
                        if answer.status_code != 503:
                            break
                        await asyncio.sleep(0.02)
            async with asyncio.timeout(PATIENCE_S):
                while await left(client, folder):
                    await asyncio.sleep(0.05)
            return await all_runs(client)


async def left(client: httpx.AsyncClient, folder: Path) -> bool:
    """Answer, as a person who looked would, for what nobody knows; return whether any run goes on."""
    waiting = (await client.get("/v1/runs", params={"status": "waiting", "limit": 500})).json()["runs"]
    for run in waiting:
        calls = read_tool_log(folder / "calls.log", run_id=run["run_id"])
        said = {"how": "output", "output": 1} if calls else {"how": "retry"}
        answer = await client.post(f"/v1/runs/{run['run_id']}/resolutions", json={"step": "pay", **said})
        assert answer.status_code == 200, answer.text
    return bool(waiting or (await client.get("/v1/runs", params={"status": "running"})).json()["runs"])


async def all_runs(client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    more: dict[str, str] = {}
    while True:
        page = (await client.get("/v1/runs", params={"limit": 500, **more})).json()
        found |= {run["run_id"]: run for run in page["runs"]}
        if page["next"] is None:
            return found
        more = {"before": page["next"]}


async def broken(folder: Path, runs: dict[str, dict[str, Any]]) -> list[str]:
    """Return what of these runs' records breaks a law, as `planloom verify --tool-log` tells it."""
    journal = SqliteJournal(folder / "runs.db")
    told: list[str] = []
    for run_id in runs:
        calls = read_tool_log(folder / "calls.log", run_id=run_id)
        found = judged(await journal.read(run_id), tool_calls=calls, run_id=run_id)
        await journal.chain_of(run_id)
        told += [f"{run_id}: {one}" for one in found.violations]
    await journal.close()
    return told


def killed(folder: Path, kills: int) -> None:
    chance, numbers, answered = random.Random(SEED), count(1), Answered()
    (folder / "plans").mkdir()
    (folder / "plans" / "pays.yaml").write_text(PLAN)
    (folder / "tools.py").write_text(TOOLS)
    (folder / "planloom.toml").write_text(CONFIG)

    async def main() -> dict[str, dict[str, Any]]:
        for _ in range(kills):
            await one_life(folder, chance.uniform(0.1, 0.6), numbers, answered)
        accepted.update(answered.runs)
        return await last_life(folder, answered)

    accepted: dict[str, str] = {}
    runs = asyncio.run(main())

    assert len(accepted) >= kills
    assert set(accepted.values()) <= set(runs)
    assert set(runs) == set(answered.runs.values())
    assert Counter(run["status"] for run in runs.values()) == {"success": len(runs)}
    assert asyncio.run(broken(folder, runs)) == []
    sys.stdout.write(
        f"killed {kills} times under {SUBMITTERS} submitters: {len(accepted)} accepted, {answered.refused} refused, "
        f"{len(runs) - len(accepted)} more once asked again; none lost, none doubled\n"
    )


@pytest.mark.slow
def test_what_a_killed_server_accepted_is_there_once_and_ends(tmp_path: Path) -> None:
    killed(tmp_path, 1)


@pytest.mark.crash
def test_what_a_server_accepted_that_is_killed_again_and_again_is_there_once_and_ends(tmp_path: Path) -> None:
    killed(tmp_path, KILLS)
