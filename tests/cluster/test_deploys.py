"""Deploying a cluster with runs in flight: what `planloom inflight` says is what workers of the new version then do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from planloom.core.result import RunStatus
from planloom.journal.postgres.journal import PostgresJournal
from tests.cluster.hands import ended
from tests.cluster.servers import Nats, until
from tests.cluster.test_agent_command import TOOLS, agent_process, planloom, project
from tests.cluster.test_secured_processes import told

pytestmark = pytest.mark.slow

ASKS = """
planloom: 1
name: asks
steps:
  - {id: ok, approve: "Fine?"}
  - {id: a, tool: add, with: {n: 1}, needs: [ok]}
"""
OTHER_CODE = TOOLS.replace("return n + 1", "return n + 2")
OTHER_PARAMETERS = TOOLS.replace("def add(n: int)", "def add(n: int, by: int = 1)")


@contextmanager
def worker_of(folder: Path) -> Iterator[None]:
    process = planloom("worker", folder=folder)
    try:
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize(
    ("tools", "goes_on", "output"),
    [(OTHER_CODE, True, 3), (OTHER_PARAMETERS, False, None)],
    ids=["other code", "other parameters"],
)
def test_what_is_said_of_a_run_before_a_deploy_is_what_becomes_of_it(
    tmp_path: Path, postgres: str, nats: Nats, tools: str, goes_on: bool, output: int | None
) -> None:
    after = tmp_path / "next"
    after.mkdir()
    with project(tmp_path, postgres, nats) as folder, project(after, postgres, nats), agent_process(folder):
        (folder / "asks.yaml").write_text(ASKS)
        (after / "tools.py").write_text(tools)
        told("submit", "asks.yaml", "--run-id", "r", folder=folder)
        until(lambda: "planloom approve" in told("show", "r", folder=folder), what="the question")
        process = planloom("inflight", "--against", "next", "--json", folder=folder)
        said = json.loads(process.communicate(timeout=60)[0])

        with worker_of(after):
            told("approve", "r", "ok", folder=folder)
            result = asyncio.run(the_end(postgres))

    assert (process.returncode, said["cannot_go_on"]) == ((0, []) if goes_on else (9, ["r"]))
    assert result == (RunStatus.SUCCESS if goes_on else RunStatus.FAILED, output)


async def the_end(dsn: str) -> tuple[RunStatus, int | None]:
    journal = PostgresJournal(dsn)
    try:
        result = await ended(journal, "r")
        return result.status, result.output
    finally:
        await journal.close()
