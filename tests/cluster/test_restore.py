"""A database that was restored from a backup, and a broker that has nothing: the runs go on."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any

import pytest

from planloom import RunStatus
from planloom.core.events import CancelRequested
from planloom.journal.postgres.journal import PostgresJournal
from planloom.runtime.cluster.client import ClusterClient
from planloom.testing import check_history
from planloom.testing.fakes import fake_tool
from planloom.transport.nats.link import Broker
from tests.cluster.hands import Hand, agent, ended
from tests.cluster.servers import Nats, Postgres, comes

pytestmark = pytest.mark.slow

TOOLS = [fake_tool("add", [0], effects="none"), fake_tool("pay", ["paid"], effects="once")]
PLAN: dict[str, Any] = {
    "planloom": 1,
    "name": "kept",
    "steps": [
        {"id": "a", "tool": "add", "with": {"n": 1}},
        {"id": "b", "tool": "pay", "needs": ["a"]},
        {"id": "c", "tool": "add", "with": {"n": 2}, "needs": ["b"]},
    ],
}


def copied(server: Postgres, dsn: str) -> str:
    """Back a database up with pg_dump while it is used, and restore that as another one; return its address."""
    target = server.database()
    dump = subprocess.run([str(server.program("pg_dump")), dsn], capture_output=True, check=True)
    subprocess.run(
        [str(server.program("psql")), "-qX", "-v", "ON_ERROR_STOP=1", target],
        input=dump.stdout,
        capture_output=True,
        check=True,
    )
    return target


def test_runs_go_on_from_a_backup_of_the_database_alone(postgres_server: Postgres, postgres: str, nats: Nats) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def waits(request: Any) -> Any:
            if request.key == "c":
                await gate.wait()
            return 1

        async with agent(postgres, nats.url, tools=TOOLS), Hand(nats.url, waits) as before:
            async with ClusterClient(Broker((nats.url,))) as client:
                await client.submit(PLAN, run_id="r")
            await comes(lambda: before.made["r", "c"])
            restored = await asyncio.to_thread(copied, postgres_server, postgres)
        nats.restart(empty=True)
        journal = PostgresJournal(restored)
        gate.set()
        async with agent(restored, nats.url, tools=TOOLS), Hand(nats.url, waits) as after:
            result = await ended(journal, "r")

            assert result.status is RunStatus.SUCCESS
            assert before.made["r", "b"] == 1
            assert after.made == {("r", "c"): 1}
            assert check_history(await journal.read("r"), run_id="r") == []
            await journal.post("r", CancelRequested("ann", 1.0))  # the numbers of its tables go on, too
        await journal.close()

    asyncio.run(main())
